//! The address of the models that are not there: a server on this machine that answers chat completions with the
//! replies of [`stand_in`]. Stages are processes of their own, so they reach it as they would reach the real server.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::stand_in;

/// Bytes of a request that are read, at most.
const MAX_BODY_BYTES: usize = 64 << 20;
/// A connection that is silent for so long is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that answers until the process ends.
pub(super) struct StandInServer {
    base_url: String,
    n_requests: Arc<AtomicUsize>,
}

impl StandInServer {
    /// Begins to listen on a free port of this machine.
    pub(super) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let base_url = format!("http://{}/v1", listener.local_addr()?);
        let n_requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&n_requests);
        thread::Builder::new().name("stand-in".into()).spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let counted = Arc::clone(&counted);
                // A connection that fails is seen by the stage that made it.
                thread::spawn(move || drop(serve(&stream, &counted)));
            }
        })?;
        Ok(Self { base_url, n_requests })
    }

    /// Its address with the version, as `base_url` of a server has it.
    pub(super) fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Requests that it has answered.
    pub(super) fn n_requests(&self) -> usize {
        self.n_requests.load(Ordering::SeqCst)
    }
}

/// Answers the one request of a connection.
fn serve(mut stream: &TcpStream, n_requests: &AtomicUsize) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let (path, body) = read_request(stream)?;
    n_requests.fetch_add(1, Ordering::SeqCst);
    let (status, answer) = answer(&path, &body);
    let answer = answer.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(answer.as_bytes())?;
    stream.flush()
}

/// The path and the body of a request.
fn read_request(stream: &TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut n_bytes = 0;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            n_bytes = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    if n_bytes > MAX_BODY_BYTES {
        return Err(io::Error::other(format!("a request of {n_bytes} bytes")));
    }
    let mut body = vec![0; n_bytes];
    reader.read_exact(&mut body)?;
    Ok((path, body))
}

/// The status and the body of an answer.
fn answer(path: &str, body: &[u8]) -> (&'static str, Value) {
    let refusal = |text: String| json!({ "error": { "message": text, "type": "invalid_request_error" } });
    if !path.ends_with("/chat/completions") {
        return ("404 Not Found", refusal(format!("the stand-in has no {path}: expected /chat/completions")));
    }
    let request: Value = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return ("400 Bad Request", refusal(format!("the request is not JSON: {error}"))),
    };
    let Some(messages) = request["messages"].as_array() else {
        return ("400 Bad Request", refusal("the request has no `messages`".into()));
    };
    let seed = request["seed"].as_u64().unwrap_or(0);
    let text = stand_in::formatted(stand_in::reply(messages, seed), &request["response_format"]);
    let n_tokens = |text: &str| text.len().div_ceil(4);
    let n_prompt = n_tokens(&request["messages"].to_string());
    let n_completion = n_tokens(&text);
    let completion = json!({
        "id": "rehearsal",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": text },
            "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_completion,
            "total_tokens": n_prompt + n_completion,
        },
    });
    ("200 OK", completion)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a request, and reads the status line and the body of the answer.
    fn post(server: &StandInServer, path: &str, body: &str) -> (String, Value) {
        let address = server.base_url().trim_start_matches("http://").trim_end_matches("/v1").to_owned();
        let mut stream = TcpStream::connect(address).unwrap();
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), serde_json::from_str(body).unwrap())
    }

    #[test]
    fn chat_completions_are_answered_and_everything_else_is_refused() {
        let server = StandInServer::start().unwrap();
        let messages = json!([{ "role": "user", "content": "A score: [[score]]" }]);
        let request = json!({ "model": "judge", "messages": messages, "seed": 3 }).to_string();
        let (status, answer) = post(&server, "/v1/chat/completions", &request);
        assert_eq!((status.as_str(), &answer["model"]), ("HTTP/1.1 200 OK", &json!("judge")));
        let choice = &answer["choices"][0];
        assert!(choice["message"]["content"].as_str().unwrap().starts_with("[["), "{answer}");
        assert_eq!(choice["finish_reason"], "stop");
        assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() > 0);
        let (status, answer) = post(&server, "/v1/embeddings", "{}");
        assert_eq!(status, "HTTP/1.1 404 Not Found");
        assert!(answer["error"]["message"].as_str().unwrap().contains("/v1/embeddings"), "{answer}");
        assert_eq!(post(&server, "/v1/chat/completions", "no").0, "HTTP/1.1 400 Bad Request");
        assert_eq!(server.n_requests(), 3);
    }
}
