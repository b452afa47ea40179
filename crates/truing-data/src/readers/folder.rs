//! The files of a data folder: those that are read, in name order, and those that are not, which are reported.
//! Subfolders are not read: they often hold other splits or other formats, and a test split must never be trained on by
//! accident. For the same reason a folder with files of a train split (`train-00000.parquet`, `gsm8k_train.jsonl`) is
//! read without those of its other splits (`test-*`, `validation-*`). A file that is named itself is read, of whichever
//! split it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use truing_types::counted;

use super::stem;
use crate::DataError;

/// Endings of the names that are read, after `.gz` or `.zst` is removed.
const DATA_ENDINGS: [&str; 5] = [".jsonl", ".json", ".ndjson", ".parquet", ".txt"];

/// Files that the datasets library keeps beside data.
const BESIDE_DATA: [&str; 4] =
    ["config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"];

/// Most unread files that are collected; a folder of a whole disk must not be walked to its end.
pub(crate) const MAX_UNREAD: usize = 10_000;

/// Most unread files that are named in a message.
const MAX_NAMED: usize = 5;

/// The data files behind a path: itself, or those of a folder in name order.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = entries(path)?;
    files.retain(|file| is_read(file));
    let has_train = has_train(&files);
    files.retain(|file| !(has_train && is_held_out(file)));
    if files.is_empty() {
        return Err(DataError::NoDataFiles { path: path.to_path_buf(), unread: unread(path)? });
    }
    Ok(files)
}

/// The files of a folder that are not read, sorted by path, [`MAX_UNREAD`] at most: names with other endings, hidden
/// files, descriptions of data sets, and every file of a subfolder. A hidden subfolder and a link to a folder are one
/// entry each.
pub(crate) fn unread(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut unread = Vec::new();
    if !path.is_dir() {
        return Ok(unread);
    }
    let mut subfolders = Vec::new();
    let entries_here = entries(path)?;
    let has_train = has_train(&entries_here);
    for entry in entries_here {
        match () {
            () if is_read(&entry) && !(has_train && is_held_out(&entry)) => {}
            () if is_entered(&entry) => subfolders.push(entry),
            () => unread.push(entry),
        }
    }
    while let Some(folder) = subfolders.pop() {
        // A subfolder that cannot be listed is not read either.
        let Ok(entries) = entries(&folder) else {
            unread.push(folder);
            continue;
        };
        for entry in entries {
            if is_entered(&entry) { subfolders.push(entry) } else { unread.push(entry) }
        }
        if unread.len() >= MAX_UNREAD {
            break;
        }
    }
    unread.sort();
    unread.truncate(MAX_UNREAD);
    Ok(unread)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(DataError::io("list", folder))? {
        entries.push(entry.map_err(DataError::io("list", folder))?.path());
    }
    entries.sort();
    Ok(entries)
}

/// The splits that the name of a file speaks of, at its beginning or its end: `train-00000-of-00002`, `gsm8k_test`.
fn split_of(file: &Path) -> Option<&'static str> {
    const SPLITS: [(&str, &str); 11] = [
        ("train", "train"),
        ("training", "train"),
        ("test", "test"),
        ("testing", "test"),
        ("eval", "test"),
        ("evaluation", "test"),
        ("heldout", "test"),
        ("valid", "validation"),
        ("validation", "validation"),
        ("val", "validation"),
        ("dev", "validation"),
    ];
    let name = stem(file).to_lowercase();
    let name = DATA_ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
    let words: Vec<&str> =
        name.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty() && *word != "of").collect();
    let split = |word: &&str| SPLITS.iter().find(|(known, _)| known == word).map(|(_, split)| *split);
    words.first().and_then(split).or_else(|| words.last().and_then(split))
}

/// Whether one of a folder's files is of a train split.
fn has_train(files: &[PathBuf]) -> bool {
    files.iter().any(|file| is_read(file) && split_of(file) == Some("train"))
}

/// Whether a file is of a split that is not trained on.
fn is_held_out(file: &Path) -> bool {
    split_of(file).is_some_and(|split| split != "train")
}

fn is_read(file: &Path) -> bool {
    let name = stem(file);
    let has_ending = DATA_ENDINGS.iter().any(|ending| name.ends_with(ending));
    has_ending && !is_hidden(file) && !is_beside_data(file) && file.is_file()
}

/// Whether the files below are listed one by one.
fn is_entered(entry: &Path) -> bool {
    entry.is_dir() && !entry.is_symlink() && !is_hidden(entry)
}

fn name_of(file: &Path) -> std::borrow::Cow<'_, str> {
    file.file_name().unwrap_or_default().to_string_lossy()
}

fn is_hidden(file: &Path) -> bool {
    name_of(file).starts_with('.')
}

fn is_beside_data(file: &Path) -> bool {
    BESIDE_DATA.contains(&&*name_of(file))
}

/// Says how many files are not read, why, and which: `3 files are not read (csv, xz): data/a.csv, data/b.xz, ...`.
pub(crate) fn describe_unread<P: AsRef<Path>>(files: &[P]) -> Option<String> {
    if files.is_empty() {
        return None;
    }
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for file in files {
        *kinds.entry(kind_of(file.as_ref())).or_default() += 1;
    }
    // The most frequent first.
    let mut kinds: Vec<(String, usize)> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, n_files)| std::cmp::Reverse(*n_files));
    let n_kinds_left_out = kinds.len().saturating_sub(MAX_NAMED);
    let mut kinds: Vec<String> = kinds.into_iter().take(MAX_NAMED).map(|(kind, _)| kind).collect();
    if n_kinds_left_out > 0 {
        kinds.push("...".to_owned());
    }
    let mut names: Vec<String> =
        files.iter().take(MAX_NAMED).map(|file| file.as_ref().display().to_string()).collect();
    if files.len() > MAX_NAMED {
        names.push("...".to_owned());
    }
    let many = if files.len() < MAX_UNREAD { "files are" } else { "files or more are" };
    let n_files = counted(files.len() as u64, "file is", many);
    Some(format!("{n_files} not read ({}): {}", kinds.join(", "), names.join(", ")))
}

/// Why a file is not read.
fn kind_of(file: &Path) -> String {
    if is_hidden(file) {
        return "hidden".to_owned();
    }
    if is_beside_data(file) {
        return "description of a data set".to_owned();
    }
    if file.is_dir() {
        return "folder".to_owned();
    }
    if !file.exists() {
        return "broken link".to_owned();
    }
    let name = stem(file);
    if DATA_ENDINGS.iter().any(|ending| name.ends_with(ending)) {
        let folder = file.parent().and_then(|folder| entries(folder).ok()).unwrap_or_default();
        let is_other_split = is_held_out(file) && has_train(&folder);
        return if is_other_split { "of another split" } else { "in a subfolder" }.to_owned();
    }
    match file.extension() {
        Some(extension) => extension.to_string_lossy().to_lowercase(),
        None => "no extension".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{\"text\": \"a\"}\n").unwrap();
        }
        folder
    }

    fn names(folder: &tempfile::TempDir, files: &[PathBuf]) -> Vec<String> {
        let name = |file: &PathBuf| file.strip_prefix(folder.path()).unwrap().to_string_lossy().into_owned();
        files.iter().map(name).collect()
    }

    #[test]
    fn every_file_is_either_read_or_reported() {
        let folder = folder(&[
            "a.jsonl",
            "B.JSON.GZ",
            "a.csv",
            "b.jsonl.bz2",
            "c.jsonl.xz",
            "d.jsonl.part",
            "e.jsonl.1",
            "noextension",
            ".hidden.jsonl",
            "dataset_info.json",
            "sub/c.jsonl",
            "sub/deep/d.parquet",
            ".git/config",
        ]);
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(folder.path().join("gone"), folder.path().join("z.jsonl")).unwrap();
            // A link to a folder above: nothing is walked twice.
            std::os::unix::fs::symlink(folder.path(), folder.path().join("sub/loop")).unwrap();
        }
        assert_eq!(names(&folder, &files(folder.path()).unwrap()), ["B.JSON.GZ", "a.jsonl"]);
        let found = unread(folder.path()).unwrap();
        let expected = [
            ".git",
            ".hidden.jsonl",
            "a.csv",
            "b.jsonl.bz2",
            "c.jsonl.xz",
            "d.jsonl.part",
            "dataset_info.json",
            "e.jsonl.1",
            "noextension",
            "sub/c.jsonl",
            "sub/deep/d.parquet",
            "sub/loop",
            "z.jsonl",
        ];
        assert_eq!(names(&folder, &found), expected);
        let kinds: Vec<String> = found.iter().map(|file| kind_of(file)).collect();
        let expected = [
            "hidden",
            "hidden",
            "csv",
            "bz2",
            "xz",
            "part",
            "description of a data set",
            "1",
            "no extension",
            "in a subfolder",
            "in a subfolder",
            "folder",
            "broken link",
        ];
        assert_eq!(kinds, expected);
        assert!(unread(&folder.path().join("a.jsonl")).unwrap().is_empty(), "a file that is named is meant");
    }

    #[test]
    fn a_folder_with_a_train_split_is_read_without_its_other_splits() {
        let folder = folder(&[
            "train-00000-of-00002.jsonl",
            "train-00001-of-00002.jsonl",
            "test-00000-of-00001.jsonl",
            "validation.jsonl.gz",
            "gsm8k_test.jsonl",
            "dev.jsonl",
            "contest.jsonl",
            "testimonials.jsonl",
        ]);
        let read = [
            "contest.jsonl",
            "testimonials.jsonl",
            "train-00000-of-00002.jsonl",
            "train-00001-of-00002.jsonl",
        ];
        assert_eq!(names(&folder, &files(folder.path()).unwrap()), read);
        let left = unread(folder.path()).unwrap();
        assert_eq!(
            names(&folder, &left),
            ["dev.jsonl", "gsm8k_test.jsonl", "test-00000-of-00001.jsonl", "validation.jsonl.gz"]
        );
        assert!(left.iter().all(|file| kind_of(file) == "of another split"));
        let named = folder.path().join("dev.jsonl");
        assert_eq!(files(&named).unwrap(), [named]);
    }

    #[test]
    fn a_folder_without_a_train_split_is_read_as_a_whole() {
        let folder = folder(&["test.jsonl", "validation.jsonl", "a.jsonl"]);
        assert_eq!(files(folder.path()).unwrap().len(), 3);
        assert!(unread(folder.path()).unwrap().is_empty());
    }

    #[test]
    fn a_message_is_bounded() {
        assert_eq!(describe_unread::<PathBuf>(&[]), None);
        let folder = folder(&["a.csv", "b.xz", "sub/c.jsonl"]);
        let text = describe_unread(&unread(folder.path()).unwrap()).unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let files = format!("{}, {}, {}", at("a.csv"), at("b.xz"), at("sub/c.jsonl"));
        assert_eq!(text, format!("3 files are not read (csv, in a subfolder, xz): {files}"));
        let many: Vec<PathBuf> = (0..300).map(|i| PathBuf::from(format!("x/{i}.k{}", i % 9))).collect();
        let text = describe_unread(&many).unwrap();
        assert!(text.starts_with("300 files are not read (") && text.ends_with("x/4.k4, ..."), "{text}");
        assert!(text.len() < 200, "{text}");
    }
}
