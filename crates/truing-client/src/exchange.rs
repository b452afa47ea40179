//! One request and its answer over the network, in a thread of its own. Reading from a connection blocks until
//! something comes or the time is up; the thread that asks waits for pieces of the answer instead, and can stop
//! waiting. The thread behind it then ends by itself, at the latest at the request's timeout.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use crate::failure::Failure;
use crate::response::AnswerError;
use crate::{Clock, FailureKind};

const BUFFER_BYTES: usize = 1 << 14;
/// As much of an error page as is read; the message is at its beginning.
const MAX_ERROR_BYTES: u64 = 1 << 16;
/// Pieces that may wait to be taken.
const MAX_PIECES_AHEAD: usize = 16;
/// How often a wait looks whether the process stops.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long answers that are under way may still come once the process stops: they are paid for.
const GRACE: Duration = Duration::from_secs(5);

/// Why no reply was received.
pub(crate) enum Unfinished {
    /// The attempt failed.
    Failed(Failure),
    /// The process stops.
    Stopped,
}

impl From<Failure> for Unfinished {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<AnswerError> for Unfinished {
    fn from(error: AnswerError) -> Self {
        Self::Failed(error.into())
    }
}

/// A request as it is sent.
pub(crate) struct Exchange {
    pub(crate) agent: Agent,
    pub(crate) url: String,
    /// The header, where the server wants a key.
    pub(crate) authorization: Option<String>,
    pub(crate) body: String,
    pub(crate) is_streamed: bool,
    /// Of a stream for its beginning and for each piece, else for the whole answer.
    pub(crate) timeout: Duration,
    pub(crate) max_bytes: u64,
}

/// A piece of what comes back, in this order.
pub(crate) enum Piece {
    /// The answer begins, as a stream of events or as one object.
    Begun { has_events: bool },
    /// The next bytes of the answer.
    Bytes(Vec<u8>),
    /// A status that is no success, instead of an answer.
    Refused(Refused),
}

/// An answer whose status is no success.
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    /// The header `Retry-After`.
    pub(crate) retry_after: Option<String>,
    /// The header `Location`.
    pub(crate) place: String,
    /// The beginning of the body.
    pub(crate) body: Vec<u8>,
}

/// What the thread hands over; `None` is the end of the answer.
type Handed = Result<Option<Piece>, Failure>;

impl Exchange {
    /// Sends the request, and gives what comes back.
    pub(crate) fn start(self, clock: Arc<dyn Clock>) -> Result<Pieces, Failure> {
        let (sender, receiver) = mpsc::sync_channel(MAX_PIECES_AHEAD);
        let run = move || {
            let handed = self.run(&sender).map(|()| None);
            // After a stop the receiver is gone, and the reply is dropped.
            let _ = sender.send(handed);
        };
        let thread = std::thread::Builder::new().name("truing-request".into()).spawn(run);
        thread.map_err(|error| {
            Failure::new(FailureKind::Connection, format!("no thread for the request: {error}"))
        })?;
        Ok(Pieces { receiver, clock, stopped: None })
    }

    fn run(self, sender: &SyncSender<Handed>) -> Result<(), Failure> {
        let config = self.agent.post(&self.url).config().timeout_recv_response(Some(self.timeout));
        let config = match self.is_streamed {
            true => config.timeout_per_read(Some(self.timeout)),
            false => config.timeout_global(Some(self.timeout)),
        };
        let mut request = config.build().header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let response = request.send(self.body).map_err(|error| transport_failure(&error))?;
        if !response.status().is_success() {
            let _ = sender.send(Ok(Some(Piece::Refused(refused(response)))));
            return Ok(());
        }
        let content_type = header_text(&response, header::CONTENT_TYPE).unwrap_or_default();
        // What came decides, not what was asked for: some servers know no streams, some only streams.
        let has_events = content_type.trim_start().starts_with("text/event-stream");
        if sender.send(Ok(Some(Piece::Begun { has_events }))).is_err() {
            return Ok(());
        }
        let mut reader = Bounded::new(response, self.max_bytes);
        while let Some(bytes) = reader.read()? {
            if sender.send(Ok(Some(Piece::Bytes(bytes)))).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// The pieces of an answer, as they come.
pub(crate) struct Pieces {
    receiver: Receiver<Handed>,
    clock: Arc<dyn Clock>,
    /// When this wait has first seen that the process stops.
    stopped: Option<Instant>,
}

impl Pieces {
    /// Whether the process stops and the time that was left is up.
    fn is_over(&mut self) -> bool {
        self.clock.is_stopped() && self.stopped.get_or_insert_with(Instant::now).elapsed() >= GRACE
    }

    /// All bytes that are left.
    pub(crate) fn rest(&mut self) -> Result<Vec<u8>, Unfinished> {
        let mut bytes = Vec::new();
        while let Some(Piece::Bytes(more)) = self.next()? {
            bytes.extend(more);
        }
        Ok(bytes)
    }

    /// The next piece; `None` at the end of the answer.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>, Unfinished> {
        loop {
            let wait = if self.is_over() { Duration::ZERO } else { PATIENCE };
            match self.receiver.recv_timeout(wait) {
                Ok(handed) => return Ok(handed?),
                Err(RecvTimeoutError::Disconnected) => {
                    let problem = "the thread of the request ended without an answer";
                    return Err(Failure::new(FailureKind::Connection, problem).into());
                }
                // What is there already was taken before.
                Err(RecvTimeoutError::Timeout) if self.is_over() => return Err(Unfinished::Stopped),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

fn refused(response: Response<Body>) -> Refused {
    let status = response.status();
    let retry_after = header_text(&response, header::RETRY_AFTER).map(str::to_owned);
    let place = header_text(&response, header::LOCATION).unwrap_or_default().to_owned();
    let mut body = Vec::new();
    // The status is known; what cannot be read of its reasons is left out.
    let _ = response.into_body().into_reader().take(MAX_ERROR_BYTES).read_to_end(&mut body);
    Refused { status, retry_after, place, body }
}

fn header_text(response: &Response<Body>, name: header::HeaderName) -> Option<&str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

fn transport_failure(error: &ureq::Error) -> Failure {
    match error {
        ureq::Error::Timeout(phase) => Failure::new(FailureKind::Timeout, format!("timed out: {phase}")),
        other => Failure::new(FailureKind::Connection, other.to_string()),
    }
}

/// The body of an answer, up to the longest that is taken.
struct Bounded {
    reader: Box<dyn Read>,
    announced: Option<u64>,
    n_read: u64,
    most: u64,
    buffer: Vec<u8>,
}

impl Bounded {
    fn new(response: Response<Body>, most: u64) -> Self {
        let announced = header_text(&response, header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
        let reader = Box::new(response.into_body().into_reader());
        Self { reader, announced, n_read: 0, most, buffer: vec![0; BUFFER_BYTES] }
    }

    /// What comes next; `None` at the end.
    fn read(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let n = loop {
            match self.reader.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failure(&error)),
                Ok(n) => break n,
            }
        };
        self.n_read += n as u64;
        if self.n_read.max(self.announced.unwrap_or(0)) > self.most {
            let problem = format!("the response is longer than `max_response_bytes = {}`", self.most);
            return Err(Failure::new(FailureKind::TooLong, problem));
        }
        Ok((n > 0).then(|| self.buffer[..n].to_vec()))
    }

    fn failure(&self, error: &io::Error) -> Failure {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
        let is_timeout =
            matches!(inner, Some(ureq::Error::Timeout(_))) || error.kind() == io::ErrorKind::TimedOut;
        let kind = if is_timeout { FailureKind::Timeout } else { FailureKind::CutOff };
        Failure::new(kind, format!("the response was cut off after {} bytes: {error}", self.n_read))
    }
}
