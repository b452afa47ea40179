//! A stage's recipe made small for a rehearsal: few rows, steps, items and candidates, short texts, and a stand-in for
//! every model that is asked. What decides whether the recipe works stays: paths, formats, columns, templates, tools,
//! lengths of samples, memory budgets.

use std::path::Path;

use toml::{Table, Value};
use truing_types::counted;

/// Steps of a stage that trains.
const N_STEPS: i64 = 2;
/// Items of a benchmark.
const N_ITEMS: i64 = 3;
/// Tokens of a text that a small model writes.
const N_NEW_TOKENS: i64 = 24;
/// A part that is held out is at least this large, so that it is not empty.
const MIN_HELD_OUT: f64 = 0.25;

/// Settings with the largest value that they have in a rehearsal, wherever they are in a recipe.
const CEILINGS: [(&str, i64); 45] = [
    ("max_steps", N_STEPS),
    ("eval_steps", N_STEPS),
    ("warmup_steps", 1),
    ("packs_per_step", 2),
    ("batch_size", 4),
    ("max_triplets_per_template", 4),
    ("prompts_per_step", 2),
    ("num_generations", 3),
    ("num_iterations", 2),
    ("minibatches", 2),
    ("max_resample_rounds", 1),
    ("ptx_samples_per_update", 1),
    ("eval_num_generations", 1),
    ("max_completion_length", N_NEW_TOKENS),
    ("max_new_tokens", N_NEW_TOKENS),
    ("max_complement_tokens", N_NEW_TOKENS),
    ("n", 3),
    ("n_votes", 1),
    ("n_anchors", 2),
    ("n_answers", 1),
    ("n_rows", 4),
    ("n_samples", 2),
    ("responses", 1),
    ("max_solutions", 1),
    ("max_responses", 1),
    ("max_reflections", 1),
    ("max_regenerations", 1),
    ("max_rounds", 1),
    ("max_rewrites", 1),
    ("max_mutants", 1),
    ("max_branches", 1),
    ("max_references", 1),
    ("max_user_turns", 2),
    ("max_pairs_per_prompt", 3),
    ("evolutions", 1),
    ("file_rows", 10),
    ("seeds", 1),
    ("repeat_items", 1),
    ("num_fewshot", 3),
    ("n_candidates", 3),
    ("n_rounds", 1),
    ("n_refined", 1),
    ("target_size", 20),
    ("max_points", 100),
    ("save_total_limit", 1),
];
/// Tables whose keys are names of the user's own.
const OWN_NAMES: [&str; 9] = [
    "columns",
    "extra",
    "body",
    "quotas",
    "keep",
    "category_names",
    "aspect_texts",
    "aspect_weights",
    "parameters",
];
/// Tables with models that are asked for judgements or texts of a form: a small model with random weights gives none.
const ASKED: [&str; 6] = ["judge", "generator", "critic_model", "writer", "checker", "minimal_difference"];

/// What replaces models that are asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct StandIn<'a> {
    /// The address of the server that answers in their place.
    pub(super) base_url: &'a str,
    /// Where their replies are kept, apart from those of real runs.
    pub(super) replies: &'a Path,
}

/// A model on a server that a recipe names.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NamedServer {
    /// The keys and indices of its table.
    pub(super) keys: Vec<String>,
    /// Its settings.
    pub(super) settings: Table,
}

/// The models on servers that a recipe names.
pub(super) fn servers_of(recipe: &Table) -> Vec<NamedServer> {
    let mut found = Vec::new();
    visit(recipe, &mut Vec::new(), &mut |keys, table| {
        if let Some(Value::Table(server)) = table.get("server")
            && server.contains_key("base_url")
        {
            let keys = [keys, &["server".to_owned()]].concat();
            found.push(NamedServer { keys, settings: server.clone() });
        }
    });
    found
}

/// Calls `see` for each table with its keys and indices.
fn visit(table: &Table, keys: &mut Vec<String>, see: &mut dyn FnMut(&[String], &Table)) {
    see(keys, table);
    for (key, value) in table {
        keys.push(key.clone());
        match value {
            Value::Table(inner) => visit(inner, keys, see),
            Value::Array(list) => {
                for (idx, entry) in list.iter().enumerate() {
                    if let Value::Table(inner) = entry {
                        keys.push(idx.to_string());
                        visit(inner, keys, see);
                        keys.pop();
                    }
                }
            }
            _ => {}
        }
        keys.pop();
    }
}

/// Makes the recipe of a kind of stage small. Returns what a person should know of the changes.
pub(super) fn shrink(kind: &str, recipe: &mut Table, stand_in: StandIn<'_>) -> Vec<String> {
    let mut remarks = Vec::new();
    replace_asked(recipe, &mut Vec::new(), stand_in, &mut remarks);
    lower(recipe);
    shorten_data(kind, recipe);
    match kind {
        "sft" | "dpo" | "distill" | "reward_model" | "classifier" | "embed" | "grpo" => training(recipe),
        "evaluate" | "merge_search" => evaluation(recipe),
        "merge" => without_adapters(recipe, &mut remarks),
        _ => {}
    }
    if let Some(Value::Table(task_embedding)) = recipe.get_mut("task_embedding") {
        task_embedding.insert("max_steps".into(), N_STEPS.into());
    }
    if recipe.remove("rollouts").is_some() {
        remarks.push("`rollouts`: sampled in this process, not on servers".into());
    }
    remarks
}

/// Lowers every setting of [`CEILINGS`] that is above its ceiling.
fn lower(table: &mut Table) {
    for (key, value) in table.iter_mut() {
        let ceiling = CEILINGS.iter().find(|(name, _)| name == key).map(|(_, ceiling)| *ceiling);
        match value {
            Value::Integer(set) => {
                if let Some(ceiling) = ceiling {
                    *set = (*set).min(ceiling);
                }
            }
            Value::Table(inner) if !OWN_NAMES.contains(&key.as_str()) => lower(inner),
            Value::Array(list) => {
                list.iter_mut().filter_map(Value::as_table_mut).for_each(lower);
            }
            _ => {}
        }
    }
}

/// Rows of a data source that are read, by kind of stage and table.
fn n_rows(kind: &str, table: &str) -> i64 {
    match (kind, table) {
        ("classifier", _) => 400,
        ("select", _) => 200,
        (_, "eval_data") | ("respond" | "build" | "pas_evaluate", _) => 4,
        ("grpo" | "distill", _) => 8,
        ("label" | "quality" | "prefer", _) => 12,
        _ => 32,
    }
}

/// Limits the rows of every data source.
fn shorten_data(kind: &str, recipe: &mut Table) {
    for key in ["data", "eval_data", "ptx_data", "evaluation_data"] {
        let Some(Value::Array(sources)) = recipe.get_mut(key) else { continue };
        for source in sources.iter_mut().filter_map(Value::as_table_mut) {
            let set = source.get("max_samples").and_then(Value::as_integer).unwrap_or(i64::MAX);
            source.insert("max_samples".into(), set.min(n_rows(kind, key)).into());
        }
    }
}

fn training(recipe: &mut Table) {
    let set = recipe.get("max_steps").and_then(Value::as_integer).unwrap_or(N_STEPS);
    recipe.insert("max_steps".into(), set.min(N_STEPS).into());
    // It replaces `packs_per_step`.
    recipe.remove("tokens_per_step");
    if let Some(Value::Float(share)) = recipe.get_mut("eval_fraction")
        && *share > 0.0
    {
        *share = share.max(MIN_HELD_OUT);
    }
    // Without a number of steps they are at the end of an epoch, which a rehearsal may not reach.
    let needs_evaluation = ["load_best_model_at_end", "keep_best"]
        .iter()
        .any(|key| recipe.get(*key).and_then(Value::as_bool).unwrap_or(false));
    if needs_evaluation && !recipe.contains_key("eval_steps") {
        recipe.insert("eval_steps".into(), N_STEPS.into());
    }
}

fn evaluation(recipe: &mut Table) {
    // A search divides the items in two.
    let n_items = if recipe.contains_key("n_rounds") { 2 * N_ITEMS } else { N_ITEMS };
    recipe.insert("limit".into(), n_items.into());
    if !recipe.contains_key("max_new_tokens") {
        recipe.insert("max_new_tokens".into(), N_NEW_TOKENS.into());
    }
    let Some(Value::Array(tasks)) = recipe.get_mut("task") else { return };
    for task in tasks.iter_mut().filter_map(Value::as_table_mut) {
        task.remove("limit");
    }
}

/// The small model of an adapter is a whole model already.
fn without_adapters(recipe: &mut Table, remarks: &mut Vec<String>) {
    let mut n_removed = 0;
    let models = |table: &mut Table, key: &str, n_removed: &mut usize| {
        let Some(Value::Array(list)) = table.get_mut(key) else { return };
        for model in list.iter_mut().filter_map(Value::as_table_mut) {
            *n_removed += usize::from(model.remove("adapter").is_some());
        }
    };
    models(recipe, "models", &mut n_removed);
    if let Some(Value::Array(slices)) = recipe.get_mut("slices") {
        for slice in slices.iter_mut().filter_map(Value::as_table_mut) {
            models(slice, "sources", &mut n_removed);
        }
    }
    if n_removed > 0 {
        let n_removed = counted(n_removed as u64, "adapter is", "adapters are");
        remarks.push(format!("{n_removed} left out of the merge"));
    }
}

/// Replaces each model on a server, and each judge and writer, by the stand-in.
fn replace_asked(
    table: &mut Table,
    keys: &mut Vec<String>,
    stand_in: StandIn<'_>,
    remarks: &mut Vec<String>,
) {
    // Every table of a model that is asked has a `mode`: how its cache is used.
    if table.contains_key("mode")
        && (table.contains_key("server") || table.contains_key("model_name_or_path"))
    {
        let is_asked = keys.first().is_some_and(|first| ASKED.contains(&first.as_str()));
        keep_replies_apart(table, keys, stand_in);
        if table.contains_key("server") || is_asked {
            to_stand_in(table, stand_in);
            remarks.push(format!("`{}`: the stand-in answers", keys.join(".")));
            return;
        }
    } else if keys.last().is_some_and(|last| last == "teacher") && table.remove("server").is_some() {
        // It gives log-probabilities of tokens: those of the student take their place.
        remarks.push(format!("`{}`: the student takes the place of the server", keys.join(".")));
    }
    for (key, value) in table.iter_mut() {
        keys.push(key.clone());
        match value {
            Value::Table(inner) => replace_asked(inner, keys, stand_in, remarks),
            Value::Array(list) => {
                for (idx, entry) in list.iter_mut().enumerate() {
                    if let Value::Table(inner) = entry {
                        keys.push(idx.to_string());
                        replace_asked(inner, keys, stand_in, remarks);
                        keys.pop();
                    }
                }
            }
            _ => {}
        }
        keys.pop();
    }
}

/// Makes the table of a model one of the stand-in.
fn to_stand_in(table: &mut Table, stand_in: StandIn<'_>) {
    table.remove("model_name_or_path");
    table.remove("prompt_lookup_num_tokens");
    let server = table.entry("server").or_insert_with(|| Value::Table(Table::new()));
    let Value::Table(server) = server else { return };
    for key in ["api_key_env", "requests_per_minute", "tokens_per_minute"] {
        server.remove(key);
    }
    server.insert("base_url".into(), stand_in.base_url.into());
    server.entry("model").or_insert_with(|| "stand-in".into());
    server.insert("stream".into(), false.into());
    server.insert("max_retries".into(), 1.into());
}

/// Replies of a rehearsal are kept in a file of their own, and none are taken from a real run.
fn keep_replies_apart(table: &mut Table, keys: &[String], stand_in: StandIn<'_>) {
    table.insert("mode".into(), "live".into());
    if table.contains_key("cache") {
        let file = stand_in.replies.join(format!("{}.sqlite", keys.join("_")));
        table.insert("cache".into(), file.to_string_lossy().into_owned().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAND_IN: &str = "http://127.0.0.1:9/v1";

    fn shrunk(kind: &str, text: &str) -> (Table, Vec<String>) {
        let mut recipe: Table = toml::from_str(text).unwrap();
        let stand_in = StandIn { base_url: STAND_IN, replies: Path::new("/trial/replies") };
        let remarks = shrink(kind, &mut recipe, stand_in);
        (recipe, remarks)
    }

    #[test]
    fn a_training_run_becomes_short_and_keeps_what_it_reads() {
        let text = "max_length = 4096\nnum_train_epochs = 3.0\ntokens_per_step = 100000\npacks_per_step = 8\n\
                    eval_fraction = 0.01\nload_best_model_at_end = true\nmodel_name_or_path = \"m\"\n\
                    [[data]]\npath = \"a.jsonl\"\ncolumns = { n = \"n\" }\n[[data]]\npath = \"b\"\nmax_samples = 5\n\
                    [[eval_data]]\npath = \"c\"\n";
        let (recipe, remarks) = shrunk("sft", text);
        let expected = "max_length = 4096\nnum_train_epochs = 3.0\npacks_per_step = 2\nmax_steps = 2\neval_steps = 2\n\
                        eval_fraction = 0.25\nload_best_model_at_end = true\nmodel_name_or_path = \"m\"\n\
                        [[data]]\npath = \"a.jsonl\"\ncolumns = { n = \"n\" }\nmax_samples = 32\n\
                        [[data]]\npath = \"b\"\nmax_samples = 5\n[[eval_data]]\npath = \"c\"\nmax_samples = 4\n";
        assert_eq!(recipe, toml::from_str(expected).unwrap());
        assert!(remarks.is_empty(), "{remarks:?}");
    }

    #[test]
    fn an_evaluation_has_few_items_in_every_task() {
        let (recipe, _) = shrunk("evaluate", "limit = 0.5\n[[task]]\nname = \"ifeval\"\nlimit = 100\n");
        let expected = "limit = 3\nmax_new_tokens = 24\n[[task]]\nname = \"ifeval\"\n";
        assert_eq!(recipe, toml::from_str(expected).unwrap());
    }

    #[test]
    fn asked_models_are_replaced_and_policies_are_not() {
        let text = "[[model]]\nname = \"own\"\nmode = \"replay\"\nmodel_name_or_path = \"/small\"\n\
                    [[model]]\nname = \"far\"\nmode = \"live\"\ncache = \"/home/replies.sqlite\"\n\
                    server = { base_url = \"https://far/v1\", model = \"far\", api_key_env = \"KEY\", stream = true }\n\
                    [judge.model]\nmode = \"live\"\nmodel_name_or_path = \"/small\"\n\
                    [[decoding]]\nn = 5\nmax_new_tokens = 1024\n";
        let parsed: Table = toml::from_str(text).unwrap();
        let servers = servers_of(&parsed);
        assert_eq!((servers.len(), servers[0].keys.join(".").as_str()), (1, "model.1.server"));
        assert_eq!(servers[0].settings["api_key_env"].as_str(), Some("KEY"));
        let (recipe, remarks) = shrunk("respond", text);
        let models = recipe["model"].as_array().unwrap();
        assert_eq!(models[0]["model_name_or_path"].as_str(), Some("/small"), "what responds is tried");
        assert_eq!(models[0]["mode"].as_str(), Some("live"));
        let server = models[1]["server"].as_table().unwrap();
        assert_eq!((server["base_url"].as_str(), server["model"].as_str()), (Some(STAND_IN), Some("far")));
        assert!(!server.contains_key("api_key_env") && server["stream"] == Value::Boolean(false));
        assert_eq!(models[1]["cache"].as_str(), Some("/trial/replies/model_1.sqlite"));
        let judge = recipe["judge"]["model"].as_table().unwrap();
        assert_eq!(judge["server"]["base_url"].as_str(), Some(STAND_IN));
        assert!(!judge.contains_key("model_name_or_path"));
        assert_eq!(recipe["decoding"][0]["n"].as_integer(), Some(3));
        assert_eq!(remarks.len(), 2, "{remarks:?}");
    }

    #[test]
    fn servers_that_give_tokens_are_left_out_with_a_remark() {
        let text = "prompts_per_step = 16\n[rollouts]\nservers = [\"http://a\"]\n";
        let (recipe, remarks) = shrunk("grpo", text);
        assert_eq!(recipe, toml::from_str("prompts_per_step = 2\nmax_steps = 2\n").unwrap());
        assert!(remarks[0].contains("rollouts"), "{remarks:?}");
        let text =
            "[distillation.teacher]\nweights = \"initial\"\nserver = { base_url = \"a\", model = \"t\" }\n";
        let (recipe, remarks) = shrunk("distill", text);
        assert!(!recipe["distillation"]["teacher"].as_table().unwrap().contains_key("server"));
        assert_eq!(remarks.len(), 1, "{remarks:?}");
        let merge = "[[models]]\nmodel = \"a\"\nadapter = \"b\"\nparameters = { n = 5 }\n";
        let (recipe, remarks) = shrunk("merge", merge);
        assert_eq!(recipe, toml::from_str("[[models]]\nmodel = \"a\"\nparameters = { n = 5 }\n").unwrap());
        assert_eq!(remarks, ["1 adapter is left out of the merge"]);
    }
}
