//! Sampling of completions by the model that learns, with progress: of GRPO's groups, and of a distillation.

use std::sync::atomic::AtomicBool;

use truing_generate::{
    DecodingOptions, GenerateError, PromptReading, SampleRequest, SampledCompletion, SampledIds, sample,
};
use truing_model::{ComputeDtype, DecodingWeights, Engine};
use truing_run::record::break_if_alone;
use truing_text::Tokenizer;
use truing_types::{Event, EventSink, SamplingOptions};

/// How completions are sampled.
pub(crate) struct Sampling<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) ids: &'a SampledIds,
    pub(crate) options: SamplingOptions,
    /// Completions decoded in parallel.
    pub(crate) max_batch: usize,
    pub(crate) weights: DecodingWeights,
    /// Most tokens that are drafted in a step.
    pub(crate) prompt_lookup_num_tokens: usize,
    /// What the progress is called.
    pub(crate) phase: String,
}

impl Sampling<'_> {
    /// Samples the completions of each request; `None` when it was stopped. Keys and values take the place of the last
    /// step's activations, and give it back.
    pub(crate) fn run<E: Engine>(
        self,
        engine: &mut E,
        requests: &[SampleRequest],
        events: &mut dyn EventSink,
        stop: &AtomicBool,
        world_size: usize,
    ) -> Result<Option<Vec<Vec<SampledCompletion>>>, GenerateError> {
        let total = requests.iter().map(|request| request.n_samples as u64).sum();
        engine.release_working_memory();
        events.emit(Event::PhaseStarted { phase: self.phase, total: Some(total) });
        let mut done = 0;
        let decoding = DecodingOptions {
            max_batch: self.max_batch,
            weights: self.weights,
            prompts: PromptReading::Whole,
            prompt_lookup_num_tokens: self.prompt_lookup_num_tokens,
        };
        let sampled =
            sample(engine, self.tokenizer, requests, &self.options, self.ids, decoding, &mut |_, _, _| {
                done += 1;
                events.emit(Event::Progress { done, note: String::new() });
                break_if_alone(stop, world_size)
            })?;
        engine.join_others()?;
        events.emit(Event::PhaseFinished);
        engine.release_working_memory();
        Ok(sampled)
    }
}

/// Bytes that decoding reads of each weight.
pub(crate) fn bytes_per_weight(weights: DecodingWeights, dtype: Option<ComputeDtype>) -> f64 {
    match (weights, dtype) {
        (DecodingWeights::Int8, _) => 1.0,
        (DecodingWeights::F32, Some(ComputeDtype::Bf16)) => 2.0,
        (DecodingWeights::F32, Some(ComputeDtype::F32) | None) => 4.0,
    }
}
