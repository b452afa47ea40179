//! Arena-Hard (Li et al. 2024, arXiv 2406.11939), v0.1 and v2: hard prompts, each answer compared with a
//! baseline's in both orders. The judge's prompt is ours.
//!
//! A verdict counts 1, 0.5 or 0, one of the doubled signs three times. The score is the mean over all of them;
//! for one model against one baseline that is its Bradley-Terry win rate as well. A prompt of which one game
//! has no verdict is unscored.

use std::fmt::Write as _;

use serde_json::Value;
use truing_data::ObjectRow;
use truing_statistics::{Bootstrap, bradley_terry};
use truing_types::{SamplingOptions, Unscored};

use super::arena_style::{StyleFeatures, style_controlled};
use super::judging::answer_then_judge;
use super::measure::Aggregation;
use super::{
    Answers, Benchmark, BenchmarkError, Item, ItemScore, Measure, MetricInfo, MetricSummary, Prompt,
    Question, Request, Row, Scored, Scoring, TaskOptions,
};

/// How often a verdict with a doubled sign counts.
const DOUBLED: usize = 3;
const REPLIES: usize = 2;
const REMINDER: &str = "Your reply has no verdict in the required form. Write only one of [[A>>B]], [[A>B]], \
                        [[A=B]], [[B>A]], [[B>>A]].";
/// Draws for the interval of the style-controlled win rate.
const STYLE_DRAWS: usize = 200;

pub(super) struct ArenaHard {
    name: &'static str,
    about: &'static str,
}

pub(super) static ARENA_HARD_V01: ArenaHard = ArenaHard {
    name: "arena_hard_v0.1",
    about: "Arena-Hard v0.1: 500 hard prompts against a baseline's answers, by a judge (arXiv 2406.11939)",
};
pub(super) static ARENA_HARD_V2: ArenaHard = ArenaHard {
    name: "arena_hard_v2",
    about: "Arena-Hard v2: hard prompts and creative writing against baselines' answers, by a judge (arXiv 2406.11939)",
};

/// What a judge is asked about two answers.
#[must_use]
pub fn comparison(prompt: &str, first: &str, second: &str) -> String {
    let mut text = String::from(
        "Two assistants answered the same prompt. Decide whose answer is better.\n\n\
         First write your own answer to the prompt. Then compare both answers with it and name their \
         mistakes. Prefer the answer that is correct and does what the prompt asks; then the one that is \
         helpful, to the point and free of padding; then, where the prompt wants it, the more original one. \
         Consider what is missing in each. Neither length nor the order of the answers is a merit.\n",
    );
    for (name, content) in [("prompt", prompt), ("answer_a", first), ("answer_b", second)] {
        let _ = write!(text, "\n<{name}>\n{content}\n</{name}>\n");
    }
    text.push_str(
        "\nEnd with exactly one verdict: [[A>>B]] if answer A is much better, [[A>B]] if it is somewhat \
         better, [[A=B]] if they are about equal, [[B>A]] or [[B>>A]] if answer B is somewhat or much \
         better.",
    );
    text
}

/// Two games of an answer against a baseline's: in the first the baseline is A, in the second the model.
pub(super) fn games(prompt: &str, baseline: &str, answer: &str, options: &TaskOptions) -> [Question; 2] {
    let texts = [comparison(prompt, baseline, answer), comparison(prompt, answer, baseline)];
    let mut number = 0;
    texts.map(|text| {
        number += 1;
        let replies = options.max_judge_attempts.unwrap_or(REPLIES);
        Question::new(format!("game{number}"), text, REMINDER, replies)
    })
}

/// The label in the last double brackets of a reply, or else in the last single ones: letters A and B with
/// signs between.
pub(super) fn read_label(reply: &str) -> Option<String> {
    let upper = reply.to_uppercase();
    let is_label =
        |text: &str| !text.is_empty() && text.chars().all(|c| matches!(c, 'A' | 'B' | '<' | '>' | '='));
    let within = |open: &str, close: &str| -> Option<String> {
        let found = upper.match_indices(open).filter_map(|(start, _)| {
            let rest = &upper[start + open.len()..];
            let end = rest.find(close)?;
            is_label(&rest[..end]).then(|| rest[..end].to_owned())
        });
        found.last()
    };
    let label = within("[[", "]]").or_else(|| within("[", "]"))?;
    scores_of_label(&label).map(|_| label)
}

/// The scores of A that a label stands for.
pub(super) fn scores_of_label(label: &str) -> Option<Vec<f64>> {
    Some(match label {
        "A>B" | "B<A" => vec![1.0],
        "A>>B" | "B<<A" => vec![1.0; DOUBLED],
        "A=B" | "B=A" => vec![0.5],
        "B>A" | "A<B" => vec![0.0],
        "B>>A" | "A<<B" => vec![0.0; DOUBLED],
        _ => return None,
    })
}

/// The score of the first answer in a judge's comparison of two: 1 better, 0.5 as good, 0 worse; `None` without a
/// verdict.
#[must_use]
pub fn read_comparison(reply: &str) -> Option<f64> {
    scores_of_label(&read_label(reply)?)?.first().copied()
}

/// Scores of a model in two games: in the first the baseline is A, in the second the model.
/// The score of one response where it was shown first, and where it was shown second.
pub(super) fn both_verdicts(first: &Question, second: &Question, answers: &Answers) -> Option<[f64; 2]> {
    let score = |question: &Question| {
        let verdict =
            question.verdict(answers, |reply| scores_of_label(&read_label(reply)?)?.first().copied());
        verdict.result().ok()
    };
    Some([score(first)?, 1.0 - score(second)?])
}

fn scores_of_games(first: &[f64], second: &[f64]) -> Vec<f64> {
    second.iter().copied().chain(first.iter().map(|score| 1.0 - score)).collect()
}

fn metric() -> MetricInfo {
    MetricInfo::share("win_rate").aggregated(Aggregation::Ratio)
}

fn prompt_text(row: Row<'_>) -> Result<String, BenchmarkError> {
    if row.get("prompt").is_some() {
        return row.text("prompt").map(str::to_owned);
    }
    // The first files have turns.
    let turns = row.value("turns", "the prompt, or `prompt`")?;
    let text = turns.get(0).and_then(|turn| turn.get("content").unwrap_or(turn).as_str());
    text.map(str::to_owned).ok_or_else(|| row.bad("turns", turns, "a list of one turn with `content`"))
}

const PROMPT: &str = "prompt";
const BASELINE: &str = "baseline_answer";
const SCORES: &str = "scores";

fn scores_in(score: &ItemScore) -> Vec<f64> {
    let scores = score.details.get(SCORES).and_then(Value::as_array).into_iter().flatten();
    scores.filter_map(Value::as_f64).collect()
}

impl ArenaHard {
    fn questions(item: &Item, answer: &str, options: &TaskOptions) -> [Question; 2] {
        games(item.text(PROMPT), item.text(BASELINE), answer, options).map(|mut question| {
            question.sampling.max_new_tokens = 4096;
            question
        })
    }
}

impl Benchmark for ArenaHard {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        self.about
    }

    fn needs_judge(&self) -> bool {
        true
    }

    fn needs_baseline(&self) -> bool {
        true
    }

    fn differences(&self) -> &[&str] {
        &[
            "style control: features are scaled but not moved to mean 0, so that equal style means equal, \
             not this model's usual difference; lengths are characters unless both answers have token counts",
            "the interval is a bootstrap over prompts, not over single verdicts, at 95 %; the published \
             program resamples verdicts, 5 to 95 %",
        ]
    }

    fn metrics(&self, _: &TaskOptions) -> Vec<MetricInfo> {
        vec![metric()]
    }

    fn items(&self, rows: &[ObjectRow], options: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        let item = |row: &ObjectRow| {
            let row = Row(row);
            let id = row.name(if row.get("uid").is_some() { "uid" } else { "question_id" })?;
            let text = prompt_text(row)?;
            let Some(baseline) = options.baseline.get(&id) else {
                return Err(BenchmarkError::BadSetting {
                    setting: "baseline",
                    found: format!("without an answer to `{id}` ({})", row.origin()),
                    expected: "the baseline's answer to each item".into(),
                });
            };
            let mut item = Item::new(id, row, Prompt::user(text.clone()), String::new());
            item.add(PROMPT, text.into());
            item.add(BASELINE, baseline.as_str().into());
            for dimension in ["category", "cluster"] {
                if let Some(category) = row.optional_text(dimension)? {
                    item = item.with_category(dimension, category);
                }
            }
            Ok(item)
        };
        rows.iter().map(item).collect()
    }

    fn requests(&self, item: &Item, answers: &Answers, options: &TaskOptions) -> Vec<Request> {
        let sampling = SamplingOptions { max_new_tokens: 4096, ..SamplingOptions::default() };
        answer_then_judge(item, answers, sampling, |answer| {
            let questions = Self::questions(item, answer, options);
            questions.iter().map(|question| question.verdict(answers, read_label).request()).collect()
        })
    }

    fn score(&self, scored: &[(&Item, &Answers)], options: &TaskOptions, _: &Scoring<'_>) -> Vec<ItemScore> {
        let score = |(item, answers): &(&Item, &Answers)| {
            let mut score = ItemScore::default();
            let games = answers.text("answer").and_then(|answer| {
                let labels: Result<Vec<String>, Unscored> = Self::questions(item, answer, options)
                    .iter()
                    .map(|question| question.verdict(answers, read_label).result())
                    .collect();
                labels
            });
            let scores = games.map(|labels| {
                score.details.insert("labels".into(), labels.clone().into());
                let of = |place: usize| scores_of_label(&labels[place]).unwrap_or_default();
                scores_of_games(&of(0), &of(1))
            });
            if let Ok(scores) = &scores {
                score.details.insert(SCORES.into(), scores.clone().into());
            }
            score.set(
                &metric(),
                scores.map(|scores| Measure { value: scores.iter().sum(), weight: scores.len() as f64 }),
            );
            score
        };
        scored.iter().map(score).collect()
    }

    fn both_orders(&self, item: &Item, answers: &Answers, options: &TaskOptions) -> Vec<[f64; 2]> {
        let Ok(answer) = answers.text("answer") else { return Vec::new() };
        let [second, first] = Self::questions(item, answer, options);
        both_verdicts(&first, &second, answers).into_iter().collect()
    }

    fn further(&self, scored: &[Scored<'_>], options: &TaskOptions) -> Vec<MetricSummary> {
        let games: Vec<(StyleFeatures, StyleFeatures, Vec<f64>)> = scored
            .iter()
            .filter_map(|one| {
                let scores = scores_in(one.score);
                let answer = one.answers.text("answer").ok().filter(|_| !scores.is_empty())?;
                Some((StyleFeatures::of(answer), StyleFeatures::of(one.item.text(BASELINE)), scores))
            })
            .collect();
        let fit = |drawn: &[usize]| {
            let games: Vec<_> = drawn.iter().map(|&i| (games[i].0, games[i].1, &games[i].2[..])).collect();
            style_controlled(&games, options.mode)
        };
        let all: Vec<usize> = (0..games.len()).collect();
        let Some(found) = fit(&all) else { return Vec::new() };
        let draws = Bootstrap { n_resamples: STYLE_DRAWS, ..Bootstrap::default() };
        let statistics =
            draws.statistics(games.len(), |drawn| fit(drawn).map_or(f64::NAN, |fit| fit.win_rate));
        let metric = MetricInfo::share("win_rate_style_controlled");
        vec![MetricSummary::bootstrapped(metric, found.win_rate, &statistics, games.len())]
    }
}

/// The games of one model on one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Battle {
    /// The prompt.
    pub item: String,
    /// The model.
    pub model: String,
    /// Its scores against the baseline, a doubled verdict three times.
    pub scores: Vec<f64>,
}

/// Reads stored judgments of Arena-Hard (`uid` or `question_id`, `model`, `games` with `score`). A pair of games of
/// which one has no verdict is left out, as published; the second number says how many.
///
/// # Errors
/// When a row lacks a column or has a verdict that is not known.
pub fn battles_of_judgments(rows: &[ObjectRow]) -> Result<(Vec<Battle>, usize), BenchmarkError> {
    let mut battles = Vec::new();
    let mut n_left_out = 0;
    for row in rows {
        let row = Row(row);
        let games = row.list("games")?;
        let label = |game: &Value| -> Result<Option<Vec<f64>>, BenchmarkError> {
            match game.get("score").filter(|score| !score.is_null()) {
                None => Ok(None),
                Some(score) => match score.as_str().and_then(scores_of_label) {
                    Some(scores) => Ok(Some(scores)),
                    None => Err(row.bad("games", score, "verdicts such as `A>B` as `score`")),
                },
            }
        };
        let labels: Vec<Option<Vec<f64>>> = games.iter().map(label).collect::<Result<_, _>>()?;
        let [Some(first), Some(second)] = &labels[..] else {
            n_left_out += 1;
            continue;
        };
        let item = row.name(if row.get("uid").is_some() { "uid" } else { "question_id" })?;
        battles.push(Battle {
            item,
            model: row.text("model")?.to_owned(),
            scores: scores_of_games(first, second),
        });
    }
    Ok((battles, n_left_out))
}

/// Each model's mean score, and its Bradley-Terry win rate against the baseline (the two aggregations that were
/// published), best first.
#[must_use]
pub fn leaderboard(battles: &[Battle]) -> Vec<(String, f64, f64)> {
    let names: Vec<&String> = battles
        .iter()
        .map(|battle| &battle.model)
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    // The baseline meets everybody and is the hub.
    let place = |model: &String| names.binary_search(&model).map_or(0, |place| place + 1);
    let outcomes: Vec<bradley_terry::Outcome> = battles
        .iter()
        .flat_map(|battle| {
            let first = place(&battle.model);
            battle.scores.iter().map(move |&share| bradley_terry::Outcome { first, second: 0, share })
        })
        .collect();
    let strengths = bradley_terry::fit(names.len() + 1, 1, &outcomes, 100.0).values;
    let mut board: Vec<(String, f64, f64)> = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let scores: Vec<f64> = battles
                .iter()
                .filter(|battle| battle.model == **name)
                .flat_map(|battle| battle.scores.clone())
                .collect();
            let mean = scores.iter().sum::<f64>() / scores.len() as f64;
            ((*name).clone(), mean, 1.0 / (1.0 + (strengths[0] - strengths[i + 1]).exp()))
        })
        .collect();
    board.sort_by(|a, b| b.1.total_cmp(&a.1));
    board
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_double_brackets_count_then_the_last_single_ones() {
        for (reply, expected) in [
            ("[[A>B]] but finally [[b>>a]]", Some("B>>A")),
            ("[[A>B]] and [B>A]", Some("A>B")),
            ("My verdict is [A=B].", Some("A=B")),
            ("[[good]] [[A>>B]] [[bad]]", Some("A>>B")),
            ("[[A]]", None),
            ("A>B", None),
        ] {
            assert_eq!(read_label(reply).as_deref(), expected, "{reply}");
        }
    }

    #[test]
    fn doubled_signs_weigh_three_and_a_missing_verdict_drops_the_pair() {
        // Baseline first: A>B is a loss of the model. Model first: A>>B is a win that counts three times.
        let scores = scores_of_games(&scores_of_label("A>B").unwrap(), &scores_of_label("A>>B").unwrap());
        assert_eq!(scores, [1.0, 1.0, 1.0, 0.0]);
        let row = |text: &str| ObjectRow {
            object: serde_json::from_str(text).unwrap(),
            origin: truing_types::RowOrigin { source: "j.jsonl".into(), line: 1 },
        };
        let rows = [
            row(r#"{"uid":"1","model":"m","games":[{"score":"A>B"},{"score":"A>>B"}]}"#),
            row(r#"{"uid":"2","model":"m","games":[{"score":"A=B"},{"score":null}]}"#),
            row(r#"{"uid":"1","model":"n","games":[{"score":"A=B"},{"score":"B>A"}]}"#),
        ];
        let (battles, n_left_out) = battles_of_judgments(&rows).unwrap();
        assert_eq!((battles.len(), n_left_out), (2, 1));
        let board = leaderboard(&battles);
        assert_eq!((board[0].0.as_str(), board[0].1, board[1].1), ("m", 0.75, 0.25));
        assert!(board.iter().all(|(_, mean, win_rate)| (mean - win_rate).abs() < 1e-3), "{board:?}");
    }
}
