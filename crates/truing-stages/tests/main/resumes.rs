//! What `--resume` finds: runs that were killed while their folder was made, folders of something else, settings and
//! places that changed.

use crate::embeddings;
use crate::setup::{self, Events, MACHINE, Ticks, is_metrics_of, never};
use crate::setup::{Cpu, SOLO};
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use truing_cpu::CpuEngine;
use truing_run::recipe::Scope;
use truing_stages::embed::train::{EmbedStage, EmbedTrainConfig, EmbedTrainInputs, EmbedTrainPlan};
use truing_stages::grpo::GrpoConfig;
use truing_stages::sft::SftStage;
use truing_stages::{Ended, Recipe as _, RunContext, RunError, Stage, StageError, Start};
use truing_types::{Event, Silent};

fn model_bytes(run: &Path) -> Vec<u8> {
    fs::read(run.join("model/model.safetensors")).unwrap()
}

/// The files of a run in the order in which they come to be, up to its first checkpoint.
const FILES: [&str; 5] = [".lock", "inputs.json", "recipe.resolved.toml", "plan.json", "metrics.jsonl"];

#[test]
fn a_run_killed_at_any_of_its_first_files_is_resumed_from_the_start() {
    let straight = setup::folder();
    setup::run(straight.path(), &[], Start::Fresh, never).unwrap();
    let expected = straight.path().join("run");
    for name in FILES {
        assert!(expected.join(name).is_file(), "{name}");
    }
    // After each file, and in the middle of writing the next.
    for (n_files, is_half) in (0..=FILES.len()).flat_map(|n| [(n, false), (n, true)]) {
        let folder = setup::folder();
        let run = folder.path().join("run");
        if (n_files, is_half) != (0, false) {
            fs::create_dir(&run).unwrap();
        }
        for name in &FILES[..n_files] {
            fs::copy(expected.join(name), run.join(name)).unwrap();
        }
        match (is_half, FILES.get(n_files)) {
            (true, Some(&"metrics.jsonl") | None) => {
                fs::create_dir_all(run.join("checkpoints/checkpoint-3.partial")).unwrap();
                fs::write(run.join("checkpoints/checkpoint-3.partial/model.safetensors"), "half").unwrap();
                fs::write(run.join("metrics.jsonl"), "{\"step\": 1, \"loss\": 2.0}\n{\"st").unwrap();
            }
            (true, Some(name)) => fs::write(run.join(format!(".{name}.Ab12.tmp")), "half").unwrap(),
            (false, _) => {}
        }
        let (outcome, events) = setup::run(folder.path(), &[], Start::Resume, never).unwrap();
        assert!(matches!(outcome, Ended::Finished(_)));
        let is_told = |event: &Event| {
            matches!(event, Event::Note(text)
                if text.contains("it starts from the beginning") || text.contains("no checkpoint yet"))
        };
        assert!(events.iter().any(is_told), "{n_files} files, half: {is_half}");
        assert!(model_bytes(&expected) == model_bytes(&run), "{n_files} files, half: {is_half}");
        let steps = |run: &Path| {
            let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
            let step = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].clone();
            text.lines().map(step).collect::<Vec<_>>()
        };
        assert_eq!(steps(&expected), steps(&run), "neither gap nor repeat");
        let leftover = fs::read_dir(&run)
            .unwrap()
            .find(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp"));
        assert!(leftover.is_none());
    }
}

#[test]
fn the_progress_of_a_resumed_run_is_that_of_the_whole_run() {
    let folder = setup::folder();
    let totals = |events: &[Event]| -> Vec<u64> {
        let total = |event: &Event| match event {
            Event::PhaseStarted { phase, total } if phase == "training" => *total,
            _ => None,
        };
        events.iter().filter_map(total).collect()
    };
    let (outcome, events) = setup::run(folder.path(), &[], Start::Fresh, is_metrics_of(2)).unwrap();
    assert!(matches!(outcome, Ended::Interrupted { step: Some(2) }), "{outcome:?}");
    let before = totals(&events);
    let (_, events) = setup::run(folder.path(), &[], Start::Resume, never).unwrap();
    let resumed = totals(&events);
    assert_eq!(before.len(), 1, "{before:?}");
    assert!(resumed[0] == before[0] && resumed[1] < resumed[0], "{before:?}, {resumed:?}");
}

#[test]
fn a_resume_does_not_begin_a_run_among_other_files() {
    let folder = setup::folder();
    let run = folder.path().join("run");
    fs::create_dir(&run).unwrap();
    fs::write(run.join("thesis.tex"), "").unwrap();
    let error = setup::run(folder.path(), &[], Start::Resume, never).unwrap_err().to_string();
    assert!(error.contains("holds no run to resume, but other files, such as `thesis.tex`"), "{error}");
    assert_eq!(fs::read_dir(&run).unwrap().count(), 1, "nothing was written");
    // Without a resume the folder is taken, unless the run would overwrite something.
    fs::create_dir(run.join("model")).unwrap();
    let error = setup::run(folder.path(), &[], Start::Fresh, never).unwrap_err().to_string();
    assert!(error.contains("already holds `model`, which a run would overwrite"), "{error}");
    fs::remove_dir(run.join("model")).unwrap();
    setup::run(folder.path(), &["max_steps=1"], Start::Fresh, never).unwrap();
}

#[test]
fn a_recipe_of_a_run_that_cannot_be_read_is_an_error_and_no_equal_recipe() {
    let folder = setup::folder();
    setup::run(folder.path(), &[], Start::Fresh, is_metrics_of(3)).unwrap();
    let recipe = folder.path().join("run/recipe.resolved.toml");
    fs::write(&recipe, "learning_rate = = 1\n").unwrap();
    let error = setup::run(folder.path(), &[], Start::Resume, never).unwrap_err();
    assert!(matches!(&error, StageError::Run(RunError::Recipe(_))), "{error}");
    assert!(error.to_string().contains("recipe.resolved.toml:1"), "{error}");
}

/// Where files lie, threads, memory and what is logged never refuse a resume; the weights are those of a straight run.
#[test]
fn a_run_that_was_moved_and_has_less_memory_is_resumed() {
    let run = |config: EmbedTrainConfig, start, stop_when: Box<dyn Fn(&Event) -> bool>| {
        let inputs = EmbedTrainInputs::load(&config, &mut Silent).unwrap();
        let plan = EmbedTrainPlan::resolve::<Cpu>(config, &inputs, &MACHINE).unwrap();
        let stop = AtomicBool::new(false);
        let mut events = Events { seen: Vec::new(), stop: &stop, stop_when };
        EmbedStage::run::<Cpu>(
            &plan,
            &inputs,
            RunContext::new(start, &SOLO, &Ticks::default(), &mut events, &stop),
        )
    };
    let straight = embeddings::folder();
    run(embeddings::config(straight.path(), &[]), Start::Fresh, Box::new(never)).unwrap();
    let folder = embeddings::folder();
    let outcome =
        run(embeddings::config(folder.path(), &[]), Start::Fresh, Box::new(is_metrics_of(3))).unwrap();
    assert_eq!(outcome, Ended::Interrupted { step: Some(3) });
    let changed = [
        "memory_gib=1",
        "threads=1",
        "eval_steps=5",
        "eval_on_start=false",
        "save_steps=4",
        "save_total_limit=1",
        "logging_steps=2",
        "load_best_model_at_end=false",
    ];
    let mut config = embeddings::config(folder.path(), &changed);
    for (name, place) in [("model", &mut config.model_name_or_path), ("run", &mut String::new())] {
        let moved = folder.path().join(format!("moved-{name}"));
        fs::rename(folder.path().join(name), &moved).unwrap();
        *place = moved.to_string_lossy().into_owned();
    }
    config.output_dir = folder.path().join("moved-run");
    let moved = folder.path().join("elsewhere.jsonl");
    fs::rename(folder.path().join(&config.train_data), &moved).unwrap();
    config.train_data = moved;
    run(config, Start::Resume, Box::new(never)).unwrap();
    assert!(model_bytes(&straight.path().join("run")) == model_bytes(&folder.path().join("moved-run")));
}

/// Equal contents under other paths have the same key; another row, another setting of the saved model, another one.
#[test]
fn a_content_key_depends_on_contents_and_on_what_the_finished_run_leaves_behind() {
    let folder = setup::folder();
    let key = |changes: &[&str]| {
        let (plan, inputs) = setup::plan(setup::config(folder.path(), changes)).unwrap();
        SftStage::content_key::<CpuEngine>(&plan, &inputs).unwrap()
    };
    let before = key(&[]);
    assert_eq!(before, key(&["output_dir=elsewhere", "threads=1", "memory_gib=3", "logging_steps=2"]));
    let moved = folder.path().join("moved");
    fs::create_dir(&moved).unwrap();
    fs::copy(folder.path().join("rows.jsonl"), moved.join("rows.jsonl")).unwrap();
    assert_eq!(before, key(&["data.0.path=moved/rows.jsonl"]));
    assert_ne!(before, key(&["save_dtype=f16"]), "the saved model");
    assert_ne!(before, key(&["seed=8"]));
    let rows = folder.path().join("rows.jsonl");
    let text = fs::read_to_string(&rows).unwrap();
    fs::write(&rows, text.replacen("very", "really", 1)).unwrap();
    assert_ne!(before, key(&[]), "a changed row");
}

/// How many programs run at once changes no reward, so a resume may change it.
#[test]
fn workers_of_the_code_reward_decide_nothing() {
    let decisive = |settings: &str| {
        let text = format!("stage = \"grpo\"\n[[reward]]\nkind = {{ code = {{ {settings} }} }}\n");
        GrpoConfig::from_toml(&text, Path::new("recipe.toml"), &[]).unwrap().decisive(Scope::Resume)
    };
    let before = decisive("workers = 2");
    assert_eq!(decisive("workers = 7"), before);
    assert_ne!(decisive("limits_are_unscored = true"), before);
}

/// A run of a constant learning rate that is extended is the longer run, wherever it stood; no run is shortened.
#[test]
fn a_resume_may_raise_the_number_of_steps() {
    let constant = ["lr_scheduler_type=constant", "warmup_ratio=0"];
    let run = |folder: &Path, n: &str, start, stop: Box<dyn Fn(&Event) -> bool>| {
        setup::run(folder, &[&constant[..], &[n]].concat(), start, stop)
    };
    let straight = setup::folder();
    run(straight.path(), "max_steps=7", Start::Fresh, Box::new(never)).unwrap();
    // One that would stop after its end is finished.
    for stopped_at in [2, 3, 5, 9] {
        let folder = setup::folder();
        let stop = is_metrics_of(stopped_at);
        run(folder.path(), "max_steps=5", Start::Fresh, Box::new(stop)).unwrap();
        let (outcome, events) = run(folder.path(), "max_steps=7", Start::Resume, Box::new(never)).unwrap();
        assert!(matches!(outcome, Ended::Finished(_)), "stopped at {stopped_at}");
        let [expected, found] = [straight.path(), folder.path()].map(|path| path.join("run"));
        assert!(model_bytes(&expected) == model_bytes(&found), "stopped at {stopped_at}");
        let note = "(max_steps = 7 instead of max_steps = 5)";
        let is_told = |event: &Event| matches!(event, Event::Note(text) if text.contains(note));
        assert!(events.iter().any(is_told), "{events:?}");
        let says = |text: &str| has_note(&events, text);
        assert!(!says("bit-equal"), "the rates are those of the longer run: {events:?}");
        let extended =
            "finished after 5 steps; it is extended from its checkpoint of step 3; steps 4 to 5 are taken";
        assert_eq!(says(extended), stopped_at == 9, "{events:?}");
        let recipe = fs::read_to_string(found.join("recipe.resolved.toml")).unwrap();
        assert!(recipe.contains("max_steps = 7"), "{recipe}");
        for fewer in ["max_steps=6", "max_steps=1"] {
            let error = run(folder.path(), fewer, Start::Resume, Box::new(never)).unwrap_err().to_string();
            assert!(error.contains("but the run has taken 7 already"), "{error}");
            assert!(model_bytes(&expected) == model_bytes(&found));
            let recipe = fs::read_to_string(found.join("recipe.resolved.toml")).unwrap();
            assert!(recipe.contains("max_steps = 7"), "a refused resume changes nothing: {recipe}");
        }
    }
    // Without a checkpoint the finished run is not made again from its first step.
    let folder = setup::folder();
    let short = [&constant[..], &["max_steps=2"]].concat();
    setup::run(folder.path(), &short, Start::Fresh, never).unwrap();
    let before = model_bytes(&folder.path().join("run"));
    let stop = AtomicBool::new(false);
    let mut events = Events { seen: Vec::new(), stop: &stop, stop_when: Box::new(never) };
    let longer = setup::config(folder.path(), &[&constant[..], &["max_steps=7"]].concat());
    let (plan, inputs) = setup::plan(longer).unwrap();
    let probe = Ticks::default();
    let context = RunContext::new(Start::Resume, &SOLO, &probe, &mut events, &stop);
    let error = SftStage::run::<Cpu>(&plan, &inputs, context).unwrap_err().to_string();
    assert!(error.contains("finished after 2 steps and has no complete checkpoint"), "{error}");
    assert!(error.contains("train its model further in a new run"), "{error}");
    assert!(!has_note(&events.seen, "starts from step 1"), "it does not start: {:?}", events.seen);
    assert!(before == model_bytes(&folder.path().join("run")));
}

fn has_note(events: &[Event], part: &str) -> bool {
    events.iter().any(|event| matches!(event, Event::Note(text) if text.contains(part)))
}

/// Steps that were taken under the schedule of a shorter run make another result, and the note says so. A run that is
/// only begun again has none of them.
#[test]
fn a_longer_run_with_other_rates_before_is_said_not_to_be_bit_equal() {
    let told = |removes_checkpoint: bool| {
        let folder = setup::folder();
        setup::run(folder.path(), &["max_steps=5"], Start::Fresh, is_metrics_of(3)).unwrap();
        if removes_checkpoint {
            fs::remove_dir_all(folder.path().join("run/checkpoints")).unwrap();
        }
        let (_, events) = setup::run(folder.path(), &["max_steps=7"], Start::Resume, never).unwrap();
        assert!(has_note(&events, "the length of the run has changed"), "{events:?}");
        let on =
            has_note(&events, "from step 4 on the learning rate follows the schedule of a run of 7 steps");
        (on, has_note(&events, "not bit-equal to that of a run of 7 steps from the start"))
    };
    assert_eq!(told(false), (true, true));
    assert_eq!(told(true), (false, false));
}

/// Runs of 10 and of 15 steps have the same rates up to step 5, but the steps before may be those of a shorter run.
#[test]
fn a_run_that_is_made_longer_twice_keeps_the_rates_of_its_first_length() {
    let run = |folder: &Path, n: &str, start, stop: Box<dyn Fn(&Event) -> bool>| {
        let wsd = ["lr_scheduler_type=wsd", "decay_ratio=0.6", "warmup_steps=0"];
        setup::run(folder, &[&wsd[..], &[n]].concat(), start, stop).unwrap().1
    };
    let is_told = |is_shorter_first: bool| {
        let folder = setup::folder();
        let mut start = Start::Fresh;
        if is_shorter_first {
            // Of 5 steps the fourth has a lower rate.
            run(folder.path(), "max_steps=5", start, Box::new(is_metrics_of(4)));
            start = Start::Resume;
        }
        run(folder.path(), "max_steps=10", start, Box::new(is_metrics_of(5)));
        let events = run(folder.path(), "max_steps=15", Start::Resume, Box::new(is_metrics_of(6)));
        assert!(has_note(&events, "from step 6 on the learning rate follows the schedule"), "{events:?}");
        has_note(&events, "not bit-equal to that of a run of 15 steps from the start")
    };
    assert_eq!([true, false].map(is_told), [true, false]);
}

/// A run that was killed between its model and its outcome is extended from its checkpoint, as one that ended.
#[test]
fn a_finished_run_without_its_outcome_is_extended_too() {
    let constant = ["lr_scheduler_type=constant", "warmup_ratio=0"];
    let run = |folder: &Path, n: &str, start| {
        setup::run(folder, &[&constant[..], &[n]].concat(), start, never).unwrap()
    };
    let (straight, folder) = (setup::folder(), setup::folder());
    run(straight.path(), "max_steps=7", Start::Fresh);
    run(folder.path(), "max_steps=5", Start::Fresh);
    fs::remove_file(folder.path().join("run/outcome.json")).unwrap();
    let (_, events) = run(folder.path(), "max_steps=7", Start::Resume);
    assert!(!has_note(&events, "the run is finished"), "{events:?}");
    let [expected, found] = [&straight, &folder].map(|folder| model_bytes(&folder.path().join("run")));
    assert!(expected == found);
}

#[test]
fn evaluations_can_be_turned_off() {
    let n_evaluations = |changes: &[&str]| {
        let folder = setup::folder();
        setup::run(folder.path(), changes, Start::Fresh, never).unwrap();
        let metrics = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
        metrics.lines().filter(|line| line.contains("\"eval_loss\"")).count()
    };
    assert!(n_evaluations(&[]) > 0);
    assert_eq!(n_evaluations(&["eval_steps=0", "eval_on_start=true"]), 0);
    let folder = setup::folder();
    let error = setup::run(folder.path(), &["eval_steps=0", "keep_best=true"], Start::Fresh, never);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("`keep_best` is true: expected evaluations"), "{error}");
}

/// A later call says of a finished run what the first one said, and refuses other data.
#[test]
fn a_finished_run_ends_the_same_way_again_and_refuses_changed_data() {
    let folder = setup::folder();
    let first =
        setup::run(folder.path(), &["max_steps=2"], Start::Fresh, never).unwrap().0.finished().unwrap();
    assert!(first.metrics.contains_key("loss") && first.nothing_learnt.is_none());
    let again =
        setup::run(folder.path(), &["max_steps=2"], Start::Resume, never).unwrap().0.finished().unwrap();
    assert_eq!(first, again);
    let rows = folder.path().join("rows.jsonl");
    let text = fs::read_to_string(&rows).unwrap();
    fs::write(&rows, text.replacen("very", "really", 1)).unwrap();
    // Also where the recipe plans more steps, as it would on more data.
    for length in ["max_steps=2", "max_steps=4"] {
        let error = setup::run(folder.path(), &[length], Start::Resume, never).unwrap_err();
        let is_told = matches!(&error, StageError::Run(RunError::FileChanged { path, .. })
            if path.ends_with("rows.jsonl"));
        assert!(is_told, "{length}: {error}");
    }
}

#[test]
fn a_model_whose_configuration_or_tokenizer_changed_is_another_model() {
    for (name, before, after) in
        [("config.json", "\"rms_norm_eps\"", "\"other\": 1, \"rms_norm_eps\""), ("tokenizer.json", "{", "{ ")]
    {
        let folder = setup::folder();
        setup::run(folder.path(), &[], Start::Fresh, is_metrics_of(3)).unwrap();
        let path = folder.path().join("model").join(name);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(before), "{text}");
        fs::write(&path, text.replacen(before, after, 1)).unwrap();
        let error = setup::run(folder.path(), &[], Start::Resume, never).unwrap_err();
        assert!(
            matches!(&error, StageError::Run(RunError::FileChanged { path, .. }) if path.ends_with(name)),
            "{error}"
        );
    }
}

/// A folder without a run may hold the user's data under a name that a run writes, even the data of that run.
#[test]
fn a_run_overwrites_no_file_that_it_did_not_write() {
    for name in
        ["plan.json", "skipped.jsonl", "selected.jsonl", "labels.jsonl", "scores.jsonl", "outcome.json"]
    {
        let folder = setup::folder();
        fs::create_dir(folder.path().join("run")).unwrap();
        let path = folder.path().join("run").join(name);
        fs::write(&path, "mine").unwrap();
        let error = setup::run(folder.path(), &["max_steps=1"], Start::Fresh, never).unwrap_err().to_string();
        assert!(error.contains(&format!("already holds `{name}`")), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
