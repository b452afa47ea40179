//! axolotl: the YAML of `axolotl train`.

use crate::data::{self, DataSet, Named};
use crate::error::ImportError;
use crate::job::{Job, as_flag, as_number, as_text};
use crate::recipe::{number, string};
use crate::report::Kind;
use crate::training::{self, AXOLOTL as NAMES, Defaults, Targets};
use crate::yaml::{Node, Value};
use crate::{SourceStage, grpo, stages};

type Result<T> = std::result::Result<T, ImportError>;

/// The kind of rows of a stage.
#[derive(Clone, Copy, PartialEq)]
enum Rows {
    Training,
    Pairs,
    Unpaired,
    Prompts,
}

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
        Some("tokenizer_default" | "jinja") => job.not_needed("chat_template", "the model's own template is used, or the Jinja file"),
        Some(name) => job.changed(
            "chat_template",
            format!(
                "the model's own chat template is used instead of axolotl's `{name}`; to use that one, save it as a Jinja \
                 file and name it as `chat_template`"
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
        job.changed("cpo_alpha", "`[preference] rpo_alpha`: the mean over each chosen response, in TRL over all tokens of the batch");
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
            job.changed(key, format!("at the end of each epoch; for {times} times set `{own}` to the steps of an epoch (see `truing plan`) divided by {times}"));
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

/// The data sets of a key; their number.
fn data_sets(job: &mut Job<'_>, key: &'static str, list: &'static str, rows: Rows) -> Result<usize> {
    let Some(node) = job.take(key) else { return Ok(0) };
    let items = match &node.value {
        Value::List(items) => items.iter().collect(),
        Value::Table(_) => vec![node],
        _ => return Err(job.misfit(key, node, "a list of tables")),
    };
    let mut sets = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let at = format!("{key}[{i}]");
        data_set(job, &at, item, rows, &mut sets)?;
    }
    job.note_translated(key, &format!("tables `[[{list}]]`"));
    data::push(job, list, &sets);
    Ok(sets.len())
}

fn data_set(job: &mut Job<'_>, at: &str, item: &Node, rows: Rows, sets: &mut Vec<DataSet>) -> Result<()> {
    let text = |key: &str| item.get(key).and_then(as_text);
    let Some(name) = text("path") else { return Err(job.misfit(at, item, "a table with a `path`")) };
    let split = text("split").unwrap_or_else(|| "train".to_owned());
    let (revision, subset) = (text("revision"), text("name"));
    let files = match item.get("data_files") {
        None => None,
        Some(node) => Some(job.texts_of(&format!("{at}.data_files"), node)?),
    };
    let is_reader = ["json", "parquet", "csv", "text", "arrow"].contains(&name.as_str());
    let names = match (files, is_reader) {
        (Some(files), true) => files,
        (Some(files), false) => files.iter().map(|file| format!("{name}/{file}")).collect(),
        (None, _) => vec![name.clone()],
    };
    let shards = item.get("shards").and_then(as_number).filter(|&shards| shards > 1.0);
    if let Some(node) = item.get("shards") {
        let text =
            "`[[data]] weight`: each epoch has another part of the samples, in axolotl always the same part";
        job.finding_at(Kind::Changed, &format!("{at}.shards"), Some(node.place), text);
    }
    let mut read = vec!["path", "split", "revision", "name", "data_files", "ds_type", "type", "shards"];
    for name in names {
        let named = Named {
            name: &name,
            split: Some(&split),
            revision: revision.as_deref(),
            subset: subset.as_deref(),
            key: at,
            place: Some(item.place),
        };
        let mut set = data::locate(job, &named);
        set.weight = shards.map(|shards| 1.0 / shards);
        rows_of(job, at, item, rows, &mut set, &mut read);
        sets.push(set);
    }
    data::take_the_rest(job, at, item, &read);
    Ok(())
}

/// The format of the rows, from `type` and the names of fields.
fn rows_of(
    job: &mut Job<'_>,
    at: &str,
    item: &Node,
    rows: Rows,
    set: &mut DataSet,
    read: &mut Vec<&'static str>,
) {
    let kind = item.get("type");
    let place = kind.map_or(item.place, |node| node.place);
    let key = format!("{at}.type");
    if let Some(Value::Table(_)) = kind.map(|node| &node.value) {
        user_defined(job, &key, kind.unwrap_or(item), rows, set);
        return;
    }
    let name = kind.and_then(as_text).unwrap_or_default();
    match rows {
        Rows::Training => training_rows(job, at, item, &key, place, &name, set, read),
        Rows::Pairs => {
            set.format = Some("pair");
            pair(job, &key, place, &name, item, set, read);
        }
        Rows::Unpaired => {
            set.format = Some("kto");
            match name.rsplit('.').next().unwrap_or_default() {
                "argilla" => set.column("prompt", "instruction"),
                "intel" => set.column("prompt", "question"),
                _ => {}
            }
            own_template(job, &key, place, &name);
        }
        Rows::Prompts => {
            if !name.is_empty() {
                let text = format!(
                    "the function `{name}` that makes prompts of rows: write them as `{{\"prompt\": ...}}` with the columns that rewards read"
                );
                job.finding_at(Kind::NoCounterpart, &key, Some(place), text);
            }
        }
    }
}

/// The format of rows to train on. `name` is their `type`, which stands at `place` under `key`.
fn training_rows(
    job: &mut Job<'_>,
    at: &str,
    item: &Node,
    key: &str,
    place: crate::Place,
    name: &str,
    set: &mut DataSet,
    read: &mut Vec<&'static str>,
) {
    match name {
        "" | "chat_template" | "sharegpt" => {
            read.extend([
                "field_messages",
                "message_property_mappings",
                "message_field_role",
                "message_field_training",
                "roles_to_train",
                "train_on_eos",
                "train_on_eot",
                "message_field_content",
                "field_tools",
                "conversation",
            ]);
            conversation(job, at, item, set, name == "sharegpt");
        }
        "completion" => {
            read.push("field");
            set.format = Some("text");
            set.column("text", &item.get("field").and_then(as_text).unwrap_or_else(|| "text".to_owned()));
        }
        "input_output" => {
            job.finding_at(Kind::NoCounterpart, key, Some(place), "rows of segments with labels; turns set their loss with `weight` or `loss` in the format `messages`");
        }
        _ if name.starts_with("alpaca") => {
            set.format = Some("alpaca");
            job.finding_at(
                Kind::Changed,
                key,
                Some(place),
                "the instruction is a user's turn in the chat template; axolotl writes it below `### Instruction:` (a `prompt_template` can say so)",
            );
        }
        _ => {
            let text = format!(
                "no rows `{name}` of axolotl: the format is detected, see the formats of `docs/models-and-data.md`"
            );
            job.finding_at(Kind::NoCounterpart, key, Some(place), text);
        }
    }
}

fn own_template(job: &mut Job<'_>, key: &str, place: crate::Place, name: &str) {
    if !name.is_empty() && !name.starts_with("chat_template") {
        let text = format!("the model's own chat template is used, in `{name}` that of the tool");
        job.finding_at(Kind::Changed, key, Some(place), text);
    }
}

fn conversation(job: &mut Job<'_>, at: &str, item: &Node, set: &mut DataSet, is_sharegpt: bool) {
    let text = |key: &str| item.get(key).and_then(as_text);
    let mappings = item.get("message_property_mappings");
    let property = |key: &str| mappings.and_then(|mappings| mappings.get(key)).and_then(as_text);
    let role = property("role").or_else(|| text("message_field_role"));
    let content = property("content").or_else(|| text("message_field_content"));
    let list = text("field_messages")
        .unwrap_or_else(|| if is_sharegpt { "conversations" } else { "messages" }.to_owned());
    let role = role.unwrap_or_else(|| if is_sharegpt { "from" } else { "role" }.to_owned());
    let content = content.unwrap_or_else(|| if is_sharegpt { "value" } else { "content" }.to_owned());
    match (role.as_str(), content.as_str()) {
        ("role", "content") => {
            set.format = Some("messages");
            set.column("messages", &list);
        }
        ("from" | "role", "value" | "content") => {
            set.format = Some("sharegpt");
            set.column("conversations", &list);
        }
        _ => {
            let text = format!(
                "turns with `{role}` and `{content}`; expected `role` and `content`, or `from` and `value`"
            );
            job.finding_at(Kind::NoCounterpart, at, Some(item.place), text);
            set.column("messages", &list);
        }
    }
    if let Some(tools) = text("field_tools") {
        set.column("tools", &tools);
    }
    loss_turns(job, at, item);
    let others = match mappings.map(|node| &node.value) {
        Some(Value::Table(pairs)) => pairs.as_slice(),
        _ => &[],
    };
    let same = |pair: &&crate::yaml::Pair| pair.node.as_text() != Some(pair.key.as_str());
    for pair in others.iter().filter(|pair| !["role", "content"].contains(&pair.key.as_str())).filter(same) {
        let key = format!("{at}.message_property_mappings.{}", pair.key);
        job.finding_at(
            Kind::NoCounterpart,
            &key,
            Some(pair.place),
            "this field of a message has one name in truing",
        );
    }
}

/// Which turns carry loss: the assistant's, with their ends, is what truing does.
fn loss_turns(job: &mut Job<'_>, at: &str, item: &Node) {
    let own = |key: &str| item.get(key).map(|node| (format!("{at}.{key}"), node));
    if let Some((key, node)) = own("roles_to_train") {
        let is_assistant = |item: &Node| {
            as_text(item).is_some_and(|role| ["assistant", "gpt", "model"].contains(&role.as_str()))
        };
        let is_default =
            matches!(&node.value, Value::List(roles) if roles.iter().all(is_assistant) && !roles.is_empty());
        let (kind, text) = if is_default {
            (Kind::Translated, "the default: assistant turns carry loss")
        } else {
            (
                Kind::NoCounterpart,
                "assistant turns carry loss; other turns do with `weight` or `loss` in the data",
            )
        };
        job.finding_at(kind, &key, Some(node.place), text);
    }
    for name in ["train_on_eos", "train_on_eot"] {
        let Some((key, node)) = own(name) else { continue };
        let (kind, text) = match as_text(node).as_deref() {
            Some("turn") => (Kind::Translated, "the default: the end of a turn carries loss with it"),
            _ => (Kind::NoCounterpart, "the end of each turn of the assistant carries loss"),
        };
        job.finding_at(kind, &key, Some(node.place), text);
    }
    if let Some((key, node)) = own("message_field_training") {
        let (kind, text) = match as_text(node).as_deref() {
            Some("train" | "training" | "loss" | "weight") => (Kind::Translated, "the name in truing too"),
            _ => (
                Kind::NoCounterpart,
                "a message has its loss in `train`, `training`, `loss` or `weight`: rename it in the data",
            ),
        };
        job.finding_at(kind, &key, Some(node.place), text);
    }
}

fn pair(
    job: &mut Job<'_>,
    key: &str,
    place: crate::Place,
    name: &str,
    item: &Node,
    set: &mut DataSet,
    read: &mut Vec<&'static str>,
) {
    let text = |key: &str| item.get(key).and_then(as_text);
    match name.rsplit('.').next().unwrap_or_default() {
        "intel" => set.column("prompt", "question"),
        "icr" => set.column("prompt", "input"),
        "argilla" if !name.starts_with("chat_template") => {
            set.column("prompt", "instruction");
            set.column("chosen", "chosen_response");
            set.column("rejected", "rejected_response");
        }
        "default" if name.starts_with("chat_template") => {
            read.extend(["field_messages", "field_chosen", "field_rejected", "message_property_mappings"]);
            let list = text("field_messages").unwrap_or_else(|| "messages".to_owned());
            set.column("prompt", &list);
            set.column("chosen", &text("field_chosen").unwrap_or_else(|| "chosen".to_owned()));
            set.column("rejected", &text("field_rejected").unwrap_or_else(|| "rejected".to_owned()));
        }
        // A reward model reads `input`, `chosen` and `rejected`.
        "chat_template" if name.starts_with("bradley_terry") => set.column("prompt", "input"),
        _ => {}
    }
    if !name.starts_with("bradley_terry.chat_template") {
        own_template(job, key, place, name);
    }
}

/// A `type` that is a table of field names.
fn user_defined(job: &mut Job<'_>, key: &str, kind: &Node, rows: Rows, set: &mut DataSet) {
    let text = |key: &str| kind.get(key).and_then(as_text);
    let mut read = vec!["field_system"];
    let columns: &[(&str, &str)] = match rows {
        Rows::Training => {
            let instruction = text("field_instruction").unwrap_or_else(|| "instruction".to_owned());
            let input = text("field_input").unwrap_or_else(|| "input".to_owned());
            let own = |format: String| {
                format
                    .replace("{instruction}", &format!("{{{instruction}}}"))
                    .replace("{input}", &format!("{{{input}}}"))
            };
            read.extend(["field_instruction", "field_input", "field_output", "format"]);
            if let Some(format) = text("format") {
                set.format = Some("prompt_completion");
                set.prompt_template = Some(own(format));
                set.column("completion", &text("field_output").unwrap_or_else(|| "output".to_owned()));
            } else {
                set.format = Some("alpaca");
                set.column("instruction", &instruction);
                set.column("input", &input);
                set.column("output", &text("field_output").unwrap_or_else(|| "output".to_owned()));
            }
            &[]
        }
        Rows::Pairs | Rows::Prompts => {
            set.format = (rows == Rows::Pairs).then_some("pair");
            &[("field_prompt", "prompt"), ("field_chosen", "chosen"), ("field_rejected", "rejected")]
        }
        Rows::Unpaired => {
            set.format = Some("kto");
            &[("field_prompt", "prompt"), ("field_completion", "completion"), ("field_label", "label")]
        }
    };
    for (from, own) in columns {
        if let Some(name) = text(from) {
            set.column(own, &name);
            read.push(from);
        }
    }
    if let Some(system) = text("field_system") {
        set.column("system", &system);
    }
    let Value::Table(pairs) = &kind.value else { return };
    for pair in pairs.iter().filter(|pair| !read.contains(&pair.key.as_str()) && !pair.node.is_null()) {
        let key = format!("{key}.{}", pair.key);
        job.finding_at(
            Kind::NoCounterpart,
            &key,
            Some(pair.place),
            "turns are written by the chat template, or by `prompt_template`",
        );
    }
}
