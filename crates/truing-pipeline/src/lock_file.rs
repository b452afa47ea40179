//! `truing.lock`: what the results of a pipeline are made of. It lies beside the recipe and belongs in version control.
//!
//! One line a fact, in the order of names, so that changes to different stages merge without a conflict. It names all
//! pipelines of its folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::Table;
use truing_store::{Digest, StoreError, atomic};

use crate::{KeyParts, PipelineError, StoredOutput};

const VERSION: u32 = 1;
const HEADER: &str = "# Written by `truing pipeline apply`. Keep it in version control beside the recipe.\n";

/// The lock file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockFile {
    version: u32,
    /// The pipelines of the folder by name, and their stages by name.
    #[serde(default)]
    pub pipelines: BTreeMap<String, BTreeMap<String, LockedStage>>,
}

/// A stage with a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedStage {
    /// Its key.
    pub key: Digest,
    /// What the key is made of.
    pub parts: KeyParts,
    /// What it left.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, StoredOutput>,
    /// Its main figures.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, f64>,
}

impl Default for LockFile {
    fn default() -> Self {
        Self { version: VERSION, pipelines: BTreeMap::new() }
    }
}

impl LockFile {
    /// Its name.
    pub const FILE_NAME: &str = "truing.lock";

    /// Reads the file; an empty one where there is none.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or was written by a newer version.
    pub fn read(path: &Path) -> Result<Self, PipelineError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(StoreError::io("read", path)(source).into()),
        };
        let bad = |error: toml::de::Error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            let reason = format!("line {line}: {}; git restores the last good one", error.message());
            PipelineError::BadLock { path: path.to_path_buf(), reason }
        };
        let table: Table = toml::from_str(&text).map_err(bad)?;
        let found = table.get("version").and_then(toml::Value::as_integer);
        match found {
            Some(found) if found > i64::from(VERSION) => {
                Err(PipelineError::NewerLock { path: path.to_path_buf(), found, supported: VERSION })
            }
            Some(_) => toml::from_str(&text).map_err(bad),
            None => {
                let reason = "`version` is missing: expected a lock file of truing".to_owned();
                Err(PipelineError::BadLock { path: path.to_path_buf(), reason })
            }
        }
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), StoreError> {
        let text = toml::to_string_pretty(self).expect("a lock file is made of tables, texts and numbers");
        atomic::write(path, format!("{HEADER}{text}").as_bytes())
    }

    /// A stage of a pipeline.
    #[must_use]
    pub fn stage(&self, pipeline: &str, stage: &str) -> Option<&LockedStage> {
        self.pipelines.get(pipeline)?.get(stage)
    }

    /// The keys of all stages of all pipelines.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<Digest> {
        self.pipelines.values().flat_map(BTreeMap::values).map(|stage| stage.key).collect()
    }
}
