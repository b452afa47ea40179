//! The program around a pipeline: it finds models, and runs each stage as a process of its own, so that memory is given
//! back and a crash ends one stage alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use serde_json::Value;
use truing_model::Engine;
use truing_pipeline::{
    Cause, Host, Job, JobEnd, JobReport, Notice, Pipeline, PipelinePlan, StageKind, State, Store, Work,
};

use super::merge;
use crate::children::{ask_to_stop, own_group};
use crate::commands::{model, stages};
use crate::local_engine::{DeviceChoice, LocalEngine};
use crate::outcome::{FINE, INTERRUPTED};
use crate::{Context, machine, units};

/// A stage that runs is looked at this often.
const PATIENCE: Duration = Duration::from_millis(50);
/// Lines of a stage's output that are shown where it fails.
const N_LINES: usize = 5;
/// Rows of a plan's table that are shown where it has one line.
const PREDICTED: [&str; 2] = ["peak", "time of the run"];

/// What the plan of a stage says.
pub(super) struct Prediction {
    /// Its JSON, or the last line of its text with memory and time; of a plan that failed its error.
    pub(super) said: Value,
    /// How planning ended.
    pub(super) status: Option<i32>,
}

/// The program, for a pipeline.
pub(super) struct ProgramHost<'a> {
    context: &'a Context,
    kinds: Vec<StageKind>,
    program: String,
    /// Stages at the same time, where stages are run.
    jobs: Option<usize>,
}

impl<'a> ProgramHost<'a> {
    pub(super) fn new(context: &'a Context, jobs: Option<usize>) -> Self {
        let mut kinds = stages::kinds();
        kinds.push(merge::KIND);
        let DeviceChoice { device, compute_dtype, .. } = &context.device;
        let chosen = device.clone().into_iter().chain(compute_dtype.map(|dtype| dtype.to_string()));
        let of_device: String = chosen.map(|name| format!(" {name}")).collect();
        let program = format!("truing {} {}{of_device}", env!("CARGO_PKG_VERSION"), LocalEngine::NAME);
        Self { context, kinds, program, jobs }
    }

    /// Threads of this process.
    pub(super) fn n_threads(&self) -> usize {
        self.context.n_threads
    }

    /// What the stages that would run say of themselves, where their inputs are there: as JSON, or the last line of
    /// their plans with memory and time.
    pub(super) fn predictions(
        &self,
        pipeline: &Pipeline,
        plan: &PipelinePlan,
        store: &Store,
        as_json: bool,
    ) -> anyhow::Result<BTreeMap<String, Value>> {
        let mut predicted = BTreeMap::new();
        for (idx, stage) in pipeline.stages.iter().enumerate() {
            let is_there = |idx: &usize| matches!(plan.stages[*idx].state, State::UpToDate | State::InStore);
            let is_next = matches!(plan.stages[idx].state, State::ToRun | State::ToContinue);
            let Some(recipe) = plan.recipe(idx, store) else { continue };
            if !is_next || !stage.upstream.iter().all(is_there) {
                continue;
            }
            predicted.insert(stage.name.clone(), self.prediction(&stage.uses, &recipe, as_json)?.said);
        }
        Ok(predicted)
    }

    /// What a stage says of itself, given its recipe: as JSON, or the last line of its plan.
    pub(super) fn prediction(&self, uses: &str, recipe: &str, as_json: bool) -> anyhow::Result<Prediction> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("recipe.toml");
        fs::write(&path, recipe)?;
        let mut command = self.command(uses, &path, &folder.path().join("merged"))?;
        command.arg("--plan").args(as_json.then_some("--json"));
        let output = command.stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let said = match as_json {
            true => serde_json::from_str(&text).ok(),
            false => in_one_line(&text).map(Value::from),
        };
        let problem = || {
            let text = String::from_utf8_lossy(&output.stderr);
            Value::from(text.lines().next_back().unwrap_or("it has no plan").to_owned())
        };
        Ok(Prediction { said: said.unwrap_or_else(problem), status: output.status.code() })
    }

    /// This program with the recipe of a stage. `merged` is where a merge goes.
    fn command(&self, kind: &str, recipe: &Path, merged: &Path) -> anyhow::Result<Command> {
        let program = std::env::current_exe().context("cannot find the program that runs")?;
        let mut command = Command::new(program);
        let n_threads = (self.context.n_threads / self.jobs.unwrap_or(1)).max(1);
        command.args(["--threads", &n_threads.to_string()]);
        let DeviceChoice { device, torch_lib, compute_dtype, .. } = &self.context.device;
        if let Some(device) = device {
            command.arg("--device").arg(device);
        }
        if let Some(torch_lib) = torch_lib {
            command.arg("--torch-lib").arg(torch_lib);
        }
        if let Some(dtype) = compute_dtype {
            command.arg("--compute-dtype").arg(dtype.to_string());
        }
        command.args(self.context.printer.is_quiet().then_some("--quiet"));
        if kind == merge::KIND.name {
            command.arg("merge").arg(recipe).arg("--output").arg(merged);
        } else {
            command.arg("run").arg(recipe);
        }
        Ok(command)
    }

    /// The command of a job, ready to be started.
    fn command_of(&self, job: &Job<'_>) -> anyhow::Result<Command> {
        match job.work {
            Work::Command { arguments, folder } => {
                let (program, rest) = arguments.split_first().context("the command is empty")?;
                let mut command = match program.as_str() {
                    // Whatever is on the path: the version that runs the other stages.
                    "truing" => {
                        Command::new(std::env::current_exe().context("cannot find the program that runs")?)
                    }
                    _ => Command::new(program),
                };
                command.args(rest).current_dir(folder);
                Ok(command)
            }
            Work::Recipe { kind, path } if kind == merge::KIND.name => {
                // A merge has nothing to continue, and wants a folder that is not there.
                if job.folder.exists() {
                    fs::remove_dir_all(job.folder)?;
                }
                fs::create_dir_all(job.folder)?;
                let mut command = self.command(kind, path, &job.folder.join(stages::MODEL.path))?;
                command.arg("--json");
                Ok(command)
            }
            Work::Recipe { kind, path } => {
                let mut command = self.command(kind, path, job.folder)?;
                command.arg("--json").args(job.folder.exists().then_some("--resume"));
                Ok(command)
            }
        }
    }

    fn run_child(&self, job: &Job<'_>) -> anyhow::Result<JobEnd> {
        let stdout = job.log.with_file_name("stdout.txt");
        let shows_progress = job.jobs <= 1;
        let mut command = self.command_of(job)?;
        // The child holds the lock: if this process is killed, no other one takes the folder while the child works.
        command.stdin(Stdio::from(job.lock.try_clone()?)).stdout(File::create(&stdout)?);
        if !shows_progress {
            command.stderr(File::create(job.log)?);
        }
        own_group(&mut command);
        let started = Instant::now();
        let mut child =
            command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let (status, was_asked, peak_bytes) = wait(&mut child, job)?;
        let report = JobReport {
            figures: figures(&fs::read(&stdout).unwrap_or_default()),
            seconds: started.elapsed().as_secs_f64(),
            peak_bytes,
        };
        Ok(match status.code() {
            Some(code) if code == i32::from(FINE) => JobEnd::Finished(report),
            Some(code) if code == i32::from(INTERRUPTED) => JobEnd::Interrupted,
            None if was_asked => JobEnd::Interrupted,
            // Programs have statuses of their own for a stop.
            Some(_) if was_asked && matches!(job.work, Work::Command { .. }) => JobEnd::Interrupted,
            _ => {
                let said = matches!(job.work, Work::Command { .. }).then_some(stdout.as_path());
                JobEnd::Failed(failure(status, (!shows_progress).then_some(job.log), said))
            }
        })
    }
}

/// The last line of a plan, with the memory and the time that its table has.
fn in_one_line(plan: &str) -> Option<String> {
    let last = plan.lines().rev().find(|line| !line.trim().is_empty())?;
    let value = |name: &&str| {
        let after = plan.lines().find_map(|line| line.strip_prefix(*name)?.strip_prefix("  "))?;
        Some(format!("; {name} {}", after.trim()))
    };
    let facts: String = PREDICTED.iter().filter_map(value).collect();
    Some(format!("{last}{facts}"))
}

/// Waits for a child; says whether it was asked to stop, and the most memory it was seen to have.
fn wait(child: &mut Child, job: &Job<'_>) -> io::Result<(ExitStatus, bool, Option<u64>)> {
    let (mut was_asked, mut peak) = (false, None);
    loop {
        peak = peak.max(machine::peak_bytes_of(child.id()));
        if let Some(status) = child.try_wait()? {
            return Ok((status, was_asked, peak));
        }
        if !was_asked && job.stop.load(Ordering::SeqCst) {
            ask_to_stop(child);
            was_asked = true;
        }
        thread::sleep(PATIENCE);
    }
}

/// The numbers of the object that a stage prints at its end, and those of its `metrics`.
fn figures(stdout: &[u8]) -> BTreeMap<String, f64> {
    let Ok(Value::Object(said)) = serde_json::from_slice(stdout) else { return BTreeMap::new() };
    let metrics = said.get("metrics").and_then(Value::as_object).into_iter().flatten();
    metrics.chain(&said).filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
}

/// Why a stage failed. Its errors were printed, or are in a log; what a command printed is in the file `said`.
fn failure(status: ExitStatus, log: Option<&Path>, said: Option<&Path>) -> String {
    let said = said.map(|said| format!(" (what it printed: {})", said.display())).unwrap_or_default();
    match log.map(|log| (log, String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned())) {
        // The reason for a signal is not known here; where memory is short the system sends it.
        None if status.code().is_none() => status.to_string(),
        None => format!("{status}{said}; it says why above"),
        Some((log, text)) => {
            let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
            let last = lines[lines.len().saturating_sub(N_LINES)..].join("\n  ");
            format!("{status}{said}; see {}, which ends with\n  {last}", log.display())
        }
    }
}

impl Host for ProgramHost<'_> {
    fn kinds(&self) -> &[StageKind] {
        &self.kinds
    }

    fn program(&self) -> &str {
        &self.program
    }

    fn find_model(&self, name: &str) -> Result<PathBuf, Cause> {
        Ok(model::find(name, self.context)?)
    }

    fn find_data(&self, name: &str) -> Result<Option<PathBuf>, Cause> {
        Ok(model::find_data(name, self.context)?)
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn run(&self, job: &Job<'_>) -> Result<JobEnd, Cause> {
        Ok(self.run_child(job)?)
    }

    fn notice(&self, notice: &Notice<'_>) {
        let printer = self.context.printer;
        match notice {
            Notice::Started { stage, continues: false } => printer.note(format_args!("{stage}: running")),
            Notice::Started { stage, continues: true } => {
                printer.note(format_args!("{stage}: continuing what an earlier attempt left"));
            }
            Notice::Finished { stage } => printer.note(format_args!("{stage}: finished")),
            Notice::Reused { stage } => printer.note(format_args!("{stage}: the result is there already")),
            Notice::WaitsForOther { stage } => {
                printer.note(format_args!("{stage}: another process makes this result; waiting for it"));
            }
            Notice::NotRemembered { reason } => {
                printer.note(format_args!("digests of files are not remembered: {reason}"));
            }
            Notice::Fetching { stage, bytes } => {
                printer.note(format_args!("{stage}: fetching {} from the remote", units::bytes(*bytes)));
            }
            Notice::Fetched { stage } => {
                printer.note(format_args!("{stage}: the result came from the remote"))
            }
            Notice::WaitsForMachine { stage, owner } => {
                printer.note(format_args!("{stage}: {owner} makes this result; waiting for it"));
            }
            Notice::Replaced { stage } => printer.warning(format_args!(
                "{stage}: another machine stored another result of this key first; that one is used here too"
            )),
            Notice::NotUploaded { stage, reason } => {
                printer.warning(format_args!("{stage}: the result is here, and was not uploaded: {reason}"));
            }
            Notice::Failed { stage, .. } => printer.note(format_args!("{stage}: failed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_in_one_line_has_memory_and_time() {
        let plan = "parameters            105 KiB\npeak                 34.7 MiB\npeaks               1\n\
                    time of the run        66 ms\n\nk  activations      peak\n1      324 KiB  34.4 MiB\n\nno recomputation\n\n";
        assert_eq!(
            in_one_line(plan).as_deref(),
            Some("no recomputation; peak 34.7 MiB; time of the run 66 ms")
        );
        assert_eq!(in_one_line("20 items on sums\n").as_deref(), Some("20 items on sums"));
        assert_eq!(in_one_line("\n"), None);
    }

    #[test]
    fn figures_are_the_numbers_of_the_last_object() {
        let said =
            br#"{"status": "finished", "n_kept": 12, "metrics": {"loss": 0.5, "name": "x"}, "layers": [1]}"#;
        assert_eq!(figures(said), [("loss".to_owned(), 0.5), ("n_kept".to_owned(), 12.0)].into());
        assert_eq!(figures(b"no JSON"), BTreeMap::new());
    }
}
