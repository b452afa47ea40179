//! A server of objects for tests: the part of S3's protocol that is used here, on this machine, with what it was sent
//! in memory.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

pub(super) struct Server {
    pub(super) url: String,
    objects: Objects,
}

impl Server {
    /// A server that answers as long as the process runs.
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let objects = Objects::default();
        let of_server = Arc::clone(&objects);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let objects = Arc::clone(&of_server);
                // A client that goes away is no fault.
                thread::spawn(move || drop(answer(stream, &objects)));
            }
        });
        Self { url, objects }
    }

    pub(super) fn put(&self, path: &str, bytes: &[u8]) {
        self.objects.lock().unwrap().insert(path.to_owned(), bytes.to_vec());
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }
}

/// Answers one request of a connection, and closes it.
fn answer(stream: TcpStream, objects: &Objects) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut n_bytes, mut is_new) = (0, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim().to_ascii_lowercase();
        match header.split_once(':') {
            None => break,
            Some(("content-length", value)) => n_bytes = value.trim().parse().unwrap_or(0),
            Some(("if-none-match", value)) => is_new = value.trim() == "*",
            Some(_) => {}
        }
    }
    let mut sent = vec![0; n_bytes];
    reader.read_exact(&mut sent)?;
    let (status, body) = handle(method, target, is_new, sent, &mut objects.lock().unwrap());
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\netag: \"tag\"\r\n\
         last-modified: Tue, 01 Dec 2020 00:00:00 GMT\r\n\r\n",
        body.len()
    );
    let stream = reader.get_mut();
    stream.write_all(head.as_bytes())?;
    if method != "HEAD" {
        stream.write_all(&body)?;
    }
    stream.flush()
}

fn handle(
    method: &str,
    target: &str,
    is_new: bool,
    sent: Vec<u8>,
    objects: &mut BTreeMap<String, Vec<u8>>,
) -> (u16, Vec<u8>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match method {
        "GET" if query.contains("list-type=2") => (200, listing(path, query, objects)),
        "GET" | "HEAD" => objects.get(path).map_or((404, Vec::new()), |bytes| (200, bytes.clone())),
        "PUT" if is_new && objects.contains_key(path) => (412, Vec::new()),
        "PUT" => {
            objects.insert(path.to_owned(), sent);
            (200, Vec::new())
        }
        "DELETE" => {
            objects.remove(path);
            (204, Vec::new())
        }
        _ => (400, Vec::new()),
    }
}

/// The objects of a bucket below a prefix.
fn listing(path: &str, query: &str, objects: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let bucket = format!("{}/", path.trim_end_matches('/'));
    let prefix = query.split('&').find_map(|field| field.strip_prefix("prefix=")).unwrap_or_default();
    let prefix = prefix.replace("%2F", "/");
    let mut text = String::from("<ListBucketResult>");
    for (name, bytes) in objects {
        if let Some(key) = name.strip_prefix(&bucket).filter(|key| key.starts_with(&prefix)) {
            text.push_str(&format!(
                "<Contents><Key>{key}</Key><Size>{}</Size><ETag>tag</ETag>\
                 <LastModified>2020-12-01T00:00:00.000Z</LastModified></Contents>",
                bytes.len()
            ));
        }
    }
    text.push_str("</ListBucketResult>");
    text.into_bytes()
}
