//! Models for plans: everything of a model of the hub but the data of its weights.
//!
//! The cache is `headers/{organisation}--{name}/{commit}/`, apart from the models, with the commit of each revision in
//! `refs/` once all files are there. No file in it has the name of a weights file, so that no program takes it for a
//! model.

use std::fs;
use std::path::{Path, PathBuf};

use truing_store::atomic;

use super::hub::{self, Hub, HubReference, RemoteFile, RepositoryKind, is_name};
use super::{
    DownloadProgress, FindOptions, FoundModel, ModelOrigin, check_opens, find_model, found_in_caches,
};
use crate::ModelError;
use crate::weights::header_path;

/// Finds a model for what needs no value of its weights. A model that is on disk is taken as it is. Of another one the
/// hub is asked for the small files and the headers of the weights; GGUF files are fetched whole.
/// [`ModelOrigin::Headers`] says that there are headers alone: such a model opens, and none of its weights can be read.
///
/// # Errors
/// As [`find_model`].
pub fn find_model_to_plan(
    reference: &str,
    options: &FindOptions,
    progress: &mut dyn FnMut(DownloadProgress<'_>),
) -> Result<FoundModel, ModelError> {
    let is_here = Path::new(reference).exists();
    let hub_reference = HubReference::parse(reference).filter(|parsed| !is_here && parsed.file.is_none());
    let Some(hub_reference) = hub_reference else { return find_model(reference, options, progress) };
    if found_in_caches(&hub_reference, options).is_some() {
        return find_model(reference, options, progress);
    }
    if let Some((path, commit)) = in_cache(&hub_reference, options) {
        return Ok(FoundModel { path, origin: ModelOrigin::Headers { commit } });
    }
    if options.is_offline {
        return find_model(reference, options, progress);
    }
    match fetch(&hub_reference, options, progress) {
        Ok(Some((path, commit))) => Ok(FoundModel { path, origin: ModelOrigin::Headers { commit } }),
        // A GGUF file, or a hub that does not answer: there may be a Python package with the model.
        Ok(None) => find_model(reference, options, progress),
        Err(_) if super::package_of(&hub_reference).is_some() => find_model(reference, options, progress),
        Err(error) => Err(ModelError::NotFound {
            reference: reference.to_owned(),
            looked_at: vec![
                format!("the cache `{}`: not there", options.cache_directory.display()),
                format!("the hub: {error}"),
            ],
            advice: super::ADVICE.to_owned(),
        }),
    }
}

/// The folder of a model's headers.
fn directory(reference: &HubReference, options: &FindOptions) -> PathBuf {
    options.cache_directory.join("headers").join(reference.repository.replace('/', "--"))
}

/// Holds the commit once every header is there.
fn ref_file(reference: &HubReference, options: &FindOptions) -> PathBuf {
    directory(reference, options).join("refs").join(reference.revision.replace('/', "--"))
}

fn in_cache(reference: &HubReference, options: &FindOptions) -> Option<(PathBuf, String)> {
    let commit = fs::read_to_string(ref_file(reference, options)).ok()?;
    let path = is_name(&commit).then(|| directory(reference, options).join(&commit))?;
    path.is_dir().then_some((path, commit))
}

/// Fetches small files and headers; `None` where the repository has no safetensors.
fn fetch(
    reference: &HubReference,
    options: &FindOptions,
    progress: &mut dyn FnMut(DownloadProgress<'_>),
) -> Result<Option<(PathBuf, String)>, ModelError> {
    let hub = Hub::new(options, RepositoryKind::Model);
    let repository = hub.list(&reference.repository, &reference.revision)?;
    let files = hub::choose_files(reference, &repository)?;
    let is_weights = |file: &&RemoteFile| file.name.ends_with(".safetensors");
    if !files.iter().any(|file| is_weights(&file)) {
        return Ok(None);
    }
    let (name, commit) = (&reference.repository, repository.sha.clone());
    let path = directory(reference, options).join(&commit);
    let small: Vec<(&RemoteFile, PathBuf)> =
        files.iter().filter(|file| !is_weights(file)).map(|file| (file, path.join(&file.name))).collect();
    // How many bytes the headers have is not known before they are here.
    hub.download_all(name, &commit, &small, &mut |of_small| {
        progress(DownloadProgress { total_bytes: None, ..of_small });
    })?;
    fs::create_dir_all(&path).map_err(|source| ModelError::Io { path: path.clone(), source })?;
    let n_bytes = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let mut done_bytes: u64 = small.iter().map(|(_, path)| n_bytes(path)).sum();
    for file in files.iter().filter(is_weights) {
        let target = header_path(&path.join(&file.name));
        if !target.exists() {
            atomic::write(&target, &hub.header(name, &commit, file)?)?;
        }
        done_bytes += n_bytes(&target);
        progress(DownloadProgress { file: &file.name, done_bytes, total_bytes: None });
    }
    // What does not open is not remembered: nothing but opening checks a header.
    if let Err(error) = check_opens(&path) {
        for file in files.iter().filter(is_weights) {
            fs::remove_file(header_path(&path.join(&file.name))).ok();
        }
        return Err(error);
    }
    let ref_file = ref_file(reference, options);
    let refs = ref_file.parent().unwrap_or(&path);
    fs::create_dir_all(refs).map_err(|source| ModelError::Io { path: refs.to_path_buf(), source })?;
    atomic::write(&ref_file, commit.as_bytes())?;
    Ok(Some((path, commit)))
}
