//! A search for the merge that loses least: candidates over methods and weights, compared on a part of the items,
//! confirmed once on the others.
//!
//! Candidates are dropped by successive halving (Jamieson and Talwalkar 2016), each round on twice as many items; then
//! settings beside the best are tried. The items are divided before anything is asked. The best candidate on the search
//! items has been lucky too: the record says how much of its lead that is, expected (bootstrap) and observed (search
//! less confirmation).
//!
//! Every answer is logged in the folder of its candidate. The same command continues a search that was stopped, and
//! asks nothing twice; the order of candidates follows from seed and answers. Merged weights are created on demand and
//! removed after.

mod candidates;
mod config;
mod evaluator;
mod plan;
mod record;
mod search;

use std::borrow::Cow;
use std::path::PathBuf;

use truing_ask::judged_folder;
use truing_eval::benchmarks::Scoring;
use truing_model::Engine;
use truing_run::{Ended, Machine, Recipe as _};
use truing_store::RunInputs;
use truing_types::{Event, StageName};

pub use candidates::Candidate;
pub use config::{MergeSearchConfig, Objective, SearchModel};
pub use plan::{MergeSearchInputs, MergeSearchPlan, Split};
pub use record::{AbilityScore, Confirmation, Contestant, SearchRecord, SearchRow};

use evaluator::Evaluator;
use search::Search;

use crate::{PlanContext, RunContext, Stage, StageError};

/// The record of a search, in its folder.
pub const RECORD: &str = "search.json";
/// The merged model.
pub const MODEL: &str = "model";
/// The recipe of the merge that was chosen.
pub const MERGE_RECIPE: &str = "merge.toml";

/// What a finished search leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct MergeSearchOutcome {
    /// The run's folder.
    pub folder: PathBuf,
    /// What was found.
    pub record: SearchRecord,
}

/// The stage. The folder of a run with the same recipe and inputs is used again, however the run begins.
#[derive(Debug)]
pub struct MergeSearchStage;

impl Stage for MergeSearchStage {
    const NAME: StageName = StageName::MergeSearch;
    type Config = MergeSearchConfig;
    type Inputs = MergeSearchInputs;
    type Plan = MergeSearchPlan;
    type Outcome = MergeSearchOutcome;

    fn check(config: &MergeSearchConfig) -> Result<(), StageError> {
        config.check()
    }

    fn load(
        config: &MergeSearchConfig,
        context: &mut PlanContext<'_>,
    ) -> Result<MergeSearchInputs, StageError> {
        MergeSearchInputs::load(config, context)
    }

    fn plan<E: Engine>(
        config: MergeSearchConfig,
        inputs: &MergeSearchInputs,
        machine: &Machine,
    ) -> Result<MergeSearchPlan, StageError> {
        Ok(MergeSearchPlan::resolve(config, inputs, machine))
    }

    fn config(plan: &MergeSearchPlan) -> &MergeSearchConfig {
        &plan.config
    }

    fn record<'a>(
        plan: &MergeSearchPlan,
        _: &'a MergeSearchInputs,
    ) -> Result<Cow<'a, RunInputs>, StageError> {
        Ok(Cow::Owned(plan.config.record()?))
    }

    fn run<E: Engine + 'static>(
        plan: &MergeSearchPlan,
        inputs: &MergeSearchInputs,
        context: RunContext<'_>,
    ) -> Result<Ended<MergeSearchOutcome>, StageError> {
        let RunContext { events, stop, sandbox_program, .. } = context;
        let folder = plan.config.output_dir.clone();
        let record = plan.config.record()?;
        let run = judged_folder::open(&folder, &plan.config, &record, events)?;
        let scoring = Scoring { sandbox_program };
        let evaluator = Evaluator { plan, inputs, stop, events: &mut *events, scoring };
        let mut search = Search { plan, inputs, evaluator };
        let found = match search.run::<E>() {
            Ok(found) => found,
            Err(StageError::Stopped) => return Ok(Ended::STOPPED),
            Err(error) => return Err(error),
        };
        run.write_inputs(&record)?;
        run.write_recipe(&plan.config.to_toml())?;
        events.emit(Event::Saved { what: "merged model".into(), path: folder.join(MODEL) });
        Ok(Ended::Finished(MergeSearchOutcome { folder, record: found }))
    }
}
