//! Applies a plan: runs each stage that has no result, alone or in parallel with others that do not need it, and
//! records the result.
//!
//! A result is made in place under its key with the run directory's own resume, and counts once `done.json` is there,
//! which is written last. So a stage that was stopped, killed or failed continues from what it has saved.
//!
//! Where the store has a remote (`shared.rs`), a result that is there is fetched, and one that was made here is
//! uploaded.

mod shared;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use truing_store::{Digest, StoreError, atomic};
use truing_types::with_causes;

use crate::plan::PlannedWork;
use crate::recipe::Kind;
use crate::store::Found;
use crate::{
    Digests, Done, Host, Job, JobEnd, JobReport, LockFile, LockedStage, Notice, Pipeline, PipelineError,
    PipelinePlan, PipelineStage, PlannedStage, State, Store, StoredOutput, Work, links,
};

/// A result that another process makes is looked for this often.
const PATIENCE: Duration = Duration::from_millis(100);
/// The placeholder for the folder of the results in a command.
const OUTPUT: &str = "${output}";

/// How a plan is applied.
#[derive(Debug, Clone, Copy)]
pub struct ApplyOptions<'a> {
    /// Stages that run at the same time, at most.
    pub jobs: usize,
    /// Set from outside: running stages stop, and no other starts.
    pub stop: &'a AtomicBool,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Applied {
    /// Stages that ran.
    pub ran: Vec<String>,
    /// Stages whose results were in the store.
    pub reused: Vec<String>,
    /// Stages whose results came from the remote.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fetched: Vec<String>,
    /// Stages that were up to date.
    pub up_to_date: Vec<String>,
    /// Stages that failed, and why.
    pub failed: BTreeMap<String, String>,
    /// Stages that did not run, and the stage that each waits for.
    pub not_run: BTreeMap<String, String>,
    /// Stages that wait for a file from people.
    pub waiting: BTreeMap<String, PathBuf>,
    /// Stages whose results are here and could not be uploaded, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub not_uploaded: BTreeMap<String, String>,
    /// Whether it was stopped from outside.
    pub is_interrupted: bool,
}

/// The state of a stage while the plan is applied.
#[derive(Debug, Clone, PartialEq)]
enum Fate {
    Pending,
    Running,
    /// It is not to run, whatever its state is.
    LeftOut,
    UpToDate,
    Ran,
    Reused,
    Fetched,
    Failed(String),
    /// It needs a stage without a result.
    NotRun(String),
    Waiting(PathBuf),
    Interrupted,
}

impl Fate {
    /// Whether there is a result. Of a stage that is left out this was checked where it is needed.
    fn has_result(&self) -> bool {
        matches!(self, Self::UpToDate | Self::Ran | Self::Reused | Self::Fetched | Self::LeftOut)
    }

    /// Whether there will be none in this run.
    fn is_without_result(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::NotRun(_) | Self::Waiting(_) | Self::Interrupted)
    }
}

/// Applies a plan, and runs nothing that is not in it. Where all is up to date no stage is started: the lock file is
/// registered in the store, and missing links are made.
///
/// # Errors
/// When the store or the lock file cannot be used. A stage that fails is no error here: the others that do not need it
/// are finished.
pub fn apply(
    pipeline: &Pipeline,
    plan: &PipelinePlan,
    store: &Store,
    digests: &Digests,
    host: &dyn Host,
    options: ApplyOptions<'_>,
) -> Result<Applied, PipelineError> {
    Running::new(pipeline, plan, store, digests, host, options, None).apply()
}

/// Applies one stage of a plan, and runs no other. The results that it needs have to be there, or in the remote, from
/// which they are fetched.
///
/// # Errors
/// As [`apply`], and when a stage that it needs has no result.
pub fn apply_only(
    pipeline: &Pipeline,
    plan: &PipelinePlan,
    store: &Store,
    digests: &Digests,
    host: &dyn Host,
    options: ApplyOptions<'_>,
    stage: usize,
) -> Result<Applied, PipelineError> {
    let is_there =
        |idx: &usize| matches!(plan.stages[*idx].state, State::UpToDate | State::InStore | State::InRemote);
    let PipelineStage { name, upstream, .. } = &pipeline.stages[stage];
    if let Some(&missing) = upstream.iter().find(|idx| !is_there(idx)) {
        let needed = &pipeline.stages[missing].name;
        let reason =
            format!("it needs the result of stage `{needed}`, which is not there: run that stage first");
        return Err(pipeline.error(name, &[], reason));
    }
    Running::new(pipeline, plan, store, digests, host, options, Some(stage)).apply()
}

fn summary(plan: &PipelinePlan, fates: Vec<Fate>) -> Applied {
    let mut applied = Applied::default();
    for (stage, fate) in plan.stages.iter().zip(fates) {
        let name = stage.name.clone();
        match fate {
            Fate::UpToDate => applied.up_to_date.push(name),
            Fate::Ran => applied.ran.push(name),
            Fate::Reused => applied.reused.push(name),
            Fate::Fetched => applied.fetched.push(name),
            Fate::Failed(reason) => drop(applied.failed.insert(name, reason)),
            Fate::NotRun(by) => drop(applied.not_run.insert(name, by)),
            Fate::Waiting(file) => drop(applied.waiting.insert(name, file)),
            Fate::LeftOut => {}
            Fate::Pending | Fate::Running | Fate::Interrupted => applied.is_interrupted = true,
        }
    }
    applied
}

/// A plan that is being applied.
struct Running<'a> {
    pipeline: &'a Pipeline,
    plan: &'a PipelinePlan,
    store: &'a Store,
    digests: &'a Digests,
    host: &'a dyn Host,
    options: ApplyOptions<'a>,
    /// The one stage that may run; `None` where all may.
    only: Option<usize>,
    /// Stages whose results could not be uploaded, and why.
    not_uploaded: Mutex<BTreeMap<String, String>>,
}

impl<'a> Running<'a> {
    fn new(
        pipeline: &'a Pipeline,
        plan: &'a PipelinePlan,
        store: &'a Store,
        digests: &'a Digests,
        host: &'a dyn Host,
        options: ApplyOptions<'a>,
        only: Option<usize>,
    ) -> Self {
        Self { pipeline, plan, store, digests, host, options, only, not_uploaded: Mutex::default() }
    }

    /// Applies the plan.
    fn apply(&self) -> Result<Applied, PipelineError> {
        let Self { pipeline, plan, store, digests, host, .. } = *self;
        store.create()?;
        let _shared = store.lock_whole(false)?;
        links::check(pipeline)?;
        store.register(&pipeline.lock_path())?;
        self.change_lock(|lock| {
            if let Some(locked) = lock.pipelines.get_mut(&pipeline.name) {
                locked.retain(|name, _| pipeline.stages.iter().any(|stage| stage.name == *name));
            }
        })?;
        let fates = self.all()?;
        if let Err(error) = digests.save() {
            host.notice(&Notice::NotRemembered { reason: &with_causes(&error) });
        }
        let not_uploaded = self.not_uploaded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Applied { not_uploaded, ..summary(plan, fates) })
    }

    /// The state of a stage before anything runs.
    fn first_fate(&self, stage: &PlannedStage) -> Result<Fate, PipelineError> {
        match (&stage.state, stage.key) {
            // A gate has no run.
            (State::UpToDate, Some(key)) if stage.done.is_some() => {
                // Removed since the plan was made.
                if !self.store.is_done(key) {
                    return Ok(Fate::Pending);
                }
                links::point(self.pipeline, &stage.name, &self.store.run_folder(key))?;
                Ok(Fate::UpToDate)
            }
            (State::UpToDate, _) => Ok(Fate::UpToDate),
            (State::Waiting { file, .. }, _) => Ok(Fate::Waiting(file.clone())),
            _ => Ok(Fate::Pending),
        }
    }

    /// Runs what can run until nothing is left that can.
    fn all(&self) -> Result<Vec<Fate>, PipelineError> {
        let fates = self.plan.stages.iter().enumerate().map(|(idx, stage)| match self.only {
            Some(only) if only != idx && !self.is_fetched_for(only, idx) => Ok(Fate::LeftOut),
            _ => self.first_fate(stage),
        });
        let mut fates = fates.collect::<Result<Vec<_>, _>>()?;
        thread::scope(|scope| {
            let (sender, ends) = mpsc::channel();
            let mut n_running = 0;
            loop {
                self.pass_on(&mut fates);
                while n_running < self.options.jobs.max(1)
                    && !self.is_stopped()
                    && let Some(idx) = self.next(&fates)
                {
                    fates[idx] = Fate::Running;
                    n_running += 1;
                    let sender = sender.clone();
                    scope.spawn(move || {
                        let end = catch_unwind(AssertUnwindSafe(|| self.stage(idx)));
                        let end =
                            end.unwrap_or_else(|_| Fate::Failed("a fault in truing: it panicked".into()));
                        // The receiver lives as long as this scope.
                        let _ = sender.send((idx, end));
                    });
                }
                if n_running == 0 {
                    return;
                }
                let Ok((idx, end)) = ends.recv() else { return };
                n_running -= 1;
                fates[idx] = end;
            }
        });
        Ok(fates)
    }

    fn is_stopped(&self) -> bool {
        self.options.stop.load(Ordering::SeqCst)
    }

    /// Stages that need one without a result have none either.
    fn pass_on(&self, fates: &mut [Fate]) {
        for &idx in &self.pipeline.order {
            let upstream = &self.pipeline.stages[idx].upstream;
            let without = upstream.iter().find(|&&needed| fates[needed].is_without_result());
            if let (Fate::Pending, Some(&needed)) = (&fates[idx], without) {
                fates[idx] = Fate::NotRun(self.pipeline.stages[needed].name.clone());
            }
        }
    }

    /// The next stage that can run.
    fn next(&self, fates: &[Fate]) -> Option<usize> {
        let is_ready = |idx: &usize| {
            let upstream = &self.pipeline.stages[*idx].upstream;
            fates[*idx] == Fate::Pending && upstream.iter().all(|&needed| fates[needed].has_result())
        };
        self.pipeline.order.iter().copied().find(is_ready)
    }

    /// Makes or finds the result of a stage.
    fn stage(&self, idx: usize) -> Fate {
        let planned = &self.plan.stages[idx];
        let fate = self.result_of(idx, planned).unwrap_or_else(|error| Fate::Failed(with_causes(&error)));
        let stage = planned.name.as_str();
        match &fate {
            Fate::Ran => self.host.notice(&Notice::Finished { stage }),
            Fate::Reused => self.host.notice(&Notice::Reused { stage }),
            Fate::Fetched => self.host.notice(&Notice::Fetched { stage }),
            Fate::Failed(reason) => self.host.notice(&Notice::Failed { stage, reason }),
            _ => {}
        }
        fate
    }

    fn result_of(&self, idx: usize, planned: &PlannedStage) -> Result<Fate, PipelineError> {
        let key = planned.key.expect("a stage whose needs have results has a key");
        if planned.is_gate() {
            return self.pass_gate(idx, planned, key);
        }
        let Some(lock) = self.wait_for(planned, key)? else { return Ok(Fate::Interrupted) };
        match self.store.find(key, self.digests, self.host)? {
            Found::Done(done) => {
                self.upload_stored(planned, key, &done);
                self.record(planned, key, &done)?;
                return Ok(Fate::Reused);
            }
            Found::Damaged(_) => drop(self.store.discard(key)?),
            Found::Begun | Found::Nothing => {}
        }
        match self.store.remote() {
            Some(remote) => self.shared_result(remote, idx, planned, key, &lock),
            None => self.make(idx, planned, key, &lock),
        }
    }

    /// Runs a stage that has no result, and records what it left.
    fn make(
        &self,
        idx: usize,
        planned: &PlannedStage,
        key: Digest,
        lock: &File,
    ) -> Result<Fate, PipelineError> {
        for (setting, path) in &planned.made {
            let real = self.plan.with_real_paths(path, self.store);
            if !Path::new(&real).exists() {
                let reason = format!("`{setting}`: the run before left no {real}");
                return Ok(Fate::Failed(reason));
            }
        }
        if let Some(changed) = self.changed_file(idx)? {
            return Ok(Fate::Failed(format!("{} changed since the plan was made", changed.display())));
        }
        if let Some(damage) = self.damaged_upstream(idx)? {
            return Ok(Fate::Failed(format!("{damage}; the next `apply` makes it again")));
        }
        match self.run(idx, key, lock)? {
            JobEnd::Finished(report) => self.finish(idx, planned, key, report),
            JobEnd::Interrupted => Ok(Fate::Interrupted),
            JobEnd::Failed(reason) => Ok(Fate::Failed(reason)),
        }
    }

    /// A gate has no run: its file is its result.
    fn pass_gate(&self, idx: usize, planned: &PlannedStage, key: Digest) -> Result<Fate, PipelineError> {
        if let Some(changed) = self.changed_file(idx)? {
            return Ok(Fate::Failed(format!("{} changed since the plan was made", changed.display())));
        }
        let mut outputs = BTreeMap::new();
        for (file, (name, path)) in planned.files.iter().zip(&self.pipeline.stages[idx].outputs) {
            let measured = self.digests.of_input(&file.path, file.is_whole, self.host.now())?;
            let output = StoredOutput { path: path.clone(), blake3: file.blake3, bytes: measured.bytes };
            outputs.insert(name.clone(), output);
        }
        self.lock_stage(planned, key, outputs, BTreeMap::new())?;
        Ok(Fate::Reused)
    }

    /// The lock on a key. While another process makes its result, this one waits; `None` when it was stopped.
    fn wait_for(&self, planned: &PlannedStage, key: Digest) -> Result<Option<File>, PipelineError> {
        let mut has_said = false;
        loop {
            if let Some(lock) = self.store.try_lock(key)? {
                return Ok(Some(lock));
            }
            if self.is_stopped() {
                return Ok(None);
            }
            if !has_said {
                self.host.notice(&Notice::WaitsForOther { stage: &planned.name });
                has_said = true;
            }
            thread::sleep(PATIENCE);
        }
    }

    fn run(&self, idx: usize, key: Digest, lock: &File) -> Result<JobEnd, PipelineError> {
        let (stage, planned) = (&self.pipeline.stages[idx], &self.plan.stages[idx]);
        let (entry, folder) = (self.store.entry(key), self.store.run_folder(key));
        fs::create_dir_all(&entry).map_err(StoreError::io("create", &entry))?;
        atomic::remove_leftovers(&entry)?;
        let continues = folder.exists();
        let work = match &planned.work {
            PlannedWork::Recipe(_) => {
                let text = self.plan.recipe(idx, self.store).expect("a stage with a recipe and a key");
                let path = entry.join("recipe.toml");
                atomic::write(&path, text.as_bytes())?;
                Work::Recipe { kind: stage.uses.clone(), path }
            }
            PlannedWork::Command(arguments) => {
                // Whether the program can resume is not known: it starts from an empty folder.
                if continues {
                    fs::remove_dir_all(&folder).map_err(StoreError::io("remove", &folder))?;
                }
                fs::create_dir_all(&folder).map_err(StoreError::io("create", &folder))?;
                let output = folder.to_string_lossy();
                let real =
                    |text: &String| self.plan.with_real_paths(text, self.store).replace(OUTPUT, &output);
                let arguments = arguments.iter().map(real).collect();
                Work::Command { arguments, folder: self.pipeline.folder.clone() }
            }
            PlannedWork::Gate(_) => unreachable!("a gate has no run"),
        };
        self.host.notice(&Notice::Started { stage: &planned.name, continues });
        let job = Job {
            stage: &planned.name,
            work: &work,
            folder: &folder,
            log: &entry.join("log.txt"),
            lock,
            jobs: self.options.jobs,
            stop: self.options.stop,
        };
        Ok(self.host.run(&job).unwrap_or_else(|error| JobEnd::Failed(with_causes(&*error))))
    }

    /// Records a run that has succeeded, unless its data changed while it ran.
    fn finish(
        &self,
        idx: usize,
        planned: &PlannedStage,
        key: Digest,
        report: JobReport,
    ) -> Result<Fate, PipelineError> {
        if let Some(changed) = self.changed_file(idx)? {
            let aside = self.store.discard(key)?;
            let (changed, aside) = (changed.display(), aside.display());
            let reason = format!("{changed} changed while it ran; the result is not used, it is in {aside}");
            return Ok(Fate::Failed(reason));
        }
        if let Some(damage) = self.damaged_upstream(idx)? {
            let aside = self.store.discard(key)?;
            let reason = format!("{damage}; what was made of it is not used, it is in {}", aside.display());
            return Ok(Fate::Failed(reason));
        }
        let (folder, mut outputs) = (self.store.run_folder(key), BTreeMap::new());
        let expected = &self.pipeline.stages[idx].outputs;
        for (name, path) in expected {
            if folder.join(path).exists() {
                let measured = self.digests.of_tree(&folder.join(path), self.host.now())?;
                let output =
                    StoredOutput { path: path.clone(), blake3: measured.blake3, bytes: measured.bytes };
                outputs.insert(name.clone(), output);
            }
        }
        if outputs.is_empty() {
            let names: Vec<&str> = expected.iter().map(|(_, path)| path.as_str()).collect();
            return Ok(Fate::Failed(format!("it left none of its outputs: expected {}", names.join(", "))));
        }
        // What a stage of the program leaves depends on its settings; a command has said what it leaves.
        let missing = expected.iter().find(|(name, _)| !outputs.contains_key(name));
        if let (Kind::Command, Some((name, path))) = (&self.pipeline.stages[idx].kind, missing) {
            return Ok(Fate::Failed(format!("it did not leave its output `{name}`: expected {path}")));
        }
        let done = Done::new(outputs, report.figures, report.seconds, report.peak_bytes);
        self.store.finish(key, &done)?;
        let done = self.upload(planned, key, done);
        self.record(planned, key, &done)?;
        Ok(Fate::Ran)
    }

    /// The first file that is not what it was when the plan was made: of those that no stage makes, and of gates, whose
    /// files lie where people can change them.
    fn changed_file(&self, idx: usize) -> Result<Option<PathBuf>, PipelineError> {
        let planned = &self.plan.stages[idx];
        let upstream = self.pipeline.stages[idx].upstream.iter().map(|&needed| &self.plan.stages[needed]);
        let gates = upstream.filter(|needed| needed.is_gate() && planned.names_output_of(needed));
        for file in planned.files.iter().chain(gates.flat_map(|gate| &gate.files)) {
            match self.digests.of_input(&file.path, file.is_whole, self.host.now()) {
                Ok(measured) if measured.blake3 == file.blake3 => {}
                Err(error) if file.path.exists() => return Err(error.into()),
                _ => return Ok(Some(file.path.clone())),
            }
        }
        Ok(None)
    }

    /// Says which result of another stage, of those that are read, is not what that stage left.
    fn damaged_upstream(&self, idx: usize) -> Result<Option<String>, PipelineError> {
        let planned = &self.plan.stages[idx];
        let upstream = self.pipeline.stages[idx].upstream.iter().map(|&needed| &self.plan.stages[needed]);
        for needed in upstream.filter(|needed| planned.names_output_of(needed)) {
            let Some(key) = needed.key.filter(|_| !needed.is_gate()) else { continue };
            let damage = match self.store.find(key, self.digests, self.host)? {
                Found::Done(_) => continue,
                Found::Damaged(reason) => reason,
                Found::Begun | Found::Nothing => "it is gone".to_owned(),
            };
            return Ok(Some(format!("the result of stage `{}` is damaged: {damage}", needed.name)));
        }
        Ok(None)
    }

    /// Names a finished run in the lock file, and in the folder of links.
    fn record(&self, planned: &PlannedStage, key: Digest, done: &Done) -> Result<(), PipelineError> {
        self.lock_stage(planned, key, done.outputs.clone(), done.figures.clone())?;
        Ok(links::point(self.pipeline, &planned.name, &self.store.run_folder(key))?)
    }

    fn lock_stage(
        &self,
        planned: &PlannedStage,
        key: Digest,
        outputs: BTreeMap<String, StoredOutput>,
        figures: BTreeMap<String, f64>,
    ) -> Result<(), PipelineError> {
        let parts = planned.parts.clone().expect("a stage with a key has its parts");
        let locked = LockedStage { key, parts, outputs, figures };
        self.change_lock(|lock| {
            let stages = lock.pipelines.entry(self.pipeline.name.clone()).or_default();
            stages.insert(planned.name.clone(), locked);
        })
    }

    /// Changes the lock file, which other pipelines of the folder may change at the same time.
    fn change_lock(&self, change: impl FnOnce(&mut LockFile)) -> Result<(), PipelineError> {
        let _guard = links::guard(self.pipeline)?;
        let lock_path = self.pipeline.lock_path();
        let before = LockFile::read(&lock_path)?;
        let mut after = before.clone();
        change(&mut after);
        if after != before {
            after.write(&lock_path)?;
        }
        Ok(())
    }
}
