//! What is asked, and what it costs at most.

use std::path::Path;

use truing_ask::judged_folder::JudgedInputs;
use truing_ask::judging::BYTES_PER_TOKEN;
use truing_run::RunError;
use truing_stages::{StageError, StagePlan};
use truing_store::RunInputs;
use truing_train::{Amount, PlanRow};

use super::builder::{BuilderInfo, Job, PlannedCalls};
use super::config::BuildConfig;
use super::inputs::BuildInputs;

/// A run as it will be.
#[derive(Debug)]
pub struct BuildPlan {
    /// The settings.
    pub config: BuildConfig,
    /// The builder.
    pub builder: &'static BuilderInfo,
    /// What the builder does with these seed rows.
    pub job: Box<dyn Job>,
    /// Units that models are asked about.
    pub n_begun: usize,
    /// The calls, step by step.
    pub calls: Vec<PlannedCalls>,
    /// Tokens of all prompts at most, estimated at four bytes each.
    pub prompt_tokens: u64,
    /// Tokens of all replies at most.
    pub completion_tokens: u64,
}

impl BuildPlan {
    /// Versions, seed and digests of all files.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn record(&self, inputs: &BuildInputs) -> Result<RunInputs, StageError> {
        let config = &self.config;
        let evaluations =
            inputs.evaluation_report.files.iter().map(|file| ("evaluation", Path::new(&**file)));
        let points = config.mathematics.as_ref().and_then(|one| one.knowledge_points.as_deref());
        let record = JudgedInputs {
            stage: config.stage,
            seed: config.seed,
            judges: config.chat_models(),
            data: &inputs.report.files,
            others: evaluations.chain(points.map(|path| ("knowledge points", path))).collect(),
        };
        Ok(record.record()?)
    }

    /// Sets out what is made of the seed rows, and counts.
    ///
    /// # Errors
    /// When a setting is invalid, or no seed row can be used.
    pub fn resolve(config: BuildConfig, inputs: &BuildInputs) -> Result<Self, StageError> {
        config.check()?;
        let builder = config.builder()?;
        let job = (builder.prepare)(&config, &inputs.seeds)?;
        let n_begun = job.units().iter().filter(|unit| unit.dropped.is_none()).count();
        if n_begun == 0 {
            let first = job.units().iter().find_map(|unit| unit.dropped.as_ref());
            let why = first.map_or_else(String::new, |dropped| format!(", the first: {}", dropped.reason));
            let found = format!("{} rows, none of which can be used{why}", job.units().len());
            let expected = format!("at least one row for the builder: {}", builder.seeds);
            return Err(RunError::BadSetting { key: "data", found, expected }.into());
        }
        let calls = job.calls();
        let max_calls = sum(&calls, |one| one.max_calls);
        let bytes = sum(&calls, |one| one.prompt_bytes);
        Ok(Self {
            prompt_tokens: bytes.div_ceil(BYTES_PER_TOKEN),
            completion_tokens: max_calls.saturating_mul(config.max_new_tokens as u64),
            builder,
            job,
            n_begun,
            calls,
            config,
        })
    }

    /// Calls where everything succeeds at once, and where every round is needed.
    #[must_use]
    pub fn n_calls(&self) -> (u64, u64) {
        (sum(&self.calls, |one| one.n_calls), sum(&self.calls, |one| one.max_calls))
    }
}

/// A number of all steps together.
fn sum(calls: &[PlannedCalls], of: fn(&PlannedCalls) -> u64) -> u64 {
    calls.iter().map(of).fold(0, u64::saturating_add)
}

impl StagePlan for BuildPlan {
    fn table(&self) -> Vec<PlanRow> {
        let count = |name: String, n: u64| PlanRow::new(name, Amount::Count(n));
        let units = [
            count("rows that may be made".into(), self.job.units().len() as u64),
            count("rows that are begun".into(), self.n_begun as u64),
        ];
        let (n_calls, max_calls) = self.n_calls();
        let steps =
            self.calls.iter().map(|one| count(format!("calls, at most: {}", one.step), one.max_calls));
        let sums = [
            count("calls, if everything succeeds at once".into(), n_calls),
            count("calls, at most".into(), max_calls),
            count("prompt tokens (estimate)".into(), self.prompt_tokens),
            count("completion tokens (maximum)".into(), self.completion_tokens),
        ];
        units.into_iter().chain(steps).chain(sums).collect()
    }

    fn summary(&self) -> String {
        let (n_calls, max_calls) = self.n_calls();
        let (ability, n_begun) = (self.builder.name, self.n_begun);
        format!("{ability}: {n_begun} rows are begun, {n_calls} to {max_calls} calls")
    }
}
