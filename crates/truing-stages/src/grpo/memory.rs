//! The memory of a step beside that of the policy's training: other models, caches, working memory.

use truing_model::{ComputeDtype, DecoderSpec, DecodingWeights, Engine, ModelFiles, TrainableSpec};
use truing_train::MemoryPart;
use truing_train::completion_packs::{self as packs, GroupSizes};

use super::{GrpoConfig, GrpoInputs, KlKind};
use crate::StageError;

/// Tokens of a block of cached keys and values.
const CACHE_BLOCK: usize = 64;
/// Lengths of prompts that packs are planned with.
const MAX_LENGTHS: usize = 16;
/// Bytes of a logit while a token is sampled.
const LOGIT_BYTES: u64 = 4;
/// Bytes of one of the reference's top tokens with its log-probability.
const TOP_TOKEN_BYTES: u64 = 8;

/// The part of a step's memory that the reference's top tokens take.
pub(super) const TOP_TOKENS: &str = "top-k log-probabilities of the reference";

/// Bytes of what a step holds beside what the policy's training needs.
#[derive(Debug, Clone, Copy)]
pub struct StepBytes {
    /// The frozen reference; 0 where it is the policy without its adapters, or none is needed.
    pub reference: u64,
    /// Reward model and judge in this process.
    pub rewards: u64,
    /// The 8-bit copy of the policy that completions are sampled with; 0 where there is none.
    pub quantized: u64,
    /// The reference's top tokens.
    pub top_token: u64,
    /// Keys and values while completions are sampled. Not at the same time as activations.
    pub cache: u64,
    /// Working memory and logits of decoding, beside the keys and values.
    pub decoding: u64,
    /// Working memory of policy and reference while they are compared, where the reference is a model of its own.
    pub comparing: u64,
}

impl StepBytes {
    /// Counts them. Opens the headers of reward model and judge.
    pub(super) fn new<E: Engine>(config: &GrpoConfig, inputs: &GrpoInputs) -> Result<Self, StageError> {
        let spec = &inputs.model.spec;
        let engine = E::memory(&spec.clone().into(), &config.trainable(), ComputeDtype::default());
        let n_running = config.generation_batch_size.min(config.prompts_per_step * config.num_generations);
        let longest_prompt = longest_prompt(inputs);
        // Each token of a step has a row of logits, drafted ones too; so has the prompt that the next completions
        // continue.
        let n_drafted = config.prompt_lookup_num_tokens.min(config.max_completion_length);
        let n_tokens = (n_running * (1 + n_drafted)) as u64;
        let n_rows = (longest_prompt as u64).min(engine.tokens_per_prompt_piece).max(n_tokens);
        let decoding = n_rows * engine.forward_bytes_per_token
            + longest_prompt as u64 * engine.forward_bytes_per_key
            + (n_tokens + 1) * spec.vocab_size as u64 * LOGIT_BYTES;
        // Both keep their working memory until all packs are compared.
        let n_dividing = config.resources.sequence_parallel_size;
        let divided = engine.in_sequence_group(spec, n_dividing);
        let of_pack = (divided.forward_bytes_per_token + divided.forward_bytes_per_key)
            * largest_pack(config, inputs).div_ceil(n_dividing) as u64;
        let has_reference = loads_reference(config, inputs);
        // With rollouts from servers only evaluations are sampled here.
        let samples = config.rollouts.is_none() || !inputs.eval.is_empty();
        Ok(Self {
            reference: if has_reference { frozen_bytes::<E>(spec.clone()) } else { 0 },
            rewards: reward_bytes::<E>(config)?,
            quantized: match config.rollout_quantization {
                DecodingWeights::F32 => 0,
                DecodingWeights::Int8 => engine.quantized_bytes,
            },
            top_token: n_top_tokens(config, inputs) as u64 * TOP_TOKEN_BYTES,
            cache: if samples {
                n_cached_tokens(config, inputs, n_running) as u64 * engine.cache_bytes_per_token
            } else {
                0
            },
            decoding: if samples { decoding } else { 0 },
            comparing: if has_reference { 2 * of_pack } else { 0 },
        })
    }

    /// What stays for all phases of a step.
    pub(super) fn lasting(&self) -> u64 {
        MemoryPart::total(&self.lasting_parts())
    }

    /// The same, part by part. The top tokens are not there yet while completions are sampled.
    pub(super) fn lasting_parts(&self) -> [MemoryPart; 4] {
        [
            MemoryPart::new("reference model", self.reference),
            MemoryPart::new("reward model and judge", self.rewards),
            MemoryPart::new("int8 rollout weights", self.quantized),
            MemoryPart::new(TOP_TOKENS, self.top_token),
        ]
    }
}

/// Reward model and judge, where they are in this process.
fn reward_bytes<E: Engine>(config: &GrpoConfig) -> Result<u64, StageError> {
    let reward_model = config.reward_model.as_ref().map(|model| model.model_name_or_path.as_ref());
    let judge = config.judge.as_ref().and_then(|judge| judge.model.model_name_or_path.as_deref());
    let mut bytes = 0;
    for path in [reward_model, judge].into_iter().flatten() {
        bytes += frozen_bytes::<E>(ModelFiles::open(path)?.spec);
    }
    Ok(bytes)
}

/// Bytes of the weights of a model that does not learn.
fn frozen_bytes<E: Engine>(spec: DecoderSpec) -> u64 {
    E::memory(&spec.into(), &TrainableSpec::frozen(), ComputeDtype::default()).parameter_bytes
}

/// Top tokens that the reference gives in a step. Updates share those of the completions; those of fine-tuning data are
/// computed for each update.
fn n_top_tokens(config: &GrpoConfig, inputs: &GrpoInputs) -> usize {
    let n_targets = match config.kl() {
        KlKind::ExactTopK => config.prompts_per_step * config.num_generations * config.max_completion_length,
        KlKind::K3 | KlKind::None => 0,
    };
    let n_ptx_targets = inputs.ptx.as_ref().map_or(0, |data| {
        let most = (0..data.n_samples()).map(|i| data.sample(i).n_loss_tokens()).max().unwrap_or(0);
        most * config.ptx_samples_per_update
    });
    (n_targets + n_ptx_targets) * config.kl_top_k.min(inputs.model.spec.vocab_size)
}

/// Tokens whose keys and values are cached. A prompt's blocks are shared by its completions, but for the last one,
/// which each copies to write on. The prompt that the next completions continue is held beside the running ones.
fn n_cached_tokens(config: &GrpoConfig, inputs: &GrpoInputs, n_running: usize) -> usize {
    let blocks = |n_tokens: usize| n_tokens.div_ceil(CACHE_BLOCK) * CACHE_BLOCK;
    // Held-out prompts may have fewer completions each.
    let n_of_prompt = match inputs.eval.is_empty() {
        true => config.num_generations,
        false => config.num_generations.min(config.eval_num_generations),
    };
    let n_prompts_running = n_running.div_ceil(n_of_prompt) + 1;
    n_prompts_running * blocks(longest_prompt(inputs))
        + n_running * blocks(config.max_completion_length + CACHE_BLOCK - 1)
}

/// Tokens of the longest prompt.
pub(super) fn longest_prompt(inputs: &GrpoInputs) -> usize {
    inputs.prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0)
}

/// Tokens of the largest pack to plan for. A pack holds whole completions, and often the next one, or the next prompt
/// with its first completion, leaves a part of the budget unused. Which part depends on the lengths: those of the
/// prompts are known, and the completions are taken to be all of one length between half of the most and the most.
pub(super) fn largest_pack(config: &GrpoConfig, inputs: &GrpoInputs) -> usize {
    let mut prompts: Vec<usize> = inputs.prompts.iter().map(|prompt| prompt.tokens.len()).collect();
    prompts.sort_unstable();
    let longest = prompts.last().copied().unwrap_or(0);
    prompts.dedup();
    // Of many lengths, a few that are spread over all of them.
    let step = prompts.len().div_ceil(MAX_LENGTHS).max(1);
    let lengths = prompts.into_iter().rev().step_by(step);
    let most = config.max_completion_length;
    let completions = (0..=4).map(|eighths| (most - most * eighths / 8).max(1));
    lengths
        .flat_map(|prompt| {
            completions.clone().map(move |completion| GroupSizes {
                // An update has packs of its own.
                n_groups: config.prompts_per_step.div_ceil(config.minibatches.max(1)),
                n_completions: config.num_generations,
                prompt,
                completion,
            })
        })
        .map(|sizes| packs::largest_pack(sizes, config.max_tokens_per_pack, config.share_prompts))
        .max()
        .unwrap_or(0)
        // A completion that fits into no pack has one of its own.
        .max(if config.max_tokens_per_pack < longest + most { longest + most } else { 0 })
}

/// Whether the reference is a model of its own. New adapters switched off give it; those of an adapter that is trained
/// further do not, for its policy began with them.
pub(super) fn loads_reference(config: &GrpoConfig, inputs: &GrpoInputs) -> bool {
    config.needs_reference() && (config.lora.is_none() || inputs.model.adapter.is_some())
}
