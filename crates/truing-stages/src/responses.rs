//! The data of a recipe on preferences: ranked or scored responses.

use truing_data::ResponseDataset;
use truing_run::samples::ResponseOptions;
use truing_text::RenderOptions;
use truing_types::EventSink;

use crate::StageError;
use crate::training::setup::Opened;
use crate::training::{DecoderInputs, TrainingConfig};

/// Everything a plan looks at.
pub type ResponseInputs = DecoderInputs<ResponseDataset>;

impl ResponseInputs {
    pub(crate) fn load(
        config: &TrainingConfig,
        wanted: Opened,
        responses: &ResponseOptions,
        options: RenderOptions,
        events: &mut dyn EventSink,
    ) -> Result<Self, StageError> {
        Self::open(config, wanted, options, |reader, sources, role, what| {
            reader.responses(sources, responses, role, what, events)
        })
    }
}
