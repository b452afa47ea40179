//! The work: ask judge by judge; add up votes; write labels, what is in doubt, what has none, and the summary.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use truing_ask::judged_folder;
use truing_ask::judging::{JudgeSession, NOT_ASKED, RetryPolicy, ask_each, main_reason, reason};
use truing_ask::labels::{
    self, Answers, JudgeCounts, LabelReader, LabelledPrompt, Labelling, ParsedLabels, Question,
    ReviewedPrompt, Summary, SummaryOptions, label_set_toml,
};
use truing_prompts::labels::Ballot;
use truing_reward::asking::NoAnswer;
use truing_run::rows::write_lines;
use truing_run::{Ended, Recipe, RunError, write_skipped};
use truing_store::atomic;
use truing_types::{ChatModel, ChatRequest, Event};

use super::config::LabelConfig;
use super::plan::{LabelInputs, LabelPlan};
use crate::{RunContext, StageError};

/// Questions that are asked at a time.
const QUESTIONS_OF_A_CHUNK: usize = 64;

/// What a finished run leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelOutcome {
    /// One [`LabelledPrompt`] a line, in the order of the files.
    pub labels: PathBuf,
    /// The run in numbers, also in `summary.json`.
    pub summary: Box<Summary>,
}

/// Asks `judges`, in the recipe's order, and writes `labels.jsonl`, `review.jsonl`, `unlabelled.jsonl`, `summary.json`,
/// `label_set.toml`, `recipe.resolved.toml` and `inputs.json`. The folder of a run with the same recipe and inputs is
/// used again.
///
/// # Errors
/// When the folder is in use or of a run with another recipe or inputs, a judge refuses everything, no prompt has a
/// label in the end, or the disk fails.
pub(super) fn run(
    plan: &LabelPlan,
    inputs: &LabelInputs,
    context: RunContext<'_>,
) -> Result<Ended<LabelOutcome>, StageError> {
    let RunContext { events, stop, chat_models: judges, .. } = context;
    let config = &plan.config;
    let folder = &config.output_dir;
    let write_error = |source| RunError::Write { path: folder.clone(), source };
    let record = plan.record(inputs)?;
    let run = judged_folder::open(folder, config, &record, events)?;
    let set = label_set_toml(&inputs.set).map_err(|error| write_error(std::io::Error::other(error)))?;
    atomic::write(&folder.join("label_set.toml"), set.as_bytes())?;
    write_skipped(folder, &inputs.report.skipped, events)?;
    let reader = LabelReader::new(&inputs.set)?;
    let mut answers = Answers::new(&inputs.set, inputs.prompts.len());
    let judged_by: Vec<(String, f64)> =
        config.judge.iter().map(|judge| (judge.name(), judge.weight)).collect();
    let names: Vec<String> = judged_by.iter().map(|(name, _)| name.clone()).collect();
    let retries = RetryPolicy {
        max_attempts: config.max_attempts,
        max_failures_in_a_row: config.max_failures_in_a_row,
    };
    let n_calls = vec![plan.n_calls / names.len().max(1) as u64; names.len()];
    let asked = ask_each(&judges, &names, &n_calls, retries, events, |judge, model, session| {
        let asking = Asking { plan, inputs, reader: &reader, judge, session };
        asking.ask_all(model, stop, &mut answers)
    })?;
    let Some(counts) = asked else { return Ok(Ended::STOPPED) };
    answers.judges = counts;
    let labelling = Labelling {
        set: &inputs.set,
        prompts: &inputs.prompts,
        dimensions: &plan.dimensions,
        judges: &judged_by,
    };
    let rows = labelling.assign(&answers);
    if rows.iter().all(|row| row.labels.is_empty()) {
        let failed = answers.judges.iter().map(|judge| main_reason(&judge.failures));
        let reason = failed.into_iter().find(|reason| !reason.is_empty()).map(str::to_owned);
        // Replies that could be read and name nothing of the set are no failures.
        let reason = reason.unwrap_or_else(|| {
            let mut why: BTreeMap<String, usize> = BTreeMap::new();
            rows.iter().flat_map(|row| row.unlabelled.values()).for_each(|reason| {
                *why.entry(reason.clone()).or_default() += 1;
            });
            main_reason(&why).to_owned()
        });
        return Err(StageError::NoVerdicts { n_judges: config.judge.len(), reason });
    }
    let options = SummaryOptions {
        min_confidence: config.min_confidence,
        min_count: config.min_count,
        compare: config.compare,
        per_dimension: config.per_dimension,
        n_cut: plan.n_cut,
    };
    let mut summary = labelling.summarise(&answers, &rows, &options);
    summary.warnings.extend(plan.warnings(inputs));
    // What may differ between a run and its continuation is recorded as it was for these labels.
    run.write_inputs(&record)?;
    run.write_recipe(&config.to_toml())?;
    write(config, &rows, &summary)?;
    summary.warnings.iter().for_each(|warning| events.emit(Event::Warning(warning.clone())));
    let labels = folder.join(LabelledPrompt::FILE_NAME);
    events.emit(Event::Saved { what: "labels".into(), path: labels.clone() });
    Ok(Ended::Finished(LabelOutcome { labels, summary: Box::new(summary) }))
}

fn write(config: &LabelConfig, rows: &[LabelledPrompt], summary: &Summary) -> Result<(), StageError> {
    let folder = &config.output_dir;
    let unlabelled = rows.iter().filter(|row| !row.unlabelled.is_empty()).map(LabelledPrompt::to_row);
    let unlabelled: Vec<_> = unlabelled.collect::<Result<_, _>>()?;
    write_lines(&folder.join(crate::files::REVIEW), &ReviewedPrompt::in_doubt(rows, config.min_confidence)?)?;
    write_lines(&folder.join(crate::files::UNLABELLED), &unlabelled)?;
    let labelled: Vec<_> = rows.iter().map(LabelledPrompt::to_row).collect::<Result<_, _>>()?;
    write_lines(&folder.join(LabelledPrompt::FILE_NAME), &labelled)?;
    Ok(atomic::write_json(&folder.join(crate::files::SUMMARY), summary)?)
}

/// One judge at work.
struct Asking<'a, 'w, 'e> {
    plan: &'a LabelPlan,
    inputs: &'a LabelInputs,
    reader: &'a LabelReader<'a>,
    judge: usize,
    session: &'w mut JudgeSession<'e>,
}

impl Asking<'_, '_, '_> {
    /// Asks everything of one judge; `None` when the run is to stop. A judge that keeps failing is asked no more.
    fn ask_all(
        mut self,
        model: &dyn ChatModel,
        stop: &AtomicBool,
        answers: &mut Answers,
    ) -> Option<JudgeCounts> {
        let mut counts = JudgeCounts::default();
        let alike = self.plan.questions.chunk_by(|one, other| one.dimensions == other.dimensions);
        for questions in alike.flat_map(|alike| alike.chunks(QUESTIONS_OF_A_CHUNK)) {
            if self.session.is_given_up() {
                self.pass_over(questions, answers, &mut counts);
                continue;
            }
            self.ask_chunk(model, questions, answers, &mut counts);
            if stop.load(Ordering::Relaxed) || self.session.is_refused() {
                return None;
            }
        }
        Some(counts)
    }

    fn pass_over(&self, questions: &[Question], answers: &mut Answers, counts: &mut JudgeCounts) {
        *counts.failures.entry(NOT_ASKED.into()).or_default() += questions.len() * self.plan.config.n_votes;
        for question in questions {
            for &dimension in &question.dimensions {
                answers.has_problem(question.prompt, dimension, self.judge, NOT_ASKED.into());
            }
        }
    }

    /// Asks questions about the same dimensions.
    fn ask_chunk(
        &mut self,
        model: &dyn ChatModel,
        questions: &[Question],
        answers: &mut Answers,
        counts: &mut JudgeCounts,
    ) {
        let Some(Question { dimensions, .. }) = questions.first() else { return };
        let n_votes = self.plan.config.n_votes;
        let reminder = labels::reminder(&self.inputs.set, dimensions);
        let reader = self.reader;
        let read = |_: usize, reply: &str| reader.read(reply, dimensions);
        let replies = self.session.ask(model, self.requests(questions), &reminder, read);
        for (idx, reply) in replies.into_iter().enumerate() {
            self.session.was_read(!reply.as_ref().is_err_and(NoAnswer::is_unread));
            self.take(&questions[idx / n_votes], reply, answers, counts);
        }
    }

    /// Every vote of every question.
    fn requests(&self, questions: &[Question]) -> Vec<ChatRequest> {
        let form = self.plan.config.form();
        let votes = |question: &Question| {
            let prompt = &self.inputs.prompts[question.prompt].text;
            let text = form.text(&self.inputs.set, &question.dimensions, prompt);
            (0..form.n_votes).map(|vote| form.request(text.clone(), vote)).collect::<Vec<_>>()
        };
        questions.iter().flat_map(votes).collect()
    }

    /// A reply that names no label of a dimension is a ballot without one; a judge that failed, or whose reply was cut,
    /// has no ballot.
    fn take(
        &self,
        question: &Question,
        reply: Result<Vec<ParsedLabels>, NoAnswer>,
        answers: &mut Answers,
        counts: &mut JudgeCounts,
    ) {
        let judge_weight = self.plan.config.judge[self.judge].weight;
        let said = match reply {
            Ok(said) => {
                counts.n_replies += 1;
                said
            }
            Err(error) => {
                let reason = reason(&error, "labels");
                *counts.failures.entry(reason.clone()).or_default() += 1;
                let is_ballot = matches!(error, NoAnswer::Unreadable { .. });
                for &dimension in &question.dimensions {
                    answers.has_problem(question.prompt, dimension, self.judge, reason.clone());
                    if is_ballot {
                        let ballot = Ballot { judge_weight, labels: Vec::new() };
                        answers.add(question.prompt, dimension, self.judge, ballot);
                    }
                }
                return;
            }
        };
        for (said, &dimension) in said.into_iter().zip(&question.dimensions) {
            counts.n_without_label += usize::from(said.labels.is_empty());
            counts.n_unknown_labels += said.unknown.len();
            if said.labels.is_empty() {
                let problem = match said.unknown.first() {
                    Some(text) => format!("`{text}` is not a label"),
                    None => "a reply without this dimension".into(),
                };
                answers.has_problem(question.prompt, dimension, self.judge, problem);
            }
            answers.add_unknown(dimension, said.unknown);
            answers.add(question.prompt, dimension, self.judge, Ballot { judge_weight, labels: said.labels });
        }
    }
}
