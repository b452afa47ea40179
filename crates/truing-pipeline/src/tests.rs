//! Pipelines of stages that write what they read: nothing but the order, the keys and the store is tested here.

mod edits;
mod exports;
mod faults;
mod lineage;
mod mistakes;
mod remote;
mod runs;
mod trials;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use toml::{Table, Value};
use truing_run::recipe::InputSetting;
use truing_run::{RecipeError, RecipePlace};
use truing_store::Digest;
use truing_store::paths::in_folder;

use crate::settings::SettleError;
use crate::{
    Applied, ApplyOptions, Cause, Digests, Host, Job, JobEnd, JobReport, LockFile, NamedOutput, Notice,
    Pipeline, PipelineError, PipelinePlan, Remote, Settings, Settled, StageKind, Store, Work, apply,
};

/// Pieces in which a stage writes its output.
const N_PIECES: i64 = 3;

/// A program whose only stage, `mix`, has a `value`, reads the files `from`, and ignores `note`.
struct Fake {
    kinds: Vec<StageKind>,
    /// Stages that ran, in the order of their beginnings.
    ran: Mutex<Vec<String>>,
    /// Pieces until a stage fails half way.
    pieces_left: AtomicI64,
    /// Called with the name of a stage before it writes.
    on_run: Box<dyn Fn(&str) + Sync>,
    program: String,
    now: SystemTime,
}

impl Fake {
    fn new() -> Self {
        let outputs =
            &[NamedOutput { name: "out", path: "out.txt" }, NamedOutput { name: "never", path: "never" }];
        Self {
            kinds: vec![StageKind { name: "mix", outputs, settle }],
            ran: Mutex::new(Vec::new()),
            pieces_left: AtomicI64::new(i64::MAX),
            on_run: Box::new(|_| {}),
            program: "fake 1".into(),
            // Long ago, so that no digest is remembered: files change faster here than the file system's clock.
            now: SystemTime::UNIX_EPOCH,
        }
    }

    /// From now on stages fail when they have written so many pieces together.
    fn leave_pieces(&self, n_pieces: i64) {
        self.pieces_left.store(n_pieces, Ordering::SeqCst);
    }

    fn take_ran(&self) -> Vec<String> {
        std::mem::take(&mut *self.ran.lock().unwrap())
    }
}

fn settle(settings: &Settings<'_>, _: &dyn Host) -> Result<Settled, SettleError> {
    let mut table: Table = toml::from_str(settings.text).unwrap();
    table.remove("stage");
    for typed in settings.overrides {
        let over: Table = toml::from_str(typed).unwrap();
        if let Some(key) =
            over.keys().find(|key| !["value", "from", "note", "output_dir"].contains(&key.as_str()))
        {
            let place = RecipePlace::Override(typed.clone());
            let (key, nearest) = (key.clone(), Some("value".to_owned()));
            return Err(RecipeError::UnknownKey { place, key, nearest, counterpart: None }.into());
        }
        table.extend(over);
    }
    let mut inputs = Vec::new();
    if let Some(Value::Array(from)) = table.get_mut("from") {
        for (idx, path) in from.iter_mut().enumerate() {
            let real = in_folder(settings.folder, Path::new(path.as_str().unwrap()));
            *path = Value::String(real.to_string_lossy().into_owned());
            inputs.push(InputSetting { setting: format!("from.{idx}"), path: real, name_decides: false });
        }
    }
    let mut decisive = table.clone();
    decisive.remove("from");
    decisive.remove("note");
    decisive.remove("output_dir");
    Ok(Settled { decisive, inputs, recipe: table })
}

/// What a stage writes, piece by piece.
fn pieces(value: &str, inputs: &[String]) -> Vec<String> {
    let inputs: Vec<String> =
        inputs.iter().map(|text| Digest::of_bytes(text.as_bytes()).to_string()).collect();
    let whole = format!("{value} of {}", inputs.join(" "));
    (0..N_PIECES).map(|piece| format!("{piece} {whole}\n")).collect()
}

impl Host for Fake {
    fn kinds(&self) -> &[StageKind] {
        &self.kinds
    }

    fn program(&self) -> &str {
        &self.program
    }

    fn find_model(&self, name: &str) -> Result<PathBuf, Cause> {
        Ok(name.into())
    }

    fn find_data(&self, _: &str) -> Result<Option<PathBuf>, Cause> {
        Ok(None)
    }

    fn now(&self) -> SystemTime {
        self.now
    }

    fn run(&self, job: &Job<'_>) -> Result<JobEnd, Cause> {
        self.ran.lock().unwrap().push(job.stage.to_owned());
        (self.on_run)(job.stage);
        let Work::Recipe { path, .. } = job.work else { return run_command(job) };
        let recipe: Table = toml::from_str(&fs::read_to_string(path)?)?;
        let from = recipe.get("from").and_then(Value::as_array).into_iter().flatten();
        let inputs = from.map(|path| fs::read_to_string(path.as_str().unwrap()));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let value = recipe.get("value").map(ToString::to_string).unwrap_or_default();
        assert_eq!(recipe["output_dir"].as_str(), job.folder.to_str());
        fs::create_dir_all(job.folder)?;
        let half = job.folder.join("half.txt");
        let mut written = fs::read_to_string(&half).unwrap_or_default();
        for piece in pieces(&value, &inputs).iter().skip(written.lines().count()) {
            if job.stop.load(Ordering::SeqCst) {
                return Ok(JobEnd::Interrupted);
            }
            if self.pieces_left.fetch_sub(1, Ordering::SeqCst) <= 0 {
                return Ok(JobEnd::Failed("no pieces are left".into()));
            }
            written.push_str(piece);
            fs::write(&half, &written)?;
        }
        fs::rename(&half, job.folder.join("out.txt"))?;
        let figures = [("length".to_owned(), written.len() as f64)].into();
        Ok(JobEnd::Finished(JobReport { figures, seconds: 1.5, peak_bytes: Some(1 << 20) }))
    }

    fn notice(&self, _: &Notice<'_>) {}
}

/// `copy FROM TO`, and `nothing`.
fn run_command(job: &Job<'_>) -> Result<JobEnd, Cause> {
    let Work::Command { arguments, folder } = job.work else { unreachable!() };
    assert_eq!(fs::read_dir(job.folder)?.count(), 0, "a command starts in an empty folder");
    if let [_, from, to] = arguments.as_slice() {
        fs::copy(folder.join(from), to)?;
    }
    Ok(JobEnd::Finished(JobReport::default()))
}

/// A folder with a pipeline, and the program.
struct Workshop {
    folder: tempfile::TempDir,
    fake: Fake,
    stop: AtomicBool,
    remote: Option<Arc<Remote>>,
}

impl Workshop {
    fn new(recipe: &str) -> Self {
        let workshop = Self {
            folder: tempfile::tempdir().unwrap(),
            fake: Fake::new(),
            stop: AtomicBool::new(false),
            remote: None,
        };
        workshop.write("pipe.toml", recipe);
        workshop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn pipeline(&self) -> Result<Pipeline, PipelineError> {
        Pipeline::read(Path::new("pipe.toml"), &self.path("pipe.toml"), &self.fake)
    }

    fn plan(&self) -> Result<(Pipeline, PipelinePlan, Store, Digests), PipelineError> {
        let pipeline = self.pipeline()?;
        let store = Store::at(&pipeline.store);
        let store = match &self.remote {
            Some(remote) => store.with_remote(Arc::clone(remote)),
            None => store,
        };
        let digests = Digests::open(&store.digests_path());
        let lock = LockFile::read(&pipeline.lock_path())?;
        let plan = PipelinePlan::new(&pipeline, &store, &lock, &digests, &self.fake)?;
        Ok((pipeline, plan, store, digests))
    }

    /// Plans and applies; returns how it ended and the stages that ran.
    fn apply(&self, jobs: usize) -> (Applied, Vec<String>) {
        let (pipeline, plan, store, digests) = self.plan().unwrap();
        let options = ApplyOptions { jobs, stop: &self.stop };
        let applied = apply(&pipeline, &plan, &store, &digests, &self.fake, options).unwrap();
        (applied, self.fake.take_ran())
    }

    /// The states of all stages in the order of the recipe, and their reasons.
    fn states(&self) -> Vec<String> {
        let (_, plan, _, _) = self.plan().unwrap();
        let shown = plan.stages.iter().map(|stage| {
            let state = serde_json::to_value(&stage.state).unwrap()["state"].as_str().unwrap().to_owned();
            let changes: Vec<String> = stage.changes.iter().map(ToString::to_string).collect();
            format!("{} {state} {}", stage.name, changes.join("; ")).trim_end().to_owned()
        });
        shown.collect()
    }

    fn lock(&self) -> LockFile {
        LockFile::read(&self.path("truing.lock")).unwrap()
    }

    /// What the link of a stage leads to.
    #[cfg(unix)]
    fn output(&self, stage: &str) -> String {
        fs::read_to_string(self.path("pipeline-out/pipe").join(stage).join("out.txt")).unwrap()
    }
}

/// The digests of all outputs of a lock file, by stage.
fn digests_of(lock: &LockFile) -> BTreeMap<String, Vec<String>> {
    let stages = lock.pipelines.values().flatten();
    let digests = stages.map(|(name, stage)| {
        (name.clone(), stage.outputs.values().map(|output| output.blake3.to_string()).collect())
    });
    digests.collect()
}
