//! Where people find results: `pipeline-out/PIPELINE/STAGE` beside the recipe is a symbolic link to the run's folder in
//! the store.
//!
//! A link and not a copy, so that a result takes its room once; and not hard links of its files, which a program that
//! writes in place would change in the store without a trace of where.

use std::fs::{self, File};
use std::path::Path;

use truing_store::{StoreError, atomic};

use crate::file_locks::open_lock;
use crate::{Pipeline, PipelineError};

const TEMPORARY: &str = ".tmp";

/// What is beside the recipe is changed by one process at a time, while it holds this file.
pub(crate) fn guard(pipeline: &Pipeline) -> Result<File, StoreError> {
    let path = pipeline.guard_path();
    let guard = open_lock(&path)?;
    guard.lock().map_err(StoreError::io("lock", &path))?;
    Ok(guard)
}

/// Makes the folder of links, removes what killed processes left beside the recipe, and refuses names in the folder
/// that hold something else.
pub(crate) fn check(pipeline: &Pipeline) -> Result<(), PipelineError> {
    let links = pipeline.links();
    fs::create_dir_all(&links).map_err(StoreError::io("create", &links))?;
    let _guard = guard(pipeline)?;
    atomic::remove_leftovers_of(&pipeline.lock_path())?;
    for entry in fs::read_dir(&links).map_err(StoreError::io("list", &links))? {
        let path = entry.map_err(StoreError::io("list", &links))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name.ends_with(TEMPORARY) && path.is_symlink() {
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
    }
    for stage in &pipeline.stages {
        let link = links.join(&stage.name);
        if link.symlink_metadata().is_ok_and(|found| !found.is_symlink()) {
            let reason = format!("{} is in the way: expected a link or nothing there", link.display());
            return Err(pipeline.error(&stage.name, &[], reason));
        }
    }
    Ok(())
}

/// Makes the name of a stage lead to a folder. Relative where the folder is below the recipe's, so that both can move.
#[cfg(unix)]
pub(crate) fn point(pipeline: &Pipeline, stage: &str, folder: &Path) -> Result<(), StoreError> {
    let links = pipeline.links();
    fs::create_dir_all(&links).map_err(StoreError::io("create", &links))?;
    let target = match folder.strip_prefix(&pipeline.results) {
        Ok(below) => Path::new("../..").join(below),
        Err(_) => folder.to_path_buf(),
    };
    let _guard = guard(pipeline)?;
    let link = links.join(stage);
    if fs::read_link(&link).is_ok_and(|found| found == target) {
        return Ok(());
    }
    let temporary = links.join(format!(".{stage}.{}{TEMPORARY}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    std::os::unix::fs::symlink(&target, &temporary).map_err(StoreError::io("create", &temporary))?;
    fs::rename(&temporary, &link).map_err(StoreError::io("replace", &link))
}

/// Other systems want rights for links; results are in the store.
#[cfg(not(unix))]
pub(crate) fn point(_: &Pipeline, _: &str, _: &Path) -> Result<(), StoreError> {
    Ok(())
}
