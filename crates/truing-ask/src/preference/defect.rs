use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pas::Language;

/// A defect that a good response is rewritten with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Defect {
    /// A fact, name or number is wrong.
    WrongFact,
    /// A step of the reasoning is wrong, and what follows from it.
    WrongStep,
    /// A condition of the request is not kept.
    DropsCondition,
    /// Something that the user needs is left out.
    Omits,
}

impl Defect {
    /// All defects.
    pub const ALL: [Self; 4] = [Self::WrongFact, Self::WrongStep, Self::DropsCondition, Self::Omits];

    /// The instruction for the model.
    pub(super) fn description(self, language: Language) -> &'static str {
        let texts = match self {
            Self::WrongFact => [
                "one fact, name or number that matters is wrong, in a way that a careless reader believes",
                "一个对回答要紧的事实、名称或数字是错的，粗心的读者会信以为真",
            ],
            Self::WrongStep => [
                "one step of the reasoning or computation is wrong, and what follows from it is wrong too",
                "推理或计算中有一步是错的，由它得出的内容也随之出错",
            ],
            Self::DropsCondition => [
                "one condition of the request, on content, form, language or length, is not kept",
                "没有遵守请求中的一个条件，例如对内容、形式、语言或篇幅的要求",
            ],
            Self::Omits => [
                "one thing that the user needs for the purpose of the request is left out",
                "缺少一项用户为达到目的所需要的内容",
            ],
        };
        texts[language as usize]
    }
}
