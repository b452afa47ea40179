//! Weight synchronisation: the policy is written into the run's folder, then the servers load it by the requests of the
//! recipe.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use truing_model::{Engine, SaveOptions};
use truing_run::model;
use truing_run::ranks::{on_first_rank, on_first_rank_reading};
use truing_store::{CommittedDirectory, StagedDirectory, prune};
use truing_types::{EndpointRequest, Event};

use super::protocol::weights_name;
use super::{Loaded, RolloutServer, RolloutServers, SyncCall};
use crate::StageError;
use crate::grpo::running::Running;

/// Below the run's folder.
const FOLDER: &str = "rollout_weights";
const PREFIX: &str = "step-";
/// Weights that are kept: servers may still read the former ones while new ones are written.
const N_KEPT: usize = 2;

/// The folder of a version below a run's folder.
fn folder_of(run: &Path, version: u64) -> PathBuf {
    run.join(FOLDER).join(format!("{PREFIX}{version:06}"))
}

/// The version that servers have to have loaded after a number of steps. A run that was resumed between two syncs takes
/// the weights of the last one, if they still exist.
fn due_version(
    n_steps_taken: u64,
    sync_steps: u64,
    written: Option<u64>,
    is_there: impl Fn(u64) -> bool,
) -> u64 {
    let due = n_steps_taken - n_steps_taken % sync_steps;
    match written {
        Some(written) if written >= due => written,
        _ if due == n_steps_taken || is_there(due) => due,
        _ => n_steps_taken,
    }
}

impl<E: Engine> Running<'_, E> {
    /// Loads recent weights into every server that has others, with `reloads_all` into all. The first rank writes them
    /// and sends the requests; all ranks get the results.
    pub(in crate::grpo) fn sync_rollout_servers(&mut self, reloads_all: bool) -> Result<(), StageError> {
        let Some(mut servers) = self.rollout_servers.take() else { return Ok(()) };
        let synced = self.sync(&mut servers, reloads_all);
        self.rollout_servers = Some(servers);
        synced
    }

    fn sync(&mut self, servers: &mut RolloutServers, reloads_all: bool) -> Result<(), StageError> {
        let run = self.record.path().to_path_buf();
        let n_steps_taken = self.state.step;
        let sync_steps = servers.config.sync_steps;
        let world = &*self.groups.world;
        let version = on_first_rank_reading(world, self.trainer.engine(), || -> Result<u64, StageError> {
            let is_there = |version| CommittedDirectory::open_verified(&folder_of(&run, version)).is_ok();
            let version = due_version(n_steps_taken, sync_steps, servers.written, is_there);
            if version == n_steps_taken && servers.written != Some(version) {
                self.write_rollout_weights(&folder_of(&run, version), servers)?;
            }
            Ok(version)
        })?;
        servers.written = Some(version);
        let is_due = |server: &RolloutServer| {
            reloads_all || server.loaded.as_ref().is_none_or(|loaded| loaded.version != version)
        };
        let due: Vec<usize> =
            (0..servers.servers.len()).filter(|&idx| is_due(&servers.servers[idx])).collect();
        if due.is_empty() {
            return Ok(());
        }
        let phase = format!("loading the weights of step {version} into the rollout servers");
        self.events.emit(Event::PhaseStarted { phase, total: None });
        let loaded = on_first_rank(world, || -> Result<Vec<Result<Loaded, String>>, StageError> {
            let folder = folder_of(&run, version);
            let path = std::fs::canonicalize(&folder).unwrap_or(folder);
            Ok(servers.load(&due, &path, version))
        })?;
        self.events.emit(Event::PhaseFinished);
        for (idx, loaded) in due.into_iter().zip(loaded) {
            let server = &mut servers.servers[idx];
            match loaded {
                Ok(loaded) => {
                    server.versions.extend(loaded.name.clone().map(|name| (name, loaded.version)));
                    (server.loaded, server.problem) = (Some(loaded), None);
                }
                Err(problem) => {
                    let text = format!("the weights of step {version} were not loaded: {problem}");
                    if server.problem.is_none() {
                        self.events.emit(Event::Warning(format!("{}: {text}", server.address)));
                    }
                    server.problem = Some(text);
                    // Its weights are unknown now, unless its replies name them.
                    server.loaded = server.loaded.take().filter(|loaded| loaded.name.is_some());
                }
            }
        }
        Ok(())
    }

    /// Writes the whole model, adapters merged in, and keeps the weights before it.
    fn write_rollout_weights(&self, target: &Path, servers: &RolloutServers) -> Result<(), StageError> {
        let parent = target.parent().unwrap_or(target);
        std::fs::create_dir_all(parent)
            .map_err(|source| truing_run::RunError::Write { path: parent.to_path_buf(), source })?;
        prune(parent, PREFIX, N_KEPT - 1, &[])?;
        let staged = StagedDirectory::begin(target)?;
        let files = self.inputs.renderer.tokenizer().files();
        let options = SaveOptions {
            dtype: servers.config.weights_dtype,
            ..model::save_options(&self.inputs.model, &files)
        };
        let base_model = model::base_of(&self.inputs.model, &self.plan.config.model_name_or_path);
        model::save_model(self.trainer.engine(), staged.path(), &options, &base_model, true)?;
        staged.commit()?;
        Ok(())
    }

    /// Removes the weights that were written for the servers: they have them in memory, and the run has its model.
    pub(in crate::grpo) fn remove_rollout_weights(&self) -> Result<(), StageError> {
        on_first_rank(&*self.groups.world, || -> Result<(), StageError> {
            Ok(prune(&self.record.path().join(FOLDER), PREFIX, 0, &[]).map(drop)?)
        })
    }
}

impl RolloutServers {
    /// Loads a folder into some servers, in parallel.
    fn load(&self, due: &[usize], path: &Path, version: u64) -> Vec<Result<Loaded, String>> {
        let calls = self.config.sync_calls();
        let request = |call: &SyncCall| EndpointRequest {
            path: call.path.clone(),
            body: filled(&Value::Object(call.body.clone()), path, version),
            timeout_secs: Some(self.config.sync_timeout_secs),
        };
        let requests: &Vec<EndpointRequest> = &calls.iter().map(request).collect();
        std::thread::scope(|scope| {
            let load = |&idx: &usize| scope.spawn(move || self.servers[idx].load(requests, version));
            let loading: Vec<_> = due.iter().map(load).collect();
            let joined = loading.into_iter().map(|thread| thread.join());
            joined.map(|found| found.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }
}

impl RolloutServer {
    fn load(&self, requests: &[EndpointRequest], version: u64) -> Result<Loaded, String> {
        let mut name = None;
        for request in requests {
            let asked = std::slice::from_ref(request);
            let replied = self.model.post_all(asked, &mut |_, _| std::ops::ControlFlow::Continue(()));
            let reply = match replied.into_iter().next() {
                Some(Ok(reply)) => reply,
                Some(Err(error)) => return Err(error.reason()),
                None => return Err("the server was not asked".into()),
            };
            if reply["success"] == Value::Bool(false) {
                let said = reply["message"].as_str().unwrap_or("no reason is given");
                return Err(format!("{}: {said}", request.path));
            }
            name = weights_name(&reply).or(name);
        }
        Ok(Loaded { version, name })
    }
}

/// A body with the folder and the version in its texts.
fn filled(value: &Value, path: &Path, version: u64) -> Value {
    match value {
        Value::String(text) => {
            text.replace("{path}", &path.to_string_lossy()).replace("{version}", &version.to_string()).into()
        }
        Value::Array(values) => values.iter().map(|value| filled(value, path, version)).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (key.clone(), filled(value, path, version)));
            Value::Object(fields.collect::<Map<String, Value>>())
        }
        plain => plain.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn weights_are_due_every_so_many_steps_and_after_a_resume_those_of_the_last_sync() {
        let check = |n_steps, every, written, is_there: bool, expected| {
            assert_eq!(due_version(n_steps, every, written, |_| is_there), expected);
        };
        check(0, 1, None, false, 0);
        check(3, 1, Some(2), false, 3);
        check(3, 2, Some(2), false, 2);
        check(4, 2, Some(2), false, 4);
        // Resumed after step 3, where the weights of step 2 are due.
        check(3, 2, None, true, 2);
        check(3, 2, None, false, 3);
        check(5, 4, Some(5), false, 5);
    }

    #[test]
    fn bodies_are_filled_in() {
        let body = json!({"a": ["{path}", 1], "b": {"c": "v{version}"}});
        assert_eq!(filled(&body, Path::new("/w/s"), 4), json!({"a": ["/w/s", 1], "b": {"c": "v4"}}));
    }
}
