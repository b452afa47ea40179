//! The checks of a policy run's settings.

use truing_model::{DecoderSpec, DecodingWeights};
use truing_run::checks::{DiskSpace, require_data, require_given, require_output_dir};
use truing_run::{RunError, settings};
use truing_types::PromptRow;

use super::GrpoConfig;
use crate::StageError;
use crate::training::plan::check_trainable;

/// Checks the recipe without opening a file.
pub(super) fn check_recipe(config: &GrpoConfig) -> Result<(), StageError> {
    let is_given = !config.model_name_or_path.is_empty();
    require_given(is_given, "model_name_or_path", "a model directory, a .gguf file or a name")?;
    require_data(&config.data)?;
    if config.evaluation.eval_fraction > 0.0 && !config.eval_data.is_empty() {
        let reason = "rows are held out of `data`, or there are others";
        return Err(RunError::Conflict { first: "eval_fraction", second: "eval_data", reason }.into());
    }
    check(config, config.evaluation.eval_fraction > 0.0 || !config.eval_data.is_empty())?;
    for source in config.data.iter().chain(&config.eval_data) {
        source.in_folder(&config.data_dir).check_as::<PromptRow>()?;
    }
    let mut ptx = config.ptx_data.iter();
    Ok(ptx.try_for_each(|source| source.in_folder(&config.data_dir).check())?)
}

/// Checks the settings that depend on the model.
pub(super) fn check_with_model(config: &GrpoConfig, spec: &DecoderSpec) -> Result<(), StageError> {
    let context = spec.max_position_embeddings;
    if config.max_prompt_length + config.max_completion_length > context {
        return Err(RunError::BadSetting {
            key: "max_completion_length",
            found: config.max_completion_length.to_string(),
            expected: format!("with `max_prompt_length` at most the model's context of {context} tokens"),
        }
        .into());
    }
    config.resources.check_heads(spec)?;
    check_trainable(spec, &config.trainable()).map(drop)
}

/// What a run with so many parameters saves.
pub(super) fn disk_space(config: &GrpoConfig, n_parameters: u64, n_trainable: u64) -> DiskSpace {
    let is_adapter = config.lora.is_some();
    let saves = config.checkpoint.saves_before_end();
    let needed =
        config.checkpoint.disk_bytes(n_parameters, n_trainable, is_adapter, config.merge_adapter, saves);
    let of_rollouts = config.rollouts.as_ref().map_or(0, |rollouts| rollouts.disk_bytes(n_parameters));
    DiskSpace { path: config.output_dir.clone(), needed: needed + of_rollouts }
}

/// Checks numbers against their smallest and largest values.
fn check_numbers(config: &GrpoConfig) -> Result<(), RunError> {
    let bad = |key, found, expected| RunError::BadSetting { key, found, expected };
    let counts = [
        ("num_generations", config.num_generations, 2),
        ("prompts_per_step", config.prompts_per_step, 1),
        ("max_prompt_length", config.max_prompt_length, 1),
        ("max_completion_length", config.max_completion_length, 1),
        ("generation_batch_size", config.generation_batch_size, 1),
        ("kl_top_k", config.kl_top_k, 1),
        ("num_iterations", config.num_iterations, 1),
        ("minibatches", config.minibatches, 1),
        ("max_tokens_per_pack", config.max_tokens_per_pack, 2),
        ("max_resample_rounds", config.max_resample_rounds, 1),
        ("eval_num_generations", config.eval_num_generations, 1),
        ("max_unscored_steps", config.max_unscored_steps, 1),
        ("ptx_samples_per_update", config.ptx_samples_per_update, 1),
    ];
    if let Some((key, found, least)) = counts.into_iter().find(|(_, found, least)| found < least) {
        return Err(bad(key, found.to_string(), format!("at least {least}")));
    }
    let numbers = [
        ("beta", config.beta.unwrap_or_default()),
        ("ptx_coefficient", config.ptx_coefficient),
        ("epsilon", config.epsilon.unwrap_or_default()),
        ("epsilon_high", config.epsilon_high.unwrap_or_default()),
        ("advantage_epsilon", config.advantage_epsilon),
        ("eval_temperature", f64::from(config.eval_temperature)),
    ];
    if let Some((key, found)) = numbers.into_iter().find(|(_, found)| !(found.is_finite() && *found >= 0.0)) {
        return Err(bad(key, found.to_string(), "0 or more".into()));
    }
    let shares = [("min_p", f64::from(config.min_p)), ("top_p", f64::from(config.top_p))];
    if let Some((key, found)) = shares.into_iter().find(|(_, found)| !(0.0..=1.0).contains(found)) {
        return Err(bad(key, found.to_string(), "a share from 0 to 1".into()));
    }
    Ok(())
}

/// Checks the settings that no other step looks at, without model and data. `has_eval` says whether there is anything
/// to evaluate on, as far as is known.
pub(super) fn check(config: &GrpoConfig, has_eval: bool) -> Result<(), StageError> {
    require_output_dir(&config.output_dir, "a folder for the run")?;
    if config.rewards().is_empty() {
        let expected = "at least one [[reward]] table, for instance with `kind = { math_answer = {} }`, a \
                        [reward_model] or a [judge]";
        return Err(RunError::MissingSetting { key: "reward", expected }.into());
    }
    if let Some(shaping) = &config.shaping {
        shaping.check()?;
    }
    settings::check(
        &config.schedule,
        &config.optimizer,
        &config.evaluation,
        &config.checkpoint,
        &config.resources,
        has_eval,
    )?;
    check_numbers(config)?;
    if let Some(rollouts) = &config.rollouts {
        rollouts.check(config)?;
    }
    check_dependencies(config)?;
    // Last: a file that a reward reads may be missing in a plan of a pipeline, and everything else is still checked.
    config.rewards().check()
}

/// Checks settings that need others, and numbers whose limits the error explains.
fn check_dependencies(config: &GrpoConfig) -> Result<(), StageError> {
    let bad = |key, found: String, expected: &str| {
        Err(RunError::BadSetting { key, found, expected: expected.to_owned() }.into())
    };
    match config {
        c if !(c.temperature.is_finite() && c.temperature > 0.0) => bad(
            "temperature",
            c.temperature.to_string(),
            "a number above 0: with greedy decoding all completions of a group are equal and every advantage is 0",
        ),
        // An infinite cap is none.
        c if c.importance_sampling_cap.is_nan() || c.importance_sampling_cap <= 0.0 => {
            bad("importance_sampling_cap", c.importance_sampling_cap.to_string(), "a number above 0")
        }
        c if c.rollout_quantization == DecodingWeights::Int8 && !c.knows_sampling_policy() => bad(
            "rollout_quantization",
            "int8".into(),
            "`temperature = 1`, or no `top_k`, `top_p` and `min_p`: the policy's probabilities are not kept otherwise",
        ),
        c if c.minibatches > c.prompts_per_step => {
            bad("minibatches", c.minibatches.to_string(), "at most `prompts_per_step`: groups are not split")
        }
        c if c.ptx_coefficient != 0.0 && c.ptx_data.is_empty() => bad(
            "ptx_coefficient",
            c.ptx_coefficient.to_string(),
            "a [[ptx_data]] table, which this setting requires",
        ),
        c if c.lora.as_ref().is_some_and(|lora| lora.rank == 0) => bad("lora.rank", "0".into(), "at least 1"),
        GrpoConfig { lora: Some(lora), .. } if !(lora.alpha.is_finite() && lora.alpha > 0.0) => {
            bad("lora.alpha", lora.alpha.to_string(), "a number above 0")
        }
        c if c.merge_adapter && c.lora.is_none() => {
            bad("merge_adapter", "true".into(), "a [lora] table, which this setting requires")
        }
        _ => Ok(()),
    }
}
