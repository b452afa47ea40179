//! Removal of results from the remote, where `gc` is asked for it by name.

use std::collections::BTreeSet;
use std::time::SystemTime;

use serde::Serialize;
use truing_store::Digest;

use super::lease::{LeaseRecord, lease_name};
use super::{Remote, RemoteError, SharedResult, StorageError};

/// What was removed from a remote, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RemoteCollected {
    /// Keys of the results, sorted.
    pub results: Vec<Digest>,
    /// Results that stay.
    pub n_kept: usize,
    /// Objects that no other result needs.
    pub n_objects: usize,
}

impl Remote {
    /// Removes the results that are not `named`, and the objects that no result needs.
    ///
    /// A machine without a lease may store a result meanwhile: one that uploads by hand, or whose lease has ended. It
    /// looks for the objects once more after it has written the result, and this looks for such results after it has
    /// removed objects. One of the two comes second: no result stays without its objects, unless one of the two is
    /// killed in between. Then a fetch of the result fails with an error that names the missing object.
    ///
    /// # Errors
    /// When a machine makes a result, or the storage fails.
    pub(crate) fn collect(
        &self,
        named: &BTreeSet<Digest>,
        is_dry_run: bool,
        now: SystemTime,
    ) -> Result<RemoteCollected, RemoteError> {
        self.refuse_leases(now)?;
        let keys = self.digests_in("results", ".json")?;
        let (kept, removed): (Vec<Digest>, Vec<Digest>) =
            keys.into_iter().partition(|key| named.contains(key));
        let mut needed = BTreeSet::new();
        for &key in &kept {
            // One that cannot be read ends this: its objects are not known.
            let result = self.look_up(key)?;
            needed.extend(result.iter().flat_map(|result| &result.files).map(|file| file.blake3));
        }
        let mut objects = self.digests_in("objects", "")?;
        objects.retain(|object| !needed.contains(object));
        if !is_dry_run {
            // Results first: what is cut short leaves no result without its objects.
            let results = removed.iter().map(|&key| SharedResult::name(key));
            for name in results.chain(objects.iter().map(|&object| SharedResult::object_name(object))) {
                self.storage.remove(&name).map_err(|source| self.failed("remove", &name, source))?;
            }
            self.remove_incomplete(&kept, &objects)?;
        }
        Ok(RemoteCollected { results: removed, n_kept: kept.len(), n_objects: objects.len() })
    }

    /// Removes results that were stored meanwhile and miss an object that was removed.
    fn remove_incomplete(&self, kept: &[Digest], removed: &[Digest]) -> Result<(), RemoteError> {
        let (kept, removed): (BTreeSet<&Digest>, BTreeSet<&Digest>) =
            (kept.iter().collect(), removed.iter().collect());
        for key in self.digests_in("results", ".json")?.into_iter().filter(|key| !kept.contains(key)) {
            let Some(result) = self.look_up(key)? else { continue };
            for file in result.files.iter().filter(|file| removed.contains(&file.blake3)) {
                let object = SharedResult::object_name(file.blake3);
                let size = self.storage.size(&object);
                if size.map_err(|source| self.failed("look for", &object, source))?.is_none() {
                    let name = SharedResult::name(key);
                    self.storage.remove(&name).map_err(|source| self.failed("remove", &name, source))?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Refuses while a machine makes a result: its objects are there before the result that names them.
    fn refuse_leases(&self, now: SystemTime) -> Result<(), RemoteError> {
        let names = self.storage.list("leases").map_err(|source| self.failed("list", "leases", source))?;
        for name in names {
            let Some((key, number)) = name.split_once('/') else { continue };
            let (Ok(key), Ok(number)) = (key.parse::<Digest>(), number.parse::<u64>()) else { continue };
            let (name, mut bytes) = (lease_name(key, number), Vec::new());
            match self.storage.read(&name, &mut bytes) {
                Ok(()) => {}
                Err(StorageError::Missing) => continue,
                Err(source) => return Err(self.failed("read", &name, source)),
            }
            let record = serde_json::from_slice::<LeaseRecord>(&bytes).ok();
            if let Some(record) = record
                && !record.is_released
                && !record.is_long_over(now)
            {
                return Err(RemoteError::InUse { url: self.url.clone(), owner: record.owner });
            }
        }
        Ok(())
    }

    /// The digests that name the objects of a folder. Objects with other names are not of a remote: they stay.
    fn digests_in(&self, folder: &str, ending: &str) -> Result<Vec<Digest>, RemoteError> {
        let names = self.storage.list(folder).map_err(|source| self.failed("list", folder, source))?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(ending)?.parse().ok()).collect())
    }
}
