//! FB-Bench (Li et al. 2024, arXiv 2410.09412): a second answer after feedback on the first, which was wrong
//! (error correction) or right (response maintenance). Columns are those of its `fb_bench_dataset_v3.json`. The
//! judge's prompt is ours.
//!
//! Error correction scores the weights of the met checkpoints, response maintenance whether any is met. The
//! published score is the mean of the tasks' means.

use serde_json::{Map, Value, json};
use truing_data::ObjectRow;
use truing_reward::asking::fill_in;
use truing_types::{Conversation, Message, Role, SamplingOptions};

use super::judging::answer_then_judge;
use super::measure::Aggregation;
use super::{
    Answers, Benchmark, BenchmarkError, Item, ItemScore, KnownFile, MetricInfo, Prompt, Question, Request,
    Row, Scoring, ScoringMode, TaskOptions,
};

const REPLIES: usize = 3;
const REASON: &str = "评判理由";
const RESULT: &str = "评判结果";
const WEIGHT: &str = "weight";
const MET: &str = "是";
const UNMET: &str = "否";
const CORRECTION: &str = "Error Correction";
const MAINTENANCE: &str = "Response Maintenance";

const PROMPT: &str = "你是一位严格而公正的评审。下面是一段两轮对话：用户提问，模型第一次回答，用户给出反馈，模型第二次回答。请依据检查点判断第二次回答。

<第一轮提问>
{query}
</第一轮提问>

<第一次回答>
{first}
</第一次回答>

<用户反馈>
{feedback}
</用户反馈>

<第二次回答>
{second}
</第二次回答>

请填写下面的 JSON：对每个检查点，在“评判理由”中写明依据，在“评判结果”中写“是”或“否”；只满足一部分时写“否”。检查点文字与 weight 保持不变。只输出填好的 JSON。
{skeleton}";

const REMINDER: &str =
    "输出不符合要求。请只输出填好的 JSON：检查点文字不变，“评判理由”不能为空，“评判结果”只能是“是”或“否”。";

pub(super) struct FbBench;

/// Checkpoints with their weights; response maintenance has none.
fn checklist(row: &Map<String, Value>) -> Option<Vec<(&str, Option<f64>)>> {
    let list = row.get("checklist")?.as_array().filter(|list| !list.is_empty())?;
    let is_correction = row.get("bench_type")?.as_str()? == CORRECTION;
    let checkpoint = |value: &'_ Value| -> Option<Option<f64>> {
        match (value, is_correction) {
            (Value::String(_), false) => Some(None),
            (Value::Array(pair), true) if pair.len() == 2 => {
                Some(Some(pair[1].as_f64().filter(|weight| *weight > 0.0 && *weight <= 1.0)?))
            }
            _ => None,
        }
    };
    list.iter()
        .map(|value| Some((value.as_str().or_else(|| value.get(0)?.as_str())?, checkpoint(value)?)))
        .collect()
}

/// Temperature of a task's answers.
fn temperature(task: &str) -> f32 {
    match task {
        "Text Creation" | "Text Translation" => 0.7,
        "Knowledge Q&A" => 0.1,
        _ => 0.0,
    }
}

/// The score of verdicts with their weights: the weights of the met ones, or 1 once one without a weight is met.
fn score_of<'a>(verdicts: impl Iterator<Item = (bool, Option<f64>)> + 'a) -> f64 {
    let mut score = 0.0;
    for (_, weight) in verdicts.filter(|(is_met, _)| *is_met) {
        match weight {
            Some(weight) => score += weight,
            None => return 1.0,
        }
    }
    score
}

/// Verdict and weight of a checkpoint as a judge wrote them; `None` where they are out of form.
fn verdict_of(value: &Value) -> Option<(bool, Option<f64>)> {
    value.get(REASON)?.as_str().filter(|reason| !reason.is_empty())?;
    let is_met = match value.get(RESULT)?.as_str()? {
        MET => true,
        UNMET => false,
        _ => return None,
    };
    let weight = match value.get(WEIGHT)? {
        Value::Null => None,
        weight => Some(weight.as_f64().filter(|weight| *weight > 0.0 && *weight <= 1.0)?),
    };
    Some((is_met, weight))
}

/// Reads a reply. Official: whatever checkpoints the judge names, with its weights. Strict: exactly those of
/// the checklist, with the checklist's weights.
fn read_reply(reply: &str, checklist: &[(&str, Option<f64>)], mode: ScoringMode) -> Option<f64> {
    let object: Map<String, Value> = match mode {
        ScoringMode::Official => serde_json::from_str(reply.trim()).ok()?,
        ScoringMode::Strict => super::judging::last_object(reply, checklist.first()?.0)?,
    };
    if object.is_empty() || object.keys().any(String::is_empty) {
        return None;
    }
    if mode == ScoringMode::Official {
        let verdicts: Vec<_> = object.values().map(verdict_of).collect::<Option<_>>()?;
        return Some(score_of(verdicts.into_iter()));
    }
    let distinct: std::collections::BTreeSet<&str> = checklist.iter().map(|(text, _)| *text).collect();
    if object.len() != distinct.len() {
        return None;
    }
    let verdicts = checklist.iter().map(|(text, weight)| Some((verdict_of(object.get(*text)?)?.0, *weight)));
    let verdicts: Vec<_> = verdicts.collect::<Option<_>>()?;
    Some(score_of(verdicts.into_iter()))
}

const CATEGORY: &str = "bench_task";

fn metrics() -> [MetricInfo; 4] {
    let by_task = |name: &'static str| {
        MetricInfo::share(name).aggregated(Aggregation::MeanOfCategories(CATEGORY.into()))
    };
    [
        by_task("overall"),
        by_task("error_correction"),
        by_task("response_maintenance"),
        MetricInfo::share("item_mean"),
    ]
}

fn scored(item: &Item, value: Result<f64, truing_types::Unscored>) -> ItemScore {
    let mut score = ItemScore::default();
    let [overall, correction, maintenance, mean] = metrics();
    score.set(&overall, value.clone());
    score.set(&mean, value.clone());
    let is_correction = item.categories.get("bench_type").is_some_and(|kind| kind == CORRECTION);
    score.set(if is_correction { &correction } else { &maintenance }, value);
    score
}

impl FbBench {
    fn item(row: Row<'_>) -> Result<Item, BenchmarkError> {
        let bench = row.text("bench_type")?;
        if ![CORRECTION, MAINTENANCE].contains(&bench) {
            return Err(row.bad("bench_type", &bench.into(), format!("`{CORRECTION}` or `{MAINTENANCE}`")));
        }
        let task = row.text("task_type")?;
        let list = row.list("checklist")?;
        let Some(checkpoints) = checklist(row.object()) else {
            let expected = match bench == CORRECTION {
                true => "pairs of a checkpoint and a weight above 0 and at most 1",
                false => "checkpoints as texts",
            };
            return Err(row.bad("checklist", &Value::from(list.to_vec()), expected));
        };
        let weights: f64 = checkpoints.iter().filter_map(|(_, weight)| *weight).sum();
        if bench == CORRECTION && (weights - 1.0).abs() > 1e-6 {
            return Err(row.bad("checklist", &Value::from(weights), "weights that sum to 1"));
        }
        let turns = [
            (Role::User, row.text("user_query")?),
            (Role::Assistant, row.text("origin_first_response")?),
            (Role::User, row.text("feedback")?),
        ];
        let messages = turns.map(|(role, text)| Message::new(role, text)).into();
        let prompt = Prompt::Chat(Conversation { messages, tools: Vec::new() });
        let target = row.optional_text("reference_second_response")?.unwrap_or_default().to_owned();
        let mut item = Item::new(row.name_or_line(&["id"])?, row, prompt, target)
            .with_category("bench_type", bench)
            .with_category("task_type", task)
            .with_category(CATEGORY, format!("{bench}: {task}"));
        // Several kinds of error or feedback: the row counts in the breakdown where it has one.
        for (dimension, column) in [("error_type", "error_type"), ("feedback_type", "feedback_type")] {
            if let Some([Value::String(kind)]) = row.get(column).and_then(Value::as_array).map(Vec::as_slice)
            {
                item = item.with_category(dimension, kind.clone());
            }
        }
        Ok(item)
    }

    fn question(item: &Item, answer: &str, options: &TaskOptions) -> Question {
        let skeleton: Map<String, Value> = checklist(&item.row)
            .unwrap_or_default()
            .into_iter()
            .map(|(text, weight)| (text.to_owned(), json!({REASON: "", RESULT: "", WEIGHT: weight})))
            .collect();
        let skeleton = serde_json::to_string_pretty(&skeleton).unwrap_or_default();
        let text = fill_in(
            PROMPT,
            &[
                ("query", item.text("user_query")),
                ("first", item.text("origin_first_response")),
                ("feedback", item.text("feedback")),
                ("second", answer),
                ("skeleton", &skeleton),
            ],
        );
        let mut question =
            Question::new("record", text, REMINDER, options.max_judge_attempts.unwrap_or(REPLIES));
        question.repeats = options.mode == ScoringMode::Official;
        question.sampling.max_new_tokens = 4096;
        question
    }
}

impl Benchmark for FbBench {
    fn name(&self) -> &str {
        "fbbench"
    }

    fn about(&self) -> &str {
        "FB-Bench: answers after feedback, by a judge (arXiv 2410.09412)"
    }

    fn needs_judge(&self) -> bool {
        true
    }

    fn known_files(&self) -> &[KnownFile] {
        &[KnownFile {
            name: "fb_bench_dataset_v3.json at dacc09b6",
            sha256: "38c1a33a8dae1271f598bb05fd3f49e544eb42c8662af0c9a7daad844d9a9047",
        }]
    }

    fn differences(&self) -> &[&str] {
        &[
            "a verdict has to name exactly the checkpoints of the list, and their weights are the list's; \
             the published program takes checkpoints and weights as the judge writes them",
            "a record without a readable verdict is unscored and counted; the published program leaves it \
             out of the mean",
            "JSON is read anywhere in the reply; the published program requests JSON mode",
            "an unreadable reply is requested again with a reminder; the published program repeats the same request",
        ]
    }

    fn metrics(&self, _: &TaskOptions) -> Vec<MetricInfo> {
        metrics().into()
    }

    fn items(&self, rows: &[ObjectRow], _: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        rows.iter().map(|row| Self::item(Row(row))).collect()
    }

    fn requests(&self, item: &Item, answers: &Answers, options: &TaskOptions) -> Vec<Request> {
        let temperature = temperature(item.text("task_type"));
        let sampling = SamplingOptions { max_new_tokens: 4096, temperature, ..SamplingOptions::default() };
        answer_then_judge(item, answers, sampling, |answer| {
            let verdict = checklist(&item.row).map(|checklist| {
                let read = |reply: &str| read_reply(reply, &checklist, options.mode);
                Self::question(item, answer, options).verdict(answers, read).request()
            });
            verdict.into_iter().collect()
        })
    }

    fn score(&self, items: &[(&Item, &Answers)], options: &TaskOptions, _: &Scoring<'_>) -> Vec<ItemScore> {
        let score = |(item, answers): &(&Item, &Answers)| {
            let checklist = checklist(&item.row).unwrap_or_default();
            let value = answers.text("answer").and_then(|answer| {
                let question = Self::question(item, answer, options);
                question.verdict(answers, |reply| read_reply(reply, &checklist, options.mode)).result()
            });
            scored(item, value)
        };
        items.iter().map(score).collect()
    }
}

/// Scores records with a stored `judgement`, as the published program does.
///
/// # Errors
/// When a record lacks a column, or a judgement is out of form.
pub fn scores_of_judged(rows: &[ObjectRow]) -> Result<Vec<(Item, ItemScore)>, BenchmarkError> {
    let score = |row: &ObjectRow| {
        let row = Row(row);
        let item = FbBench::item(row)?;
        let judgement = row.value("judgement", "an object by checkpoint")?;
        let verdicts: Option<Vec<_>> =
            judgement.as_object().and_then(|object| object.values().map(verdict_of).collect());
        let expected = "for each checkpoint a reason, 是 or 否, and a weight or null";
        let verdicts = verdicts.ok_or_else(|| row.bad("judgement", judgement, expected))?;
        let score = scored(&item, Ok(score_of(verdicts.into_iter())));
        Ok((item, score))
    };
    rows.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_add_up_and_one_met_point_maintains() {
        let weighted = [(true, Some(0.3)), (false, Some(0.3)), (true, Some(0.4))];
        assert!((score_of(weighted.into_iter()) - 0.7).abs() < 1e-12);
        assert_eq!(score_of([(false, None), (true, None)].into_iter()), 1.0);
        assert_eq!(score_of([(false, None)].into_iter()), 0.0);
    }

    #[test]
    fn strict_replies_have_the_lists_checkpoints_and_weights() {
        let list = [("纠正结果", Some(0.7)), ("承认错误", Some(0.3))];
        let one = |verdict: &str, weight: f64| json!({REASON: "因为", RESULT: verdict, WEIGHT: weight});
        let good = json!({"纠正结果": one(MET, 0.9), "承认错误": one(UNMET, 0.3)}).to_string();
        assert_eq!(read_reply(&good, &list, ScoringMode::Strict), Some(0.7));
        assert_eq!(read_reply(&good, &list, ScoringMode::Official), Some(0.9), "the judge's own weight");
        assert_eq!(read_reply(&format!("好的：{good}"), &list, ScoringMode::Strict), Some(0.7));
        let other = json!({"纠正结果": one(MET, 0.7), "别的": one(UNMET, 0.3)}).to_string();
        assert_eq!(read_reply(&other, &list, ScoringMode::Strict), None);
        assert_eq!(read_reply(&other, &list, ScoringMode::Official), Some(0.7));
        let partly = json!({"纠正结果": one("部分", 0.7), "承认错误": one(UNMET, 0.3)}).to_string();
        assert_eq!(read_reply(&partly, &list, ScoringMode::Official), None);
    }
}
