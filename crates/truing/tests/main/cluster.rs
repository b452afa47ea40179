//! `truing plan --cluster` from the outside: the example that comes with truing, recipes, refusals.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command::{run, run_inside};
use crate::tiny_model;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The example's arguments.
fn example(more: &[&str]) -> Vec<String> {
    let path = |name: &str| root().join("recipes").join(name).to_string_lossy().into_owned();
    let model = path("data/llama_70b_config.json");
    let mut arguments: Vec<String> = vec!["plan".into(), "--cluster".into(), path("cluster_h100.toml")];
    arguments.extend(["--model".into(), model]);
    arguments.extend(more.iter().map(|&argument| argument.to_owned()));
    arguments
}

/// A host of two devices for the tiny model.
const SMALL: &str = "devices_per_host = 2\n[device]\nmemory_gb = 1\ntflops = 1\nmemory_gb_per_sec = 100\n\
                     [links]\nwithin_host_gb_per_sec = 10\n[assumptions]\nfixed_gb = 0\n";

#[test]
fn the_example_is_planned_as_its_page_says() {
    let home = tempfile::tempdir().unwrap();
    let planned = run(home.path(), example(&["--json"])).expect_status(0);
    let planned: Value = serde_json::from_str(&planned.stdout).unwrap();
    let chosen = &planned["chosen"];
    let degrees = serde_json::json!({ "data": 5, "sequence": 8, "zero_stage": 3, "micro_batch": 1 });
    assert_eq!(chosen["degrees"], degrees, "{chosen}");
    assert_eq!(
        (planned["n_combinations"].as_u64(), planned["choices"].as_array().unwrap().len()),
        (Some(48), 9)
    );
    assert_eq!(chosen["peak_bytes"], 73_411_434_608_u64);
    assert_eq!((&chosen["layers_per_segment"], &chosen["layers_computed_twice"]), (&11.into(), &11.into()));
    // Computed apart from the program, by the formulas of docs/scale.md.
    let secs = chosen["step_secs"].as_f64().unwrap();
    assert!((secs - 114.888_504_844_8).abs() < 1e-6, "{secs}");
    assert_eq!(planned["least_devices"]["n_devices"], 24);
    assert_eq!(planned["measured"], false);

    // The page names every setting.
    let page = fs::read_to_string(root().join("docs/scale.md")).unwrap();
    let tables = planned["cluster"].as_object().unwrap().iter().filter_map(|(_, value)| value.as_object());
    let keys: Vec<&String> = tables.flat_map(|table| table.keys()).collect();
    assert!(keys.len() > 25, "{keys:?}");
    for key in keys {
        assert!(page.contains(&format!("`{key}`")), "docs/scale.md does not name {key}");
    }
}

#[test]
fn the_printed_plan_fits_a_terminal_and_names_every_assumption() {
    let home = tempfile::tempdir().unwrap();
    let printed = run(home.path(), example(&[])).expect_status(0).stdout;
    // The model's path is as long as it is: the table breaks it.
    assert!(printed.lines().all(|line| line.chars().count() <= 80), "{printed}");
    for text in [
        "chosen",
        "peak, ",
        "all-to-all of heads",
        "twice the hosts",
        "overlap_parameters",
        "nothing was measured",
    ] {
        assert!(printed.contains(text), "no `{text}` in {printed}");
    }

    let table = run(home.path(), example(&["--least-devices"])).expect_status(0).stdout;
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    let words = table.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("128: megatron, 16 bytes, sequence 8, all 40: products, 16 bytes, sequence 1, k=1;"),
        "{table}"
    );
    let json = run(home.path(), example(&["--least-devices", "--json"])).expect_status(0).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["table"]["rows"][11]["least"][0], 128, "{json}");
    // The page has this table.
    let page = fs::read_to_string(root().join("docs/scale.md")).unwrap().replace("**", "");
    for row in json["table"]["rows"].as_array().unwrap() {
        let name = row["layer_activations"].as_str().unwrap();
        let least = row["least"].as_array().unwrap().iter();
        let cells: Vec<String> = least.map(|n| n.as_u64().map_or("-".into(), |n| n.to_string())).collect();
        let line =
            format!("| {name} | {} | {} | {} |", row["state_bytes"], row["sequence"], cells.join(" | "));
        assert!(page.contains(&line), "docs/scale.md does not have {line}");
    }
}

#[test]
fn a_recipe_gives_model_length_and_step() {
    let home = tempfile::tempdir().unwrap();
    tiny_model::write(&home.path().join("model"));
    let write = |name: &str, text: &str| fs::write(home.path().join(name), text).unwrap();
    write("cluster.toml", SMALL);
    let recipe = "stage = \"sft\"\nmodel_name_or_path = \"model\"\noutput_dir = \"run\"\nmax_length = 512\n\
                  tokens_per_step = 2048\n[lora]\nrank = 4\n[[data]]\npath = \"rows.jsonl\"\n";
    write("recipe.toml", recipe);
    let arguments = ["plan", "recipe.toml", "--cluster", "cluster.toml", "--json"];
    let planned = run_inside(home.path(), arguments).expect_status(0);
    let planned: Value = serde_json::from_str(&planned.stdout).unwrap();
    let training = &planned["cluster"]["training"];
    assert_eq!((&training["sequence_length"], &training["sequences_per_step"]), (&512.into(), &4.into()));
    // Micro-batches of more than a step are left out.
    assert_eq!(training["micro_batches"], serde_json::json!([1, 2, 4]));
    // Per layer: q, o, gate, up, down and k, v of half the width; rank times inputs and outputs.
    let of_layer = 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64));
    assert_eq!(planned["n_trainable_parameters"], 2 * of_layer);
    let longer = ["plan", "recipe.toml", "--cluster", "cluster.toml", "--json", "--set", "max_length=256"];
    let planned = run_inside(home.path(), longer).expect_status(0);
    let planned: Value = serde_json::from_str(&planned.stdout).unwrap();
    assert_eq!(planned["cluster"]["training"]["sequences_per_step"], 8);

    write("grpo.toml", "stage = \"grpo\"\n");
    run_inside(home.path(), ["plan", "grpo.toml", "--cluster", "cluster.toml"])
        .expect_status(2)
        .expect_stderr(&["grpo.toml: a cluster is planned for recipes of stage \"sft\" or \"dpo\""]);
    let unknown = ["plan", "recipe.toml", "--cluster", "cluster.toml", "--set", "lora.targets=[\"query\"]"];
    run_inside(home.path(), unknown).expect_status(2).expect_stderr(&["query"]);
}

#[test]
fn mistakes_name_file_line_and_what_was_expected() {
    let home = tempfile::tempdir().unwrap();
    tiny_model::write(&home.path().join("model"));
    let write = |name: &str, text: &str| fs::write(home.path().join(name), text).unwrap();
    let check = |text: &str, status: i32, expected: &[&str]| {
        write("cluster.toml", text);
        let arguments = ["plan", "--cluster", "cluster.toml", "--model", "model"];
        run_inside(home.path(), arguments).expect_status(status).expect_stderr(expected)
    };
    check(SMALL, 0, &[]);
    check(
        &SMALL.replace("tflops", "tflop"),
        2,
        &["cluster.toml:4: unknown key `tflop`; the nearest known key is `tflops`"],
    );
    check(&SMALL.replace("= 2", "= 0"), 2, &["cluster.toml:1: `devices_per_host` is 0, expected 1 to 65536"]);
    check("hosts = 2\n", 2, &["cluster.toml: `devices_per_host` is 0"]);
    check(&SMALL.replace("tflops = 1\n", ""), 2, &["`device.tflops` is 0, expected a number above 0"]);
    check(&SMALL.replace("tflops = 1", "tflops = \"fast\""), 2, &["cluster.toml:4: ", "expected a number"]);
    check(&format!("{SMALL}layer_activations = \"none\"\n"), 2, &["`none`", "`products`"]);
    // Four heads are shared by one, two or four devices.
    let degrees = format!("{}[degrees]\nsequence = 3\n", SMALL.replace("= 2", "= 3"));
    check(&degrees, 2, &["cluster.toml:11: `degrees.sequence` is 3", "by 1, 2 or 4 devices"]);
    let too_small = check(&SMALL.replace("memory_gb = 1\n", "memory_gb = 0.001\n"), 1, &[]);
    assert!(too_small.stdout.contains("this run does not fit"), "{}", too_small.stdout);

    write("cluster.toml", SMALL);
    run_inside(home.path(), ["plan", "--cluster", "cluster.toml"])
        .expect_status(2)
        .expect_stderr(&["no model is given", "hint: `--model`"]);
    run_inside(home.path(), ["plan", "--cluster", "missing.toml", "--model", "model"])
        .expect_status(2)
        .expect_stderr(&["cannot read missing.toml", "recipes/cluster_h100.toml"]);
    run_inside(home.path(), ["plan", "--cluster", "cluster.toml", "--model", "org/none"])
        .expect_status(2)
        .expect_stderr(&["offline was chosen"]);
    let config = fs::read_to_string(home.path().join("model/config.json")).unwrap();
    write("config.json", &config.replace("num_attention_heads", "heads"));
    run_inside(home.path(), ["plan", "--cluster", "cluster.toml", "--model", "config.json"])
        .expect_status(2)
        .expect_stderr(&["config.json", "num_attention_heads"]);
    // No weights are read.
    fs::remove_file(home.path().join("model/model.safetensors")).unwrap();
    check(SMALL, 0, &[]);
    run_inside(home.path(), ["plan"]).expect_status(2).expect_stderr(&["RECIPE"]);
}
