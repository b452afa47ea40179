use truing_model::EngineError;
use truing_types::{BatchError, CommunicationError, RowOrigin};

/// A number that must be finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// The training loss.
    Loss,
    /// The gradient's norm.
    GradientNorm,
    /// The loss of an evaluation.
    EvaluationLoss,
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Loss => "loss",
            Self::GradientNorm => "gradient norm",
            Self::EvaluationLoss => "evaluation loss",
        })
    }
}

/// An error that ends training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// NaN or infinity; the weights are those of the step before.
    #[error("the {quantity} of step {step} is not finite{}", describe(*pack_idx, rows))]
    NonFinite {
        /// The step, counted from 1.
        step: u64,
        /// What is not finite.
        quantity: Quantity,
        /// The first pack to blame, among its rank's. `None` where ranks divide packs between them, where the loss
        /// couples packs, or where packs that are finite add up to what is not.
        pack_idx: Option<usize>,
        /// The rows in it that are to blame.
        rows: Vec<RowOrigin>,
    },
    /// A step that teaches nothing.
    #[error("no token of the step carries loss")]
    NoLossTokens,
    /// A step of no sample.
    #[error("the step has no training signal")]
    NoSamples,
    /// Everything is frozen.
    #[error("all parameters are frozen: nothing to train")]
    NothingLearns,
    /// The caller broke the step off; nothing was changed.
    #[error("the step was interrupted")]
    BrokenOff,
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A peer is lost.
    #[error(transparent)]
    Communication(#[from] CommunicationError),
    /// A pack that cannot be cut.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

fn describe(pack_idx: Option<usize>, rows: &[RowOrigin]) -> String {
    const N_SHOWN: usize = 8;
    let Some(pack_idx) = pack_idx else { return String::from(" (no single pack is known to be the cause)") };
    let mut text = format!(" in pack {}: ", pack_idx + 1);
    let names: Vec<String> = rows.iter().take(N_SHOWN).map(ToString::to_string).collect();
    text.push_str(&names.join(", "));
    if rows.len() > N_SHOWN {
        text.push_str(&format!(" and {} more rows", rows.len() - N_SHOWN));
    }
    text
}
