//! The thread that owns the engines. It does everything that computes: one token of every running completion at a time,
//! and between tokens whatever else was asked.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;

use tokio::sync::{mpsc, oneshot};
use truing_generate::{DecodingLoop, Finished, GenerateError, Job, SampledCompletion, TokenSampled};
use truing_model::{Engine, EngineError, ParameterTensor};
use truing_predict::{Embedder, PromptScoring, PromptToken, RewardScorer};
use truing_types::{Conversation, ExcludedTokens, Message, TokenId};

/// What the worker is asked.
pub(crate) enum Command {
    /// Completions; what happens is sent as it happens.
    Generate { model: usize, id: u64, job: Job, events: mpsc::UnboundedSender<Event> },
    /// Nobody waits for these completions any more.
    Cancel { model: usize, id: u64 },
    /// How likely the tokens of a text are, each after those before it.
    PromptLogProbs { model: usize, tokens: Vec<TokenId>, n_top: usize, reply: Reply<Vec<PromptToken>> },
    /// Other values of parameters. No request of the model may be running.
    UpdateWeights { model: usize, tensors: Vec<(String, Vec<f32>)>, reply: Reply<()> },
    /// Vectors of texts.
    Embed { model: usize, texts: Vec<String>, reply: Reply<Embedded> },
    /// Rewards of responses; a response that cannot be scored has an error of its own.
    Score { model: usize, asked: Vec<(Conversation, Vec<Message>)>, reply: Reply<Vec<Result<f64, String>>> },
}

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, String>>;

/// Vectors of texts.
#[derive(Debug)]
pub(crate) struct Embedded {
    /// `[n_texts, width]`.
    pub(crate) vectors: Vec<f32>,
    pub(crate) width: usize,
    pub(crate) n_tokens: u64,
}

/// What happens to a request for completions.
#[derive(Debug)]
pub(crate) enum Event {
    /// A token was sampled.
    Token(TokenEvent),
    /// A completion has ended.
    Finished { sample_idx: usize, n_reused_tokens: usize, result: Result<SampledCompletion, GenerateError> },
}

/// One token of a completion.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenEvent {
    pub(crate) sample_idx: usize,
    pub(crate) token: TokenId,
    /// The text that it completes.
    pub(crate) text: String,
    pub(crate) log_prob: f32,
    pub(crate) top_log_probs: Vec<(TokenId, f32)>,
}

/// What a model is doing, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) n_running: AtomicUsize,
    pub(crate) n_waiting: AtomicUsize,
    pub(crate) n_cached_tokens: AtomicUsize,
}

/// A model with its engine.
pub(crate) enum Hosted<E: Engine> {
    /// Writes text.
    Generating(Box<Generating<E>>),
    /// Scores responses.
    Rewarding(Box<RewardScorer<E>>),
    /// Makes vectors.
    Embedding(Box<Embedder<E>>),
}

/// A language model and what it is writing.
pub(crate) struct Generating<E: Engine> {
    pub(crate) engine: E,
    pub(crate) decoding: DecodingLoop<E>,
    pub(crate) excluded: ExcludedTokens,
    requests: HashMap<usize, Request>,
    /// Prompts that are being scored, one after the other.
    scorings: VecDeque<(PromptScoring<E>, Reply<Vec<PromptToken>>)>,
    /// The job of a request.
    jobs: HashMap<u64, usize>,
}

struct Request {
    id: u64,
    events: mpsc::UnboundedSender<Event>,
    n_left: usize,
}

/// The engines and what is asked of them.
pub(crate) struct Worker<E: Engine> {
    pub(crate) models: Vec<Hosted<E>>,
    pub(crate) loads: Vec<Arc<Load>>,
    pub(crate) commands: Receiver<Command>,
}

impl<E: Engine> Worker<E> {
    /// Works until nobody can ask any more and nothing is left to do.
    pub(crate) fn run(mut self) {
        loop {
            if self.models.iter().all(Hosted::is_idle) {
                match self.commands.recv() {
                    Ok(command) => self.handle(command),
                    Err(_) => return,
                }
            }
            while let Ok(command) = self.commands.try_recv() {
                self.handle(command);
            }
            for (hosted, load) in self.models.iter_mut().zip(&self.loads) {
                if let Hosted::Generating(generating) = hosted {
                    generating.step(load);
                }
            }
        }
    }

    /// A dropped receiver is no failure: the client has disconnected.
    fn handle(&mut self, command: Command) {
        match command {
            Command::Generate { model, id, job, events } => {
                if let Some(Hosted::Generating(generating)) = self.models.get_mut(model) {
                    generating.admit(id, job, events);
                    generating.report(&self.loads[model]);
                }
            }
            Command::Cancel { model, id } => {
                if let Some(Hosted::Generating(generating)) = self.models.get_mut(model) {
                    generating.cancel(id);
                    generating.report(&self.loads[model]);
                }
            }
            Command::PromptLogProbs { model, tokens, n_top, reply } => {
                if let Some(Hosted::Generating(generating)) = self.models.get_mut(model) {
                    generating.begin_scoring(tokens, n_top, reply);
                }
            }
            Command::UpdateWeights { model, tensors, reply } => {
                if let Some(Hosted::Generating(generating)) = self.models.get_mut(model) {
                    let replaced = generating.update_weights(&tensors);
                    generating.report(&self.loads[model]);
                    let _ = reply.send(replaced.map_err(|error| error.to_string()));
                }
            }
            Command::Embed { model, texts, reply } => {
                if let Some(Hosted::Embedding(embedder)) = self.models.get_mut(model) {
                    let found = embedder.embed(&texts, &mut |_| {}).map(|(vectors, outcome)| Embedded {
                        vectors,
                        width: outcome.width,
                        n_tokens: outcome.n_tokens,
                    });
                    let _ = reply.send(found.map_err(|error| error.to_string()));
                }
            }
            Command::Score { model, asked, reply } => {
                if let Some(Hosted::Rewarding(scorer)) = self.models.get_mut(model) {
                    let asked: Vec<_> =
                        asked.iter().map(|(prompt, response)| (prompt, &response[..])).collect();
                    let _ = reply.send(scorer.score(&asked).map_err(|error| error.to_string()));
                }
            }
        }
    }
}

impl<E: Engine> Hosted<E> {
    fn is_idle(&self) -> bool {
        match self {
            Self::Generating(generating) => generating.decoding.is_idle() && generating.scorings.is_empty(),
            Self::Rewarding(_) | Self::Embedding(_) => true,
        }
    }
}

impl<E: Engine> Generating<E> {
    pub(crate) fn new(engine: E, decoding: DecodingLoop<E>, excluded: ExcludedTokens) -> Self {
        let (requests, scorings, jobs) = (HashMap::new(), VecDeque::new(), HashMap::new());
        Self { engine, decoding, excluded, requests, scorings, jobs }
    }

    fn admit(&mut self, id: u64, job: Job, events: mpsc::UnboundedSender<Event>) {
        let n_left = job.n_samples;
        let job_idx = self.decoding.admit(job);
        self.jobs.insert(id, job_idx);
        self.requests.insert(job_idx, Request { id, events, n_left });
    }

    fn cancel(&mut self, id: u64) {
        if let Some(job_idx) = self.jobs.remove(&id) {
            self.decoding.cancel(job_idx);
            self.requests.remove(&job_idx);
        }
    }

    fn begin_scoring(&mut self, tokens: Vec<TokenId>, n_top: usize, reply: Reply<Vec<PromptToken>>) {
        match PromptScoring::new(&mut self.engine, tokens, n_top, self.excluded.clone()) {
            Ok(scoring) => self.scorings.push_back((scoring, reply)),
            Err(error) => {
                let _ = reply.send(Err(error.to_string()));
            }
        }
    }

    /// A step of the first prompt that is scored and that somebody waits for.
    fn step_scoring(&mut self) {
        self.scorings.retain(|(_, reply)| !reply.is_closed());
        let Some((scoring, _)) = self.scorings.front_mut() else { return };
        let result = match scoring.step(&mut self.engine) {
            Ok(None) => return,
            Ok(Some(found)) => Ok(found),
            Err(error) => Err(error.to_string()),
        };
        if let Some((_, reply)) = self.scorings.pop_front() {
            let _ = reply.send(result);
        }
    }

    /// The load is reported before a reply is sent: a client that has its reply no longer counts as running.
    fn step(&mut self, load: &Load) {
        self.step_scoring();
        if self.decoding.is_idle() {
            return;
        }
        let requests = &self.requests;
        let on_token = &mut |sampled: TokenSampled<'_>| {
            if let Some(request) = requests.get(&sampled.job_idx) {
                let _ = request.events.send(Event::Token(TokenEvent {
                    sample_idx: sampled.sample_idx,
                    token: sampled.token,
                    text: sampled.text.to_owned(),
                    log_prob: sampled.log_prob,
                    top_log_probs: sampled.top_log_probs.to_vec(),
                }));
            }
        };
        match self.decoding.step_watched(&mut self.engine, on_token) {
            Ok(finished) => {
                self.report(load);
                finished.into_iter().for_each(|one| self.finish(one, load));
            }
            Err(error) => self.fail_all(&error, load),
        }
        self.report(load);
    }

    fn finish(&mut self, Finished { job_idx, sample_idx, n_reused_tokens, result }: Finished, load: &Load) {
        let Some(request) = self.requests.get_mut(&job_idx) else { return };
        // A request is answered as a whole: the first failure is its end.
        request.n_left = if result.is_ok() { request.n_left.saturating_sub(1) } else { 0 };
        let (id, n_left, events) = (request.id, request.n_left, request.events.clone());
        if n_left == 0 {
            // After a failure other completions of the request may still run.
            self.cancel(id);
            self.report(load);
        }
        let _ = events.send(Event::Finished { sample_idx, n_reused_tokens, result });
    }

    /// A failure of the engine is that of every request.
    fn fail_all(&mut self, error: &GenerateError, load: &Load) {
        self.decoding.clear();
        self.jobs.clear();
        self.report(load);
        for (_, request) in self.requests.drain() {
            let result = Err(GenerateError::Failed(error.to_string()));
            let _ = request.events.send(Event::Finished { sample_idx: 0, n_reused_tokens: 0, result });
        }
    }

    /// Writes other values of parameters. What is kept of prompts was computed with the former ones.
    fn update_weights(&mut self, tensors: &[(String, Vec<f32>)]) -> Result<(), EngineError> {
        self.decoding.clear();
        for (name, values) in tensors {
            let idx = self.engine.parameters().iter().position(|parameter| parameter.name == *name);
            let idx = idx.ok_or_else(|| EngineError::MissingParameter { name: name.clone() })?;
            self.engine.write(idx, ParameterTensor::Value, values)?;
        }
        Ok(())
    }

    fn report(&self, load: &Load) {
        load.n_running.store(self.decoding.n_running(), Ordering::Relaxed);
        load.n_waiting.store(self.decoding.n_waiting(), Ordering::Relaxed);
        load.n_cached_tokens.store(self.decoding.n_cached_tokens(), Ordering::Relaxed);
    }
}
