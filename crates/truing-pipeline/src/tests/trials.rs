//! A pipeline that is tried in another folder, and without some of its stages.

use super::*;
use crate::{
    CategoryEvidence, GarbageOptions, NewTurn, ProposedShare, ShareReason, TurnDecision, TurnEvaluation,
    Turns, collect_garbage,
};

/// A turn of an evaluation with the share of one category.
fn new_turn(key: Digest, share: f64) -> NewTurn {
    NewTurn {
        unix_secs: 1,
        select: "a".into(),
        evaluation: TurnEvaluation {
            stage: "d".into(),
            key,
            task: "t".into(),
            dimension: "topic".into(),
            metric: "acc".into(),
        },
        score: None,
        categories: vec![ProposedShare {
            evidence: CategoryEvidence { name: "math".into(), share, score: None },
            proposed: share,
            reason: ShareReason::NoScore,
        }],
        step: None,
        decision: TurnDecision::First,
    }
}

const CHAIN: &str = r#"
[stages.a]
uses = "mix"
with = { value = 1 }

[stages.b]
uses = "mix"
recipe = "b.toml"
with = { from = ["${stages.a.out}"] }

[stages.c]
uses = "mix"
needs = ["b"]
with = { value = 3 }

[stages.d]
uses = "mix"
with = { value = 4 }
"#;

fn workshop() -> Workshop {
    let workshop = Workshop::new(CHAIN);
    workshop.write("b.toml", "stage = \"mix\"\nvalue = 2\n");
    workshop
}

fn names(pipeline: &Pipeline, indices: &[usize]) -> Vec<String> {
    indices.iter().map(|&idx| pipeline.stages[idx].name.clone()).collect()
}

#[test]
fn a_trial_leaves_nothing_beside_the_recipe() {
    let workshop = workshop();
    let trial = tempfile::tempdir().unwrap();
    let pipeline = workshop.pipeline().unwrap().with_results_in(trial.path());
    let store = Store::at(&pipeline.store);
    let digests = Digests::open(&store.digests_path());
    let plan = PipelinePlan::new(&pipeline, &store, &LockFile::default(), &digests, &workshop.fake).unwrap();
    let options = ApplyOptions { jobs: 1, stop: &workshop.stop };
    let applied = apply(&pipeline, &plan, &store, &digests, &workshop.fake, options).unwrap();
    assert_eq!(applied.ran, ["a", "b", "c", "d"]);
    assert!(trial.path().join("truing.lock").is_file() && trial.path().join("store/runs").is_dir());
    for left in ["truing.lock", ".truing", "pipeline-out"] {
        assert!(!workshop.path(left).exists(), "{left}");
    }
    if cfg!(unix) {
        assert!(trial.path().join("pipeline-out/pipe/b/out.txt").is_file());
    }
}

#[test]
fn a_stage_is_left_out_with_those_that_need_it() {
    let workshop = workshop();
    let pipeline = workshop.pipeline().unwrap();
    let whole = [0, 1, 2, 3];
    assert_eq!(names(&pipeline, &whole), ["a", "b", "c", "d"]);
    let without = pipeline.without(1);
    assert_eq!(names(&without, &[0, 1]), ["a", "d"]);
    assert_eq!((without.stages.len(), &*without.order), (2, &[0, 1][..]));
    let first = pipeline.without(0);
    assert_eq!((first.stages.len(), names(&first, &first.order)), (1, vec!["d".to_owned()]));
    let last = pipeline.without(3);
    assert_eq!(last.stages[2].upstream, [1], "indices of those that stay");
}

#[test]
fn a_setting_has_its_place_in_the_pipeline_or_in_the_stage_s_recipe() {
    let workshop = workshop();
    let pipeline = workshop.pipeline().unwrap();
    let place = |stage: &str, keys: &[&str]| {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        pipeline.place_of_setting(stage, &keys).to_string()
    };
    assert_eq!(place("b", &["from"]), "pipe.toml:9");
    assert_eq!(place("b", &["value"]), "b.toml:2", "where it is set");
    assert_eq!(place("b", &["other"]), "pipe.toml:9", "the table that would have it");
    assert_eq!(place("a", &[]), "pipe.toml:4");
}

#[test]
fn a_history_has_one_turn_for_an_evaluation() {
    let workshop = workshop();
    let pipeline = workshop.pipeline().unwrap();
    let new = |key: &str, share: f64| new_turn(Digest::of_bytes(key.as_bytes()), share);
    let mut turns = Turns::read(&pipeline).unwrap();
    assert!(turns.turns.is_empty());
    assert_eq!(turns.record(new("one", 0.5)).unwrap(), 1);
    assert_eq!(turns.record(new("two", 0.5)).unwrap(), 2);
    assert_eq!(turns.record(new("two", 0.25)).unwrap(), 2, "the same evaluation again");
    let read = Turns::read(&pipeline).unwrap();
    assert_eq!(read, turns);
    assert_eq!((read.turns.len(), read.turns[1].categories[0].proposed), (2, 0.25));
    let before = |key: &str| read.before(Digest::of_bytes(key.as_bytes())).map(|turn| turn.turn);
    assert_eq!((before("one"), before("two"), before("three")), (None, Some(1), Some(2)));
    // An earlier recipe once more: the turn keeps its place and number.
    assert_eq!(turns.record(new("one", 0.75)).unwrap(), 1);
    let read = Turns::read(&pipeline).unwrap();
    let shares: Vec<f64> = read.turns.iter().map(|turn| turn.categories[0].proposed).collect();
    assert_eq!(shares, [0.75, 0.25]);
    // Two that have read the same history: neither loses what the other records.
    let mut other = Turns::read(&pipeline).unwrap();
    assert_eq!(turns.record(new("three", 0.5)).unwrap(), 3);
    assert_eq!(other.record(new("four", 0.5)).unwrap(), 4);
    assert_eq!(other.turns.len(), 4);
    let mut text = fs::read_to_string(read.path()).unwrap();
    text.push_str("{\"format_version\": 99}\n");
    fs::write(read.path(), text).unwrap();
    let error = Turns::read(&pipeline).unwrap_err().to_string();
    assert!(error.contains(".jsonl:5: version 99"), "{error}");
}

/// A pipeline in a folder of the workshop, whose recipe begins with `head`.
fn pipeline_in(workshop: &Workshop, folder: &str, head: &str) -> Pipeline {
    fs::create_dir_all(workshop.path(folder)).unwrap();
    workshop.write(&format!("{folder}/pipe.toml"), &format!("{head}{CHAIN}"));
    workshop.write(&format!("{folder}/b.toml"), "stage = \"mix\"\nvalue = 2\n");
    let recipe = workshop.path(folder).join("pipe.toml");
    Pipeline::read(Path::new("pipe.toml"), &recipe, &workshop.fake).unwrap()
}

/// Runs a pipeline, and returns the key of its last stage.
fn key_of_applied(workshop: &Workshop, pipeline: &Pipeline) -> Digest {
    let store = Store::at(&pipeline.store);
    let digests = Digests::open(&store.digests_path());
    let lock = LockFile::read(&pipeline.lock_path()).unwrap();
    let plan = PipelinePlan::new(pipeline, &store, &lock, &digests, &workshop.fake).unwrap();
    let options = ApplyOptions { jobs: 1, stop: &workshop.stop };
    apply(pipeline, &plan, &store, &digests, &workshop.fake, options).unwrap();
    LockFile::read(&pipeline.lock_path()).unwrap().stage("pipe", "d").unwrap().key
}

/// The numbers of the turns of a pipeline.
fn numbers(pipeline: &Pipeline) -> Vec<usize> {
    Turns::read(pipeline).unwrap().turns.iter().map(|turn| turn.turn).collect()
}

#[test]
fn a_pipeline_that_is_moved_with_its_store_keeps_its_history() {
    let workshop = workshop();
    let pipeline = pipeline_in(&workshop, "a", "");
    let mut turns = Turns::read(&pipeline).unwrap();
    turns.record(new_turn(Digest::of_bytes(b"one"), 0.5)).unwrap();
    turns.record(new_turn(Digest::of_bytes(b"two"), 0.25)).unwrap();
    fs::rename(workshop.path("a"), workshop.path("moved")).unwrap();
    let moved = pipeline_in(&workshop, "moved", "");
    assert_eq!(Turns::read(&moved).unwrap().turns, turns.turns);
    assert_eq!(Turns::read(&moved).unwrap().record(new_turn(Digest::of_bytes(b"three"), 0.5)).unwrap(), 3);
    // A new pipeline at the former place has a store of its own.
    assert!(numbers(&pipeline_in(&workshop, "a", "")).is_empty());
}

#[test]
fn a_history_under_the_name_of_the_lock_file_s_path_is_read_and_goes_on() {
    let workshop = workshop();
    let pipeline = pipeline_in(&workshop, "a", "");
    let key = key_of_applied(&workshop, &pipeline);
    let mut turns = Turns::read(&pipeline).unwrap();
    turns.record(new_turn(key, 0.5)).unwrap();
    let name = |lock: &Path| {
        let digest = Digest::of_bytes(lock.to_string_lossy().as_bytes()).to_string();
        format!("pipe-{}.jsonl", &digest[..8])
    };
    let by_path = turns.path().with_file_name(name(&pipeline.lock_path()));
    fs::rename(turns.path(), &by_path).unwrap();
    assert_eq!(numbers(&pipeline), [1]);
    // Moved since: the lock file names the evaluation.
    fs::rename(workshop.path("a"), workshop.path("moved")).unwrap();
    let moved = pipeline_in(&workshop, "moved", "");
    assert_eq!(numbers(&moved), [1]);
    assert_eq!(Turns::read(&moved).unwrap().record(new_turn(Digest::of_bytes(b"two"), 0.5)).unwrap(), 2);
    assert_eq!(numbers(&moved), [1, 2]);
}

#[test]
fn in_a_common_store_a_moved_pipeline_keeps_its_history_and_others_have_their_own() {
    const COMMON: &str = "[pipeline]\nstore = \"../common\"\n";
    let workshop = workshop();
    let pipeline = pipeline_in(&workshop, "a", COMMON);
    let key = key_of_applied(&workshop, &pipeline);
    Turns::read(&pipeline).unwrap().record(new_turn(key, 0.5)).unwrap();
    // A copy beside it, whose results are the same.
    let copy = pipeline_in(&workshop, "copy", COMMON);
    assert_eq!(key_of_applied(&workshop, &copy), key);
    assert!(numbers(&copy).is_empty());
    fs::rename(workshop.path("a"), workshop.path("moved")).unwrap();
    let moved = pipeline_in(&workshop, "moved", COMMON);
    assert_eq!(numbers(&moved), [1]);
    let collected =
        collect_garbage(&Store::at(&moved.store), GarbageOptions::default(), SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(collected.gone, [pipeline.lock_path()]);
    assert_eq!(numbers(&moved), [1], "the former lock file is forgotten, the history is not");
    // One of the same name that has run nothing.
    assert!(numbers(&pipeline_in(&workshop, "new", COMMON)).is_empty());
}
