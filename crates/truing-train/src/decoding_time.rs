//! How long completions take to sample, for plans.
//!
//! A decoding step reads all weights and the keys and values of the running sequences once, whatever the number of
//! sequences, and multiplies each weight with each of them. The slower of the two is its time.

use truing_model::DecoderSpec;

use crate::{StepFlops, StepShape};

/// Completions that are sampled, all of full length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decoding {
    /// Prompts, each read once.
    pub n_prompts: f64,
    /// Tokens of a prompt on average.
    pub prompt_tokens: f64,
    /// Completions of all prompts.
    pub n_completions: f64,
    /// Tokens of each.
    pub completion_tokens: f64,
    /// Completions that run at the same time, at most.
    pub n_running: usize,
    /// Bytes of a weight that is multiplied with.
    pub bytes_per_weight: f64,
    /// Keys and values of one token over all layers.
    pub cache_bytes_per_token: u64,
}

impl Decoding {
    /// Seconds at a rate of operations, in GFLOP/s, and at a rate of reading memory, in GB/s.
    #[must_use]
    pub fn secs(&self, spec: &DecoderSpec, gigaflops: f64, gigabytes_per_second: f64) -> f64 {
        if self.n_completions <= 0.0 {
            return 0.0;
        }
        let n_waves = (self.n_completions / self.n_running.max(1) as f64).ceil();
        let running = self.n_completions / n_waves;
        // Over the time of a completion its context grows to the whole length.
        let context = self.prompt_tokens + self.completion_tokens / 2.0;
        let step = StepShape { tokens: running, loss_tokens: running, attention_pairs: running * context };
        let weights = StepFlops::n_multiplied(spec) * self.bytes_per_weight;
        let cache = running * context * self.cache_bytes_per_token as f64;
        let of_step = ((weights + cache) / (gigabytes_per_second * 1e9))
            .max(StepFlops::of_forward(spec, &step) / (gigaflops * 1e9));
        let prompts = StepShape {
            tokens: self.n_prompts * self.prompt_tokens,
            loss_tokens: self.n_prompts,
            attention_pairs: self.n_prompts * self.prompt_tokens * (self.prompt_tokens + 1.0) / 2.0,
        };
        let of_prompts = StepFlops::of_forward(spec, &prompts) / (gigaflops * 1e9);
        n_waves * self.completion_tokens * of_step + of_prompts
    }
}
