//! Short names of sources that do not collide: `train.jsonl` in two folders is two sources.

use std::collections::{BTreeMap, BTreeSet};

/// Parts of a path, the last one first.
fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.rsplit(['/', '\\']).filter(|part| !part.is_empty() && *part != ".")
}

/// The last `n` parts of a path, joined by `/`.
fn last_parts(path: &str, n: usize) -> String {
    let mut kept: Vec<&str> = parts(path).take(n).collect();
    kept.reverse();
    kept.join("/")
}

/// The shortest name of each path that no other of them has: the first of `candidates` (number, path) that is its own.
fn shortest<'a>(
    paths: impl IntoIterator<Item = &'a str>,
    candidate: impl Fn(usize, &str) -> String,
) -> BTreeMap<&'a str, String> {
    let paths: BTreeSet<&str> = paths.into_iter().collect();
    let n_levels = paths.iter().map(|path| parts(path).count()).max().unwrap_or(0) + 1;
    let name = |&path: &&'a str| {
        let is_own = |name: &str, level: usize| {
            paths.iter().filter(|other| candidate(level, other) == name).count() == 1
        };
        let mut names = (0..n_levels).map(|level| (level, candidate(level, path)));
        let found = names.find(|(level, name)| !name.is_empty() && is_own(name, *level));
        (path, found.map_or_else(|| path.to_owned(), |(_, name)| name))
    };
    paths.iter().map(name).collect()
}

/// Names for metrics: the file's without its endings, then with them, then with as many folders as it takes.
pub fn metric_names<'a>(paths: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, String> {
    shortest(paths, |level, path| match level {
        0 => last_parts(path, 1).split('.').next().unwrap_or_default().to_owned(),
        n => last_parts(path, n),
    })
}

/// Names to be looked up later by another path of the same file: the file's, with as many folders as it takes.
pub fn file_names<'a>(paths: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, String> {
    shortest(paths, |level, path| last_parts(path, level + 1))
}

/// The name out of [`file_names`] that means a path: the longest that the path ends with, or the only one that ends
/// with the path.
pub fn find_name<'n>(names: impl Iterator<Item = &'n str> + Clone, path: &str) -> Option<&'n str> {
    let ends_with = |path: &str, end: &str| {
        let mut of_path = parts(path);
        parts(end).next().is_some() && parts(end).all(|part| of_path.next() == Some(part))
    };
    let longest = names.clone().filter(|name| ends_with(path, name)).max_by_key(|name| parts(name).count());
    longest.or_else(|| {
        let mut longer = names.filter(|name| ends_with(name, path));
        let only = longer.next();
        only.filter(|_| longer.next().is_none())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: BTreeMap<&str, String>) -> Vec<String> {
        of.into_values().collect()
    }

    #[test]
    fn names_are_as_short_as_they_can_be_without_colliding() {
        assert_eq!(names(metric_names(["x/a.jsonl", "x/b.jsonl.gz"])), ["a", "b"]);
        assert_eq!(
            names(metric_names(["a/train.jsonl", "b/train.jsonl"])),
            ["a/train.jsonl", "b/train.jsonl"]
        );
        assert_eq!(names(metric_names(["x/t.v1.jsonl", "x/t.v2.jsonl"])), ["t.v1.jsonl", "t.v2.jsonl"]);
        assert_eq!(names(metric_names(["x/a/t.jsonl", "y/a/t.jsonl"])), ["x/a/t.jsonl", "y/a/t.jsonl"]);
        assert_eq!(names(metric_names(["t.jsonl", "a/t.jsonl"])), ["a/t.jsonl", "t.jsonl"]);
        assert_eq!(names(metric_names(["a.jsonl", "a.jsonl"])), ["a"]);
        assert_eq!(names(metric_names(["", "/"])), ["", "/"]);
        assert_eq!(names(file_names(["x/a.jsonl", "x/b.jsonl"])), ["a.jsonl", "b.jsonl"]);
        assert_eq!(names(file_names(["a/t.jsonl", "b/t.jsonl"])), ["a/t.jsonl", "b/t.jsonl"]);
    }

    #[test]
    fn a_file_is_found_under_another_path() {
        let find = |names: &[&'static str], path: &str| find_name(names.iter().copied(), path);
        let two = ["a/train.jsonl", "b/train.jsonl"];
        assert_eq!(find(&two, "/data/b/train.jsonl"), Some("b/train.jsonl"));
        assert_eq!(find(&two, "c/train.jsonl"), None);
        assert_eq!(find(&two, "train.jsonl"), None, "it may be either");
        assert_eq!(find(&["train.jsonl"], "/c/train.jsonl"), Some("train.jsonl"));
        assert_eq!(find(&["a/train.jsonl", "b/x.jsonl"], "train.jsonl"), Some("a/train.jsonl"));
        assert_eq!(find(&["train.jsonl", "b/train.jsonl"], "/b/train.jsonl"), Some("b/train.jsonl"));
        assert_eq!(find(&["ain.jsonl"], "train.jsonl"), None);
        assert_eq!(find(&["train.jsonl"], ""), None);
    }
}
