//! The files of a model's folder that are its tokenizer, with their bytes. What they mean is in `truing-text`.

use std::io::ErrorKind;
use std::path::Path;

use crate::ModelError;

/// Files that together are a tokenizer.
const NAMES: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
];

/// Folder of named chat templates beside the default one.
pub const TEMPLATE_FOLDER: &str = "additional_chat_templates";

/// The tokenizer's files that a folder has, and those of `further`: name and bytes.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn tokenizer_files(folder: &Path, further: &[&str]) -> Result<Vec<(String, Vec<u8>)>, ModelError> {
    let mut names: Vec<String> = NAMES.iter().chain(further).map(|name| (*name).to_owned()).collect();
    if let Ok(entries) = std::fs::read_dir(folder.join(TEMPLATE_FOLDER)) {
        let mut templates: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(".jinja"))
            .map(|name| format!("{TEMPLATE_FOLDER}/{name}"))
            .collect();
        templates.sort();
        names.append(&mut templates);
    }
    let mut files = Vec::new();
    for name in names {
        let path = folder.join(&name);
        match std::fs::read(&path) {
            Ok(bytes) => files.push((name, bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(ModelError::Io { path, source }),
        }
    }
    Ok(files)
}
