//! Tests of `committed.rs`.

use super::*;

fn commit(parent: &Path, name: &str, content: &[u8]) -> CommittedDirectory {
    let mut staged = StagedDirectory::begin(&parent.join(name)).unwrap();
    staged.write("weights.bin", content).unwrap();
    fs::create_dir(staged.path().join("sub")).unwrap();
    fs::write(staged.path().join("sub/state.json"), b"{}").unwrap();
    staged.commit().unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_committed_opens_with_all_its_files() {
    let parent = tempfile::tempdir().unwrap();
    let committed = commit(parent.path(), "step-1", b"abc");
    let opened = CommittedDirectory::open_verified(&parent.path().join("step-1")).unwrap();
    assert_eq!(opened.files(), committed.files());
    let expected = ["sub/state.json", "weights.bin"];
    assert!(opened.files().iter().map(|f| &f.name[..]).eq(expected));
    assert_eq!(names(parent.path()), ["step-1"]);
}

#[test]
fn an_abandoned_directory_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let mut staged = StagedDirectory::begin(&parent.path().join("step-1")).unwrap();
    staged.write("a", b"1").unwrap();
    drop(staged);
    assert!(names(parent.path()).is_empty());
}

#[test]
fn a_file_that_was_not_finished_is_not_committed() {
    let parent = tempfile::tempdir().unwrap();
    let mut staged = StagedDirectory::begin(&parent.path().join("step-1")).unwrap();
    staged.file("a").unwrap().write_all(b"half").unwrap();
    assert!(matches!(staged.commit(), Err(StoreError::InvalidName { .. })));
    assert!(names(parent.path()).is_empty());
}

#[test]
fn a_commit_replaces_the_former_directory() {
    let parent = tempfile::tempdir().unwrap();
    commit(parent.path(), "best", b"old");
    commit(parent.path(), "best", b"new");
    assert_eq!(fs::read(parent.path().join("best/weights.bin")).unwrap(), b"new");
    assert_eq!(names(parent.path()), ["best"]);
}

#[test]
fn an_exchange_cut_off_between_its_renames_gives_the_old_back() {
    let parent = tempfile::tempdir().unwrap();
    commit(parent.path(), "step-7", b"old");
    fs::rename(parent.path().join("step-7"), parent.path().join("step-7.replaced")).unwrap();
    let latest = latest_valid(parent.path(), "step-").unwrap();
    assert_eq!(latest.found.unwrap().0, 7);
    assert_eq!(names(parent.path()), ["step-7"]);
}

/// Damages a committed directory and returns what opening it says.
fn check_damage(damage: impl FnOnce(&Path)) -> StoreError {
    let parent = tempfile::tempdir().unwrap();
    commit(parent.path(), "step-1", b"good");
    let newest = commit(parent.path(), "step-2", b"abcdef");
    damage(newest.path());
    let mut latest = latest_valid(parent.path(), "step-").unwrap();
    assert_eq!(latest.found.unwrap().0, 1, "falls back to the last good one");
    latest.damaged.remove(0).reason
}

#[test]
fn every_damage_is_seen_and_named() {
    let error = check_damage(|d| fs::write(d.join("weights.bin"), b"abcde").unwrap());
    assert!(matches!(error, StoreError::SizeMismatch { expected: 6, found: 5, .. }), "{error}");
    let error = check_damage(|d| fs::write(d.join("weights.bin"), b"abcdeg").unwrap());
    assert!(matches!(error, StoreError::DigestMismatch { .. }), "{error}");
    let error = check_damage(|d| fs::remove_file(d.join("sub/state.json")).unwrap());
    assert!(matches!(error, StoreError::MissingFile { .. }), "{error}");
    let error = check_damage(|d| fs::remove_file(d.join(MANIFEST)).unwrap());
    assert!(matches!(error, StoreError::MissingManifest { .. }), "{error}");
    let error = check_damage(|d| {
        let json = fs::read(d.join(MANIFEST)).unwrap();
        fs::write(d.join(MANIFEST), &json[..json.len() / 2]).unwrap();
    });
    assert!(matches!(error, StoreError::BadManifest { .. }), "{error}");
    let error = check_damage(|d| {
        fs::write(d.join(MANIFEST), br#"{"format_version":99,"files":[]}"#).unwrap();
    });
    assert!(matches!(error, StoreError::UnknownFormatVersion { found: 99, .. }), "{error}");
    let error = check_damage(|d| {
        let json = fs::read_to_string(d.join(MANIFEST)).unwrap();
        fs::write(d.join(MANIFEST), json.replace("weights.bin", "../x")).unwrap();
    });
    assert!(matches!(error, StoreError::BadManifest { .. }), "{error}");
}

#[test]
fn a_flip_of_any_byte_is_seen_or_harmless() {
    let parent = tempfile::tempdir().unwrap();
    let directory = commit(parent.path(), "step-1", b"abcdef");
    for file in ["weights.bin", "sub/state.json", MANIFEST] {
        let path = directory.path().join(file);
        let original = fs::read(&path).unwrap();
        for i in 0..original.len() {
            let mut flipped = original.clone();
            flipped[i] ^= 0x10;
            fs::write(&path, &flipped).unwrap();
            // Only the manifest's own white space may change unseen.
            let is_white = file == MANIFEST && original[i].is_ascii_whitespace();
            assert!(is_white || CommittedDirectory::open_verified(directory.path()).is_err(), "{file}:{i}");
        }
        fs::write(&path, &original).unwrap();
    }
}

#[test]
fn leftover_partials_are_never_read_and_are_cleared_by_the_next_attempt() {
    let parent = tempfile::tempdir().unwrap();
    commit(parent.path(), "step-1", b"a");
    let left = parent.path().join("step-2.partial");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("weights.bin"), b"half").unwrap();
    assert_eq!(latest_valid(parent.path(), "step-").unwrap().found.unwrap().0, 1);
    let directory = commit(parent.path(), "step-2", b"whole");
    assert_eq!(fs::read(directory.path().join("weights.bin")).unwrap(), b"whole");
    assert_eq!(names(parent.path()), ["step-1", "step-2"]);
}

#[test]
fn pruning_keeps_the_last_and_the_pinned_and_orders_by_number() {
    let parent = tempfile::tempdir().unwrap();
    for step in [2, 10, 9, 100] {
        commit(parent.path(), &format!("step-{step}"), b"x");
    }
    fs::create_dir(parent.path().join("step-3.deleted")).unwrap();
    fs::create_dir(parent.path().join("other-1")).unwrap();
    let removed = prune(parent.path(), "step-", 2, &[2]).unwrap();
    assert_eq!(removed, [parent.path().join("step-9")]);
    assert_eq!(names(parent.path()), ["other-1", "step-10", "step-100", "step-2"]);
}

#[test]
fn names_cannot_leave_the_directory() {
    let parent = tempfile::tempdir().unwrap();
    let mut staged = StagedDirectory::begin(&parent.path().join("x")).unwrap();
    for name in ["../a", "/etc/x", "a//b", "", ".", "manifest.json", "a/../../b"] {
        assert!(matches!(staged.write(name, b""), Err(StoreError::InvalidName { .. })), "{name}");
    }
}
