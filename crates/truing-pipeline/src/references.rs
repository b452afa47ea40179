//! References to outputs of other stages: `${stages.NAME.OUTPUT}` in any text of a stage's settings.
//!
//! For the key a reference becomes an absolute path that exists nowhere and is made of the other stage's key and the
//! output's place in its folder. So two pipelines whose stages have the same key have the same path there, wherever
//! their stores are. For the run it becomes the real path.

use std::path::Path;

use toml::Value;
use truing_store::Digest;

const BEGIN: &str = "${stages.";
const END: char = '}';
/// The placeholder for the store in a key.
const KEY_ROOT: &str = "/truing-pipeline/";

/// A reference as it is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    pub(crate) stage: String,
    pub(crate) output: String,
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stages.{}.{}", self.stage, self.output)
    }
}

/// Replaces each reference of a text by what `resolve` makes of it.
///
/// # Errors
/// The first error of `resolve`, or a reference that is not of the form `${stages.NAME.OUTPUT}`.
pub(crate) fn replace(
    text: &str,
    resolve: &mut dyn FnMut(Reference) -> Result<String, String>,
) -> Result<String, String> {
    let (mut replaced, mut rest) = (String::new(), text);
    while let Some(begin) = rest.find(BEGIN) {
        let inside = &rest[begin + BEGIN.len()..];
        let malformed = || {
            let shown: String = rest[begin..].chars().take(60).collect();
            format!("`{shown}` is no reference: expected `${{stages.NAME.OUTPUT}}`")
        };
        let end = inside.find(END).ok_or_else(malformed)?;
        let (stage, output) = inside[..end].split_once('.').ok_or_else(malformed)?;
        replaced.push_str(&rest[..begin]);
        replaced.push_str(&resolve(Reference { stage: stage.to_owned(), output: output.to_owned() })?);
        rest = &inside[end + END.len_utf8()..];
    }
    replaced.push_str(rest);
    Ok(replaced)
}

/// [`replace`] in every text of a value.
///
/// # Errors
/// As [`replace`].
pub(crate) fn replace_in(
    value: &mut Value,
    resolve: &mut dyn FnMut(Reference) -> Result<String, String>,
) -> Result<(), String> {
    match value {
        Value::String(text) => *text = replace(text, resolve)?,
        Value::Array(list) => {
            for entry in list {
                replace_in(entry, resolve)?;
            }
        }
        Value::Table(table) => {
            for (_, entry) in table.iter_mut() {
                replace_in(entry, resolve)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The placeholder path of an output in a key.
pub(crate) fn key_path(key: Digest, output: &str) -> String {
    format!("{KEY_ROOT}{key}/{output}")
}

/// The placeholder for a stage's own key in its settings: the key is made of them.
pub(crate) fn own_key() -> Digest {
    "0".repeat(64).parse().expect("64 hexadecimal digits")
}

/// The placeholder path of the stage's own folder. Settings may be derived from it, such as the path of a cache.
pub(crate) fn own_folder() -> String {
    format!("{KEY_ROOT}{}", own_key())
}

/// Whether a path is a placeholder for an output.
pub(crate) fn is_key_path(path: &Path) -> bool {
    path.starts_with(KEY_ROOT)
}

/// Replaces the placeholder paths of outputs, in every text of a value, by paths below the folder that `folder_of`
/// gives.
pub(crate) fn with_real_paths(value: &mut Value, folder_of: &dyn Fn(Digest) -> Option<String>) {
    match value {
        Value::String(text) if text.contains(KEY_ROOT) => *text = real_text(text, folder_of),
        Value::Array(list) => list.iter_mut().for_each(|entry| with_real_paths(entry, folder_of)),
        Value::Table(table) => table.iter_mut().for_each(|(_, entry)| with_real_paths(entry, folder_of)),
        _ => {}
    }
}

fn real_text(text: &str, folder_of: &dyn Fn(Digest) -> Option<String>) -> String {
    let mut parts = text.split(KEY_ROOT);
    let mut real = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let key = part.get(..64).and_then(|key| key.parse().ok());
        match key.and_then(folder_of) {
            Some(folder) => {
                real.push_str(&folder);
                real.push_str(&part[64..]);
            }
            None => {
                real.push_str(KEY_ROOT);
                real.push_str(part);
            }
        }
    }
    real
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_in_every_text() {
        let mut seen = Vec::new();
        let mut resolve = |reference: Reference| {
            seen.push(reference.to_string());
            Ok(format!("<{}>", reference.output))
        };
        let mut value: Value = toml::from_str(
            "a = \"${stages.sft.model}\"\nb = [{ c = \"x ${stages.r.rows}/y ${other}\" }]\nn = 1\n",
        )
        .unwrap();
        replace_in(&mut value, &mut resolve).unwrap();
        assert_eq!(value["a"].as_str(), Some("<model>"));
        assert_eq!(value["b"][0]["c"].as_str(), Some("x <rows>/y ${other}"), "other texts stay");
        assert_eq!(seen, ["stages.sft.model", "stages.r.rows"]);
        for bad in ["${stages.sft", "${stages.sft}", "é${stages.a"] {
            let error = replace(bad, &mut |_| Ok(String::new())).unwrap_err();
            assert!(error.contains("expected `${stages.NAME.OUTPUT}`"), "{error}");
        }
    }

    #[test]
    fn key_paths_become_real_ones_and_nothing_else_changes() {
        let key = Digest::of_bytes(b"a");
        let path = key_path(key, "model");
        assert!(is_key_path(Path::new(&own_folder())));
        assert!(is_key_path(Path::new(&path)) && !is_key_path(Path::new("/truing")));
        let mut value =
            Value::Array(vec![Value::String(format!("--in={path} {KEY_ROOT}x")), Value::Integer(1)]);
        with_real_paths(&mut value, &|of| (of == key).then(|| "/store/run".to_owned()));
        assert_eq!(value[0].as_str(), Some(format!("--in=/store/run/model {KEY_ROOT}x").as_str()));
    }
}
