//! Imports of whole files, and what holds for every file.

mod cases;
mod documents;
mod errors;
mod robustness;

use std::path::{Path, PathBuf};

use truing_import::Options;

/// The folder of the tests.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/main")
}

/// A tool that ran in `folder`, with the recipe in the same folder.
pub(crate) fn options(folder: &Path) -> Options {
    Options {
        tool: None,
        stage: None,
        processes: 1,
        yaml_folder: folder.to_path_buf(),
        working_folder: folder.to_path_buf(),
        recipe_folder: folder.to_path_buf(),
        home: Some(PathBuf::from("/home/me")),
    }
}
