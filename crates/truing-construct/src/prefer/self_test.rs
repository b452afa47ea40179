//! The stage on judges whose faults are known: it has to find the right pairs with a good judge, and to see through
//! the others. The judges answer in this process, by a rule, on 24 prompts in English and Chinese, whose responses
//! are known to be good, middling and bad.
//!
//! | judge | prefers |
//! |---|---|
//! | `oracle` | the better response |
//! | `longer` | the longer response |
//! | `first`, `second` | the response that is shown first, or second |
//! | `random` | any |
//! | `broken` | nothing: its replies cannot be read, or fail |

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use serde_json::json;
use truing_ask::OpenChatModel;
use truing_ask::preference::Aspect;
use truing_run::{Ended, Recipe, RunError};
use truing_stages::StageError;
use truing_store::{Digest, atomic};
use truing_types::{ChatError, ChatModel, ChatReply, ChatRequest, EventSink};

use super::check::check_pairs;
use super::config::{JudgeKind, PreferConfig};
use super::inputs::{PreferInputs, PromptGroup};
use super::output::PairRow;
use super::plan::PreferPlan;
use super::rules::Fate;
use super::run::{self, PreferOutcome};

/// Prompts with three responses each, from the best to the worst.
const PROMPTS: &str = include_str!("self_test.jsonl");

/// A recipe for one judge. The model is never opened.
const RECIPE: &str = r#"
stage = "prefer"
repeat_share = 0.25
[[data]]
path = "prompts.jsonl"
[[judge]]
model = { server = { base_url = "http://127.0.0.1:9/v1", model = "planted" } }
"#;

/// A judge with a known fault, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlantedJudge {
    /// Prefers the longer response.
    Longer,
    /// Prefers what is shown first.
    First,
    /// Prefers what is shown second.
    Second,
    /// Prefers any.
    Random,
    /// Is always right.
    Oracle,
    /// Cannot be read.
    Broken,
}

impl PlantedJudge {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Longer => "longer",
            Self::First => "first",
            Self::Second => "second",
            Self::Random => "random",
            Self::Oracle => "oracle",
            Self::Broken => "broken",
        }
    }
}

/// Every judge with each way of asking that means something for it.
const CASES: [(PlantedJudge, JudgeKind); 12] = [
    (PlantedJudge::Longer, JudgeKind::Absolute),
    (PlantedJudge::Longer, JudgeKind::Pairwise),
    (PlantedJudge::First, JudgeKind::Pairwise),
    (PlantedJudge::Second, JudgeKind::Pairwise),
    (PlantedJudge::Random, JudgeKind::Absolute),
    (PlantedJudge::Random, JudgeKind::Pairwise),
    (PlantedJudge::Oracle, JudgeKind::Absolute),
    (PlantedJudge::Oracle, JudgeKind::Pairwise),
    (PlantedJudge::Oracle, JudgeKind::Golden),
    (PlantedJudge::Broken, JudgeKind::Absolute),
    (PlantedJudge::Broken, JudgeKind::Pairwise),
    (PlantedJudge::Broken, JudgeKind::Golden),
];

/// What the stage made of one judge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SelfTestRow {
    /// The judge.
    pub judge: PlantedJudge,
    /// How it was asked.
    pub kind: JudgeKind,
    /// Share of questions with a readable verdict.
    pub parse_rate: Option<f64>,
    /// Share of comparisons with the same verdict in both orders.
    pub order_consistency: Option<f64>,
    /// Share of repeated questions with the same verdict.
    pub self_agreement: Option<f64>,
    /// Slope of its scores over the logarithm of the length.
    pub length_slope: Option<f64>,
    /// Responses that it scored.
    pub n_scored: usize,
    /// Pairs.
    pub n_pairs: usize,
    /// Pairs that follow from the verdicts stored with them.
    pub n_agreeing: usize,
    /// Share of pairs whose chosen response is known to be the better one.
    pub accuracy: Option<f64>,
    /// What is not as it should be.
    pub failures: Vec<String>,
}

/// Runs the stage with each planted judge, below an empty folder.
///
/// # Errors
/// When the stage fails, which it should with none of them.
pub fn run(folder: &Path, events: &mut dyn EventSink) -> Result<Vec<SelfTestRow>, StageError> {
    atomic::write(&folder.join("prompts.jsonl"), PROMPTS.as_bytes())?;
    CASES.into_iter().map(|(judge, kind)| run_case(folder, judge, kind, events)).collect()
}

fn run_case(
    folder: &Path,
    judge: PlantedJudge,
    kind: JudgeKind,
    events: &mut dyn EventSink,
) -> Result<SelfTestRow, StageError> {
    let mut config = PreferConfig::from_toml(RECIPE, &folder.join("recipe.toml"), &[])?;
    for one in &mut config.judge {
        (one.name, one.kind) = (Some(judge.as_str().to_owned()), kind);
    }
    config.output_dir = folder.join(format!("{}_{kind:?}", judge.as_str()).to_lowercase());
    let inputs = PreferInputs::load(&config, events)?;
    let plan = PreferPlan::resolve(config, &inputs)?;
    let model = Planted { judge, kind, quality: Arc::new(known_quality(&inputs)) };
    let models = vec![OpenChatModel { model: Box::new(model), counts: Arc::default() }];
    let n_asked_about =
        inputs.groups.iter().filter(|group| kind != JudgeKind::Golden || group.reference("answer").is_some());
    let n_prompts = n_asked_about.count();
    match run::run(&plan, &inputs, models, &AtomicBool::new(false), events)? {
        Ended::Finished(outcome) => row(judge, kind, n_prompts, &plan, outcome),
        Ended::Interrupted { .. } => Err(StageError::Stopped),
    }
}

fn row(
    judge: PlantedJudge,
    kind: JudgeKind,
    n_prompts: usize,
    plan: &PreferPlan,
    outcome: PreferOutcome,
) -> Result<SelfTestRow, StageError> {
    let path = outcome.pairs;
    let n_agreeing = check_pairs(&path, &outcome.measured.scales(), plan.config.prior_deviation)?;
    let text = fs::read_to_string(&path).map_err(|source| RunError::Read { path: path.clone(), source })?;
    let pairs: Vec<PairRow> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let n_right = pairs.iter().filter(|pair| pair.chosen_index < pair.rejected_index).count();
    let report = outcome.measured.judges.into_iter().next();
    let mut row = SelfTestRow {
        judge,
        kind,
        parse_rate: report.as_ref().and_then(|report| report.parse_rate),
        order_consistency: report.as_ref().and_then(|report| report.order_consistency),
        self_agreement: report.as_ref().and_then(|report| report.self_agreement),
        length_slope: report.as_ref().and_then(|report| report.length_slope),
        n_scored: report.as_ref().map_or(0, |report| report.n_scored),
        n_pairs: pairs.len(),
        n_agreeing,
        accuracy: (!pairs.is_empty()).then(|| n_right as f64 / pairs.len() as f64),
        failures: Vec::new(),
    };
    let n_paired = outcome.summary.fates.get(&Fate::Paired).copied().unwrap_or(0);
    row.failures = failures(&row, n_prompts, n_paired);
    Ok(row)
}

/// What is not as it should be for a judge.
fn failures(row: &SelfTestRow, n_prompts: usize, n_paired: usize) -> Vec<String> {
    let mut expected: Vec<(&str, bool)> = vec![
        ("every pair agrees with its verdicts", row.n_agreeing == row.n_pairs),
        ("every prompt with the fate `paired` has its pair", n_paired == row.n_pairs),
    ];
    let is_pairwise = row.kind == JudgeKind::Pairwise;
    let is_readable = ("every reply can be read", row.parse_rate == Some(1.0));
    let is_steady = ("the same question has the same verdict", row.self_agreement == Some(1.0));
    let is_consistent =
        ("both orders have the same verdict", !is_pairwise || row.order_consistency == Some(1.0));
    match row.judge {
        PlantedJudge::Oracle => expected.extend([
            is_readable,
            is_steady,
            is_consistent,
            ("every prompt has a pair", row.n_pairs == n_prompts),
            ("every pair is right", row.accuracy == Some(1.0)),
        ]),
        PlantedJudge::Longer => expected.extend([
            is_readable,
            is_steady,
            is_consistent,
            ("scores grow with the length", row.length_slope.is_some_and(|slope| slope > 0.1)),
            ("its pairs are not right", row.accuracy.is_some_and(|accuracy| accuracy < 0.5)),
        ]),
        PlantedJudge::First | PlantedJudge::Second => expected.extend([
            is_readable,
            is_steady,
            ("no two orders have the same verdict", row.order_consistency == Some(0.0)),
            ("there is no pair", row.n_pairs == 0),
        ]),
        PlantedJudge::Random => {
            // A third of 72 comparisons agrees by chance, with a standard error of 0.056.
            let is_by_chance = row.order_consistency.is_some_and(|share| (0.1..0.6).contains(&share));
            let repeats_itself = row.self_agreement.is_some_and(|share| share < 0.9);
            expected.extend([
                is_readable,
                ("orders agree by chance", !is_pairwise || is_by_chance),
                ("repeated questions have other verdicts", repeats_itself),
            ]);
        }
        PlantedJudge::Broken => expected.extend([
            ("no reply can be read", row.parse_rate == Some(0.0)),
            ("no rating is in a mean", row.n_scored == 0),
            ("there is no pair", row.n_pairs == 0),
        ]),
    }
    expected.into_iter().filter(|(_, is)| !is).map(|(what, _)| format!("not so: {what}")).collect()
}

/// The place of each response in the row of its prompt, 0 the best, by prompt and text.
fn known_quality(inputs: &PreferInputs) -> BTreeMap<(String, String), usize> {
    let of_group = |group: &PromptGroup| {
        let question = group.question.clone();
        let responses = group.responses.clone().into_iter().enumerate();
        responses.map(move |(place, response)| ((question.clone(), response.text), place))
    };
    inputs.groups.iter().flat_map(of_group).collect()
}

/// A planted judge as a model that is asked.
struct Planted {
    judge: PlantedJudge,
    kind: JudgeKind,
    quality: Arc<BTreeMap<(String, String), usize>>,
}

impl ChatModel for Planted {
    fn chat(
        &self,
        request: &ChatRequest,
        _: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError> {
        let text = request.conversation.messages.first().map_or("", |message| message.content.as_str());
        let by_chance = chance(text, request.sampling.seed);
        let text = match (self.judge, self.kind) {
            (PlantedJudge::Broken, _) => unreadable(by_chance)?,
            (_, JudgeKind::Pairwise) => format!("Planted.\n[[{}]]", self.letter(text, by_chance)),
            (_, JudgeKind::Absolute) => ratings(self.rating(text, by_chance)),
            (_, JudgeKind::Golden) => {
                let rating = self.rating(text, by_chance);
                let reply = json!({"same_result": rating >= 3, "same_chain": rating == 5, "rating": rating});
                reply.to_string()
            }
        };
        Ok(ChatReply { text, ..ChatReply::default() })
    }
}

impl Planted {
    fn place(&self, question: &str, response: &str) -> usize {
        let key = (part(question, "request").to_owned(), response.to_owned());
        self.quality.get(&key).copied().unwrap_or_default()
    }

    fn letter(&self, question: &str, by_chance: u8) -> char {
        let (a, b) = (part(question, "response_a"), part(question, "response_b"));
        let length = |text: &str| text.chars().count();
        match self.judge {
            PlantedJudge::First => 'A',
            PlantedJudge::Second => 'B',
            PlantedJudge::Longer if length(a) == length(b) => 'C',
            PlantedJudge::Longer if length(a) > length(b) => 'A',
            PlantedJudge::Longer => 'B',
            PlantedJudge::Random => ['A', 'B', 'C'][usize::from(by_chance % 3)],
            PlantedJudge::Oracle | PlantedJudge::Broken => {
                if self.place(question, a) < self.place(question, b) { 'A' } else { 'B' }
            }
        }
    }

    fn rating(&self, question: &str, by_chance: u8) -> u8 {
        let response = part(question, "response");
        match self.judge {
            PlantedJudge::Longer => 1 + (response.chars().count() / 20).min(4) as u8,
            PlantedJudge::Random => 1 + by_chance % 5,
            _ => [5, 3, 1][self.place(question, response).min(2)],
        }
    }
}

/// A number from 0 to 255 that follows from a question and a seed.
fn chance(question: &str, seed: u64) -> u8 {
    Digest::of_bytes(format!("{seed} {question}").as_bytes()).as_bytes()[0]
}

/// Replies of every kind that is no verdict.
fn unreadable(kind: u8) -> Result<String, ChatError> {
    Ok(match kind % 6 {
        0 => "I would rather not say.".into(),
        1 => r#"{"helpfulness": 5, "honesty": 5, "instruction_following": 5, "truth"#.into(),
        2 => format!("{}\n{}", ratings(5), ratings(1)),
        3 => "[[Both]]".into(),
        4 => "<think>[[A]]</think>".into(),
        _ => return Err(ChatError::Failed("planted failure".into())),
    })
}

fn ratings(rating: u8) -> String {
    let ratings = Aspect::BUILT_IN.map(|aspect| format!("\"{aspect}\": {rating}"));
    format!("```json\n{{\"reason\": \"planted\", {}}}\n```", ratings.join(", "))
}

/// The text between two tags of a question.
fn part<'a>(question: &'a str, tag: &str) -> &'a str {
    let (open, close) = (format!("<{tag}>\n"), format!("\n</{tag}>"));
    let after = question.split_once(&open).map_or("", |(_, after)| after);
    after.split_once(&close).map_or("", |(inner, _)| inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_types::Silent;

    #[test]
    fn the_stage_sees_through_every_planted_judge() {
        let folder = tempfile::tempdir().unwrap();
        let rows = run(folder.path(), &mut Silent).unwrap();
        for row in &rows {
            assert!(row.failures.is_empty(), "{row:?}");
        }
        let n_pairs: usize = rows.iter().map(|row| row.n_pairs).sum();
        let n_agreeing: usize = rows.iter().map(|row| row.n_agreeing).sum();
        assert!(n_pairs >= 69 && n_agreeing == n_pairs, "{n_agreeing} of {n_pairs}");
    }

    #[test]
    fn a_row_that_is_not_as_expected_is_a_failure() {
        let good = SelfTestRow {
            judge: PlantedJudge::Oracle,
            kind: JudgeKind::Pairwise,
            parse_rate: Some(1.0),
            order_consistency: Some(1.0),
            self_agreement: Some(1.0),
            length_slope: Some(-0.2),
            n_scored: 72,
            n_pairs: 24,
            n_agreeing: 24,
            accuracy: Some(1.0),
            failures: Vec::new(),
        };
        assert!(failures(&good, 24, 24).is_empty());
        let wrong = SelfTestRow { accuracy: Some(0.9), ..good.clone() };
        assert_eq!(failures(&wrong, 24, 24), ["not so: every pair is right"]);
        let first = SelfTestRow { judge: PlantedJudge::First, ..good };
        assert_eq!(failures(&first, 24, 24).len(), 2);
    }

    #[test]
    fn the_better_response_is_not_the_longer_one() {
        for line in PROMPTS.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let length = |place: usize| row["responses"][place].as_str().unwrap().chars().count();
            assert!((1..3).any(|place| length(place) >= length(0)), "{line}");
        }
        assert_eq!(PROMPTS.lines().count(), 24);
    }
}
