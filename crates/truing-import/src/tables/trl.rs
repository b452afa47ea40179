//! TRL: `SFTConfig`, `DPOConfig`, `KTOConfig`, `ORPOConfig`, `CPOConfig`, `RewardConfig`, `GRPOConfig`, `RLOOConfig`,
//! `ModelConfig`, `ScriptArguments`, `DatasetMixtureConfig`.

use super::*;
use Copied::{Flag, Integer, Number};

pub(crate) static TRL: &[Group] = &[
    // ModelConfig
    becomes(&["model_name_or_path"], "it is `model_name_or_path`"),
    becomes(&["model_revision"], MODEL_REVISION),
    becomes(
        &["use_peft", "lora_r", "lora_alpha"],
        "a table `[lora]` with `rank` and `alpha` trains adapters",
    ),
    becomes(&["lora_target_modules"], TARGETS),
    becomes(&["use_rslora"], "rank-stabilised LoRA is LoRA with `[lora] alpha` times the root of the rank"),
    not_available(&["lora_dropout"], DROPOUT),
    not_available(&["use_dora"], DORA),
    not_available(&["lora_modules_to_save", "lora_target_parameters"], LORA_OTHER),
    not_available(
        &[
            "load_in_8bit",
            "load_in_4bit",
            "bnb_4bit_quant_type",
            "use_bnb_nested_quant",
            "bnb_4bit_quant_storage",
            "bnb_4bit_compute_dtype",
        ],
        QUANTISED,
    ),
    no_effect(&["lora_task_type"], "the stage says it"),
    no_effect(&["dtype", "torch_dtype", "cast_lm_head_to_fp32"], NUMBERS),
    no_effect(&["attn_implementation", "use_kernels", "cache_implementation"], SPEED),
    no_effect(&["trust_remote_code", "model_init_kwargs"], CODE),
    // ScriptArguments and DatasetMixtureConfig
    becomes(&["dataset_name", "dataset_config", "dataset_train_split", "datasets", "data_files"], DATA),
    becomes(&["dataset_test_split", "eval_dataset"], EVAL_DATA),
    becomes(&["test_split_size"], "it is `eval_fraction`"),
    no_effect(
        &["dataset_streaming", "streaming", "dataset_num_proc", "dataset_kwargs", "dataset_batch_size"],
        LOADING,
    ),
    no_effect(&["ignore_bias_buffers", "config"], SPEED),
    // SFTConfig and what several have
    becomes(
        &["max_length", "max_seq_length"],
        "it is `max_length`, and `long_samples` says what becomes of longer samples",
    ),
    becomes(
        &["truncation_mode"],
        "it is `long_samples`, which keeps the beginning of long samples or drops them",
    ),
    becomes(&["packing", "packing_strategy"], "samples are packed and isolated unless `packing = \"none\"`"),
    no_effect(
        &["padding_free", "pad_to_multiple_of", "pad_token", "padding_value", "eval_packing"],
        "there is no padding",
    ),
    becomes(&["dataset_text_field"], "the column of a format is mapped by `[[data]] columns`"),
    becomes(&["chat_template_path"], "it is `chat_template`, a Jinja file"),
    becomes(&["assistant_only_loss", "completion_only_loss"], LOSS_TURNS),
    becomes(&["eos_token"], TOKENS),
    no_effect(&["shuffle_dataset"], SAMPLE_ORDER),
    not_available(&["router_aux_loss_coef"], AUXILIARY),
    no_effect(
        &["disable_dropout", "is_encoder_decoder", "generate_during_eval"],
        "models run without dropout",
    ),
    // Preferences
    becomes(&["loss_type"], "it is `[preference] loss`, in GRPO `loss_type`"),
    becomes(
        &["loss_weights", "rpo_alpha", "cpo_alpha"],
        "the weight of the additional SFT loss is `[preference] rpo_alpha`",
    ),
    becomes(&["beta"], "it is `[preference] beta`, in GRPO `beta`"),
    key(&["label_smoothing"], "preference.label_smoothing", Number),
    key(&["simpo_gamma"], "preference.simpo_gamma", Number),
    key(&["desirable_weight"], "preference.desirable_weight", Number),
    key(&["undesirable_weight"], "preference.undesirable_weight", Number),
    key(&["center_rewards_coefficient"], "reward_model.center_rewards_coefficient", Number),
    no_effect(
        &["precompute_ref_log_probs", "precompute_ref_batch_size", "reference_free", "force_use_ref_model"],
        "the reference's log-probabilities are always computed once, before the first step",
    ),
    not_available(&["sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"], REFERENCE),
    not_available(
        &[
            "ld_alpha",
            "f_divergence_type",
            "f_alpha_divergence_coef",
            "use_weighting",
            "discopop_tau",
            "alpha",
        ],
        "the losses are `sigmoid`, `sigmoid_norm`, `robust`, `ipo`, `hinge`, `simpo`, `orpo` and `kto`",
    ),
    // GRPOConfig and RLOOConfig
    key(&["num_generations"], "num_generations", Integer),
    key(&["num_generations_eval"], "eval_num_generations", Integer),
    becomes(
        &["max_completion_length"],
        "it is `max_completion_length` of GRPO; preferences have `max_length` alone",
    ),
    becomes(&["max_prompt_length"], "it is `max_prompt_length` of GRPO; preferences have `max_length` alone"),
    becomes(
        &["generation_batch_size", "steps_per_generation"],
        "a step has `prompts_per_step` prompts with `num_generations` completions each, and `minibatches` updates; \
         `generation_batch_size` is the number of completions that are decoded together",
    ),
    key(&["temperature"], "temperature", Number),
    key(&["top_p"], "top_p", Number),
    key(&["top_k"], "top_k", Integer),
    key(&["min_p"], "min_p", Number),
    becomes(&["generation_kwargs"], "strings that end a completion are `stop`"),
    key(&["num_iterations"], "num_iterations", Integer),
    key(&["epsilon"], "epsilon", Number),
    key(&["epsilon_high"], "epsilon_high", Number),
    becomes(&["importance_sampling_level"], "it is `importance_sampling_level` (`token` or `sequence`)"),
    becomes(
        &["scale_rewards"],
        "it is `scale_rewards`, or `advantage_estimator = \"normalised_over_batch\"` for the batch",
    ),
    key(&["mask_truncated_completions"], "mask_truncated_completions", Flag),
    becomes(&["reward_funcs", "reward_weights"], REWARDS),
    becomes(&["reward_model_name_or_path"], "it is `[reward_model] model_name_or_path`"),
    becomes(&["reward_clip_range"], "it is `[shaping] clip`"),
    becomes(
        &["normalize_advantages"],
        "`advantage_estimator = \"normalised_over_batch\"` does it, with the mean of the group",
    ),
    becomes(
        &["vllm_importance_sampling_clip_max", "vllm_importance_sampling_cap"],
        "it is `importance_sampling_cap`, for `rollout_quantization = \"int8\"` and `[rollouts]`",
    ),
    no_effect(
        &[
            "use_vllm",
            "vllm_importance_sampling_clip_min",
            "vllm_*",
            "use_transformers_*",
            "transformers_*",
            "ds3_gather_for_generation",
        ],
        SAMPLER,
    ),
    no_effect(
        &[
            "log_completions",
            "log_multimodal",
            "num_completions_to_print",
            "log_unique_prompts",
            "log_completions_hub_repo",
            "wandb_log_unique_prompts",
        ],
        "every completion is kept (`keep_rollouts`); `truing rollouts` shows them",
    ),
    not_available(
        &[
            "entropy_coef",
            "use_adaptive_entropy",
            "entropy_coef_min",
            "entropy_coef_max",
            "entropy_coef_delta",
            "entropy_target",
            "top_entropy_quantile",
        ],
        ENTROPY,
    ),
    not_available(
        &["repetition_penalty"],
        "sampling has no repetition penalty; `[[reward]] kind = { repetition = {} }` is a reward",
    ),
    not_available(&["chat_template_kwargs"], "the chat template gets no further arguments"),
    not_available(&["max_tool_calling_iterations"], TOOLS_LOOP),
    not_available(
        &["multi_objective_aggregation"],
        "rewards are summed with their weights; `[shaping] standardise` normalises them before",
    ),
    not_available(
        &["delta", "sapo_*", "vespo_*", "off_policy_mask_threshold", "use_bias_correction_kl"],
        LOSS_MORE,
    ),
];

pub(crate) static TRL_DATA: &[Group] = &[
    becomes(&["path", "name", "data_dir", "data_files", "split"], DATA),
    becomes(&["columns"], "`[[data]] columns` maps the format's columns to those of the file"),
    becomes(&["fraction"], "it is `[[data]] weight` (a part of the samples in each epoch), or `max_samples`"),
    becomes(&["chosen", "rejected", "margin"], "these are columns of the format `pair`"),
];
