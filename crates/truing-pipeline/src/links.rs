//! Where people find results: `pipeline-out/PIPELINE/STAGE` beside the recipe is a symbolic link to the run's folder in
//! the store.
//!
//! A link and not a copy, so that a result takes its room once; and not hard links of its files, which a program that
//! writes in place would change in the store without a trace of where.

use std::fs;
use std::path::Path;

use truing_store::StoreError;

use crate::{Pipeline, PipelineError};

/// Makes the folder of links, and refuses names in it that hold something else.
pub(crate) fn check(pipeline: &Pipeline) -> Result<(), PipelineError> {
    let links = pipeline.links();
    fs::create_dir_all(&links).map_err(StoreError::io("create", &links))?;
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
    let link = links.join(stage);
    if fs::read_link(&link).is_ok_and(|found| found == target) {
        return Ok(());
    }
    let temporary = links.join(format!(".{stage}.{}.tmp", std::process::id()));
    let _ = fs::remove_file(&temporary);
    std::os::unix::fs::symlink(&target, &temporary).map_err(StoreError::io("create", &temporary))?;
    fs::rename(&temporary, &link).map_err(StoreError::io("replace", &link))
}

/// Other systems want rights for links; results are in the store.
#[cfg(not(unix))]
pub(crate) fn point(_: &Pipeline, _: &str, _: &Path) -> Result<(), StoreError> {
    Ok(())
}
