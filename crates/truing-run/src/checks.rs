//! Checks of settings that several recipes have. Each error names the key, the value and what was expected.

use std::iter;
use std::path::{Path, PathBuf};

use truing_store::paths;
use truing_train::{Amount, PlanRow};

use crate::RunError;

/// An error unless `is_good`; `problem` is the key, the value and what was expected.
pub fn require(
    is_good: bool,
    problem: impl FnOnce() -> (&'static str, String, &'static str),
) -> Result<(), RunError> {
    if is_good {
        return Ok(());
    }
    let (key, found, expected) = problem();
    Err(RunError::BadSetting { key, found, expected: expected.to_owned() })
}

/// A setting that has to be given.
pub fn require_given(is_given: bool, key: &'static str, expected: &'static str) -> Result<(), RunError> {
    if is_given { Ok(()) } else { Err(RunError::MissingSetting { key, expected }) }
}

/// `output_dir`, a folder for what `expected` says.
pub fn require_output_dir(path: &Path, expected: &'static str) -> Result<(), RunError> {
    require_given(!path.as_os_str().is_empty(), "output_dir", expected)
}

/// What a run saves, and the room for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpace {
    /// The run's folder, which may not exist yet.
    pub path: PathBuf,
    /// Bytes of all that the run saves.
    pub needed: u64,
}

impl DiskSpace {
    /// The bytes that have still to be written, and those that are free, where the system says it.
    fn missing(&self) -> Option<(u64, u64)> {
        let to_write = self.needed.saturating_sub(paths::bytes_below(&self.path));
        paths::free_bytes(&self.path).filter(|&free| free < to_write).map(|free| (to_write, free))
    }

    /// Refuses a run that has no room. A plan only reports it ([`DiskSpace::warning`]): the run may take place
    /// elsewhere.
    ///
    /// # Errors
    /// [`RunError::NotEnoughSpace`].
    pub fn require(&self) -> Result<(), RunError> {
        match self.missing() {
            Some((needed, free)) => Err(RunError::NotEnoughSpace { path: self.path.clone(), needed, free }),
            None => Ok(()),
        }
    }

    /// What a plan says where there is no room.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        self.require().err().map(|error| error.to_string())
    }

    /// Lines of a plan.
    #[must_use]
    pub fn rows(&self) -> Vec<PlanRow> {
        let needed = PlanRow::new("disk for checkpoints and model", Amount::Bytes(self.needed));
        let free = paths::free_bytes(&self.path);
        let free = free.map(|free| PlanRow::new("free on the disk of the run", Amount::Bytes(free)));
        iter::once(needed).chain(free).collect()
    }
}

/// At least one `[[data]]` table.
pub fn require_data<T>(sources: &[T]) -> Result<(), RunError> {
    require_given(!sources.is_empty(), "data", "at least one [[data]] table with a `path`")
}

/// Settings of 1 or more.
pub fn require_counts<const N: usize>(counts: [(&'static str, usize); N]) -> Result<(), RunError> {
    counts.into_iter().try_for_each(|(key, count)| require(count > 0, || (key, "0".into(), "at least 1")))
}

/// A finite number of 0 or more.
pub fn require_not_negative<N: Into<f64> + Copy + ToString>(
    key: &'static str,
    value: N,
) -> Result<(), RunError> {
    let number = value.into();
    require(number.is_finite() && number >= 0.0, || (key, value.to_string(), "0 or more"))
}

/// A finite number above 0.
pub fn require_positive(key: &'static str, value: f64) -> Result<(), RunError> {
    require(value.is_finite() && value > 0.0, || (key, value.to_string(), "a number above 0"))
}

/// A number from 0 to 1.
pub fn require_share(key: &'static str, value: f64) -> Result<(), RunError> {
    require((0.0..=1.0).contains(&value), || (key, value.to_string(), "a share from 0 to 1"))
}

/// Names of which none is given twice.
pub fn require_distinct(key: &'static str, names: &[String]) -> Result<(), RunError> {
    let twice = names.iter().enumerate().find(|(idx, name)| names[..*idx].contains(name));
    twice.map_or(Ok(()), |(_, name)| {
        let expected = "a name of its own for each".to_owned();
        Err(RunError::BadSetting { key, found: format!("`{name}` twice"), expected })
    })
}

/// Steps between two events: not 0 where they are given.
pub fn require_steps(key: &'static str, steps: Option<u64>) -> Result<(), RunError> {
    require(steps != Some(0), || (key, "0".into(), "at least 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_given_twice_is_refused() {
        let check = |names: [&str; 3]| require_distinct("judge.name", &names.map(str::to_owned));
        assert!(check(["a", "b", "A"]).is_ok());
        let error = check(["a", "b", "a"]).unwrap_err().to_string();
        assert_eq!(error, "`judge.name` is `a` twice: expected a name of its own for each");
    }

    #[test]
    fn a_disk_without_room_is_an_error_with_both_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let space = |needed| DiskSpace { path: folder.path().join("run"), needed };
        assert!(space(1).require().is_ok() && space(1).warning().is_none());
        let error = space(1 << 60).require().unwrap_err().to_string();
        assert_eq!(space(1 << 60).warning().as_ref(), Some(&error));
        let rows: Vec<String> = space(1 << 60).rows().into_iter().map(|row| row.name).collect();
        assert_eq!(rows, ["disk for checkpoints and model", "free on the disk of the run"]);
        assert!(
            error.contains("run: the checkpoint and the model of this run need 1073741824.0 GiB, but "),
            "{error}"
        );
    }
}
