//! The work: ask judge by judge, bucket by bucket; add up; write scores and summary.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use truing_ask::judged_folder;
use truing_ask::judging::{JudgeSession, NOT_ASKED, RetryPolicy, ask_each, main_reason, reason};
use truing_ask::quality::{
    Compared, Comparison, Dimension, Pair, PromptScore, Summary, Verdict, read_verdicts, reminder,
};
use truing_reward::asking::NoAnswer;
use truing_run::rows::write_lines;
use truing_run::{Ended, Recipe, write_skipped};
use truing_store::atomic;
use truing_types::{ChatModel, ChatRequest, Event};

use super::config::QualityJudge;
use super::plan::{QualityInputs, QualityPlan};
use crate::{RunContext, StageError};

/// Comparisons that are put together at a time.
const COMPARISONS_OF_A_CHUNK: usize = 128;

/// What a finished run leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct QualityOutcome {
    /// One JSON object a prompt, in the order of the files.
    pub scores: PathBuf,
    /// The run in numbers, also in `summary.json`.
    pub summary: Summary,
}

/// Asks `judges`, in the recipe's order, and writes `scores.jsonl`, `summary.json`, `recipe.resolved.toml`
/// and `inputs.json`. The folder of a run with the same recipe and inputs is used again.
///
/// # Errors
/// When the folder is in use or of a run with another recipe or inputs, a judge refuses everything, none gives a single
/// verdict, or the disk fails.
pub(super) fn run(
    plan: &QualityPlan,
    inputs: &QualityInputs,
    context: RunContext<'_>,
) -> Result<Ended<QualityOutcome>, StageError> {
    let RunContext { events, stop, chat_models: judges, .. } = context;
    let config = &plan.config;
    let folder = &config.output_dir;
    let record = plan.record(inputs)?;
    let run = judged_folder::open(folder, config, &record, events)?;
    write_skipped(folder, &inputs.report.skipped, events)?;
    let mut comparisons = Vec::new();
    let names: Vec<String> = config.judge.iter().map(QualityJudge::name).collect();
    let retries = RetryPolicy {
        max_attempts: config.max_attempts,
        max_failures_in_a_row: config.max_failures_in_a_row,
    };
    let n_calls = vec![plan.n_calls / names.len().max(1) as u64; names.len()];
    let asked = ask_each(&judges, &names, &n_calls, retries, events, |judge, model, session| {
        let mut asking = Asking { plan, inputs, judge, session };
        let mut unscored = BTreeMap::new();
        asking.ask_all(model, stop, &mut comparisons, &mut unscored).then_some(unscored)
    })?;
    let Some(unscored) = asked else { return Ok(Ended::STOPPED) };
    if !comparisons.iter().any(|comparison| comparison.pairs.iter().any(Option::is_some)) {
        let reasons = unscored.iter().map(main_reason);
        let reason = reasons.into_iter().find(|reason| !reason.is_empty()).unwrap_or_default().to_owned();
        return Err(StageError::NoVerdicts { n_judges: config.judge.len(), reason });
    }
    let compared = Compared {
        prompts: &inputs.prompts,
        buckets: &plan.buckets,
        dimensions: &config.dimensions,
        judges: &names,
        n_anchors: config.n_anchors,
        prior_deviation: config.prior_deviation,
    };
    let (scores, summary) = compared.aggregate(&comparisons, unscored);
    // What may differ between a run and its continuation is recorded as it was for these scores.
    run.write_inputs(&record)?;
    run.write_recipe(&config.to_toml())?;
    let path = folder.join(crate::files::SCORES);
    write_lines(&path, &scores.iter().map(PromptScore::to_row).collect::<Vec<_>>())?;
    atomic::write_json(&folder.join(crate::files::SUMMARY), &summary)?;
    summary.warnings.iter().for_each(|warning| events.emit(Event::Warning(warning.clone())));
    events.emit(Event::Saved { what: "scores".into(), path: path.clone() });
    Ok(Ended::Finished(QualityOutcome { scores: path, summary }))
}

/// One judge at work.
struct Asking<'a, 'w, 'e> {
    plan: &'a QualityPlan,
    inputs: &'a QualityInputs,
    judge: usize,
    session: &'w mut JudgeSession<'e>,
}

/// One call: a comparison, a part of the dimensions, an order.
struct Call {
    comparison: usize,
    dimensions: Vec<Dimension>,
    anchor_first: bool,
}

impl Asking<'_, '_, '_> {
    /// Asks everything of one judge; false when the run is to stop. A judge that keeps failing is asked no more.
    fn ask_all(
        &mut self,
        model: &dyn ChatModel,
        stop: &AtomicBool,
        comparisons: &mut Vec<Comparison>,
        unscored: &mut BTreeMap<String, usize>,
    ) -> bool {
        let n_dimensions = self.plan.config.dimensions.len();
        for (bucket_idx, bucket) in self.plan.buckets.iter().enumerate() {
            let pairs: Vec<(usize, usize)> = bucket.pairs().collect();
            for chunk in pairs.chunks(COMPARISONS_OF_A_CHUNK) {
                if self.session.is_given_up() {
                    *unscored.entry(NOT_ASKED.into()).or_default() += chunk.len() * n_dimensions;
                    continue;
                }
                let found = self.ask_chunk(model, bucket_idx, chunk, unscored);
                for comparison in &found {
                    self.session.was_read(comparison.pairs.iter().any(Option::is_some));
                }
                comparisons.extend(found);
                if stop.load(Ordering::Relaxed) || self.session.is_refused() {
                    return false;
                }
            }
        }
        true
    }

    fn ask_chunk(
        &mut self,
        model: &dyn ChatModel,
        bucket_idx: usize,
        pairs: &[(usize, usize)],
        unscored: &mut BTreeMap<String, usize>,
    ) -> Vec<Comparison> {
        let (calls, requests) = self.questions(bucket_idx, pairs);
        let reminder = reminder(&self.plan.config.dimensions);
        let read = |idx: usize, reply: &str| read_verdicts(reply, &calls[idx].dimensions);
        let answers = self.session.ask(model, requests, &reminder, read);
        self.put_together(bucket_idx, pairs, &calls, answers, unscored)
    }

    /// The calls of some comparisons with their requests.
    fn questions(&self, bucket_idx: usize, pairs: &[(usize, usize)]) -> (Vec<Call>, Vec<ChatRequest>) {
        let form = self.plan.config.form();
        let bucket = &self.plan.buckets[bucket_idx];
        let text = |member: usize| self.inputs.prompts[bucket.members[member]].text.as_str();
        let (mut calls, mut requests) = (Vec::new(), Vec::new());
        for (comparison, &(sample, anchor)) in pairs.iter().enumerate() {
            for dimensions in form.calls() {
                for anchor_first in [false, true] {
                    let (first, second) = if anchor_first { (anchor, sample) } else { (sample, anchor) };
                    requests.push(form.request(&dimensions, text(first), text(second)));
                    calls.push(Call { comparison, dimensions: dimensions.clone(), anchor_first });
                }
            }
        }
        (calls, requests)
    }

    fn put_together(
        &self,
        bucket: usize,
        pairs: &[(usize, usize)],
        calls: &[Call],
        answers: Vec<Result<Vec<Verdict>, NoAnswer>>,
        unscored: &mut BTreeMap<String, usize>,
    ) -> Vec<Comparison> {
        let dimensions = &self.plan.config.dimensions;
        let mut verdicts = vec![vec![[None; 2]; dimensions.len()]; pairs.len()];
        let mut reasons: Vec<Vec<Option<String>>> = vec![vec![None; dimensions.len()]; pairs.len()];
        for (call, answer) in calls.iter().zip(answers) {
            for (i, dimension) in call.dimensions.iter().enumerate() {
                let Some(idx) = dimensions.iter().position(|known| known == dimension) else { continue };
                match &answer {
                    Ok(found) => {
                        let seen = if call.anchor_first { found[i].swapped() } else { found[i] };
                        verdicts[call.comparison][idx][usize::from(call.anchor_first)] = Some(seen);
                    }
                    Err(error) => reasons[call.comparison][idx] = Some(reason(error, "a verdict")),
                }
            }
        }
        let pair = |both: &[Option<Verdict>; 2]| {
            let [sample_first, anchor_first] = *both;
            Some(Pair { sample_first: sample_first?, anchor_first: anchor_first? })
        };
        for reason in reasons.into_iter().flatten().flatten() {
            *unscored.entry(reason).or_default() += 1;
        }
        let comparisons = pairs.iter().zip(&verdicts).map(|(&(sample, anchor), verdicts)| Comparison {
            judge: self.judge,
            bucket,
            sample,
            anchor,
            pairs: verdicts.iter().map(pair).collect(),
        });
        comparisons.collect()
    }
}
