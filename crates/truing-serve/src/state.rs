//! What all requests share.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rand_chacha::rand_core::Rng as _;
use tokio::sync::oneshot;
use truing_client::Clock;
use truing_types::nearest_name;

use crate::error::ApiError;
use crate::fields::Fields;
use crate::metrics::Metrics;
use crate::model::ModelEntry;
use crate::usage::Usage;
use crate::worker::{Command, Load, Reply};
use crate::{AccessLog, ServeOptions};

/// A place among the requests that the server takes at a time; given back when dropped.
pub(crate) struct Slot(Arc<AtomicUsize>);

impl Slot {
    /// A place, where there is one.
    fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let take = |n: usize| (n < max).then_some(n + 1);
        taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).ok()?;
        Some(Self(Arc::clone(taken)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The server.
pub(crate) struct Server {
    pub(crate) options: ServeOptions,
    pub(crate) models: Vec<Arc<ModelEntry>>,
    pub(crate) loads: Vec<Arc<Load>>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) log: AccessLog,
    pub(crate) commands: Sender<Command>,
    /// Requests that are being answered, those that wait included.
    pub(crate) n_taken: Arc<AtomicUsize>,
    pub(crate) n_requests: AtomicU64,
    /// No new requests are taken.
    pub(crate) is_draining: AtomicBool,
    /// When requests that are not finished are given up, because the server stops.
    pub(crate) give_up_at: OnceLock<Duration>,
}

/// What the access log says of a request beside its path and status.
#[derive(Debug, Clone, Default)]
pub(crate) struct Logged {
    pub(crate) model: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) seed: Option<u64>,
    pub(crate) usage: Usage,
}

impl Server {
    /// Seconds since 1970.
    pub(crate) fn unix_secs(&self) -> u64 {
        self.clock.unix_secs() as u64
    }

    /// Time since the server's clock began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Takes no new requests, and gives up those that are not finished in time.
    pub(crate) fn begin_to_stop(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
        let _ = self.give_up_at.set(self.elapsed() + self.options.drain_timeout);
    }

    /// The number of a new request.
    pub(crate) fn next_request(&self) -> u64 {
        self.n_requests.fetch_add(1, Ordering::Relaxed)
    }

    /// A seed for a request that has none.
    pub(crate) fn random_seed(&self, request: u64) -> u64 {
        // Clients in JavaScript can write it back.
        self.options.seed.generator("seed of a request", &[request]).next_u64() >> 11
    }

    /// The model that a request names. Where there is only one, it need not be named.
    pub(crate) fn model(&self, fields: &mut Fields) -> Result<Arc<ModelEntry>, ApiError> {
        let name = fields.text("model")?;
        match (name, &self.models[..]) {
            (None, [only]) => Ok(Arc::clone(only)),
            (None, _) => Err(ApiError::field("model", "`model` is missing, expected the name of a model")),
            (Some(name), _) => self.model_named(&name),
        }
    }

    /// The model of a name.
    pub(crate) fn model_named(&self, name: &str) -> Result<Arc<ModelEntry>, ApiError> {
        let found = self.models.iter().find(|model| model.name == name);
        found.map(Arc::clone).ok_or_else(|| self.unknown_model(name))
    }

    fn unknown_model(&self, name: &str) -> ApiError {
        let names = || self.models.iter().map(|model| model.name.as_str());
        let hint = match nearest_name(name, names()) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => {
                format!("there is {}", names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
            }
        };
        let param = Some("model".to_owned());
        let error = ApiError::with_status(404, format!("there is no model `{name}`; {hint}"));
        ApiError { param, ..error }.with_code("model_not_found")
    }

    /// A place for a request, or the error that says when to come again.
    pub(crate) fn slot(&self) -> Result<Arc<Slot>, ApiError> {
        if self.is_draining.load(Ordering::SeqCst) {
            return Err(ApiError::with_status(503, "the server is shutting down"));
        }
        let max = self.options.max_running + self.options.max_waiting;
        Slot::take(&self.n_taken, max).map(Arc::new).ok_or_else(|| {
            let message = format!("{max} requests are being answered or wait; try again later");
            let error = ApiError::with_status(429, message).with_code("rate_limit_exceeded");
            ApiError { retry_after: Some(self.options.retry_after_s), ..error }
        })
    }

    /// Sends a command to the worker.
    pub(crate) fn send(&self, command: Command) -> Result<(), ApiError> {
        self.commands.send(command).map_err(|_| ApiError::with_status(503, "the engine has stopped"))
    }

    /// Replaces the weights of a model, however long that takes: a worker that has begun does not stop.
    pub(crate) async fn replace_weights(
        &self,
        model: usize,
        tensors: Vec<(String, Vec<f32>)>,
    ) -> Result<(), ApiError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::UpdateWeights { model, tensors, reply })?;
        match answer.await {
            Err(_) => Err(ApiError::with_status(500, "the engine has stopped")),
            Ok(result) => result.map_err(|error| ApiError::with_status(500, error)),
        }
    }

    /// Asks the worker for one answer.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply))?;
        match tokio::time::timeout(self.options.request_timeout, answer).await {
            Err(_) => Err(ApiError::with_status(504, "not finished in time")),
            Ok(Err(_)) => Err(ApiError::with_status(500, "the engine has stopped")),
            Ok(Ok(result)) => result.map_err(|error| ApiError::with_status(500, error)),
        }
    }
}
