//! Every kind of storage that can be had without a network does what [`Storage`] says; S3 and a web server are imitated
//! by a small server here.

mod server;

use std::fs;
use std::io::{self, Read};

use object_store::memory::InMemory;

use self::server::Server;
use super::*;

fn in_memory(prefix: &str) -> ObjectStorage {
    let (store, prefix) = (Box::new(InMemory::new()), prefix.to_owned());
    ObjectStorage { store, prefix, is_read_only: false, runtime: runtime().unwrap() }
}

fn read(storage: &dyn Storage, name: &str) -> Result<Vec<u8>, StorageError> {
    let mut bytes = Vec::new();
    storage.read(name, &mut bytes).map(|()| bytes)
}

/// What every storage that can be written does.
fn check(storage: &dyn Storage) {
    assert!(!storage.is_read_only());
    assert!(matches!(read(storage, "objects/a"), Err(StorageError::Missing)));
    assert_eq!(storage.size("objects/a").unwrap(), None);
    assert_eq!(storage.list("objects").unwrap(), Vec::<String>::new());
    storage.write("objects/a", &mut &b"one"[..], 3).unwrap();
    storage.write("objects/a", &mut &b"again"[..], 5).unwrap();
    assert_eq!(
        (read(storage, "objects/a").unwrap(), storage.size("objects/a").unwrap()),
        (b"again".to_vec(), Some(5))
    );
    storage.write_new("leases/k/0000000001", b"first").unwrap();
    assert!(matches!(storage.write_new("leases/k/0000000001", b"second"), Err(StorageError::Exists)));
    assert_eq!(read(storage, "leases/k/0000000001").unwrap(), b"first");
    storage.write_new("leases/k/0000000002", b"second").unwrap();
    assert_eq!(storage.list("leases/k").unwrap(), ["0000000001", "0000000002"]);
    assert_eq!(storage.list("leases").unwrap(), ["k/0000000001", "k/0000000002"]);
    storage.remove("objects/a").unwrap();
    storage.remove("objects/a").unwrap();
    assert_eq!(storage.size("objects/a").unwrap(), None);
}

/// Bytes, and then an error.
struct Broken<'a>(&'a [u8]);

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::other("the disk is gone")),
            n_bytes => Ok(n_bytes),
        }
    }
}

/// Objects that are sent in parts.
fn check_parts(storage: &dyn Storage) {
    let large: Vec<u8> = (0..2 * PART_BYTES + 5).map(|byte| (byte % 251) as u8).collect();
    storage.write("objects/large", &mut large.as_slice(), large.len() as u64).unwrap();
    assert!(read(storage, "objects/large").unwrap() == large);
    for size in [10, large.len()] {
        let error = storage.write("objects/broken", &mut Broken(&large[..size]), size as u64).unwrap_err();
        assert!(matches!(error, StorageError::Local(_)), "{error:?}");
        assert_eq!(storage.size("objects/broken").unwrap(), None, "nothing is written");
    }
}

#[test]
fn memory_and_folders_are_storages() {
    check(&in_memory(""));
    check(&in_memory("deep/prefix"));
    check_parts(&in_memory("prefix"));
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let storage = open(&url, &[]).unwrap();
    check(&*storage);
    check_parts(&*storage);
    // Another machine sees the same.
    assert_eq!(open(&url, &[]).unwrap().list("leases/k").unwrap().len(), 2);
}

#[test]
fn addresses_that_cannot_be_used_are_refused_with_what_was_expected() {
    let cases = [
        ("bucket/prefix", "expected s3://BUCKET/PREFIX"),
        ("ftp://host/x", "expected s3://BUCKET/PREFIX"),
        ("s3:///prefix", "it names no bucket or host"),
        ("file://host/folder", "expected s3://BUCKET/PREFIX"),
        ("file:///no/such/folder", "there is no folder /no/such/folder: create it, or mount it"),
        ("https://user:secret@host/x", "a name and password in an address are not used"),
    ];
    for (url, expected) in cases {
        let reason = open(url, &[]).unwrap_err();
        assert!(reason.contains(expected) && !reason.contains("secret"), "{url}: {reason}");
    }
}

#[test]
fn s3_is_a_storage() {
    let server = Server::start();
    let variables = [
        ("AWS_ENDPOINT", server.url.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "name"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "nowhere"),
        ("HOME", "/not/of/storage"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let storage = open("s3://bucket/some/prefix", &variables).unwrap();
    check(&*storage);
    assert_eq!(
        server.names(),
        ["/bucket/some/prefix/leases/k/0000000001", "/bucket/some/prefix/leases/k/0000000002"]
    );
}

#[test]
fn a_web_server_is_read_and_not_written() {
    let server = Server::start();
    server.put("/folder/results/k.json", b"{}");
    let storage = open(&format!("{}/folder", server.url), &[]).unwrap();
    assert!(storage.is_read_only());
    assert_eq!(read(&*storage, "results/k.json").unwrap(), b"{}");
    assert!(matches!(read(&*storage, "results/l.json"), Err(StorageError::Missing)));
}

#[test]
fn a_connection_that_cannot_be_made_is_an_error_with_its_cause() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/folder", listener.local_addr().unwrap());
    drop(listener);
    // The error of one attempt: `object_store` would try several times, with pauses.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let options = ClientOptions::new().with_allow_http(true);
    let store = HttpBuilder::new().with_url(&url).with_client_options(options).with_retry(retry);
    let store = Box::new(store.with_http_connector(Connector).build().unwrap());
    let storage =
        ObjectStorage { store, prefix: String::new(), is_read_only: true, runtime: runtime().unwrap() };
    let error = read(&storage, "results/k.json").unwrap_err();
    let said = truing_types::with_causes(&error);
    assert!(matches!(error, StorageError::Failed(_)) && said.contains("refused"), "{said}");
}

#[test]
fn a_folder_that_is_a_remote_has_objects_by_digest() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&format!("file://{}", folder.path().display()), &[]).unwrap();
    storage.write("objects/abc", &mut &b"bytes"[..], 5).unwrap();
    assert_eq!(fs::read(folder.path().join("objects/abc")).unwrap(), b"bytes");
}
