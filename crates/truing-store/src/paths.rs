//! Paths as people write them, and the room on their disks.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// A path that is relative to a folder, without `a/..` and needless `.`. `..` after a symbolic link stays, for it leads
/// to the parent of the link's target.
#[must_use]
pub fn in_folder(folder: &Path, path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in folder.join(path).components() {
        let is_plain_folder = matches!(clean.components().next_back(), Some(Component::Normal(_)))
            && !clean.as_path().is_symlink();
        match component {
            Component::CurDir => {}
            Component::ParentDir if is_plain_folder => {
                clean.pop();
            }
            component => clean.push(component),
        }
    }
    let is_here =
        clean.as_os_str().is_empty() && !(folder.as_os_str().is_empty() && path.as_os_str().is_empty());
    if is_here { PathBuf::from(".") } else { clean }
}

/// A path as it is written from a folder, both absolute; `.` where they are one. Neither is looked up on the disk.
#[must_use]
pub fn relative_to(folder: &Path, path: &Path) -> PathBuf {
    let (from, to): (Vec<Component<'_>>, Vec<Component<'_>>) =
        (folder.components().collect(), path.components().collect());
    let n_common = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
    let mut way: PathBuf = from[n_common..].iter().map(|_| Component::ParentDir).collect();
    way.extend(&to[n_common..]);
    if way.as_os_str().is_empty() { PathBuf::from(".") } else { way }
}

/// Bytes of all files below a folder; 0 where there is none. What cannot be read counts as nothing.
#[must_use]
pub fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let of_entry = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(of_entry).sum()
}

/// Bytes that are free for a file or folder that may not exist yet; `None` where the system does not say.
#[must_use]
pub fn free_bytes(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|path| path.exists());
    let existing = existing.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs4::available_space(existing).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_from_a_folder() {
        for (folder, path, expected) in [
            ("/a/b", "/a/b", "."),
            ("/a/b", "/a/c/d", "../c/d"),
            ("/a/", "/a/b", "b"),
            ("/a/b", "/a", ".."),
            ("/a", "/b", "../b"),
        ] {
            assert_eq!(
                relative_to(Path::new(folder), Path::new(path)),
                Path::new(expected),
                "{folder} to {path}"
            );
        }
    }

    #[test]
    fn parents_of_plain_folders_are_resolved() {
        for (folder, path, expected) in [
            ("recipes", "../runs/a", "runs/a"),
            ("recipes", "data/./x.jsonl", "recipes/data/x.jsonl"),
            ("", "../a", "../a"),
            ("a/b", "../../../c", "../c"),
            ("/a", "../../b", "/../b"),
            ("recipes", "/b/../c", "/c"),
            ("", "", ""),
            ("recipes", "..", "."),
        ] {
            assert_eq!(in_folder(Path::new(folder), Path::new(path)), Path::new(expected), "{folder} {path}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_parent_of_a_link_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("a/target"), folder.path().join("link"));
        fs::create_dir_all(&target).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert_eq!(in_folder(&link, Path::new("../x")), link.join("../x"));
        assert_eq!(in_folder(&target, Path::new("../x")), folder.path().join("a/x"));
    }

    #[test]
    fn files_below_a_folder_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/b"), [0; 7]).unwrap();
        fs::write(folder.path().join("c"), [0; 5]).unwrap();
        assert_eq!((bytes_below(folder.path()), bytes_below(&folder.path().join("none"))), (12, 0));
        assert!(free_bytes(&folder.path().join("not/there")).is_some_and(|free| free > 0));
    }
}
