//! GRPO and RLOO with the keys of TRL, which axolotl has in a block.

use crate::SourceStage;
use crate::error::ImportError;
use crate::job::{Job, as_number, as_text};
use crate::recipe::{self, Line, number, string};
use crate::training::{self, Defaults, Names};
use crate::yaml::Value;

type Result<T> = std::result::Result<T, ImportError>;

const TRL_DEFAULTS: Defaults = Defaults {
    learning_rate: 1e-6,
    epochs: 3.0,
    scheduler: "linear",
    warmup_ratio: 0.0,
    rows: 8,
    save_steps: Some(500),
};
const AXOLOTL_DEFAULTS: Defaults = Defaults {
    learning_rate: 1e-6,
    epochs: 1.0,
    scheduler: "cosine",
    warmup_ratio: 0.03,
    rows: 1,
    save_steps: None,
};

/// `before` is the prefix of the keys: empty, or `trl.`.
///
/// True if there are evaluations with data of their own.
pub(crate) fn trl(job: &mut Job<'_>, before: &str, stage: SourceStage) -> Result<bool> {
    let is_trl = before.is_empty();
    let names: &Names = if is_trl { &training::TRANSFORMERS } else { &training::AXOLOTL };
    let defaults = if is_trl { TRL_DEFAULTS } else { AXOLOTL_DEFAULTS };
    let key = |name: &str| format!("{before}{name}");
    let is_rloo = stage == SourceStage::Rloo;
    job.set(
        "algorithm",
        string(if is_rloo { "rloo" } else { "grpo" }),
        "the keys below replace its settings",
    );
    let updates = step(job, &key, is_rloo, names, &defaults)?;
    completions(job, &key, is_trl)?;
    loss(job, &key, is_rloo)?;
    training::schedule(job, names, &defaults, updates)?;
    training::saving(job, defaults.save_steps, true)?;
    if updates > 1 {
        for name in ["save_steps", "eval_steps"] {
            if job.has(name) {
                job.changed(name, format!("counted in steps of GRPO, each of {updates} updates"));
            }
        }
    }
    if job.take("logging_steps").is_some() {
        job.not_needed("logging_steps", "metrics are written at each step");
    }
    let has_evaluations = is_trl && training::evaluation(job, "no", 10, true)?;
    rewards(job, &key)?;
    Ok(has_evaluations)
}

/// Prompts, completions and minibatches of a step. Returns its number of updates.
fn step(
    job: &mut Job<'_>,
    key: &dyn Fn(&str) -> String,
    is_rloo: bool,
    names: &Names,
    defaults: &Defaults,
) -> Result<u64> {
    let step = training::step(job, names, defaults)?;
    let accumulation = job.peek(names.accumulation).and_then(as_number).map_or(1, |n| n as u64).max(1);
    let generations = match job.copy_count(&key("num_generations"), "num_generations")? {
        Some(generations) => generations,
        None => {
            let generations = if is_rloo { 2 } else { 8 };
            job.default("num_generations", generations.to_string());
            generations
        }
    };
    let per_update = step.total;
    let generated =
        match (job.count(&key("generation_batch_size"))?, job.count(&key("steps_per_generation"))?) {
            (Some(completions), _) => completions,
            (None, Some(steps)) => (per_update / accumulation).saturating_mul(steps),
            (None, None) => per_update,
        };
    for name in ["generation_batch_size", "steps_per_generation"] {
        if job.has(&key(name)) {
            job.changed(&key(name), "`prompts_per_step` and `minibatches`");
        }
    }
    let prompts = (generated / generations).max(1);
    let minibatches = (generated / per_update).max(1);
    job.set(
        "prompts_per_step",
        prompts.to_string(),
        format!("{generated} completions of a generation / {generations}"),
    );
    if minibatches > 1 {
        job.set(
            "minibatches",
            minibatches.to_string(),
            format!("{generated} completions / {per_update} of an update"),
        );
    }
    job.changed(
        names.rows,
        format!(
            "`prompts_per_step = {prompts}`: {} completions in an update ({}), {generated} in a generation, \
             {generations} for each prompt",
            per_update, step.formula
        ),
    );
    if job.has(names.accumulation) {
        job.changed(names.accumulation, "part of `prompts_per_step`");
    }
    let iterations = job.copy_count(&key("num_iterations"), "num_iterations")?.unwrap_or(1);
    Ok(minibatches.saturating_mul(iterations))
}

/// Lengths of prompts and completions, and how they are sampled.
fn completions(job: &mut Job<'_>, key: &dyn Fn(&str) -> String, is_trl: bool) -> Result<()> {
    if job.copy_count(&key("max_completion_length"), "max_completion_length")?.is_none() {
        job.default("max_completion_length", "512".to_owned());
    }
    if !is_trl && job.take("sequence_len").is_some() {
        job.not_needed("sequence_len", "prompts and completions have limits of their own");
    }
    if !is_trl || job.copy_count("max_prompt_length", "max_prompt_length")?.is_none() {
        job.set("max_prompt_length", "2048".to_owned(), "no limit there");
        job.changed(
            "max_prompt_length",
            "`max_prompt_length = 2048`: TRL takes prompts of any length; here longer ones are dropped and \
             counted",
        );
    }
    if let Some(top_k) = job.integer(&key("top_k"))? {
        job.translated(&key("top_k"), "top_k", top_k.max(0).to_string());
    }
    if let Some(kwargs) = job.take(&key("generation_kwargs")) {
        let stop = kwargs.get("stop").or_else(|| kwargs.get("stop_strings"));
        if let Some(node) = stop {
            let strings = match &node.value {
                Value::Text(text) => vec![text.clone()],
                _ => job.texts_of(&key("generation_kwargs"), node)?,
            };
            job.set("stop", recipe::strings(&strings), "generation_kwargs");
            job.note_translated(&key("generation_kwargs"), "`stop`");
        }
        let only_stop = matches!(&kwargs.value, Value::Table(pairs)
            if pairs.iter().all(|pair| pair.key.starts_with("stop")));
        if !only_stop {
            job.missing(&key("generation_kwargs"), "of its keys only the strings that end a completion");
        }
    }
    Ok(())
}

fn loss(job: &mut Job<'_>, key: &dyn Fn(&str) -> String, is_rloo: bool) -> Result<()> {
    kl(job, key, is_rloo)?;
    if !job.has(&key("epsilon")) {
        job.default("epsilon", number(0.2));
        if !job.has(&key("epsilon_high")) {
            job.default("epsilon_high", number(0.2));
        }
    } else if !job.has(&key("epsilon_high"))
        && let Some(epsilon) = job.peek(&key("epsilon")).and_then(as_number)
    {
        job.set("epsilon_high", number(epsilon), "the same as epsilon");
    }
    if is_rloo {
        rloo(job)?;
    } else {
        grpo(job, key)?;
    }
    for name in ["vllm_importance_sampling_clip_max", "vllm_importance_sampling_cap"] {
        if job.take(&key(name)).is_some() {
            job.not_needed(
                &key(name),
                "the policy samples with the weights that are trained; with `rollout_quantization = \
                 \"int8\"` or `[rollouts]` there is `importance_sampling_cap`",
            );
        }
    }
    Ok(())
}

fn kl(job: &mut Job<'_>, key: &dyn Fn(&str) -> String, is_rloo: bool) -> Result<()> {
    let from = key("beta");
    let from = if !job.has(&from) && job.has("rl_beta") { "rl_beta".to_owned() } else { from };
    let beta = job.number(&from)?;
    let default = if is_rloo { 0.05 } else { 0.0 };
    let value = beta.unwrap_or(default);
    if value == 0.0 {
        job.set(
            "kl",
            string("none"),
            if beta.is_some() { format!("{from} 0") } else { format!("beta 0, default of {}", job.tool) },
        );
        job.set("beta", number(0.0), "");
        if beta.is_some() {
            job.note_translated(&from, "`kl = \"none\"`");
        }
    } else {
        match beta {
            Some(_) => job.translated(&from, "beta", number(value)),
            None => job.default("beta", number(value)),
        }
        job.set("kl", string("k3"), "TRL's estimator");
        job.set("kl_placement", string(if is_rloo { "reward" } else { "loss" }), "as in TRL");
        if is_rloo {
            job.changed(&from, "the KL is k3, in TRL the log-ratio of the sampled tokens");
        }
    }
    Ok(())
}

/// What only RLOO's trainer has.
fn rloo(job: &mut Job<'_>) -> Result<()> {
    if job.flag("normalize_advantages")? == Some(true) {
        job.missing(
            "normalize_advantages",
            "RLOO's advantages are not normalised over the batch; `algorithm = \"reinforce_plus_plus\"` does \
             it with the mean of the group",
        );
    }
    if let Some(range) = job.take("reward_clip_range") {
        match &range.value {
            Value::List(items) if items.len() == 2 => {
                let ends: Vec<String> = items.iter().filter_map(as_number).map(number).collect();
                if ends.len() != 2 {
                    return Err(job.misfit("reward_clip_range", range, "two numbers"));
                }
                job.translated("reward_clip_range", "shaping.clip", format!("[{}]", ends.join(", ")));
            }
            _ => return Err(job.misfit("reward_clip_range", range, "two numbers")),
        }
    }
    Ok(())
}

/// What only GRPO's trainer has.
fn grpo(job: &mut Job<'_>, key: &dyn Fn(&str) -> String) -> Result<()> {
    let from = key("loss_type");
    let name = job.text(&from)?;
    match name.as_deref().unwrap_or("dapo") {
        own @ ("grpo" | "dapo" | "dr_grpo") if name.is_some() => {
            job.translated(&from, "loss_type", string(own))
        }
        "dapo" => job.default("loss_type", string("dapo")),
        "bnpo" => {
            job.set("loss_type", string("dapo"), format!("{from} bnpo"));
            job.changed(
                &from,
                "`loss_type = \"dapo\"`: the mean over the tokens of the whole step, in `bnpo` of each \
                 device",
            );
        }
        other => {
            return Err(job.refused(
                &from,
                format!("the loss `{other}` is not available, expected grpo, dapo, dr_grpo or bnpo"),
            ));
        }
    }
    scale(job, &key("scale_rewards"))?;
    let from = key("importance_sampling_level");
    match job.text(&from)?.as_deref() {
        None => {}
        Some(own @ ("token" | "sequence")) => job.translated(&from, "importance_sampling_level", string(own)),
        Some(other) => job.missing(&from, format!("no level `{other}`, only `token` and `sequence`")),
    }
    Ok(())
}

fn scale(job: &mut Job<'_>, from: &str) -> Result<()> {
    // It was a flag in earlier versions.
    let name = match job.peek(from).map(|node| &node.value) {
        Some(Value::Bool(true)) => Some("group".to_owned()),
        Some(Value::Bool(false)) => Some("none".to_owned()),
        _ => job.peek(from).and_then(as_text),
    };
    job.take(from);
    match name.as_deref() {
        None => job.default("scale_rewards", string("sample_deviation")),
        Some("group") => job.translated(from, "scale_rewards", string("sample_deviation")),
        Some("none") => job.translated(from, "scale_rewards", string("none")),
        Some("batch") => job.translated(from, "advantage_estimator", string("normalised_over_batch")),
        Some(other) => {
            return Err(job.refused(from, format!("`{from}` is `{other}`, expected group, batch or none")));
        }
    }
    Ok(())
}

fn rewards(job: &mut Job<'_>, key: &dyn Fn(&str) -> String) -> Result<()> {
    let from = key("reward_funcs");
    let names = job.texts(&from)?.unwrap_or_default();
    let weights = match job.take(&key("reward_weights")).map(|node| &node.value) {
        Some(Value::List(items)) => items.iter().map(as_number).collect(),
        _ => Vec::new(),
    };
    if job.has(&key("reward_weights")) {
        job.note_translated(&key("reward_weights"), "`weight` of the rewards");
    }
    // TRL puts the model of `reward_model_name_or_path` before the functions.
    let mut weights = weights.into_iter();
    let mut weight = || weights.next().flatten().filter(|&weight| weight != 1.0);
    let mut has_model = false;
    if let Some(name) = job.text("reward_model_name_or_path")? {
        let model = job.model(&name, None);
        job.translated("reward_model_name_or_path", "reward_model.model_name_or_path", string(&model));
        if let Some(weight) = weight() {
            job.set("reward_model.weight", number(weight), "reward_weights");
        }
        has_model = true;
    }
    for name in &names {
        let weight = weight();
        let kind = match name.rsplit('.').next().unwrap_or(name) {
            "accuracy_reward" | "reasoning_accuracy_reward" => {
                Some("{ math_answer = { column = \"solution\" } }")
            }
            "think_format_reward" => Some("{ format = { pattern = '(?s)^<think>.*?</think>' } }"),
            _ => None,
        };
        let Some(kind) = kind else {
            job.missing(
                &from,
                format!(
                    "the function `{name}`: there are no rewards in Python; see the kinds of `[[reward]]`, \
                     or ask a `[judge]`"
                ),
            );
            continue;
        };
        let mut lines = vec![Line::new("kind", kind.to_owned(), name.clone())];
        if let Some(weight) = weight {
            lines.push(Line::new("weight", number(weight), "reward_weights"));
        }
        job.recipe.push("reward", lines);
        let differs = if kind.contains("math_answer") {
            "which parses answers in its own way"
        } else {
            "one block at the beginning"
        };
        job.changed(&from, format!("`{name}` is `kind = {kind}`, {differs}"));
    }
    if !has_model && !job.recipe.has_list("reward") {
        job.missing(
            &from,
            "the recipe has no reward yet: add tables `[[reward]]`, `[reward_model]` or `[judge]`",
        );
    }
    Ok(())
}
