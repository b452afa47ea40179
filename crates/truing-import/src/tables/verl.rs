//! verl: the dotted keys of `ppo_trainer.yaml`.

use super::*;
use Copied::{Flag, Integer, Number};

pub(crate) static VERL: &[Group] = &[
    // Data
    becomes(&["data.train_files", "data.train_max_samples", "data.prompt_key"], DATA),
    becomes(&["data.val_files", "data.val_max_samples"], EVAL_DATA),
    key(&["data.train_batch_size"], "prompts_per_step", Integer),
    key(&["data.max_prompt_length"], "max_prompt_length", Integer),
    key(&["data.max_response_length"], "max_completion_length", Integer),
    becomes(
        &["data.filter_overlong_prompts", "data.truncation"],
        "prompts longer than `max_prompt_length` are dropped and counted",
    ),
    becomes(&["data.reward_fn_key"], "`[[reward]] sources` names the files a reward is for"),
    becomes(
        &["data.gen_batch_size"],
        "`dynamic_sampling` samples further prompts in rounds of `prompts_per_step`",
    ),
    key(&["data.seed"], "seed", Integer),
    no_effect(&["data.shuffle", "data.validation_shuffle"], SAMPLE_ORDER),
    no_effect(
        &[
            "data.val_batch_size",
            "data.dataloader_num_workers",
            "data.filter_overlong_prompts_workers",
            "data.use_shm",
            "data.return_*",
            "data.tokenizer",
            "data.trust_remote_code",
            "data.num_workers",
        ],
        LOADING,
    ),
    no_effect(&["data.image_*", "data.video_*", "data.audio_*", "data.mm_processor_kwargs"], MEDIA),
    not_available(
        &["data.custom_cls.*", "data.sampler.*", "data.datagen.*"],
        "data are files in the formats of `docs/models-and-data.md`",
    ),
    not_available(
        &["data.apply_chat_template_kwargs", "data.apply_chat_template_kwargs.*"],
        "the chat template gets no further arguments",
    ),
    not_available(&["data.tool_config_path", "data.function_tool_path"], TOOLS_LOOP),
    // Model
    becomes(&["actor_rollout_ref.model.path"], "it is `model_name_or_path`"),
    becomes(
        &["actor_rollout_ref.model.lora_rank", "actor_rollout_ref.model.lora.rank"],
        "it is `[lora] rank`",
    ),
    becomes(
        &["actor_rollout_ref.model.lora_alpha", "actor_rollout_ref.model.lora.alpha"],
        "it is `[lora] alpha`",
    ),
    becomes(
        &["actor_rollout_ref.model.target_modules", "actor_rollout_ref.model.lora.target_modules"],
        TARGETS,
    ),
    becomes(
        &["actor_rollout_ref.model.lora_adapter_path", "actor_rollout_ref.model.lora.adapter_path"],
        "an adapter is named as `model_name_or_path`; with `[lora]` it is trained further",
    ),
    not_available(&["actor_rollout_ref.model.lora.dropout"], DROPOUT),
    not_available(&["actor_rollout_ref.model.exclude_modules", "actor_rollout_ref.model.lora.*"], LORA_OTHER),
    not_available(
        &["actor_rollout_ref.model.custom_chat_template"],
        "GRPO uses the model's own chat template",
    ),
    not_available(
        &["actor_rollout_ref.model.override_config", "actor_rollout_ref.model.override_config.*"],
        "the model is used as its `config.json` describes it",
    ),
    no_effect(
        &[
            "actor_rollout_ref.model.enable_gradient_checkpointing",
            "actor_rollout_ref.model.enable_activation_offload",
        ],
        CHECKPOINTING,
    ),
    no_effect(&["actor_rollout_ref.model.*"], SPEED),
    // Optimiser
    key(&["actor_rollout_ref.actor.optim.lr"], "learning_rate", Number),
    key(&["actor_rollout_ref.actor.optim.weight_decay"], "weight_decay", Number),
    becomes(
        &[
            "actor_rollout_ref.actor.optim.lr_warmup_steps",
            "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio",
        ],
        "it is `warmup_steps` (a number) or `warmup_ratio` (a fraction)",
    ),
    becomes(
        &[
            "actor_rollout_ref.actor.optim.lr_scheduler_type",
            "actor_rollout_ref.actor.optim.warmup_style",
            "actor_rollout_ref.actor.optim.num_cycles",
        ],
        SCHEDULE,
    ),
    key(&["actor_rollout_ref.actor.optim.min_lr_ratio"], "min_lr_ratio", Number),
    becomes(&["actor_rollout_ref.actor.optim.betas"], "these are `adam_beta1` and `adam_beta2`"),
    becomes(
        &["actor_rollout_ref.actor.optim.clip_grad", "actor_rollout_ref.actor.grad_clip"],
        "it is `max_grad_norm`",
    ),
    becomes(
        &[
            "actor_rollout_ref.actor.optim.optimizer",
            "actor_rollout_ref.actor.optim.optimizer_impl",
            "actor_rollout_ref.actor.optim.override_optimizer_config*",
        ],
        OPTIMISER,
    ),
    no_effect(
        &[
            "actor_rollout_ref.actor.optim.total_training_steps",
            "actor_rollout_ref.actor.optim.zero_indexed_step",
        ],
        "the schedule ends with the run",
    ),
    // Actor
    becomes(&["actor_rollout_ref.actor.ppo_mini_batch_size"], "a step has `minibatches` updates"),
    key(&["actor_rollout_ref.actor.ppo_epochs"], "num_iterations", Integer),
    becomes(
        &["actor_rollout_ref.actor.ppo_max_token_len_per_gpu", "actor_rollout_ref.actor.use_dynamic_bsz"],
        "it is `max_tokens_per_pack`",
    ),
    no_effect(
        &[
            "actor_rollout_ref.actor.ppo_micro_batch_size",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu",
        ],
        "micro-batches do not change a result: `max_tokens_per_pack` bounds the memory",
    ),
    becomes(
        &[
            "actor_rollout_ref.actor.clip_ratio",
            "actor_rollout_ref.actor.clip_ratio_low",
            "actor_rollout_ref.actor.clip_ratio_high",
        ],
        "it is `epsilon` and `epsilon_high`",
    ),
    becomes(
        &["actor_rollout_ref.actor.loss_agg_mode"],
        "it is `loss_type`: `dapo` for `token-mean`, `grpo` for `seq-mean-token-mean`, `dr_grpo` for `seq-mean-token-sum-norm`",
    ),
    becomes(
        &["actor_rollout_ref.actor.use_kl_loss", "algorithm.use_kl_in_reward"],
        "it is `kl_placement`, or `kl = \"none\"`",
    ),
    becomes(&["actor_rollout_ref.actor.kl_loss_coef", "algorithm.kl_ctrl.kl_coef"], "it is `beta`"),
    becomes(
        &["actor_rollout_ref.actor.kl_loss_type", "algorithm.kl_penalty"],
        "it is `kl`: `k3` for `low_var_kl`",
    ),
    becomes(
        &["actor_rollout_ref.actor.policy_loss.loss_mode"],
        "`importance_sampling_level = \"sequence\"` is GSPO; other losses are not available",
    ),
    not_available(
        &["actor_rollout_ref.actor.clip_ratio_c"],
        "there is no second clipping of negative advantages (dual-clip)",
    ),
    not_available(&["actor_rollout_ref.actor.entropy_coeff"], ENTROPY),
    not_available(
        &[
            "actor_rollout_ref.actor.policy_loss.*",
            "actor_rollout_ref.actor.tau_pos",
            "actor_rollout_ref.actor.tau_neg",
            "actor_rollout_ref.actor.loss_scale_factor",
        ],
        LOSS_MORE,
    ),
    not_available(&["actor_rollout_ref.actor.qat.*"], QUANTISED),
    no_effect(&["actor_rollout_ref.actor.shuffle", "actor_rollout_ref.actor.data_loader_seed"], SAMPLE_ORDER),
    no_effect(
        &["actor_rollout_ref.actor.checkpoint.*"],
        "a checkpoint has all that a run needs to be continued",
    ),
    no_effect(
        &[
            "actor_rollout_ref.actor.*",
            "actor_rollout_ref.ref.*",
            "actor_rollout_ref.hybrid_engine",
            "actor_rollout_ref.nccl_timeout",
        ],
        SHARDING,
    ),
    // Rollouts
    key(&["actor_rollout_ref.rollout.n"], "num_generations", Integer),
    key(&["actor_rollout_ref.rollout.temperature"], "temperature", Number),
    key(&["actor_rollout_ref.rollout.top_p"], "top_p", Number),
    becomes(&["actor_rollout_ref.rollout.top_k"], "it is `top_k`, and 0 turns it off"),
    becomes(&["actor_rollout_ref.rollout.do_sample"], "a `temperature` above 0 samples"),
    key(&["actor_rollout_ref.rollout.val_kwargs.n"], "eval_num_generations", Integer),
    becomes(
        &[
            "actor_rollout_ref.rollout.val_kwargs.temperature",
            "actor_rollout_ref.rollout.val_kwargs.do_sample",
        ],
        "it is `eval_temperature`",
    ),
    no_effect(
        &["actor_rollout_ref.rollout.val_kwargs.top_k", "actor_rollout_ref.rollout.val_kwargs.top_p"],
        "evaluations sample as rollouts do, at `eval_temperature`",
    ),
    not_available(
        &["actor_rollout_ref.rollout.multi_turn.*", "actor_rollout_ref.rollout.agent.*"],
        TOOLS_LOOP,
    ),
    no_effect(&["actor_rollout_ref.rollout.*"], SAMPLER),
    // Algorithm
    becomes(&["algorithm.adv_estimator"], "it is `algorithm` or `credit`"),
    becomes(&["algorithm.norm_adv_by_std_in_grpo"], "it is `scale_rewards`"),
    key(&["algorithm.filter_groups.enable"], "dynamic_sampling", Flag),
    key(&["algorithm.filter_groups.max_num_gen_batches"], "max_resample_rounds", Integer),
    not_available(
        &["algorithm.filter_groups.*"],
        "`dynamic_sampling` replaces groups whose rewards are all equal",
    ),
    becomes(
        &["algorithm.rollout_correction.rollout_is_threshold"],
        "it is `importance_sampling_cap`, for `rollout_weights = \"int8\"`",
    ),
    no_effect(
        &["algorithm.rollout_correction.rollout_rs_threshold", "algorithm.rollout_correction.*"],
        SAMPLER,
    ),
    no_effect(
        &["algorithm.gamma", "algorithm.lam"],
        "they belong to a critic; without one every token counts alike",
    ),
    not_available(&["algorithm.kl_ctrl.*"], "`beta` is fixed"),
    not_available(&["algorithm.use_pf_ppo", "algorithm.pf_ppo.*"], LOSS_MORE),
    // Rewards
    becomes(
        &[
            "reward.custom_reward_function.path",
            "reward.custom_reward_function.name",
            "custom_reward_function.path",
            "custom_reward_function.name",
        ],
        REWARDS,
    ),
    becomes(
        &[
            "reward.reward_model.enable",
            "reward.reward_model.model_path",
            "reward_model.enable",
            "reward_model.model.path",
        ],
        "it is the table `[reward_model]`",
    ),
    becomes(
        &[
            "reward.reward_manager.name",
            "reward.reward_manager.*",
            "reward_model.reward_manager",
            "reward_model.reward_kwargs.*",
        ],
        REWARDS,
    ),
    becomes(
        &[
            "reward.sandbox_fusion",
            "reward.sandbox_fusion.url",
            "reward.sandbox_fusion.*",
            "sandbox_fusion.*",
            "reward_model.sandbox_fusion.*",
        ],
        "programs run in a sandbox of truing: `[[reward]] kind = { code = {} }`",
    ),
    no_effect(&["reward.num_workers", "reward.reward_model.*", "reward_model.*"], SAMPLER),
    no_effect(&["critic.*"], "there is no critic"),
    // Trainer
    key(&["trainer.total_epochs"], "num_train_epochs", Number),
    key(&["trainer.total_training_steps"], "max_steps", Integer),
    becomes(&["trainer.test_freq"], "it is `eval_steps`"),
    becomes(&["trainer.save_freq"], "it is `save_steps`"),
    becomes(&["trainer.max_actor_ckpt_to_keep"], "it is `save_total_limit`"),
    key(&["trainer.val_before_train"], "eval_on_start", Flag),
    becomes(&["trainer.default_local_dir"], "it is `output_dir`, relative to the recipe"),
    instead(&["trainer.resume_mode", "trainer.resume_from_path"], RESUME),
    instead(&["trainer.val_only"], "`truing reward evaluate` and `truing generate` use a trained model"),
    no_effect(
        &["trainer.rollout_data_dir", "trainer.validation_data_dir", "trainer.log_val_generations"],
        "every completion is kept (`keep_rollouts`); `truing rollouts` shows them",
    ),
    no_effect(&["trainer.logger", "trainer.project_name", "trainer.experiment_name"], LOGGING),
    no_effect(&["trainer.*"], SHARDING),
    not_available(&["distillation.*"], "there is no distillation"),
    no_effect(
        &[
            "ray_kwargs.*",
            "global_profiler.*",
            "transfer_queue.*",
            "skip.*",
            "defaults",
            "hydra",
            "hydra.*",
            "model_engine",
        ],
        SHARDING,
    ),
];
