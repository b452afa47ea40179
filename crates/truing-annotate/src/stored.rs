//! A project as status and export read it: from its folder.

use std::path::{Path, PathBuf};

use truing_store::StoreError;

use crate::AnnotateError;
use crate::config::AnnotateConfig;
use crate::item::Items;
use crate::journal::Journal;
use crate::project::{JOURNAL, read_text};
use crate::records::Records;

/// A project's folder read without its lock, while it may be served.
#[derive(Debug)]
pub struct StoredProject {
    /// The recipe, without tokens.
    pub config: AnnotateConfig,
    /// The items.
    pub items: Items,
    /// The entries that hold.
    pub records: Records,
}

impl StoredProject {
    /// Reads a project's folder.
    ///
    /// # Errors
    /// When it holds no project, or a file of it cannot be read.
    pub fn read(folder: &Path) -> Result<Self, AnnotateError> {
        let recipe: PathBuf = folder.join("recipe.resolved.toml");
        if !recipe.is_file() {
            let missing = "recipe.resolved.toml";
            return Err(StoreError::NotARun { path: folder.to_path_buf(), missing }.into());
        }
        let config = AnnotateConfig::from_toml(&read_text(&recipe)?, &recipe)?;
        let items = Items::load(&config)?;
        let journal = folder.join(JOURNAL);
        let records = Records::replay(Journal::read(&journal)?, &items, &config, &journal)?;
        Ok(Self { config, items, records })
    }
}
