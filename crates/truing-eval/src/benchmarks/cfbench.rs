//! CFBench (Zhang et al. 2024, arXiv 2408.01122): Chinese instructions with constraints, each judged as met or
//! not. Columns are those of its `cfbench_data.json`, misspelt ones included.
//!
//! Of a record with verdicts s: CSR is their mean, ISR whether all are met, PSR whether the primary ones are
//! met and the secondary ones mostly, each from a CSR that is rounded to two decimals. The judge's prompt is
//! ours, so that scores are not comparable with published ones, whose judge was asked with another.

use serde_json::Value;
use truing_data::ObjectRow;
use truing_reward::asking::fill_in;
use truing_types::{SamplingOptions, Unscored, UnscoredReason};

use super::judging::answer_then_judge;
use super::measure::Aggregation;
use super::{
    Answers, Benchmark, BenchmarkError, Item, ItemScore, KnownFile, Measure, MetricInfo, Prompt, Question,
    Request, Row, Scoring, ScoringMode, TaskOptions, Verdict,
};

/// The published program asks this often.
const OFFICIAL_REPLIES: usize = 10;
const STRICT_REPLIES: usize = 3;

const PROMPT: &str = "你是一位严格而公正的评审。请逐条判断下面的回答是否满足每个检查点。

【指令】
{instruction}

【参考答案】（可能为空；为空时不作依据）
{reference}

【回答】
{answer}

【检查点】（每个检查点之间以空行分隔）
{checkpoints}

判断规则：检查点完全满足记 1，部分满足或不满足记 0。只根据回答本身判断，不要因为篇幅或文采而放宽。
输出格式：按给定顺序，每个检查点一行，先原样抄写检查点文字，再写一个制表符，最后写 1 或 0；各行之间空一行。除此之外不要输出任何内容。";

const REMINDER: &str =
    "输出格式不对。请按顺序输出：检查点原文、一个制表符、1 或 0；各行之间空一行，不要有其他内容。";

pub(super) struct CfBench;

/// A checkpoint of a record.
struct Criterion<'a> {
    text: &'a str,
    is_primary: bool,
    kind: &'static str,
}

/// The English name of a primary constraint type.
fn kind_of(label: &str) -> &'static str {
    match label {
        "内容约束" => "content",
        "数值约束" => "numerical",
        "风格约束" => "stylistic",
        "格式约束" => "format",
        "语言约束" => "linguistic",
        "否定约束" => "inverse",
        "不合理约束" => "contradictory",
        "场景约束" => "situation",
        "example约束" => "example",
        "指定动作约束/其他专业约束" => "rule",
        // 129 criteria of the published file have no type.
        _ => "untyped",
    }
}

const KINDS: [&str; 11] = [
    "content",
    "numerical",
    "stylistic",
    "format",
    "linguistic",
    "inverse",
    "contradictory",
    "situation",
    "example",
    "rule",
    "untyped",
];

fn criteria(row: &serde_json::Map<String, Value>) -> Option<Vec<Criterion<'_>>> {
    let criterion = |value: &'_ Value| -> Option<(bool, &'static str)> {
        let parts = value.as_array().filter(|parts| parts.len() >= 2)?;
        let is_primary = match parts[1].as_str()? {
            "主需" => true,
            "次需" => false,
            _ => return None,
        };
        Some((is_primary, kind_of(parts.get(2).and_then(Value::as_str).unwrap_or_default())))
    };
    let list = row.get("criteria")?.as_array().filter(|list| !list.is_empty())?;
    list.iter()
        .map(|value| {
            let (is_primary, kind) = criterion(value)?;
            Some(Criterion { text: value.get(0)?.as_str()?, is_primary, kind })
        })
        .collect()
}

/// How the verdicts were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parsing {
    /// All of them, in form.
    Whole,
    /// Lines that could be read of a reply out of form.
    Lines,
    /// Nothing.
    Nothing,
}

/// Reads a reply in form: a verdict for each criterion, in order.
fn read_strictly(reply: &str, criteria: &[Criterion<'_>]) -> Option<Vec<bool>> {
    let parts: Vec<&str> = reply.split("\n\n").collect();
    if parts.len() != criteria.len() {
        return None;
    }
    let verdicts = parts.iter().zip(criteria).map(|(part, criterion)| {
        let (text, verdict) = part.split_once('\t').filter(|(_, verdict)| !verdict.contains('\t'))?;
        (text == criterion.text).then_some(())?;
        read_verdict(verdict)
    });
    verdicts.collect()
}

/// 0 or 1, as Python's `float` reads it.
fn read_verdict(text: &str) -> Option<bool> {
    match text.trim().parse::<f64>().ok()? {
        0.0 => Some(false),
        1.0 => Some(true),
        _ => None,
    }
}

/// Reads lines with exactly one tab. The published program tests the score's truth before its range and so
/// drops every 0.
fn read_lines(reply: &str, mode: ScoringMode) -> Vec<bool> {
    let lines = reply.split('\n').filter(|line| line.matches('\t').count() == 1);
    let verdicts = lines.filter_map(|line| read_verdict(line.split_once('\t')?.1));
    verdicts.filter(|is_met| *is_met || mode == ScoringMode::Strict).collect()
}

/// Two decimals, of equally near ones the even one, as Python's `round` has it.
fn rounded(value: f64) -> f64 {
    format!("{value:.2}").parse().unwrap_or(value)
}

fn mean(values: impl ExactSizeIterator<Item = bool>) -> f64 {
    let n = values.len() as f64;
    values.filter(|value| *value).count() as f64 / n
}

/// CSR, ISR and PSR of a record.
fn metrics_of(verdicts: &[bool], parsing: Parsing, criteria: &[Criterion<'_>]) -> [f64; 3] {
    const ENOUGH: f64 = 0.8;
    let csr = rounded(mean(verdicts.iter().copied()));
    let psr = match parsing {
        Parsing::Nothing => false,
        Parsing::Lines => csr > ENOUGH,
        Parsing::Whole => {
            let of = |is_primary: bool| -> Vec<bool> {
                let pairs = verdicts.iter().zip(criteria).filter(|(_, one)| one.is_primary == is_primary);
                pairs.map(|(is_met, _)| *is_met).collect()
            };
            let (primary, secondary) = (of(true), of(false));
            match (primary.is_empty(), secondary.is_empty()) {
                _ if primary.contains(&false) => false,
                (true, _) => csr > ENOUGH,
                (false, true) => true,
                (false, false) => 0.5 + 0.5 * rounded(mean(secondary.iter().copied())) > ENOUGH,
            }
        }
    };
    [csr, f64::from(u8::from(csr >= 1.0)), f64::from(u8::from(psr))]
}

fn metrics() -> Vec<MetricInfo> {
    let mut metrics: Vec<MetricInfo> = ["csr", "isr", "psr"].map(MetricInfo::share).into();
    metrics.extend(KINDS.map(|kind| MetricInfo::share(format!("csr_{kind}")).aggregated(Aggregation::Ratio)));
    metrics
}

fn set_verdicts(score: &mut ItemScore, verdicts: &[bool], parsing: Parsing, criteria: &[Criterion<'_>]) {
    let infos = metrics();
    for (info, value) in infos.iter().zip(metrics_of(verdicts, parsing, criteria)) {
        score.set(info, Ok(value));
    }
    if parsing == Parsing::Whole {
        for (kind, info) in KINDS.iter().zip(&infos[3..]) {
            let of_kind = verdicts.iter().zip(criteria).filter(|(_, one)| one.kind == *kind);
            let (n, n_met) = of_kind.fold((0, 0), |(n, met), (is_met, _)| (n + 1, met + i32::from(*is_met)));
            if n > 0 {
                score.set(info, Ok(Measure { value: f64::from(n_met), weight: f64::from(n) }));
            }
        }
    }
    score.details.insert("verdicts".into(), verdicts.to_vec().into());
    let parsing = match parsing {
        Parsing::Whole => "1",
        Parsing::Lines => "0",
        Parsing::Nothing => "-1",
    };
    score.details.insert("judge_parsing".into(), parsing.into());
}

impl CfBench {
    fn question(item: &Item, answer: &str, options: &TaskOptions) -> Question {
        let checkpoints: Vec<&str> =
            criteria(&item.row).unwrap_or_default().iter().map(|one| one.text).collect();
        let text = fill_in(
            PROMPT,
            &[
                ("instruction", item.text("prompt")),
                ("reference", item.text("gold")),
                ("answer", answer),
                ("checkpoints", &checkpoints.join("\n\n")),
            ],
        );
        let is_official = options.mode == ScoringMode::Official;
        let usual = if is_official { OFFICIAL_REPLIES } else { STRICT_REPLIES };
        let mut question =
            Question::new("record", text, REMINDER, options.max_judge_attempts.unwrap_or(usual));
        question.repeats = is_official;
        question.sampling.temperature = if is_official { 0.01 } else { 0.0 };
        question
    }

    fn is_asked(item: &Item, options: &TaskOptions) -> bool {
        // One published record has no prompt.
        options.mode == ScoringMode::Official || !item.text("prompt").trim().is_empty()
    }

    fn item(row: Row<'_>) -> Result<Item, BenchmarkError> {
        let list = row.list("criteria")?;
        if criteria(row.object()).is_none() {
            let expected = "lists of a checkpoint, 主需 or 次需, a type and a subtype";
            return Err(row.bad("criteria", &Value::from(list.to_vec()), expected));
        }
        let mut item = Item::new(row.name("idx")?, row, Prompt::user(row.text("prompt")?), String::new());
        for (dimension, column) in [("split", "split"), ("source", "source"), ("scenario", "scenario")] {
            if let Some(category) = row.optional_text(column)?.filter(|text| !text.is_empty()) {
                item = item.with_category(dimension, category);
            }
        }
        Ok(item)
    }
}

impl Benchmark for CfBench {
    fn name(&self) -> &str {
        "cfbench"
    }

    fn about(&self) -> &str {
        "CFBench: constraints of Chinese instructions, by a judge (arXiv 2408.01122)"
    }

    fn needs_judge(&self) -> bool {
        true
    }

    fn known_files(&self) -> &[KnownFile] {
        &[KnownFile {
            name: "cfbench_data.json at 0bcbf9b0",
            sha256: "f28bfe94420ff61063183712179988718c6caedcdd3d0635cc6d0383289796fc",
        }]
    }

    fn differences(&self) -> &[&str] {
        &[
            "a judge's reply out of form is read by lines, and lines with 0 count; the published program drops them",
            "a record without any readable verdict is unscored; the published program scores it 0",
            "the record without a prompt is unscored; the published program sends it",
            "an unreadable reply is requested again with a reminder, 3 times in all; the published program \
             repeats the same request 10 times",
        ]
    }

    fn metrics(&self, _: &TaskOptions) -> Vec<MetricInfo> {
        metrics()
    }

    fn items(&self, rows: &[ObjectRow], _: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        rows.iter().map(|row| Self::item(Row(row))).collect()
    }

    fn requests(&self, item: &Item, answers: &Answers, options: &TaskOptions) -> Vec<Request> {
        if !Self::is_asked(item, options) {
            return Vec::new();
        }
        let sampling = SamplingOptions { max_new_tokens: 2048, ..SamplingOptions::default() };
        answer_then_judge(item, answers, sampling, |answer| {
            let verdict = criteria(&item.row).map(|criteria| {
                let read = |reply: &str| read_strictly(reply, &criteria);
                Self::question(item, answer, options).verdict(answers, read).request()
            });
            verdict.into_iter().collect()
        })
    }

    fn score(&self, scored: &[(&Item, &Answers)], options: &TaskOptions, _: &Scoring<'_>) -> Vec<ItemScore> {
        let score = |(item, answers): &(&Item, &Answers)| {
            if !Self::is_asked(item, options) {
                let why = Unscored::new(UnscoredReason::BadReference, "the record has no prompt");
                return ItemScore::unscored(&metrics()[..3], &why);
            }
            let criteria = criteria(&item.row).unwrap_or_default();
            let question = match answers.text("answer") {
                Ok(answer) => Self::question(item, answer, options),
                Err(why) => return ItemScore::unscored(&metrics()[..3], &why),
            };
            let mut score = ItemScore::default();
            match question.verdict(answers, |reply| read_strictly(reply, &criteria)) {
                Verdict::Given(verdicts) => set_verdicts(&mut score, &verdicts, Parsing::Whole, &criteria),
                other => {
                    let why = other.result().err();
                    let lines = question
                        .last_reply(answers)
                        .map(|reply| read_lines(reply, options.mode))
                        .unwrap_or_default();
                    if !lines.is_empty() {
                        set_verdicts(&mut score, &lines, Parsing::Lines, &criteria);
                    } else if options.mode == ScoringMode::Official && question.last_reply(answers).is_some()
                    {
                        set_verdicts(&mut score, &[false], Parsing::Nothing, &criteria);
                    } else if let Some(why) = why {
                        return ItemScore::unscored(&metrics()[..3], &why);
                    }
                }
            }
            score
        };
        scored.iter().map(score).collect()
    }
}

/// Scores records that the published program has judged (`judge_score` and `judge_parsing`), as it does.
///
/// # Errors
/// When a record lacks a column.
pub fn scores_of_judged(rows: &[ObjectRow]) -> Result<Vec<(Item, ItemScore)>, BenchmarkError> {
    let scored = rows.iter().map(|row| {
        let row = Row(row);
        let item = CfBench::item(row)?;
        let verdicts: Option<Vec<bool>> =
            row.texts("judge_score")?.iter().map(|text| read_verdict(text)).collect();
        let bad = |column: &str, expected: &str| row.bad(column, &row.object()[column], expected);
        let verdicts = verdicts.ok_or_else(|| bad("judge_score", "texts that are 0 or 1"))?;
        let parsing = match row.text("judge_parsing")? {
            "1" => Parsing::Whole,
            "0" => Parsing::Lines,
            "-1" => Parsing::Nothing,
            _ => return Err(bad("judge_parsing", "`1`, `0` or `-1`")),
        };
        let criteria = criteria(row.object()).unwrap_or_default();
        if parsing == Parsing::Whole && verdicts.len() != criteria.len() {
            return Err(bad("judge_score", "a verdict for each criterion"));
        }
        let mut score = ItemScore::default();
        set_verdicts(&mut score, &verdicts, parsing, &criteria);
        Ok((item, score))
    });
    scored.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn criterion(is_primary: bool) -> Criterion<'static> {
        Criterion { text: "字数不超过40", is_primary, kind: "numerical" }
    }

    fn psr(primary: &[bool], secondary: &[bool]) -> f64 {
        let criteria: Vec<Criterion<'_>> = primary
            .iter()
            .map(|_| criterion(true))
            .chain(secondary.iter().map(|_| criterion(false)))
            .collect();
        let verdicts: Vec<bool> = primary.iter().chain(secondary).copied().collect();
        metrics_of(&verdicts, Parsing::Whole, &criteria)[2]
    }

    #[test]
    fn rounding_is_pythons() {
        for (value, expected) in
            [(0.125, 0.12), (0.375, 0.38), (0.625, 0.62), (2.0 / 3.0, 0.67), (0.005, 0.01)]
        {
            assert_eq!(rounded(value), expected, "{value}");
        }
    }

    #[test]
    fn borders_are_strict() {
        let (yes, no) = (true, false);
        assert_eq!(psr(&[yes], &[yes, yes, yes, no, no]), 0.0, "a secondary mean of exactly 0.6");
        assert_eq!(psr(&[yes], &[yes, yes, no]), 1.0, "0.67");
        assert_eq!(psr(&[], &[yes, yes, yes, yes, no]), 0.0, "all secondary, exactly 0.8");
        assert_eq!(psr(&[], &[yes, yes, yes, yes, yes, no]), 1.0);
        assert_eq!((psr(&[yes, no], &[yes]), psr(&[yes, yes], &[])), (0.0, 1.0));
        assert_eq!(metrics_of(&[yes, yes], Parsing::Lines, &[]), [1.0, 1.0, 1.0]);
        assert_eq!(metrics_of(&[no], Parsing::Nothing, &[]), [0.0, 0.0, 0.0]);
    }

    #[test]
    fn replies_are_read_as_published_and_zeros_are_kept_by_default() {
        let criteria = [criterion(true), criterion(false)];
        let text = criteria[0].text;
        let good = format!("{text}\t1\n\n{text}\t0");
        assert_eq!(read_strictly(&good, &criteria), Some(vec![true, false]));
        for bad in [
            format!("{text}\t1\n{text}\t0"),
            format!("{text} 1\n\n{text}\t0"),
            format!("x\t1\n\n{text}\t0"),
            format!("{text}\t2\n\n{text}\t0"),
            String::new(),
        ] {
            assert_eq!(read_strictly(&bad, &criteria), None, "{bad}");
        }
        let lines = format!("1. {text}\t1\n2. {text}\t0\nSo far.");
        assert_eq!(read_lines(&lines, ScoringMode::Strict), [true, false]);
        assert_eq!(read_lines(&lines, ScoringMode::Official), [true]);
    }
}
