//! Blocking work, kept off the threads that serve connections.

use crate::error::ApiError;

/// Does what takes time apart from the connections.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::with_status(500, "reading the request failed")),
    }
}
