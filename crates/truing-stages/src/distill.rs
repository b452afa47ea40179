//! On-policy distillation: the student samples completions, a teacher says how likely it finds each token of them, and
//! the student moves towards the teacher (GKD, arXiv 2306.13649).
//!
//! The teacher is a larger model, or the student itself with text that only the teacher reads: a complement (PAS), a
//! golden answer, a critique. What that text achieves in the prompt is then in the weights.
//!
//! ```text
//! y ~ student(. | x)      D(student(. | x, y_<t), teacher(. | x', y_<t)) at every token t of y
//! ```

mod config;
mod inputs;
mod workload;

use std::borrow::Cow;

use truing_ask::ChatModelConfig;
use truing_data::SourceConfig;
use truing_model::Engine;
use truing_run::Ended;
use truing_types::{PromptRow, StageName};

use crate::training::{self, DecoderStage, TrainingConfig, TrainingPlan, setup};
use crate::{PlanContext, RunContext, StageError, TrainedModel};

pub use config::{DistillationConfig, DivergenceName, KlTokens, TeacherConfig, TeacherWeights};
pub use inputs::{DistillInputs, DistillPrompt, DistillPrompts};
use workload::OnPolicyDistillation;

/// On-policy distillation. `stop` is looked at after every completion and pack. A step is a function of seed, step and
/// weights: a step that was interrupted is repeated with the same tokens.
#[derive(Debug)]
pub struct DistillStage;

impl DecoderStage for DistillStage {
    const NAME: StageName = StageName::Distill;
    type Inputs = DistillInputs;

    fn check(config: &TrainingConfig) -> Result<(), StageError> {
        config.check_stage(StageName::Distill)?;
        config.distillation.clone().unwrap_or_default().check(config)?;
        setup::check(config)?;
        setup::check_sources(config, SourceConfig::check_as::<PromptRow>)
    }

    fn load(config: &TrainingConfig, context: &mut PlanContext<'_>) -> Result<DistillInputs, StageError> {
        Self::check(config)?;
        DistillInputs::load(config, context.render.clone(), context.events)
    }

    fn chat_models(plan: &TrainingPlan) -> Vec<Cow<'_, ChatModelConfig>> {
        let server = plan.config.distillation.as_ref().and_then(|settings| settings.teacher.server.clone());
        let model = |server| ChatModelConfig { server: Some(server), ..ChatModelConfig::default() };
        server.map(model).map(Cow::Owned).into_iter().collect()
    }

    fn run<E: Engine + 'static>(
        plan: &TrainingPlan,
        inputs: &DistillInputs,
        mut context: RunContext<'_>,
    ) -> Result<Ended<TrainedModel>, StageError> {
        let server = context.chat_models.pop().map(|opened| opened.model);
        let workload = OnPolicyDistillation::<E>::new(plan, inputs, server);
        training::run::<E, _, _>(plan, inputs, workload, &mut context)
    }
}
