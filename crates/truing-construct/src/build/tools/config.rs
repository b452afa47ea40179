//! The settings of the builder, the patterns of calls, and the scenarios.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::pas::Language;
use truing_run::RunError;
use truing_run::checks::{require_counts, require_given};

use crate::build::bounds::require_bounded;

/// How the calls of a conversation depend on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallPattern {
    /// Calls one after the other, each of which needs an earlier result.
    Sequential,
    /// Several calls at once, then one or more that need their results.
    ParallelThenSequential,
}

impl CallPattern {
    /// Every pattern.
    pub const ALL: [Self; 2] = [Self::Sequential, Self::ParallelThenSequential];

    pub(super) fn code(self) -> &'static str {
        ["sequential", "parallel_then_sequential"][self as usize]
    }

    /// The pattern of a code.
    pub(super) fn find(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|pattern| pattern.code() == code)
    }

    /// Its description for the writer.
    pub(super) fn about(self, language: Language) -> &'static str {
        let about = match language {
            Language::En => [
                "sequential: each atomic task needs the result of the one before it",
                "parallel, then sequential: two or more atomic tasks do not depend on each other, and the last one \
                 needs the results of all of them",
            ],
            Language::Zh => [
                "顺序：每个原子任务都需要前一个任务的结果",
                "先并行后顺序：两个或更多原子任务互不依赖，最后一个任务需要它们全部的结果",
            ],
        };
        about[self as usize]
    }

    /// Whether the numbers of calls in successive turns of the assistant are of this pattern.
    pub(super) fn fits(self, n_calls: &[usize]) -> bool {
        match self {
            Self::Sequential => n_calls.len() >= 2 && n_calls.iter().all(|n| *n == 1),
            Self::ParallelThenSequential => {
                n_calls.iter().position(|n| *n >= 2).is_some_and(|first| first + 1 < n_calls.len())
            }
        }
    }
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolsFormat {
    /// OpenAI's: `tools`, turns with `tool_calls`, and one tool turn for each call.
    #[default]
    Messages,
    /// BUTTON's: tools in the system message, `<call>` and `<final>` in the assistant's text, one tool turn for the
    /// calls of a turn.
    Button,
}

/// The table `[tools]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ToolsConfig {
    /// How the calls of a conversation depend on each other, equally often: `sequential`, `parallel_then_sequential`.
    pub patterns: Vec<CallPattern>,
    /// Languages of new conversations: `en`, `zh`.
    pub languages: Vec<Language>,
    /// How rows are written: `messages` or `button`.
    pub format: ToolsFormat,
    /// Maximum turns of the user.
    pub max_user_turns: usize,
    /// Maximum turns of the assistant, those with calls included.
    pub max_steps: usize,
    /// Maximum calls in one turn.
    pub max_parallel_calls: usize,
}

impl Default for ToolsConfig {
    fn default() -> Self {
        Self {
            patterns: CallPattern::ALL.to_vec(),
            languages: vec![Language::En, Language::Zh],
            format: ToolsFormat::default(),
            max_user_turns: 3,
            max_steps: 10,
            max_parallel_calls: 4,
        }
    }
}

impl ToolsConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a setting is invalid.
    pub(in crate::build) fn check(&self) -> Result<(), RunError> {
        let counts = [
            ("tools.max_user_turns", self.max_user_turns),
            ("tools.max_steps", self.max_steps),
            ("tools.max_parallel_calls", self.max_parallel_calls),
        ];
        require_counts(counts)?;
        require_bounded(counts)?;
        require_given(!self.languages.is_empty(), "tools.languages", "at least one language")?;
        require_given(!self.patterns.is_empty(), "tools.patterns", "at least one pattern")
    }
}

/// What conversations are about where no data say it, in English and Chinese. A prime number of them, so that they meet
/// every pattern and language.
pub(super) const SCENARIOS: [[&str; 2]; 29] = [
    ["booking a train journey", "预订火车旅行"],
    ["managing a personal calendar", "管理个人日程"],
    ["watching the stock of a small shop", "小店库存管理"],
    ["planning meals and shopping", "安排饮食与采购"],
    ["support for customers of an online shop", "网店客服"],
    ["controlling lights and heating at home", "控制家中的灯光和暖气"],
    ["comparing prices of electronics", "比较电子产品价格"],
    ["keeping accounts of a household", "家庭记账"],
    ["finding and reserving books in a library", "图书馆查书与预约"],
    ["tracking parcels", "包裹跟踪"],
    ["looking after a vegetable garden", "照料菜园"],
    ["organising a football tournament", "组织足球比赛"],
    ["translating and sending messages", "翻译并发送消息"],
    ["checking flights and weather", "查询航班与天气"],
    ["managing tickets of a software team", "软件团队的工单管理"],
    ["renting and returning bicycles", "租借自行车"],
    ["scheduling visits to a doctor", "预约看病"],
    ["converting currencies and paying bills", "换汇与缴费"],
    ["monitoring servers", "服务器监控"],
    ["planning a day in a museum", "安排博物馆一日游"],
    ["choosing and booking a hotel", "挑选并预订酒店"],
    ["managing members of a sports club", "体育俱乐部会员管理"],
    ["creating playlists", "制作播放列表"],
    ["querying measurements of sensors", "查询传感器数据"],
    ["applying for leave at work", "申请休假"],
    ["repairing and servicing cars", "汽车维修与保养"],
    ["preparing lessons and grading", "备课与评分"],
    ["searching for an apartment", "寻找租房"],
    ["analysing tables of sales", "分析销售表格"],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_recognised_by_the_numbers_of_calls() {
        let (sequential, parallel) = (CallPattern::Sequential, CallPattern::ParallelThenSequential);
        for (n_calls, is_sequential, is_parallel) in [
            (&[1, 1][..], true, false),
            (&[1, 1, 1], true, false),
            (&[1], false, false),
            (&[2], false, false),
            (&[2, 1], false, true),
            (&[1, 3, 1], false, true),
            (&[1, 2], false, false),
            (&[], false, false),
        ] {
            assert_eq!(
                (sequential.fits(n_calls), parallel.fits(n_calls)),
                (is_sequential, is_parallel),
                "{n_calls:?}"
            );
        }
        for pattern in CallPattern::ALL {
            assert_eq!(serde_json::to_value(pattern).unwrap(), pattern.code());
            assert_eq!(CallPattern::find(pattern.code()), Some(pattern));
        }
    }
}
