//! What is the same in all stages that train a decoder by a [`TrainingPlan`].

use std::borrow::Cow;

use truing_ask::ChatModelConfig;
use truing_model::Engine;
use truing_run::checks::DiskSpace;
use truing_run::{Ended, Machine};
use truing_store::RunInputs;
use truing_types::StageName;

use super::plan::disk_space_by_model;
use super::{TrainingConfig, TrainingInputs, TrainingPlan};
use crate::{PlanContext, RunContext, Stage, StageError, TrainedModel};

/// A [`Stage`] with a [`TrainingConfig`] and a [`TrainingPlan`]: what it reads, and how it runs.
pub trait DecoderStage {
    /// Its name in recipes.
    const NAME: StageName;
    /// What it reads before it plans.
    type Inputs: TrainingInputs;

    /// As [`Stage::check`].
    ///
    /// # Errors
    /// Those of [`Stage::check`].
    fn check(config: &TrainingConfig) -> Result<(), StageError>;

    /// As [`Stage::load`].
    ///
    /// # Errors
    /// Those of [`Stage::load`].
    fn load(config: &TrainingConfig, context: &mut PlanContext<'_>) -> Result<Self::Inputs, StageError>;

    /// As [`Stage::chat_models`].
    fn chat_models(_plan: &TrainingPlan) -> Vec<Cow<'_, ChatModelConfig>> {
        Vec::new()
    }

    /// As [`Stage::run`].
    ///
    /// # Errors
    /// Those of [`Stage::run`].
    fn run<E: Engine + 'static>(
        plan: &TrainingPlan,
        inputs: &Self::Inputs,
        context: RunContext<'_>,
    ) -> Result<Ended<TrainedModel>, StageError>;
}

impl<T: DecoderStage> Stage for T {
    const NAME: StageName = <T as DecoderStage>::NAME;
    type Config = TrainingConfig;
    type Inputs = <T as DecoderStage>::Inputs;
    type Plan = TrainingPlan;
    type Outcome = TrainedModel;

    fn check(config: &TrainingConfig) -> Result<(), StageError> {
        <T as DecoderStage>::check(config)
    }

    fn disk_space(config: &TrainingConfig) -> Result<Option<DiskSpace>, StageError> {
        disk_space_by_model(config)
    }

    fn load(
        config: &TrainingConfig,
        context: &mut PlanContext<'_>,
    ) -> Result<<T as DecoderStage>::Inputs, StageError> {
        <T as DecoderStage>::load(config, context)
    }

    fn plan<E: Engine>(
        config: TrainingConfig,
        inputs: &<T as DecoderStage>::Inputs,
        machine: &Machine,
    ) -> Result<TrainingPlan, StageError> {
        TrainingPlan::resolve::<E, _>(config, inputs, machine)
    }

    fn config(plan: &TrainingPlan) -> &TrainingConfig {
        &plan.config
    }

    fn record<'a>(
        _: &TrainingPlan,
        inputs: &'a <T as DecoderStage>::Inputs,
    ) -> Result<Cow<'a, RunInputs>, StageError> {
        Ok(Cow::Borrowed(inputs.record()))
    }

    fn chat_models(plan: &TrainingPlan) -> Vec<Cow<'_, ChatModelConfig>> {
        <T as DecoderStage>::chat_models(plan)
    }

    fn run<E: Engine + 'static>(
        plan: &TrainingPlan,
        inputs: &<T as DecoderStage>::Inputs,
        context: RunContext<'_>,
    ) -> Result<Ended<TrainedModel>, StageError> {
        <T as DecoderStage>::run::<E>(plan, inputs, context)
    }
}
