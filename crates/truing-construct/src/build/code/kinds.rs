//! Categories of tasks, difficulties, programming languages and topics.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::pas::Language;

/// A category of tasks (report 4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CodeCategory {
    /// A program from a description.
    Generation,
    /// The rest of a program that is begun.
    Completion,
    /// The faults of a program, found and corrected.
    Debugging,
    /// What a program does and why.
    Explanation,
    /// A question about a language, a library, a tool or a concept.
    KnowledgeQa,
}

impl CodeCategory {
    /// Every category.
    pub const ALL: [Self; 5] =
        [Self::Generation, Self::Completion, Self::Debugging, Self::Explanation, Self::KnowledgeQa];

    pub(super) fn code(self) -> &'static str {
        ["generation", "completion", "debugging", "explanation", "knowledge_qa"][self as usize]
    }

    /// Its description for the writer.
    pub(super) fn about(self, language: Language) -> &'static str {
        let about = match language {
            Language::En => [
                "generation: the user describes what a program or function is to do, and wants it written",
                "completion: the user shows the beginning of a program, with signature and comments, and wants the \
                 rest",
                "debugging: the user shows a program that does not do what it should, says what is observed, and wants \
                 the fault found and corrected",
                "explanation: the user shows a program and wants to know what it does, why it is written like this, or \
                 what it costs in time and memory",
                "knowledge: the user asks about the language, its libraries, its tools or a concept of programming; \
                 the answer is text with short examples",
            ],
            Language::Zh => [
                "代码生成：用户描述一个程序或函数要做什么，希望写出来",
                "代码补全：用户给出程序的开头，包括函数签名和注释，希望补全其余部分",
                "代码调试：用户给出一个不能正确工作的程序，说明观察到的现象，希望找出并改正错误",
                "代码解释：用户给出一个程序，想知道它做什么、为什么这样写，或者时间和空间开销是多少",
                "知识问答：用户询问这门语言、它的库、工具或某个编程概念；回答是文字加简短的例子",
            ],
        };
        about[self as usize]
    }

    /// Whether the user shows code.
    pub(super) fn gives_code(self) -> bool {
        matches!(self, Self::Completion | Self::Debugging | Self::Explanation)
    }

    /// Whether the response is a program that can be run.
    pub(super) fn wants_program(self) -> bool {
        matches!(self, Self::Generation | Self::Completion | Self::Debugging)
    }
}

/// How difficult a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CodeDifficulty {
    /// For a beginner.
    Easy,
    /// For someone with some practice.
    Medium,
    /// For an experienced programmer.
    Hard,
    /// For a specialist with time. Such rows are dropped.
    VeryHard,
}

impl CodeDifficulty {
    /// Those that rows may have.
    pub const KEPT: [Self; 3] = [Self::Easy, Self::Medium, Self::Hard];

    pub(super) fn code(self) -> &'static str {
        ["easy", "medium", "hard", "very_hard"][self as usize]
    }

    /// The difficulty of a number from 1 to 4.
    pub(super) fn of_number(text: &str) -> Option<Self> {
        let all = [Self::Easy, Self::Medium, Self::Hard, Self::VeryHard];
        let number: usize = text.trim().parse().ok()?;
        all.get(number.checked_sub(1)?).copied()
    }

    pub(super) fn name(self, language: Language) -> &'static str {
        let names = match language {
            Language::En => [
                "easy: a beginner needs a few minutes",
                "medium: someone with a year of practice needs a quarter of an hour",
                "hard: an experienced programmer needs an hour",
                "very hard: a specialist needs a day",
            ],
            Language::Zh => [
                "简单：初学者几分钟可以完成",
                "中等：有一年经验的人需要一刻钟",
                "困难：有经验的程序员需要一个小时",
                "非常困难：专家需要一天",
            ],
        };
        names[self as usize]
    }
}

/// A programming language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "names of languages")]
pub enum ProgrammingLanguage {
    Python,
    #[serde(rename = "javascript")]
    JavaScript,
    #[serde(rename = "typescript")]
    TypeScript,
    Java,
    C,
    Cpp,
    Go,
    Rust,
    Sql,
    Bash,
}

impl ProgrammingLanguage {
    /// Every language.
    pub const ALL: [Self; 10] = [
        Self::Python,
        Self::JavaScript,
        Self::TypeScript,
        Self::Java,
        Self::C,
        Self::Cpp,
        Self::Go,
        Self::Rust,
        Self::Sql,
        Self::Bash,
    ];

    /// The mark of its fences, and its name in columns.
    pub(super) fn code(self) -> &'static str {
        ["python", "javascript", "typescript", "java", "c", "cpp", "go", "rust", "sql", "bash"][self as usize]
    }

    pub(super) fn name(self) -> &'static str {
        ["Python", "JavaScript", "TypeScript", "Java", "C", "C++", "Go", "Rust", "SQL", "Bash"][self as usize]
    }
}

/// What tasks are about where no data say it, in English and Chinese. A prime number of them, so that they meet every
/// category and language.
pub(super) const TOPICS: [[&str; 2]; 31] = [
    ["dates and time zones", "日期与时区"],
    ["text that comes in columns", "按列排列的文本"],
    ["shopping carts and prices", "购物车与价格"],
    ["graphs and shortest paths", "图与最短路径"],
    ["reading a configuration file", "读取配置文件"],
    ["a cache with a limit", "有容量限制的缓存"],
    ["a board game", "棋盘游戏"],
    ["log files of a server", "服务器日志"],
    ["matrices", "矩阵"],
    ["a queue of jobs", "任务队列"],
    ["names and addresses", "姓名与地址"],
    ["trees and their traversal", "树及其遍历"],
    ["money and rounding", "金额与舍入"],
    ["intervals that overlap", "重叠的区间"],
    ["a small parser", "小型解析器"],
    ["permissions of users", "用户权限"],
    ["measurements of a sensor", "传感器数据"],
    ["sorting by several keys", "多关键字排序"],
    ["retries and time limits", "重试与超时"],
    ["files and folders", "文件与文件夹"],
    ["a calendar of bookings", "预订日历"],
    ["words and their frequency", "词频统计"],
    ["state machines", "状态机"],
    ["an inventory of a shop", "商店库存"],
    ["recursion and memoisation", "递归与记忆化"],
    ["units of measurement", "计量单位"],
    ["a stream of events", "事件流"],
    ["versions and their order", "版本号及其顺序"],
    ["results of a tournament", "比赛成绩"],
    ["checks of user input", "用户输入校验"],
    ["encodings and characters", "编码与字符"],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_written_as_their_codes() {
        for category in CodeCategory::ALL {
            assert_eq!(serde_json::to_value(category).unwrap(), category.code());
            assert_eq!(Language::of(category.about(Language::Zh)), Language::Zh);
        }
        for language in ProgrammingLanguage::ALL {
            assert_eq!(serde_json::to_value(language).unwrap(), language.code());
        }
        for (number, expected) in [
            ("1", Some(CodeDifficulty::Easy)),
            (" 4\n", Some(CodeDifficulty::VeryHard)),
            ("0", None),
            ("5", None),
            ("hard", None),
        ] {
            assert_eq!(CodeDifficulty::of_number(number), expected);
        }
        for difficulty in CodeDifficulty::KEPT {
            assert_eq!(serde_json::to_value(difficulty).unwrap(), difficulty.code());
        }
    }
}
