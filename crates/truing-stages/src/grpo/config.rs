//! The settings of a policy run, under TRL's names where it has them.

mod algorithm;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_data::{OnBadRow, SourceConfig};
use truing_model::{DecodingWeights, LoraSpec, SaveDtype, TrainableSpec};
use truing_reward::RewardConfig;
use truing_reward::shaping::ShapingConfig;
use truing_run::{Recipe, recipe};
use truing_train::{
    AdvantageEstimator, AdvantageOptions, Aggregation, KlInLoss, KlInReward, Policy, RatioLevel, Scale,
    ScheduleKind,
};
use truing_types::{ExcludedTokens, ReasoningMark, StageName};

use super::failures::OnUnscoredStep;
use super::rollout_servers::{ImportanceSamplingMode, RolloutsConfig};
use crate::rewards::{JudgeReward, RewardModelReward, RewardTables};
use crate::training::{
    CheckpointSettings, EvaluationSettings, LayersSetting, LoraConfig, OptimizerSettings, ResourceSettings,
    ScheduleSettings,
};

pub use algorithm::{Algorithm, KlGradient, KlKind, KlPlacement, LossType};

/// One flat table, then `[[data]]`, `[[eval_data]]`, `[[ptx_data]]`, `[[reward]]`, `[reward_model]`, `[judge]`,
/// `[rollouts]`, `[shaping]` and `[lora]`.
///
/// `algorithm` sets `beta`, `kl`, `kl_placement`, `advantage_estimator`, `scale_rewards`, `epsilon`, `epsilon_high`,
/// `loss_type`, `importance_sampling_level`, `dynamic_sampling` and `mask_truncated_completions`, unless the recipe
/// sets them. The report states no beta, gamma, clipping range, learning rate, batch size, length or temperature; those
/// defaults are ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GrpoConfig {
    /// The stage that the recipe configures. Required.
    #[schemars(extend("x-default" = ""))]
    pub stage: StageName,
    /// A model directory, a `.gguf` file, or the name of a model (`org/name`).
    #[schemars(extend("x-decides" = "content"))]
    pub model_name_or_path: String,
    /// Output folder of the run: metrics, rollouts, checkpoints, and the model in `model/`.
    #[schemars(extend("x-decides" = "nothing"))]
    pub output_dir: PathBuf,
    /// Folder that the paths of the data are relative to. Default: the recipe's folder.
    #[schemars(extend("x-decides" = "nothing"))]
    pub data_dir: PathBuf,
    /// Random seed of the order of the prompts, the held-out split, sampling, and the initialisation of adapters.
    pub seed: u64,
    /// A preset of the keys listed above. Each of them can also be set in the recipe.
    pub algorithm: Algorithm,

    /// Completions per prompt, the group size (report: `n_sample` = 3).
    pub num_generations: usize,
    /// Prompts per step.
    pub prompts_per_step: usize,
    /// Maximum tokens of a prompt. Longer prompts are dropped and counted.
    pub max_prompt_length: usize,
    /// Maximum tokens of a completion.
    pub max_completion_length: usize,
    /// Sampling temperature. The policy that is trained is the distribution at this temperature.
    pub temperature: f32,
    /// Nucleus sampling: sample from the smallest set of tokens whose probability reaches this. 1 turns it off.
    pub top_p: f32,
    /// Sample from the k most likely tokens. 0 turns it off.
    pub top_k: usize,
    /// Sample only tokens whose probability is at least this fraction of the most likely token's. 0 turns it off.
    pub min_p: f32,
    /// Strings that end a completion.
    pub stop: Vec<String>,
    /// Completions decoded in parallel. It never changes a result.
    #[schemars(extend("x-decides" = "nothing"))]
    pub generation_batch_size: usize,
    /// Tokens that are drafted for each completion in a step of decoding: what followed where its last tokens occurred
    /// before, in the prompt or the completion (prompt-lookup speculative decoding). 0 turns it off. Faster where
    /// completions repeat texts and few are decoded in parallel. It never changes a result.
    #[schemars(extend("x-decides" = "nothing"))]
    pub prompt_lookup_num_tokens: usize,
    /// Weights that rollouts are sampled with; evaluations always use `f32`. `int8` is faster, but samples from a
    /// slightly different policy. The loss of each token is corrected by its importance weight, the ratio of the two
    /// policies' probabilities.
    #[serde(alias = "rollout_weights")]
    #[schemars(extend("x-aliases" = ["rollout_weights"]))]
    pub rollout_quantization: DecodingWeights,
    /// Maximum of these importance weights (truncated importance sampling; TRL's `vllm_importance_sampling_clip_max`,
    /// formerly `vllm_importance_sampling_cap`).
    pub importance_sampling_cap: f64,

    /// Coefficient of the KL divergence from the reference model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "set by `algorithm`"))]
    pub beta: Option<f64>,
    /// Estimator of the KL divergence.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "set by `algorithm`"))]
    pub kl: Option<KlKind>,
    /// Number of the reference's most likely tokens in the exact KL (report: 500).
    pub kl_top_k: usize,
    /// Whether the KL is part of the reward or of the loss (report: the token-level reward).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "set by `algorithm`"))]
    pub kl_placement: Option<KlPlacement>,
    /// How a KL in the reward is combined with the outcome reward.
    #[serde(alias = "kl_reading")]
    #[schemars(extend("x-aliases" = ["kl_reading"]))]
    pub kl_in_reward: KlInReward,
    /// Whether a KL in the reward is also differentiated directly. As a term of the reward alone it is a constant.
    pub kl_gradient: KlGradient,
    /// Coefficient of the KL divergence from the reference on `ptx_data` (gamma of the report). It is a penalty: the
    /// report adds the term to an objective that is maximised; here it is subtracted.
    pub ptx_coefficient: f64,
    /// Samples of `ptx_data` per optimiser update.
    pub ptx_samples_per_update: usize,

    /// The advantage estimator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(alias = "credit")]
    #[schemars(extend("x-default" = "set by `algorithm`", "x-aliases" = ["credit"]))]
    pub advantage_estimator: Option<AdvantageEstimator>,
    /// Divisor of the centred rewards of a group. The report does not say which standard deviation it uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "set by `algorithm`"))]
    pub scale_rewards: Option<Scale>,
    /// Added to the standard deviation.
    pub advantage_epsilon: f64,
    /// Lower clipping bound: probability ratios are clipped at `1 - epsilon`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "set by `algorithm`"))]
    pub epsilon: Option<f64>,
    /// Upper clipping bound: probability ratios are clipped at `1 + epsilon_high`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "set by `algorithm`"))]
    pub epsilon_high: Option<f64>,
    /// How the losses of the tokens are averaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "set by `algorithm`"))]
    pub loss_type: Option<LossType>,
    /// Level of the probability ratio.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "set by `algorithm`"))]
    pub importance_sampling_level: Option<RatioLevel>,
    /// Replace groups whose rewards are all equal by further prompts (DAPO).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "set by `algorithm`"))]
    pub dynamic_sampling: Option<bool>,
    /// Maximum sampling rounds per step with `dynamic_sampling`.
    pub max_resample_rounds: usize,
    /// Completions that were cut at `max_completion_length` have no loss. Their rewards still count in the mean of
    /// their group, except with `kl_in_reward = "in_outcome"`, which would need their KL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "set by `algorithm`"))]
    pub mask_truncated_completions: Option<bool>,
    /// Drop groups whose mean reward is below this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_group_reward: Option<f64>,
    /// Drop groups whose mean reward is above this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_group_reward: Option<f64>,
    /// Skip prompts of which all or none of the completions passed the last time they were sampled.
    pub curriculum: bool,
    /// A completion passes if its reward is at least this.
    pub pass_reward: f64,
    /// What to do if rewards cannot be computed.
    #[schemars(extend("x-decides" = "outcome"))]
    pub on_unscored_step: OnUnscoredStep,
    /// With `on_unscored_step = "stop"`: number of consecutive steps without a single reward that ends the run.
    #[schemars(extend("x-decides" = "outcome"))]
    pub max_unscored_steps: usize,

    /// Length of the run, and the learning rate by step.
    #[serde(flatten)]
    pub schedule: ScheduleSettings,
    /// AdamW and clipping.
    #[serde(flatten)]
    pub optimizer: OptimizerSettings,
    /// What is evaluated, and when.
    #[serde(flatten)]
    pub evaluation: EvaluationSettings,
    /// What is saved, and when.
    #[serde(flatten)]
    pub checkpoint: CheckpointSettings,
    /// What the run may use of the machine.
    #[serde(flatten)]
    pub resources: ResourceSettings,
    /// Epochs over the completions of a step.
    pub num_iterations: usize,
    /// Minibatches that the completions of a step are divided into, with one optimiser update each.
    pub minibatches: usize,
    /// Token budget of a training pack.
    pub max_tokens_per_pack: usize,
    /// Compute the prompt of a group once for all its completions (prefix sharing).
    pub share_prompts: bool,

    /// Sampling temperature of evaluations; 0 decodes greedily.
    #[schemars(extend("x-decides" = "outcome"))]
    pub eval_temperature: f32,
    /// Completions per prompt in evaluations.
    #[schemars(extend("x-decides" = "outcome"))]
    pub eval_num_generations: usize,
    /// Column with the category of a prompt. Evaluations report the mean reward of each category.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "outcome"))]
    pub category_column: Option<String>,
    /// Save every completion with its rewards and advantages in `rollouts/`.
    #[schemars(extend("x-decides" = "nothing"))]
    pub keep_rollouts: bool,
    /// With LoRA: save the whole model with the adapter merged in, not the adapter alone.
    #[schemars(extend("x-decides" = "outcome"))]
    pub merge_adapter: bool,

    /// What to do with invalid rows: rows that cannot be read.
    pub on_bad_row: OnBadRow,
    /// Layers per activation checkpoint, or `"auto"`. It never changes a result.
    #[schemars(extend("x-decides" = "nothing"))]
    pub layers_per_segment: LayersSetting,

    /// Train LoRA adapters instead of all weights. The reference model is then the model with its adapters disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Tags around the reasoning of a completion, in addition to the known ones and those of the chat template.
    /// Example: `[{ open = "<plan>", close = "</plan>" }]`. Rewards read the answer that follows the reasoning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasoning_marks: Vec<ReasoningMark>,
    /// Training prompts.
    pub data: Vec<SourceConfig>,
    /// Evaluation prompts.
    pub eval_data: Vec<SourceConfig>,
    /// SFT data on which the KL divergence from the reference is penalised (`ptx_coefficient`).
    pub ptx_data: Vec<SourceConfig>,
    /// A trained reward model as a reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<RewardModelReward>,
    /// An LLM judge as a reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeReward>,
    /// Sample rollouts on servers instead of in this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollouts: Option<RolloutsConfig>,
    /// Changes to the rewards of a step before advantages are computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shaping: Option<ShapingConfig>,
    /// Rewards that a program computes. The reward of a completion is the weighted sum of these tables,
    /// `[reward_model]` and `[judge]`.
    pub reward: Vec<RewardConfig>,
}

impl Default for GrpoConfig {
    fn default() -> Self {
        Self {
            schedule: ScheduleSettings {
                num_train_epochs: 1.0,
                max_steps: None,
                learning_rate: 1e-6,
                lr_scheduler_type: ScheduleKind::Constant,
                warmup_ratio: 0.0,
                warmup_steps: None,
                min_lr_ratio: 0.0,
                decay_ratio: 0.1,
            },
            optimizer: OptimizerSettings {
                weight_decay: 0.0,
                adam_beta1: 0.9,
                adam_beta2: 0.999,
                adam_epsilon: 1e-8,
                max_grad_norm: 1.0,
                freeze: Vec::new(),
            },
            evaluation: EvaluationSettings { eval_fraction: 0.0, eval_steps: None, eval_on_start: false },
            checkpoint: CheckpointSettings {
                save_steps: Some(20),
                save_total_limit: 2,
                keep_best: false,
                load_best_model_at_end: false,
                save_dtype: SaveDtype::F32,
            },
            resources: ResourceSettings::default(),
            stage: StageName::Grpo,
            model_name_or_path: String::new(),
            output_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            seed: 0,
            algorithm: Algorithm::default(),
            num_generations: 3,
            prompts_per_step: 16,
            max_prompt_length: 512,
            max_completion_length: 256,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            stop: Vec::new(),
            generation_batch_size: 32,
            prompt_lookup_num_tokens: 0,
            rollout_quantization: DecodingWeights::default(),
            importance_sampling_cap: 2.0,
            beta: None,
            kl: None,
            kl_top_k: 500,
            kl_placement: None,
            kl_in_reward: KlInReward::default(),
            kl_gradient: KlGradient::default(),
            ptx_coefficient: 0.0,
            ptx_samples_per_update: 4,
            advantage_estimator: None,
            scale_rewards: None,
            advantage_epsilon: 1e-4,
            epsilon: None,
            epsilon_high: None,
            loss_type: None,
            importance_sampling_level: None,
            dynamic_sampling: None,
            max_resample_rounds: 4,
            mask_truncated_completions: None,
            min_group_reward: None,
            max_group_reward: None,
            curriculum: false,
            pass_reward: 1.0,
            on_unscored_step: OnUnscoredStep::default(),
            max_unscored_steps: 3,
            num_iterations: 1,
            minibatches: 1,
            max_tokens_per_pack: 2048,
            share_prompts: true,
            eval_temperature: 0.0,
            eval_num_generations: 1,
            category_column: None,
            keep_rollouts: true,
            merge_adapter: false,
            on_bad_row: OnBadRow::default(),
            layers_per_segment: LayersSetting::default(),
            lora: None,
            reasoning_marks: Vec::new(),
            data: Vec::new(),
            eval_data: Vec::new(),
            ptx_data: Vec::new(),
            reward_model: None,
            judge: None,
            rollouts: None,
            shaping: None,
            reward: Vec::new(),
        }
    }
}

impl Recipe for GrpoConfig {
    const STAGES: &'static [StageName] = &[StageName::Grpo];

    fn stage(&self) -> StageName {
        self.stage
    }

    fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    fn resolve_paths(&mut self, folder: &Path) {
        recipe::resolve_run_paths(&mut self.data_dir, &mut self.output_dir, folder);
        if let Some(reward_model) = &mut self.reward_model {
            reward_model.resolve_paths(folder);
        }
        if let Some(judge) = &mut self.judge {
            judge.model.resolve_paths(folder);
        }
        self.reward.iter_mut().for_each(|reward| reward.resolve_paths(folder));
        recipe::resolve_model(&mut self.model_name_or_path, folder);
    }

    /// Fills in the algorithm's preset.
    fn fill_in(&mut self) {
        let preset = self.algorithm.preset();
        self.beta.get_or_insert(preset.beta);
        self.kl.get_or_insert(preset.kl);
        self.kl_placement.get_or_insert(preset.placement);
        self.advantage_estimator.get_or_insert(preset.estimator);
        self.scale_rewards.get_or_insert(preset.scale);
        let low = *self.epsilon.get_or_insert(preset.clip.0);
        let is_symmetric = preset.clip.0 == preset.clip.1;
        self.epsilon_high.get_or_insert(if is_symmetric { low } else { preset.clip.1 });
        self.loss_type.get_or_insert(preset.loss_type);
        self.importance_sampling_level.get_or_insert(preset.level);
        self.dynamic_sampling.get_or_insert(preset.dynamic_sampling);
        self.mask_truncated_completions.get_or_insert(preset.masks_truncated);
    }

    fn find_data<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<Option<PathBuf>, E>) -> Result<(), E> {
        let sources = self.data.iter_mut().chain(&mut self.eval_data).chain(&mut self.ptx_data);
        recipe::find_sources(sources.map(|source| &mut source.path), &self.data_dir, find)
    }

    fn find_models<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        recipe::find_model(&mut self.model_name_or_path, find)?;
        if let Some(reward_model) = &mut self.reward_model {
            reward_model.find(find)?;
        }
        self.judge.iter_mut().try_for_each(|judge| judge.model.find(find))
    }
}

impl GrpoConfig {
    /// The tables that rewards are made of.
    #[must_use]
    pub fn rewards(&self) -> RewardTables<'_> {
        RewardTables {
            reward: &self.reward,
            reward_model: self.reward_model.as_ref(),
            judge: self.judge.as_ref(),
        }
    }

    /// What learns.
    #[must_use]
    pub fn trainable(&self) -> TrainableSpec {
        let lora = self.lora.as_ref().map(|lora| LoraSpec {
            rank: lora.rank,
            alpha: lora.alpha,
            targets: lora.targets.clone(),
        });
        TrainableSpec { lora, frozen: self.optimizer.freeze.clone() }
    }

    /// Estimator of the KL divergence.
    #[must_use]
    pub fn kl(&self) -> KlKind {
        self.kl.unwrap_or(self.algorithm.preset().kl)
    }

    /// Whether fine-tuning data takes part.
    #[must_use]
    pub fn uses_ptx(&self) -> bool {
        self.ptx_coefficient != 0.0 && !self.ptx_data.is_empty()
    }

    /// Whether a reference model is asked for anything.
    #[must_use]
    pub fn needs_reference(&self) -> bool {
        self.kl() != KlKind::None || self.uses_ptx()
    }

    fn is_kl_in_reward(&self) -> bool {
        self.kl() != KlKind::None && self.kl_placement.unwrap_or(KlPlacement::Reward) == KlPlacement::Reward
    }

    /// The advantage estimator.
    #[must_use]
    pub fn advantages(&self) -> AdvantageOptions {
        let beta = self.beta.unwrap_or_default();
        AdvantageOptions {
            rule: self.advantage_estimator.unwrap_or_default(),
            scale: self.scale_rewards.unwrap_or_default(),
            epsilon: self.advantage_epsilon,
            kl_coefficient: if self.is_kl_in_reward() { beta } else { 0.0 },
            kl_in_reward: self.kl_in_reward,
        }
    }

    /// The objective of an update.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let beta = self.beta.unwrap_or_default();
        let kl = match (self.kl(), self.is_kl_in_reward()) {
            _ if beta == 0.0 => KlInLoss::None,
            (KlKind::ExactTopK, true) if self.kl_gradient == KlGradient::Full => KlInLoss::Exact(beta),
            (KlKind::None, _) | (_, true) => KlInLoss::None,
            (KlKind::ExactTopK, false) => KlInLoss::Exact(beta),
            (KlKind::K3, false) => KlInLoss::K3(beta),
        };
        let clip_low = self.epsilon.unwrap_or(0.2);
        Policy {
            temperature: self.temperature,
            // The run knows the tokenizer and sets them.
            excluded: ExcludedTokens::none(),
            clip_low,
            clip_high: self.epsilon_high.unwrap_or(clip_low),
            aggregation: match self.loss_type.unwrap_or(LossType::Grpo) {
                LossType::Grpo => Aggregation::SequenceMean,
                LossType::Dapo => Aggregation::TokenMean,
                LossType::DrGrpo => Aggregation::ConstantLength(self.max_completion_length as u32),
            },
            ratio_level: self.importance_sampling_level.unwrap_or_default(),
            kl,
            ptx_coefficient: if self.uses_ptx() { self.ptx_coefficient } else { 0.0 },
        }
    }

    /// Whether a completion keeps the log-probabilities of the tempered policy that it was sampled from, nothing cut
    /// off.
    pub(super) fn knows_sampling_policy(&self) -> bool {
        self.temperature == 1.0 || !self.cuts_distribution()
    }

    /// Whether unlikely tokens are never sampled.
    pub(super) fn cuts_distribution(&self) -> bool {
        self.top_k != 0 || self.top_p < 1.0 || self.min_p > 0.0
    }

    /// The correction of tokens that another policy sampled than the one that is trained; none where they are the same.
    pub(super) fn importance_sampling_mode(&self) -> ImportanceSamplingMode {
        match (&self.rollouts, self.rollout_quantization) {
            (Some(rollouts), _) => rollouts.importance_sampling_mode,
            (None, DecodingWeights::Int8) => ImportanceSamplingMode::TokenTruncate,
            (None, DecodingWeights::F32) => ImportanceSamplingMode::None,
        }
    }

    /// Optimiser updates of a step.
    #[must_use]
    pub fn updates_per_step(&self) -> u64 {
        (self.num_iterations * self.minibatches) as u64
    }
}
