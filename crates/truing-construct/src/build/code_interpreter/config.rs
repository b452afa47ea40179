//! The settings of the builder, and the kinds of tasks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::pas::Language;
use truing_run::RunError;
use truing_run::checks::{require_counts, require_given};

use crate::build::bounds::require_bounded;

/// A kind of task for a code interpreter. The report names none; these are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InterpreterKind {
    /// Questions about a table.
    DataAnalysis,
    /// Questions about a table with gaps, repeated rows and names that are spelt in several ways.
    DataCleaning,
    /// Questions about measurements in the order of time.
    TimeSeries,
    /// Computations without a file.
    Calculation,
    /// What is counted, searched or simulated exactly, without a file.
    Enumeration,
}

impl InterpreterKind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::DataAnalysis, Self::DataCleaning, Self::TimeSeries, Self::Calculation, Self::Enumeration];

    pub(super) fn code(self) -> &'static str {
        ["data_analysis", "data_cleaning", "time_series", "calculation", "enumeration"][self as usize]
    }

    /// Its description for the writer.
    pub(super) fn about(self, language: Language) -> &'static str {
        let about = match language {
            Language::En => [
                "data analysis: groups, shares, comparisons or rankings in the table",
                "data cleaning: first the faults of the table (gaps, repeated rows, one name in several spellings) \
                 have to be found and put right in the way that the message says, then something is computed",
                "time series: trends, changes, extremes or moving averages in the order of time",
                "calculation: a computation in several steps that is tedious by hand, with all numbers in the message",
                "enumeration: something is counted, searched or simulated exactly by going through all cases",
            ],
            Language::Zh => [
                "数据分析：表格中的分组、占比、比较或排名",
                "数据清洗：先按消息的要求找出并处理表格中的问题（缺失值、重复行、同一名称的多种写法），再计算结果",
                "时间序列：按时间顺序的趋势、变化、极值或移动平均",
                "计算：手算繁琐的多步计算，所有数字都在消息中给出",
                "枚举：通过遍历所有情形来精确地计数、搜索或模拟",
            ],
        };
        about[self as usize]
    }

    /// Whether tasks of the kind are about a file.
    pub(super) fn has_file(self) -> bool {
        matches!(self, Self::DataAnalysis | Self::DataCleaning | Self::TimeSeries)
    }
}

/// The table `[code_interpreter]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CodeInterpreterConfig {
    /// Kinds of new tasks, equally often: `data_analysis`, `data_cleaning`, `time_series`, `calculation`,
    /// `enumeration`.
    pub kinds: Vec<InterpreterKind>,
    /// Languages of new conversations: `en`, `zh`.
    pub languages: Vec<Language>,
    /// Column of the seed rows with the reference answer.
    pub answer_column: String,
    /// Rows of a generated CSV file.
    pub file_rows: usize,
    /// Maximum turns of the user, each with an answer that is verified.
    pub max_user_turns: usize,
    /// Maximum cells for one turn of the user.
    pub max_cells: usize,
    /// Maximum cells with an error in a row before the branch is abandoned.
    pub max_corrections: usize,
    /// Maximum next steps that are tried at one place of the conversation.
    pub max_branches: usize,
    /// Maximum replies of the writer for one turn of the user, abandoned branches included.
    pub max_steps: usize,
    /// Maximum independent solutions of the checker for one turn of the user, until one runs.
    pub max_references: usize,
    /// Longer output of a cell is cut.
    pub max_output_characters: usize,
    /// The Python interpreter: a path, or a name such as `python3.12`. Its folder decides nothing.
    #[schemars(extend("x-decides" = "name"))]
    pub interpreter: String,
}

impl Default for CodeInterpreterConfig {
    fn default() -> Self {
        Self {
            kinds: InterpreterKind::ALL.to_vec(),
            languages: vec![Language::En, Language::Zh],
            answer_column: "answer".into(),
            file_rows: 60,
            max_user_turns: 3,
            max_cells: 8,
            max_corrections: 2,
            max_branches: 2,
            max_steps: 20,
            max_references: 2,
            max_output_characters: 2000,
            interpreter: "python3".into(),
        }
    }
}

impl CodeInterpreterConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a setting is invalid.
    pub(in crate::build) fn check(&self) -> Result<(), RunError> {
        let counts = [
            ("code_interpreter.file_rows", self.file_rows),
            ("code_interpreter.max_user_turns", self.max_user_turns),
            ("code_interpreter.max_cells", self.max_cells),
            ("code_interpreter.max_branches", self.max_branches),
            ("code_interpreter.max_steps", self.max_steps),
            ("code_interpreter.max_references", self.max_references),
        ];
        require_counts(counts)?;
        require_counts([("code_interpreter.max_output_characters", self.max_output_characters)])?;
        require_bounded(counts)?;
        require_bounded([("code_interpreter.max_corrections", self.max_corrections)])?;
        require_given(!self.kinds.is_empty(), "code_interpreter.kinds", "at least one kind")?;
        require_given(!self.languages.is_empty(), "code_interpreter.languages", "at least one language")?;
        let column = "the name of a column";
        require_given(!self.answer_column.is_empty(), "code_interpreter.answer_column", column)?;
        require_given(!self.interpreter.is_empty(), "code_interpreter.interpreter", "a Python interpreter")
    }
}

/// What tasks without a file are about where no data say it, in English and Chinese.
pub(super) const TOPICS: [[&str; 2]; 13] = [
    ["repaying a loan", "偿还贷款"],
    ["a tournament in which everybody plays everybody", "循环赛"],
    ["packing parcels of given sizes", "按给定尺寸装箱"],
    ["heating costs of a house", "房屋取暖费用"],
    ["routes on a street grid", "方格街道上的路线"],
    ["dates, weekdays and leap years", "日期、星期和闰年"],
    ["mixing liquids of given strengths", "按给定浓度配制溶液"],
    ["throws of several dice", "掷多个骰子"],
    ["a rota for a small team", "小团队的值班表"],
    ["orbits and distances of planets", "行星的轨道与距离"],
    ["prime numbers and divisors", "素数与约数"],
    ["savings with a changing interest rate", "利率变动的储蓄"],
    ["codes and passwords under given rules", "给定规则下的编码与密码"],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_written_as_they_are_named() {
        for kind in InterpreterKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.code());
        }
        CodeInterpreterConfig::default().check().unwrap();
        let none = CodeInterpreterConfig { max_branches: 0, ..CodeInterpreterConfig::default() };
        assert!(none.check().unwrap_err().to_string().contains("`code_interpreter.max_branches` is 0"));
    }
}
