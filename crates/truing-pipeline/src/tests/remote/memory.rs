//! Objects in memory, with faults.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use crate::remote::{Storage, StorageError};

/// Objects that several remotes share.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<String, Vec<u8>>,
    /// Names that were read, in order.
    pub(super) reads: Vec<String>,
    /// The beginning of the names that cannot be read.
    pub(super) unreadable: Option<&'static str>,
    /// The beginning of the names that cannot be written.
    pub(super) unwritable: Option<&'static str>,
    /// So many reads of objects give other bytes.
    pub(super) n_damaged_reads: usize,
    /// Before the next result is written all objects are removed, as `gc` of another machine does.
    pub(super) collects_before_result: bool,
    /// Written when the next object is removed: its name and bytes.
    pub(super) late: Option<(String, Vec<u8>)>,
}

impl Memory {
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    /// The names below a folder, with it.
    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        self.change(|state| state.objects.keys().filter(|name| name.starts_with(folder)).cloned().collect())
    }
}

fn refuse(name: &str, beginning: Option<&str>) -> Result<(), StorageError> {
    match beginning {
        Some(beginning) if name.starts_with(beginning) => Err(StorageError::Failed("no connection".into())),
        _ => Ok(()),
    }
}

impl Storage for Memory {
    fn is_read_only(&self) -> bool {
        false
    }

    fn read(&self, name: &str, sink: &mut dyn Write) -> Result<(), StorageError> {
        let bytes = self.change(|state| {
            state.reads.push(name.to_owned());
            refuse(name, state.unreadable)?;
            let mut bytes = state.objects.get(name).cloned().ok_or(StorageError::Missing)?;
            if name.starts_with("objects/") && state.n_damaged_reads > 0 {
                state.n_damaged_reads -= 1;
                bytes.push(b'!');
            }
            Ok::<_, StorageError>(bytes)
        })?;
        Ok(sink.write_all(&bytes)?)
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StorageError> {
        self.change(|state| {
            refuse(name, state.unreadable)?;
            Ok(state.objects.get(name).map(|bytes| bytes.len() as u64))
        })
    }

    fn write(&self, name: &str, source: &mut dyn Read, _: u64) -> Result<(), StorageError> {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes)?;
        self.change(|state| {
            refuse(name, state.unwritable)?;
            state.objects.insert(name.to_owned(), bytes);
            Ok(())
        })
    }

    fn write_new(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.change(|state| {
            refuse(name, state.unwritable)?;
            if state.objects.contains_key(name) {
                return Err(StorageError::Exists);
            }
            if state.collects_before_result && name.starts_with("results/") {
                state.collects_before_result = false;
                state.objects.retain(|name, _| !name.starts_with("objects/"));
            }
            state.objects.insert(name.to_owned(), bytes.to_vec());
            Ok(())
        })
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StorageError> {
        let folder = format!("{folder}/");
        self.change(|state| {
            refuse(&folder, state.unreadable)?;
            Ok(state.objects.keys().filter_map(|name| Some(name.strip_prefix(&folder)?.to_owned())).collect())
        })
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.change(|state| {
            refuse(name, state.unwritable)?;
            state.objects.remove(name);
            if name.starts_with("objects/") {
                let late = state.late.take();
                state.objects.extend(late);
            }
            Ok(())
        })
    }
}
