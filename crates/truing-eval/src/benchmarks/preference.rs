//! Which of two responses is better, where people have said it: LLMBar (Zeng et al. 2023, arXiv 2310.07641) and
//! RewardBench (Lambert et al. 2024, arXiv 2403.13787; best of four as in its second version), for judges and
//! for reward models.
//!
//! A judge is asked in both orders: `acc` is the mean over them, `consistency` the share of items with the same
//! answer in both. A reward model is right if the best chosen response has more than every rejected one.

use serde_json::Value;
use truing_data::ObjectRow;
use truing_types::Unscored;

use super::arena_hard::{both_verdicts, comparison, read_label, scores_of_label};
use super::{
    Answers, Ask, Benchmark, BenchmarkError, Item, ItemScore, MetricInfo, Prompt, Question, Recipient,
    Request, Row, Scoring, TaskOptions, Verdict,
};

const REPLIES: usize = 2;
const REMINDER: &str = "Your reply has no verdict in the required form. Write only one of [[A>>B]], [[A>B]], \
                        [[A=B]], [[B>A]], [[B>>A]].";

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Judge,
    Reward,
}

pub(super) struct Preferences {
    name: &'static str,
    about: &'static str,
    by: By,
}

pub(super) static LLMBAR: Preferences = Preferences {
    name: "llmbar",
    about: "LLMBar: which output follows the instruction, decided by a judge in both orders (arXiv 2310.07641)",
    by: By::Judge,
};
pub(super) static REWARD_BENCH: Preferences = Preferences {
    name: "reward_bench",
    about: "RewardBench: which response is better, decided by a judge in both orders (arXiv 2403.13787)",
    by: By::Judge,
};
pub(super) static REWARD_MODEL: Preferences = Preferences {
    name: "reward_model",
    about: "LLMBar and RewardBench for a reward model: the better response has the larger reward",
    by: By::Reward,
};

/// A prompt with better and worse responses.
struct Pair {
    prompt: String,
    chosen: Vec<String>,
    rejected: Vec<String>,
}

fn one_or_many(row: Row<'_>, column: &str) -> Result<Vec<String>, BenchmarkError> {
    let value = row.value(column, "a response or a list of them")?;
    match value {
        Value::String(text) => Ok(vec![text.clone()]),
        _ => Ok(row.texts(column)?.into_iter().map(str::to_owned).collect()),
    }
}

fn pair(row: Row<'_>) -> Result<Pair, BenchmarkError> {
    if row.get("chosen").is_some() {
        let prompt = row.text("prompt")?.to_owned();
        return Ok(Pair {
            prompt,
            chosen: one_or_many(row, "chosen")?,
            rejected: one_or_many(row, "rejected")?,
        });
    }
    let outputs = [row.text("output_1")?.to_owned(), row.text("output_2")?.to_owned()];
    let [first, second] = outputs;
    let label = row.count("label")?;
    let (chosen, rejected) = match label {
        1 => (first, second),
        2 => (second, first),
        _ => return Err(row.bad("label", &Value::from(label), "1 or 2")),
    };
    Ok(Pair { prompt: row.text("input")?.to_owned(), chosen: vec![chosen], rejected: vec![rejected] })
}

fn texts(item: &Item, column: &str) -> Vec<String> {
    let list = item.row.get(column).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

const CHOSEN: &str = "chosen";
const REJECTED: &str = "rejected";

impl Preferences {
    /// For each pair of a chosen and a rejected response the two orders, the chosen one first and second.
    fn questions(item: &Item, options: &TaskOptions) -> Vec<[Question; 2]> {
        let (chosen, rejected) = (texts(item, CHOSEN), texts(item, REJECTED));
        let prompt = item.prompt.shown();
        let pairs = chosen.iter().flat_map(|better| rejected.iter().map(move |worse| (better, worse)));
        pairs
            .enumerate()
            .map(|(pair, (better, worse))| {
                let mut order = 0;
                [comparison(&prompt, better, worse), comparison(&prompt, worse, better)].map(|text| {
                    order += 1;
                    let replies = options.max_judge_attempts.unwrap_or(REPLIES);
                    Question::new(format!("pair{pair}/order{order}"), text, REMINDER, replies)
                })
            })
            .collect()
    }
}

fn verdict(question: &Question, answers: &Answers) -> Verdict<f64> {
    question.verdict(answers, |reply| scores_of_label(&read_label(reply)?)?.first().copied())
}

impl Benchmark for Preferences {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        self.about
    }

    fn needs_judge(&self) -> bool {
        self.by == By::Judge
    }

    fn metrics(&self, _: &TaskOptions) -> Vec<MetricInfo> {
        match self.by {
            By::Judge => ["acc", "consistency", "ties"].map(MetricInfo::share).into(),
            By::Reward => vec![MetricInfo::share("acc")],
        }
    }

    fn items(&self, rows: &[ObjectRow], _: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        let item = |row: &ObjectRow| {
            let row = Row(row);
            let Pair { prompt, chosen, rejected } = pair(row)?;
            // Files of several sets are numbered anew.
            let stem = std::path::Path::new(&*row.origin().source)
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let id = format!("{stem}/{}", row.name_or_line(&["id"])?);
            let mut item = Item::new(id, row, Prompt::user(prompt), String::new());
            let subset = row.optional_text("subset")?.map_or(stem, str::to_owned);
            item.add(CHOSEN, chosen.into());
            item.add(REJECTED, rejected.into());
            Ok(item.with_category("subset", subset))
        };
        rows.iter().map(item).collect()
    }

    fn requests(&self, item: &Item, answers: &Answers, options: &TaskOptions) -> Vec<Request> {
        if self.by == By::Judge {
            let questions = Self::questions(item, options);
            return questions
                .iter()
                .flatten()
                .filter_map(|question| verdict(question, answers).request())
                .collect();
        }
        let responses: Vec<String> = [texts(item, CHOSEN), texts(item, REJECTED)].concat();
        let ask = Ask::Reward { prompt: item.prompt.conversation(false), responses };
        vec![Request { id: "rewards".into(), to: Recipient::Model, ask }]
    }

    fn both_orders(&self, item: &Item, answers: &Answers, options: &TaskOptions) -> Vec<[f64; 2]> {
        if self.by == By::Reward {
            return Vec::new();
        }
        let questions = Self::questions(item, options);
        questions.iter().filter_map(|[first, second]| both_verdicts(first, second, answers)).collect()
    }

    fn score(&self, scored: &[(&Item, &Answers)], options: &TaskOptions, _: &Scoring<'_>) -> Vec<ItemScore> {
        let infos = self.metrics(options);
        let score = |(item, answers): &(&Item, &Answers)| {
            let mut score = ItemScore::default();
            if self.by == By::Reward {
                let (n_chosen, n) =
                    (texts(item, CHOSEN).len(), texts(item, CHOSEN).len() + texts(item, REJECTED).len());
                let is_right = answers.rewards("rewards", n).map(|rewards| {
                    let best = |rewards: &[f64]| rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    best(&rewards[..n_chosen]) > best(&rewards[n_chosen..])
                });
                score.set(&infos[0], is_right);
                return score;
            }
            // The chosen response's score in each pair and order.
            let found: Result<Vec<[f64; 2]>, Unscored> = Self::questions(item, options)
                .iter()
                .map(|[first, second]| {
                    Ok([verdict(first, answers).result()?, 1.0 - verdict(second, answers).result()?])
                })
                .collect();
            let mean = |of: &dyn Fn(&[f64; 2]) -> f64| {
                found
                    .as_ref()
                    .map_err(Clone::clone)
                    .map(|found| found.iter().map(of).sum::<f64>() / found.len() as f64)
            };
            score.set(&infos[0], mean(&|[first, second]| f64::midpoint(*first, *second)));
            score.set(&infos[1], mean(&|[first, second]| f64::from(u8::from(first == second))));
            score.set(&infos[2], mean(&|both| both.iter().filter(|one| **one == 0.5).count() as f64 / 2.0));
            score
        };
        scored.iter().map(score).collect()
    }
}
