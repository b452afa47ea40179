//! Files that cannot be imported, and what is said about them.

use std::path::Path;

use truing_import::{Kind, SourceStage, Tool, import};

use crate::options;

fn error(text: &str) -> String {
    import(text, Path::new("x.yaml"), &options(Path::new("/no/such/folder")))
        .expect_err("the file is refused")
        .to_string()
}

#[test]
fn the_place_of_a_mistake_is_named() {
    for (text, expected) in [
        ("base_model: a\n  bad: indent\n", "x.yaml:2:6: "),
        ("base_model: [a\n", "x.yaml:1:13: unclosed bracket"),
        ("base_model: \"a\n", "x.yaml:1:13: "),
        ("- a\n- b\n", "x.yaml:1:1: expected keys with values (`key: value`)"),
        ("", "x.yaml:1:1: expected keys with values (`key: value`)"),
        (
            "base_model: org/m\nlearning_rate: fast\nsequence_len: 8\ndatasets: []\n",
            "x.yaml:2:16: `learning_rate` is \"fast\", expected a number",
        ),
        (
            "stage: sft\nmodel_name_or_path: org/m\nper_device_train_batch_size: 0\ntemplate: x\n",
            "x.yaml:3:30: `per_device_train_batch_size` is 0, expected an integer from 1 to 1000000000",
        ),
    ] {
        let found = error(text);
        assert!(found.starts_with(expected), "{text:?}: {found}");
    }
}

#[test]
fn what_truing_does_not_do_is_refused() {
    for (text, expected) in [
        ("stage: pt\ntemplate: x\n", "x.yaml:1:1: pretraining (`stage: pt`) is not available"),
        ("template: x\nstage: ppo\n", "x.yaml:2:1: PPO with a critic (`stage: ppo`) is not available"),
        ("base_model: a\npretraining_dataset: b\n", "x.yaml:2:1: pretraining is not available"),
        ("base_model: a\nrl: gdpo\n", "x.yaml:2:1: `rl: gdpo` is not available"),
        ("algorithm: {adv_estimator: gae}\nactor_rollout_ref: {}\n", "x.yaml:1:13: PPO with a critic"),
        (
            "dataset_name: a\nloss_type: discopop\nbeta: 1\n",
            "x.yaml:2:1: the loss `discopop` is not available",
        ),
    ] {
        let found = error(text);
        assert!(found.starts_with(expected), "{text:?}: {found}");
    }
}

#[test]
fn an_unknown_tool_or_trainer_is_asked_for() {
    assert_eq!(
        error("learning_rate: 1e-5\n"),
        "x.yaml: cannot detect which tool this file is for; expected a file of TRL, axolotl, LLaMA-Factory or verl"
    );
    assert_eq!(
        error("base_model: a\nstage: sft\n"),
        "x.yaml: cannot detect which tool this file is for (axolotl and LLaMA-Factory would fit); expected a \
         file of TRL, axolotl, LLaMA-Factory or verl"
    );
    let text = "model_name_or_path: org/m\ndataset_name: org/d\nmax_length: 512\n";
    assert_eq!(
        error(text),
        "x.yaml: the keys of this file of TRL fit several of its trainers; expected a stage (sft, dpo, kto, orpo, cpo, \
         reward, grpo or rloo)"
    );
    let mut told = options(Path::new("/no/such/folder"));
    told.stage = SourceStage::from_option("reward");
    let imported = import(text, Path::new("x.yaml"), &told).unwrap();
    assert_eq!((imported.tool, imported.stage), (Tool::Trl, "reward_model"));
}

#[test]
fn data_sets_are_looked_for() {
    let text = "stage: sft\nmodel_name_or_path: org/m\ntemplate: x\noutput_dir: out\n";
    assert_eq!(error(text), "x.yaml: no training data, expected `dataset`");
    let without_list = format!("{text}dataset: a\ndataset_dir: lists\n");
    let imported =
        import(&without_list, Path::new("x.yaml"), &options(Path::new("/no/such/folder"))).unwrap();
    assert!(
        imported.recipe.contains("[[data]]\npath = \"a.json\"  # dataset_info.json was not found"),
        "{}",
        imported.recipe
    );
    let missing: Vec<_> = imported.of(Kind::NoCounterpart).collect();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!((missing[0].key.as_str(), missing[0].place.map(|place| place.line)), ("dataset_dir", Some(6)));
    assert!(missing[0].text.starts_with("`lists/dataset_info.json` was not found"), "{missing:?}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("dataset_info.json"), r#"{"chats": {"file_name": "a.jsonl"}}"#)
        .unwrap();
    let text = format!("{text}dataset: chat\ndataset_dir: .\n");
    let found = import(&text, Path::new("x.yaml"), &options(folder.path())).unwrap_err().to_string();
    assert!(found.ends_with("no data set `chat`; did you mean `chats`?"), "{found}");
}

#[test]
fn unknown_keys_have_a_nearest_one() {
    let text = "base_model: org/m\nsequence_len: 8\nlearning_rate: 1.0e-5\nmicro_batchsize: 2\nzzz: 1\n\
                datasets: [{path: d.jsonl, type: chat_template, feild: x}]\n";
    let imported = import(text, Path::new("x.yaml"), &options(Path::new("/no/such/folder"))).unwrap();
    let unknown: Vec<(&str, &str, usize)> = imported
        .of(Kind::Unknown)
        .map(|finding| (finding.key.as_str(), finding.text.as_str(), finding.place.unwrap().line))
        .collect();
    assert_eq!(
        unknown,
        [
            ("micro_batchsize", "unknown axolotl key; did you mean `micro_batch_size`?", 4),
            ("zzz", "unknown axolotl key", 5),
            ("datasets[0].feild", "unknown axolotl data set key", 6),
        ]
    );
}
