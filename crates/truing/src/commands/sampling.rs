//! How tokens are sampled: the options that `chat` and `generate` share.

use clap::{Args, ValueEnum};
use truing_model::DecodingWeights;
use truing_types::SamplingOptions;

/// Weights that tokens are sampled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Weights {
    /// The weights in the number format of the computation.
    F32,
    /// An 8-bit copy: faster, nearly the same outputs.
    Int8,
}

impl From<Weights> for DecodingWeights {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::F32 => Self::F32,
            Weights::Int8 => Self::Int8,
        }
    }
}

/// Sampling options of the command line.
#[derive(Debug, Args)]
pub(crate) struct SamplingArguments {
    /// Sampling temperature; 0 decodes greedily. Default: 0.6 in `chat`, 0 in `generate`.
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Sample from the K most likely tokens; 0 turns it off.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Nucleus sampling: sample from the smallest set of tokens whose probability reaches P; 1 turns it off.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Sample only tokens whose probability is at least this fraction of the most likely token's; 0 turns it off.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Repetition penalty: makes tokens that occurred before less likely; 1 turns it off.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Penalty on tokens that the reply already has, -2 to 2; 0 turns it off.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Penalty on tokens for each time that the reply already has them, -2 to 2; 0 turns it off.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Random seed of the sampling.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// A string that ends the reply. May be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Maximum tokens of a reply.
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_new_tokens: usize,
    /// Weights used to generate tokens; prompts are never processed with the 8-bit copy.
    #[arg(long, value_name = "WEIGHTS", value_enum, default_value_t = Weights::F32)]
    weights: Weights,
    #[command(flatten)]
    drafting: DraftingArguments,
}

/// Speculative decoding without a second model, for all commands that decode.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct DraftingArguments {
    /// Tokens to draft in each step: what followed where the last tokens occurred before, in the prompt or the reply
    /// (prompt-lookup decoding). Faster where replies repeat texts; never changes a reply. 0 turns it off.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=MAX_DRAFTED))]
    prompt_lookup_num_tokens: u64,
}

/// Each drafted token has a row of logits, and few texts repeat in such long pieces.
const MAX_DRAFTED: u64 = 64;

impl DraftingArguments {
    /// Most tokens that are drafted in a step.
    pub(crate) fn n_tokens(self) -> usize {
        self.prompt_lookup_num_tokens as usize
    }
}

impl SamplingArguments {
    /// The weights that tokens are sampled with.
    pub(crate) fn decoding_weights(&self) -> DecodingWeights {
        self.weights.into()
    }

    /// Most tokens that are drafted in a step.
    pub(crate) fn n_drafted(&self) -> usize {
        self.drafting.n_tokens()
    }

    /// The options, checked; `temperature` is the default.
    pub(crate) fn options(&self, temperature: f32) -> anyhow::Result<SamplingOptions> {
        let temperature = self.temperature.unwrap_or(temperature);
        anyhow::ensure!(
            temperature.is_finite() && temperature >= 0.0,
            "`--temperature` is {temperature}, expected 0 or more"
        );
        anyhow::ensure!(
            self.top_p > 0.0 && self.top_p <= 1.0,
            "`--top-p` is {}, expected more than 0 and at most 1",
            self.top_p
        );
        anyhow::ensure!(
            (0.0..=1.0).contains(&self.min_p),
            "`--min-p` is {}, expected a number from 0 to 1",
            self.min_p
        );
        anyhow::ensure!(
            self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0,
            "`--repetition-penalty` is {}, expected a number above 0",
            self.repetition_penalty
        );
        for (name, penalty) in [("presence", self.presence_penalty), ("frequency", self.frequency_penalty)] {
            anyhow::ensure!(
                (-2.0..=2.0).contains(&penalty),
                "`--{name}-penalty` is {penalty}, expected a number from -2 to 2"
            );
        }
        anyhow::ensure!(self.max_new_tokens > 0, "`--max-new-tokens` is 0, expected at least 1");
        anyhow::ensure!(self.stop.iter().all(|text| !text.is_empty()), "`--stop` is an empty text");
        Ok(SamplingOptions {
            max_new_tokens: self.max_new_tokens,
            temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed,
            stop: self.stop.clone(),
            ..SamplingOptions::default()
        })
    }
}
