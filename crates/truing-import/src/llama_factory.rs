//! LLaMA-Factory: the YAML of `llamafactory-cli train`, and `dataset_info.json`.

use std::fs;
use std::path::PathBuf;

use serde_json::Value as Json;

use crate::data::{self, DataSet, Named};
use crate::error::{ImportError, Place};
use crate::job::Job;
use crate::recipe::{number, string};
use crate::report::Kind;
use crate::stages;
use crate::training::{self, Defaults, TRANSFORMERS as NAMES, Targets};
use crate::yaml::Value;

type Result<T> = std::result::Result<T, ImportError>;

const LIST: &str = "dataset_info.json";

/// The kind of rows of a stage.
#[derive(Clone, Copy, PartialEq)]
enum Rows {
    Training,
    Pairs,
    Unpaired,
}

pub(crate) fn import(job: &mut Job<'_>) -> Result<&'static str> {
    let given = job.text("stage")?;
    let (stage, rows) = match given.as_deref().unwrap_or("sft") {
        "sft" => ("sft", Rows::Training),
        "rm" => ("reward_model", Rows::Pairs),
        "dpo" => ("dpo", Rows::Pairs),
        "kto" => ("dpo", Rows::Unpaired),
        "pt" => {
            return Err(job.refused(
                "stage",
                "pretraining (`stage: pt`) is not available; the format `text` of `truing sft` trains on raw \
                 text",
            ));
        }
        "ppo" => {
            return Err(job.refused(
                "stage",
                "PPO with a critic (`stage: ppo`) is not available; `truing grpo` trains against a reward \
                 model",
            ));
        }
        other => {
            return Err(
                job.refused("stage", format!("unknown stage `{other}`, expected sft, rm, dpo or kto"))
            );
        }
    };
    stages::begin(job, stage);
    if given.is_some() {
        job.note_translated("stage", "`stage`");
    }
    common(job)?;
    adapters(job)?;
    let defaults = Defaults {
        learning_rate: 5e-5,
        epochs: 3.0,
        scheduler: "linear",
        warmup_ratio: 0.0,
        rows: 8,
        save_steps: Some(500),
    };
    let step = training::step(job, &NAMES, &defaults)?;
    training::length(job, "cutoff_len", 2048, rows == Rows::Pairs)?;
    let is_packed = packing(job)? && stage == "sft";
    let what = if rows == Rows::Pairs { "pair" } else { "sample" };
    training::packs(job, &NAMES, &step, is_packed, what);
    job.set("long_samples", string("truncate"), "as LLaMA-Factory cuts them");
    let cut = "long samples keep their beginning; LLaMA-Factory cuts prompt and response in proportion";
    let place = job.place("cutoff_len");
    job.finding_at(Kind::Changed, "cutoff_len", place, cut);
    training::schedule(job, &NAMES, &defaults, 1)?;
    training::logging(job)?;
    training::saving(job, defaults.save_steps, false)?;
    match (stage, rows) {
        ("reward_model", _) => {
            job.set(
                "reward_model.mse_coefficient",
                number(0.0),
                "plain Bradley-Terry, as LLaMA-Factory trains",
            );
        }
        ("dpo", rows) => preferences(job, rows)?,
        _ => {}
    }
    loss_turns(job)?;
    training::held_out(job, "val_size")?;
    let has_evaluations = training::evaluation(job, "no", 500, false)?;
    all_data(job, rows, has_evaluations)?;
    Ok(stage)
}

/// Model, template, output folder.
fn common(job: &mut Job<'_>) -> Result<()> {
    let revision = job.text("model_revision")?;
    let base = job.text("model_name_or_path")?;
    let adapter = job.texts("adapter_name_or_path")?;
    match (adapter.as_deref(), &base) {
        (Some([adapter]), _) => {
            let model = job.model(adapter, None);
            job.set(
                "model_name_or_path",
                string(&model),
                "adapter_name_or_path, an adapter that names its base",
            );
            job.changed(
                "adapter_name_or_path",
                "`model_name_or_path`: the base is the one that the adapter names",
            );
            if base.is_some() {
                job.changed(
                    "model_name_or_path",
                    "the base is the one that the adapter in `adapter_name_or_path` names",
                );
            }
        }
        (several, Some(name)) => {
            if several.is_some() {
                job.missing("adapter_name_or_path", "one adapter at most; merge the others first");
            }
            let model = job.model(name, revision.as_deref());
            job.translated("model_name_or_path", "model_name_or_path", string(&model));
        }
        (_, None) => {}
    }
    if job.has("model_revision") {
        job.note_translated("model_revision", "part of `model_name_or_path`");
    }
    let output = job.text("output_dir")?;
    let path = job.output_path(output.as_deref().unwrap_or("trainer_output"));
    match output {
        Some(_) => job.translated("output_dir", "output_dir", string(&path)),
        None => job.default("output_dir", string(&path)),
    }
    if let Some(template) = job.text("template")? {
        job.changed(
            "template",
            format!(
                "the model's own chat template is used instead of LLaMA-Factory's `{template}`, which may \
                 differ in the system prompt; `truing inspect conversation` shows it, and `chat_template` \
                 names a Jinja file"
            ),
        );
    }
    for key in ["do_train", "do_eval", "do_predict"] {
        if job.take(key).is_some() {
            job.not_needed(key, "the command trains");
        }
    }
    Ok(())
}

fn adapters(job: &mut Job<'_>) -> Result<()> {
    let given = job.text("finetuning_type")?;
    match given.as_deref().unwrap_or("lora") {
        "lora" => {
            match given {
                Some(_) => job.note_translated("finetuning_type", "the table `[lora]`"),
                None => job.finding_at(Kind::Translated, "finetuning_type", None, "LoRA: the table `[lora]`"),
            }
            training::rank_and_alpha(job, ["lora_rank", "lora_alpha", "use_rslora"], 8, |rank| {
                2.0 * rank as f64
            })?;
            let targets = match job.texts("lora_target")? {
                Some(names) if names != ["all"] => Targets::Names(names),
                _ => Targets::All,
            };
            training::targets(job, "lora_target", targets);
        }
        "full" => {
            job.note_translated("finetuning_type", "no table `[lora]`: all weights are trained");
            for key in ["lora_rank", "lora_alpha", "lora_target", "lora_dropout", "use_rslora"] {
                if job.take(key).is_some() {
                    job.not_needed(key, "`finetuning_type` is `full`");
                }
            }
        }
        "freeze" => {
            job.missing(
                "finetuning_type",
                "all weights are trained unless `freeze` lists the beginnings of the names of frozen \
                 parameters, such as `model.layers.0.`",
            );
        }
        other => {
            return Err(job.refused(
                "finetuning_type",
                format!("`finetuning_type: {other}` is not available, expected lora or full"),
            ));
        }
    }
    Ok(())
}

fn packing(job: &mut Job<'_>) -> Result<bool> {
    let neat = job.flag("neat_packing")?;
    let packing = job.flag("packing")?;
    let is_packed = neat == Some(true) || packing == Some(true);
    if neat == Some(true) {
        job.note_translated("neat_packing", "the default: samples are packed and isolated");
        if packing.is_some() {
            job.note_translated("packing", "the default");
        }
    } else if packing == Some(true) {
        job.changed("packing", "samples of a pack do not see each other, as with `neat_packing`");
    } else {
        for key in ["packing", "neat_packing"] {
            if job.has(key) {
                job.note_translated(key, "`packing = \"none\"`");
            }
        }
    }
    Ok(is_packed)
}

fn preferences(job: &mut Job<'_>, rows: Rows) -> Result<()> {
    let given = job.text("pref_loss")?;
    let name = if rows == Rows::Unpaired { "kto" } else { given.as_deref().unwrap_or("sigmoid") };
    let Some(own) = training::loss(name).filter(|own| (*own == "kto") == (rows == Rows::Unpaired)) else {
        return Err(job.refused(
            "pref_loss",
            format!("the loss `{name}` is not available, expected sigmoid, hinge, ipo, orpo or simpo"),
        ));
    };
    match given {
        Some(_) => job.translated("pref_loss", "preference.loss", string(own)),
        None if rows == Rows::Unpaired => job.set("preference.loss", string(own), "stage kto"),
        None => job.default("preference.loss", string(own)),
    }
    if job.copy_number("pref_beta", "preference.beta")?.is_none() {
        job.default("preference.beta", number(0.1));
    }
    Ok(())
}

fn loss_turns(job: &mut Job<'_>) -> Result<()> {
    for (key, text) in [
        (
            "train_on_prompt",
            "assistant turns alone carry loss; turns set theirs in the data with `weight` or `loss`",
        ),
        ("mask_history", "all assistant turns carry loss; give the earlier ones `weight` 0 in the data"),
    ] {
        match job.flag(key)? {
            Some(true) => job.missing(key, text),
            Some(false) => job.note_translated(key, "the default"),
            None => {}
        }
    }
    Ok(())
}

/// `dataset_info.json`.
struct Info {
    path: PathBuf,
    sets: Sets,
}

/// Its entries.
enum Sets {
    Listed(serde_json::Map<String, Json>),
    /// There is no list: the data sets are named as on the hub.
    OnHub,
    NotFound,
}

impl Info {
    fn read(job: &Job<'_>, folder: &str) -> Result<Self> {
        let path = PathBuf::from(folder).join(LIST);
        if folder == "ONLINE" {
            return Ok(Self { path, sets: Sets::OnHub });
        }
        if let Some(repository) = folder.strip_prefix("REMOTE:") {
            let reason = format!(
                "the list of `{repository}` is on the hub: download it, and name its folder as `dataset_dir`"
            );
            return Err(ImportError::DataInfo { path, reason });
        }
        let Some(path) = job.find(&path.to_string_lossy()) else {
            return Ok(Self { path, sets: Sets::NotFound });
        };
        let fail = |reason: String| ImportError::DataInfo { path: path.clone(), reason };
        let text = fs::read_to_string(&path).map_err(|error| fail(error.to_string()))?;
        let sets = match serde_json::from_str(&text) {
            Ok(Json::Object(sets)) => Sets::Listed(sets),
            Ok(_) => return Err(fail("expected an object with an entry for each data set".to_owned())),
            Err(error) => return Err(fail(error.to_string())),
        };
        Ok(Self { path, sets })
    }
}

fn all_data(job: &mut Job<'_>, rows: Rows, has_evaluations: bool) -> Result<()> {
    let Some(names) = job.texts("dataset")?.filter(|names| !names.is_empty()) else {
        return Err(ImportError::NoData { path: job.path.to_path_buf(), key: "dataset" });
    };
    if let Some(node) = job.peek("dataset_dir")
        && matches!(node.value, Value::Table(_) | Value::List(_))
    {
        return Err(job.misfit("dataset_dir", node, "a folder"));
    }
    let folder = job.text("dataset_dir")?.unwrap_or_else(|| "data".to_owned());
    let info = Info::read(job, &folder)?;
    if matches!(info.sets, Sets::NotFound) {
        let list = info.path.to_string_lossy().replace('\\', "/");
        job.missing(
            "dataset_dir",
            format!(
                "`{list}` was not found in the working folder, beside the YAML or above it: `path` and \
                 `format` of each data set have to be set, and `columns` where its columns have other names"
            ),
        );
    } else if job.has("dataset_dir") {
        job.note_translated("dataset_dir", "part of `path`");
    }
    let max_samples = job.count("max_samples")?;
    if max_samples.is_some() {
        job.note_translated("max_samples", "`[[data]] max_samples`");
    }
    let default_system = job.text("default_system")?;
    if default_system.is_some() {
        if rows == Rows::Training {
            job.missing("default_system", "rows for SFT have their system prompt in the data");
        } else {
            job.note_translated("default_system", "`[[data]] system`");
        }
    }
    let strategy = job.text("mix_strategy")?;
    let probabilities = job.take("interleave_probs");
    match strategy.as_deref() {
        None => {}
        Some("concat") => job.note_translated("mix_strategy", "the default: all samples in random order"),
        Some(other) => {
            job.missing(
                "mix_strategy",
                format!("data sets are not interleaved (`{other}`): set `[[data]] weight` from their sizes"),
            );
            if probabilities.is_some() {
                job.missing(
                    "interleave_probs",
                    "a probability is `[[data]] weight` times the size of the data set",
                );
            }
        }
    }
    let evaluated = job.texts("eval_dataset")?.unwrap_or_default();
    for (key, list, names) in [("dataset", "data", names), ("eval_dataset", "eval_data", evaluated)] {
        if list == "eval_data" && !names.is_empty() && !has_evaluations {
            job.not_needed(key, "there are no evaluations (`eval_strategy`)");
            continue;
        }
        let mut sets = Vec::new();
        for name in &names {
            let mut set = data_set(job, &info, key, name, rows)?;
            if let Some(n) = max_samples {
                set.max_samples = Some(set.max_samples.map_or(n, |own| own.min(n)));
            }
            if rows != Rows::Training {
                set.system.clone_from(&default_system);
            }
            sets.push(set);
        }
        if !names.is_empty() {
            job.note_translated(key, &format!("tables `[[{list}]]`"));
        }
        data::push(job, list, &sets);
    }
    Ok(())
}

fn data_set(job: &mut Job<'_>, info: &Info, key: &'static str, name: &str, rows: Rows) -> Result<DataSet> {
    let place = job.place(key);
    let sets = match &info.sets {
        Sets::Listed(sets) => sets,
        Sets::OnHub => {
            let named = Named { name, split: None, revision: None, subset: None, key, place };
            return Ok(data::locate(job, &named));
        }
        Sets::NotFound => {
            let comment = "dataset_info.json was not found: set `path` and `format`".to_owned();
            return Ok(DataSet { path: format!("{name}.json"), comment, ..DataSet::default() });
        }
    };
    let fail = |reason: String| ImportError::DataInfo { path: info.path.clone(), reason };
    let Some(entry) = sets.get(name) else {
        let nearest = sets.keys().map(|known| (strsim::jaro_winkler(known, name), known));
        let nearest = nearest.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = nearest.map(|(_, known)| format!("; did you mean `{known}`?")).unwrap_or_default();
        return Err(fail(format!("no data set `{name}`{hint}")));
    };
    let Json::Object(entry) = entry else { return Err(fail(format!("`{name}` is not an object"))) };
    let text = |key: &str| entry.get(key).and_then(Json::as_str);
    let split = Some(text("split").unwrap_or("train"));
    let at = format!("{LIST}: {name}");
    let mut set = match (text("hf_hub_url"), text("file_name")) {
        (Some(hub), _) => {
            let named = Named { name: hub, split, revision: None, subset: text("subset"), key: &at, place };
            data::locate(job, &named)
        }
        (None, Some(file)) => {
            // A file or a folder, beside the list.
            let folder = info.path.parent().unwrap_or(&info.path);
            DataSet { path: job.path_in(folder, file), ..DataSet::default() }
        }
        (None, None) => {
            let source = ["ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"]
                .into_iter()
                .find_map(|key| Some((key, text(key)?)));
            let Some((source, value)) = source else {
                return Err(fail(format!("`{name}` has no `file_name` or `hf_hub_url`")));
            };
            job.finding_at(
                Kind::NoCounterpart,
                &at,
                place,
                format!("`{source}`: download `{value}` and set `path` to the file or folder"),
            );
            DataSet { path: value.to_owned(), ..DataSet::default() }
        }
    };
    set.comment = name.to_owned();
    if let Some(n) =
        entry.get("num_samples").and_then(Json::as_u64).filter(|n| (1..=1_000_000_000_000).contains(n))
    {
        set.max_samples = Some(n);
        job.finding_at(
            Kind::Changed,
            &at,
            place,
            format!("`max_samples = {n}` (`num_samples`): the first rows, in LLaMA-Factory random ones"),
        );
    }
    format(job, &at, place, entry, rows, &mut set);
    let read = [
        "hf_hub_url",
        "file_name",
        "split",
        "subset",
        "num_samples",
        "formatting",
        "columns",
        "tags",
        "ranking",
        "folder",
        "ms_hub_url",
        "om_hub_url",
        "script_url",
        "cloud_file_name",
    ];
    for key in entry.keys().filter(|key| !read.contains(&key.as_str())) {
        let text = format!("unknown key `{key}` of a LLaMA-Factory data set");
        job.finding_at(Kind::Unknown, &at, place, text);
    }
    Ok(set)
}

/// Format and columns of a data set.
fn format(
    job: &mut Job<'_>,
    at: &str,
    place: Option<Place>,
    entry: &serde_json::Map<String, Json>,
    rows: Rows,
    set: &mut DataSet,
) {
    let columns = Columns(entry.get("columns").and_then(Json::as_object));
    let is_ranking = entry.get("ranking").and_then(Json::as_bool) == Some(true);
    let formatting = entry.get("formatting").and_then(Json::as_str).unwrap_or("alpaca");
    if (rows == Rows::Pairs) != is_ranking {
        let text = if is_ranking {
            "its pairs (`ranking`) are not for this stage"
        } else {
            "it has no pairs (`ranking: true`)"
        };
        job.finding_at(Kind::NoCounterpart, at, place, text);
    }
    if formatting == "alpaca" {
        instruction(job, at, place, &columns, set);
    } else if let Some(list) = columns.get("messages", "conversations") {
        let own = match rows {
            Rows::Pairs => "prompt",
            Rows::Unpaired => "messages",
            Rows::Training if formatting == "openai" => "messages",
            Rows::Training => "conversations",
        };
        set.column(own, &list);
    }
    answers(&columns, formatting, rows, set);
    for key in ["system", "tools"] {
        if let Some(from) = columns.get(key, "") {
            set.column(key, &from);
        }
    }
    let known = [
        "prompt", "query", "response", "history", "messages", "system", "tools", "chosen", "rejected",
        "kto_tag",
    ];
    let named = columns.0.into_iter().flat_map(|columns| columns.keys());
    for key in named.filter(|key| !known.contains(&key.as_str())) {
        let text = format!("the column `{key}` is not read (text only, no images, audio or video)");
        job.finding_at(Kind::NoCounterpart, at, place, text);
    }
    tags(job, at, place, entry);
}

/// The columns that a data set names. Where it names any, one that it does not name is not read.
struct Columns<'e>(Option<&'e serde_json::Map<String, Json>>);

impl Columns<'_> {
    fn get(&self, key: &str, default: &str) -> Option<String> {
        match self.0 {
            Some(columns) => columns.get(key).and_then(Json::as_str).map(str::to_owned),
            None => Some(default).filter(|name| !name.is_empty()).map(str::to_owned),
        }
    }
}

/// The prompt of the format `alpaca`, in one column or two.
fn instruction(job: &mut Job<'_>, at: &str, place: Option<Place>, columns: &Columns<'_>, set: &mut DataSet) {
    let (prompt, query) = (columns.get("prompt", "instruction"), columns.get("query", "input"));
    if let Some(prompt) = &prompt {
        set.column("instruction", prompt);
    }
    match query {
        Some(query) => {
            set.column("input", &query);
            let text = "instruction and input are joined with an empty line between them, in LLaMA-Factory \
                        with a line break";
            job.finding_at(Kind::Changed, at, place, text);
        }
        None => set.prompt_template = prompt.map(|prompt| format!("{{{prompt}}}")),
    }
}

/// Format of the rows, and the columns of what is trained on.
fn answers(columns: &Columns<'_>, formatting: &str, rows: Rows, set: &mut DataSet) {
    let is_alpaca = formatting == "alpaca";
    let response = columns.get("response", "output");
    match rows {
        Rows::Training => {
            set.format = Some(match formatting {
                "alpaca" => "alpaca",
                "openai" => "messages",
                _ => "sharegpt",
            });
            if is_alpaca && let Some(response) = response {
                set.column("output", &response);
            }
            if is_alpaca && let Some(history) = columns.get("history", "") {
                set.column("history", &history);
            }
        }
        Rows::Pairs => {
            set.format = Some("pair");
            for key in ["chosen", "rejected"] {
                if let Some(from) = columns.get(key, key) {
                    set.column(key, &from);
                }
            }
        }
        Rows::Unpaired => {
            set.format = Some("kto");
            if is_alpaca && let Some(response) = response {
                set.column("completion", &response);
            }
            if let Some(tag) = columns.get("kto_tag", "kto_tag") {
                set.column("label", &tag);
            }
        }
    }
}

/// The names of speakers that the formats know.
fn tags(job: &mut Job<'_>, at: &str, place: Option<Place>, entry: &serde_json::Map<String, Json>) {
    let Some(tags) = entry.get("tags").and_then(Json::as_object) else { return };
    for (tag, value) in tags {
        let known: &[&str] = match tag.as_str() {
            "role_tag" => &["from", "role"],
            "content_tag" => &["value", "content"],
            "user_tag" => &["human", "user"],
            "assistant_tag" => &["gpt", "assistant", "chatgpt", "model"],
            "observation_tag" => &["observation", "tool", "function_response"],
            "function_tag" => &["function_call"],
            "system_tag" => &["system"],
            _ => &[],
        };
        let value = value.as_str().unwrap_or_default();
        if !known.contains(&value) {
            let text = format!("`{tag}` is `{value}`; expected {}: rename it in the data", known.join(", "));
            job.finding_at(Kind::NoCounterpart, at, place, text);
        }
    }
}
