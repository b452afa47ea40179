//! Language models that a stage asks, a judge or a teacher: in this process or on a server, with a cache before either.
//!
//! A stage sees a [`ChatModel`] and asks it one request or many ([`ChatModel::chat_all`]), of which either answers
//! several at a time. It never learns which of the two it is.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_client::{
    Access, CacheMode, ClientSettings, Clock, Counts, CountsSnapshot, Fingerprint, OpenAiClient,
};
#[cfg(feature = "cache")]
use truing_client::{CachedChat, ReplyCache};
use truing_generate::LocalChat;
use truing_model::{Engine, EngineOptions, ModelFiles, TrainableSpec};
use truing_parallel::Solo;
use truing_run::{RunError, inputs, model};
use truing_text::RenderOptions;
use truing_types::{
    ChatError, ChatModel, ChatReply, ChatRequest, ChatResult, EndpointRequest, EndpointResult, EventSink,
    PromptLogProbs, ReasoningMark, Seed, TokenId,
};

use crate::AskError;

/// The table of a recipe that names a model to ask: a path, or a server.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ChatModelConfig {
    /// A model that runs in this process: a path or a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "content"))]
    pub model_name_or_path: Option<PathBuf>,
    /// SQLite file that keeps the replies. Without it, a resumed run sends all requests again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "nothing"))]
    pub cache: Option<PathBuf>,
    /// Use of the cache.
    #[schemars(extend("x-decides" = "nothing"))]
    pub mode: CacheMode,
    /// A model on an OpenAI-compatible server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ClientSettings>,
    /// Tags around the reasoning of the model, in addition to the known ones. Example:
    /// `[{ open = "<plan>", close = "</plan>" }]`. The text between them is not part of the reply.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasoning_marks: Vec<ReasoningMark>,
    /// A model that runs in this process: tokens that are drafted in a step of decoding (prompt-lookup speculative
    /// decoding). 0 turns it off. Faster where replies repeat texts. It never changes a reply.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(extend("x-decides" = "nothing"))]
    pub prompt_lookup_num_tokens: usize,
}

/// Leaves out settings that are off.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// What the program hands in for models that are asked.
#[derive(Debug, Clone)]
pub struct ChatContext {
    /// Key, proxy and clock.
    pub access: Access,
    /// How a local model's template is rendered.
    pub render: RenderOptions,
    /// Threads of a local model.
    pub n_threads: usize,
    /// Set to end the run: what was not asked yet is not asked any more.
    pub stop: Arc<AtomicBool>,
}

/// A model, ready to be asked.
pub struct OpenChatModel {
    /// The model.
    pub model: Box<dyn ChatModel>,
    /// What is asked of it, counted.
    pub counts: Arc<Counts>,
}

impl std::fmt::Debug for OpenChatModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenChatModel").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl ChatModelConfig {
    /// Makes the file's relative paths relative to the recipe's folder; a model's name stays a name.
    pub fn resolve_paths(&mut self, folder: &Path) {
        if let Some(cache) = &mut self.cache {
            *cache = folder.join(&*cache);
        }
        if let Some(path) = self.model_name_or_path.as_mut().filter(|path| folder.join(path).exists()) {
            *path = folder.join(&*path);
        }
    }

    /// Replaces the name of a model in this process by the path that `find` returns.
    ///
    /// # Errors
    /// That of `find`.
    pub fn find<E>(&mut self, find: &mut dyn FnMut(&str) -> Result<PathBuf, E>) -> Result<(), E> {
        if let Some(name) = &mut self.model_name_or_path {
            *name = find(&name.to_string_lossy())?;
        }
        Ok(())
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        match (&self.server, &self.model_name_or_path) {
            (Some(server), _) => server.model.clone(),
            (None, Some(path)) => path.display().to_string(),
            (None, None) => String::new(),
        }
    }

    /// Checks the settings before any work. `key` names the table.
    ///
    /// # Errors
    /// When it names no model, or two, or a setting is invalid.
    pub fn check(&self, key: &'static str) -> Result<(), AskError> {
        match (&self.model_name_or_path, &self.server) {
            (Some(_), Some(_)) => {
                return Err(RunError::Conflict {
                    first: "model_name_or_path",
                    second: "server",
                    reason: "a model runs either in this process or on a server",
                }
                .into());
            }
            (None, None) => {
                return Err(RunError::MissingSetting {
                    key,
                    expected: "a model: `model_name_or_path`, or a `server` with `base_url` and `model`",
                }
                .into());
            }
            (_, Some(_)) if self.prompt_lookup_num_tokens > 0 => {
                return Err(RunError::Conflict {
                    first: "prompt_lookup_num_tokens",
                    second: "server",
                    reason: "a server drafts by an option of its own, such as `--prompt-lookup-num-tokens`",
                }
                .into());
            }
            (_, Some(server)) => server.check()?,
            (Some(_), None) => {}
        }
        match self.mode == CacheMode::Live || self.cache.is_some() {
            true => Ok(()),
            false => Err(RunError::MissingSetting {
                key: "cache",
                expected: "a file, where `mode` is record or replay",
            }
            .into()),
        }
    }

    /// Opens the model, loading weights into an engine where it is a local one. In replay nothing is loaded and nothing
    /// asked.
    ///
    /// # Errors
    /// When the model or the cache cannot be used.
    pub fn open<E: Engine + 'static>(
        &self,
        chat_context: &ChatContext,
        events: &mut dyn EventSink,
    ) -> Result<OpenChatModel, AskError> {
        self.check("model")?;
        let clock = Arc::clone(&chat_context.access.clock);
        let (fingerprint, counts) = match (&self.server, &self.model_name_or_path) {
            (Some(server), _) => {
                (Fingerprint { model: server.model.clone(), extra: server.extra.clone() }, Arc::default())
            }
            (None, path) => (local_fingerprint(path.as_deref().unwrap_or(Path::new("")))?, Arc::default()),
        };
        let (model, counts): (Box<dyn ChatModel>, Arc<Counts>) = match (&self.server, self.mode) {
            (_, CacheMode::Replay) => (Box::new(ReplayOnly), counts),
            (Some(server), _) => {
                let settings =
                    ClientSettings { reasoning_marks: self.reasoning_marks.clone(), ..server.clone() };
                let client = OpenAiClient::new(settings, chat_context.access.clone())?;
                let counts = client.counts();
                (Box::new(client), counts)
            }
            (None, _) => {
                let path = self.model_name_or_path.as_deref().unwrap_or(Path::new(""));
                let local = open_local::<E>(path, chat_context, events)?;
                let local = local.with_prompt_lookup(self.prompt_lookup_num_tokens);
                (Box::new(local.with_reasoning_marks(&self.reasoning_marks)), counts)
            }
        };
        let is_local = self.server.is_none();
        let stoppable = Box::new(Stoppable {
            model,
            stop: Arc::clone(&chat_context.stop),
            counts: is_local.then(|| Arc::clone(&counts)),
        });
        match &self.cache {
            Some(path) => {
                self.with_cache(path, OpenChatModel { model: stoppable, counts }, fingerprint, clock)
            }
            None => Ok(OpenChatModel { model: stoppable, counts }),
        }
    }

    #[cfg(feature = "cache")]
    fn with_cache(
        &self,
        path: &Path,
        opened: OpenChatModel,
        fingerprint: Fingerprint,
        clock: Arc<dyn Clock>,
    ) -> Result<OpenChatModel, AskError> {
        if let Some(folder) = path.parent() {
            let source = |source| RunError::Write { path: path.to_path_buf(), source };
            std::fs::create_dir_all(folder).map_err(source)?;
        }
        let OpenChatModel { model, counts } = opened;
        let cache = Arc::new(ReplyCache::open(path)?);
        let cached = CachedChat::new(model, fingerprint, cache, self.mode, clock, Arc::clone(&counts));
        Ok(OpenChatModel { model: Box::new(cached), counts })
    }

    #[cfg(not(feature = "cache"))]
    fn with_cache(
        &self,
        path: &Path,
        _: OpenChatModel,
        _: Fingerprint,
        _: Arc<dyn Clock>,
    ) -> Result<OpenChatModel, AskError> {
        let expected = "no file: truing-ask was built without its feature `cache`".to_owned();
        Err(RunError::BadSetting { key: "cache", found: path.display().to_string(), expected }.into())
    }
}

/// A local model's replies depend on its files, not on where they lie.
fn local_fingerprint(path: &Path) -> Result<Fingerprint, RunError> {
    let digest = inputs::digest_of_files(&inputs::model_files(&ModelFiles::open(path)?))?;
    Ok(Fingerprint { model: format!("local {digest}"), extra: serde_json::Map::new() })
}

fn open_local<E: Engine>(
    path: &Path,
    chat_context: &ChatContext,
    events: &mut dyn EventSink,
) -> Result<LocalChat<E>, AskError> {
    let files = ModelFiles::open(path).map_err(RunError::from)?;
    let renderer = model::renderer(&files, chat_context.render.clone())?;
    let phase = "loading the model to ask";
    let options = EngineOptions::with_threads(chat_context.n_threads, Seed::default());
    let frozen = TrainableSpec::frozen();
    let engine = model::announce_and_load(&files, &frozen, &options, &Solo::groups(), phase, events)?;
    Ok(LocalChat::new(engine, renderer)?)
}

/// Takes the place of a model that may not be asked.
struct ReplayOnly;

impl ChatModel for ReplayOnly {
    fn chat(
        &self,
        _: &ChatRequest,
        _: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError> {
        Err(ChatError::Failed("the request is not in the cache, and in replay no model is called".into()))
    }
}

/// A model that is asked nothing more once the run is to end.
struct Stoppable {
    model: Box<dyn ChatModel>,
    stop: Arc<AtomicBool>,
    /// Of a model that does not count by itself.
    counts: Option<Arc<Counts>>,
}

impl Stoppable {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn count(counts: Option<&Counts>, result: &ChatResult) {
    if let (Some(counts), Ok(reply)) = (counts, result) {
        counts.add_reply(reply);
    }
}

impl ChatModel for Stoppable {
    fn chat(
        &self,
        request: &ChatRequest,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError> {
        if self.is_stopped() {
            return Err(ChatError::BrokenOff);
        }
        let result = self.model.chat(request, on_text);
        count(self.counts.as_deref(), &result);
        result
    }

    fn chat_all(
        &self,
        requests: &[ChatRequest],
        on_result: &mut dyn FnMut(usize, &ChatResult) -> ControlFlow<()>,
    ) -> Vec<ChatResult> {
        if self.is_stopped() {
            return requests.iter().map(|_| Err(ChatError::BrokenOff)).collect();
        }
        let stop = Arc::clone(&self.stop);
        let counts = self.counts.as_deref();
        self.model.chat_all(requests, &mut |place, result| {
            count(counts, result);
            let flow = on_result(place, result);
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { flow }
        })
    }

    fn prompt_log_probs_all(
        &self,
        texts: &[Vec<TokenId>],
        k: usize,
    ) -> Vec<Result<PromptLogProbs, ChatError>> {
        if self.is_stopped() {
            return texts.iter().map(|_| Err(ChatError::BrokenOff)).collect();
        }
        self.model.prompt_log_probs_all(texts, k)
    }

    fn post_all(
        &self,
        requests: &[EndpointRequest],
        on_result: &mut dyn FnMut(usize, &EndpointResult) -> ControlFlow<()>,
    ) -> Vec<EndpointResult> {
        if self.is_stopped() {
            return requests.iter().map(|_| Err(ChatError::BrokenOff)).collect();
        }
        let stop = Arc::clone(&self.stop);
        self.model.post_all(requests, &mut |place, result| {
            let flow = on_result(place, result);
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { flow }
        })
    }
}

/// What was asked between two moments, under names for metrics.
#[must_use]
pub fn count_metrics(prefix: &str, before: &CountsSnapshot, now: &CountsSnapshot) -> Vec<(String, f64)> {
    let numbers = |counts: &CountsSnapshot| {
        [
            ("calls", counts.calls),
            ("cache_hits", counts.cache_hits),
            ("retries", counts.retries),
            ("prompt_tokens", counts.prompt_tokens),
            ("completion_tokens", counts.completion_tokens),
            ("failures", counts.n_failures()),
        ]
    };
    let differences = numbers(now).into_iter().zip(numbers(before));
    differences
        .map(|((name, now), (_, before))| (format!("{prefix}/{name}"), (now - before) as f64))
        .collect()
}
