//! FollowBench (Jiang et al. 2023, arXiv 2310.20410): instructions to which one constraint after the other is
//! added, in levels. The levels of one instruction are one item.
//!
//! Hard satisfaction (HSR) of a level: all of its constraints are met; soft (SSR): the share that is;
//! consistent satisfaction (CSL): how many levels in a row are met from the first. Where the data has a target,
//! a rule compares; otherwise a judge is shown how the instruction grew, and says of each added constraint
//! whether it is met. The judge's prompt is ours.

use std::fmt::Write as _;

use regex::Regex;
use serde_json::Value;
use truing_data::ObjectRow;
use truing_types::{SamplingOptions, Unscored};

use super::{
    Answers, Ask, Benchmark, BenchmarkError, Item, ItemScore, MetricInfo, Prompt, Question, Recipient,
    Request, Row, Scoring, TaskOptions,
};

const LEVELS: usize = 5;
const REPLIES: usize = 3;
const REMINDER: &str =
    "End your reply with one line: a list with YES or NO for each added constraint, such as [YES, NO].";

pub(super) struct FollowBench;

/// One level.
struct Level<'a> {
    level: usize,
    instruction: &'a str,
    target: &'a str,
}

fn levels(item: &Item) -> Vec<Level<'_>> {
    let rows = item.row.get("rows").and_then(Value::as_array).into_iter().flatten();
    rows.filter_map(|row| {
        Some(Level {
            level: usize::try_from(row.get("level")?.as_u64()?).ok()?,
            instruction: row.get("instruction")?.as_str()?,
            target: row.get("target").and_then(Value::as_str).unwrap_or_default(),
        })
    })
    .collect()
}

/// A rule of the published program, by the source of the instruction.
fn by_rule(category: &str, source: &str, level: &Level<'_>, answer: &str) -> Option<bool> {
    let last = |pattern: &str| {
        let found =
            Regex::new(pattern).ok()?.find_iter(answer).last().map(|found| found.as_str() == level.target);
        Some(found.unwrap_or(false))
    };
    if category == "example" {
        return matches_template(level.target, answer);
    }
    if level.target.is_empty() {
        return None;
    }
    match source {
        "E2E" | "text_editing" => Some(answer == level.target),
        "WIKIEVENTS" => {
            let lines: Vec<&str> = level.target.split('\n').collect();
            Some(answer.split('\n').all(|line| lines.contains(&line)))
        }
        "CONLL2003" => {
            // A list of texts as Python writes it.
            let texts: Vec<String> = super::python_calls::list_of_texts(level.target)?;
            Some(texts.iter().any(|text| text == answer))
        }
        "BBH_logical" => last(r"\([A-Z]\)"),
        "BBH_time" => last(r"\d{2}/\d{2}/\d{4}"),
        "self_made_space" => Some(answer.contains(level.target)),
        "gsm_8k" => last(r"\$\d+"),
        _ => None,
    }
}

/// Whether an answer is the template with anything in the place of `{answer}`.
fn matches_template(target: &str, answer: &str) -> Option<bool> {
    let template = target.replace("{instruction}\n", "").replace("{{", "{").replace("}}", "}");
    let parts: Vec<String> = template.split("{answer}").map(regex::escape).collect();
    // As in Python, a dot is anything but a line break.
    Some(Regex::new(&format!("^(?:{})$", parts.join(".*"))).ok()?.is_match(answer))
}

/// The verdicts in the last list of a reply.
fn read_list(reply: &str, n: usize) -> Option<Vec<bool>> {
    let end = reply.rfind(']')?;
    let start = reply[..end].rfind('[')?;
    let verdict = |word: &str| match word.trim().trim_matches(['\'', '"', '“', '”']).to_uppercase().as_str()
    {
        "YES" => Some(true),
        "NO" => Some(false),
        _ => None,
    };
    let verdicts: Vec<bool> = reply[start + 1..end].split([',', '，']).map(verdict).collect::<Option<_>>()?;
    (verdicts.len() == n).then_some(verdicts)
}

fn question(levels: &[Level<'_>], level: usize, answer: &str, options: &TaskOptions) -> Question {
    let mut text = String::from(
        "An instruction was made harder step by step: each step adds one constraint. Here are its steps.\n",
    );
    for step in levels.iter().filter(|step| step.level <= level) {
        let _ = write!(text, "\n<step {}>\n{}\n</step {}>\n", step.level, step.instruction, step.level);
    }
    let _ = write!(
        text,
        "\nA model answered step {level}:\n\n<answer>\n{answer}\n</answer>\n\n\
         Name the constraint that each of the steps 1 to {level} adds. Then decide of each whether the \
         answer meets it. End your reply with one line: a list of {level} words, YES or NO, in the order of \
         the steps, such as [{}].",
        vec!["YES"; level].join(", ")
    );
    Question::new(format!("level{level}"), text, REMINDER, options.max_judge_attempts.unwrap_or(REPLIES))
}

fn metrics() -> Vec<MetricInfo> {
    let mut metrics = vec![MetricInfo::share("hsr"), MetricInfo::share("ssr")];
    metrics.push(MetricInfo::share("csl").range(Some([0.0, LEVELS as f64])));
    for level in 1..=LEVELS {
        metrics.push(MetricInfo::share(format!("hsr_level_{level}")));
        metrics.push(MetricInfo::share(format!("ssr_level_{level}")));
    }
    metrics
}

impl FollowBench {
    /// The share of met constraints of a level.
    fn judged(
        item: &Item,
        levels: &[Level<'_>],
        level: &Level<'_>,
        answers: &Answers,
        options: &TaskOptions,
    ) -> super::Verdict<f64> {
        let answer = match answers.text(&format!("level{}", level.level)) {
            Ok(answer) => answer,
            Err(why) => return super::Verdict::Unscored(why),
        };
        if let Some(is_met) = by_rule(item.text("category"), item.text("source"), level, answer) {
            return super::Verdict::Given(f64::from(u8::from(is_met)));
        }
        let question = question(levels, level.level, answer, options);
        question.verdict(answers, |reply| {
            let verdicts = read_list(reply, level.level)?;
            Some(verdicts.iter().filter(|is_met| **is_met).count() as f64 / verdicts.len() as f64)
        })
    }
}

impl Benchmark for FollowBench {
    fn name(&self) -> &str {
        "followbench"
    }

    fn about(&self) -> &str {
        "FollowBench: constraints added one by one, by rules and a judge (arXiv 2310.20410)"
    }

    fn needs_judge(&self) -> bool {
        true
    }

    fn differences(&self) -> &[&str] {
        &["single instructions for which the published program has a rule of its own (cnn_dailymail, xsum, \
           samsum, gigaword, arxiv, two of format) are judged"]
    }

    fn metrics(&self, _: &TaskOptions) -> Vec<MetricInfo> {
        metrics()
    }

    fn items(&self, rows: &[ObjectRow], _: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        // An example is a run of rows with its number and rising levels: in mixed constraints each level has
        // another category.
        let mut groups: Vec<Vec<(usize, Row<'_>)>> = Vec::new();
        for row in rows {
            let row = Row(row);
            row.text("instruction")?;
            row.text("category")?;
            let (example, level) = (row.name("example_id")?, row.count("level")?);
            let continues = |group: &Vec<(usize, Row<'_>)>| {
                group.last().is_some_and(|(before, last)| {
                    *before < level
                        && last.name("example_id").is_ok_and(|last| last == example)
                        && last.origin().source == row.origin().source
                })
            };
            match groups.last_mut().filter(|group| continues(group)) {
                Some(group) => group.push((level, row)),
                None => groups.push(vec![(level, row)]),
            }
        }
        let item = |group: Vec<(usize, Row<'_>)>| {
            let (first_level, first) = group[0];
            for level in 1..=LEVELS {
                if !group.iter().any(|(known, _)| *known == level) {
                    let found = format!(
                        "only {}",
                        group.iter().map(|(known, _)| known.to_string()).collect::<Vec<_>>().join(", ")
                    );
                    return Err(first.bad(
                        "level",
                        &found.into(),
                        format!("the levels 1 to {LEVELS} of an example"),
                    ));
                }
            }
            let category = first.text("category")?;
            if first_level != 0 && category != "example" {
                return Err(first.bad(
                    "level",
                    &Value::from(first_level),
                    "level 0, the instruction without constraints",
                ));
            }
            let asked = group.iter().find(|(level, _)| *level == 1).map_or(first, |(_, row)| *row);
            // Files of two languages have the same numbers.
            let stem = std::path::Path::new(&*first.origin().source).file_stem().unwrap_or_default();
            let id = format!("{}/{category}/{}", stem.to_string_lossy(), first.name("example_id")?);
            let mut item = Item::new(id, first, Prompt::user(asked.text("instruction")?), String::new());
            item.row.insert(
                "rows".into(),
                group.iter().map(|(_, row)| Value::Object(row.object().clone())).collect(),
            );
            Ok(item.with_category("category", category))
        };
        groups.into_iter().map(item).collect()
    }

    fn requests(&self, item: &Item, answers: &Answers, options: &TaskOptions) -> Vec<Request> {
        let levels = levels(item);
        let mut requests = Vec::new();
        for level in levels.iter().filter(|level| level.level > 0) {
            let sampling = SamplingOptions { max_new_tokens: 2048, ..SamplingOptions::default() };
            let ask = Ask::Generate { prompt: Prompt::user(level.instruction), sampling };
            let id = format!("level{}", level.level);
            let is_answered = answers.text(&id).is_ok();
            requests.push(Request { id, to: Recipient::Model, ask });
            if is_answered {
                requests.extend(Self::judged(item, &levels, level, answers, options).request());
            }
        }
        requests
    }

    fn score(&self, scored: &[(&Item, &Answers)], options: &TaskOptions, _: &Scoring<'_>) -> Vec<ItemScore> {
        let infos = metrics();
        let score = |(item, answers): &(&Item, &Answers)| {
            let mut score = ItemScore::default();
            let levels = levels(item);
            let soft: Vec<Result<f64, Unscored>> = levels
                .iter()
                .filter(|level| level.level > 0)
                .map(|level| Self::judged(item, &levels, level, answers, options).result())
                .collect();
            let hard = |soft: f64| f64::from(u8::from(soft >= 1.0));
            for (place, one) in soft.iter().enumerate().take(LEVELS) {
                score.set(&infos[3 + 2 * place], one.clone().map(hard));
                score.set(&infos[4 + 2 * place], one.clone());
            }
            let all: Result<Vec<f64>, Unscored> = soft.into_iter().collect();
            let n = LEVELS as f64;
            score.set(&infos[0], all.clone().map(|all| all.iter().map(|one| hard(*one)).sum::<f64>() / n));
            score.set(&infos[1], all.clone().map(|all| all.iter().sum::<f64>() / n));
            score.set(&infos[2], all.map(|all| all.iter().take_while(|one| **one >= 1.0).count() as f64));
            score
        };
        scored.iter().map(score).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_at_the_end_of_a_reply() {
        assert_eq!(read_list("1) ...\n['YES', 'NO']", 2), Some(vec![true, false]));
        assert_eq!(read_list("[YES]", 2), None);
        assert_eq!(read_list("[YES, perhaps]", 2), None);
        assert_eq!(read_list("no list", 1), None);
    }

    #[test]
    fn rules_are_those_of_the_published_program() {
        let level = |target| Level { level: 1, instruction: "", target };
        for (category, source, target, answer, expected) in [
            ("example", "x", "{instruction}\n{{'AI': '{answer}'}}", "{'AI': 'a.b'}", Some(true)),
            ("example", "x", "{instruction}\n{{'AI': '{answer}'}}", "{'AI': 'a\nb'}", Some(false)),
            ("content", "BBH_logical", "(B)", "First (A), so (B)", Some(true)),
            ("content", "BBH_logical", "(B)", "none", Some(false)),
            ("content", "CONLL2003", "['a b', \"c\"]", "c", Some(true)),
            ("content", "CONLL2003", "['a b', \"c\"]", "a", Some(false)),
            ("content", "WIKIEVENTS", "a\nb", "b", Some(true)),
            ("content", "gsm_8k", "$18", "It is $5, then $18.", Some(true)),
            ("style", "oasst", "", "x", None),
        ] {
            assert_eq!(by_rule(category, source, &level(target), answer), expected, "{source} {answer}");
        }
    }
}
