//! Rollouts from servers: completions are sampled by inference servers, token ids in and out. The run writes its
//! weights, and the servers load them.
//!
//! Every completion is a request of its own with a seed of its own. One that fails is sampled on another server; one
//! that fails everywhere has no reward, and leaves its group's baseline. Where no server answers, the run ends and is
//! saved as it was before the step. Text is made of the tokens here, never the other way round.

mod config;
mod protocol;
mod sync;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};

use serde::{Deserialize, Serialize};
use truing_generate::{Replayed, SampledCompletion, SampledIds, replay};
use truing_model::{Engine, SampledToken};
use truing_types::{
    ChatError, ChatModel, EndpointRequest, EndpointResult, Event, FinishReason, SamplingOptions,
};

pub use config::{ImportanceSamplingMode, RolloutsConfig};
pub use protocol::{LogprobsMode, RolloutProtocol, SyncCall};

use self::protocol::{ServerCompletion, Wanted};
use super::running::Running;
use super::{GrpoConfig, Prompt};
use crate::StageError;

/// The weights that a server has loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Loaded {
    /// Optimiser steps that they had taken.
    version: u64,
    /// Their name in replies, where the server gives one.
    name: Option<String>,
}

/// A server, and what is known of its weights.
struct RolloutServer {
    address: String,
    model: Box<dyn ChatModel>,
    /// `None` before anything was loaded.
    loaded: Option<Loaded>,
    /// Why the last weights were not loaded.
    problem: Option<String>,
    /// Versions by the names that the server gave to its weights.
    versions: BTreeMap<String, u64>,
}

/// The servers of a run. All ranks hold the same state of them; the first rank sends the requests that load weights.
pub(super) struct RolloutServers {
    config: RolloutsConfig,
    servers: Vec<RolloutServer>,
    /// The version that was written last.
    written: Option<u64>,
}

/// Why there is no completion.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NoCompletion {
    /// The server failed, or what it gave cannot be trained on.
    Failed(String),
    /// It is of weights that are too old, or that this run did not load.
    Stale(String),
}

type Sampled = Result<SampledCompletion, NoCompletion>;

impl RolloutServers {
    /// `models` are those of [`RolloutsConfig::chat_models`], opened.
    pub(super) fn new(config: &RolloutsConfig, models: Vec<Box<dyn ChatModel>>) -> Self {
        let servers = config.servers.iter().cloned().zip(models);
        let servers = servers.map(|(address, model)| RolloutServer {
            address,
            model,
            loaded: None,
            problem: None,
            versions: BTreeMap::new(),
        });
        Self { config: config.clone(), servers: servers.collect(), written: None }
    }

    /// Servers whose weights are recent enough at a step.
    fn usable(&self, n_steps_taken: u64) -> Vec<usize> {
        let is_usable = |server: &RolloutServer| {
            let loaded = server.loaded.as_ref();
            loaded.is_some_and(|loaded| n_steps_taken - loaded.version <= self.config.max_staleness())
        };
        (0..self.servers.len()).filter(|&idx| is_usable(&self.servers[idx])).collect()
    }

    /// Why no server is usable.
    fn problems(&self) -> String {
        let problems = self.servers.iter().filter_map(|server| {
            let problem = server.problem.as_deref()?;
            Some(format!("{}: {problem}", server.address))
        });
        problems.collect::<Vec<_>>().join("; ")
    }

    /// Deals requests to servers. One that fails is sent to another server, as long as that one answers any. For each
    /// request the server that was asked last, and what it said.
    fn ask(
        &self,
        requests: &[EndpointRequest],
        mut usable: Vec<usize>,
        on_done: &mut dyn FnMut(),
    ) -> Vec<Option<(usize, EndpointResult)>> {
        let mut replies: Vec<Option<(usize, EndpointResult)>> = requests.iter().map(|_| None).collect();
        let mut pending: Vec<usize> = (0..requests.len()).collect();
        let mut failed_on: Vec<Vec<usize>> = vec![Vec::new(); requests.len()];
        loop {
            let shares = dealt_to(&usable, &pending, &failed_on);
            if shares.iter().all(Vec::is_empty) {
                return replies;
            }
            let found = self.ask_side_by_side(requests, &usable, &shares, on_done);
            pending.clear();
            let mut answering = Vec::new();
            for ((&server, share), results) in usable.iter().zip(shares).zip(found) {
                if share.is_empty() || results.iter().any(Result::is_ok) {
                    answering.push(server);
                }
                for (idx, result) in share.into_iter().zip(results) {
                    if matches!(&result, Err(error) if !matches!(error, ChatError::BrokenOff)) {
                        pending.push(idx);
                        failed_on[idx].push(server);
                    }
                    replies[idx] = Some((server, result));
                }
            }
            usable = answering;
        }
    }

    fn ask_side_by_side(
        &self,
        requests: &[EndpointRequest],
        usable: &[usize],
        shares: &[Vec<usize>],
        on_done: &mut dyn FnMut(),
    ) -> Vec<Vec<EndpointResult>> {
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            let asking = usable.iter().zip(shares).map(|(&server, share)| {
                let (sender, model) = (sender.clone(), &self.servers[server].model);
                let asked: Vec<EndpointRequest> = share.iter().map(|&idx| requests[idx].clone()).collect();
                scope.spawn(move || {
                    model.post_all(&asked, &mut |_, result| {
                        if result.is_ok() {
                            // An error means that the receiver has panicked.
                            let _ = sender.send(());
                        }
                        ControlFlow::Continue(())
                    })
                })
            });
            let asking: Vec<_> = asking.collect();
            drop(sender);
            receiver.into_iter().for_each(|()| on_done());
            let joined = asking.into_iter().map(|thread| thread.join());
            joined.map(|found| found.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    /// The version of the weights that a reply is of.
    fn version(&self, server: usize, completion: &ServerCompletion) -> Result<u64, NoCompletion> {
        let RolloutServer { address, loaded, versions, .. } = &self.servers[server];
        let known = loaded.as_ref().and_then(|loaded| Some((loaded.version, loaded.name.as_deref()?)));
        match (known, completion.weights.as_deref()) {
            (Some((version, name)), Some(found)) if name == found => Ok(version),
            (Some((_, name)), Some(found)) => versions.get(found).copied().ok_or_else(|| {
                NoCompletion::Stale(format!(
                    "{address}: its weights are `{found}`, which this run did not load; expected `{name}`"
                ))
            }),
            _ => Ok(loaded.as_ref().map_or(0, |loaded| loaded.version)),
        }
    }
}

/// The requests of each server: dealt in turn, none to a server on which it has failed.
fn dealt_to(servers: &[usize], requests: &[usize], failed_on: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut shares = vec![Vec::new(); servers.len()];
    for (turn, &request) in requests.iter().enumerate() {
        let others: Vec<usize> =
            (0..servers.len()).filter(|&place| !failed_on[request].contains(&servers[place])).collect();
        if !others.is_empty() {
            shares[others[turn % others.len()]].push(request);
        }
    }
    shares
}

/// What completions of the servers are sampled and read with.
struct Reading<'a> {
    config: &'a GrpoConfig,
    options: Arc<SamplingOptions>,
    ids: SampledIds,
    logprobs_mode: LogprobsMode,
    n_steps_taken: u64,
}

impl<E: Engine> Running<'_, E> {
    /// Samples completions of this rank's prompts on the servers, with their weights as recent as the recipe wants;
    /// `None` when the stop flag was seen.
    ///
    /// # Errors
    /// [`StageError::Unscored`] where no server gave a completion to any rank.
    pub(super) fn sample_on_servers(
        &mut self,
        prompts: &[&Prompt],
        prompt_indices: &[u32],
        options: SamplingOptions,
        (step, round): (u64, u64),
    ) -> Result<Option<Vec<Vec<SampledCompletion>>>, StageError> {
        self.sync_rollout_servers(false)?;
        let n = self.plan.config.num_generations;
        let places: Vec<(usize, u64)> =
            (0..prompts.len()).flat_map(|prompt| (0..n as u64).map(move |sample| (prompt, sample))).collect();
        self.events.emit(Event::PhaseStarted {
            phase: format!("step {step} of {}: sampling rollouts on servers", self.plan.n_steps),
            total: Some(places.len() as u64),
        });
        let options = Arc::new(options);
        let wanted = |&(prompt, sample): &(usize, u64)| {
            (prompts[prompt], vec![0, step, round, u64::from(prompt_indices[prompt]), sample])
        };
        let mut sampled = self.ask_servers(&places.iter().map(wanted).collect::<Vec<_>>(), &options)?;
        if self.is_stopped()? {
            return Ok(None);
        }
        let is_stale = |one: &Sampled| matches!(one, Err(NoCompletion::Stale(_)));
        if self.sum_of_ranks(sampled.iter().filter(|one| is_stale(one)).count())? > 0 {
            // A server was restarted, or another run loaded its weights.
            self.sync_rollout_servers(true)?;
            let stale: Vec<usize> = (0..sampled.len()).filter(|&idx| is_stale(&sampled[idx])).collect();
            let again: Vec<_> = stale.iter().map(|&idx| wanted(&places[idx])).collect();
            for (idx, one) in stale.into_iter().zip(self.ask_servers(&again, &options)?) {
                sampled[idx] = one;
            }
            if self.is_stopped()? {
                return Ok(None);
            }
        }
        self.events.emit(Event::PhaseFinished);
        // A later round without completions leaves the groups of the rounds before it.
        if round == 0 {
            self.end_without_servers(step, &sampled)?;
        }
        let mut completions = sampled.into_iter().map(|one| one.unwrap_or_else(failed));
        Ok(Some(prompts.iter().map(|_| completions.by_ref().take(n).collect()).collect()))
    }

    /// Asks for one completion of each prompt, and reads what comes.
    fn ask_servers(
        &mut self,
        wanted: &[(&Prompt, Vec<u64>)],
        options: &Arc<SamplingOptions>,
    ) -> Result<Vec<Sampled>, StageError> {
        let config = &self.plan.config;
        let Some(servers) = &self.rollout_servers else { return Ok(Vec::new()) };
        let protocol = servers.config.protocol;
        let logprobs_mode = match protocol {
            RolloutProtocol::Truing if config.temperature == 1.0 => LogprobsMode::RawLogprobs,
            RolloutProtocol::Truing => LogprobsMode::ProcessedLogprobs,
            _ => servers.config.logprobs_mode,
        };
        let reading = Reading {
            config,
            options: Arc::clone(options),
            ids: SampledIds {
                end: self.end_tokens.as_slice().into(),
                excluded: self.policy.excluded.clone(),
            },
            logprobs_mode,
            n_steps_taken: self.state.step,
        };
        let request = |(prompt, seed_indices): &(&Prompt, Vec<u64>)| {
            let end = &self.end_tokens;
            let wanted = Wanted { prompt: &prompt.tokens, seed_indices, options, end, logprobs_mode };
            protocol.request(&servers.config.model, wanted)
        };
        let requests: Vec<EndpointRequest> = wanted.iter().map(request).collect();
        let (events, mut done) = (&mut *self.events, 0);
        let replies = servers.ask(&requests, servers.usable(self.state.step), &mut || {
            done += 1;
            events.emit(Event::Progress { done, note: String::new() });
        });
        let read = |prompt: &Prompt, reply: Option<(usize, EndpointResult)>| -> Sampled {
            let (server, reply) = reply.ok_or_else(|| NoCompletion::Failed(servers.problems()))?;
            let reply = reply.map_err(|error| NoCompletion::Failed(error.reason()))?;
            let completion = protocol.read(&reply).map_err(|problem| {
                NoCompletion::Failed(format!("{}: {problem}", servers.servers[server].address))
            })?;
            self.completion(&reading, servers, (server, completion), prompt)
        };
        Ok(wanted.iter().zip(replies).map(|((prompt, _), reply)| read(prompt, reply)).collect())
    }

    /// A completion of a server as one of this process, or why it is none.
    fn completion(
        &self,
        reading: &Reading<'_>,
        servers: &RolloutServers,
        (server, found): (usize, ServerCompletion),
        prompt: &Prompt,
    ) -> Sampled {
        let address = &servers.servers[server].address;
        let failed = |problem: String| NoCompletion::Failed(format!("{address}: {problem}"));
        let version = servers.version(server, &found)?;
        let staleness = reading.n_steps_taken.saturating_sub(version);
        if staleness > servers.config.max_staleness() {
            let problem = format!("{address}: its weights are {staleness} steps old (`max_staleness`)");
            return Err(NoCompletion::Stale(problem));
        }
        let spec = &self.inputs.model.spec;
        let is_unknown =
            |&&token: &&u32| token as usize >= spec.vocab_size || reading.ids.excluded.contains(token);
        if let Some(token) = found.tokens.iter().find(is_unknown) {
            return Err(failed(format!(
                "the policy cannot sample token {token}; does the server run another model?"
            )));
        }
        let values = found.tokens.iter().zip(&found.log_probs);
        let sampled: Vec<SampledToken> = values
            .map(|(&token, &value)| SampledToken { token, log_prob: value, sampling_log_prob: value })
            .collect();
        let Reading { options, ids, .. } = reading;
        let tokenizer = self.inputs.renderer.tokenizer();
        let Replayed { mut completion, is_ended } =
            replay(tokenizer, &prompt.tokens, &sampled, options, ids, spec.max_position_embeddings)
                .map_err(|error| failed(error.to_string()))?;
        if !(is_ended || found.is_cut) {
            return Err(failed(format!(
                "the completion ends after {} tokens without an end token, a stop text or `max_completion_length`",
                found.tokens.len()
            )));
        }
        // Only at temperature 1 and without cuts are both the same.
        if reading.config.temperature != 1.0 || reading.config.cuts_distribution() {
            match reading.logprobs_mode {
                LogprobsMode::RawLogprobs => completion.sampling_log_probs.clear(),
                LogprobsMode::ProcessedLogprobs => completion.log_probs.clear(),
            }
        }
        completion.weights_version = Some(version);
        Ok(completion)
    }

    /// Ends the run where no rank has a completion.
    fn end_without_servers(&self, step: u64, sampled: &[Sampled]) -> Result<(), StageError> {
        if self.sum_of_ranks(sampled.iter().filter(|one| one.is_ok()).count())? > 0 {
            return Ok(());
        }
        let reason = sampled.iter().find_map(|one| one.as_ref().err());
        let reason = reason.map_or_else(|| "see the other ranks".to_owned(), |one| one.clone().text());
        let problem = format!("step {step}: no rollout server gave a completion: {reason}");
        Err(StageError::Unscored { problem, saved: String::new() })
    }

    fn sum_of_ranks(&self, n: usize) -> Result<usize, StageError> {
        let mut sum = [n as f64];
        self.groups.world.all_reduce_sum_f64(&mut sum)?;
        Ok(sum[0] as usize)
    }
}

impl NoCompletion {
    fn text(self) -> String {
        match self {
            Self::Failed(problem) | Self::Stale(problem) => problem,
        }
    }
}

/// In place of a completion that no server gave: it has no tokens, so that nothing is trained on it.
fn failed(why: NoCompletion) -> SampledCompletion {
    SampledCompletion {
        finish_reason: FinishReason::Cancelled,
        text_error: Some(why.text()),
        ..SampledCompletion::default()
    }
}

/// How old the weights of a step's completions were in steps, and how many completions no server gave.
pub(super) fn metrics<'a>(
    completions: impl Iterator<Item = &'a SampledCompletion>,
    n_steps_taken: u64,
) -> BTreeMap<String, f64> {
    let versions: Vec<Option<u64>> = completions.map(|completion| completion.weights_version).collect();
    let ages: Vec<f64> = versions.iter().flatten().map(|version| (n_steps_taken - version) as f64).collect();
    let mut metrics = BTreeMap::from([("rollouts/failed".to_owned(), (versions.len() - ages.len()) as f64)]);
    if !ages.is_empty() {
        metrics.insert("rollouts/staleness/mean".into(), ages.iter().sum::<f64>() / ages.len() as f64);
        metrics.insert("rollouts/staleness/max".into(), ages.iter().copied().fold(0.0, f64::max));
    }
    metrics
}
