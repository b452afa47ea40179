//! `truing pas` from the outside, with a tiny model that writes nothing usable.

use std::fs;

use serde_json::Value;

use crate::command::run;
use crate::tiny_model;

#[test]
fn recipes_are_planned_and_failing_complements_leave_data_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_string_lossy().into_owned();
    tiny_model::write(&home.path().join("model"));
    let rows = "{\"prompt\": \"Why?\", \"category\": \"open_qa\", \"x\": 1.50}\n\n\
                {\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n{\"text\": \"t\"}\n";
    fs::write(path("rows.jsonl"), rows).unwrap();
    let data = "[[data]]\npath = \"rows.jsonl\"\nmax_samples = 2\n";
    let model = "model_name_or_path = \"model\"\n";
    let build = format!("stage = \"pas\"\noutput_dir = \"pairs\"\n{data}[generator]\n{model}");
    fs::write(path("build.toml"), &build).unwrap();
    let planned =
        run(home.path(), ["pas", "build", &path("build.toml"), "--plan", "--json"]).expect_status(0);
    let planned: Value = serde_json::from_str(&planned.stdout).unwrap();
    assert_eq!(planned["rows"]["calls for categories"], 1, "{planned}");
    let evaluate = format!(
        "stage = \"pas_evaluate\"\noutput_dir = \"results\"\n{data}[complementer]\n{model}[target]\n{model}"
    );
    fs::write(path("evaluate.toml"), evaluate).unwrap();
    run(home.path(), ["pas", "evaluate", &path("evaluate.toml"), "--plan"])
        .expect_status(2)
        .expect_stderr(&["none with `instruction_id_list`, and no `judge`"]);

    // The tiny model never ends its reply, and half a complement is none.
    let short = ["--model", &path("model"), "--max-new-tokens", "4"];
    let with = |more: &[&str]| run(home.path(), more.iter().copied().chain(short));
    with(&["pas", "complete", "Why?"])
        .expect_status(2)
        .expect_stderr(&["no complement", "cut at max_tokens (4)"]);
    let lines = with(&["pas", "complete", "--json", "Why?"]).expect_status(1).stdout;
    let line: Value = serde_json::from_str(&lines).unwrap();
    assert!(line["prompt"] == "Why?" && line["error"].is_string(), "{line}");

    let (rows_path, output) = (path("rows.jsonl"), path("out.jsonl"));
    let applied = with(&["pas", "apply", "--data", &rows_path, "-o", &output, "--json"]).expect_status(1);
    let counts: Value = serde_json::from_str(&applied.stdout).unwrap();
    assert_eq!((&counts["n_rows"], &counts["n_complemented"]), (&3.into(), &0.into()), "{counts}");
    assert_eq!(fs::read_to_string(&output).unwrap(), rows);
    with(&["pas", "apply", "--data", &rows_path, "-o", &rows_path])
        .expect_status(2)
        .expect_stderr(&["would be overwritten"]);
    fs::write(&rows_path, "{\"prompt\": \"a\"}\n[1]\n").unwrap();
    with(&["pas", "apply", "--data", &rows_path, "-o", &path("new.jsonl")])
        .expect_status(2)
        .expect_stderr(&["rows.jsonl:2: "]);
    assert!(!home.path().join("new.jsonl").exists());
}
