//! The data sets of axolotl's YAML: files, and the format of the rows from `type` and the names of fields.

use super::Result;
use crate::data::{self, DataSet, Named};
use crate::job::{Job, as_number, as_text};
use crate::report::Kind;
use crate::yaml::{Node, Value};

/// The kind of rows of a stage.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Rows {
    Training,
    Pairs,
    Unpaired,
    Prompts,
}

/// The data sets of a key; their number.
pub(super) fn data_sets(
    job: &mut Job<'_>,
    key: &'static str,
    list: &'static str,
    rows: Rows,
) -> Result<usize> {
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
                    "the function `{name}` that makes prompts of rows: write them as `{{\"prompt\": ...}}` \
                     with the columns that rewards read"
                );
                job.finding_at(Kind::NoCounterpart, &key, Some(place), text);
            }
        }
    }
}

/// The format of rows to train on. `name` is their `type`, which is at `place` under `key`.
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
            job.finding_at(
                Kind::NoCounterpart,
                key,
                Some(place),
                "rows of segments with labels; turns set their loss with `weight` or `loss` in the format \
                 `messages`",
            );
        }
        _ if name.starts_with("alpaca") => {
            set.format = Some("alpaca");
            job.finding_at(
                Kind::Changed,
                key,
                Some(place),
                "the instruction is a user's turn in the chat template; axolotl writes it below `### \
                 Instruction:` (a `prompt_template` can say so)",
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
