//! The client: one request is sent, again where that may help, until it is answered or given up; many go side by side.

mod attempt;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use serde_json::Value;
use truing_types::{
    ChatError, ChatModel, ChatReply, ChatRequest, ChatResult, EndpointRequest, EndpointResult,
    PromptLogProbs, ReasoningMarks, TokenId,
};
use ureq::{Agent, Proxy};

use crate::concurrency::Concurrency;
use crate::exchange::Unfinished;
use crate::failure::Failure;
use crate::rate::TokenBucket;
use crate::request::{self, Fingerprint};
use crate::response::{parse_prompt_log_probs, parse_reply};
use crate::retry;
use crate::settings::{Access, ClientSettings, ProxyAddress, duration_of};
use crate::{ClientError, Counts, FailureKind, FailureScope};

/// Gets each piece of text as it appears, and may break off.
pub type OnText<'a> = &'a mut dyn FnMut(&str) -> ControlFlow<()>;

/// A model on a server. Clones share limits, connections and counts.
#[derive(Debug, Clone)]
pub struct OpenAiClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: ClientSettings,
    access: Access,
    agent: Agent,
    url: String,
    completions_url: String,
    concurrency: Concurrency,
    requests: Option<TokenBucket>,
    tokens: Option<TokenBucket>,
    counts: Arc<Counts>,
    marks: ReasoningMarks,
    standing: Mutex<Standing>,
}

/// How the server has answered since its last answer.
#[derive(Debug, Default)]
struct Standing {
    /// Why no more requests are sent.
    refusal: Option<String>,
    /// Refusals of a request's form since the last answer, by their words, without numbers and ids that differ from one
    /// to the next.
    in_a_row: BTreeMap<String, u32>,
}

/// What is sent, and the most bytes of its answer.
struct Sent<'a> {
    url: &'a str,
    body: &'a str,
    is_streamed: bool,
    max_bytes: u64,
}

/// Bytes that an entry of `prompt_logprobs` may take in an answer, whatever `max_response_bytes` says.
const PROMPT_LOG_PROB_BYTES: u64 = 256;
/// Refusals with any messages after which no more requests are sent, for each one of `max_refusals_in_a_row`.
const MAX_IN_ANY_WORDS: u32 = 4;

/// The words of a refusal that do not differ from request to request: those with a digit are left out.
fn wording(problem: &str) -> String {
    let same = problem.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    same.collect::<Vec<_>>().join(" ")
}

/// The caller's ear for text as it appears. Attempts after a cut stream repeat what was shown; that is not shown again.
struct Shown<'a> {
    text: String,
    on_text: OnText<'a>,
}

impl Shown<'_> {
    /// Shows what is new in the text so far.
    fn show(&mut self, so_far: &str) -> Result<ControlFlow<()>, Failure> {
        if self.text.starts_with(so_far) {
            return Ok(ControlFlow::Continue(()));
        }
        let Some(new) = so_far.strip_prefix(self.text.as_str()) else {
            let problem =
                "a stream was cut off after text had been shown, and the response began differently on retry";
            return Err(Failure::new(FailureKind::Inconsistent, problem));
        };
        let flow = (self.on_text)(new);
        self.text = so_far.to_owned();
        Ok(flow)
    }
}

impl OpenAiClient {
    /// A client; it sends nothing yet.
    ///
    /// # Errors
    /// When a setting is invalid, or the proxy's address is none.
    pub fn new(settings: ClientSettings, access: Access) -> Result<Self, ClientError> {
        settings.check()?;
        let proxy = match &access.proxy {
            Some(address) if !settings.is_loopback() => Some(proxy(address)?),
            _ => None,
        };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(proxy)
            .timeout_connect(Some(Duration::from_secs_f64(settings.connect_timeout_secs)))
            .max_idle_connections_per_host(settings.max_concurrency)
            .user_agent(concat!("truing/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let now = access.clock.elapsed();
        let bucket = |per_minute: Option<u32>| per_minute.map(|per_minute| TokenBucket::new(per_minute, now));
        Ok(Self(Arc::new(Inner {
            url: settings.url(),
            completions_url: settings.completions_url(),
            concurrency: Concurrency::new(settings.max_concurrency),
            requests: bucket(settings.requests_per_minute),
            tokens: bucket(settings.tokens_per_minute),
            counts: Arc::default(),
            marks: ReasoningMarks::default().with(&settings.reasoning_marks),
            standing: Mutex::default(),
            settings,
            access,
            agent,
        })))
    }

    /// What was asked so far. The handle stays good when the client is put away in a box.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.0.counts)
    }

    /// Requests that may be under way at once now: `max_concurrency`, less after the server has said that there are too
    /// many (status 429).
    #[must_use]
    pub fn concurrency(&self) -> usize {
        self.0.concurrency.limit()
    }

    /// Who answers, for a cache.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { model: self.0.settings.model.clone(), extra: self.0.settings.extra.clone() }
    }

    /// Asks one request, until it is answered or given up. With `on_text` the answer is shown as it comes, where the
    /// settings allow streams.
    ///
    /// Once the server refuses everything (the key, the account, the model, or so many requests in a row), nothing more
    /// is sent, and every later request is [`ClientError::NotAsked`].
    ///
    /// Once the clock says that the process stops ([`Clock::is_stopped`](crate::Clock::is_stopped)), an answer has five
    /// seconds left to come; a request that has none by then is [`ClientError::Interrupted`], and so is every later
    /// one.
    ///
    /// # Errors
    /// When it was given up, interrupted or not asked; the error never holds the key.
    pub fn ask(&self, request: &ChatRequest, on_text: Option<OnText<'_>>) -> Result<ChatReply, ClientError> {
        self.0.ask(request, on_text)
    }
}

fn proxy(address: &ProxyAddress) -> Result<Proxy, ClientError> {
    let bad = || ClientError::BadSetting {
        key: "the proxy",
        found: "no address (not shown: it may hold a password)".into(),
        expected: "for instance `http://host:8080`",
    };
    let plain = Proxy::new(&address.url).map_err(|_| bad())?;
    let mut builder = Proxy::builder(plain.protocol()).host(plain.host()).port(plain.port());
    if let Some(name) = plain.username() {
        builder = builder.username(name);
    }
    if let Some(password) = plain.password() {
        builder = builder.password(password);
    }
    for host in &address.except {
        // A bare name stands for all below it too, as curl reads it.
        builder = builder.no_proxy(host).no_proxy(&format!(".{}", host.trim_start_matches(['*', '.'])));
    }
    builder.build().map_err(|_| bad())
}

impl Inner {
    fn ask(&self, request: &ChatRequest, on_text: Option<OnText<'_>>) -> Result<ChatReply, ClientError> {
        let is_streamed = self.settings.stream && on_text.is_some();
        let body = request::body(&self.settings, request, is_streamed);
        let mut nobody = |_: &str| ControlFlow::Continue(());
        let mut shown = Shown { text: String::new(), on_text: on_text.unwrap_or(&mut nobody) };
        let (estimated, max_tokens) = (request::estimated_tokens(request), request.sampling.max_new_tokens);
        let reply = self.with_retries(&body, estimated, &mut |deadline| {
            self.attempt(&body, is_streamed, max_tokens, deadline, &mut shown)
        })?;
        Ok(self.settle(reply, estimated))
    }

    fn prompt_log_probs(&self, prompt: &[TokenId], k: usize) -> Result<PromptLogProbs, ClientError> {
        let body = request::prompt_log_probs_body(&self.settings, prompt, k);
        let n_tokens = prompt.len() as u64;
        let found = self.with_retries(&body, n_tokens, &mut |deadline| {
            let max_bytes =
                (n_tokens * (k as u64 + 1) * PROMPT_LOG_PROB_BYTES).max(self.settings.max_response_bytes);
            let sent = Sent { url: &self.completions_url, body: &body, is_streamed: false, max_bytes };
            let (mut pieces, _) = self.begin(sent, self.settings.timeout(), deadline)?;
            let bytes = pieces.rest()?;
            Ok(parse_prompt_log_probs(&bytes, prompt.len(), k)?)
        });
        let found = found.map_err(|error| error.at(&self.completions_url))?;
        self.counts.add(|counts| counts.prompt_tokens += n_tokens);
        Ok(found)
    }

    /// Posts to an endpoint that is not one of OpenAI's.
    fn post(&self, request: &EndpointRequest) -> Result<Value, ClientError> {
        let url = self.settings.endpoint_url(&request.path);
        let body = request.body.to_string();
        let timeout = match request.timeout_secs {
            None => self.settings.timeout(),
            Some(secs) => duration_of("timeout_secs", secs)?,
        };
        let replied = self.with_retries(&body, 0, &mut |deadline| {
            let max_bytes = self.settings.max_response_bytes;
            let sent = Sent { url: &url, body: &body, is_streamed: false, max_bytes };
            let (mut pieces, _) = self.begin(sent, timeout, deadline)?;
            Ok(parse_reply(&pieces.rest()?)?)
        });
        replied.map_err(|error| error.at(&url))
    }

    /// Sends a request until it is answered or given up. `attempt` gets the deadline.
    fn with_retries<R>(
        &self,
        body: &str,
        estimated: u64,
        attempt_once: &mut dyn FnMut(Duration) -> Result<R, Unfinished>,
    ) -> Result<R, ClientError> {
        let identity = body.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3) // FNV-1a (Fowler, Noll and Vo)
        });
        self.check_standing()?;
        self.take_tokens(estimated)?;
        let mut started = None;
        let mut attempt = 0;
        loop {
            if let Some(bucket) = &self.requests {
                let wait = bucket.take(1, self.now()).unwrap_or_default();
                self.sleep(wait)?;
            }
            let permit = self.concurrency.acquire();
            // Another request may have been refused for good while this one waited.
            self.check_standing()?;
            if self.access.clock.is_stopped() {
                return Err(self.interrupted());
            }
            let started = *started.get_or_insert(self.now());
            let deadline = started + Duration::from_secs_f64(self.settings.deadline_secs);
            self.count_call(attempt > 0);
            let failure = match attempt_once(deadline) {
                Ok(answer) => {
                    permit.succeeded();
                    self.standing(|standing| *standing = Standing::default());
                    return Ok(answer);
                }
                Err(Unfinished::Failed(failure)) => failure,
                Err(Unfinished::Stopped) => return Err(self.interrupted()),
            };
            if failure.kind == FailureKind::RateLimited {
                permit.was_too_many();
            }
            // What waits to be sent again leaves its place to others.
            drop(permit);
            let wait = failure.retry_after.unwrap_or_else(|| retry::backoff(attempt, identity));
            attempt += 1;
            let is_in_time = self.now() + wait < deadline;
            if !failure.kind.may_pass() || attempt > self.settings.max_retries || !is_in_time {
                return Err(self.give_up(failure, attempt, wait, is_in_time));
            }
            self.sleep(wait)?;
        }
    }

    /// Sends up to `max_concurrency` requests side by side; one result for each, in their order.
    fn side_by_side<Q: Sync, R: Send>(
        &self,
        requests: &[Q],
        ask: impl Fn(&Q) -> Result<R, ClientError> + Sync,
        on_result: &mut (impl FnMut(usize, &Result<R, ChatError>) -> ControlFlow<()> + ?Sized),
    ) -> Vec<Result<R, ChatError>> {
        let mut results: Vec<Result<R, ChatError>> =
            requests.iter().map(|_| Err(ChatError::BrokenOff)).collect();
        let (next, is_broken_off) = (AtomicUsize::new(0), AtomicBool::new(false));
        let n_workers = self.settings.max_concurrency.min(requests.len());
        // Nothing is handed over before it is taken: once the caller stops, a worker is at most one request ahead.
        let (sender, receiver) = mpsc::sync_channel(0);
        std::thread::scope(|scope| {
            for _ in 0..n_workers {
                let sender = sender.clone();
                scope.spawn(|| {
                    let sender = sender;
                    while !is_broken_off.load(Ordering::Relaxed) {
                        let idx = next.fetch_add(1, Ordering::Relaxed);
                        let Some(request) = requests.get(idx) else { break };
                        let result = ask(request).map_err(ChatError::from);
                        if sender.send((idx, result)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            for (idx, result) in receiver {
                if on_result(idx, &result).is_break() {
                    is_broken_off.store(true, Ordering::Relaxed);
                }
                results[idx] = result;
            }
        });
        results
    }

    fn now(&self) -> Duration {
        self.access.clock.elapsed()
    }

    fn sleep(&self, wait: Duration) -> Result<(), ClientError> {
        match wait.is_zero() || self.access.clock.sleep(wait).is_continue() {
            true => Ok(()),
            false => Err(self.interrupted()),
        }
    }

    fn interrupted(&self) -> ClientError {
        ClientError::Interrupted { url: self.url.clone() }
    }

    fn take_tokens(&self, n_tokens: u64) -> Result<(), ClientError> {
        let Some(bucket) = &self.tokens else { return Ok(()) };
        match bucket.take(n_tokens, self.now()) {
            Some(wait) => self.sleep(wait),
            None => Err(ClientError::LargerThanRate { n_tokens, per_minute: bucket.per_minute() }),
        }
    }

    fn count_call(&self, is_retry: bool) {
        self.counts.add(|counts| {
            counts.calls += 1;
            counts.retries += u64::from(is_retry);
        });
    }

    /// Counts the tokens of a reply, and corrects the estimate where the server tells them.
    fn settle(&self, reply: ChatReply, estimated: u64) -> ChatReply {
        let (prompt, completion) = (reply.n_prompt_tokens as u64, reply.n_completion_tokens as u64);
        self.counts.add(|counts| {
            counts.prompt_tokens += prompt;
            counts.completion_tokens += completion;
        });
        if let Some(bucket) = self.tokens.as_ref().filter(|_| prompt + completion > 0) {
            bucket.settle(estimated, prompt + completion, self.now());
        }
        reply
    }

    fn standing<R>(&self, look: impl FnOnce(&mut Standing) -> R) -> R {
        look(&mut self.standing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn check_standing(&self) -> Result<(), ClientError> {
        match self.standing(|standing| standing.refusal.clone()) {
            None => Ok(()),
            Some(reason) => Err(ClientError::NotAsked { url: self.url.clone(), reason }),
        }
    }

    /// Takes down a failure that asking again does not help. The first refusal of everything ends the asking; so do
    /// some refusals in a row in the same words, and more of them with any messages.
    fn take_refusal(&self, scope: FailureScope, problem: &str) {
        let most = self.settings.max_refusals_in_a_row;
        self.standing(|standing| match scope {
            FailureScope::Everything => drop(standing.refusal.get_or_insert_with(|| problem.to_owned())),
            FailureScope::Form => {
                let n_same = standing.in_a_row.entry(wording(problem)).or_default();
                *n_same += 1;
                let n_same = *n_same;
                let n: u32 = standing.in_a_row.values().sum();
                if n_same >= most || n >= most.saturating_mul(MAX_IN_ANY_WORDS) {
                    standing.refusal.get_or_insert_with(|| format!("{problem} (to {n} requests in a row)"));
                }
            }
            FailureScope::Request | FailureScope::Passing => {}
        });
    }

    fn give_up(&self, failure: Failure, attempts: u32, wait: Duration, is_in_time: bool) -> ClientError {
        self.counts.add_failure(failure.kind);
        let mut problem = failure.problem;
        if failure.kind.may_pass() && attempts <= self.settings.max_retries && !is_in_time {
            let (wait, deadline) = (wait.as_secs_f64(), self.settings.deadline_secs);
            problem =
                format!("{problem}; another attempt in {wait:.0} s would pass `deadline_secs = {deadline}`");
        }
        if let Some(key) = &self.access.api_key {
            problem = key.redact_cut(&problem);
        }
        self.take_refusal(failure.scope, &problem);
        // Where the requests before it were all refused, this one was not refused for itself.
        let is_last =
            failure.scope == FailureScope::Form && self.standing(|standing| standing.refusal.is_some());
        let scope = if is_last { FailureScope::Everything } else { failure.scope };
        ClientError::NoAnswer { url: self.url.clone(), kind: failure.kind, problem, attempts, scope }
    }
}

impl From<ClientError> for ChatError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::LargerThanRate { .. } => Self::BadRequest(error.to_string()),
            ClientError::Interrupted { .. } => Self::BrokenOff,
            ClientError::NotAsked { reason, .. } => Self::NotAsked(reason),
            ClientError::NoAnswer { scope: FailureScope::Everything, .. }
            | ClientError::Cache { .. }
            | ClientError::CacheVersion { .. } => Self::Refused(Box::new(error)),
            other => Self::Failed(Box::new(other)),
        }
    }
}

impl ChatModel for OpenAiClient {
    fn chat(
        &self,
        request: &ChatRequest,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ChatReply, ChatError> {
        Ok(self.ask(request, Some(on_text))?)
    }

    /// Asks up to `max_concurrency` requests side by side.
    fn chat_all(
        &self,
        requests: &[ChatRequest],
        on_result: &mut dyn FnMut(usize, &ChatResult) -> ControlFlow<()>,
    ) -> Vec<ChatResult> {
        self.0.side_by_side(requests, |request| self.0.ask(request, None), on_result)
    }

    fn prompt_log_probs_all(
        &self,
        texts: &[Vec<TokenId>],
        k: usize,
    ) -> Vec<Result<PromptLogProbs, ChatError>> {
        let ask = |text: &Vec<TokenId>| self.0.prompt_log_probs(text, k);
        self.0.side_by_side(texts, ask, &mut |_, result| match result {
            Err(error) if error.is_permanent() => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    }

    /// Posts up to `max_concurrency` requests side by side.
    fn post_all(
        &self,
        requests: &[EndpointRequest],
        on_result: &mut dyn FnMut(usize, &EndpointResult) -> ControlFlow<()>,
    ) -> Vec<EndpointResult> {
        self.0.side_by_side(requests, |request| self.0.post(request), on_result)
    }
}
