//! Rows whose turns are in no usual order, and blank turns: a setting of the source says what becomes of them.

use serde_json::{Value, json};
use truing_data::{
    OnBadRow, OnRoleOrder, Remark, SourceConfig, SourceRow, TurnProblem, TurnRole, data_files,
    read_preferences, read_prompts, read_rows, read_rows_as, read_triplets, read_unpaired,
};
use truing_types::{PreferenceRow, PromptRow, UnpairedRow};

fn write(folder: &tempfile::TempDir, rows: &[Value]) -> SourceConfig {
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    SourceConfig::new(path)
}

fn turns(roles: &str) -> Value {
    let turn = |role: char| match role {
        'u' => json!({"role": "user", "content": "a"}),
        'U' => json!({"role": "user", "content": " \n"}),
        's' => json!({"role": "system", "content": "a"}),
        't' => json!({"role": "tool", "content": "a"}),
        'c' => json!({"role": "assistant", "content": null, "tool_calls": [{"name": "f", "arguments": {}}]}),
        _ => json!({"role": "assistant", "content": "a"}),
    };
    roles.chars().map(turn).collect()
}

fn conversation(roles: &str) -> Value {
    json!({"messages": turns(roles)})
}

#[test]
fn by_default_odd_rows_are_used_counted_and_the_first_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let rows = ["ua", "uua", "aua", "suua", "uasua", "uta", "uau", "Ua", "ucta"].map(conversation);
    let mut read = read_rows(&write(&folder, &rows), OnBadRow::Error).unwrap();
    assert_eq!(read.by_ref().filter(Result::is_ok).count(), rows.len());
    let found: Vec<(String, u64, u64, Option<usize>)> = read
        .remarks()
        .iter()
        .map(|(remark, remarked)| {
            (remark.to_string(), remarked.n_rows, remarked.first.line, remarked.message)
        })
        .collect();
    let expected = [
        ("the assistant speaks first", 1, 3, Some(0)),
        ("two `user` turns follow each other", 2, 2, Some(1)),
        ("a `system` turn follows other turns", 1, 5, Some(2)),
        ("a `tool` turn follows no tool call", 1, 6, Some(1)),
        ("the last turn is not the assistant's", 1, 7, Some(2)),
        ("a `user` turn is blank", 1, 8, Some(0)),
    ];
    assert_eq!(found, expected.map(|(text, n, line, message)| (text.to_owned(), n, line, message)));
}

#[test]
fn odd_rows_are_bad_rows_or_left_out_where_the_source_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = write(&folder, &["ua", "uua", "aua", "ua"].map(conversation));
    config.on_role_order = OnRoleOrder::Error;
    let error = read_rows(&config, OnBadRow::Error).unwrap().find_map(Result::err).unwrap().to_string();
    assert!(
        error.contains("2 invalid rows:") && error.contains("rows.jsonl:2: two `user` turns follow"),
        "{error}"
    );
    assert!(error.contains("(message 1); expected "), "{error}");
    for (policy, on_bad_row) in [(OnRoleOrder::Error, OnBadRow::Skip), (OnRoleOrder::Skip, OnBadRow::Error)] {
        config.on_role_order = policy;
        let mut rows = read_rows(&config, on_bad_row).unwrap();
        let lines: Vec<u64> = rows.by_ref().map(|row| row.unwrap().1.line).collect();
        assert_eq!(lines, [1, 4], "{policy:?}");
        let skipped: Vec<u64> = rows.skipped().rows.iter().map(|row| row.origin.line).collect();
        assert_eq!((skipped, rows.remarks().len()), (vec![2, 3], 0));
    }
    // Leaving odd rows out is no reason to leave out rows that cannot be read.
    let mut config = write(&folder, &[conversation("uua"), json!({"messages": 7})]);
    (config.on_role_order, config.format) = (OnRoleOrder::Skip, Some("messages".into()));
    assert!(read_rows(&config, OnBadRow::Error).unwrap().any(|row| row.is_err()));
}

#[track_caller]
fn check<Row: SourceRow>(row: Value, expected: &[TurnProblem]) {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = read_rows_as::<Row>(&write(&folder, &[row]), OnBadRow::Error).unwrap();
    assert_eq!(rows.by_ref().filter(Result::is_ok).count(), 1);
    let found: Vec<Remark> = rows.remarks().into_keys().collect();
    assert_eq!(found, expected.iter().copied().map(Remark::Turns).collect::<Vec<_>>());
}

#[test]
fn preferences_verdicts_and_prompts_have_the_policy_too() {
    use TurnProblem::*;
    check::<PreferenceRow>(json!({"prompt": turns("u"), "chosen": "a", "rejected": "b"}), &[]);
    check::<PreferenceRow>(
        json!({"prompt": turns("uu"), "chosen": "a", "rejected": "b"}),
        &[Repeated(TurnRole::User)],
    );
    // What is worse may be worse because it says nothing.
    check::<PreferenceRow>(json!({"prompt": turns("u"), "chosen": "a", "rejected": " "}), &[]);
    check::<PreferenceRow>(
        json!({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}, {"role": "user",
            "content": "b"}], "chosen": "a", "rejected": "b"}),
        &[Blank(TurnRole::Assistant)],
    );
    check::<UnpairedRow>(json!({"prompt": turns("u"), "completion": "", "label": false}), &[]);
    check::<UnpairedRow>(json!({"prompt": turns("au"), "completion": "b", "label": true}), &[AssistantFirst]);
    check::<PromptRow>(json!({"prompt": turns("uct")}), &[]);
    check::<PromptRow>(json!({"prompt": turns("usu")}), &[LateSystem]);
    check::<PromptRow>(json!({"prompt": turns("ut")}), &[ResultWithoutCall]);
}

/// A turn that is learnt and says nothing teaches the model to say nothing.
#[test]
fn a_blank_turn_that_is_learnt_is_a_bad_row() {
    for content in ["", " ", "\n\t", "\u{200b}", "\u{feff} \u{200d}"] {
        let turn = json!({"role": "assistant", "content": content});
        let (good, bad) = crate::read_text(
            json!({"messages": [{"role": "user", "content": "a"}, turn]}).to_string().as_bytes(),
            |_| {},
        );
        assert!(good.is_empty());
        assert_eq!(
            bad[0].problem.to_string(),
            "`messages[1].content` is empty; expected what the assistant says"
        );
    }
    for raw in [json!({"text": "\u{200b}\n"}), json!({"prompt": "a", "completion": " \u{feff}"})] {
        let (good, bad) = crate::read_text(raw.to_string().as_bytes(), |_| {});
        assert!(
            good.is_empty() && bad[0].problem.to_string().contains("is empty; expected training text"),
            "{bad:?}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let wanted = json!({"prompt": "a", "completion": "\u{200b}", "label": true});
    assert!(read_unpaired(&write(&folder, &[wanted]), OnBadRow::Error).unwrap().any(|row| row.is_err()));
}

/// What is preferred to another response is learnt; what is only ever worse may say nothing.
#[test]
fn a_blank_response_that_is_preferred_is_a_bad_row() {
    let folder = tempfile::tempdir().unwrap();
    let problem = |row: Value| {
        let mut rows = read_preferences(&write(&folder, &[row]), OnBadRow::Skip).unwrap();
        let n_good = rows.by_ref().filter(Result::is_ok).count();
        let bad = rows.skipped().rows.first().map(|row| row.problem.to_string());
        assert_eq!(n_good, usize::from(bad.is_none()));
        bad
    };
    let preferred = "is empty; expected a non-empty response, since it is preferred to another";
    for blank in ["", " \n", "\u{200b}"] {
        let pair =
            |chosen: &str, rejected: &str| json!({"prompt": "a", "chosen": chosen, "rejected": rejected});
        assert_eq!(problem(pair(blank, "b")), Some(format!("`chosen` {preferred}")), "{blank:?}");
        assert_eq!(problem(pair("b", blank)), None, "{blank:?}");
        assert!(problem(pair(blank, "\t")).is_some(), "neither says anything");
        let turns = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": blank}]);
        let other = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
        let as_turns = json!({"chosen": turns, "rejected": other});
        assert_eq!(problem(as_turns), Some(format!("`chosen` {preferred}")), "{blank:?}");
        let ranking =
            |responses: [&str; 3]| json!({"prompt": "a", "responses": responses, "ranks": [1, 2, 3]});
        assert_eq!(
            problem(ranking(["b", blank, "c"])),
            Some(format!("`responses[1]` {preferred}")),
            "{blank:?}"
        );
        assert_eq!(problem(ranking(["b", "c", blank])), None, "{blank:?}");
    }
}

/// A row may be left out after its reader has remarked something about it.
#[test]
fn remarks_are_counted_without_rows_that_were_left_out_later() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows =
        read_rows(&write(&folder, &["uua", "ua", "uua", "uua"].map(conversation)), OnBadRow::Error).unwrap();
    let repeated = Remark::Turns(TurnProblem::Repeated(TurnRole::User));
    rows.next();
    assert_eq!(rows.remarks_of_last(), [(repeated, Some(1))]);
    rows.next();
    assert_eq!(rows.remarks_of_last(), []);
    assert_eq!(rows.by_ref().count(), 2);
    assert_eq!(rows.remarks()[&repeated].n_rows, 3);
    let found = rows.remarks_without(|origin| origin.line == 1);
    assert_eq!((found[&repeated].n_rows, found[&repeated].first.line), (2, 3));
    assert!(rows.remarks_without(|_| true).is_empty());
}

/// However many odd rows there are, a bounded number of them is remembered.
#[test]
fn remarks_are_counted_behind_the_rows_that_are_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = read_rows(&write(&folder, &vec![conversation("uua"); 1_500]), OnBadRow::Error).unwrap();
    assert_eq!(rows.by_ref().filter(Result::is_ok).count(), 1_500);
    let repeated = Remark::Turns(TurnProblem::Repeated(TurnRole::User));
    assert_eq!(rows.remarks()[&repeated].n_rows, 1_500);
    let found = rows.remarks_without(|origin| origin.line <= 3);
    assert_eq!((found[&repeated].n_rows, found[&repeated].first.line), (1_497, 4));
    assert_eq!(rows.remarks_without(|_| true)[&repeated].n_rows, 500);
}

#[test]
fn files_of_a_folder_that_are_not_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let unread = ["._a.jsonl", ".cache.jsonl.gz", "config.json", "dataset_info.json", "notes.md"];
    for name in unread {
        std::fs::write(folder.path().join(name), "{\"text\": \"no\"}\n").unwrap();
    }
    std::fs::create_dir(folder.path().join(".ipynb_checkpoints")).unwrap();
    std::fs::write(folder.path().join(".ipynb_checkpoints/a.jsonl"), "{\"text\": \"no\"}\n").unwrap();
    let config = SourceConfig::new(folder.path());
    let error = read_rows(&config, OnBadRow::Error).unwrap_err().to_string();
    assert!(
        error.contains("holds no data file; 6 files are not read (hidden, description of a data set, md): ")
            && error.contains("._a.jsonl, ")
            && error.contains("; expected names that end in .jsonl"),
        "{error}"
    );
    std::fs::write(folder.path().join("a.jsonl"), "{\"text\": \"yes\"}\n").unwrap();
    let mut rows = read_rows(&config, OnBadRow::Error).unwrap();
    assert_eq!(rows.by_ref().map(Result::unwrap).count(), 1);
    let names = |paths: &[std::path::PathBuf]| -> Vec<String> {
        paths.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(
        names(rows.unread()),
        [
            "._a.jsonl",
            ".cache.jsonl.gz",
            ".ipynb_checkpoints",
            "config.json",
            "dataset_info.json",
            "notes.md"
        ]
    );
    // A file that is named is meant.
    let named = SourceConfig::new(folder.path().join("._a.jsonl"));
    assert_eq!(read_rows(&named, OnBadRow::Error).unwrap().count(), 1);
}

#[test]
fn pictures_beside_the_text_are_remarked() {
    let folder = tempfile::tempdir().unwrap();
    let with = |images: Value| json!({"prompt": "What is this?", "images": images});
    let rows = [with(json!([])), with(json!(["a.png"])), with(Value::Null), with(json!([{"bytes": "..."}]))];
    let mut read = read_prompts(&write(&folder, &rows), OnBadRow::Error).unwrap();
    assert_eq!(read.by_ref().count(), 4);
    let (remark, remarked) = read.remarks().pop_first().unwrap();
    assert_eq!(remark.to_string(), "`images` is not read: models here read text only");
    assert_eq!((remarked.n_rows, remarked.first.line, remarked.message), (2, 2, None));
}

#[test]
fn a_source_names_every_file_that_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.jsonl", "a.jsonl", "notes.md"] {
        let row = json!({"text": name, "anchor": name, "positive": "p", "negative": "n"});
        std::fs::write(folder.path().join(name), row.to_string()).unwrap();
    }
    let names = |paths: &[std::path::PathBuf]| -> Vec<String> {
        paths.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    let config = SourceConfig::new(folder.path());
    assert_eq!(names(&config.files().unwrap()), ["a.jsonl", "b.jsonl"]);
    let mut rows = read_rows(&config, OnBadRow::Error).unwrap();
    rows.next();
    assert_eq!(names(rows.files()), ["a.jsonl"], "the second is not open yet");
    assert_eq!(rows.by_ref().count(), 1);
    assert_eq!(names(rows.files()), ["a.jsonl", "b.jsonl"]);
    assert_eq!(names(&data_files(folder.path()).unwrap()), ["a.jsonl", "b.jsonl"]);
    let anchors: Vec<String> = read_triplets(folder.path()).unwrap().map(|row| row.unwrap().anchor).collect();
    assert_eq!(anchors, ["a.jsonl", "b.jsonl"]);

    // Judgments are nothing without the questions and answers beside them.
    for name in ["question.jsonl", "answer_m.jsonl", "judgments.jsonl"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    let judged = SourceConfig {
        format: Some("mt_bench".into()),
        ..SourceConfig::new(folder.path().join("judgments.jsonl"))
    };
    assert_eq!(names(&judged.files().unwrap()), ["judgments.jsonl", "answer_m.jsonl", "question.jsonl"]);
}
