//! The data of fine-tuning: read, rendered and tokenized.

use truing_data::Dataset;
use truing_text::RenderOptions;
use truing_types::{EventSink, StageName};

use crate::StageError;
use crate::training::setup::Opened;
use crate::training::{DecoderInputs, TrainingConfig};

/// Everything a plan looks at.
pub type SftInputs = DecoderInputs<Dataset>;

impl SftInputs {
    /// Opens the model and reads, renders and tokenizes the data. Problems of single rows are also emitted as
    /// warnings.
    ///
    /// # Errors
    /// When the model is unusable, or a row is and `on_bad_row` is `error`.
    pub fn load(
        config: &TrainingConfig,
        options: RenderOptions,
        events: &mut dyn EventSink,
    ) -> Result<Self, StageError> {
        config.check_stage(StageName::Sft)?;
        Self::open(config, Opened::LanguageModel, options, |reader, sources, role, what| {
            reader.samples(sources, role, what, events)
        })
    }
}
