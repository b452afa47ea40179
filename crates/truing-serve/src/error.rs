//! Errors as OpenAI's clients read them: a status, and `{"error": {"message", "type", "param", "code"}}`.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use truing_generate::GenerateError;

/// A request that is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) message: String,
    /// OpenAI's class of error.
    pub(crate) kind: &'static str,
    /// The field at fault, as a path (`messages[0].content`).
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
    /// Seconds after which it makes sense to ask again.
    pub(crate) retry_after: Option<u64>,
}

impl ApiError {
    fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), kind, param: None, code: None, retry_after: None }
    }

    /// A field that cannot be honoured.
    pub(crate) fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = Some(param.into());
        Self { param, ..Self::new(400, "invalid_request_error", message) }
    }

    /// A field with a value that it cannot have.
    pub(crate) fn value(param: impl Into<String>, found: &Value, expected: &str) -> Self {
        let param = param.into();
        let message = format!("`{param}` is {}, expected {expected}", shortened(found));
        Self::field(param, message)
    }

    /// A request that is not one.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", message)
    }

    /// A request that cannot be read.
    pub(crate) fn with_status(status: u16, message: impl Into<String>) -> Self {
        let kind = match status {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        Self::new(status, kind, message)
    }

    /// The same with OpenAI's code.
    pub(crate) fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The body.
    pub(crate) fn json(&self) -> Value {
        let Self { message, kind, param, code, .. } = self;
        json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
    }

    /// What generation refused or failed at.
    pub(crate) fn of_generation(error: &GenerateError) -> Self {
        let message = error.to_string();
        match error {
            GenerateError::ContextOverflow { .. } => {
                Self::field("messages", message).with_code("context_length_exceeded")
            }
            GenerateError::BadOption(option) => Self::field(option.option, message),
            error if error.is_bad_request() => Self::bad_request(message),
            _ => Self::with_status(500, message),
        }
    }
}

/// A value as it is quoted in a message.
fn shortened(value: &Value) -> String {
    const MAX_CHARS: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(&self.json());
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// A JSON body.
pub(crate) fn json_response(value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
