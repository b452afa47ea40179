//! What a lesson teaches: four aspects with three parts each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::pas::Language;

/// What a lesson teaches about a request (report 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextbookAspect {
    /// Professional level, complexity and output constraints.
    IntentAnalysis,
    /// Domain knowledge, methods and pitfalls.
    ThoughtProcess,
    /// A known case, what corresponds to it, and where the comparison ends.
    AnalogicalReasoning,
    /// The principles that apply, where they conflict, and what follows.
    AlignmentPrinciples,
}

/// A part of a lesson; texts in English and Chinese.
#[derive(Debug)]
pub(super) struct Part {
    /// The tag around it in replies, and its name in the column `lesson`.
    pub(super) tag: &'static str,
    pub(super) heading: [&'static str; 2],
    pub(super) about: [&'static str; 2],
}

/// Parts of every lesson.
pub(super) const N_PARTS: usize = 3;

impl TextbookAspect {
    /// Every aspect.
    pub const ALL: [Self; 4] =
        [Self::IntentAnalysis, Self::ThoughtProcess, Self::AnalogicalReasoning, Self::AlignmentPrinciples];

    pub(super) fn code(self) -> &'static str {
        ["intent_analysis", "thought_process", "analogical_reasoning", "alignment_principles"][self as usize]
    }

    /// The aspect of a code.
    pub(super) fn find(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|aspect| aspect.code() == code)
    }

    pub(super) fn name(self, language: Language) -> &'static str {
        let names = match language {
            Language::En => [
                "how to read the intent of a request",
                "how to think a request through",
                "how to reason by analogy",
                "how to answer by the principles of a good assistant",
            ],
            Language::Zh => {
                ["怎样理解请求的意图", "怎样思考一个请求", "怎样用类比推理", "怎样按照好助手的原则来回答"]
            }
        };
        names[self as usize]
    }

    pub(super) fn parts(self) -> &'static [Part; N_PARTS] {
        &PARTS[self as usize]
    }

    /// The parts as the models get them: each between its tags, on a line of its own.
    pub(super) fn outline(self, language: Language) -> String {
        let line = |part: &Part| format!("<{0}>{1}</{0}>", part.tag, part.about[language as usize]);
        self.parts().iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

static PARTS: [[Part; N_PARTS]; 4] = [
    [
        Part {
            tag: "level",
            heading: ["Professional level", "专业水平"],
            about: [
                "how much the asker knows about the subject, how one can tell, and what that means for the answer",
                "提问者对主题了解多少，从哪里看得出来，对回答意味着什么",
            ],
        },
        Part {
            tag: "complexity",
            heading: ["Complexity", "复杂程度"],
            about: [
                "what the task consists of, what is left open, and where it is harder than it looks",
                "任务由哪些部分组成，哪些没有说明，哪里比看上去更难",
            ],
        },
        Part {
            tag: "output_form",
            heading: ["Output constraints", "输出约束"],
            about: [
                "what the answer must be like: form, length, tone, and what must not be in it, also where it is only \
                 implied",
                "回答应当是什么样子：形式、篇幅、语气、不能出现的内容，包括没有明说的要求",
            ],
        },
    ],
    [
        Part {
            tag: "knowledge",
            heading: ["Domain knowledge", "领域知识"],
            about: ["the facts and concepts that the answer rests on", "回答所依据的事实和概念"],
        },
        Part {
            tag: "methods",
            heading: ["Methods", "方法"],
            about: [
                "how to get from these to the answer, step by step, and why in this order",
                "怎样从这些知识一步一步得到答案，为什么按这个顺序",
            ],
        },
        Part {
            tag: "pitfalls",
            heading: ["Pitfalls", "易错之处"],
            about: [
                "the mistakes that are likely here, how they come about, and how to notice them",
                "这里容易犯的错误，它们怎样产生，怎样发现",
            ],
        },
    ],
    [
        Part {
            tag: "known_case",
            heading: ["A known case", "已知的情形"],
            about: [
                "a case that is better known and has the same structure, described as far as it matters",
                "一个更为人熟知、结构相同的情形，描述其中相关的部分",
            ],
        },
        Part {
            tag: "mapping",
            heading: ["What corresponds", "对应关系"],
            about: [
                "which parts of both cases correspond, and what follows for the request",
                "两种情形的哪些部分相互对应，由此对请求能得出什么",
            ],
        },
        Part {
            tag: "limits",
            heading: ["Where the analogy ends", "类比的界限"],
            about: [
                "where the cases differ, and which conclusion would be wrong because of it",
                "两种情形在哪里不同，因此哪种结论是错的",
            ],
        },
    ],
    [
        Part {
            tag: "principles",
            heading: ["Principles that apply", "适用的原则"],
            about: [
                "which principles bear on the request (to be helpful, honest, harmless, fair, to respect privacy and \
                 the asker's own choice), and why",
                "哪些原则与请求有关（有用、诚实、无害、公正、尊重隐私、尊重提问者自己的选择），为什么",
            ],
        },
        Part {
            tag: "tensions",
            heading: ["Tensions", "冲突"],
            about: [
                "where two of them pull in different directions, or where a careless answer would violate one",
                "哪两条原则指向不同的方向，或者草率的回答会违背哪一条",
            ],
        },
        Part {
            tag: "decision",
            heading: ["Decision", "取舍"],
            about: [
                "what a good answer gives, what it leaves out and what it says about that",
                "好的回答给出什么，不给出什么，对此怎样说明",
            ],
        },
    ],
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn aspects_are_written_as_their_codes_and_parts_have_tags_of_their_own() {
        for aspect in TextbookAspect::ALL {
            assert_eq!(serde_json::to_value(aspect).unwrap(), aspect.code());
            assert_eq!(TextbookAspect::find(aspect.code()), Some(aspect));
            assert_eq!(Language::of(aspect.name(Language::Zh)), Language::Zh);
            assert_eq!(aspect.outline(Language::En).lines().count(), N_PARTS);
        }
        let tags: BTreeSet<&str> = PARTS.iter().flatten().map(|part| part.tag).collect();
        assert_eq!(tags.len(), PARTS.len() * N_PARTS);
        assert_eq!(TextbookAspect::find("intent"), None);
    }
}
