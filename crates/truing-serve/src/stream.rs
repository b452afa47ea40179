//! Server-sent events.

use std::future::Future;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::stream;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::error::ApiError;

/// Events that wait for a slow client before the sender waits too.
const EVENTS_BUFFERED: usize = 64;

/// A silent connection gets a comment this often, so that nothing between server and client closes it.
const PING: Duration = Duration::from_secs(15);

/// Where events go. It notices when the client has left.
pub(crate) struct Sink {
    events: mpsc::Sender<Bytes>,
}

/// The client has left: nobody reads an answer.
fn closed() -> ApiError {
    ApiError::with_status(499, "the client has left")
}

/// A sink, and the response that sends what goes into it.
pub(crate) fn channel() -> (Sink, Response) {
    let (events, receiver) = mpsc::channel(EVENTS_BUFFERED);
    let body = Body::from_stream(stream::unfold(receiver, |mut receiver| async move {
        let event = receiver.recv().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(event), receiver))
    }));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies such as nginx would collect the events otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    (Sink { events }, response)
}

impl Sink {
    async fn send_bytes(&self, bytes: Bytes) -> Result<(), ApiError> {
        self.events.send(bytes).await.map_err(|_| closed())
    }

    /// Sends an event.
    pub(crate) async fn send(&mut self, value: &Value) -> Result<(), ApiError> {
        self.send_bytes(Bytes::from(format!("data: {value}\n\n"))).await
    }

    /// Sends the last event.
    pub(crate) async fn done(&mut self) -> Result<(), ApiError> {
        self.send_bytes(Bytes::from_static(b"data: [DONE]\n\n")).await
    }

    /// Waits for something, with a sign of life from time to time, unless the client leaves.
    pub(crate) async fn or_closed<T>(
        &mut self,
        wanted: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let mut wanted = std::pin::pin!(wanted);
        loop {
            tokio::select! {
                result = &mut wanted => return result,
                () = self.events.closed() => return Err(closed()),
                () = tokio::time::sleep(PING) => {
                    self.send_bytes(Bytes::from_static(b": ping\n\n")).await?;
                }
            }
        }
    }
}
