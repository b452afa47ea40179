//! Nothing that was acknowledged is lost, and nothing is stored twice.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use serde_json::{Value, json};
use truing_annotate::{JOURNAL, StoredProject};
use truing_store::{RunDirectory, RunInputs};

use crate::setup::{TestClock, Workshop, submission, with};

const QUESTION: &str = "overlap = 1\n[[question]]\nname = \"q\"\nannotation_type = \"ranking\"\n";

fn items(n: usize) -> Vec<Value> {
    (0..n).map(|id| json!({"id": id, "prompt": format!("Say {id}."), "responses": ["a", "b"]})).collect()
}

fn ranks(ranks: [u32; 2]) -> Value {
    json!({"q": {"ranks": ranks}})
}

#[test]
fn a_replay_is_stored_once_also_by_another_process() {
    let workshop = Workshop::new(QUESTION, &items(2));
    let server = workshop.start();
    let sent = submission(&server.next("ana"), "one", ranks([1, 2]));
    let stored = server.submit("ana", &sent);
    assert_eq!(server.submit("ana", &sent), stored);
    // Killed between fsync and reply: the browser never heard of it, and sends it again to the next process.
    drop(server);
    let server = workshop.start();
    assert_eq!(server.submit("ana", &sent), stored);
    assert_eq!(workshop.entries().len(), 1);
    // The name of a submission is not another one's.
    let other = with(sent, json!({"item": "1"}));
    assert_eq!(server.post("/api/submit", "ana", &other).json()["error"]["field"], "submission");
    assert_eq!(server.next("ana")["item"], "1");
}

#[test]
fn a_stale_submission_gets_the_stored_answer_and_may_replace_it() {
    let workshop = Workshop::new(QUESTION, &items(2));
    let server = workshop.start();
    // Two tabs show the same item.
    let (first, second) = (server.next("ana"), server.next("ana"));
    assert_eq!(first, second);
    let stored = server.submit("ana", &submission(&first, "first", ranks([1, 2])));
    let late = submission(&second, "second", ranks([2, 1]));
    let reply = server.post("/api/submit", "ana", &late);
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (409, &json!("stale")));
    assert_eq!(reply.json()["stored"], stored);
    assert_eq!(workshop.entries().len(), 1);
    let replaced = server.submit("ana", &with(late, json!({"version": 1, "submission": "third"})));
    assert_eq!((&replaced["version"], &replaced["answers"]), (&json!(2), &ranks([2, 1])));
    // Another annotator's answer is another one.
    let item = server.next("ben");
    assert_eq!((&item["item"], &item["version"]), (&json!("1"), &json!(0)));
}

#[test]
fn a_torn_last_line_is_cut_with_a_warning_and_its_item_is_open_again() {
    let workshop = Workshop::new(QUESTION, &items(2));
    let mut server = workshop.start();
    let sent = submission(&server.next("ana"), "one", ranks([1, 2]));
    server.submit("ana", &sent);
    server.stop();
    let journal = workshop.path("project").join(JOURNAL);
    let whole = fs::read(&journal).unwrap();
    let mut file = OpenOptions::new().append(true).open(&journal).unwrap();
    file.write_all(&whole[..whole.len() / 2]).unwrap();
    let server = workshop.start();
    assert_eq!(fs::read(&journal).unwrap(), whole);
    assert!(
        server.warnings[0].contains("annotations.jsonl: ") && server.warnings[0].contains("were cut off")
    );
    assert_eq!(server.next("ana")["item"], "1");
    drop(server);
    // The only line, torn: the answer was never acknowledged.
    fs::write(&journal, &whole[..whole.len() - 2]).unwrap();
    let server = workshop.start();
    assert_eq!(server.next("ana")["item"], "0");
    server.submit("ana", &sent);
    assert_eq!(fs::read(&journal).unwrap(), whole);
    drop(server);
    // A whole answer that lacks only the end of its line is kept.
    fs::write(&journal, &whole[..whole.len() - 1]).unwrap();
    let server = workshop.start();
    assert!(server.warnings.is_empty(), "{:?}", server.warnings);
    assert_eq!((server.next("ana")["item"].clone(), fs::read(&journal).unwrap()), (json!("1"), whole));
}

#[test]
fn a_damaged_line_and_another_question_are_errors_with_the_line() {
    let workshop = Workshop::new(QUESTION, &items(2));
    let server = workshop.start();
    server.answer("ana", "0", ranks([1, 2]));
    server.answer("ana", "1", ranks([1, 2]));
    drop(server);
    let journal = workshop.path("project").join(JOURNAL);
    let whole = fs::read_to_string(&journal).unwrap();
    let error = || workshop.open(TestClock::begin().0).err().unwrap().to_string();
    fs::write(&journal, whole.replacen("\"submission\"", "submission\"", 1)).unwrap();
    assert!(error().contains("annotations.jsonl:1: is damaged"), "{}", error());
    fs::write(&journal, whole.replacen("[1,2]", "[1,3]", 2)).unwrap();
    let text = error();
    assert!(text.contains("annotations.jsonl:1: `q.ranks` is [1,3]; expected 2 ranks"), "{text}");
    // An item that is not in the data any more is kept, counted and not used.
    fs::write(&journal, &whole).unwrap();
    workshop.write_rows("items.jsonl", &items(1));
    let (project, warnings) = workshop.open(TestClock::begin().0).unwrap();
    let expected = "1 entry is about items that the data does not have, or whose text has changed since: 1;";
    assert!(warnings[0].starts_with(expected), "{warnings:?}");
    assert_eq!((project.n_entries(), fs::read_to_string(&journal).unwrap()), (2, whole));
}

/// A start that fails leaves recipe and inputs of the one before, so that status and export still work.
#[test]
fn a_failed_start_replaces_nothing() {
    let workshop = Workshop::new(QUESTION, &items(2));
    let server = workshop.start();
    server.answer("ana", "0", ranks([1, 2]));
    drop(server);
    let files = ["recipe.resolved.toml", "inputs.json"].map(|name| workshop.path("project").join(name));
    let before = files.clone().map(|path| fs::read(path).unwrap());
    let recipe = fs::read_to_string(workshop.path("recipe.toml")).unwrap();
    let other = recipe.replace("annotation_type = \"ranking\"", "annotation_type = \"scale\"");
    fs::write(workshop.path("recipe.toml"), other).unwrap();
    let error = workshop.open(TestClock::begin().0).err().unwrap().to_string();
    assert!(error.contains("the questions of the recipe or the items have changed since"), "{error}");
    assert_eq!(files.map(|path| fs::read(path).unwrap()), before);
    assert!(StoredProject::read(&workshop.path("project")).is_ok());
}

#[test]
fn the_folder_of_a_run_of_another_stage_is_refused_and_stays_as_it_is() {
    let workshop = Workshop::new(QUESTION, &items(1));
    let inputs = RunInputs { stage: Some("sft".into()), ..RunInputs::default() };
    drop(RunDirectory::create(&workshop.path("project"), "stage = \"sft\"\n", &inputs).unwrap());
    let contents = || {
        let entries = fs::read_dir(workshop.path("project")).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<_> = entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        all.sort();
        all
    };
    let before = contents();
    let error = workshop.open(TestClock::begin().0).err().unwrap().to_string();
    assert!(
        error.starts_with("`output_dir` is ") && error.contains("project, a run of stage `sft`"),
        "{error}"
    );
    assert!(error.ends_with("expected a new folder, or that of an annotation project"), "{error}");
    assert_eq!(contents(), before);
}

#[test]
fn one_process_at_a_time() {
    let workshop = Workshop::new(QUESTION, &items(1));
    let _server = workshop.start();
    let error = workshop.open(TestClock::begin().0).err().unwrap().to_string();
    assert!(error.contains("in use by another process"), "{error}");
}

/// The first items of a project of 100,000; how many steps an item takes is counted in the tests of the assignment.
#[test]
fn many_items_are_given_out_by_priority() {
    let n = 100_000;
    let row = |id: usize| json!({"id": id, "prompt": "x", "responses": ["a", "b"], "priority": id % 1000});
    let rows: Vec<Value> = (0..n).map(row).collect();
    let workshop = Workshop::new(QUESTION, &rows);
    let server = workshop.start();
    for id in [999, 1_999, 2_999] {
        server.answer("ana", &id.to_string(), ranks([1, 2]));
    }
    assert_eq!(server.next("ben")["item"], "3999");
}
