//! Prompt selection (report 3.1.1 and 3.1.2): a pool of prompts goes in, a smaller and more diverse one comes out, with
//! the reason for every row kept or dropped.
//!
//! Read and clean, drop duplicates and what belongs to an evaluation, find the task templates, embed, mine triplets of
//! tasks and topics, teach the encoder what a task is, and cluster layer by layer until as many prompts are left as
//! were asked for. [`SelectConfig`] is what was typed, [`SelectPlan`] every check that can be made before work starts.

mod config;
mod diversity;
mod embedded;
mod mining;
mod output;
mod plan;
mod pool;
mod vectors;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use serde::Serialize;
use truing_model::Engine;
use truing_run::folder::nothing_to_resume;
use truing_run::selection::SelectionSummary;
use truing_run::{Ended, Machine, Recipe, Start};
use truing_store::RunDirectory;
use truing_store::RunInputs;
use truing_types::StageName;

use crate::{PlanContext, RunContext, Stage, StageError};

pub use config::{
    ClusterConfig, DecontaminationConfig, DiversityConfig, EmbeddingConfig, MapConfig, SelectConfig,
    TaskEmbeddingConfig,
};
pub use plan::SelectPlan;

/// What a selection came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SelectReport {
    /// The chosen rows as they were read.
    pub selected: PathBuf,
    /// In numbers.
    pub summary: SelectionSummary,
    /// Task templates found.
    pub n_templates: usize,
    /// Triplets mined.
    pub n_triplets: usize,
    /// The templates with the most prompts, as people read them.
    pub template_table: String,
}

/// The stage. `stop` is looked at between parts, within training after every pack, and while embedding every some
/// thousand texts. The pool is read by the run.
#[derive(Debug)]
pub struct SelectStage;

impl Stage for SelectStage {
    const NAME: StageName = StageName::Select;
    type Config = SelectConfig;
    type Inputs = ();
    type Plan = SelectPlan;
    type Outcome = SelectReport;

    fn check(config: &SelectConfig) -> Result<(), StageError> {
        plan::check(config)
    }

    fn load(_: &SelectConfig, _: &mut PlanContext<'_>) -> Result<(), StageError> {
        Ok(())
    }

    fn plan<E: Engine>(config: SelectConfig, (): &(), machine: &Machine) -> Result<SelectPlan, StageError> {
        SelectPlan::resolve(config, *machine)
    }

    fn config(plan: &SelectPlan) -> &Self::Config {
        &plan.config
    }

    fn record<'a>(plan: &SelectPlan, _: &'a ()) -> Result<Cow<'a, RunInputs>, StageError> {
        plan.record().map(Cow::Owned)
    }

    fn run<E: Engine + 'static>(
        plan: &SelectPlan,
        (): &(),
        context: RunContext<'_>,
    ) -> Result<Ended<SelectReport>, StageError> {
        run::<E>(plan, context)
    }
}

/// From the pool to the selected prompts.
fn run<E: Engine + 'static>(
    plan: &SelectPlan,
    context: RunContext<'_>,
) -> Result<Ended<SelectReport>, StageError> {
    let RunContext { start, probe, events, stop, .. } = context;
    let config = &plan.config;
    let (recipe, inputs) = (config.to_toml(), plan.record()?);
    let begun = match start {
        Start::Fresh => {
            RunDirectory::check_free(&config.output_dir)?;
            None
        }
        Start::Resume => RunDirectory::open_begun(&config.output_dir, &[])?,
    };
    if let Some(folder) = &begun {
        plan.check_same_run(folder)?;
    }
    let is_stopped = || stop.load(Ordering::Relaxed);

    let mut pool = pool::read_and_clean(config, events)?;
    pool.drop_exact_duplicates();
    pool.drop_contaminated(config, events)?;
    // Data that cannot be selected from leaves no folder.
    let folder = match begun {
        Some(folder) => folder,
        None => {
            if start == Start::Resume {
                events.emit(nothing_to_resume(&config.output_dir));
            }
            RunDirectory::create(&config.output_dir, &recipe, &inputs)?
        }
    };
    let tokens = pool.drop_near_duplicates(config, events)?;
    if is_stopped() {
        return Ok(Ended::STOPPED);
    }
    let templates = mining::find_templates(&tokens, config, events)?;
    let Some(mut embedded) = vectors::embed::<E>(plan, &pool, &folder, events, stop)? else {
        return Ok(Ended::STOPPED);
    };
    let mined = mining::mine(&templates, &embedded, config, events)?;
    mining::write_triplets(&mined, &pool, &folder, events)?;
    if is_stopped() {
        return Ok(Ended::STOPPED);
    }
    if let Some(task_embedding) = &config.task_embedding {
        match vectors::train_and_embed::<E>(
            plan,
            task_embedding,
            &mined,
            &pool,
            &folder,
            probe,
            events,
            stop,
        )? {
            Some(vectors) => embedded = vectors,
            None => return Ok(Ended::STOPPED),
        }
    }
    let clusters = mining::cluster(&embedded, config, events)?;
    if is_stopped() {
        return Ok(Ended::STOPPED);
    }
    let selection = diversity::select(&pool, &embedded, config, events)?;
    pool.apply(selection.dropped);
    let found =
        output::Found { tokens: &tokens, templates: &templates, clusters: &clusters, vectors: &embedded };
    let summary = output::write(plan, &pool, &found, selection.layers, selection.n_tasks, &folder, events)?;
    Ok(Ended::Finished(SelectReport {
        selected: folder.path().join(crate::files::SELECTED),
        summary,
        n_templates: templates.templates.len(),
        n_triplets: mined.triplets.triplets.len(),
        template_table: templates.table(&tokens, 3),
    }))
}
