//! SysBench (Qin et al. 2024, arXiv 2408.10943): dialogues of five turns under a system prompt, each turn
//! judged by its constraints. Columns are those of its `system_benchmark_eval_datas.json`; a dialogue is one
//! item, so that intervals are by dialogue.
//!
//! CSR is the share of met constraints (over all of them, as every published figure is; `csr_macro`, over
//! turns, is the paper's formula), ISR the share of turns with all met, SSR the mean unbroken run of such turns
//! from the first one. The judge's prompt is ours.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use truing_data::ObjectRow;
use truing_reward::asking::fill_in;
use truing_types::{Conversation, Message, Role, SamplingOptions, Unscored};

use super::measure::Aggregation;
use super::{
    Answers, Ask, Benchmark, BenchmarkError, Item, ItemScore, Measure, MetricInfo, Prompt, Question,
    Recipient, Request, Row, Scoring, ScoringMode, TaskOptions,
};

const OFFICIAL_REPLIES: usize = 10;
const STRICT_REPLIES: usize = 3;
/// Turns of a dialogue.
const MAX_TURNS: usize = 5;
const REASON: &str = "评判理由";
const RESULT: &str = "评判结果";
const MET: &str = "是";
const UNMET: &str = "否";

const PROMPT: &str = "你是一位严格而公正的评审。下面有系统提示、此前的对话、当前一轮的用户输入与助手回复，以及一份检查清单。请逐条判断当前回复是否满足清单中的要求。

<系统提示>
{system}
</系统提示>

<此前对话>
{history}
</此前对话>

<当前用户输入>
{user}
</当前用户输入>

<当前助手回复>
{answer}
</当前助手回复>

<检查清单>（编号. 要求 | 类型）
{criteria}
</检查清单>

只判断当前回复；完全满足为“是”，否则为“否”。只输出一个 JSON 对象，放在 ```json 代码块中，形如：
```json
{\"评判理由\": {\"1\": \"理由\"}, \"评判结果\": {\"1\": \"是\"}}
```
两个键下都要有清单中的每一个编号。";

const REMINDER: &str = "输出不符合要求。请只输出一个 ```json 代码块，含“评判理由”与“评判结果”，每个编号都要有，结果只能是“是”或“否”。";

pub(super) struct SysBench;

/// Constraint types with their English names.
const KINDS: [(&str, &str); 6] = [
    ("动作约束", "action"),
    ("内容约束", "content"),
    ("背景约束", "background"),
    ("角色约束", "role"),
    ("格式约束", "format"),
    ("风格约束", "style"),
];

fn kind_of(label: &str) -> Option<&'static str> {
    KINDS
        .iter()
        .find(|(known, _)| known.trim_end_matches("约束") == label.trim().trim_end_matches("约束"))
        .map(|(_, kind)| *kind)
}

/// One turn as the data has it.
struct Turn<'a> {
    user: &'a str,
    /// The data's own answer, where it has one.
    given: Option<&'a str>,
    is_aligned: bool,
    /// Number, text, type.
    criteria: Vec<(&'a str, &'a str, &'a str)>,
}

/// The verdicts of one turn.
#[derive(Debug, Clone, PartialEq)]
struct Judged {
    is_aligned: bool,
    /// Type of each constraint and whether it is met.
    verdicts: Vec<(String, bool)>,
    /// Whether the turn counts as right: no verdict says otherwise.
    is_right: bool,
}

fn turns(row: &Map<String, Value>) -> Option<Vec<Turn<'_>>> {
    let messages = row.get("messages")?.as_array()?;
    let infos = row.get("prompt_infos")?.as_object()?;
    let content = |message: &'_ Value, role: &str| message.get("role").and_then(Value::as_str) == Some(role);
    let mut turns = Vec::new();
    for (place, message) in messages.iter().enumerate().filter(|(_, message)| content(message, "user")) {
        let user = message.get("content")?.as_str()?;
        let info = infos.get(user)?;
        let given = messages.get(place + 1).filter(|next| content(next, "assistant"));
        let criteria = info.get("criteria")?.as_object()?.iter().map(|(number, criterion)| {
            let text = criterion.get("criteria_content")?.as_str()?;
            Some((
                number.as_str(),
                text,
                criterion.get("criteria_type").and_then(Value::as_str).unwrap_or_default(),
            ))
        });
        let criteria: Vec<_> = criteria.collect::<Option<_>>()?;
        turns.push(Turn {
            user,
            given: given.and_then(|message| message.get("content")?.as_str()),
            is_aligned: info.get("alignment").and_then(Value::as_str) != Some("misalign"),
            criteria: (!criteria.is_empty()).then_some(criteria)?,
        });
    }
    (!turns.is_empty()).then_some(turns)
}

/// Reads a judge's reply: the verdict of each criterion by its number.
fn read_reply(reply: &str, turn: &Turn<'_>, mode: ScoringMode) -> Option<Judged> {
    let object: Map<String, Value> = match mode {
        // The published program cuts 7 and 3 characters, of "```json" and "```".
        ScoringMode::Official => {
            let letters: Vec<char> = reply.trim().chars().collect();
            let inner: String = letters.get(7..letters.len().checked_sub(3)?)?.iter().collect();
            serde_json::from_str(&inner).ok()?
        }
        ScoringMode::Strict => super::judging::last_object(reply, RESULT)?,
    };
    object.get(REASON)?;
    let results = object.get(RESULT)?.as_object()?;
    if results.len() != turn.criteria.len() {
        return None;
    }
    let verdicts = turn.criteria.iter().map(|(number, _, kind)| {
        let verdict = results.get(*number)?.as_str().unwrap_or_default();
        let is_known = verdict == MET || verdict == UNMET;
        (is_known || mode == ScoringMode::Official).then(|| ((*kind).to_owned(), verdict.to_owned()))
    });
    let verdicts: Vec<(String, String)> = verdicts.collect::<Option<_>>()?;
    let is_right = verdicts.iter().all(|(_, verdict)| verdict != UNMET);
    let verdicts = verdicts.into_iter().map(|(kind, verdict)| (kind, verdict == MET)).collect();
    Some(Judged { is_aligned: turn.is_aligned, verdicts, is_right })
}

/// A metric over turns or constraints: a ratio of sums over dialogues.
fn ratio(name: impl Into<std::borrow::Cow<'static, str>>) -> MetricInfo {
    MetricInfo::share(name).aggregated(Aggregation::Ratio)
}

fn metrics() -> Vec<MetricInfo> {
    let mut metrics = vec![ratio("csr"), ratio("csr_macro"), ratio("isr"), MetricInfo::share("ssr")];
    metrics.extend([ratio("isr_aligned"), ratio("isr_misaligned")]);
    metrics.extend(KINDS.map(|(_, kind)| ratio(format!("csr_{kind}"))));
    for dependence in ["dependent", "parallel"] {
        metrics.push(MetricInfo::share(format!("ssr_{dependence}")));
        metrics.extend((1..=MAX_TURNS).map(|n| MetricInfo::share(format!("r{n}_{dependence}"))));
    }
    metrics
}

/// The measures of one dialogue.
fn score_of(turns: &[Judged], is_dependent: bool) -> ItemScore {
    let mut score = ItemScore::default();
    let n = turns.len() as f64;
    let mut measures: BTreeMap<String, Measure> = BTreeMap::new();
    let mut add = |name: String, value: f64, weight: f64| {
        let measure = measures.entry(name).or_insert(Measure { value: 0.0, weight: 0.0 });
        measure.value += value;
        measure.weight += weight;
    };
    for turn in turns {
        let n_met = turn.verdicts.iter().filter(|(_, is_met)| *is_met).count() as f64;
        let is_right = f64::from(u8::from(turn.is_right));
        add("csr".into(), n_met, turn.verdicts.len() as f64);
        add("csr_macro".into(), n_met / turn.verdicts.len() as f64, 1.0);
        add("isr".into(), is_right, 1.0);
        add(if turn.is_aligned { "isr_aligned" } else { "isr_misaligned" }.into(), is_right, 1.0);
        for (kind, is_met) in &turn.verdicts {
            if let Some(kind) = kind_of(kind) {
                add(format!("csr_{kind}"), f64::from(u8::from(*is_met)), 1.0);
            }
        }
    }
    let n_unbroken = turns.iter().take_while(|turn| turn.is_right).count();
    let dependence = if is_dependent { "dependent" } else { "parallel" };
    let ssr = n_unbroken as f64 / n;
    add("ssr".into(), ssr, 1.0);
    add(format!("ssr_{dependence}"), ssr, 1.0);
    for n_first in 1..=turns.len().min(MAX_TURNS) {
        add(format!("r{n_first}_{dependence}"), f64::from(u8::from(n_unbroken >= n_first)), 1.0);
    }
    for info in metrics() {
        if let Some(measure) = measures.get(&*info.name) {
            score.set(&info, Ok(*measure));
        }
    }
    score.details.insert("turns_right".into(), turns.iter().map(|turn| Value::from(turn.is_right)).collect());
    score
}

impl SysBench {
    /// The request of each turn, and once it is answered the question to the judge.
    fn conversation(item: &Item) -> Conversation {
        let system = item.text("system_prompt");
        Conversation { messages: vec![Message::new(Role::System, system)], tools: Vec::new() }
    }

    fn question(
        turn: &Turn<'_>,
        number: usize,
        before: &Conversation,
        answer: &str,
        options: &TaskOptions,
    ) -> Question {
        let history: Vec<String> = before
            .messages
            .iter()
            .filter(|message| message.role != Role::System)
            .map(|message| {
                format!("{}：{}", if message.role == Role::User { "用户" } else { "助手" }, message.content)
            })
            .collect();
        let criteria: Vec<String> =
            turn.criteria.iter().map(|(number, text, kind)| format!("{number}. {text} | {kind}")).collect();
        let system = before.messages.first().map_or("", |message| message.content.as_str());
        let text = fill_in(
            PROMPT,
            &[
                ("system", system),
                ("history", &history.join("\n")),
                ("user", turn.user),
                ("answer", answer),
                ("criteria", &criteria.join("\n")),
            ],
        );
        let is_official = options.mode == ScoringMode::Official;
        let usual = if is_official { OFFICIAL_REPLIES } else { STRICT_REPLIES };
        let name = format!("turn{number}");
        let mut question = Question::new(name, text, REMINDER, options.max_judge_attempts.unwrap_or(usual));
        question.repeats = is_official;
        if is_official && !options.given_history {
            question.later_temperature = Some((OFFICIAL_REPLIES / 2, 0.5));
        }
        question
    }
}

impl Benchmark for SysBench {
    fn name(&self) -> &str {
        "sysbench"
    }

    fn about(&self) -> &str {
        "SysBench: following a system prompt over five turns, by a judge (arXiv 2408.10943)"
    }

    fn needs_judge(&self) -> bool {
        true
    }

    fn differences(&self) -> &[&str] {
        &[
            "JSON is read anywhere in a judge's reply; the published program cuts 7 and 3 characters and \
             evaluates a Python literal",
            "verdicts other than 是 and 否 are not read; the published program accepts them",
            "an unreadable reply is requested again with a reminder, 3 times in all; the published program \
             repeats the request 10 times, from the sixth on at temperature 0.5",
            "official mode reads JSON, not Python literals with single quotation marks",
        ]
    }

    fn metrics(&self, _: &TaskOptions) -> Vec<MetricInfo> {
        metrics()
    }

    fn items(&self, rows: &[ObjectRow], options: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        let item = |row: &ObjectRow| {
            let row = Row(row);
            row.text("system_prompt")?;
            row.list("messages")?;
            let infos = row.value("prompt_infos", "an object by the text of each user turn")?;
            let Some(turns) = turns(row.object()) else {
                let expected =
                    "for the text of each user turn `alignment` and `criteria` with `criteria_content`";
                return Err(row.bad("prompt_infos", infos, expected));
            };
            if options.given_history && turns.iter().rev().skip(1).any(|turn| turn.given.is_none()) {
                let found = Value::from("turns without an answer");
                return Err(row.bad("messages", &found, "the data's own answer after each user turn"));
            }
            let is_dependent = row.get("rounds_related").and_then(Value::as_bool).unwrap_or(true);
            let first = Message::new(Role::User, turns[0].user);
            let system = Message::new(Role::System, row.text("system_prompt")?);
            let prompt = Prompt::Chat(Conversation { messages: vec![system, first], tools: Vec::new() });
            let mut item = Item::new(row.name("system_id")?, row, prompt, String::new());
            item = item.with_category("turns", if is_dependent { "dependent" } else { "parallel" });
            if let Some(domain) = row.optional_text("领域")? {
                item = item.with_category("domain", domain);
            }
            Ok(item)
        };
        rows.iter().map(item).collect()
    }

    fn requests(&self, item: &Item, answers: &Answers, options: &TaskOptions) -> Vec<Request> {
        let mut conversation = Self::conversation(item);
        let mut requests = Vec::new();
        for (place, turn) in turns(&item.row).unwrap_or_default().iter().enumerate() {
            let number = place + 1;
            let before = conversation.clone();
            conversation.messages.push(Message::new(Role::User, turn.user));
            let id = format!("turn{number}");
            let sampling = SamplingOptions { max_new_tokens: 2048, ..SamplingOptions::default() };
            let ask = Ask::Generate { prompt: Prompt::Chat(conversation.clone()), sampling };
            requests.push(Request { id: id.clone(), to: Recipient::Model, ask });
            let answer = answers.text(&id).ok();
            if let Some(answer) = answer {
                let question = Self::question(turn, number, &before, answer, options);
                requests.extend(
                    question.verdict(answers, |reply| read_reply(reply, turn, options.mode)).request(),
                );
            }
            let next = if options.given_history { turn.given } else { answer };
            let Some(next) = next else { break };
            conversation.messages.push(Message::new(Role::Assistant, next));
        }
        requests
    }

    fn score(&self, scored: &[(&Item, &Answers)], options: &TaskOptions, _: &Scoring<'_>) -> Vec<ItemScore> {
        let score = |(item, answers): &(&Item, &Answers)| {
            let turns = turns(&item.row).unwrap_or_default();
            let mut conversation = Self::conversation(item);
            let mut judged: Vec<Judged> = Vec::new();
            for (place, turn) in turns.iter().enumerate() {
                let id = format!("turn{}", place + 1);
                let found: Result<Judged, Unscored> = answers.text(&id).and_then(|answer| {
                    let question = Self::question(turn, place + 1, &conversation, answer, options);
                    question.verdict(answers, |reply| read_reply(reply, turn, options.mode)).result()
                });
                match found {
                    Ok(turn) => judged.push(turn),
                    // A dialogue with an unscored turn has no unbroken run either.
                    Err(why) => {
                        let applies =
                            |info: &MetricInfo| ["csr", "csr_macro", "isr", "ssr"].contains(&&*info.name);
                        let applying: Vec<MetricInfo> = metrics().into_iter().filter(applies).collect();
                        return ItemScore::unscored(&applying, &why);
                    }
                }
                let next = if options.given_history { turn.given } else { answers.text(&id).ok() };
                conversation.messages.push(Message::new(Role::User, turn.user));
                conversation.messages.push(Message::new(Role::Assistant, next.unwrap_or_default()));
            }
            let is_dependent = item.categories.get("turns").is_some_and(|turns| turns == "dependent");
            score_of(&judged, is_dependent)
        };
        scored.iter().map(score).collect()
    }
}

/// Scores the rows of a published result sheet (`详情`, one a turn, as objects by column), as the published program does.
///
/// # Errors
/// When a row lacks a column.
pub fn scores_of_sheet(rows: &[ObjectRow]) -> Result<Vec<(Item, ItemScore)>, BenchmarkError> {
    let mut dialogues: BTreeMap<String, Vec<(usize, Row<'_>)>> = BTreeMap::new();
    for row in rows {
        let row = Row(row);
        dialogues.entry(row.name("system_id")?).or_default().push((row.count("round_index")?, row));
    }
    let mut scored = Vec::new();
    for (id, mut rows) in dialogues {
        rows.sort_by_key(|(round, _)| *round);
        let mut turns = Vec::new();
        for (_, row) in &rows {
            let lines = row.text(RESULT)?;
            let verdict = |line: &str| {
                let (kind, verdict) = line.split_once('|')?;
                let (_, kind) = kind.split_once('.')?;
                Some((kind.trim().to_owned(), verdict.trim().to_owned()))
            };
            let verdicts: Option<Vec<(String, String)>> =
                lines.lines().filter(|line| !line.trim().is_empty()).map(verdict).collect();
            let verdicts = verdicts
                .filter(|verdicts| !verdicts.is_empty())
                .ok_or_else(|| row.bad(RESULT, &lines.into(), "lines `number. type | 是` or `否`"))?;
            turns.push(Judged {
                is_aligned: row.text("alignment")? == "align",
                is_right: verdicts.iter().all(|(_, verdict)| verdict != UNMET),
                verdicts: verdicts.into_iter().map(|(kind, verdict)| (kind, verdict == MET)).collect(),
            });
        }
        let Some((_, first)) = rows.first() else { continue };
        let related = first.value("multi_rounds_related", "true or false")?;
        let is_dependent = related.as_bool().unwrap_or_else(|| related.as_str() == Some("True"));
        let item = Item::new(id, *first, Prompt::user(first.text("prompt")?), String::new());
        scored.push((item, score_of(&turns, is_dependent)));
    }
    Ok(scored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(is_right: bool) -> Judged {
        Judged {
            is_aligned: true,
            verdicts: vec![("内容约束".into(), true), ("格式约束".into(), is_right)],
            is_right,
        }
    }

    fn value(score: &ItemScore, key: &str) -> f64 {
        let Measure { value, weight } = score.measures[&format!("{key},none")].clone().unwrap();
        value / weight
    }

    #[test]
    fn ssr_is_the_unbroken_run_and_the_mean_of_r_n() {
        let score = score_of(&[turn(true), turn(true), turn(false), turn(true), turn(true)], true);
        assert_eq!((value(&score, "ssr"), value(&score, "isr"), value(&score, "csr")), (0.4, 0.8, 0.9));
        let mean: f64 = (1..=5).map(|n| value(&score, &format!("r{n}_dependent"))).sum::<f64>() / 5.0;
        assert_eq!((mean, value(&score, "csr_content"), value(&score, "csr_format")), (0.4, 1.0, 0.8));
        assert!(!score.measures.contains_key("ssr_parallel,none"));
    }

    #[test]
    fn replies_are_read_by_number_and_strictly_by_value() {
        let turn = Turn {
            user: "x",
            given: None,
            is_aligned: false,
            criteria: vec![("1", "a", "内容约束"), ("2", "b", "格式约束")],
        };
        let fenced = |results: &str| format!("```json\n{{\"{REASON}\": {{}}, \"{RESULT}\": {results}}}\n```");
        let good = fenced("{\"1\": \"是\", \"2\": \"否\"}");
        for mode in [ScoringMode::Strict, ScoringMode::Official] {
            let judged = read_reply(&good, &turn, mode).unwrap();
            assert!(!judged.is_right && judged.verdicts[0].1 && !judged.verdicts[1].1);
            assert_eq!(read_reply(&fenced("{\"1\": \"是\"}"), &turn, mode), None);
            assert_eq!(read_reply(&fenced("{\"1\": \"是\", \"3\": \"否\"}"), &turn, mode), None);
        }
        let plain = good.trim_start_matches("```json").trim_end_matches("```").to_owned();
        assert!(read_reply(&plain, &turn, ScoringMode::Strict).is_some());
        assert_eq!(read_reply(&plain, &turn, ScoringMode::Official), None);
        let odd = fenced("{\"1\": \"是\", \"2\": \"部分\"}");
        assert_eq!(read_reply(&odd, &turn, ScoringMode::Strict), None);
        assert!(read_reply(&odd, &turn, ScoringMode::Official).unwrap().is_right);
    }
}
