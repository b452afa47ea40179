//! Prompt selection on a small pool whose templates, duplicates and vectors are known.

use crate::setup::{Cpu, NoProbe, SOLO, append_bad_rows, refused, skipped};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use truing_ask::labels::{AssignedLabel, LabelledPrompt};
use truing_construct::select::{SelectConfig, SelectPlan, SelectReport, SelectStage};
use truing_run::selection::{Decision, PromptDecision, SelectionLayer};
use truing_stages::{Ended, Machine, PromptSource, Recipe, RunContext, RunError, Stage, StageError, Start};
use truing_types::Silent;

const MACHINE: Machine = Machine {
    n_threads: 2,
    available_bytes: 1 << 32,
    resident_bytes: 0,
    gigaflops: None,
    gigabytes_per_second: None,
    n_ranks: 1,
};

const ANIMALS: [&str; 16] = [
    "otter", "heron", "badger", "lynx", "viper", "falcon", "beetle", "salmon", "weasel", "raven", "marten",
    "bison", "ibex", "crane", "trout", "mole",
];
const PLACES: [&str; 16] = [
    "Oslo", "Quito", "Hanoi", "Turin", "Perth", "Kyoto", "Dakar", "Lima", "Accra", "Sofia", "Minsk", "Cairo",
    "Delhi", "Nice", "Tunis", "Bern",
];

/// Two templates with 16 prompts each, a duplicate, a near duplicate, and one text of an evaluation. The vectors lie at
/// two places of the plane, a template each, a little apart within.
pub(crate) fn write_pool(folder: &Path) -> usize {
    let (mut rows, mut vectors) = (String::new(), Vec::<f32>::new());
    let mut add = |text: String, task: &str, quality: f64, vector: [f32; 2]| {
        writeln!(rows, "{}", json!({"prompt": text, "task": task, "quality": quality})).unwrap();
        vectors.extend(vector);
    };
    for i in 0..16 {
        let (animal, place, turn) = (ANIMALS[i], PLACES[i], i as f32 * 0.02);
        let text = format!("Write a short story about the following animal: {animal}\nStory:");
        add(text, "story", i as f64, [turn.cos(), turn.sin()]);
        let text = format!("Question: in which country lies the city of {place}? Answer in one word.");
        add(text, "city", i as f64, [-turn.sin(), turn.cos()]);
    }
    add("Write a short story about the following animal: otter\nStory:".into(), "story", 0.0, [1.0, 0.0]);
    let long = "the old clock maker of the small harbour town repaired every tower clock along the whole rocky coast";
    add(format!("Summarise this text about people: {long} last year."), "other", 0.0, [0.7, -0.7]);
    add(format!("Summarise this text about people: {long} last summer."), "other", 1.0, [0.7, -0.7]);
    add(
        "How many spokes has a wheel if seven are broken and twenty one are left in the rim today?".into(),
        "math",
        0.0,
        [-1.0, 0.0],
    );
    let n = vectors.len() / 2;
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, 2), }}");
    header.push_str(&" ".repeat(117 - header.len()));
    header.push('\n');
    let mut npy = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    npy.extend(header.bytes());
    npy.extend(vectors.iter().flat_map(|x| x.to_le_bytes()));
    fs::write(folder.join("vectors.npy"), npy).unwrap();
    fs::write(folder.join("pool.jsonl"), rows).unwrap();
    let item =
        "Tell me: how many spokes has a wheel if seven are broken and twenty one are left in the rim today?";
    fs::write(folder.join("evaluation.jsonl"), format!("{}\n", json!({"question": item, "answer": "28"})))
        .unwrap();
    n
}

const RECIPE: &str = r#"
stage = "select"
output_dir = "run"
quality_column = "quality"
label_columns = ["task"]
[embedding]
vectors = "vectors.npy"
[clusters]
n_coarse = 3
rows_per_fine_cluster = 2
[[data]]
path = "pool.jsonl"
[[evaluation_data]]
path = "evaluation.jsonl"
"#;

pub(crate) fn run_in(folder: &Path, overrides: &[&str], start: Start) -> Result<SelectReport, StageError> {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    let config = SelectConfig::from_toml(RECIPE, &folder.join("recipe.toml"), &overrides)?;
    let plan = SelectPlan::resolve(config, MACHINE)?;
    match SelectStage::run::<Cpu>(
        &plan,
        &(),
        RunContext::new(start, &SOLO, &NoProbe, &mut Silent, &AtomicBool::new(false)),
    )? {
        Ended::Finished(report) => Ok(report),
        Ended::Interrupted { .. } => panic!("nothing stops it"),
    }
}

pub(crate) fn decisions(folder: &Path) -> Vec<PromptDecision> {
    let text = fs::read_to_string(folder.join("run").join(PromptDecision::FILE_NAME)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn layer_of(decision: &PromptDecision) -> Option<&SelectionLayer> {
    decision.decision.dropped().map(|dropped| &dropped.layer)
}

#[test]
fn every_row_is_kept_or_says_who_stands_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let n = write_pool(folder.path());
    let report = run_in(folder.path(), &["selection.target_size=6"], Start::Fresh).unwrap();
    let decisions = decisions(folder.path());
    assert_eq!(decisions.len(), n);
    assert_eq!(layer_of(&decisions[32]), Some(&SelectionLayer::ExactDuplicate));
    assert_eq!(decisions[32].decision.dropped().unwrap().representative, Some(0));
    assert_eq!(layer_of(&decisions[33]), Some(&SelectionLayer::NearDuplicate), "the worse of two near ones");
    assert_eq!(decisions[33].decision.dropped().unwrap().representative, Some(34));
    assert!(matches!(layer_of(&decisions[35]), Some(SelectionLayer::Contaminated { .. })));
    let kept: Vec<&PromptDecision> = decisions.iter().filter(|d| d.decision == Decision::Kept).collect();
    assert_eq!((kept.len(), report.summary.n_kept, report.summary.n_rows), (6, 6, n as u64));
    for dropped in decisions.iter().filter_map(|d| d.decision.dropped()) {
        if let SelectionLayer::Diversity { .. } = dropped.layer {
            let representative = &decisions[dropped.representative.unwrap() as usize];
            assert_eq!(representative.decision, Decision::Kept);
        }
    }
    let n_dropped: u64 = report.summary.layers.iter().map(|layer| layer.n_dropped).sum();
    assert_eq!(n_dropped + 6, n as u64, "the layers account for every row: {:?}", report.summary.layers);
    let tasks = |of: &[&PromptDecision]| of.iter().map(|d| d.labels["task"].clone()).collect::<Vec<_>>();
    assert!(["story", "city", "other"].iter().all(|task| tasks(&kept).contains(&(*task).to_owned())));

    let selected = fs::read_to_string(&report.selected).unwrap();
    let prompts: Vec<Value> = selected.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected: Vec<&str> = kept.iter().map(|d| d.text.as_str()).collect();
    assert_eq!(prompts.iter().map(|row| row["prompt"].as_str().unwrap()).collect::<Vec<_>>(), expected);
    assert!(prompts[0]["quality"].is_number(), "columns are kept");
}

/// Of equal prompts the one of the highest quality stays, wherever it stands; of those the first.
#[test]
fn of_exact_duplicates_the_best_stays() {
    for (qualities, kept) in [([0.0, 9.0], 32), ([9.0, 0.0], 0), ([3.0, 3.0], 0)] {
        let folder = tempfile::tempdir().unwrap();
        write_pool(folder.path());
        let path = folder.path().join("pool.jsonl");
        let mut rows: Vec<Value> = fs::read_to_string(&path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        (rows[0]["quality"], rows[32]["quality"]) = (json!(qualities[0]), json!(qualities[1]));
        fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
        run_in(folder.path(), &["selection.target_size=6"], Start::Fresh).unwrap();
        let decisions = decisions(folder.path());
        let other = 32 - kept;
        assert_eq!(layer_of(&decisions[other]), Some(&SelectionLayer::ExactDuplicate), "{qualities:?}");
        assert_eq!(decisions[other].decision.dropped().unwrap().representative, Some(kept as u64));
        assert_ne!(layer_of(&decisions[kept]), Some(&SelectionLayer::ExactDuplicate), "{qualities:?}");
    }
}

#[test]
fn text_of_evaluations_that_ship_is_never_kept() {
    let folder = tempfile::tempdir().unwrap();
    let n = write_pool(folder.path());
    let pool = folder.path().join("pool.jsonl");
    let mut rows = fs::read_to_string(&pool).unwrap();
    let name = "recipes/data/ifeval_prompts_held_out.jsonl";
    let set = truing_eval::bundled::BUNDLED.into_iter().find(|set| set.name == name).unwrap();
    let item = &set.questions().unwrap()[0];
    rows.push_str(&format!(
        "{}\n",
        json!({"prompt": format!("Please. {item}"), "task": "x", "quality": 9.0})
    ));
    fs::write(&pool, rows).unwrap();
    let vectors = folder.path().join("vectors.npy");
    let mut npy = fs::read(&vectors).unwrap();
    let place = npy.windows(4).position(|w| w == format!("({n},").as_bytes()).unwrap();
    npy[place..place + 4].copy_from_slice(format!("({},", n + 1).as_bytes());
    npy.extend([0.5_f32, 0.5].iter().flat_map(|x| x.to_le_bytes()));
    fs::write(&vectors, npy).unwrap();
    run_in(folder.path(), &[], Start::Fresh).unwrap();
    let decisions = decisions(folder.path());
    let Some(SelectionLayer::Contaminated { evaluation_file }) = layer_of(&decisions[n]) else {
        panic!("{:?}", decisions[n])
    };
    assert_eq!(evaluation_file, name);
}

#[test]
fn both_templates_are_found_and_give_triplets() {
    let folder = tempfile::tempdir().unwrap();
    write_pool(folder.path());
    let report = run_in(folder.path(), &[], Start::Fresh).unwrap();
    assert_eq!(report.n_templates, 2, "{}", report.template_table);
    assert!(report.template_table.contains("about the following animal"));
    let text = fs::read_to_string(folder.path().join("run/triplets.jsonl")).unwrap();
    let triplets: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(triplets.len(), report.n_triplets);
    for triplet in &triplets {
        let is_story = |key: &str| triplet[key].as_str().unwrap().contains("animal");
        assert_eq!(is_story("anchor"), is_story("positive"));
        assert_ne!(is_story("anchor"), is_story("negative"));
    }
}

#[test]
fn equal_input_gives_an_equal_selection_and_a_resume_changes_nothing() {
    let read = |folder: &Path| -> BTreeMap<String, Vec<u8>> {
        let files = ["selected.jsonl", "decisions.jsonl", "templates.jsonl", "triplets.jsonl"];
        files
            .iter()
            .map(|name| ((*name).to_owned(), fs::read(folder.join("run").join(name)).unwrap()))
            .collect()
    };
    let folder = tempfile::tempdir().unwrap();
    write_pool(folder.path());
    run_in(folder.path(), &["selection.target_ratio=0.3"], Start::Fresh).unwrap();
    let first = read(folder.path());
    run_in(folder.path(), &["selection.target_ratio=0.3"], Start::Resume).unwrap();
    assert_eq!(first, read(folder.path()));
    let changed = run_in(folder.path(), &["selection.target_ratio=0.4"], Start::Resume).unwrap_err();
    assert!(matches!(changed, StageError::Run(RunError::RecipeChanged { .. })), "{changed}");
    fs::write(folder.path().join("pool.jsonl"), "{\"prompt\": \"another pool altogether\"}\n").unwrap();
    let changed = run_in(folder.path(), &["selection.target_ratio=0.3"], Start::Resume).unwrap_err();
    assert!(matches!(changed, StageError::Run(RunError::FileChanged { .. })), "{changed}");
}

/// A recipe is mostly named by a path relative to where the program runs.
#[test]
fn a_run_that_was_begun_by_a_relative_path_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    write_pool(folder.path());
    let up = "../".repeat(std::env::current_dir().unwrap().components().count());
    let relative = Path::new(&up).join(folder.path().strip_prefix("/").unwrap());
    let n_kept = |start| run_in(&relative, &["selection.target_size=6"], start).unwrap().summary.n_kept;
    assert_eq!(n_kept(Start::Fresh), 6);
    assert_eq!(n_kept(Start::Resume), 6);
}

#[test]
fn quotas_are_met_label_by_label() {
    let folder = tempfile::tempdir().unwrap();
    write_pool(folder.path());
    let overrides = ["selection.quota_column=task", "selection.quotas={ story = 3, city = 5 }"];
    run_in(folder.path(), &overrides, Start::Fresh).unwrap();
    let mut kept: BTreeMap<String, usize> = BTreeMap::new();
    for decision in decisions(folder.path()) {
        if decision.decision == Decision::Kept {
            *kept.entry(decision.labels["task"].clone()).or_default() += 1;
        } else if decision.labels["task"] == "other" && decision.id == 34 {
            assert!(matches!(layer_of(&decision), Some(SelectionLayer::Quota { .. })));
        }
    }
    assert_eq!(kept, [("city".to_owned(), 5), ("story".to_owned(), 3)].into());
}

/// What `truing label` writes is a pool as it is.
#[test]
fn quotas_are_met_on_the_labels_that_prompts_were_given() {
    let folder = tempfile::tempdir().unwrap();
    write_pool(folder.path());
    let labelled = |(id, line): (usize, &str)| {
        let row: Value = serde_json::from_str(line).unwrap();
        let prompt = row["prompt"].as_str().unwrap();
        let ability = if row["task"] == "story" { "text generation" } else { "knowledge Q&A" };
        let languages = if id == 0 { vec!["English", "Python"] } else { vec!["English"] };
        LabelledPrompt {
            columns: json!({ "prompt": prompt }).as_object().unwrap().clone(),
            labels: [
                ("ability".to_owned(), AssignedLabel::One(ability.into())),
                (
                    "language".to_owned(),
                    AssignedLabel::Several(languages.into_iter().map(str::to_owned).collect()),
                ),
            ]
            .into(),
            confidence: BTreeMap::new(),
            votes: BTreeMap::new(),
            labelled_by: BTreeMap::new(),
            origin: PromptSource { path: "pool.jsonl".into(), line: id as u64 + 1 },
            unlabelled: BTreeMap::new(),
        }
    };
    let text = fs::read_to_string(folder.path().join("pool.jsonl")).unwrap();
    let rows: String = text
        .lines()
        .enumerate()
        .map(|row| format!("{}\n", Value::Object(labelled(row).to_row().unwrap())))
        .collect();
    fs::write(folder.path().join(LabelledPrompt::FILE_NAME), rows).unwrap();
    let overrides = [
        "quality_column=",
        "data.0.path=labels.jsonl",
        "label_columns=[\"labels.ability\", \"labels.language\"]",
        "selection.quota_column=labels.ability",
        "selection.quotas={\"text generation\" = 3, \"knowledge Q&A\" = 2}",
    ];
    run_in(folder.path(), &overrides, Start::Fresh).unwrap();
    let decisions = decisions(folder.path());
    let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
    for decision in decisions.iter().filter(|decision| decision.decision == Decision::Kept) {
        *kept.entry(&decision.labels["labels.ability"]).or_default() += 1;
    }
    assert_eq!(kept, [("knowledge Q&A", 2), ("text generation", 3)].into());
    assert_eq!(
        decisions[0].labels["labels.language"], "English + Python",
        "labels that hold together are one"
    );
    let selected = fs::read_to_string(folder.path().join("run/selected.jsonl")).unwrap();
    let first: LabelledPrompt = serde_json::from_str(selected.lines().next().unwrap()).unwrap();
    assert_eq!(first.origin.path, "pool.jsonl", "the chosen rows keep their labels and sources");
}

#[test]
fn pools_of_nothing_one_and_the_same_have_clear_outcomes() {
    let check = |rows: &str, n_vectors: usize| -> Result<SelectReport, StageError> {
        let folder = tempfile::tempdir().unwrap();
        write_pool(folder.path());
        fs::write(folder.path().join("pool.jsonl"), rows).unwrap();
        let npy = fs::read(folder.path().join("vectors.npy")).unwrap();
        let header =
            String::from_utf8_lossy(&npy[10..128]).replace("(36, 2), }", &format!("({n_vectors}, 2), }}"));
        let header = format!("{:<117}\n", header.trim_end());
        let mut cut = npy[..10].to_vec();
        cut.extend(header.bytes());
        cut.extend(&npy[128..128 + n_vectors * 8]);
        fs::write(folder.path().join("vectors.npy"), cut).unwrap();
        run_in(folder.path(), &[], Start::Fresh)
    };
    let one = check("{\"prompt\": \"Name a colour of the rainbow.\"}\n", 1);
    let one = one.map(|report| (report.summary.n_kept, report.n_templates));
    assert!(one.as_ref().is_err_and(|e| e.to_string().contains("quality")), "{one:?}");
    let row = "{\"prompt\": \"Name a colour of the rainbow.\", \"quality\": 1}\n";
    assert_eq!(check(row, 1).unwrap().summary.n_kept, 1);
    assert_eq!(check(&row.repeat(20), 20).unwrap().summary.n_kept, 1);
    let empty = check("", 0).unwrap_err().to_string();
    assert!(empty.contains("no rows"), "{empty}");
    let unclean = check("{\"prompt\": \"?!\", \"quality\": 1}\n", 1).unwrap_err().to_string();
    assert!(unclean.contains("too short"), "{unclean}");
    let mismatch = check(&row.repeat(3), 2).unwrap_err().to_string();
    assert!(mismatch.contains("2 vectors") && mismatch.contains("3: one for each row"), "{mismatch}");
    let invalid = "{\"prompt\": \"caf\u{e9}\", \"quality\": 1}\n".replace('\u{e9}', "\u{fffd}");
    assert!(check(&invalid, 1).unwrap_err().to_string().contains("undecodable"));
}

#[test]
fn settings_that_cannot_be_meant_are_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    write_pool(folder.path());
    let refused = |overrides: &[&str]| {
        let error = run_in(folder.path(), overrides, Start::Fresh).unwrap_err().to_string();
        assert!(!folder.path().join("run").exists(), "{error}");
        error
    };
    assert!(
        refused(&["selection.target_size=3", "selection.target_ratio=0.5"]).contains("cannot both be given")
    );
    assert!(
        refused(&["selection.quota_column=colour", "selection.quotas={ a = 1 }"]).contains("label_columns")
    );
    assert!(refused(&["selection.quotas={ a = 1 }"]).contains("quota_column"));
    assert!(refused(&["selection.thresholds=[0.5, 0.2]"]).contains("thresholds"));
    assert!(refused(&["clean.languages=[\"klingon\"]"]).contains("klingon"));
    assert!(refused(&["templates.min_prompts=1"]).contains("min_prompts"));
    assert!(refused(&["task_embedding={}"]).contains("task_embedding"));
    assert!(refused(&["selection.treshold=[0.5]"]).contains("threshold"));
    assert!(refused(&["embedding.vectors="]).contains("embedding"));
}

#[test]
fn a_selection_lists_every_row_that_it_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let n = write_pool(folder.path());
    append_bad_rows(&folder.path().join("pool.jsonl"));
    fs::write(folder.path().join("evaluation.jsonl"), "{\"question\": \"What?\"}\nnot json\n").unwrap();
    let report = run_in(folder.path(), &["on_bad_row=skip"], Start::Fresh).unwrap();
    assert_eq!(report.summary.n_rows, n as u64 + 1_101);
    let mut rows = skipped(&folder.path().join("run"));
    let evaluation = rows.pop().unwrap();
    assert_eq!((evaluation.role.as_str(), evaluation.line), ("evaluation", 2));
    assert_eq!((rows.len(), rows[0].line), (1_101, n as u64 + 1));
}

/// What `truing quality` writes has null for a prompt that no judge compared with another.
#[test]
fn rows_without_a_quality_come_last_and_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    write_pool(folder.path());
    let pool = folder.path().join("pool.jsonl");
    let text = fs::read_to_string(&pool).unwrap();
    // Rows 33 and 34 are near duplicates, of which 34 has the higher quality; rows 0 and 32 are equal texts.
    let change = |(i, line): (usize, &str)| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        match i {
            0 => row["quality"] = json!(-3.0),
            32 => row["quality"] = json!(0.5),
            33 => row["quality"] = json!(-2.0),
            34 => row["quality"] = Value::Null,
            7 => drop(row.as_object_mut().unwrap().remove("task")),
            _ => {}
        }
        format!("{row}\n")
    };
    fs::write(&pool, text.lines().enumerate().map(change).collect::<String>()).unwrap();
    let report = run_in(folder.path(), &["selection.target_size=6"], Start::Fresh).unwrap();
    let decisions = decisions(folder.path());
    let near = decisions[34].decision.dropped().expect("a row without quality gives way to one with any");
    assert_eq!((&near.layer, near.representative), (&SelectionLayer::NearDuplicate, Some(33)));
    let equal = decisions[0].decision.dropped().expect("of equal texts the better stays, not the first");
    assert_eq!((&equal.layer, equal.representative), (&SelectionLayer::ExactDuplicate, Some(32)));
    assert_ne!(decisions[32].decision.dropped().map(|d| &d.layer), Some(&SelectionLayer::ExactDuplicate));
    assert!(decisions.iter().filter(|row| row.decision == Decision::Kept).count() == 6);
    for text in ["`quality` has no value in 1 of 36 rows", "`task` has no value in 1 of 36 rows"] {
        let notes = &report.summary.notes;
        assert!(notes.iter().any(|note| note.contains(text)), "no `{text}` in {notes:?}");
    }
    let output = format!("output_dir={:?}", folder.path().join("none"));
    let misspelt = ["quality_column=qualities", &output];
    let error = run_in(folder.path(), &misspelt, Start::Fresh).unwrap_err().to_string();
    assert!(error.contains("`qualities`, which has a value in no row"), "{error}");
    assert!(!folder.path().join("none").exists(), "a selection that cannot run leaves no folder");
    fs::write(&pool, text.replacen("\"quality\":0.0", "\"quality\":\"good\"", 1)).unwrap();
    let output = format!("output_dir={:?}", folder.path().join("other"));
    let error = run_in(folder.path(), &[&output], Start::Fresh).unwrap_err().to_string();
    assert!(error.contains("`quality` is \"good\"; expected a number or null"), "{error}");
}

#[test]
fn a_changed_file_of_a_folder_is_other_data_for_a_selection() {
    let folder = tempfile::tempdir().unwrap();
    write_pool(folder.path());
    for (name, file) in [("pool", "pool.jsonl"), ("evaluation", "evaluation.jsonl")] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::rename(folder.path().join(file), folder.path().join(name).join(file)).unwrap();
    }
    let overrides = ["data.0.path=pool", "evaluation_data.0.path=evaluation"];
    run_in(folder.path(), &overrides, Start::Fresh).unwrap();
    run_in(folder.path(), &overrides, Start::Resume).unwrap();
    for path in ["pool/pool.jsonl", "evaluation/evaluation.jsonl"] {
        let path = folder.path().join(path);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}{{\"prompt\": \"one more\"}}\n")).unwrap();
        let error = run_in(folder.path(), &overrides, Start::Resume).unwrap_err();
        assert!(
            matches!(&error, StageError::Run(RunError::FileChanged { path: found, .. }) if *found == path),
            "{error}"
        );
        fs::write(&path, text).unwrap();
    }
}

#[test]
fn settings_that_cannot_work_are_refused_before_the_model_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let select = "stage = \"select\"\noutput_dir = \"run\"\n[embedding]\nmodel_name_or_path = \"model\"\n\
                  [task_embedding]\nbatch_size = 4\n[[data]]\npath = \"missing.jsonl\"\n";
    let own = [
        "threads=0",
        "task_embedding.batch_size=0",
        "task_embedding.learning_rate=-1",
        "task_embedding.num_train_epochs=0",
        "task_embedding.max_steps=0",
        "task_embedding.eval_fraction=2",
        "clusters.n_coarse=0",
    ];
    // The files of a selection are looked for together with its settings.
    for change in own {
        let text = select.replace("missing.jsonl", "rows.jsonl");
        fs::write(folder.path().join("rows.jsonl"), "{\"prompt\": \"a\"}\n").unwrap();
        let found = refused::<SelectStage>(&text, folder.path(), change);
        assert!(
            found.starts_with(&format!("`{}` is ", change.split('=').next().unwrap())),
            "{change}: {found}"
        );
    }
}
