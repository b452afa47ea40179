//! A tiny model, a few rows, and a machine that never changes.

use crate::tiny_model;
use std::cell::Cell;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;
use truing_ask::OpenChatModel;
use truing_parallel::Solo;
use truing_stages::sft::{SftInputs, SftStage, TrainingConfig, TrainingPlan};
use truing_stages::{
    Ended, Machine, PlanContext, Probe, Recipe, RunContext, Stage, StageError, Start, TrainedModel,
};
use truing_text::RenderOptions;
use truing_types::{Event, EventSink, Groups, Silent};

/// The engine of these tests.
pub(crate) type Cpu = truing_cpu::CpuEngine;

/// The groups of a single process.
pub(crate) static SOLO: LazyLock<Groups> = LazyLock::new(Solo::groups);

pub(crate) const MACHINE: Machine = Machine {
    n_threads: 2,
    available_bytes: 1 << 32,
    resident_bytes: 1 << 20,
    gigaflops: Some(1.0),
    gigabytes_per_second: Some(0.01),
    n_ranks: 1,
};

/// A clock that ticks once a look, and memory that never grows.
#[derive(Default)]
pub(crate) struct Ticks(Cell<f64>);

impl Probe for Ticks {
    fn elapsed_secs(&self) -> f64 {
        self.0.set(self.0.get() + 1.0);
        self.0.get()
    }

    fn peak_resident_bytes(&self) -> Option<u64> {
        Some(1 << 30)
    }
}

/// Keeps every event; raises the stop flag at a chosen one.
pub(crate) struct Events<'a> {
    pub(crate) seen: Vec<Event>,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) stop_when: Box<dyn Fn(&Event) -> bool>,
}

impl EventSink for Events<'_> {
    fn emit(&mut self, event: Event) {
        if (self.stop_when)(&event) {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.seen.push(event);
    }
}

#[derive(Debug)]
pub(crate) struct NoProbe;

impl Probe for NoProbe {
    fn elapsed_secs(&self) -> f64 {
        0.0
    }

    fn peak_resident_bytes(&self) -> Option<u64> {
        None
    }
}

/// A folder with a model in `model/` and 40 rows in `rows.jsonl`.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    tiny_model::write(&folder.path().join("model"));
    let rows = (0..40).fold(String::new(), |mut rows, i| {
        let answer = "very ".repeat(i % 7);
        writeln!(
            rows,
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"{i} + 1?\"}}, \
             {{\"role\": \"assistant\", \"content\": \"{answer}{}\"}}]}}",
            i + 1
        )
        .unwrap();
        rows
    });
    fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    folder
}

pub(crate) const RECIPE: &str = r#"
stage = "sft"
model_name_or_path = "model"
output_dir = "run"
seed = 3
max_length = 192
num_train_epochs = 2
packs_per_step = 2
learning_rate = 1e-3
eval_fraction = 0.2
eval_steps = 4
save_steps = 3
save_dtype = "f32"
[[data]]
path = "rows.jsonl"
"#;

pub(crate) fn config(folder: &Path, overrides: &[&str]) -> TrainingConfig {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    TrainingConfig::from_toml(RECIPE, &folder.join("recipe.toml"), &overrides).unwrap()
}

pub(crate) fn plan(config: TrainingConfig) -> Result<(TrainingPlan, SftInputs), StageError> {
    let inputs = SftInputs::load(&config, RenderOptions::default(), &mut Silent)?;
    Ok((TrainingPlan::resolve::<Cpu, _>(config, &inputs, &MACHINE)?, inputs))
}

/// Runs the recipe until `stop_when` or its end.
pub(crate) fn run(
    folder: &Path,
    overrides: &[&str],
    start: Start,
    stop_when: impl Fn(&Event) -> bool + 'static,
) -> Result<(Ended<TrainedModel>, Vec<Event>), StageError> {
    let stop = AtomicBool::new(false);
    let mut events = Events { seen: Vec::new(), stop: &stop, stop_when: Box::new(stop_when) };
    let config = config(folder, overrides);
    let inputs = SftInputs::load(&config, RenderOptions::default(), &mut events)?;
    let plan = TrainingPlan::resolve::<Cpu, _>(config, &inputs, &MACHINE)?;
    let outcome = SftStage::run::<Cpu>(
        &plan,
        &inputs,
        RunContext::new(start, &SOLO, &Ticks::default(), &mut events, &stop),
    )?;
    Ok((outcome, events.seen))
}

pub(crate) fn is_metrics_of(step: u64) -> impl Fn(&Event) -> bool + 'static {
    move |event| {
        matches!(event, Event::Metrics { step: found, values }
        if *found == step && values.contains_key("loss"))
    }
}

pub(crate) fn never(_: &Event) -> bool {
    false
}

/// Reads what a recipe names.
pub(crate) fn load<S: Stage>(
    config: &S::Config,
    events: &mut dyn EventSink,
) -> Result<S::Inputs, StageError> {
    let mut context = PlanContext { render: RenderOptions::default(), machine: &|| MACHINE, events };
    S::load(config, &mut context)
}

/// What a stage that asks judges runs with.
#[allow(dead_code, reason = "for the tests of truing-construct and truing-evaluate, which share this file")]
pub(crate) fn judged<'a>(
    judges: Vec<OpenChatModel>,
    events: &'a mut dyn EventSink,
    stop: &'a AtomicBool,
) -> RunContext<'a> {
    RunContext { chat_models: judges, ..RunContext::new(Start::Fresh, &SOLO, &NoProbe, events, stop) }
}

/// Reads what a recipe names, plans and runs it.
pub(crate) fn run_stage<S: Stage>(
    config: S::Config,
    context: RunContext<'_>,
) -> Result<Ended<S::Outcome>, StageError> {
    let inputs = load::<S>(&config, &mut *context.events)?;
    let plan = S::plan::<Cpu>(config, &inputs, &MACHINE)?;
    S::run::<Cpu>(&plan, &inputs, context)
}

/// The settings of a stage with one change, read on data that does not exist.
pub(crate) fn refused<S: Stage>(recipe: &str, folder: &Path, change: &str) -> String {
    let config = S::Config::from_toml(recipe, &folder.join("recipe.toml"), &[change.to_owned()]).unwrap();
    let mut context =
        PlanContext { render: RenderOptions::default(), machine: &|| MACHINE, events: &mut Silent };
    match S::prepare::<Cpu>(config, &mut context) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{change} is not refused"),
    }
}

/// Checks that each change is refused for its key, and that without one the missing data is.
pub(crate) fn check_before_data<S: Stage>(recipe: &str, folder: &Path, changes: &[&str]) {
    let untouched = refused::<S>(recipe, folder, "seed=1");
    assert!(untouched.contains("missing.jsonl"), "{untouched}");
    for change in changes {
        let found = refused::<S>(recipe, folder, change);
        let key = change.split('=').next().unwrap();
        assert!(found.starts_with(&format!("`{key}` is ")), "{change}: {found}");
    }
}

/// Neither a row of any kind nor JSON; more of them than any message shows.
pub(crate) fn append_bad_rows(path: &Path) {
    let mut text = fs::read_to_string(path).unwrap();
    text.push_str("not json\n");
    text.push_str(&"{\"prompt\": 7, \"messages\": 7, \"anchor\": 7}\n".repeat(1_100));
    fs::write(path, text).unwrap();
}

pub(crate) fn skipped(run: &Path) -> Vec<truing_stages::SkippedRow> {
    let text = fs::read_to_string(run.join(truing_stages::SkippedRow::FILE_NAME)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The list of a run whose file had `n_good` good rows and then those of [`append_bad_rows`].
#[track_caller]
pub(crate) fn check_list(run: &Path, file: &str, n_good: u64) {
    let rows = skipped(run);
    assert_eq!(rows.len(), 1_101, "all are listed, not the first thousand");
    for (row, line) in rows.iter().zip(n_good + 1..) {
        assert_eq!((row.role.as_str(), row.line), ("data", line));
        assert!(row.path.ends_with(file), "{}", row.path);
    }
    assert!(rows[0].field.is_empty() && rows[0].reason.starts_with("not JSON at byte 2"), "{}", rows[0]);
    assert!(!rows[1].field.is_empty() && rows[1].reason.starts_with("is a number; expected"), "{}", rows[1]);
}
