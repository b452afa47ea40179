//! What a status other than 2xx means: whether waiting helps, and what else will fail for the same reason.
//!
//! A status alone does not say it. OpenAI answers 429 both to a request too many and to an empty account; Azure answers 400 to
//! text that its filter dislikes; xAI and Gemini answer 400 to a wrong key. So the error's `code`, `type` and `status` are read
//! too, and the message only where a server gives no code.

use crate::response::error_names;
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
/// The same in the messages of servers that give no code for it.
const ACCOUNT_WORDS: [&str; 4] =
    ["credit balance is too low", "insufficient balance", "insufficient credits", "used up its credits"];
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

/// Kind and scope of a status that is none of 2xx.
pub(crate) fn classify(status: u16, body: &[u8], said: &str) -> (FailureKind, FailureScope) {
    let names = error_names(body);
    let said = said.to_lowercase();
    let is = |known: &[&str], words: &[&str]| {
        names.iter().any(|name| known.contains(&name.as_str()))
            || words.iter().any(|words| said.contains(words))
    };
    match status {
        300..=399 => (FailureKind::Redirected, FailureScope::Everything),
        402 => (FailureKind::QuotaExhausted, FailureScope::Everything),
        429 if is(&ACCOUNT, &ACCOUNT_WORDS) => (FailureKind::QuotaExhausted, FailureScope::Everything),
        429 => (FailureKind::RateLimited, FailureScope::Passing),
        408 | 409 | 425 | 500..=599 => (FailureKind::Server, FailureScope::Passing),
        _ if is(&ACCOUNT, &ACCOUNT_WORDS) => (FailureKind::QuotaExhausted, FailureScope::Everything),
        _ if is(&REQUEST, &REQUEST_WORDS) => (FailureKind::Refused, FailureScope::Request),
        413 | 414 | 431 => (FailureKind::Refused, FailureScope::Request),
        _ if is(&IDENTITY, &IDENTITY_WORDS) => (FailureKind::Refused, FailureScope::Everything),
        401 | 403 | 404 | 405 | 407 | 410 | 451 => (FailureKind::Refused, FailureScope::Everything),
        _ => (FailureKind::Refused, FailureScope::Form),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailureKind::{QuotaExhausted, RateLimited, Redirected, Refused, Server};
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
            let said = crate::response::error_text(body.as_bytes());
            assert_eq!(classify(status, body.as_bytes(), &said), expected, "{status} {body}");
        }
    }
}
