//! What a refusal means: whether waiting helps, and what else will fail for the same reason.
//!
//! A status alone does not say it. OpenAI answers 429 both to a request too many and to an empty account; Azure answers
//! 400 to text that its filter dislikes; xAI and Gemini answer 400 to a wrong key; gateways answer 200 with an error as
//! the body. So the error's `code`, `type` and `status` are read too, and then its message, in English and Chinese.
//! Gemini says "You exceeded your current quota" of a limit per minute as well: a 429 that names a time to wait is a
//! request too many, unless a code speaks of the account.

use crate::{FailureKind, FailureScope};

/// The account has nothing to spend, or is closed.
const ACCOUNT: [&str; 14] = [
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "billing_error",
    "access_terminated",
    "account_deactivated",
    "account_suspended",
    "exceeded_current_quota_error",
    "insufficient_balance",
    "insufficient_credits",
    "insufficient_user_quota",
    "payment_required",
    "arrearage",
    "quota_exhausted",
];
/// The same in messages, in lower case.
const ACCOUNT_WORDS: [&str; 24] = [
    "exceeded your current quota",
    "insufficient_quota",
    "insufficient quota",
    "quota is not enough",
    "quota has been exhausted",
    "insufficient balance",
    "insufficient account balance",
    "insufficient credit",
    "insufficient funds",
    "credit balance is too low",
    "used up its credits",
    "out of credits",
    "no credits left",
    "balance is used up",
    "billing hard limit",
    "account is not active, please check your billing",
    "account is deactivated",
    "in arrears",
    "余额不足",
    "额度不足",
    "额度已用尽",
    "额度已用完",
    "配额已用完",
    "欠费",
];
/// A 429 with these words is temporary, even if it mentions a quota.
const WAIT_WORDS: [&str; 9] = [
    "retry in",
    "retry after",
    "try again in",
    "try again after",
    "retrydelay",
    "per minute",
    "per_minute",
    "perminute",
    "rate_limit",
];
/// The key or the model is refused, under a status that does not say so.
const IDENTITY: [&str; 8] = [
    "invalid_api_key",
    "api_key_invalid",
    "authentication_error",
    "permission_error",
    "permission_denied",
    "model_not_found",
    "deploymentnotfound",
    "unsupported_country_region_territory",
];
const IDENTITY_WORDS: [&str; 3] = ["incorrect api key", "invalid api key", "api key not valid"];
/// This request is too long, or against the server's rules.
const REQUEST: [&str; 9] = [
    "context_length_exceeded",
    "string_above_max_length",
    "request_too_large",
    "content_policy_violation",
    "content_filter",
    "responsibleaipolicyviolation",
    "data_inspection_failed",
    "invalid_prompt",
    "moderation",
];
const REQUEST_WORDS: [&str; 6] = [
    "context length",
    "context window",
    "maximum context",
    "prompt is too long",
    "input was flagged",
    "content management policy",
];

/// Names of an error and its message, in lower case.
struct ErrorText<'a> {
    names: &'a [String],
    words: String,
}

impl ErrorText<'_> {
    fn has(&self, names: &[&str], words: &[&str]) -> bool {
        self.names.iter().any(|name| names.contains(&name.as_str()))
            || words.iter().any(|words| self.words.contains(words))
    }

    /// Whether the account has nothing to spend. `may_wait` says that the server may mean a limit per minute.
    fn is_of_account(&self, may_wait: bool) -> bool {
        let is_to_wait = || {
            WAIT_WORDS.iter().any(|words| self.words.contains(words))
                || self.names.iter().any(|name| name.contains("rate_limit"))
        };
        self.has(&ACCOUNT, &[]) || self.has(&[], &ACCOUNT_WORDS) && !(may_wait && is_to_wait())
    }

    /// What the message alone says, for any status.
    fn classify(&self) -> Option<(FailureKind, FailureScope)> {
        Some(match () {
            () if self.is_of_account(false) => (FailureKind::QuotaExhausted, FailureScope::Everything),
            () if self.has(&REQUEST, &REQUEST_WORDS) => (FailureKind::Refused, FailureScope::Request),
            () if self.has(&IDENTITY, &IDENTITY_WORDS) => (FailureKind::Refused, FailureScope::Everything),
            () => return None,
        })
    }
}

/// Kind and scope of a status that is none of 2xx.
pub(crate) fn classify(status: u16, names: &[String], said: &str) -> (FailureKind, FailureScope) {
    let said = ErrorText { names, words: said.to_lowercase() };
    match status {
        300..=399 => (FailureKind::Redirected, FailureScope::Everything),
        402 => (FailureKind::QuotaExhausted, FailureScope::Everything),
        429 if said.is_of_account(true) => (FailureKind::QuotaExhausted, FailureScope::Everything),
        429 => (FailureKind::RateLimited, FailureScope::Passing),
        408 | 409 | 425 | 500..=599 => (FailureKind::Server, FailureScope::Passing),
        _ => said.classify().unwrap_or(match status {
            413 | 414 | 431 => (FailureKind::Refused, FailureScope::Request),
            401 | 403 | 404 | 405 | 407 | 410 | 451 => (FailureKind::Refused, FailureScope::Everything),
            _ => (FailureKind::Refused, FailureScope::Form),
        }),
    }
}

/// Kind and scope of an error that came with status 200 in place of an answer. A code of it that is a status counts as
/// that status; where nothing says what it is, it may pass.
pub(crate) fn classify_reported(names: &[String], said: &str) -> (FailureKind, FailureScope) {
    let status = names.iter().filter_map(|name| name.parse::<u16>().ok());
    if let Some(status) = status.into_iter().find(|status| (400..=599).contains(status)) {
        return classify(status, names, said);
    }
    let said = ErrorText { names, words: said.to_lowercase() };
    let is_passing = names.iter().any(|name| name.contains("rate_limit"));
    let passing = (FailureKind::BadAnswer, FailureScope::Passing);
    said.classify().filter(|_| !is_passing).unwrap_or(passing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::response::{error_names, error_text};
    use FailureKind::{BadAnswer, QuotaExhausted, RateLimited, Redirected, Refused, Server};
    use FailureScope::{Everything, Form, Passing, Request};

    #[test]
    fn the_code_decides_where_the_status_does_not() {
        for (status, body, expected) in [
            (429, r#"{"error":{"code":"rate_limit_exceeded"}}"#, (RateLimited, Passing)),
            (429, r#"{"error":{"type":"tokens","code":"rate_limit_exceeded"}}"#, (RateLimited, Passing)),
            (429, r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}"#, (RateLimited, Passing)),
            (429, "", (RateLimited, Passing)),
            (429, r#"{"error":{"code":"insufficient_quota"}}"#, (QuotaExhausted, Everything)),
            (429, r#"{"error":{"type":"insufficient_quota","code":null}}"#, (QuotaExhausted, Everything)),
            (429, r#"{"error":{"code":"billing_not_active"}}"#, (QuotaExhausted, Everything)),
            (429, r#"{"error":{"type":"exceeded_current_quota_error"}}"#, (QuotaExhausted, Everything)),
            (429, r#"{"error":{"code":"access_terminated"}}"#, (QuotaExhausted, Everything)),
            (402, r#"{"error":{"message":"Insufficient Balance"}}"#, (QuotaExhausted, Everything)),
            (400, r#"{"error":{"code":"billing_hard_limit_reached"}}"#, (QuotaExhausted, Everything)),
            (400, r#"{"error":{"message":"Your credit balance is too low"}}"#, (QuotaExhausted, Everything)),
            (400, r#"{"error":{"code":"unsupported_parameter"}}"#, (Refused, Form)),
            (400, r#"{"error":{"code":"context_length_exceeded"}}"#, (Refused, Request)),
            (400, r#"{"message":"This model's maximum context length is 4096 tokens."}"#, (Refused, Request)),
            (400, r#"{"error":{"code":"content_filter"}}"#, (Refused, Request)),
            (400, r#"{"error":{"message":"Incorrect API key provided"}}"#, (Refused, Everything)),
            (400, r#"{"error":{"code":"model_not_found"}}"#, (Refused, Everything)),
            (401, "", (Refused, Everything)),
            (403, "", (Refused, Everything)),
            (403, r#"{"error":{"message":"Your input was flagged"}}"#, (Refused, Request)),
            (404, "<html>", (Refused, Everything)),
            (405, "", (Refused, Everything)),
            (413, "", (Refused, Request)),
            (415, "", (Refused, Form)),
            (422, r#"{"detail":[{"loc":["body","seed"]}]}"#, (Refused, Form)),
            (302, "", (Redirected, Everything)),
            (500, r#"{"error":{"code":"insufficient_quota"}}"#, (Server, Passing)),
            (503, "", (Server, Passing)),
        ] {
            let (said, names) = (error_text(body.as_bytes()), error_names(body.as_bytes()));
            assert_eq!(classify(status, &names, &said), expected, "{status} {body}");
        }
    }

    #[test]
    fn an_empty_account_is_known_by_its_message_alone() {
        let gone = (QuotaExhausted, Everything);
        for (message, expected) in [
            ("You exceeded your current quota, please check your plan and billing details.", gone),
            ("Insufficient Balance", gone),
            ("insufficient account balance", gone),
            ("账户余额不足，请充值", gone),
            ("您的账户已欠费，请充值后重试", gone),
            ("Your credit balance is too low to access the API", gone),
            ("You exceeded your current quota. Please retry in 23.1s.", (RateLimited, Passing)),
            (
                "Quota exceeded for quota metric 'Requests' and limit 'Requests per minute'",
                (RateLimited, Passing),
            ),
            (
                "Rate limit reached for model in organization: limit 3, try again in 20s",
                (RateLimited, Passing),
            ),
            ("Too many requests", (RateLimited, Passing)),
        ] {
            for body in [
                serde_json::json!({ "error": { "message": message } }),
                serde_json::json!({ "error": message }),
                serde_json::json!({ "message": message }),
            ] {
                let body = body.to_string();
                let (said, names) = (error_text(body.as_bytes()), error_names(body.as_bytes()));
                assert_eq!(classify(429, &names, &said), expected, "{body}");
            }
        }
    }

    #[test]
    fn an_error_in_place_of_an_answer_is_known_by_code_or_message() {
        for (body, expected) in [
            (r#"{"error":{"code":"insufficient_quota"}}"#, (QuotaExhausted, Everything)),
            (r#"{"error":{"message":"insufficient balance"}}"#, (QuotaExhausted, Everything)),
            (r#"{"error":{"message":"none","code":402}}"#, (QuotaExhausted, Everything)),
            (r#"{"error":{"message":"none","code":"402"}}"#, (QuotaExhausted, Everything)),
            (r#"{"error":{"message":"Incorrect API key provided"}}"#, (Refused, Everything)),
            (r#"{"error":{"message":"no such model","code":"model_not_found"}}"#, (Refused, Everything)),
            (r#"{"error":{"code":"context_length_exceeded"}}"#, (Refused, Request)),
            (r#"{"error":{"message":"slow down","code":429}}"#, (RateLimited, Passing)),
            (r#"{"error":{"code":"rate_limit_exceeded"}}"#, (BadAnswer, Passing)),
            (r#"{"error":{"message":"no provider","code":502}}"#, (Server, Passing)),
            (r#"{"error":"no cards"}"#, (BadAnswer, Passing)),
        ] {
            let (said, names) = (error_text(body.as_bytes()), error_names(body.as_bytes()));
            assert_eq!(classify_reported(&names, &said), expected, "{body}");
        }
    }
}
