//! TRL: the YAML of `trl sft --config`. The trainer is not in the file, so its keys have to tell.

use crate::data::{self, DataSet, Named};
use crate::error::ImportError;
use crate::grpo;
use crate::job::{Job, as_number, as_text};
use crate::recipe::{self, string};
use crate::report::Kind;
use crate::training::{self, Defaults, TRANSFORMERS as NAMES, Targets};
use crate::yaml::{Node, Value};
use crate::{SourceStage, stages};

type Result<T> = std::result::Result<T, ImportError>;

/// Keys that only the configurations of some trainers have.
const TELLING: &[(&[&str], SourceStage)] = &[
    (&["normalize_advantages", "reward_clip_range"], SourceStage::Rloo),
    (
        &[
            "num_generations",
            "reward_funcs",
            "reward_weights",
            "reward_model_name_or_path",
            "steps_per_generation",
            "scale_rewards",
            "num_iterations",
            "epsilon",
            "use_vllm",
            "generation_batch_size",
        ],
        SourceStage::Grpo,
    ),
    (&["desirable_weight", "undesirable_weight"], SourceStage::Kto),
    (&["cpo_alpha", "simpo_gamma"], SourceStage::Cpo),
    (&["center_rewards_coefficient"], SourceStage::Reward),
    (
        &[
            "precompute_ref_log_probs",
            "loss_weights",
            "rpo_alpha",
            "ld_alpha",
            "f_divergence_type",
            "sync_ref_model",
            "label_smoothing",
            "discopop_tau",
            "use_weighting",
            "beta",
        ],
        SourceStage::Dpo,
    ),
    (
        &[
            "packing",
            "packing_strategy",
            "assistant_only_loss",
            "completion_only_loss",
            "dataset_text_field",
            "eval_packing",
            "dataset_kwargs",
            "max_seq_length",
        ],
        SourceStage::Sft,
    ),
];

fn stage(job: &Job<'_>) -> Result<SourceStage> {
    if let Some(stage) = job.options.stage {
        return Ok(stage);
    }
    if job.has("loss_type") && !TELLING.iter().take(2).any(|(keys, _)| keys.iter().any(|key| job.has(key))) {
        let name = job.peek("loss_type").and_then(as_text).unwrap_or_default();
        match name.as_str() {
            "kto" | "apo_zero_unpaired" => return Ok(SourceStage::Kto),
            "simpo" => return Ok(SourceStage::Cpo),
            "nll" | "dft" | "chunked_nll" => return Ok(SourceStage::Sft),
            _ => {}
        }
    }
    let found = TELLING.iter().find(|(keys, _)| keys.iter().any(|key| job.has(key)));
    found.map(|(_, stage)| *stage).ok_or_else(|| ImportError::UnknownStage { path: job.path.to_path_buf() })
}

pub(crate) fn import(job: &mut Job<'_>) -> Result<&'static str> {
    let stage = stage(job)?;
    match stage {
        SourceStage::Grpo | SourceStage::Rloo => {
            stages::begin(job, "grpo");
            common(job)?;
            let has_evaluations = grpo::trl(job, "", stage)?;
            data_sets(job, has_evaluations)?;
            return Ok("grpo");
        }
        SourceStage::Sft => stages::begin(job, "sft"),
        SourceStage::Reward => stages::begin(job, "reward_model"),
        _ => stages::begin(job, "dpo"),
    }
    common(job)?;
    let learning_rate = match stage {
        SourceStage::Sft => 2e-5,
        SourceStage::Reward => 1e-4,
        _ => 1e-6,
    };
    let defaults = Defaults {
        learning_rate,
        epochs: 3.0,
        scheduler: "linear",
        warmup_ratio: 0.0,
        rows: 8,
        save_steps: Some(500),
    };
    let step = training::step(job, &NAMES, &defaults)?;
    let is_pair = !matches!(stage, SourceStage::Sft | SourceStage::Kto);
    let key = if job.has("max_seq_length") { "max_seq_length" } else { "max_length" };
    training::length(job, key, 1024, is_pair)?;
    let is_packed = if stage == SourceStage::Sft { packing(job)? } else { false };
    let what = if is_pair { "pair" } else { "sample" };
    training::packs(job, &NAMES, &step, is_packed, what);
    if !job.recipe.has("long_samples") {
        long_samples(job, stage)?;
    }
    training::schedule(job, &NAMES, &defaults, 1)?;
    training::logging(job)?;
    training::saving(job, defaults.save_steps, false)?;
    match stage {
        SourceStage::Sft => sft(job)?,
        SourceStage::Reward => {
            job.set(
                "reward_model.mse_coefficient",
                recipe::number(0.0),
                "plain Bradley-Terry, as TRL trains",
            );
        }
        _ => preferences(job, stage)?,
    }
    let has_evaluations = training::evaluation(job, "no", 10, false)?;
    data_sets(job, has_evaluations)?;
    Ok(match stage {
        SourceStage::Sft => "sft",
        SourceStage::Reward => "reward_model",
        _ => "dpo",
    })
}

/// Model, adapters, output folder.
fn common(job: &mut Job<'_>) -> Result<()> {
    let revision = job.text("model_revision")?;
    if let Some(name) = job.text("model_name_or_path")? {
        let model = job.model(&name, revision.as_deref());
        job.translated("model_name_or_path", "model_name_or_path", string(&model));
        if revision.is_some() {
            job.note_translated("model_revision", "part of `model_name_or_path`");
        }
    }
    let output = job.text("output_dir")?;
    let path = job.output_path(output.as_deref().unwrap_or("trainer_output"));
    match output {
        Some(_) => job.translated("output_dir", "output_dir", string(&path)),
        None => job.default("output_dir", string(&path)),
    }
    if job.flag("use_peft")? == Some(true) {
        job.note_translated("use_peft", "the table `[lora]`");
        training::rank_and_alpha(job, ["lora_r", "lora_alpha", "use_rslora"], 16, |_| 32.0)?;
        let targets = match job.texts("lora_target_modules")? {
            None => Targets::Names(vec!["q_proj".to_owned(), "v_proj".to_owned()]),
            Some(names) if names == ["all-linear"] => Targets::All,
            Some(names) => Targets::Names(names),
        };
        training::targets(job, "lora_target_modules", targets);
        if !job.has("lora_dropout") {
            job.missing("lora_dropout", "0.05 there; LoRA has no dropout in truing");
        }
    } else {
        for key in ["lora_r", "lora_alpha", "lora_target_modules", "lora_dropout", "use_rslora"] {
            if job.take(key).is_some() {
                job.not_needed(key, "`use_peft` is not set");
            }
        }
    }
    if let Some(template) = job.peek("chat_template_path").and_then(as_text) {
        job.take("chat_template_path");
        if template.ends_with(".jinja") || template.ends_with(".j2") {
            let path = job.recipe_path(&template);
            if job.order().contains(&"chat_template") {
                job.translated("chat_template_path", "chat_template", string(&path));
            } else {
                job.missing("chat_template_path", "GRPO uses the model's own chat template");
            }
        } else {
            job.missing(
                "chat_template_path",
                "the template of another model: save it as a Jinja file and name it as `chat_template`",
            );
        }
    }
    Ok(())
}

/// Whether samples are packed.
fn packing(job: &mut Job<'_>) -> Result<bool> {
    let is_packed = job.flag("packing")? == Some(true);
    let strategy = job.text("packing_strategy")?;
    if job.has("packing") {
        job.note_translated(
            "packing",
            if is_packed { "the default: samples are packed and isolated" } else { "`packing = \"none\"`" },
        );
    }
    match strategy.as_deref() {
        Some(_) if !is_packed => job.not_needed("packing_strategy", "`packing` is off"),
        Some("bfd_split") => {
            job.set("long_samples", string("split"), "packing_strategy bfd_split");
            job.note_translated("packing_strategy", "`long_samples = \"split\"`");
        }
        Some("wrapped") => {
            job.set("long_samples", string("split"), "packing_strategy wrapped");
            job.changed(
                "packing_strategy",
                "samples are packed whole and do not see each other; only those above `max_length` are cut",
            );
        }
        Some(_) => job.note_translated("packing_strategy", "`packing`"),
        None => {}
    }
    Ok(is_packed)
}

fn long_samples(job: &mut Job<'_>, stage: SourceStage) -> Result<()> {
    let mode = job.text("truncation_mode")?;
    if stage == SourceStage::Reward {
        job.set("long_samples", string("drop"), "as TRL does with long pairs");
        return Ok(());
    }
    match mode.as_deref() {
        None => job.default("long_samples", string("truncate")),
        Some("keep_start") => {
            job.set("long_samples", string("truncate"), "truncation_mode keep_start");
            job.note_translated("truncation_mode", "`long_samples = \"truncate\"`");
        }
        Some(other) => {
            job.set("long_samples", string("truncate"), format!("truncation_mode {other} is not available"));
            job.missing(
                "truncation_mode",
                "long samples keep their beginning (`truncate`), or are dropped (`drop`)",
            );
        }
    }
    Ok(())
}

fn sft(job: &mut Job<'_>) -> Result<()> {
    let assistant_only = job.flag("assistant_only_loss")?;
    let completion_only = job.flag("completion_only_loss")?;
    if assistant_only == Some(true) {
        job.note_translated("assistant_only_loss", "the default");
    } else {
        job.changed(
            "assistant_only_loss",
            "only assistant turns carry loss; TRL trains on all turns of a conversation. Raw text (format \
             `text`) carries loss everywhere",
        );
    }
    match completion_only {
        Some(true) => job.note_translated("completion_only_loss", "the default"),
        Some(false) => job.changed(
            "completion_only_loss",
            "the prompt carries no loss; join prompt and completion to one `text` to train on both",
        ),
        None => {}
    }
    if let Some(loss) = job.text("loss_type")? {
        match loss.as_str() {
            "nll" | "chunked_nll" => {
                job.not_needed("loss_type", "the loss is the mean negative log-likelihood")
            }
            other => {
                job.missing("loss_type", format!("no loss `{other}`: it is the mean negative log-likelihood"))
            }
        }
    }
    Ok(())
}

fn preferences(job: &mut Job<'_>, stage: SourceStage) -> Result<()> {
    let names = job.texts("loss_type")?;
    let weights = job.take("loss_weights");
    let first = names.as_ref().and_then(|names| names.first()).map(String::as_str);
    let default = match stage {
        SourceStage::Kto => "kto",
        SourceStage::Orpo => "orpo",
        _ => "sigmoid",
    };
    let name = if stage == SourceStage::Orpo { "orpo" } else { first.unwrap_or(default) };
    if stage == SourceStage::Cpo && name != "simpo" {
        return Err(job.refused(
            "loss_type",
            format!("CPO with the loss `{name}` is not available, only SimPO (`loss_type: simpo`)"),
        ));
    }
    let Some(own) = training::loss(name) else {
        let reason = format!(
            "the loss `{name}` is not available, expected sigmoid, sigmoid_norm, robust, ipo, hinge, simpo, orpo or kto"
        );
        return Err(job.refused("loss_type", reason));
    };
    if first.is_some() {
        job.translated("loss_type", "preference.loss", string(own));
    } else {
        job.default("preference.loss", string(own));
    }
    if job.copy_number("beta", "preference.beta")?.is_none() {
        job.default("preference.beta", recipe::number(0.1));
    }
    if stage == SourceStage::Cpo {
        let alpha = job.number("cpo_alpha")?;
        job.set(
            "preference.rpo_alpha",
            recipe::number(alpha.unwrap_or(1.0)),
            if alpha.is_some() { "cpo_alpha" } else { "cpo_alpha, default of TRL" },
        );
        job.changed(
            "cpo_alpha",
            "`[preference] rpo_alpha`: the mean over each chosen response, in TRL over all tokens of the \
             batch",
        );
    }
    if let Some(names) = names.filter(|names| names.len() > 1) {
        mixture(job, &names, weights)?;
    } else if weights.is_some() {
        job.missing("loss_weights", "there is one loss, whose weight is 1");
    }
    if let Some(alpha) = job.number("rpo_alpha")? {
        job.translated("rpo_alpha", "preference.rpo_alpha", recipe::number(alpha));
    }
    Ok(())
}

/// Several losses: one of preferences and one of SFT are available.
fn mixture(job: &mut Job<'_>, names: &[String], weights: Option<&Node>) -> Result<()> {
    let weight = |i: usize| match weights.map(|node| &node.value) {
        Some(Value::List(items)) => items.get(i).and_then(as_number),
        _ => Some(1.0),
    };
    match names {
        [_, second] if second == "sft" && weight(0).is_some_and(|first| first > 0.0) => {
            let ratio = weight(1).unwrap_or(1.0) / weight(0).unwrap_or(1.0);
            job.set(
                "preference.rpo_alpha",
                recipe::number(ratio),
                "loss_weights of `sft` and the first loss",
            );
            if weights.is_some() {
                job.changed(
                    "loss_weights",
                    "`[preference] rpo_alpha`: the weight of `sft` divided by that of the first loss, whose \
                     weight is 1",
                );
            }
        }
        [_, rest @ ..] => {
            job.missing(
                "loss_type",
                format!("of several losses only the first, optionally with `sft`; not {}", rest.join(", ")),
            );
        }
        [] => {}
    }
    Ok(())
}

fn data_sets(job: &mut Job<'_>, has_evaluations: bool) -> Result<()> {
    let train_split = job.text("dataset_train_split")?;
    let test_split = job.text("dataset_test_split")?;
    let name = job.text("dataset_name")?;
    let subset = job.text("dataset_config")?;
    let field = job.text("dataset_text_field")?;
    let mixture = job.take("datasets");
    let mut sets = Vec::new();
    if let Some(mixture) = mixture {
        if name.is_some() {
            job.not_needed("dataset_name", "`datasets` replaces it");
        }
        mixed(job, mixture, &mut sets)?;
    } else if let Some(name) = &name {
        let named =
            |key, split| Named { name, split, revision: None, subset: subset.as_deref(), key, place: None };
        let place = job.place("dataset_name");
        let set = data::locate(
            job,
            &Named { place, ..named("dataset_name", Some(train_split.as_deref().unwrap_or("train"))) },
        );
        sets.push(set);
        job.note_translated("dataset_name", "`[[data]] path`");
        if has_evaluations {
            let place = job.place("dataset_test_split").or(place);
            let split = test_split.as_deref().unwrap_or("test");
            if job.find(name).is_some() {
                job.finding_at(
                    Kind::NoCounterpart,
                    "dataset_test_split",
                    place,
                    format!("the split `{split}` of `{name}`: name its file in a table `[[eval_data]]`"),
                );
            } else {
                let set = data::locate(job, &Named { place, ..named("dataset_test_split", Some(split)) });
                data::push(job, "eval_data", &[set]);
            }
        }
        for key in ["dataset_train_split", "dataset_test_split", "dataset_config"] {
            if job.has(key) {
                job.note_translated(key, "part of `path`");
            }
        }
    } else {
        return Err(ImportError::NoData { path: job.path.to_path_buf(), key: "dataset_name" });
    }
    training::held_out(job, "test_split_size")?;
    if let Some(field) = field.filter(|field| field != "text") {
        for set in &mut sets {
            set.format = Some("text");
            set.column("text", &field);
        }
        job.note_translated("dataset_text_field", "`[[data]] columns`");
    } else if job.has("dataset_text_field") {
        job.not_needed("dataset_text_field", "`text` is the name in truing too");
    }
    data::push(job, "data", &sets);
    Ok(())
}

fn mixed(job: &mut Job<'_>, mixture: &Node, sets: &mut Vec<DataSet>) -> Result<()> {
    let Value::List(items) = &mixture.value else {
        return Err(job.misfit("datasets", mixture, "a list of tables"));
    };
    for (i, item) in items.iter().enumerate() {
        let at = format!("datasets[{i}]");
        let text = |key: &str| item.get(key).and_then(as_text);
        let Some(name) = text("path") else { return Err(job.misfit(&at, item, "a table with a `path`")) };
        let split = text("split").unwrap_or_else(|| "train".to_owned());
        let weight = item.get("fraction").and_then(as_number);
        let files = match item.get("data_files") {
            None => None,
            Some(node) => Some(job.texts_of(&format!("{at}.data_files"), node)?),
        };
        let folder = text("data_dir");
        // `path: json` with files: the path is the name of a reader.
        let is_reader = ["json", "parquet", "csv", "text", "arrow"].contains(&name.as_str());
        let names = match (&files, is_reader) {
            (Some(files), true) => files.clone(),
            (Some(files), false) => files.iter().map(|file| format!("{name}/{file}")).collect(),
            (None, _) => vec![folder.as_ref().map_or(name.clone(), |folder| {
                if is_reader { folder.clone() } else { format!("{name}/{folder}") }
            })],
        };
        for name in names {
            let subset = text("name");
            let named = Named {
                name: &name,
                split: Some(&split),
                revision: None,
                subset: subset.as_deref(),
                key: &at,
                place: Some(item.place),
            };
            let mut set = data::locate(job, &named);
            set.weight = weight.filter(|&weight| weight > 0.0 && weight < 1.0);
            sets.push(set);
        }
        if weight.is_some() {
            let text = "`[[data]] weight`: each epoch has another part of the samples, of this size";
            job.finding_at(
                Kind::Changed,
                &format!("{at}.fraction"),
                item.get("fraction").map(|node| node.place),
                text,
            );
        }
        data::take_the_rest(job, &at, item, &["path", "split", "fraction", "data_files", "data_dir", "name"]);
    }
    if items.is_empty() {
        return Err(ImportError::NoData { path: job.path.to_path_buf(), key: "datasets" });
    }
    job.note_translated("datasets", "tables `[[data]]`");
    Ok(())
}
