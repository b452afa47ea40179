//! AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475): answers compared with a baseline's, and the win rate at
//! equal length. Rows have `instruction` and the baseline's `output`; `instruction_difficulty`, where the row
//! has it, is a feature too.

use serde_json::Value;
use truing_data::ObjectRow;
use truing_statistics::{Bootstrap, Observation, fit_logistic};
use truing_types::{SamplingOptions, Unscored};

use super::arena_hard::{both_verdicts, games, read_label, scores_of_label};
use super::judging::answer_then_judge;
use super::{
    Answers, Benchmark, BenchmarkError, Item, ItemScore, MetricInfo, MetricSummary, Prompt, Question,
    Request, Row, Scored, Scoring, TaskOptions,
};

const DRAWS: usize = 200;

pub(super) struct AlpacaEval;

fn metric() -> MetricInfo {
    MetricInfo::share("win_rate")
}

/// A comparison: the preference for the model, and what the regression reads.
struct Game {
    preference: f64,
    /// Characters of the model's answer less those of the baseline's.
    length_difference: f64,
    difficulty: Option<f64>,
}

/// The win rate if both answers were of one length: the preference is regressed on tanh of the length
/// difference (in deviations), the difficulty where it is known, and a constant; then the mean is taken with
/// the length difference at 0.
fn length_controlled(games: &[&Game]) -> Option<f64> {
    let lengths: Vec<f64> = games.iter().map(|game| game.length_difference).collect();
    let (_, deviation) = truing_statistics::mean_and_sample_deviation(&lengths)?;
    let with_difficulty = games.iter().all(|game| game.difficulty.is_some());
    let is_even = deviation <= 0.0;
    let features = |game: &Game, length: f64| {
        let mut features = vec![1.0];
        if !is_even {
            features.push((length / deviation).tanh());
        }
        if with_difficulty {
            features.extend(game.difficulty);
        }
        features
    };
    let observations: Vec<Observation> = games
        .iter()
        .map(|game| Observation {
            share: game.preference,
            weight: 1.0,
            features: features(game, game.length_difference),
        })
        .collect();
    let n_features = observations.first()?.features.len();
    let fit = fit_logistic(&observations, &vec![0.0; n_features])?;
    let at_equal_length = games.iter().map(|game| {
        let x: f64 = features(game, 0.0)
            .iter()
            .zip(&fit.coefficients)
            .map(|(one, coefficient)| one * coefficient)
            .sum();
        1.0 / (1.0 + (-x).exp())
    });
    Some(at_equal_length.sum::<f64>() / games.len() as f64)
}

impl AlpacaEval {
    fn questions(item: &Item, answer: &str, options: &TaskOptions) -> [Question; 2] {
        games(item.text("instruction"), item.text("output"), answer, options)
    }
}

impl Benchmark for AlpacaEval {
    fn name(&self) -> &str {
        "alpaca_eval"
    }

    fn about(&self) -> &str {
        "AlpacaEval 2: instructions against a baseline's answers, length-controlled (arXiv 2404.04475)"
    }

    fn needs_judge(&self) -> bool {
        true
    }

    fn differences(&self) -> &[&str] {
        &[
            "the preference is the mean of verdicts in both orders; the published one is the judge's token \
             probability in one random order",
            "the length control is fitted on this model's comparisons alone, without penalty; the published \
             one has an L1 penalty chosen by cross-validation and two further baselines",
        ]
    }

    fn metrics(&self, _: &TaskOptions) -> Vec<MetricInfo> {
        vec![metric()]
    }

    fn items(&self, rows: &[ObjectRow], _: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        let item = |row: &ObjectRow| {
            let row = Row(row);
            row.text("output")?;
            let prompt = Prompt::user(row.text("instruction")?);
            let mut item = Item::new(row.name_or_line(&["index", "id"])?, row, prompt, String::new());
            if let Some(set) = row.optional_text("dataset")? {
                item = item.with_category("dataset", set);
            }
            Ok(item)
        };
        rows.iter().map(item).collect()
    }

    fn requests(&self, item: &Item, answers: &Answers, options: &TaskOptions) -> Vec<Request> {
        let sampling = SamplingOptions { max_new_tokens: 2048, ..SamplingOptions::default() };
        answer_then_judge(item, answers, sampling, |answer| {
            let questions = Self::questions(item, answer, options);
            questions.iter().map(|question| question.verdict(answers, read_label).request()).collect()
        })
    }

    fn score(&self, scored: &[(&Item, &Answers)], options: &TaskOptions, _: &Scoring<'_>) -> Vec<ItemScore> {
        let score = |(item, answers): &(&Item, &Answers)| {
            let mut score = ItemScore::default();
            let preference = answers.text("answer").and_then(|answer| {
                let [first, second] = Self::questions(item, answer, options);
                let read = |question: &Question| -> Result<f64, Unscored> {
                    let label = question.verdict(answers, read_label).result()?;
                    Ok(scores_of_label(&label).and_then(|scores| scores.first().copied()).unwrap_or(0.5))
                };
                Ok(f64::midpoint(1.0 - read(&first)?, read(&second)?))
            });
            score.set(&metric(), preference);
            score
        };
        scored.iter().map(score).collect()
    }

    fn both_orders(&self, item: &Item, answers: &Answers, options: &TaskOptions) -> Vec<[f64; 2]> {
        let Ok(answer) = answers.text("answer") else { return Vec::new() };
        let [second, first] = Self::questions(item, answer, options);
        both_verdicts(&first, &second, answers).into_iter().collect()
    }

    fn further(&self, scored: &[Scored<'_>], _: &TaskOptions) -> Vec<MetricSummary> {
        let games: Vec<Game> = scored
            .iter()
            .filter_map(|one| {
                let preference = one.score.measures.get(&metric().key())?.as_ref().ok()?.value;
                let length = |text: &str| text.chars().count() as f64;
                let length_difference =
                    length(one.answers.text("answer").ok()?) - length(one.item.text("output"));
                let difficulty = one.item.row.get("instruction_difficulty").and_then(Value::as_f64);
                Some(Game { preference, length_difference, difficulty })
            })
            .collect();
        let all: Vec<&Game> = games.iter().collect();
        let Some(value) = length_controlled(&all) else { return Vec::new() };
        let draws = Bootstrap { n_resamples: DRAWS, ..Bootstrap::default() };
        let statistics = draws.statistics(games.len(), |drawn| {
            let drawn: Vec<&Game> = drawn.iter().map(|&i| &games[i]).collect();
            length_controlled(&drawn).unwrap_or(f64::NAN)
        });
        let metric = MetricInfo::share("win_rate_length_controlled");
        vec![MetricSummary::bootstrapped(metric, value, &statistics, games.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_for_length_is_taken_out() {
        let games: Vec<Game> = (0..200)
            .map(|i| {
                let is_longer = i % 4 != 0;
                let prefers_longer = (i / 4) % 5 != 0;
                Game {
                    preference: f64::from(u8::from(is_longer == prefers_longer)),
                    length_difference: if is_longer { 500.0 } else { -500.0 },
                    difficulty: None,
                }
            })
            .collect();
        let raw = games.iter().map(|game| game.preference).sum::<f64>() / 200.0;
        let all: Vec<&Game> = games.iter().collect();
        let controlled = length_controlled(&all).unwrap();
        assert!(raw > 0.63 && (controlled - 0.5).abs() < 0.02, "{raw} {controlled}");
        // Without a difference of length it is the mean.
        let even: Vec<Game> = (0..10)
            .map(|i| Game {
                preference: f64::from(u8::from(i < 7)),
                length_difference: 3.0,
                difficulty: None,
            })
            .collect();
        let even: Vec<&Game> = even.iter().collect();
        assert!((length_controlled(&even).unwrap() - 0.7).abs() < 1e-9);
    }
}
