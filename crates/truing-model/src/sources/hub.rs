//! The Hugging Face hub over plain HTTP: the models API tells the commit and the files, each file is fetched
//! into `name.part` and continues from there after an interruption.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use truing_store::atomic;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::{DownloadProgress, FindOptions, check_opens, check_sha256};
use crate::ModelError;
use crate::weights::bytes_with_header;

/// Files of a repository that a model needs beside its weights; fetched where they exist.
const SMALL_FILES: &[&str] = &[
    CONFIG_FILE,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    POOLING_FILE,
];
/// What a model is.
pub(super) const CONFIG_FILE: &str = "config.json";
/// The one file in a folder of its own.
const POOLING_FILE: &str = "1_Pooling/config.json";
const BUFFER_BYTES: usize = 1 << 16;
/// Bytes that are first asked for of a weights file whose header is wanted: most headers are shorter.
const FIRST_HEADER_BYTES: usize = 1 << 16;

/// A model of the hub: `organisation/name[/file.gguf][@revision]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubReference {
    /// `organisation/name`.
    pub repository: String,
    /// A GGUF file of the repository; `None` for its safetensors, or its only GGUF file.
    pub file: Option<String>,
    /// Branch, tag or commit; `main` unless given.
    pub revision: String,
}

/// Whether a text can be one part of a path or name.
pub(super) fn is_name(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !text.is_empty() && !text.starts_with('.') && text.chars().all(is_allowed)
}

impl HubReference {
    /// Understands a reference; `None` when it is not one.
    #[must_use]
    pub fn parse(reference: &str) -> Option<Self> {
        let (place, revision) = reference.split_once('@').unwrap_or((reference, "main"));
        if !revision.split('/').all(is_name) {
            return None;
        }
        let parts: Vec<&str> = place.split('/').collect();
        let file = match parts.as_slice() {
            [_, _] => None,
            [_, _, file] if file.ends_with(".gguf") => Some((*file).to_owned()),
            _ => return None,
        };
        if !parts.iter().all(|part| is_name(part)) {
            return None;
        }
        let repository = format!("{}/{}", parts[0], parts[1]);
        Some(Self { repository, file, revision: revision.to_owned() })
    }

    fn directory(&self, cache: &Path) -> PathBuf {
        cache.join("models").join(self.repository.replace('/', "--"))
    }

    /// Holds the commit once every file of this reference is there.
    fn ref_file(&self, cache: &Path) -> PathBuf {
        let revision = self.revision.replace('/', "--");
        let name = self.file.as_ref().map_or(revision.clone(), |file| format!("{revision}@{file}"));
        self.directory(cache).join("refs").join(name)
    }

    fn model_path(&self, directory: PathBuf) -> PathBuf {
        match &self.file {
            Some(file) => directory.join(file),
            None => directory,
        }
    }

    pub(super) fn in_our_cache(&self, cache: &Path) -> Option<PathBuf> {
        let commit = fs::read_to_string(self.ref_file(cache)).ok()?;
        let path = is_name(&commit).then(|| self.model_path(self.directory(cache).join(commit)))?;
        path.exists().then_some(path)
    }

    /// `models--organisation--name/{refs/revision, snapshots/commit}`. Those snapshots may lack files, so only
    /// one that opens counts.
    pub(super) fn in_hugging_face_cache(&self, cache: &Path) -> Option<PathBuf> {
        let directory = cache.join(format!("models--{}", self.repository.replace('/', "--")));
        let commit = fs::read_to_string(directory.join("refs").join(&self.revision))
            .map_or_else(|_| self.revision.clone(), |commit| commit.trim().to_owned());
        let path = is_name(&commit).then(|| self.model_path(directory.join("snapshots").join(commit)))?;
        check_opens(&path).is_ok().then_some(path)
    }
}

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RepositoryKind {
    Model,
    Dataset,
}

impl RepositoryKind {
    /// Its API.
    fn api(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    /// Before the repository's name in the address of a file.
    fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }

    /// For messages.
    fn noun(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "data set",
        }
    }
}

/// The API's answer on a repository.
#[derive(Deserialize)]
pub(super) struct Repository {
    pub(super) sha: String,
    pub(super) siblings: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Deserialize, Clone)]
pub(super) struct RemoteFile {
    #[serde(rename = "rfilename")]
    pub(super) name: String,
    pub(super) size: Option<u64>,
    pub(super) lfs: Option<LargeFile>,
}

#[derive(Deserialize, Clone)]
pub(super) struct LargeFile {
    sha256: String,
}

/// The hub, for repositories of one kind.
pub(super) struct Hub<'a> {
    agent: Agent,
    options: &'a FindOptions,
    kind: RepositoryKind,
}

/// Downloads a model; gives its path and commit.
pub(super) fn fetch(
    reference: &HubReference,
    options: &FindOptions,
    progress: &mut dyn FnMut(DownloadProgress<'_>),
) -> Result<(PathBuf, String), ModelError> {
    let hub = Hub::new(options, RepositoryKind::Model);
    let repository = hub.list(&reference.repository, &reference.revision)?;
    let files = choose_files(reference, &repository)?;
    let directory = reference.directory(&options.cache_directory).join(&repository.sha);
    let named: Vec<(&RemoteFile, PathBuf)> =
        files.iter().map(|file| (file, directory.join(&file.name))).collect();
    hub.download_all(&reference.repository, &repository.sha, &named, progress)?;
    // What does not open is not remembered.
    let path = reference.model_path(directory);
    check_opens(&path)?;
    let ref_file = reference.ref_file(&options.cache_directory);
    let refs = ref_file.parent().unwrap_or(&options.cache_directory);
    fs::create_dir_all(refs).map_err(|source| ModelError::Io { path: refs.to_path_buf(), source })?;
    atomic::write(&ref_file, repository.sha.as_bytes())?;
    Ok((path, repository.sha))
}

/// Downloads config.json alone; gives its path. The model is not remembered as fetched: its other files are missing.
pub(super) fn fetch_config(
    reference: &HubReference,
    options: &FindOptions,
    progress: &mut dyn FnMut(DownloadProgress<'_>),
) -> Result<PathBuf, ModelError> {
    let hub = Hub::new(options, RepositoryKind::Model);
    let repository = hub.list(&reference.repository, &reference.revision)?;
    let problem =
        |problem: &str| ModelError::Download { url: reference.repository.clone(), problem: problem.into() };
    if !is_name(&repository.sha) {
        return Err(problem("the hub names no commit"));
    }
    let file = repository.siblings.iter().find(|file| file.name == CONFIG_FILE);
    let file = file.ok_or_else(|| problem("it has no file `config.json`"))?;
    let path = reference.directory(&options.cache_directory).join(&repository.sha).join(CONFIG_FILE);
    hub.download_all(&reference.repository, &repository.sha, &[(file, path.clone())], progress)?;
    Ok(path)
}

/// The files of a repository that make the model.
pub(super) fn choose_files(
    reference: &HubReference,
    repository: &Repository,
) -> Result<Vec<RemoteFile>, ModelError> {
    let problem = |problem: String| ModelError::Download { url: reference.repository.clone(), problem };
    if !is_name(&repository.sha) {
        return Err(problem(format!("the hub names the commit `{}`", repository.sha)));
    }
    let named = |is_wanted: &dyn Fn(&str) -> bool| -> Vec<RemoteFile> {
        let is_safe = |name: &str| is_name(name) || name == POOLING_FILE;
        let files = repository.siblings.iter().filter(|file| is_safe(&file.name) && is_wanted(&file.name));
        files.cloned().collect()
    };
    if let Some(wanted) = &reference.file {
        let files = named(&|name| name == wanted);
        return if files.is_empty() { Err(problem(format!("it has no file `{wanted}`"))) } else { Ok(files) };
    }
    let has = |wanted: &str| repository.siblings.iter().any(|file| file.name == wanted);
    let is_single = has("model.safetensors");
    if has(CONFIG_FILE) && (is_single || has("model.safetensors.index.json")) {
        return Ok(named(&|name| {
            let is_shard = !is_single && name.starts_with("model-") && name.ends_with(".safetensors");
            let is_weights = is_shard || name == "model.safetensors";
            is_weights || (SMALL_FILES.contains(&name) && !(is_single && name.ends_with(".index.json")))
        }));
    }
    let gguf_files = named(&|name| name.ends_with(".gguf"));
    match gguf_files.as_slice() {
        [_] => Ok(gguf_files),
        [] => Err(problem("it holds no safetensors and no GGUF file".to_owned())),
        several => {
            let names: Vec<&str> = several.iter().map(|file| file.name.as_str()).collect();
            Err(problem(format!(
                "it holds {} GGUF files; name one of them as `{}/FILE`: {}",
                names.len(),
                reference.repository,
                names.join(", ")
            )))
        }
    }
}

fn file_size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

impl<'a> Hub<'a> {
    pub(super) fn new(options: &'a FindOptions, kind: RepositoryKind) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(options.stall_timeout))
            .timeout_per_read(Some(options.stall_timeout))
            .redirect_auth_headers(RedirectAuthHeaders::Never)
            .user_agent(concat!("truing/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self { agent, options, kind }
    }

    /// Fetches the files that are not there yet, each to the path beside it.
    pub(super) fn download_all(
        &self,
        repository: &str,
        commit: &str,
        files: &[(&RemoteFile, PathBuf)],
        progress: &mut dyn FnMut(DownloadProgress<'_>),
    ) -> Result<(), ModelError> {
        let io_error = |path: &Path| {
            let path = path.to_path_buf();
            move |source| ModelError::Io { path, source }
        };
        let total_bytes = files.iter().map(|(file, _)| file.size).sum::<Option<u64>>();
        let mut done_bytes = 0;
        for (file, target) in files {
            if !target.exists() {
                let folder = target.parent().unwrap_or(Path::new("."));
                fs::create_dir_all(folder).map_err(io_error(folder))?;
                let url = self.url(repository, commit, file);
                self.download(&url, file, target, &mut |file_bytes| {
                    let done_bytes = done_bytes + file_bytes;
                    progress(DownloadProgress { file: &file.name, done_bytes, total_bytes });
                })?;
            }
            done_bytes += fs::metadata(target).map_err(io_error(target))?.len();
        }
        Ok(())
    }

    fn url(&self, repository: &str, commit: &str, file: &RemoteFile) -> String {
        let (endpoint, prefix) = (&self.options.hub_endpoint, self.kind.prefix());
        format!("{endpoint}/{prefix}{repository}/resolve/{commit}/{}", file.name)
    }

    /// The beginning of a weights file, up to the end of its header.
    pub(super) fn header(
        &self,
        repository: &str,
        commit: &str,
        file: &RemoteFile,
    ) -> Result<Vec<u8>, ModelError> {
        let url = self.url(repository, commit, file);
        self.with_patience(|| self.header_attempt(&url))
    }

    /// Asks for the first bytes, and where the header is longer for the rest of it. A server that does not know ranges
    /// sends the whole file: it is read up to the end of the header, and the connection is dropped.
    fn header_attempt(&self, url: &str) -> Result<Vec<u8>, Attempt> {
        let again = |problem: String| Attempt::Again { error: failed(url, problem), brought_bytes: false };
        let (mut bytes, mut wanted) = (Vec::new(), FIRST_HEADER_BYTES);
        loop {
            let from = bytes.len();
            let range = Some(format!("bytes={from}-{}", wanted - 1));
            let response =
                self.get_range(url, range).map_err(|error| Attempt::Again { error, brought_bytes: false })?;
            check_status(url, response.status(), self.kind)?;
            let is_part = continues_at(&response, from as u64);
            if !is_part {
                bytes.clear();
            }
            let mut body = response.into_body().into_reader();
            let mut read_up_to = |n_bytes: usize, bytes: &mut Vec<u8>| -> Result<(), Attempt> {
                let missing = n_bytes.saturating_sub(bytes.len()) as u64;
                let read = body.by_ref().take(missing).read_to_end(bytes);
                read.map(drop).map_err(|error| again(format!("cut off inside the header: {error}")))
            };
            read_up_to(wanted, &mut bytes)?;
            let length = bytes_with_header(&bytes).map_err(|problem| Attempt::Final(failed(url, problem)))?;
            let length = length.ok_or_else(|| again(format!("sent {} bytes, no header", bytes.len())))?;
            if !is_part {
                read_up_to(length, &mut bytes)?;
            }
            if bytes.len() >= length {
                bytes.truncate(length);
                return Ok(bytes);
            }
            if !is_part || bytes.len() == from {
                return Err(again(format!("cut off after {} of {length} bytes of the header", bytes.len())));
            }
            wanted = length;
        }
    }

    fn get(&self, url: &str, from: u64) -> Result<Response<Body>, ModelError> {
        self.get_range(url, (from > 0).then(|| format!("bytes={from}-")))
    }

    fn get_range(&self, url: &str, range: Option<String>) -> Result<Response<Body>, ModelError> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.options.hub_token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        request.call().map_err(|error| failed(url, error.to_string()))
    }

    /// Tries again after failures that may pass, until several attempts in a row have brought no byte.
    fn with_patience<T>(&self, mut attempt: impl FnMut() -> Result<T, Attempt>) -> Result<T, ModelError> {
        let mut wait = self.options.retry_wait;
        let mut fruitless = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Again { error, brought_bytes }) => {
                    fruitless = if brought_bytes { 0 } else { fruitless + 1 };
                    if fruitless >= self.options.max_attempts {
                        return Err(error);
                    }
                    if brought_bytes {
                        wait = self.options.retry_wait;
                    }
                    std::thread::sleep(wait);
                    wait = wait.saturating_mul(2);
                }
            }
        }
    }

    /// The files of a repository at a revision.
    pub(super) fn list(&self, repository: &str, revision: &str) -> Result<Repository, ModelError> {
        let revision = revision.replace('/', "%2F");
        let (endpoint, api) = (&self.options.hub_endpoint, self.kind.api());
        let url = format!("{endpoint}/api/{api}/{repository}/revision/{revision}?blobs=true");
        self.with_patience(|| {
            let again = |error| Attempt::Again { error, brought_bytes: false };
            let mut response = self.get(&url, 0).map_err(again)?;
            check_status(&url, response.status(), self.kind)?;
            let text = response.body_mut().read_to_vec().map_err(|e| again(failed(&url, e.to_string())))?;
            serde_json::from_slice(&text)
                .map_err(|error| Attempt::Final(failed(&url, format!("not the answer of a hub: {error}"))))
        })
    }

    /// Fetches one file; `progress` gets the bytes that are there.
    fn download(
        &self,
        url: &str,
        file: &RemoteFile,
        target: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ModelError> {
        let part = PathBuf::from(format!("{}.part", target.display()));
        let expected_sha256 = file.lfs.as_ref().map(|lfs| lfs.sha256.as_str());
        let is_resumed = file_size(&part) > 0;
        self.with_patience(|| self.download_attempt(url, file.size, &part, progress))?;
        let checked = expected_sha256.map_or(Ok(()), |sha256| check_sha256(&part, sha256));
        match checked {
            // The old part may have been of another file: once more from the start.
            Err(ModelError::Checksum { .. }) if is_resumed => {
                self.with_patience(|| self.download_attempt(url, file.size, &part, progress))?;
                expected_sha256.map_or(Ok(()), |sha256| check_sha256(&part, sha256))?;
            }
            checked => checked?,
        }
        fs::rename(&part, target).map_err(|source| ModelError::Io { path: target.to_path_buf(), source })
    }

    /// One request that continues the `.part` file, until it is whole.
    fn download_attempt(
        &self,
        url: &str,
        size: Option<u64>,
        part: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Attempt> {
        let disk = |source| Attempt::Final(ModelError::Io { path: part.to_path_buf(), source });
        let mut from = file_size(part);
        if size.is_some_and(|size| from > size) {
            fs::remove_file(part).map_err(disk)?;
            from = 0;
        }
        if size == Some(from) && from > 0 {
            return Ok(());
        }
        let again =
            |problem: String, brought_bytes| Attempt::Again { error: failed(url, problem), brought_bytes };
        let response = self.get(url, from).map_err(|error| Attempt::Again { error, brought_bytes: false })?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            fs::remove_file(part).map_err(disk)?;
            return Err(again("the server cannot resume an interrupted download".to_owned(), false));
        }
        check_status(url, response.status(), self.kind)?;
        // A server that does not continue from where it was asked sends the whole file.
        let continues = continues_at(&response, from);
        let mut out = OpenOptions::new()
            .create(true)
            .write(true)
            .append(continues)
            .truncate(!continues)
            .open(part)
            .map_err(disk)?;
        let mut done = if continues { from } else { 0 };
        let announced = header_text(&response, header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let size = size.or(announced.map(|length: u64| done + length));

        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut brought_bytes = false;
        loop {
            match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    out.write_all(&buffer[..n]).map_err(disk)?;
                    done += n as u64;
                    brought_bytes = true;
                    progress(done);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let problem = format!("cut off after {done} bytes: {error}");
                    return Err(again(problem, brought_bytes && (continues || from == 0)));
                }
            }
        }
        out.sync_all().map_err(disk)?;
        match size {
            Some(size) if done < size => {
                let problem = format!("cut off after {done} of {size} bytes");
                Err(again(problem, brought_bytes && (continues || from == 0)))
            }
            Some(size) if done > size => {
                fs::remove_file(part).map_err(disk)?;
                Err(Attempt::Final(failed(url, format!("sent {done} bytes, expected {size}"))))
            }
            _ => Ok(()),
        }
    }
}

/// Why an attempt did not succeed.
enum Attempt {
    /// It may pass.
    Again { error: ModelError, brought_bytes: bool },
    /// It will not.
    Final(ModelError),
}

fn failed(url: &str, problem: String) -> ModelError {
    ModelError::Download { url: url.to_owned(), problem }
}

fn header_text(response: &Response<Body>, name: header::HeaderName) -> Option<&str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Whether an answer has the bytes from `from` on, as it was asked.
fn continues_at(response: &Response<Body>, from: u64) -> bool {
    response.status() == StatusCode::PARTIAL_CONTENT
        && header_text(response, header::CONTENT_RANGE)
            .is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
}

fn check_status(url: &str, status: StatusCode, kind: RepositoryKind) -> Result<(), Attempt> {
    let noun = kind.noun();
    let is_final = |problem: &str| Err(Attempt::Final(failed(url, format!("{problem} (status {status})"))));
    match status.as_u16() {
        200..=299 => Ok(()),
        401 | 403 => {
            is_final(&format!("the hub wants a token that may read this {noun}, or there is no such {noun}"))
        }
        404 => is_final(&format!("there is no such {noun}, revision or file")),
        408 | 429 | 500..=599 => {
            let error = failed(url, format!("the hub is busy (status {status})"));
            Err(Attempt::Again { error, brought_bytes: false })
        }
        _ => is_final("the hub refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_understood() {
        let parse = |text| HubReference::parse(text);
        let reference = parse("org/model-1.5").unwrap();
        assert_eq!(reference.repository, "org/model-1.5");
        assert_eq!((reference.file.as_deref(), reference.revision.as_str()), (None, "main"));
        let reference = parse("org/model/model.Q4_1.gguf@refs/pr/1").unwrap();
        assert_eq!(
            (reference.file.as_deref(), reference.revision.as_str()),
            (Some("model.Q4_1.gguf"), "refs/pr/1")
        );
        for text in
            ["model", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "/a/b", "a//b", "a/b c", "a\\b/c", ""]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
