use super::Language;

/// A prompt category, with the name and description that models see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Category {
    /// Its name in data and recipes.
    pub id: &'static str,
    names: [&'static str; 2],
    about: [&'static str; 2],
}

/// The categories of the bundled golden pairs. Golden pairs of others may be used as well; models are then shown their
/// identifiers alone.
pub const CATEGORIES: [Category; 14] = [
    category(
        "open_qa",
        ["open question", "开放问答"],
        ["advice, opinions, questions without one right answer", "建议、看法、没有唯一答案的问题"],
    ),
    category(
        "knowledge_qa",
        ["knowledge question", "知识问答"],
        ["facts, terms, causes, how things work", "事实、术语、原因、原理"],
    ),
    category(
        "code",
        ["code", "代码"],
        [
            "write, explain, repair or speed up programs, queries and commands",
            "编写、解释、修复或优化程序、查询和命令",
        ],
    ),
    category(
        "writing",
        ["writing", "写作"],
        ["new texts: stories, poems, letters, posts, speeches", "写新的文字：故事、诗歌、书信、帖子、演讲稿"],
    ),
    category(
        "translation",
        ["translation", "翻译"],
        ["a given text or phrase in another language", "把给定的文字译成另一种语言"],
    ),
    category("math", ["mathematics", "数学"], ["computations, proofs, word problems", "计算、证明、应用题"]),
    category(
        "reasoning",
        ["reasoning", "推理"],
        ["puzzles, arguments, cause and effect", "谜题、论证、因果关系"],
    ),
    category(
        "extraction",
        ["extraction", "信息抽取"],
        ["find parts of a given text", "从给定的文字中找出所需内容"],
    ),
    category(
        "table",
        ["tables", "表格"],
        ["make, read or compute tables; spreadsheets", "制作、读取或计算表格；电子表格"],
    ),
    category(
        "rewriting",
        ["rewriting", "改写与续写"],
        [
            "another style or length of a given text, or its continuation",
            "改变给定文字的风格或长短，或者续写",
        ],
    ),
    category(
        "classification",
        ["classification", "分类"],
        ["choose among given or known classes", "在给定或已知的类别中选择"],
    ),
    category(
        "dialogue",
        ["dialogue", "对话"],
        ["small talk, comfort, role play, interviews", "闲聊、安慰、角色扮演、访谈"],
    ),
    category(
        "correction",
        ["correction", "纠错"],
        [
            "find and repair errors in language, facts, sums or data",
            "找出并改正语言、事实、计算或数据中的错误",
        ],
    ),
    category(
        "planning",
        ["planning", "规划"],
        ["trips, schedules, events, budgets", "旅行、日程、活动、预算"],
    ),
];

const fn category(id: &'static str, names: [&'static str; 2], about: [&'static str; 2]) -> Category {
    Category { id, names, about }
}

impl Category {
    /// The category with this identifier.
    #[must_use]
    pub fn find(id: &str) -> Option<Self> {
        CATEGORIES.into_iter().find(|category| category.id == id)
    }

    /// Its name.
    #[must_use]
    pub fn name(self, language: Language) -> &'static str {
        self.names[language as usize]
    }

    /// The prompts that it has.
    #[must_use]
    pub fn about(self, language: Language) -> &'static str {
        self.about[language as usize]
    }
}
