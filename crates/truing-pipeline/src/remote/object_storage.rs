//! Storages of objects through the crate `object_store`: S3 and what speaks its protocol, Google Cloud Storage, Azure,
//! folders, and web servers to read from.

mod connector;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::Duration;

use futures_util::StreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    ClientOptions, Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig,
};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use self::connector::Connector;
use super::{Storage, StorageError};

/// Objects up to this size are sent whole; others in parts of this size or larger.
const PART_BYTES: u64 = 8 << 20;
/// S3 takes 10,000 parts.
const MAX_PARTS: u64 = 9_000;
/// Parts that are on their way at the same time.
const N_PARTS_AT_ONCE: usize = 4;
/// How long a storage may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How long anything else may take with all its attempts: the body of an answer has no limit of its own.
const LONGEST: Duration = Duration::from_secs(20 * 60);
const N_RETRIES: usize = 4;
const RETRY_TIME: Duration = Duration::from_secs(60);

/// A storage, and the threads that speak with it.
#[derive(Debug)]
struct ObjectStorage {
    store: Box<dyn ObjectStore>,
    /// The part of the address that names of objects come after.
    prefix: String,
    is_read_only: bool,
    runtime: Runtime,
}

/// The storage at an address; or why there is none.
pub(super) fn open(url: &str, variables: &[(String, String)]) -> Result<Box<dyn Storage>, String> {
    let expected = "expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, file:///FOLDER, or \
                    http(s)://HOST/FOLDER";
    let (scheme, rest) = url.split_once("://").ok_or(expected)?;
    let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() && scheme != "file" {
        return Err(format!("it names no bucket or host: {expected}"));
    }
    let bucket = format!("{scheme}://{host}");
    let store = match scheme {
        "s3" => s3(&bucket, variables),
        "gs" => google(&bucket, variables),
        "az" => azure(&bucket, variables),
        "file" if host.is_empty() => return folder(&format!("/{prefix}")),
        "http" | "https" if host.contains('@') => {
            return Err(
                "a name and password in an address are not used: expected http(s)://HOST/FOLDER".to_owned()
            );
        }
        "http" | "https" => web(url),
        _ => return Err(expected.to_owned()),
    };
    let store = store.map_err(|error| error.to_string())?;
    let is_web = scheme.starts_with("http");
    // The address of a web server holds its folder.
    let prefix = if is_web { String::new() } else { prefix.trim_matches('/').to_owned() };
    Ok(Box::new(ObjectStorage { store, prefix, is_read_only: is_web, runtime: runtime()? }))
}

type Opened = Result<Box<dyn ObjectStore>, Error>;

fn s3(bucket: &str, variables: &[(String, String)]) -> Opened {
    let mut builder = AmazonS3Builder::new().with_url(bucket).with_disable_bulk_delete(true);
    for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("AWS_")) {
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    Ok(Box::new(builder.with_retry(retries()).with_http_connector(Connector).build()?))
}

fn google(bucket: &str, variables: &[(String, String)]) -> Opened {
    let mut builder = GoogleCloudStorageBuilder::new().with_url(bucket);
    let is_google = |name: &str| name.starts_with("GOOGLE_") || name == "SERVICE_ACCOUNT";
    for (name, value) in variables.iter().filter(|(name, _)| is_google(name)) {
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    Ok(Box::new(builder.with_retry(retries()).with_http_connector(Connector).build()?))
}

fn azure(container: &str, variables: &[(String, String)]) -> Opened {
    let mut builder = MicrosoftAzureBuilder::new().with_url(container);
    for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("AZURE_")) {
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    Ok(Box::new(builder.with_retry(retries()).with_http_connector(Connector).build()?))
}

fn web(url: &str) -> Opened {
    let options = ClientOptions::new().with_allow_http(true);
    let builder = HttpBuilder::new().with_url(url.trim_end_matches('/')).with_client_options(options);
    Ok(Box::new(builder.with_retry(retries()).with_http_connector(Connector).build()?))
}

/// A folder that several machines see. It has to be there: one that is not mounted must not look like an empty one.
fn folder(path: &str) -> Result<Box<dyn Storage>, String> {
    if !std::path::Path::new(path).is_dir() {
        return Err(format!("there is no folder {path}: create it, or mount it"));
    }
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| error.to_string())?.with_fsync(true);
    let (prefix, is_read_only) = (String::new(), false);
    Ok(Box::new(ObjectStorage { store: Box::new(store), prefix, is_read_only, runtime: runtime()? }))
}

fn retries() -> RetryConfig {
    RetryConfig { max_retries: N_RETRIES, retry_timeout: RETRY_TIME, ..RetryConfig::default() }
}

fn runtime() -> Result<Runtime, String> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("remote").enable_io().enable_time();
    builder.build().map_err(|error| error.to_string())
}

impl ObjectStorage {
    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}", self.prefix))
    }

    /// Waits for an answer.
    fn wait<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, StorageError> {
        self.wait_longest(work)?.map_err(failed)
    }

    fn wait_longest<T>(&self, work: impl Future<Output = T>) -> Result<T, StorageError> {
        let done = self.runtime.block_on(async { tokio::time::timeout(LONGEST, work).await });
        done.map_err(|_| StorageError::Failed("it did not finish within 20 minutes".into()))
    }

    /// Sends the parts of an object, several at the same time.
    fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        source: &mut dyn Read,
        part_bytes: u64,
    ) -> Result<(), StorageError> {
        let mut under_way: VecDeque<JoinHandle<Result<(), Error>>> = VecDeque::new();
        loop {
            let part = read_part(source, part_bytes)?;
            if part.is_empty() {
                break;
            }
            if under_way.len() == N_PARTS_AT_ONCE
                && let Some(first) = under_way.pop_front()
            {
                self.wait_for_part(first)?;
            }
            under_way.push_back(self.runtime.spawn(upload.put_part(part.into())));
        }
        under_way.into_iter().try_for_each(|part| self.wait_for_part(part))
    }

    fn wait_for_part(&self, part: JoinHandle<Result<(), Error>>) -> Result<(), StorageError> {
        let sent = self.wait_longest(part)?.map_err(|error| StorageError::Failed(Box::new(error)))?;
        sent.map_err(failed)
    }
}

fn read_part(source: &mut dyn Read, part_bytes: u64) -> io::Result<Vec<u8>> {
    let mut part = Vec::new();
    source.take(part_bytes).read_to_end(&mut part)?;
    Ok(part)
}

fn failed(error: Error) -> StorageError {
    match error {
        Error::NotFound { .. } => StorageError::Missing,
        Error::AlreadyExists { .. } => StorageError::Exists,
        error => StorageError::Failed(Box::new(error)),
    }
}

impl Storage for ObjectStorage {
    fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    fn read(&self, name: &str, sink: &mut dyn Write) -> Result<(), StorageError> {
        let path = self.path(name);
        let found = self.wait(self.store.get(&path))?;
        let mut stream = found.into_stream();
        loop {
            let next = self.runtime.block_on(async { tokio::time::timeout(SILENCE, stream.next()).await });
            match next {
                Ok(Some(Ok(bytes))) => sink.write_all(&bytes)?,
                Ok(Some(Err(error))) => return Err(failed(error)),
                Ok(None) => return Ok(()),
                Err(_) => return Err(StorageError::Failed("it sent nothing for a minute".into())),
            }
        }
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StorageError> {
        match self.wait(self.store.head(&self.path(name))) {
            Ok(found) => Ok(Some(found.size)),
            Err(StorageError::Missing) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, name: &str, source: &mut dyn Read, n_bytes: u64) -> Result<(), StorageError> {
        let path = self.path(name);
        if n_bytes <= PART_BYTES {
            let mut bytes = Vec::new();
            source.read_to_end(&mut bytes)?;
            return self.wait(self.store.put(&path, bytes.into())).map(drop);
        }
        let part_bytes = PART_BYTES.max(n_bytes.div_ceil(MAX_PARTS));
        let mut upload = self.wait(self.store.put_multipart(&path))?;
        match self.send_parts(&mut *upload, source, part_bytes) {
            Ok(()) => self.wait(upload.complete()).map(drop),
            Err(error) => {
                // Parts that stay take room until the storage's own rule removes them.
                let _ = self.wait(upload.abort());
                Err(error)
            }
        }
    }

    fn write_new(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let path = self.path(name);
        self.wait(self.store.put_opts(&path, bytes.to_vec().into(), options)).map(drop)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StorageError> {
        let folder = self.path(folder);
        let found = self.wait_longest(self.store.list(Some(&folder)).collect::<Vec<_>>())?;
        let mut names = Vec::new();
        for object in found {
            let location = object.map_err(failed)?.location;
            let below = location.as_ref().strip_prefix(folder.as_ref()).unwrap_or_default();
            names.push(below.trim_start_matches('/').to_owned());
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        match self.wait(self.store.delete(&self.path(name))) {
            Ok(()) | Err(StorageError::Missing) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
