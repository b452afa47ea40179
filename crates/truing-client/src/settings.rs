//! The settings of a server, as recipes hold them, and what a recipe must not hold: the key, the proxy, the clock.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use truing_types::ReasoningMark;
use ureq::http::Uri;

use crate::{ClientError, Clock};

/// What a cache is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheMode {
    /// Use cached replies; request the others and cache them.
    #[default]
    Live,
    /// Send every request and replace cached replies.
    Record,
    /// Send no request; a reply that is not cached is an error.
    Replay,
}

/// A server that speaks OpenAI's chat completions, and how hard it may be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientSettings {
    /// Address including the version, for instance `https://host/v1`. `/chat/completions` is appended (`/completions`
    /// for the teacher of a distillation).
    #[schemars(extend("x-decides" = "nothing"))]
    pub base_url: String,
    /// The model's name on the server.
    pub model: String,
    /// NAME of the environment variable that holds the API key. Default: no key. A recipe never contains the key
    /// itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "nothing"))]
    pub api_key_env: Option<String>,
    /// Maximum number of concurrent requests. A status 429 halves the number in use; as many successes raise it by one.
    #[schemars(extend("x-decides" = "nothing"))]
    pub max_concurrency: usize,
    /// Maximum requests started per minute. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "nothing"))]
    pub requests_per_minute: Option<u32>,
    /// Maximum tokens per minute, prompts and replies together. Default: no limit. A request counts with an estimate
    /// (one token per four bytes of the prompt, plus `max_new_tokens`) until the server reports its usage.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "nothing"))]
    pub tokens_per_minute: Option<u32>,
    /// Timeout of an attempt, in seconds; for streams, until the first piece and between pieces.
    #[schemars(extend("x-decides" = "nothing"))]
    pub timeout_secs: f64,
    /// Timeout of connecting, in seconds.
    #[schemars(extend("x-decides" = "nothing"))]
    pub connect_timeout_secs: f64,
    /// Maximum time of a request with all retries, in seconds.
    #[schemars(extend("x-decides" = "nothing"))]
    pub deadline_secs: f64,
    /// Maximum retries of a request.
    #[schemars(extend("x-decides" = "nothing"))]
    pub max_retries: u32,
    /// Stop sending requests after this many consecutive refusals (status 400 or 422) with the same message, apart from
    /// numbers and ids, or after four times as many with any messages. An answer resets the count. A refusal of the
    /// key, the account or the model stops at once.
    #[schemars(extend("x-decides" = "nothing"))]
    pub max_refusals_in_a_row: u32,
    /// Maximum size of an answer, in bytes.
    #[schemars(extend("x-decides" = "nothing"))]
    pub max_response_bytes: u64,
    /// Stream answers whose text is shown while it is generated.
    #[schemars(extend("x-decides" = "nothing"))]
    pub stream: bool,
    /// Send the seed to the server. The cache distinguishes replies by the seed in either case.
    #[schemars(extend("x-decides" = "nothing"))]
    pub send_seed: bool,
    /// Name of the request field that limits the tokens of a reply.
    #[schemars(extend("x-decides" = "nothing"))]
    pub token_limit_field: TokenLimitField,
    /// Marks of a thought in the model's text beside the known ones. A recipe has them beside the server's table, where
    /// they hold for local models too.
    #[serde(skip)]
    pub reasoning_marks: Vec<ReasoningMark>,
    /// Additional fields of every request, for instance `{ response_format = { type = "json_object" } }`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            base_url: String::new(),
            model: String::new(),
            api_key_env: None,
            max_concurrency: 8,
            requests_per_minute: None,
            tokens_per_minute: None,
            timeout_secs: 120.0,
            connect_timeout_secs: 10.0,
            deadline_secs: 900.0,
            max_retries: 6,
            max_refusals_in_a_row: 5,
            max_response_bytes: 8 << 20,
            stream: true,
            send_seed: true,
            token_limit_field: TokenLimitField::default(),
            reasoning_marks: Vec::new(),
            extra: Map::new(),
        }
    }
}

/// The field that limits a reply's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenLimitField {
    /// The name that most servers understand.
    #[default]
    MaxTokens,
    /// The name that OpenAI's reasoning models need.
    MaxCompletionTokens,
}

impl TokenLimitField {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

impl ClientSettings {
    /// Where requests go.
    pub(crate) fn url(&self) -> String {
        format!("{}/chat/completions", self.base_url.trim_end_matches('/'))
    }

    /// Where requests for log-probabilities of prompts go.
    pub(crate) fn completions_url(&self) -> String {
        format!("{}/completions", self.base_url.trim_end_matches('/'))
    }

    /// Where requests to another path go: below the address without its version.
    pub(crate) fn endpoint_url(&self, path: &str) -> String {
        let address = self.base_url.trim_end_matches('/');
        format!("{}{path}", address.strip_suffix("/v1").unwrap_or(address))
    }

    /// Checks what a plan can check before any request.
    ///
    /// # Errors
    /// When a setting is invalid.
    pub fn check(&self) -> Result<(), ClientError> {
        let bad = |key, found: String, expected| Err(ClientError::BadSetting { key, found, expected });
        let uri = self.base_url.parse::<Uri>().ok();
        let is_http = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        if !uri.as_ref().is_some_and(is_http) {
            return bad("base_url", self.base_url.clone(), "an address such as `https://host/v1`");
        }
        if uri.as_ref().and_then(Uri::authority).is_some_and(|authority| authority.as_str().contains('@')) {
            // What is before the @ would be shown in messages.
            return bad("base_url", "an address with a password".into(), "the key through `api_key_env`");
        }
        if self.model.is_empty() {
            return bad("model", "empty".into(), "the model's name on the server");
        }
        if self.max_concurrency == 0 {
            return bad("max_concurrency", "0".into(), "at least 1");
        }
        if self.max_refusals_in_a_row == 0 {
            return bad("max_refusals_in_a_row", "0".into(), "at least 1");
        }
        for (key, found) in
            [("requests_per_minute", self.requests_per_minute), ("tokens_per_minute", self.tokens_per_minute)]
        {
            if found == Some(0) {
                return bad(key, "0".into(), "at least 1, or left out for no limit");
            }
        }
        for (key, found) in [
            ("timeout_secs", self.timeout_secs),
            ("connect_timeout_secs", self.connect_timeout_secs),
            ("deadline_secs", self.deadline_secs),
        ] {
            duration_of(key, found)?;
        }
        Ok(())
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_secs)
    }

    /// Whether the server is this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let uri = self.base_url.parse::<Uri>().ok();
        let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost"
            || host.ends_with(".localhost")
            || address.is_ok_and(|address| address.is_loopback())
    }
}

/// The longest timeout that is accepted, in seconds: about a century.
const LONGEST_SECS: f64 = 3.2e9;

/// The duration of a setting in seconds.
///
/// # Errors
/// When nothing can be done in that time: also where the number rounds to 0 nanoseconds.
pub(crate) fn duration_of(key: &'static str, secs: f64) -> Result<Duration, ClientError> {
    let duration = Duration::try_from_secs_f64(secs).ok();
    duration.filter(|duration| !duration.is_zero() && secs <= LONGEST_SECS).ok_or_else(|| {
        ClientError::BadSetting { key, found: secs.to_string(), expected: "a number of seconds above 0" }
    })
}

/// The replacement of a key in messages.
const HIDDEN: &str = "[key]";
/// Characters of a key that tell something of it.
const MIN_TELLING: usize = 6;
/// Characters of the shortest key that is a secret.
const SHORTEST_SECRET: usize = 16;

/// A key for a server. It shows itself to nobody.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// Takes a key as it stood in the environment.
    ///
    /// # Errors
    /// When no header can carry it.
    pub fn new(key: &str) -> Result<Self, ClientError> {
        let key = key.trim();
        match !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Self(key.to_owned())),
            false => Err(ClientError::BadApiKey),
        }
    }

    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// The text without the key, even if a server repeats it.
    pub(crate) fn redact(&self, text: &str) -> String {
        text.replace(&self.0, HIDDEN)
    }

    /// The value without the key in any of its texts.
    pub(crate) fn redact_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.redact(text).into(),
            Value::Array(values) => values.iter().map(|value| self.redact_value(value)).collect(),
            Value::Object(fields) => {
                fields.iter().map(|(name, value)| (name.clone(), self.redact_value(value))).collect()
            }
            plain => plain.clone(),
        }
    }

    /// As [`redact`](Self::redact), also where a text was shortened in the middle of the key.
    pub(crate) fn redact_cut(&self, text: &str) -> String {
        const CUT: &str = "...";
        let text = self.redact(text);
        let is_cut = |n: &usize| text.contains(&format!("{}{CUT}", &self.0[..*n]));
        match (MIN_TELLING..self.0.len()).rev().find(is_cut) {
            Some(n) => text.replace(&format!("{}{CUT}", &self.0[..n]), &format!("{HIDDEN}{CUT}")),
            None => text,
        }
    }

    /// Whether to hide it in the text of a model. Local servers take anything for a key, such as `EMPTY` or `1`, and
    /// these are words of an answer too.
    pub(crate) fn is_secret(&self) -> bool {
        self.0.len() >= SHORTEST_SECRET
    }

    /// A text without the end that may be the beginning of the key.
    pub(crate) fn before_its_beginning<'a>(&self, text: &'a str) -> &'a str {
        let n = (1..self.0.len()).rev().find(|&n| text.ends_with(&self.0[..n])).unwrap_or(0);
        &text[..text.len() - n]
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey([hidden])")
    }
}

/// A proxy, as environments name them. A server on this machine is never asked through it.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyAddress {
    /// Its address, which may hold a password.
    pub url: String,
    /// Hosts that are asked directly: names, or `.name` for all below it, or `*`.
    pub except: Vec<String>,
}

impl fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyAddress").field("except", &self.except).finish_non_exhaustive()
    }
}

/// What the program knows and a recipe does not say.
#[derive(Clone)]
pub struct Access {
    /// The key, where the server wants one.
    pub api_key: Option<ApiKey>,
    /// The way out, where there is no direct one.
    pub proxy: Option<ProxyAddress>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("api_key", &self.api_key)
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}
