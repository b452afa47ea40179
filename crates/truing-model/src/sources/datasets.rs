//! Data sets of the Hugging Face hub: the files of one split, in a folder of the cache.
//!
//! Splits are found by the names of files, as the hub names them: `data/train_sft-00000-of-00003.parquet` is of split
//! `train_sft`, `socratic/test-00000-of-00001.parquet` of split `test` of the configuration `socratic`, `train.jsonl` of
//! `train`. The cache is `datasets/{organisation}--{name}/{commit}/{configuration}/{split}/`, with the commit of each
//! revision in `refs/` once all files of the split are there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use truing_store::atomic;

use super::hub::{Hub, RemoteFile, Repository, RepositoryKind, is_name};
use super::{DownloadProgress, FindOptions};
use crate::ModelError;

/// Endings of data files, after `.gz` or `.zst` is removed.
const DATA_ENDINGS: [&str; 4] = [".parquet", ".jsonl", ".json", ".ndjson"];
/// Files with data's endings that describe a data set.
const DESCRIPTIONS: [&str; 4] =
    ["config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"];
/// The split of a reference that names none.
const DEFAULT_SPLIT: &str = "train";
/// Folders that are no configuration.
const PLAIN_FOLDERS: [&str; 3] = ["", "data", "default"];

/// A split of a data set of the hub: `organisation/name[/configuration][:split][@revision]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetReference {
    /// `organisation/name`.
    pub repository: String,
    /// The configuration (subset); `None` where the data set has one.
    pub configuration: Option<String>,
    /// The split; `train` unless given.
    pub split: String,
    /// Branch, tag or commit; `main` unless given.
    pub revision: String,
}

impl DatasetReference {
    /// Understands a reference; `None` when it is not one. The path of a data file is not.
    #[must_use]
    pub fn parse(reference: &str) -> Option<Self> {
        let (place, revision) = reference.split_once('@').unwrap_or((reference, "main"));
        let (place, split) = place.split_once(':').unwrap_or((place, DEFAULT_SPLIT));
        let parts: Vec<&str> = place.split('/').collect();
        let (organisation, name, configuration) = match parts[..] {
            [organisation, name] => (organisation, name, None),
            [organisation, name, configuration] => (organisation, name, Some(configuration.to_owned())),
            _ => return None,
        };
        let names = parts.iter().copied().chain(revision.split('/')).chain([split]);
        if !names.clone().all(is_name) || is_file_name(parts[parts.len() - 1]) {
            return None;
        }
        Some(Self {
            repository: format!("{organisation}/{name}"),
            configuration,
            split: split.to_owned(),
            revision: revision.to_owned(),
        })
    }

    fn directory(&self, cache: &Path) -> PathBuf {
        cache.join("datasets").join(self.repository.replace('/', "--"))
    }

    /// Holds the folder of the split below the data set's once every file of it is there.
    fn ref_file(&self, cache: &Path) -> PathBuf {
        let revision = self.revision.replace('/', "--");
        let configuration = self.configuration.as_deref().unwrap_or("");
        self.directory(cache).join("refs").join(format!("{revision}@{configuration}@{}", self.split))
    }

    fn in_cache(&self, cache: &Path) -> Option<PathBuf> {
        let folder = fs::read_to_string(self.ref_file(cache)).ok()?;
        let is_safe = folder.split('/').all(is_name);
        let path = self.directory(cache).join(folder);
        (is_safe && path.is_dir()).then_some(path)
    }
}

/// Finds a split in the cache, or downloads it. The result is a folder that holds nothing but the split's files.
///
/// # Errors
/// [`ModelError::DatasetNotFound`] with every place that was tried and why it failed.
pub fn find_dataset(
    reference: &DatasetReference,
    options: &FindOptions,
    progress: &mut dyn FnMut(DownloadProgress<'_>),
) -> Result<PathBuf, ModelError> {
    if let Some(path) = reference.in_cache(&options.cache_directory) {
        return Ok(path);
    }
    let mut looked_at = vec![
        "a file or folder of this name: there is none".to_owned(),
        format!("the cache `{}`: not there", options.cache_directory.display()),
    ];
    if options.is_offline {
        looked_at.push("the network: not used, because offline was chosen".to_owned());
    } else {
        match fetch(reference, options, progress) {
            Ok(path) => return Ok(path),
            Err(error) => looked_at.push(format!("the hub: {error}")),
        }
    }
    Err(ModelError::DatasetNotFound { reference: reference.to_string(), looked_at })
}

impl std::fmt::Display for DatasetReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { repository, configuration, split, revision } = self;
        write!(f, "{repository}")?;
        if let Some(configuration) = configuration {
            write!(f, "/{configuration}")?;
        }
        write!(f, ":{split}@{revision}")
    }
}

fn fetch(
    reference: &DatasetReference,
    options: &FindOptions,
    progress: &mut dyn FnMut(DownloadProgress<'_>),
) -> Result<PathBuf, ModelError> {
    let hub = Hub::new(options, RepositoryKind::Dataset);
    let repository = hub.list(&reference.repository, &reference.revision)?;
    let (configuration, files) = choose_files(reference, &repository)?;
    let folder = format!("{}/{configuration}/{}", repository.sha, reference.split);
    let target = reference.directory(&options.cache_directory).join(&folder);
    let named: Vec<(&RemoteFile, PathBuf)> =
        files.iter().map(|file| (file, target.join(name_of(&file.name)))).collect();
    hub.download_all(&reference.repository, &repository.sha, &named, progress)?;
    let ref_file = reference.ref_file(&options.cache_directory);
    let refs = ref_file.parent().unwrap_or(&options.cache_directory);
    fs::create_dir_all(refs).map_err(|source| ModelError::Io { path: refs.to_path_buf(), source })?;
    atomic::write(&ref_file, folder.as_bytes())?;
    Ok(target)
}

/// The configuration and the files of the split.
fn choose_files(
    reference: &DatasetReference,
    repository: &Repository,
) -> Result<(String, Vec<RemoteFile>), ModelError> {
    let problem = |problem: String| ModelError::Download { url: reference.repository.clone(), problem };
    if !is_name(&repository.sha) {
        return Err(problem(format!("the hub names the commit `{}`", repository.sha)));
    }
    let mut splits: BTreeMap<(String, String), Vec<RemoteFile>> = BTreeMap::new();
    for file in repository.siblings.iter().filter(|file| is_data(&file.name)) {
        splits.entry(split_of(&file.name)).or_default().push(file.clone());
    }
    let is_wanted = |(configuration, split): &(String, String)| {
        *split == reference.split
            && reference.configuration.as_ref().is_none_or(|wanted| wanted == configuration)
    };
    let mut found: Vec<((String, String), Vec<RemoteFile>)> = splits
        .iter()
        .filter(|(key, _)| is_wanted(key))
        .map(|(key, files)| (key.clone(), files.clone()))
        .collect();
    match found.len() {
        1 => {
            let ((configuration, _), files) = found.remove(0);
            let mut names: Vec<&str> = files.iter().map(|file| name_of(&file.name)).collect();
            names.sort_unstable();
            names.dedup();
            if names.len() < files.len() {
                return Err(problem(format!("split `{}` has several files of one name", reference.split)));
            }
            Ok((configuration, files))
        }
        0 => {
            let known: Vec<String> = splits.keys().map(|key| listed(&reference.repository, key)).collect();
            Err(problem(match known.is_empty() {
                true => "it holds no Parquet and no JSON file".to_owned(),
                false => format!("it has no split `{}`; it has {}", reference.split, known.join(", ")),
            }))
        }
        _ => {
            let known: Vec<String> =
                found.iter().map(|(key, _)| listed(&reference.repository, key)).collect();
            Err(problem(format!("several configurations have this split; name one: {}", known.join(", "))))
        }
    }
}

/// A split as a recipe names it.
fn listed(repository: &str, (configuration, split): &(String, String)) -> String {
    match PLAIN_FOLDERS.contains(&configuration.as_str()) {
        true => format!("`{repository}:{split}`"),
        false => format!("`{repository}/{configuration}:{split}`"),
    }
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn without_ending(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(name);
    DATA_ENDINGS.iter().find_map(|ending| name.strip_suffix(ending))
}

/// Whether a name has the ending of a data file, also of one that is not read.
fn is_file_name(name: &str) -> bool {
    without_ending(name).is_some()
        || [".txt", ".csv", ".tsv", ".gz", ".zst", ".zip", ".arrow"]
            .iter()
            .any(|ending| name.ends_with(ending))
}

fn is_data(path: &str) -> bool {
    path.split('/').all(is_name)
        && !DESCRIPTIONS.contains(&name_of(path))
        && without_ending(name_of(path)).is_some()
}

/// The configuration and the split that a data file is of: `data/train-00000-of-00002.parquet`, `main/train/0000.parquet`.
fn split_of(path: &str) -> (String, String) {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = without_ending(name).unwrap_or(name);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // `split-00000-of-00003`, with a hash after it in some.
    let shard = stem.match_indices('-').find(|&(at, _)| {
        let mut parts = stem[at + 1..].split('-');
        parts.next().is_some_and(is_number) && parts.next() == Some("of")
    });
    let (folder, split) = match shard {
        Some((at, _)) => (folder, &stem[..at]),
        // `split/0000.parquet`
        None if is_number(stem) => folder.rsplit_once('/').unwrap_or(("", folder)),
        None => (folder, stem),
    };
    let configuration = if folder.is_empty() { "default" } else { folder };
    (configuration.to_owned(), split.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_understood_and_paths_are_none() {
        let parse = |text| DatasetReference::parse(text).map(|reference| reference.to_string());
        assert_eq!(parse("org/name").as_deref(), Some("org/name:train@main"));
        assert_eq!(parse("org/name:train_sft").as_deref(), Some("org/name:train_sft@main"));
        assert_eq!(parse("org/name/main:test@v1.0").as_deref(), Some("org/name/main:test@v1.0"));
        assert_eq!(parse("org/name@refs/pr/1").as_deref(), Some("org/name:train@refs/pr/1"));
        for text in [
            "rows.jsonl",
            "data/rows.jsonl",
            "data/rows.jsonl.gz",
            "data/rows.csv",
            "../data/rows",
            "/data/rows",
            "a/b/c/d",
            "org/name:",
            "org/name:a/b",
            "org/name@",
            "",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn splits_and_configurations_are_found_by_the_names_of_files() {
        for (path, expected) in [
            ("data/train_sft-00000-of-00003-a3ecf92756993583.parquet", ("data", "train_sft")),
            ("socratic/test-00000-of-00001.parquet", ("socratic", "test")),
            ("main/train/0000.parquet", ("main", "train")),
            ("train.jsonl", ("default", "train")),
            ("train-v2.jsonl.gz", ("default", "train-v2")),
            ("en/all-pairs.json.zst", ("en", "all-pairs")),
        ] {
            let (configuration, split) = split_of(path);
            assert_eq!((configuration.as_str(), split.as_str()), expected, "{path}");
        }
        for path in
            ["README.md", "dataset_infos.json", ".gitattributes", "../train.jsonl", "a/.b/train.jsonl"]
        {
            assert!(!is_data(path), "{path}");
        }
    }

    #[test]
    fn what_is_ambiguous_or_missing_is_listed() {
        let repository = |names: &[&str]| Repository {
            sha: "abc".into(),
            siblings: names
                .iter()
                .map(|name| RemoteFile { name: (*name).to_owned(), size: None, lfs: None })
                .collect(),
        };
        let choose = |reference: &str, names: &[&str]| {
            let chosen = choose_files(&DatasetReference::parse(reference).unwrap(), &repository(names));
            chosen.map(|(_, files)| files.len()).map_err(|error| error.to_string())
        };
        let shards =
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test.jsonl"];
        assert_eq!(choose("org/name", &shards), Ok(2));
        assert_eq!(choose("org/name:test", &shards), Ok(1));
        assert_eq!(
            choose("org/name:dev", &shards).unwrap_err(),
            "org/name: it has no split `dev`; it has `org/name:test`, `org/name:train`"
        );
        let configurations = ["main/train.jsonl", "socratic/train.jsonl"];
        assert_eq!(
            choose("org/name", &configurations).unwrap_err(),
            "org/name: several configurations have this split; name one: `org/name/main:train`, \
             `org/name/socratic:train`"
        );
        assert_eq!(choose("org/name/socratic", &configurations), Ok(1));
        assert_eq!(
            choose("org/name", &["README.md"]).unwrap_err(),
            "org/name: it holds no Parquet and no JSON file"
        );
    }
}
