use std::path::PathBuf;

/// A request that was not answered, or settings with which none can be.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// An invalid setting.
    #[error("`{key}` is {found}: expected {expected}")]
    BadSetting {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A key that no header can carry. The message does not contain the key.
    #[error("the API key holds characters other than visible ASCII, or none at all")]
    BadApiKey,
    /// A request that a limit will never let through.
    #[error("a request of about {n_tokens} tokens does not fit into `tokens_per_minute = {per_minute}`")]
    LargerThanRate {
        /// Its tokens, estimated.
        n_tokens: u64,
        /// The limit.
        per_minute: u32,
    },
    /// The server did not answer, not even to repeated requests where repeating could help.
    #[error("{url}: {problem} (attempts: {attempts})")]
    NoAnswer {
        /// Where it was asked.
        url: String,
        /// The kind of the last failure.
        kind: FailureKind,
        /// The last failure, in words; at most a few hundred characters of what the server said.
        problem: String,
        /// How often it was asked.
        attempts: u32,
        /// What else will fail for the same reason.
        scope: FailureScope,
    },
    /// Nothing is asked any more, because the server refuses everything.
    #[error("{url}: not called, because of an earlier refusal: {reason}")]
    NotAsked {
        /// What would have been asked.
        url: String,
        /// The refusal, in words.
        reason: String,
    },
    /// The wait was interrupted.
    #[error("interrupted while waiting to call {url}")]
    Interrupted {
        /// What was to be asked.
        url: String,
    },
    /// The cache's file cannot be used.
    #[error("{}: the cache of replies cannot be used", path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A cache that another version of truing made.
    #[error("{}: a cache of replies of version {found}, expected {expected}", path.display())]
    CacheVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The version that is understood.
        expected: i64,
    },
    /// A reply that is to come from the cache alone and is not there.
    #[error("{}: no recorded reply of `{model}` under the key {key}", path.display())]
    NotRecorded {
        /// The cache.
        path: PathBuf,
        /// The model that was asked.
        model: String,
        /// Digest of the canonical request.
        key: String,
    },
}

impl ClientError {
    /// The same error with the address that the request was sent to.
    pub(crate) fn at(self, at: &str) -> Self {
        let url = at.to_owned();
        match self {
            Self::NoAnswer { kind, problem, attempts, scope, .. } => {
                Self::NoAnswer { url, kind, problem, attempts, scope }
            }
            Self::NotAsked { reason, .. } => Self::NotAsked { url, reason },
            Self::Interrupted { .. } => Self::Interrupted { url },
            other => other,
        }
    }
}

/// What a failure says about other requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureScope {
    /// Nothing: the same request may be answered later.
    Passing,
    /// This request alone will not be answered: it is too long, or against the server's rules.
    Request,
    /// Requests of this form are refused. Where so many in a row are, so will be the others.
    Form,
    /// No request will be answered: key, account, model or address are refused.
    Everything,
}

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// There was no connection, or it broke before an answer began.
    Connection,
    /// It took too long.
    Timeout,
    /// The response was cut off in the middle.
    CutOff,
    /// The answer is none: no JSON, no choices, a page for a browser.
    BadAnswer,
    /// The response is longer than `max_response_bytes`.
    TooLong,
    /// Status 429, where waiting helps.
    RateLimited,
    /// The account has nothing left to spend, or is closed: status 402, or a 429 whose code says so. Waiting does not
    /// help.
    QuotaExhausted,
    /// Status 5xx, 408, 409 or 425.
    Server,
    /// Another status: the request or the key is at fault.
    Refused,
    /// The server points elsewhere. Not followed: the key is for this server.
    Redirected,
    /// A stream that was cut off after text had been shown, and began differently on retry.
    Inconsistent,
}

impl FailureKind {
    /// The name in counts.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::CutOff => "cut_off",
            Self::BadAnswer => "bad_answer",
            Self::TooLong => "too_long",
            Self::RateLimited => "rate_limited",
            Self::QuotaExhausted => "quota_exhausted",
            Self::Server => "server",
            Self::Refused => "refused",
            Self::Redirected => "redirected",
            Self::Inconsistent => "inconsistent",
        }
    }

    /// Whether asking again may help.
    #[must_use]
    pub fn may_pass(self) -> bool {
        !matches!(
            self,
            Self::TooLong | Self::Refused | Self::QuotaExhausted | Self::Redirected | Self::Inconsistent
        )
    }
}
