//! The names of items that pages see: the names of the data may tell gold items and attention checks from others.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use truing_store::{StoreError, atomic};

use crate::AnnotateError;
use crate::item::{Item, Items};
use crate::people::MakeToken;

/// Where the project's secret lies.
const FILE_NAME: &str = "page_ids.key";
/// Hexadecimal digits of an item's name in the pages.
const SHOWN_DIGITS: usize = 24;

/// The names of all items in the pages.
pub(crate) struct ShownIds {
    all: Vec<String>,
    places: HashMap<String, usize>,
}

impl ShownIds {
    /// The names are keyed by a random secret, which `make` makes once and the project's folder keeps: browsers keep
    /// unsent answers by these names.
    ///
    /// # Errors
    /// When the secret cannot be read, made or written.
    pub(crate) fn open(items: &Items, folder: &Path, make: MakeToken<'_>) -> Result<Self, AnnotateError> {
        let key = blake3::hash(secret(folder, make)?.as_bytes());
        let shown = |item: &Item| {
            let digest = blake3::keyed_hash(key.as_bytes(), item.id.as_bytes()).to_hex();
            digest.as_str()[..SHOWN_DIGITS].to_owned()
        };
        let all: Vec<String> = items.all.iter().map(shown).collect();
        let places = all.iter().enumerate().map(|(idx, id)| (id.clone(), idx)).collect();
        Ok(Self { all, places })
    }

    /// The name of an item by its place.
    pub(crate) fn name(&self, idx: usize) -> &str {
        &self.all[idx]
    }

    /// The place of an item by its name.
    pub(crate) fn index_of(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }
}

fn secret(folder: &Path, make: MakeToken<'_>) -> Result<String, AnnotateError> {
    let path = folder.join(FILE_NAME);
    match fs::read_to_string(&path) {
        Ok(secret) if secret.trim().is_empty() => {
            let reason = "it is empty; expected the random text that the first start wrote".to_owned();
            Err(StoreError::BadManifest { path, reason }.into())
        }
        Ok(secret) => Ok(secret),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = make()?;
            atomic::write(&path, secret.as_bytes())?;
            Ok(secret)
        }
        Err(error) => Err(StoreError::io("read", &path)(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_made_once_and_an_empty_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut n_made = 0;
        let mut make = || {
            n_made += 1;
            Ok::<_, io::Error>(format!("secret-{n_made}"))
        };
        assert_eq!(secret(folder.path(), &mut make).unwrap(), "secret-1");
        assert_eq!(secret(folder.path(), &mut make).unwrap(), "secret-1");
        fs::write(folder.path().join(FILE_NAME), "\n").unwrap();
        let error = secret(folder.path(), &mut make).unwrap_err().to_string();
        assert!(error.contains("page_ids.key` is damaged: it is empty"), "{error}");
    }
}
