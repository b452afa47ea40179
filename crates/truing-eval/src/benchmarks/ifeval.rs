//! Instructions that a program can check: IFEval (Zhou et al. 2023, arXiv 2311.07911) in the languages that its
//! verifier knows, and the turns of Multi-IF (He et al. 2024, arXiv 2410.15553).

use serde_json::{Map, Value};
use truing_data::ObjectRow;
use truing_reward::verifiers::ifeval::{IfevalConfig, Locale, Mode, check_ids, check_row};
use truing_types::{Conversation, Message, Role, SamplingOptions, Unscored};

use super::measure::Aggregation;
use super::{
    Answers, Ask, Benchmark, BenchmarkError, Item, ItemScore, Measure, MetricInfo, Prompt, Recipient,
    Request, Row, Scoring, TaskOptions,
};

const MAX_TOKENS: usize = 1280;

/// IFEval: one turn an item.
pub(super) struct Ifeval {
    name: &'static str,
    about: &'static str,
    /// The language of rows that name none.
    language: Option<&'static str>,
}

pub(super) static IFEVAL: Ifeval = Ifeval {
    name: "ifeval",
    about: "IFEval: instructions that a program can check (arXiv 2311.07911)",
    language: None,
};

pub(super) static IFEVAL_ZH: Ifeval = Ifeval {
    name: "ifeval_zh",
    about: "IFEval on Chinese prompts: the same instructions, counted in characters",
    language: Some("zh"),
};

/// The metrics of IFEval, of one turn or of all.
fn metrics() -> [MetricInfo; 4] {
    [
        MetricInfo::share("prompt_level_strict_acc"),
        MetricInfo::share("inst_level_strict_acc").aggregated(Aggregation::Ratio),
        MetricInfo::share("prompt_level_loose_acc"),
        MetricInfo::share("inst_level_loose_acc").aggregated(Aggregation::Ratio),
    ]
}

/// Sets the four metrics from a row of instructions and the reply to them.
fn set_verdicts(score: &mut ItemScore, columns: &Map<String, Value>, reply: Result<&str, Unscored>) {
    let [prompt_strict, inst_strict, prompt_loose, inst_loose] = metrics();
    for (mode, of_prompt, of_instructions) in
        [(Mode::Strict, prompt_strict, inst_strict), (Mode::Loose, prompt_loose, inst_loose)]
    {
        let verdicts = reply.clone().and_then(|text| check_row(columns, text, mode));
        let counted = verdicts.as_ref().map_err(Clone::clone).map(|verdicts| {
            let n_followed = verdicts.iter().filter(|(_, is_followed)| *is_followed).count();
            Measure { value: n_followed as f64, weight: verdicts.len() as f64 }
        });
        let all = counted.as_ref().map(|counted| counted.value == counted.weight).map_err(Clone::clone);
        score.set(&of_prompt, all);
        score.set(&of_instructions, counted);
        if let Ok(verdicts) = verdicts {
            let followed: Vec<Value> = verdicts
                .iter()
                .map(|(id, is_followed)| serde_json::json!({"instruction": id, "followed": is_followed}))
                .collect();
            let key = if mode == Mode::Strict { "strict" } else { "loose" };
            score.details.insert(key.to_owned(), followed.into());
        }
    }
}

/// Columns with a default language; the row's own goes first.
fn columns(row: &Map<String, Value>, language: Option<&str>) -> Map<String, Value> {
    let mut columns = row.clone();
    if let Some(language) = language {
        columns.entry("language").or_insert_with(|| language.into());
    }
    columns
}

fn check_instructions(row: Row<'_>, columns: &Map<String, Value>) -> Result<(), BenchmarkError> {
    let ids = row.list("instruction_id_list")?;
    let kwargs = row.list("kwargs")?;
    if ids.is_empty() || ids.len() != kwargs.len() {
        let found = Value::from(format!("{} instructions with {} settings", ids.len(), kwargs.len()));
        return Err(row.bad("kwargs", &found, "settings for each of at least one instruction"));
    }
    check_ids(columns, &IfevalConfig::default()).map_err(|reason| {
        row.bad("instruction_id_list", &Value::from(ids.to_vec()), format!("known instructions: {reason}"))
    })?;
    check_settings(row, "kwargs", columns)
}

/// Refuses settings that are missing or make no sense: they are so for every answer. A row in a language without rules
/// is unscored, and not refused.
fn check_settings(row: Row<'_>, column: &str, columns: &Map<String, Value>) -> Result<(), BenchmarkError> {
    let language = columns.get("language").and_then(Value::as_str).filter(|name| !name.trim().is_empty());
    if language.is_some_and(|name| Locale::find(name).is_none()) {
        return Ok(());
    }
    check_row(columns, "", Mode::Strict).map(|_| ()).map_err(|unscored| {
        let found = columns.get("kwargs").unwrap_or(&Value::Null);
        row.bad(column, found, format!("settings of each instruction: {}", unscored.detail))
    })
}

impl Benchmark for Ifeval {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        self.about
    }

    fn differences(&self) -> &[&str] {
        &["the language of a response (`language:response_language`, `change_case:english_lowercase`, \
           `change_case:english_capital`) is detected by a trigram model that gives the same answer each \
           time, and a text too short to tell counts as in the wanted language; langdetect, which the \
           published program asks, draws at random and takes some English of a few words for another \
           language"]
    }

    fn metrics(&self, _: &TaskOptions) -> Vec<MetricInfo> {
        metrics().into()
    }

    fn items(&self, rows: &[ObjectRow], _: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        let item = |row: &ObjectRow| {
            let row = Row(row);
            let columns = columns(row.object(), self.language);
            check_instructions(row, &columns)?;
            let prompt = Prompt::user(row.text("prompt")?);
            let mut item = Item::new(row.name_or_line(&["key", "id"])?, row, prompt, String::new());
            // The kinds of instruction, where all are of one.
            let groups: std::collections::BTreeSet<&str> = row
                .list("instruction_id_list")?
                .iter()
                .filter_map(|id| {
                    let id = id.as_str()?;
                    let parts: Vec<&str> = id.split(':').collect();
                    parts.get(parts.len().checked_sub(2)?).copied()
                })
                .collect();
            let group =
                if groups.len() == 1 { groups.into_iter().next().unwrap_or_default() } else { "several" };
            item = item.with_category("instructions", group);
            if let Some(language) = columns.get("language").filter(|_| !item.row.contains_key("language")) {
                item.add("language", language.clone());
            }
            Ok(item)
        };
        rows.iter().map(item).collect()
    }

    fn requests(&self, item: &Item, _: &Answers, _: &TaskOptions) -> Vec<Request> {
        let sampling = SamplingOptions { max_new_tokens: MAX_TOKENS, ..SamplingOptions::default() };
        vec![Request {
            id: "answer".into(),
            to: Recipient::Model,
            ask: Ask::Generate { prompt: item.prompt.clone(), sampling },
        }]
    }

    fn score(&self, scored: &[(&Item, &Answers)], _: &TaskOptions, _: &Scoring<'_>) -> Vec<ItemScore> {
        let score = |(item, answers): &(&Item, &Answers)| {
            let mut score = ItemScore::default();
            set_verdicts(&mut score, &item.row, answers.text("answer"));
            score
        };
        scored.iter().map(score).collect()
    }
}

/// Multi-IF: three turns whose instructions add up. Rows have `turn_1_prompt`, `turn_1_instruction_id_list`,
/// `turn_1_kwargs` and so on, where prompts may be a JSON object with `content`, and lists and settings JSON
/// texts.
pub(super) struct MultiIf;

pub(super) static MULTI_IF: MultiIf = MultiIf;

const MAX_TURNS: usize = 8;

/// A value that may be written as JSON in a text.
fn unpacked(value: &Value) -> Value {
    match value {
        Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| value.clone()),
        other => other.clone(),
    }
}

/// The prompt of a turn and its columns.
type Turn = (String, Map<String, Value>);

impl MultiIf {
    /// Prompt and columns of each turn. Turns without a prompt end the dialogue.
    fn turns(row: Row<'_>) -> Result<Vec<Turn>, BenchmarkError> {
        let mut turns = Vec::new();
        for turn in 1..=MAX_TURNS {
            let column = format!("turn_{turn}_prompt");
            let Some(value) = row.get(&column).map(unpacked) else { break };
            let prompt = match &value {
                Value::Object(message) => message.get("content").and_then(Value::as_str),
                Value::String(text) => Some(text.as_str()),
                _ => None,
            };
            let prompt =
                prompt.ok_or_else(|| row.bad(&column, &value, "a text or a message with `content`"))?;
            if prompt.trim().is_empty() || prompt == "None" {
                break;
            }
            let mut columns = Map::new();
            for (from, to) in [("instruction_id_list", "instruction_id_list"), ("kwargs", "kwargs")] {
                let column = format!("turn_{turn}_{from}");
                let list = unpacked(row.value(&column, "a list")?);
                if !list.is_array() {
                    return Err(row.bad(&column, &list, "a list"));
                }
                columns.insert(to.to_owned(), list);
            }
            columns.insert("language".into(), row.get("language").cloned().unwrap_or_else(|| "en".into()));
            check_ids(&columns, &IfevalConfig::default()).map_err(|reason| {
                let column = format!("turn_{turn}_instruction_id_list");
                row.bad(&column, &columns["instruction_id_list"], format!("known instructions: {reason}"))
            })?;
            check_settings(row, &format!("turn_{turn}_kwargs"), &columns)?;
            turns.push((prompt.to_owned(), columns));
        }
        match turns.is_empty() {
            true => Err(row
                .value("turn_1_prompt", "the first turn")
                .err()
                .unwrap_or_else(|| row.bad("turn_1_prompt", &Value::Null, "the first turn"))),
            false => Ok(turns),
        }
    }

    fn stored(item: &Item) -> impl Iterator<Item = (&str, &Map<String, Value>)> {
        let turns = item.row.get("turns").and_then(Value::as_array).into_iter().flatten();
        turns.filter_map(|turn| Some((turn.get("prompt")?.as_str()?, turn.as_object()?)))
    }
}

impl Benchmark for MultiIf {
    fn name(&self) -> &str {
        "multi_if"
    }

    fn about(&self) -> &str {
        "Multi-IF: instructions that a program can check, over three turns (arXiv 2410.15553)"
    }

    fn metrics(&self, _: &TaskOptions) -> Vec<MetricInfo> {
        let mut metrics: Vec<MetricInfo> = metrics().into();
        for turn in 1..=3 {
            let average = MetricInfo::share(format!("turn_{turn}")).aggregated(Aggregation::Mean);
            metrics.push(average);
        }
        // The main metric of the paper is the mean of the four of each turn.
        metrics.insert(0, MetricInfo::share("average"));
        metrics
    }

    fn items(&self, rows: &[ObjectRow], _: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        let item = |row: &ObjectRow| {
            let row = Row(row);
            let turns = Self::turns(row)?;
            let id = row.name_or_line(&["key", "turn_1_prompt_id"])?;
            let language = row.optional_text("language")?.unwrap_or("en").to_owned();
            let mut item = Item::new(id, row, Prompt::user(turns[0].0.clone()), String::new());
            let turns = turns.into_iter().map(|(prompt, mut columns)| {
                columns.insert("prompt".into(), prompt.into());
                Value::Object(columns)
            });
            item.add("turns", turns.collect());
            Ok(item.with_category("language", language))
        };
        rows.iter().map(item).collect()
    }

    fn requests(&self, item: &Item, answers: &Answers, _: &TaskOptions) -> Vec<Request> {
        let sampling = SamplingOptions { max_new_tokens: MAX_TOKENS, ..SamplingOptions::default() };
        let mut conversation = Conversation::default();
        let mut requests = Vec::new();
        for (turn, (prompt, _)) in Self::stored(item).enumerate() {
            conversation.messages.push(Message::new(Role::User, prompt));
            let id = format!("turn{}", turn + 1);
            let prompt = Prompt::Chat(conversation.clone());
            requests.push(Request {
                id: id.clone(),
                to: Recipient::Model,
                ask: Ask::Generate { prompt, sampling: sampling.clone() },
            });
            let Ok(text) = answers.text(&id) else { break };
            conversation.messages.push(Message::new(Role::Assistant, text));
        }
        requests
    }

    fn score(&self, scored: &[(&Item, &Answers)], options: &TaskOptions, _: &Scoring<'_>) -> Vec<ItemScore> {
        let infos = self.metrics(options);
        let of_turns = metrics();
        let score = |(item, answers): &(&Item, &Answers)| {
            let mut score = ItemScore::default();
            let mut sums: [Result<Measure, Unscored>; 4] =
                std::array::from_fn(|_| Ok(Measure { value: 0.0, weight: 0.0 }));
            let mut averages: Vec<Result<f64, Unscored>> = Vec::new();
            for (turn, (_, columns)) in Self::stored(item).enumerate() {
                let mut of_turn = ItemScore::default();
                set_verdicts(&mut of_turn, columns, answers.text(&format!("turn{}", turn + 1)));
                let mut average = Ok(0.0);
                for (sum, metric) in sums.iter_mut().zip(&of_turns) {
                    let Some(measure) = of_turn.measures.remove(&metric.key()) else { continue };
                    average = average.and_then(|so_far: f64| {
                        measure
                            .as_ref()
                            .map(|one| so_far + one.value / one.weight / 4.0)
                            .map_err(Clone::clone)
                    });
                    *sum = sum.clone().and_then(|sum| {
                        measure.map(|one| Measure {
                            value: sum.value + one.value,
                            weight: sum.weight + one.weight,
                        })
                    });
                }
                if let Some(info) = infos.iter().find(|info| info.name == format!("turn_{}", turn + 1)) {
                    score.set(info, average.clone());
                }
                averages.push(average);
            }
            for (sum, metric) in sums.into_iter().zip(&of_turns) {
                // A prompt-level metric of a dialogue is the share of its turns.
                let is_of_prompt = metric.aggregation == Aggregation::Mean;
                score.set(
                    metric,
                    sum.map(|sum| match is_of_prompt {
                        true => Measure::from(sum.value / sum.weight),
                        false => sum,
                    }),
                );
            }
            let n = averages.len() as f64;
            let average: Result<f64, Unscored> =
                averages.into_iter().sum::<Result<f64, Unscored>>().map(|sum| sum / n);
            score.set(&infos[0], average);
            score
        };
        scored.iter().map(score).collect()
    }
}
