//! The program around a pipeline that is rehearsed: small models are found in the place of real ones, recipes are made
//! small before a stage runs, models on servers are replaced, and what a stage says when it fails is kept.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, bail};
use serde_json::Value as Json;
use toml::{Table, Value};
use truing_ask::ChatModelConfig;
use truing_client::ClientSettings;
use truing_pipeline::{Cause, Host, Job, JobEnd, JobReport, Notice, StageKind, Work};
use truing_run::recipe::line_of_key;
use truing_types::{ChatRequest, Conversation, Message, Role, SamplingOptions, Silent, with_causes};

use super::models::SmallModels;
use super::rows;
use super::server::StandInServer;
use super::shrink::{NamedServer, StandIn, servers_of, shrink};
use crate::commands::merge;
use crate::commands::pipeline::host::ProgramHost;
use crate::environment::Environment;
use crate::local_engine::LocalEngine;
use crate::printer::one_sentence;
use crate::{Context, asking};

/// How many lines of an error are shown, at most.
const MAX_ERROR_LINES: usize = 8;
/// A server that is tried has so long to answer, in seconds.
const TRIAL_SECS: f64 = 60.0;
/// Tokens that a server is asked for when it is tried.
const N_TRIAL_TOKENS: usize = 16;

/// What a rehearsal does besides running stages of the program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Stages of kind `command` run.
    pub(super) runs_commands: bool,
    /// Each model on a server gets one request.
    pub(super) asks_servers: bool,
}

/// What is known of a stage that was tried.
#[derive(Debug, Clone, Default)]
pub(super) struct Tried {
    /// What was changed of it, and what was noticed.
    pub(super) remarks: Vec<String>,
    /// How long it took.
    pub(super) seconds: f64,
    /// What is wrong with it.
    pub(super) problems: Vec<Problem>,
    /// Why it was not run.
    pub(super) skipped: Option<String>,
}

/// Something wrong with a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// The setting that it is about: keys and indices. Empty for the stage as a whole.
    pub(super) keys: Vec<String>,
    /// What is wrong.
    pub(super) text: String,
}

/// The program, for a rehearsal.
pub(super) struct RehearsalHost<'a> {
    inner: &'a ProgramHost<'a>,
    context: &'a Context,
    pub(super) models: SmallModels,
    pub(super) server: StandInServer,
    replies: PathBuf,
    extent: Extent,
    stop: Arc<AtomicBool>,
    tried: Mutex<BTreeMap<String, Tried>>,
    /// Servers that were asked, by address and model.
    asked: Mutex<BTreeMap<(String, String), Result<(), String>>>,
}

impl<'a> RehearsalHost<'a> {
    /// A host that writes below a folder.
    pub(super) fn new(
        inner: &'a ProgramHost<'a>,
        context: &'a Context,
        folder: &Path,
        extent: Extent,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let server = StandInServer::start().context("cannot listen on a port of this machine")?;
        Ok(Self {
            inner,
            context,
            models: SmallModels::in_folder(folder.join("models")),
            server,
            replies: folder.join("replies"),
            extent,
            stop,
            tried: Mutex::default(),
            asked: Mutex::default(),
        })
    }

    /// What is known of a stage; of one that did not run nothing.
    pub(super) fn tried(&self, stage: &str) -> Tried {
        self.all_tried().get(stage).cloned().unwrap_or_default()
    }

    fn all_tried(&self) -> MutexGuard<'_, BTreeMap<String, Tried>> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a stage of the program on its small recipe.
    fn run_recipe(
        &self,
        job: &Job<'_>,
        kind: &str,
        path: &Path,
        tried: &mut Tried,
    ) -> anyhow::Result<JobEnd> {
        let mut recipe: Table = toml::from_str(&fs::read_to_string(path)?)?;
        for server in servers_of(&recipe) {
            if let Err(error) = self.check_server(&server) {
                tried.problems.push(Problem { keys: server.keys, text: one_sentence(&error) });
            }
        }
        if !tried.problems.is_empty() {
            return Ok(JobEnd::Failed("a model on a server cannot be asked".into()));
        }
        let stand_in = StandIn { base_url: self.server.base_url(), replies: &self.replies };
        tried.remarks.extend(shrink(kind, &mut recipe, stand_in));
        let text = toml::to_string_pretty(&recipe)?;
        fs::write(path, &text)?;
        let end = self.run_apart(job)?;
        let stdout = fs::read(job.log.with_file_name("stdout.txt")).unwrap_or_default();
        match end {
            JobEnd::Failed(_) if has_finished(&stdout) => {
                let remark = "it ran to its end with a finding, such as nothing learnt or unscored items, which random \
                              weights explain";
                tried.remarks.push(remark.into());
            }
            JobEnd::Failed(reason) => {
                let log = fs::read_to_string(job.log).unwrap_or_default();
                tried.problems.push(match does_not_fit(&stdout) {
                    Some(why) => Problem { keys: Vec::new(), text: format!("this run does not fit: {why}") },
                    None => problem(&log, &reason, path, &text),
                });
                return Ok(JobEnd::Failed(reason));
            }
            JobEnd::Interrupted => return Ok(JobEnd::Interrupted),
            JobEnd::Finished(_) => {}
        }
        self.fill_outputs(kind, job.folder, &recipe, tried)?;
        Ok(JobEnd::Finished(JobReport::default()))
    }

    /// Runs a job with its progress and errors in its log.
    fn run_apart(&self, job: &Job<'_>) -> anyhow::Result<JobEnd> {
        // More than one job at a time write to their logs.
        let apart = Job {
            stage: job.stage,
            work: job.work,
            folder: job.folder,
            log: job.log,
            lock: job.lock,
            jobs: job.jobs.max(2),
            stop: job.stop,
        };
        self.inner.run(&apart).map_err(|error| anyhow::anyhow!("{}", with_causes(&*error)))
    }

    /// Puts rows into outputs that have none, so that the stages after this one can be tried.
    fn fill_outputs(
        &self,
        kind: &str,
        folder: &Path,
        recipe: &Table,
        tried: &mut Tried,
    ) -> anyhow::Result<()> {
        let Some(stage) = self.kinds().iter().find(|known| known.name == kind) else { return Ok(()) };
        for output in stage.outputs {
            let path = folder.join(output.path);
            let is_empty = |text: String| text.trim().is_empty();
            if !output.path.ends_with(".jsonl") || !fs::read_to_string(&path).is_ok_and(is_empty) {
                continue;
            }
            let Some(made) = rows::made(kind, output.name, recipe) else { continue };
            let text: String = made.iter().map(|row| format!("{}\n", Json::Object(row.clone()))).collect();
            fs::write(&path, text)?;
            tried.remarks.push(format!(
                "`{}` had no rows, as random weights pass no filter: it got {} placeholder rows",
                output.name,
                made.len()
            ));
        }
        Ok(())
    }

    /// Checks that a model on a server can be asked: its key is there and, if wanted, it answers.
    fn check_server(&self, server: &NamedServer) -> anyhow::Result<()> {
        let key = server.settings.get("api_key_env").and_then(Value::as_str);
        if let Some(name) = key.filter(|name| Environment::api_key(name).is_none()) {
            bail!("the environment has no `{name}`, which `api_key_env` names");
        }
        if !self.extent.asks_servers {
            return Ok(());
        }
        let text =
            |key: &str| server.settings.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let answered = asked
            .entry((text("base_url"), text("model")))
            .or_insert_with(|| self.ask(&server.settings).map_err(|error| one_sentence(&error)));
        answered.clone().map_err(|reason| anyhow::anyhow!("the server does not answer: {reason}"))
    }

    /// Sends one request to the server that settings describe.
    fn ask(&self, settings: &Table) -> anyhow::Result<()> {
        let settings: ClientSettings = Value::Table(settings.clone()).try_into()?;
        let settings =
            ClientSettings { max_retries: 0, deadline_secs: TRIAL_SECS, stream: false, ..settings };
        let config = ChatModelConfig { server: Some(settings), ..ChatModelConfig::default() };
        let chat_context = asking::chat_context(&config, &self.stop, self.context)?;
        let opened = config.open::<LocalEngine>(&chat_context, &mut Silent)?;
        let messages = vec![Message::new(Role::User, "Reply with one word.")];
        let request = ChatRequest {
            conversation: Conversation { messages, tools: Vec::new() },
            sampling: SamplingOptions { max_new_tokens: N_TRIAL_TOKENS, ..SamplingOptions::default() },
        };
        opened.model.chat(&request, &mut |_| ControlFlow::Continue(()))?;
        Ok(())
    }

    /// Whether the program of a command is there.
    fn has_program(&self, arguments: &[String], folder: &Path) -> bool {
        let Some(program) = arguments.first() else { return false };
        match Path::new(program).components().count() {
            1 => self.context.environment.find_program(&[program.as_str()]).is_some(),
            _ => folder.join(program).is_file(),
        }
    }
}

/// Whether a stage says at its end that it has finished.
fn has_finished(stdout: &[u8]) -> bool {
    serde_json::from_slice::<Json>(stdout).is_ok_and(|said| said["status"] == "finished")
}

/// Why a stage says that it does not fit in memory.
fn does_not_fit(stdout: &[u8]) -> Option<String> {
    let said: Json = serde_json::from_slice(stdout).ok()?;
    (said["fits"] == false).then(|| said["reason"].as_str().unwrap_or("no reason is given").to_owned())
}

/// The error that a stage printed, with the setting that it names. `text` is its recipe, which is at `path`.
fn problem(log: &str, reason: &str, path: &Path, text: &str) -> Problem {
    let lines: Vec<&str> = log.lines().collect();
    let Some(begin) = lines.iter().rposition(|line| line.starts_with("error:")) else {
        return Problem { keys: Vec::new(), text: reason.to_owned() };
    };
    let is_advice = |line: &&&str| line.starts_with("hint:");
    let said: Vec<&str> = lines[begin..]
        .iter()
        .take_while(|line| !is_advice(line))
        .take(MAX_ERROR_LINES)
        .map(|line| line.trim_start_matches("error:").trim())
        .collect();
    let said = said.join("\n");
    // Places in the recipe that the stage ran with are nobody's: the setting has one in the pipeline's.
    let Some((before, after)) = said.split_once(&format!("{}:", path.display())) else {
        return Problem { keys: Vec::new(), text: said.clone() };
    };
    let placed = after.split_once(':').and_then(|(line, rest)| Some((line.parse::<usize>().ok()?, rest)));
    // Without a line it is about what the file does not have.
    let (keys, rest) = placed.map_or((Vec::new(), after), |(line, rest)| (keys_at(text, line), rest));
    Problem { keys, text: format!("{before}{}", rest.trim_start()) }
}

/// The keys and indices of the setting in a line of a TOML text.
fn keys_at(text: &str, line: usize) -> Vec<String> {
    let Ok(table) = toml::from_str::<Table>(text) else { return Vec::new() };
    let mut found = Vec::new();
    for_each_key(&Value::Table(table), &mut Vec::new(), &mut |keys| {
        if line_of_key(text, keys) == Some(line) && keys.len() > found.len() {
            found = keys.to_vec();
        }
    });
    found
}

/// Calls `see` with the keys and indices of every key.
fn for_each_key(value: &Value, keys: &mut Vec<String>, see: &mut dyn FnMut(&[String])) {
    match value {
        Value::Table(table) => {
            for (key, inner) in table {
                keys.push(key.clone());
                see(keys);
                for_each_key(inner, keys, see);
                keys.pop();
            }
        }
        Value::Array(list) => {
            for (idx, inner) in list.iter().enumerate() {
                keys.push(idx.to_string());
                for_each_key(inner, keys, see);
                keys.pop();
            }
        }
        _ => {}
    }
}

impl Host for RehearsalHost<'_> {
    fn kinds(&self) -> &[StageKind] {
        self.inner.kinds()
    }

    fn program(&self) -> &str {
        self.inner.program()
    }

    fn find_model(&self, name: &str) -> Result<PathBuf, Cause> {
        if merge::is_recipe(Path::new(name)) {
            let text = format!("{name} is a recipe of a merge, which is not rehearsed here: make it a stage");
            return Err(text.into());
        }
        let real = self.inner.find_model(name)?;
        Ok(self.models.of(&real)?)
    }

    fn find_data(&self, name: &str) -> Result<Option<PathBuf>, Cause> {
        self.inner.find_data(name)
    }

    fn now(&self) -> SystemTime {
        self.inner.now()
    }

    fn run(&self, job: &Job<'_>) -> Result<JobEnd, Cause> {
        let (mut tried, started) = (Tried::default(), Instant::now());
        let end = match job.work {
            Work::Recipe { kind, path } => self.run_recipe(job, kind, path, &mut tried),
            Work::Command { arguments, folder } if !self.has_program(arguments, folder) => {
                let program = arguments.first().map(String::as_str).unwrap_or_default();
                let keys = vec!["command".to_owned()];
                tried.problems.push(Problem { keys, text: format!("there is no program `{program}`") });
                Ok(JobEnd::Failed("its program is missing".into()))
            }
            Work::Command { .. } if !self.extent.runs_commands => {
                tried.skipped = Some("a command runs with `--with-commands` only".into());
                Ok(JobEnd::Failed("it is not run in a rehearsal".into()))
            }
            Work::Command { .. } => self.run_apart(job).inspect(|end| {
                if let JobEnd::Failed(reason) = end {
                    let log = fs::read_to_string(job.log).unwrap_or_default();
                    let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or(reason);
                    let keys = vec!["command".to_owned()];
                    tried.problems.push(Problem { keys, text: last.to_owned() });
                }
            }),
        };
        tried.seconds = started.elapsed().as_secs_f64();
        if let Err(error) = &end {
            tried.problems.push(Problem { keys: Vec::new(), text: one_sentence(error) });
        }
        self.all_tried().insert(job.stage.to_owned(), tried);
        Ok(end?)
    }

    fn notice(&self, notice: &Notice<'_>) {
        self.inner.notice(notice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str =
        "stage = \"sft\"\nmax_length = 8\n\n[[data]]\npath = \"/rows.jsonl\"\nweight = 1.0\n";

    #[test]
    fn an_error_of_the_run_gets_the_keys_of_its_setting() {
        let path = Path::new("/trial/recipe.toml");
        let log = "sft: reading\nerror: /trial/recipe.toml:5: `data.0.path`: /rows.jsonl:3: no `messages`\n\
                   hint: look at it\n";
        let found = problem(log, "exit status: 2", path, RECIPE);
        assert_eq!(found.keys, ["data", "0", "path"]);
        assert_eq!(found.text, "`data.0.path`: /rows.jsonl:3: no `messages`");
        let found = problem("error: the disk is full\n", "exit status: 2", path, RECIPE);
        assert_eq!((found.keys.len(), found.text.as_str()), (0, "the disk is full"));
        let found = problem("killed", "signal: 9", path, RECIPE);
        assert_eq!(found.text, "signal: 9", "without an error of its own the exit is the reason");
        let found = problem("error: /trial/recipe.toml: `output_dir` is missing\n", "", path, RECIPE);
        assert_eq!(found.text, "`output_dir` is missing");
    }

    #[test]
    fn keys_are_found_by_their_line() {
        assert_eq!(keys_at(RECIPE, 2), ["max_length"]);
        assert_eq!(keys_at(RECIPE, 6), ["data", "0", "weight"]);
        assert!(keys_at(RECIPE, 3).is_empty());
    }

    #[test]
    fn a_finding_at_the_end_is_an_end() {
        assert!(has_finished(br#"{"status": "finished", "nothing_learnt": "no reward differs"}"#));
        assert!(!has_finished(br#"{"status": "interrupted"}"#));
        let refused = br#"{"fits": false, "reason": "1 GiB is needed", "would_fit": []}"#;
        assert_eq!(does_not_fit(refused).as_deref(), Some("1 GiB is needed"));
        assert_eq!(does_not_fit(br#"{"fits": true}"#), None);
        assert!(!has_finished(b""));
    }
}
