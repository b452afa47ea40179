//! The kinds of reasoning, and the settings that questions are placed in.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::pas::Language;

/// A kind of reasoning (report 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningKind {
    /// Everyday knowledge decides.
    CommonSense,
    /// What follows from statements, some of them conditional or false.
    PropositionalHypothesis,
    /// Relations between persons, places or quantities.
    Relationship,
    /// A chain of several dependent steps.
    MultiStep,
    /// Choices of players who take each other's choices into account.
    GameTheory,
    /// Misleading premises or irrelevant details.
    Disruptive,
    /// What would follow if a fact were different.
    Counterfactual,
}

impl ReasoningKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::CommonSense,
        Self::PropositionalHypothesis,
        Self::Relationship,
        Self::MultiStep,
        Self::GameTheory,
        Self::Disruptive,
        Self::Counterfactual,
    ];

    pub(super) fn code(self) -> &'static str {
        [
            "common_sense",
            "propositional_hypothesis",
            "relationship",
            "multi_step",
            "game_theory",
            "disruptive",
            "counterfactual",
        ][self as usize]
    }

    /// The kind of a code.
    pub(super) fn find(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Its description for the writer.
    pub(super) fn about(self, language: Language) -> &'static str {
        ABOUT[self as usize][language as usize]
    }
}

/// English and Chinese, in the order of [`ReasoningKind::ALL`].
const ABOUT: [[&str; 2]; 7] = [
    [
        "common sense. Everyday knowledge about people, things, time or causes decides the answer, not a calculation",
        "常识推理：决定答案的是关于人、物、时间或因果的日常知识，而不是计算",
    ],
    [
        "propositions and hypotheses. Statements are given, some of them conditional, perhaps one of them false; the \
         answer is what follows from them",
        "命题与假设推理：给出若干陈述，其中有条件句，也可能有一句是假的；答案是由它们推出的结论",
    ],
    [
        "relations. Relations between persons, places, orders or quantities are given; another relation is asked for",
        "关系推理：给出人物、地点、次序或数量之间的关系，求另一个关系",
    ],
    [
        "several steps. At least four steps are needed, and each uses the result of an earlier one",
        "多步推理：至少需要四步，每一步都要用到前面的结果",
    ],
    [
        "game theory. Two or more players choose with the choices of the others in mind; the answer is what a rational \
         player does, or how the game ends",
        "博弈推理：两个或更多参与者在考虑他人选择的情况下作出选择；答案是理性参与者的做法或博弈的结局",
    ],
    [
        "misleading premises. The question has a detail that tempts to a wrong answer, or one that does not matter; \
         careful reading gives the right answer",
        "干扰推理：题目中有诱导人答错的细节，或无关的信息；仔细读题才能得到正确答案",
    ],
    [
        "a counterfactual. One fact of the world or of a story is changed; the answer is what would follow from the \
         changed fact and everything else as it is",
        "反事实推理：改变现实或故事中的一个事实，其他条件不变；答案是由此产生的结果",
    ],
];

/// Where a question may take place, in English and Chinese.
pub(super) const SETTINGS: [[&str; 2]; 28] = [
    ["a kitchen", "厨房"],
    ["a railway station", "火车站"],
    ["a hospital ward", "医院病房"],
    ["a chess club", "棋社"],
    ["a flower market", "花市"],
    ["a library", "图书馆"],
    ["a mountain hut", "山间小屋"],
    ["a school trip", "学校郊游"],
    ["a fishing harbour", "渔港"],
    ["a theatre rehearsal", "戏剧排练"],
    ["a repair workshop", "修理铺"],
    ["an apartment building", "公寓楼"],
    ["a family dinner", "家庭聚餐"],
    ["an orchard", "果园"],
    ["a laboratory", "实验室"],
    ["an auction", "拍卖会"],
    ["a museum", "博物馆"],
    ["a football tournament", "足球联赛"],
    ["a post office", "邮局"],
    ["a small airport", "小机场"],
    ["a village council", "村委会"],
    ["a bakery before dawn", "清晨的面包房"],
    ["a choir", "合唱团"],
    ["a campsite", "露营地"],
    ["an online game", "网络游戏"],
    ["a court of law", "法庭"],
    ["a swimming pool", "游泳馆"],
    ["a company's first week", "公司成立的第一周"],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_written_as_their_codes_and_described_in_both_languages() {
        for kind in ReasoningKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.code());
            assert_eq!(ReasoningKind::find(kind.code()), Some(kind));
            assert_eq!(Language::of(kind.about(Language::Zh)), Language::Zh);
            assert_eq!(Language::of(kind.about(Language::En)), Language::En);
        }
        assert_eq!(ReasoningKind::find("commonsense"), None);
    }
}
