//! People and their tokens. Only digests of tokens are kept, in `tokens.json` of the project.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;
use truing_store::{StoreError, atomic};

use crate::AnnotateError;
use crate::config::{AnnotateConfig, OWNER};

/// Where the digests lie.
const FILE_NAME: &str = "tokens.json";

/// What a person may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Answers items.
    Annotator,
    /// Decides items on which annotators disagree.
    Adjudicator,
    /// Sees the status page.
    Owner,
}

/// Someone with a token.
#[derive(Debug, Clone)]
pub struct Person {
    /// Name in the journal.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Their number among the people of their role, from 0.
    pub idx: usize,
    digest: blake3::Hash,
}

/// A token that was made now. It is shown once: only its digest is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLink {
    /// Whose.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// The token.
    pub token: String,
}

/// Makes a token that nobody can guess, of letters and digits.
pub type MakeToken<'a> = &'a mut dyn FnMut() -> io::Result<String>;

/// Everyone with a token.
#[derive(Debug, Clone)]
pub struct People {
    all: Vec<Person>,
    /// Digests of the tokens that the recipe does not give, by name, where some are new.
    to_keep: Option<BTreeMap<String, String>>,
}

impl People {
    /// The people of a recipe. Whoever has no token in it, nor in the project's folder, gets a new one, and so do those
    /// whose names are in `renew`. New ones hold from now on, and are forgotten unless [`People::keep`] follows.
    ///
    /// # Errors
    /// When the digests cannot be read, two people have one token, or a name of `renew` is nobody's or has
    /// its token in the recipe.
    pub fn open(
        config: &AnnotateConfig,
        folder: &Path,
        renew: &[String],
        make: MakeToken<'_>,
    ) -> Result<(Self, Vec<NewLink>), AnnotateError> {
        let path = folder.join(FILE_NAME);
        let mut kept = read(&path)?;
        let (mut people, mut links): (Vec<Person>, Vec<NewLink>) = (Vec::new(), Vec::new());
        let everyone = everyone(config);
        if let Some(name) = renew.iter().find(|name| everyone.iter().all(|(known, ..)| known != *name)) {
            return Err(AnnotateError::UnknownPerson(name.clone()));
        }
        for (name, role, idx, given) in everyone {
            let digest = match (given, kept.get(&name).copied().filter(|_| !renew.contains(&name))) {
                (Some(_), _) if renew.contains(&name) => return Err(AnnotateError::TokenInRecipe(name)),
                (Some(token), _) => blake3::hash(token.as_bytes()),
                (None, Some(digest)) => digest,
                (None, None) => {
                    let token = make()?;
                    let digest = blake3::hash(token.as_bytes());
                    kept.insert(name.clone(), digest);
                    links.push(NewLink { name: name.clone(), role, token });
                    digest
                }
            };
            if let Some(first) = people.iter().find(|person| person.digest == digest) {
                return Err(AnnotateError::SameToken { first: first.name.clone(), second: name });
            }
            people.push(Person { name, role, idx, digest });
        }
        let digests = || kept.into_iter().map(|(name, digest)| (name, digest.to_hex().to_string())).collect();
        let to_keep = (!links.is_empty()).then(digests);
        Ok((Self { all: people, to_keep }, links))
    }

    /// Writes the digests of new tokens to the project's folder. Called once their links were shown: a link that nobody
    /// has seen is made again at the next start.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(&self, folder: &Path) -> Result<(), AnnotateError> {
        if let Some(digests) = &self.to_keep {
            atomic::write_json(&folder.join(FILE_NAME), digests)?;
        }
        Ok(())
    }

    /// Whose token it is. Digests are compared, all of them and in constant time: how long it takes says nothing of a
    /// token.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<&Person> {
        let digest = blake3::hash(token.as_bytes());
        self.all.iter().fold(None, |found, person| if person.digest == digest { Some(person) } else { found })
    }
}

/// Name, role, number within the role, and token of the recipe.
fn everyone(config: &AnnotateConfig) -> Vec<(String, Role, usize, Option<&str>)> {
    let mut everyone = Vec::new();
    for (people, role) in [(&config.annotator, Role::Annotator), (&config.adjudicator, Role::Adjudicator)] {
        for (idx, person) in people.iter().enumerate() {
            everyone.push((person.name.clone(), role, idx, person.token.as_deref()));
        }
    }
    everyone.push((OWNER.to_owned(), Role::Owner, 0, config.owner_token.as_deref()));
    everyone
}

fn read(path: &Path) -> Result<BTreeMap<String, blake3::Hash>, AnnotateError> {
    let json = match fs::read(path) {
        Ok(json) => json,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(StoreError::io("read", path)(error).into()),
    };
    let damaged = |reason: String| StoreError::BadManifest { path: path.to_path_buf(), reason };
    let digests: BTreeMap<String, String> =
        serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
    let digest = |(name, hex): (String, String)| match blake3::Hash::from_hex(&hex) {
        Ok(digest) => Ok((name, digest)),
        Err(error) => Err(damaged(format!("`{name}`: {error}")).into()),
    };
    digests.into_iter().map(digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PersonConfig;

    fn person(name: &str, token: Option<&str>) -> PersonConfig {
        PersonConfig { name: name.into(), token: token.map(str::to_owned) }
    }

    #[test]
    fn tokens_are_made_once_and_only_their_digests_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let config = AnnotateConfig {
            annotator: vec![person("ana", None), person("ben", Some("ben-has-a-token"))],
            adjudicator: vec![person("eve", None)],
            ..AnnotateConfig::default()
        };
        let mut n_made = 0;
        let mut make = || {
            n_made += 1;
            Ok::<_, io::Error>(format!("token-{n_made}"))
        };
        let (people, links) = People::open(&config, folder.path(), &[], &mut make).unwrap();
        assert!(!folder.path().join(FILE_NAME).exists(), "a link that was not shown is not kept");
        people.keep(folder.path()).unwrap();
        let named: Vec<(&str, Role)> = links.iter().map(|link| (&*link.name, link.role)).collect();
        assert_eq!(named, [("ana", Role::Annotator), ("eve", Role::Adjudicator), ("owner", Role::Owner)]);
        let find = |people: &People, token: &str| people.find(token).map(|person| person.name.clone());
        assert_eq!(find(&people, "token-1").as_deref(), Some("ana"));
        assert_eq!(find(&people, "ben-has-a-token").as_deref(), Some("ben"));
        assert_eq!((find(&people, ""), find(&people, "token-9")), (None, None));
        let kept = fs::read_to_string(folder.path().join(FILE_NAME)).unwrap();
        assert!(!kept.contains("token-1") && !kept.contains("ben"), "{kept}");

        let (people, links) = People::open(&config, folder.path(), &["ana".into()], &mut make).unwrap();
        assert_eq!(links.len(), 1);
        people.keep(folder.path()).unwrap();
        assert_eq!((find(&people, "token-1"), find(&people, "token-4").as_deref()), (None, Some("ana")));
        assert_eq!(find(&people, "token-2").as_deref(), Some("eve"));
        let unknown = People::open(&config, folder.path(), &["bob".into()], &mut make);
        assert!(matches!(unknown, Err(AnnotateError::UnknownPerson(name)) if name == "bob"));
        let given = People::open(&config, folder.path(), &["ben".into()], &mut make);
        assert!(matches!(given, Err(AnnotateError::TokenInRecipe(name)) if name == "ben"));
    }

    #[test]
    fn two_people_cannot_share_a_token() {
        let folder = tempfile::tempdir().unwrap();
        let shared = Some("the-same-token");
        let config = AnnotateConfig {
            annotator: vec![person("ana", shared), person("ben", shared)],
            ..AnnotateConfig::default()
        };
        let opened = People::open(&config, folder.path(), &[], &mut || Ok("x".into()));
        let error = opened.unwrap_err().to_string();
        assert_eq!(error, "`ana` and `ben` have the same token");
    }
}
