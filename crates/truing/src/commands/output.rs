//! Files that a command writes where the user says.

use std::fs;
use std::path::Path;

use anyhow::bail;

/// Refuses an output that is one of the files read, also by another path or a link: it would replace the user's data.
pub(super) fn check_is_no_input<'a>(
    output: &Path,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> anyhow::Result<()> {
    // What does not exist yet replaces nothing.
    let Ok(written) = fs::canonicalize(output) else { return Ok(()) };
    for input in inputs {
        if fs::canonicalize(input).is_ok_and(|read| read == written) {
            bail!("{} is read, and would be overwritten; expected another output", output.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_is_an_input_is_refused_by_any_path() {
        let folder = tempfile::tempdir().unwrap();
        let (data, other) = (folder.path().join("a.jsonl"), folder.path().join("b.jsonl"));
        fs::write(&data, "{}").unwrap();
        assert!(check_is_no_input(&other, [data.as_path()]).is_ok());
        assert!(check_is_no_input(&folder.path().join("./a.jsonl"), [data.as_path()]).is_err());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&data, &other).unwrap();
            assert!(check_is_no_input(&other, [data.as_path()]).is_err());
            assert!(check_is_no_input(&data, [other.as_path()]).is_err());
        }
    }
}
