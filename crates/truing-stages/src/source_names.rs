//! Short names of data sources: as much of each path as tells it from the others.

use std::collections::BTreeMap;

/// The parts of a path, the file first.
fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.rsplit(['/', '\\']).filter(|part| !part.is_empty())
}

/// How many last parts two paths have in common.
pub(crate) fn n_common_parts(a: &str, b: &str) -> usize {
    parts(a).zip(parts(b)).take_while(|(a, b)| a == b).count()
}

/// The shortest end of each path, in whole parts, that no other of the paths has: the file's name where that is unique,
/// `a/train.jsonl` and `b/train.jsonl` where it is not. By path.
pub(crate) fn distinct_ends<'a>(paths: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, String> {
    let mut ends: BTreeMap<&str, String> = paths.into_iter().map(|path| (path, String::new())).collect();
    let paths: Vec<&str> = ends.keys().copied().collect();
    for (path, end) in &mut ends {
        let others = paths.iter().filter(|other| *other != path);
        let n_parts = others.map(|other| n_common_parts(path, other)).max().unwrap_or(0) + 1;
        let mut last: Vec<&str> = parts(path).take(n_parts).collect();
        last.reverse();
        *end = last.join("/");
    }
    ends
}

/// Names for metrics and tables: as [`distinct_ends`], without the endings of the files' names where these are not what
/// differs. By path.
pub(crate) fn short_names<'a>(paths: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, String> {
    let ends = distinct_ends(paths);
    let without_ending = |end: &str| {
        let (folder, file) = end.rsplit_once('/').map_or(("", end), |(folder, file)| (folder, file));
        let stem = file.split('.').next().filter(|stem| !stem.is_empty()).unwrap_or(file);
        if folder.is_empty() { stem.to_owned() } else { format!("{folder}/{stem}") }
    };
    let mut n_with: BTreeMap<String, usize> = BTreeMap::new();
    for end in ends.values() {
        *n_with.entry(without_ending(end)).or_default() += 1;
    }
    let name = |end: String| {
        let short = without_ending(&end);
        if n_with[&short] == 1 { short } else { end }
    };
    ends.into_iter().map(|(path, end)| (path, name(end))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_as_long_as_it_has_to_be() {
        let paths = ["/r/a/train.jsonl", "/r/b/train.jsonl", "/r/b/test.jsonl", "/s/a/train.jsonl"];
        let ends = distinct_ends(paths);
        assert_eq!(
            paths.map(|path| &ends[path][..]),
            ["r/a/train.jsonl", "b/train.jsonl", "test.jsonl", "s/a/train.jsonl"]
        );
        assert_eq!(distinct_ends(["/x/y/train.jsonl"])["/x/y/train.jsonl"], "train.jsonl");
        // One path is the end of another; the same file twice is one source.
        let ends = distinct_ends(["a/t.jsonl", "x/a/t.jsonl", "a/t.jsonl"]);
        assert_eq!(
            (ends.len(), &ends["a/t.jsonl"][..], &ends["x/a/t.jsonl"][..]),
            (2, "a/t.jsonl", "x/a/t.jsonl")
        );
        assert_eq!(distinct_ends(["c:\\a\\t.csv", "c:\\b\\t.csv"])["c:\\a\\t.csv"], "a/t.csv");
    }

    #[test]
    fn names_of_metrics_have_no_ending_unless_it_tells_them_apart() {
        let names = short_names(["/r/a/train.jsonl", "/r/b/train.jsonl", "/r/b/gsm8k.test.parquet"]);
        let names: Vec<&str> = names.values().map(String::as_str).collect();
        assert_eq!(names, ["a/train", "gsm8k", "b/train"]);
        let names = short_names(["/r/train.jsonl", "/r/train.parquet", "/r/.hidden"]);
        let names: Vec<&str> = names.values().map(String::as_str).collect();
        assert_eq!(names, [".hidden", "train.jsonl", "train.parquet"]);
        assert_eq!(short_names([""])[""], "");
    }
}
