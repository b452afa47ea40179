//! axolotl: the YAML of `axolotl train`.

mod data_sets;

use data_sets::{Rows, data_sets};

use crate::error::ImportError;
use crate::job::{Job, as_flag, as_number, as_text};
use crate::recipe::{number, string};
use crate::training::{self, AXOLOTL as NAMES, Defaults, Targets};
use crate::yaml::Value;
use crate::{SourceStage, grpo, stages};

type Result<T> = std::result::Result<T, ImportError>;

pub(crate) fn import(job: &mut Job<'_>) -> Result<&'static str> {
    if job.has("pretraining_dataset") {
        return Err(job.refused(
            "pretraining_dataset",
            "pretraining is not available; the format `text` of `truing sft` trains on raw text",
        ));
    }
    if job.peek("process_reward_model").and_then(as_flag) == Some(true) {
        return Err(job.refused("process_reward_model", "process reward models are not available"));
    }
    let rl = job.text("rl")?;
    let is_reward_model = job.flag("reward_model")? == Some(true);
    let (stage, rows) = match rl.as_deref() {
        None if is_reward_model => ("reward_model", Rows::Pairs),
        None => ("sft", Rows::Training),
        Some("dpo" | "ipo" | "orpo" | "simpo") => ("dpo", Rows::Pairs),
        Some("kto") => ("dpo", Rows::Unpaired),
        Some("grpo") => ("grpo", Rows::Prompts),
        Some(other) => {
            let reason =
                format!("`rl: {other}` is not available, expected dpo, ipo, orpo, simpo, kto or grpo");
            return Err(job.refused("rl", reason));
        }
    };
    stages::begin(job, stage);
    if job.has("rl") {
        job.note_translated("rl", &format!("`stage = \"{stage}\"`"));
    }
    if is_reward_model {
        job.note_translated("reward_model", "`stage = \"reward_model\"`");
    }
    common(job)?;
    if stage == "grpo" {
        grpo::trl(job, "trl.", SourceStage::Grpo)?;
    } else {
        fixed(job, stage, rows, rl.as_deref())?;
    }
    evaluation(job, stage == "grpo")?;
    let n_sets = data_sets(job, "datasets", "data", rows)?;
    if n_sets == 0 {
        return Err(ImportError::NoData { path: job.path.to_path_buf(), key: "datasets" });
    }
    data_sets(job, "test_datasets", "eval_data", rows)?;
    Ok(stage)
}

/// Model, adapters, output folder.
fn common(job: &mut Job<'_>) -> Result<()> {
    let mut revision = job.text("revision_of_model")?;
    if revision.is_none() {
        revision = job.text("model_revision")?;
    }
    let base = job.text("base_model")?;
    let adapter = job.text("adapter")?;
    let earlier = job.text("lora_model_dir")?;
    match (&earlier, &base) {
        (Some(folder), _) => {
            let model = job.model(folder, None);
            job.set("model_name_or_path", string(&model), "lora_model_dir, an adapter that names its base");
            job.changed("lora_model_dir", "`model_name_or_path`: the base is the one that the adapter names");
            if base.is_some() {
                job.changed("base_model", "the base is the one that the adapter in `lora_model_dir` names");
            }
        }
        (None, Some(name)) => {
            let model = job.model(name, revision.as_deref());
            job.translated("base_model", "model_name_or_path", string(&model));
        }
        (None, None) => {}
    }
    for key in ["revision_of_model", "model_revision"] {
        if job.has(key) {
            job.note_translated(key, "part of `model_name_or_path`");
        }
    }
    let output = job.text("output_dir")?;
    let path = job.output_path(output.as_deref().unwrap_or("./model-out"));
    match output {
        Some(_) => job.translated("output_dir", "output_dir", string(&path)),
        None => job.default("output_dir", string(&path)),
    }
    match adapter.as_deref() {
        None => {
            for key in [
                "lora_r",
                "lora_alpha",
                "lora_dropout",
                "lora_target_modules",
                "lora_target_linear",
                "peft_use_rslora",
            ] {
                if job.take(key).is_some() {
                    job.not_needed(key, "`adapter` is not set");
                }
            }
        }
        Some(name @ ("lora" | "qlora")) => {
            if name == "qlora" {
                job.changed(
                    "adapter",
                    "LoRA on a base in full precision, which needs more memory than QLoRA",
                );
            } else {
                job.note_translated("adapter", "the table `[lora]`");
            }
            adapters(job)?;
        }
        Some(other) => {
            return Err(
                job.refused("adapter", format!("adapters `{other}` are not available, only lora and qlora"))
            );
        }
    }
    template(job)
}

fn adapters(job: &mut Job<'_>) -> Result<()> {
    training::rank_and_alpha(job, ["lora_r", "lora_alpha", "peft_use_rslora"], 8, |_| 16.0)?;
    let all = job.flag("lora_target_linear")? == Some(true);
    let given = match job.peek("lora_target_modules").and_then(as_text) {
        Some(text) if text == "all-linear" => {
            job.take("lora_target_modules");
            None
        }
        _ => job.texts("lora_target_modules")?,
    };
    match given {
        Some(names) if !all => training::targets(job, "lora_target_modules", Targets::Names(names)),
        _ if all => {
            if job.has("lora_target_modules") {
                job.not_needed("lora_target_modules", "`lora_target_linear` names all layers");
            }
            training::targets(job, "lora_target_linear", Targets::All);
        }
        _ => training::targets(job, "lora_target_modules", Targets::All),
    }
    Ok(())
}

fn template(job: &mut Job<'_>) -> Result<()> {
    let named = job.text("chat_template")?;
    let jinja = job.text("chat_template_jinja")?;
    let has_key = job.order().contains(&"chat_template");
    match jinja {
        Some(jinja) if jinja.contains(['{', '\n']) => {
            job.missing(
                "chat_template_jinja",
                "the template is written in the YAML: save it as a file and name it as `chat_template`",
            );
        }
        Some(_) if !has_key => job.missing("chat_template_jinja", "GRPO uses the model's own chat template"),
        Some(path) => {
            let path = job.recipe_path(&path);
            job.translated("chat_template_jinja", "chat_template", string(&path));
        }
        None => {}
    }
    match named.as_deref() {
        None => {}
        Some("tokenizer_default" | "jinja") => {
            job.not_needed("chat_template", "the model's own template is used, or the Jinja file")
        }
        Some(name) => job.changed(
            "chat_template",
            format!(
                "the model's own chat template is used instead of axolotl's `{name}`; to use that one, save \
                 it as a Jinja file and name it as `chat_template`"
            ),
        ),
    }
    Ok(())
}

/// Training on fixed data.
fn fixed(job: &mut Job<'_>, stage: &str, rows: Rows, rl: Option<&str>) -> Result<()> {
    let learning_rate = if stage == "sft" { 2e-5 } else { 1e-6 };
    let defaults = Defaults {
        learning_rate,
        epochs: 1.0,
        scheduler: "cosine",
        warmup_ratio: 0.03,
        rows: 1,
        save_steps: None,
    };
    let step = training::step(job, &NAMES, &defaults)?;
    training::length(job, "sequence_len", 512, rows == Rows::Pairs)?;
    let is_packed = job.flag("sample_packing")? == Some(true) && stage == "sft";
    if job.has("sample_packing") {
        job.note_translated(
            "sample_packing",
            if is_packed { "the default: samples are packed and isolated" } else { "`packing = \"none\"`" },
        );
    }
    let what = if rows == Rows::Pairs { "pair" } else { "sample" };
    training::packs(job, &NAMES, &step, is_packed, what);
    match job.text("excess_length_strategy")?.as_deref() {
        None => job.default("long_samples", string("drop")),
        Some(name) => {
            let own = match name {
                "truncate" => "truncate",
                "raise" => "error",
                _ => "drop",
            };
            job.translated("excess_length_strategy", "long_samples", string(own));
        }
    }
    if !job.has("warmup_steps") && !job.has("warmup_ratio") {
        job.changed("warmup_ratio", "3 % of the steps, in axolotl not more than 100 steps");
    }
    training::schedule(job, &NAMES, &defaults, 1)?;
    training::logging(job)?;
    saving(job)?;
    match stage {
        "sft" => {
            if job.flag("train_on_inputs")? == Some(true) {
                job.missing(
                    "train_on_inputs",
                    "assistant turns alone carry loss; turns set theirs in the data with `weight` or `loss`",
                );
            } else if job.has("train_on_inputs") {
                job.note_translated("train_on_inputs", "the default: assistant turns carry loss");
            }
        }
        "reward_model" => {
            job.set("reward_model.mse_coefficient", number(0.0), "plain Bradley-Terry, as axolotl trains")
        }
        _ => preferences(job, rl.unwrap_or("dpo"))?,
    }
    Ok(())
}

fn preferences(job: &mut Job<'_>, rl: &str) -> Result<()> {
    let given = job.texts("dpo_loss_type")?;
    let first = given.as_ref().and_then(|names| names.first()).cloned();
    let is_normed = job.flag("dpo_norm_loss")? == Some(true);
    let name = match (rl, first.as_deref()) {
        ("dpo", Some(name)) => name,
        ("dpo", None) if is_normed => "sigmoid_norm",
        ("dpo", None) => "sigmoid",
        (rl, _) => rl,
    };
    let Some(own) = training::loss(name) else {
        let reason = format!(
            "the loss `{name}` is not available, expected sigmoid, sigmoid_norm, robust, ipo, hinge, simpo, orpo or kto"
        );
        return Err(job.refused("dpo_loss_type", reason));
    };
    job.set("preference.loss", string(own), format!("rl {rl}"));
    if let Some(names) = given {
        job.note_translated("dpo_loss_type", "`[preference] loss`");
        let weights = job.take("dpo_loss_weights");
        let weight = |i: usize| match weights.map(|node| &node.value) {
            Some(Value::List(items)) => items.get(i).and_then(as_number).unwrap_or(1.0),
            _ => 1.0,
        };
        if names.len() == 2 && names[1] == "sft" && weight(0) > 0.0 {
            job.set(
                "preference.rpo_alpha",
                number(weight(1) / weight(0)),
                "dpo_loss_weights of `sft` and the first loss",
            );
        } else if names.len() > 1 {
            job.missing(
                "dpo_loss_type",
                format!(
                    "of several losses only the first, optionally with `sft`; not {}",
                    names[1..].join(", ")
                ),
            );
        }
    }
    let mut has_beta = false;
    for key in ["rl_beta", "dpo_beta", "orpo_alpha"] {
        if !has_beta && job.copy_number(key, "preference.beta")?.is_some() {
            has_beta = true;
        }
    }
    if !has_beta {
        job.default("preference.beta", number(0.1));
    }
    if rl == "simpo" {
        let alpha = job.number("cpo_alpha")?;
        job.set(
            "preference.rpo_alpha",
            number(alpha.unwrap_or(1.0)),
            if alpha.is_some() { "cpo_alpha" } else { "cpo_alpha, default of TRL" },
        );
        job.changed(
            "cpo_alpha",
            "`[preference] rpo_alpha`: the mean over each chosen response, in TRL over all tokens of the \
             batch",
        );
    }
    if let Some(alpha) = job.number("rpo_alpha")? {
        job.translated("rpo_alpha", "preference.rpo_alpha", number(alpha));
    }
    Ok(())
}

fn saving(job: &mut Job<'_>) -> Result<()> {
    per_epoch(job, "saves_per_epoch", "save_steps")?;
    training::saving(job, None, false)
}

/// So many times in an epoch.
fn per_epoch(job: &mut Job<'_>, key: &str, own: &str) -> Result<()> {
    match job.number(key)? {
        Some(1.0) => job.note_translated(key, "the default: the end of each epoch"),
        Some(times) if times > 0.0 => {
            job.changed(
                key,
                format!(
                    "at the end of each epoch; for {times} times set `{own}` to the steps of an epoch (see \
                     `truing plan`) divided by {times}"
                ),
            );
        }
        Some(_) => job.not_needed(key, "off in the file"),
        None => {}
    }
    Ok(())
}

fn evaluation(job: &mut Job<'_>, is_grpo: bool) -> Result<()> {
    training::held_out(job, "val_set_size")?;
    per_epoch(job, "evals_per_epoch", "eval_steps")?;
    let default = if job.has("eval_steps") { "steps" } else { "epoch" };
    let is_given = job.has("eval_strategy") || job.has("evaluation_strategy");
    // Without a strategy GRPO evaluates at the end, and nothing is said about epochs.
    if is_given || job.has("eval_steps") || !is_grpo {
        training::evaluation(job, default, 10, is_grpo)?;
    }
    Ok(())
}
