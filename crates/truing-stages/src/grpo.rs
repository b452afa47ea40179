//! Group-relative policy optimisation (report 2.1): groups of completions of a prompt are drawn from the policy
//! itself, scored, and credited against their group; the KL to the reference is exact over its top tokens.
//!
//! [`GrpoConfig`] is what was typed, [`GrpoInputs`] what it names on disk, [`GrpoPlan`] every decision that can be
//! made before work starts, [`run`] the work, and [`rollouts`] what is kept of it.

mod config;
mod failures;
mod inputs;
mod judge_reward;
mod model_reward;
mod packs;
mod plan;
pub mod rollouts;
mod run;
mod state;
mod step;
mod tally;

pub use config::{Algorithm, GrpoConfig, KlGradient, KlKind, KlPlacement, LossType};
pub use failures::OnUnscoredStep;
pub use inputs::{GrpoInputs, Prompt};
pub use judge_reward::JudgeReward;
pub use model_reward::RewardModelReward;
pub use plan::GrpoPlan;
pub(crate) use plan::frozen;
pub use run::{GrpoOutcome, run, run_with_judge};
