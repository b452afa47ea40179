use crate::pas::Language;

/// What a response is rated on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aspect {
    /// Its name, the key in the judge's reply.
    pub name: String,
    /// The text that the judge gets for it. `None` for the built-in text of one of [`Aspect::BUILT_IN`].
    pub text: Option<String>,
}

/// Name, English and Chinese description.
const ASPECTS: [(&str, [&str; 2]); 4] = [
    (
        "helpfulness",
        [
            "the response serves the user's purpose: it is complete, to the point and usable as it is",
            "回答是否满足用户的目的：完整、切题、拿来就能用",
        ],
    ),
    (
        "honesty",
        [
            "the response shows how certain it is: no false confidence, no invented sources, no pretence",
            "回答是否如实表明把握程度：不过度自信，不虚构来源，不伪装",
        ],
    ),
    (
        "instruction_following",
        [
            "the response does what is asked, and keeps every condition on content, form, language and length",
            "回答是否照要求去做，并遵守对内容、形式、语言和篇幅的每一个条件",
        ],
    ),
    (
        "truthfulness",
        [
            "what the response states is right: facts, computations, code, and what it says of the given material",
            "回答的陈述是否正确：事实、计算、代码，以及对所给材料的说法",
        ],
    ),
];

impl Aspect {
    /// The aspects with a built-in text.
    pub const BUILT_IN: [&'static str; 4] = [ASPECTS[0].0, ASPECTS[1].0, ASPECTS[2].0, ASPECTS[3].0];

    /// The description in a language: the own text in any, or the built-in one.
    pub(super) fn description(&self, language: Language) -> &str {
        let built_in = || ASPECTS.iter().find(|(name, _)| *name == self.name);
        match &self.text {
            Some(text) => text,
            None => built_in().map_or("", |(_, texts)| texts[language as usize]),
        }
    }
}
