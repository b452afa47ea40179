//! Searches for a merge, on variants of the tiny model.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use truing_eval::comparison::Finding;
use truing_evaluate::merge_search::{
    Contestant, MERGE_RECIPE, MODEL, MergeSearchConfig, MergeSearchOutcome, MergeSearchStage, RECORD,
    SearchRecord,
};
use truing_model::ModelFiles;
use truing_stages::{Ended, PlanContext, Recipe, RunContext, Stage, StageError, Start};
use truing_text::RenderOptions;
use truing_types::{Event, Seed, Silent};

use crate::setup::{self, Cpu, Events, NoProbe};
use crate::tiny_model;

const RECIPE: &str = r#"
stage = "merge_search"
output_dir = "search"
base_model = "model"
methods = ["linear", "ties", "model_stock"]
n_candidates = 4
n_rounds = 2
n_refined = 2
apply_chat_template = false

[[models]]
model = "one"
ability = "arc"

[[models]]
model = "two"

[[task]]
name = "arc"
path = "arc.jsonl"

[[task]]
name = "hellaswag"
path = "hellaswag.jsonl"
"#;

/// The tiny model with noise on its weights.
fn write_variant(folder: &Path, name: &str, seed: u64) {
    let target = folder.join(name);
    tiny_model::write(&target);
    let path = target.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
    assert!(
        String::from_utf8_lossy(&bytes[8..header]).contains("\"F32\""),
        "the tiny model is stored in f32"
    );
    let n = (bytes.len() - header) / 4;
    let noise = Seed(seed).normals("variant", n, 0.05);
    for (value, noise) in bytes[header..].chunks_exact_mut(4).zip(noise) {
        let changed = f32::from_le_bytes([value[0], value[1], value[2], value[3]]) + noise;
        value.copy_from_slice(&changed.to_le_bytes());
    }
    fs::write(&path, bytes).unwrap();
}

fn write_lines(path: &Path, rows: impl IntoIterator<Item = Value>) {
    fs::write(path, rows.into_iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
}

fn folder() -> tempfile::TempDir {
    let folder = setup::folder();
    write_variant(folder.path(), "one", 1);
    write_variant(folder.path(), "two", 2);
    let options =
        |n: u64| vec![format!("the number {n}"), format!("thing {}", n * 7 % 5), "another".to_owned()];
    let arc = (0..24).map(|n| {
        let answer = ["A", "B", "C"][n as usize % 3];
        json!({"id": n.to_string(), "question": format!("Which of these is {n}?"), "answerKey": answer,
            "choices": {"text": options(n), "label": ["A", "B", "C"]}})
    });
    write_lines(&folder.path().join("arc.jsonl"), arc);
    let hellaswag = (0..16).map(|n| {
        json!({"ind": n, "activity_label": "Counting", "ctx_a": format!("A person counts to {n}."), "ctx_b": "then",
            "endings": ["stops.", "goes on counting.", "sleeps.", "laughs."], "label": (n % 4).to_string()})
    });
    write_lines(&folder.path().join("hellaswag.jsonl"), hellaswag);
    folder
}

fn run(
    folder: &Path,
    overrides: &[&str],
    stop_when: impl Fn(&Event) -> bool + 'static,
) -> Result<(Ended<MergeSearchOutcome>, Vec<Event>), StageError> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = MergeSearchConfig::from_toml(RECIPE, &folder.join("recipe.toml"), &overrides)?;
    let machine = || setup::MACHINE;
    let mut planning =
        PlanContext { render: RenderOptions::default(), machine: &machine, events: &mut Silent };
    let (plan, inputs) = MergeSearchStage::prepare::<Cpu>(config, &mut planning)?;
    let stop = AtomicBool::new(false);
    let mut events = Events { seen: Vec::new(), stop: &stop, stop_when: Box::new(stop_when) };
    let context = RunContext::new(Start::Fresh, &setup::SOLO, &NoProbe, &mut events, &stop);
    let ended = MergeSearchStage::run::<Cpu>(&plan, &inputs, context)?;
    Ok((ended, events.seen))
}

fn finished(ended: Ended<MergeSearchOutcome>) -> SearchRecord {
    match ended {
        Ended::Finished(outcome) => outcome.record,
        Ended::Interrupted { .. } => panic!("nobody stopped it"),
    }
}

fn n_merges(events: &[Event]) -> usize {
    events
        .iter()
        .filter(|event| matches!(event, Event::PhaseStarted { phase, .. } if phase == "merging"))
        .count()
}

#[test]
fn a_search_compares_on_one_part_and_confirms_on_the_other() {
    let folder = folder();
    let (ended, events) = run(folder.path(), &[], setup::never).unwrap();
    let record = finished(ended);
    assert_eq!(record.own_parents["arc"], 0, "the recipe says so");
    // Base and two parents, then the finalists: two of the last round and two beside the best.
    assert_eq!((record.chosen, record.n_finalists), (3, 4));
    let finalists = &record.search[record.chosen..][..record.n_finalists];
    assert!(finalists.windows(2).all(|pair| pair[0].objective >= pair[1].objective));
    assert!(finalists.iter().all(|row| row.n_items == 20), "12 of ARC and 8 of HellaSwag");
    // The other two of the first round were seen on half of them.
    let dropped = &record.search[record.chosen + record.n_finalists..];
    assert_eq!(dropped.iter().map(|row| row.n_items).collect::<Vec<_>>(), [10, 10]);
    // Base, parents and the merge, on the items that are left.
    assert!(record.confirm.len() == 4 && record.confirm.iter().all(|row| row.n_items == 20));
    assert_eq!(record.confirm[3].contestant, record.search[record.chosen].contestant);
    assert_eq!(record.confirmations.len(), 4, "two parents on two tasks");
    assert_eq!(record.confirmations.iter().filter(|one| one.is_own).count(), 2);
    for confirmation in &record.confirmations {
        let comparison = &confirmation.comparison;
        let rows = [confirmation.parent + 1, 3].map(|place| &record.confirm[place]);
        let ability = |row: usize| {
            rows[row].abilities.iter().find(|one| one.task == comparison.task).unwrap().summary.value.unwrap()
        };
        assert!(
            (ability(0) - comparison.first).abs() < 1e-12 && (ability(1) - comparison.second).abs() < 1e-12
        );
        assert!(comparison.p_adjusted.unwrap() >= comparison.p_value);
    }
    let lost =
        record.confirmations.iter().any(|one| one.is_own && one.comparison.finding() == Finding::FirstBetter);
    assert_eq!(record.lost_abilities().is_empty(), !lost);
    let optimism = record.expected_optimism.unwrap();
    assert!((0.0..0.3).contains(&optimism), "{optimism}");
    // The merged model is there, with its recipe; those of the candidates are not.
    let run = folder.path().join("search");
    ModelFiles::open(&run.join(MODEL)).unwrap();
    let Contestant::Merge(candidate) = &record.search[record.chosen].contestant else { panic!("no merge") };
    assert!(
        fs::read_to_string(run.join(MERGE_RECIPE))
            .unwrap()
            .contains(&format!("method = \"{}\"", candidate.method))
    );
    for entry in fs::read_dir(run.join("candidates")).unwrap() {
        let entry = entry.unwrap().path();
        assert!(
            entry.join("answers.jsonl").is_file() && !entry.join("model").exists(),
            "{}",
            entry.display()
        );
    }
    let stored: SearchRecord = serde_json::from_slice(&fs::read(run.join(RECORD)).unwrap()).unwrap();
    assert_eq!(stored, record);
    assert!(n_merges(&events) > 6, "each candidate is merged when it is asked");
}

#[test]
fn a_stopped_search_continues_without_asking_or_merging_again() {
    let folder = folder();
    let (ended, _) = run(folder.path(), &[], setup::never).unwrap();
    let whole = finished(ended);
    let answers = |folder: &Path| -> Vec<(String, String)> {
        let mut found: Vec<_> = fs::read_dir(folder.join("search/candidates"))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap().path();
                let text = fs::read_to_string(entry.join("answers.jsonl")).unwrap();
                (entry.file_name().unwrap().to_string_lossy().into_owned(), text)
            })
            .collect();
        found.sort();
        found
    };
    let other = self::folder();
    let seen = std::cell::Cell::new(0);
    // Stopped while the third candidate is asked.
    let stop_when = move |event: &Event| {
        let is_merge = matches!(event, Event::PhaseStarted { phase, .. } if phase == "merging");
        seen.set(seen.get() + usize::from(is_merge));
        seen.get() == 3 && matches!(event, Event::Progress { done: 2, .. })
    };
    let (ended, _) = run(other.path(), &[], stop_when).unwrap();
    assert!(matches!(ended, Ended::Interrupted { .. }), "{ended:?}");
    assert!(!other.path().join("search").join(RECORD).exists());
    let (ended, _) = run(other.path(), &[], setup::never).unwrap();
    let names = |record: &SearchRecord| {
        // The folders of the two runs have different names.
        let name = |label: &str| match label.split_once(' ') {
            Some(("base" | "parent", path)) => path.rsplit('/').next().unwrap_or_default().to_owned(),
            _ => label.to_owned(),
        };
        record.search.iter().map(|row| (name(&row.label), row.objective)).collect::<Vec<_>>()
    };
    let resumed = finished(ended);
    assert_eq!(names(&resumed), names(&whole));
    // Every answer is there once.
    for (name, text) in answers(other.path()) {
        let mut lines: Vec<&str> = text.lines().collect();
        let n = lines.len();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), n, "{name}");
    }
    // As many as in one go. Candidates are named after their recipes, which name the folder of the models.
    let counts = |folder: &Path| {
        let mut counts: Vec<usize> =
            answers(folder).into_iter().map(|(_, text)| text.lines().count()).collect();
        counts.sort_unstable();
        counts
    };
    assert_eq!(counts(other.path()), counts(folder.path()));
    // A finished search asks nothing more, and so merges nothing.
    let (ended, events) = run(other.path(), &[], setup::never).unwrap();
    assert_eq!(finished(ended), resumed);
    assert_eq!(n_merges(&events), 0);
}

#[test]
fn what_cannot_be_searched_is_refused_before_anything_is_asked() {
    let folder = folder();
    for (overrides, expected) in [
        (&["methods=[\"tiess\"]"][..], "such as `ties`"),
        (&["methods=[\"passthrough\"]"], "a method that can be searched"),
        (&["base_model="], "the model that `ties` takes deltas from"),
        (&["models.0.ability=\"mmlu\""], "the name of one of the tasks"),
        (&["search_share=1.5"], "a share between 0 and 1"),
        (&["search_share=0.99", "limit=4"], "a share that leaves items for both"),
        (&["task.0.name=\"mt_bench\"", "models.0.ability=\"mt_bench\""], "needs a judge"),
        (&["models.1.model=\"nowhere\""], "nowhere"),
        (&["n_rounds=0"], "at least 1"),
    ] {
        let error = run(folder.path(), overrides, setup::never).unwrap_err().to_string();
        assert!(error.contains(expected), "{overrides:?}: {error}");
        assert!(!folder.path().join("search").exists(), "{overrides:?}");
    }
}
