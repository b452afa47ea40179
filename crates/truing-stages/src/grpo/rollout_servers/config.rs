//! `[rollouts]`: the servers that completions are sampled on, and how they get new weights.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_ask::{AskError, ChatModelConfig};
use truing_client::{ClientError, ClientSettings};
use truing_model::{DecodingWeights, SaveDtype};
use truing_run::RunError;

use super::super::GrpoConfig;
use super::protocol::{LogprobsMode, RolloutProtocol, SyncCall};
use crate::StageError;

/// Seconds in which a request with all its retries has to be answered, for each second of a timeout.
const DEADLINE_TIMEOUTS: f64 = 8.0;
/// The longest deadline of a request, in seconds: a century.
const MAX_DEADLINE_SECS: f64 = 3.2e9;
/// Bytes that a token with its log-probability may take in a reply.
const TOKEN_BYTES: u64 = 512;

/// Servers that rollouts are sampled on, token ids in and out. Evaluations are sampled in this process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutsConfig {
    /// Addresses of servers with the same model, for instance `["http://127.0.0.1:8000"]` (TRL:
    /// `vllm_server_base_url`). The completions are dealt to them.
    #[schemars(extend("x-decides" = "nothing"))]
    pub servers: Vec<String>,
    /// The model's name on the servers.
    #[schemars(extend("x-decides" = "nothing"))]
    pub model: String,
    /// How token ids are sent and received.
    #[schemars(extend("x-decides" = "nothing"))]
    pub protocol: RolloutProtocol,
    /// NAME of the environment variable that holds the API key. Default: no key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-decides" = "nothing"))]
    pub api_key_env: Option<String>,
    /// Maximum number of concurrent requests to each server; a request is one completion.
    #[schemars(extend("x-decides" = "nothing"))]
    pub max_concurrency: usize,
    /// Timeout of an attempt to sample a completion, in seconds.
    #[schemars(extend("x-decides" = "nothing"))]
    pub timeout_secs: f64,
    /// Maximum retries of a request. A completion that fails on one server is then sampled on another.
    #[schemars(extend("x-decides" = "nothing"))]
    pub max_retries: u32,
    /// Load the policy's weights into the servers every so many steps.
    pub sync_steps: u64,
    /// Timeout of loading weights, in seconds.
    #[schemars(extend("x-decides" = "nothing"))]
    pub sync_timeout_secs: f64,
    /// Number format of the weights that are written for the servers, in `rollout_weights/` of the run. Adapters are
    /// merged into them.
    pub weights_dtype: SaveDtype,
    /// Steps by which the weights that sampled a completion may lag behind. Older completions are sampled again, and
    /// if they are still older, not trained on. Default: `sync_steps - 1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "sync_steps - 1"))]
    pub max_staleness: Option<u64>,
    /// Correction of the difference between server and trainer. The weights are at most `importance_sampling_cap` (TRL:
    /// `vllm_importance_sampling_mode`).
    pub importance_sampling_mode: ImportanceSamplingMode,
    /// What the log-probabilities of the servers are (vLLM: `--logprobs-mode`). `protocol = "truing"` asks for what it
    /// needs.
    pub logprobs_mode: LogprobsMode,
    /// Requests that load weights, in their order. Default: `/update_weights_from_disk` for `truing` and `completions`
    /// (SGLang), `reload_weights` by `/collective_rpc` and then `/reset_prefix_cache` for `vllm`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-decides" = "nothing"))]
    pub sync_calls: Vec<SyncCall>,
}

/// How importance weights of tokens that a server sampled are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceSamplingMode {
    /// One weight for each token: the ratio of its probabilities, truncated.
    #[default]
    TokenTruncate,
    /// One weight for each completion: the product of the ratios of its tokens, truncated.
    SequenceTruncate,
    /// No correction.
    None,
}

impl Default for RolloutsConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            model: String::new(),
            protocol: RolloutProtocol::default(),
            api_key_env: None,
            max_concurrency: 32,
            timeout_secs: 300.0,
            max_retries: 3,
            sync_steps: 1,
            sync_timeout_secs: 600.0,
            sync_calls: Vec::new(),
            weights_dtype: SaveDtype::F32,
            max_staleness: None,
            importance_sampling_mode: ImportanceSamplingMode::default(),
            logprobs_mode: LogprobsMode::default(),
        }
    }
}

/// An error of a server's settings under the keys of the recipe.
fn in_recipe(error: ClientError) -> StageError {
    match error {
        ClientError::BadSetting { key, found, expected } => {
            let key = match key {
                "base_url" => "rollouts.servers",
                "model" => "rollouts.model",
                "max_concurrency" => "rollouts.max_concurrency",
                _ => "rollouts.timeout_secs",
            };
            RunError::BadSetting { key, found, expected: expected.to_owned() }.into()
        }
        other => AskError::from(other).into(),
    }
}

/// Whether a request may take so many seconds: more than round to 0 nanoseconds, and at most ten years.
fn is_timeout(secs: f64) -> bool {
    secs <= 3.2e8 && Duration::try_from_secs_f64(secs).is_ok_and(|timeout| !timeout.is_zero())
}

impl RolloutsConfig {
    /// The servers as models that a run opens, in their order.
    pub(in crate::grpo) fn chat_models(&self, max_completion_length: usize) -> Vec<ChatModelConfig> {
        let max_response_bytes = TOKEN_BYTES.saturating_mul(max_completion_length as u64);
        let of_server = |base_url: &String| ChatModelConfig {
            server: Some(ClientSettings {
                base_url: base_url.clone(),
                model: self.model.clone(),
                api_key_env: self.api_key_env.clone(),
                max_concurrency: self.max_concurrency,
                timeout_secs: self.timeout_secs,
                max_retries: self.max_retries,
                deadline_secs: (DEADLINE_TIMEOUTS * self.timeout_secs.max(self.sync_timeout_secs))
                    .min(MAX_DEADLINE_SECS),
                max_response_bytes: max_response_bytes.max(ClientSettings::default().max_response_bytes),
                stream: false,
                ..ClientSettings::default()
            }),
            ..ChatModelConfig::default()
        };
        self.servers.iter().map(of_server).collect()
    }

    /// Bytes of the weights that are written for the servers: the last ones and those before them.
    pub(in crate::grpo) fn disk_bytes(&self, n_parameters: u64) -> u64 {
        let bytes = if self.weights_dtype == SaveDtype::F32 { 4 } else { 2 };
        2 * bytes * n_parameters
    }

    /// Steps by which weights may lag behind.
    pub(in crate::grpo) fn max_staleness(&self) -> u64 {
        self.max_staleness.unwrap_or(self.sync_steps.saturating_sub(1))
    }

    /// The requests that load weights.
    pub(super) fn sync_calls(&self) -> Vec<SyncCall> {
        match self.sync_calls.is_empty() {
            true => self.protocol.sync_calls(&self.model),
            false => self.sync_calls.clone(),
        }
    }

    /// Checks the settings before any work.
    pub(in crate::grpo) fn check(&self, config: &GrpoConfig) -> Result<(), StageError> {
        let bad = |key, found: String, expected: &str| {
            Err(RunError::BadSetting { key, found, expected: expected.to_owned() }.into())
        };
        if self.servers.is_empty() {
            let expected = "at least one address, for instance `[\"http://127.0.0.1:8000\"]`";
            return Err(RunError::MissingSetting { key: "rollouts.servers", expected }.into());
        }
        let models = self.chat_models(config.max_completion_length);
        for server in models.iter().filter_map(|model| model.server.as_ref()) {
            server.check().map_err(in_recipe)?;
        }
        let least = self.sync_steps.saturating_sub(1);
        match self {
            _ if config.rollout_quantization != DecodingWeights::F32 => Err(RunError::Conflict {
                first: "rollout_quantization",
                second: "rollouts",
                reason: "a server samples with its own weights",
            }
            .into()),
            r if r.sync_steps == 0 => bad("rollouts.sync_steps", "0".into(), "at least 1"),
            r if !is_timeout(r.sync_timeout_secs) => bad(
                "rollouts.sync_timeout_secs",
                r.sync_timeout_secs.to_string(),
                "a number of seconds above 0 and at most 3.2e8",
            ),
            r if r.max_staleness.is_some_and(|most| most < least) => bad(
                "rollouts.max_staleness",
                r.max_staleness().to_string(),
                &format!("at least {least}: with `sync_steps = {}` weights are that old", r.sync_steps),
            ),
            r if r.sync_calls.iter().any(|call| !call.path.starts_with('/')) => bad(
                "rollouts.sync_calls",
                "a path without `/`".into(),
                "paths such as `/update_weights_from_disk`",
            ),
            r if !(r.sync_calls.is_empty() || r.sync_calls.iter().any(SyncCall::says_what_to_load)) => bad(
                "rollouts.sync_calls",
                "without the folder of the weights".into(),
                "`{path}` in the `body` of a call, for instance `{ model_path = \"{path}\" }`",
            ),
            r => r.check_log_probs(config),
        }
    }

    /// Importance weights need the probabilities of the policy that is trained: that at the temperature, nothing cut
    /// off.
    fn check_log_probs(&self, config: &GrpoConfig) -> Result<(), StageError> {
        if self.importance_sampling_mode == ImportanceSamplingMode::None {
            return Ok(());
        }
        let is_tempered = config.temperature != 1.0;
        let has_cuts = config.cuts_distribution();
        let expected = match (self.protocol, self.logprobs_mode) {
            _ if is_tempered && has_cuts => {
                "`temperature = 1`, or no `top_k`, `top_p` and `min_p`, or `importance_sampling_mode = \"none\"`"
            }
            (RolloutProtocol::Truing, _) => return Ok(()),
            (_, LogprobsMode::RawLogprobs) if is_tempered => {
                "`processed_logprobs` with a `temperature` other than 1, and a server started so (`--logprobs-mode`)"
            }
            (_, LogprobsMode::ProcessedLogprobs) if has_cuts => {
                "`raw_logprobs` with `top_k`, `top_p` or `min_p`, and a server started so (`--logprobs-mode`)"
            }
            _ => return Ok(()),
        };
        let found = match self.logprobs_mode {
            LogprobsMode::RawLogprobs => "raw_logprobs",
            LogprobsMode::ProcessedLogprobs => "processed_logprobs",
        };
        let (key, found, expected) = ("rollouts.logprobs_mode", found.to_owned(), expected.to_owned());
        Err(RunError::BadSetting { key, found, expected }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_completion_with_its_log_probabilities_is_not_too_long_a_reply() {
        let servers = vec!["http://127.0.0.1:8000".to_owned()];
        let rollouts = RolloutsConfig { servers, ..RolloutsConfig::default() };
        let bytes = |length| rollouts.chat_models(length).remove(0).server.unwrap().max_response_bytes;
        assert_eq!((bytes(12), bytes(131_072)), (8 << 20, 64 << 20));
    }
}
