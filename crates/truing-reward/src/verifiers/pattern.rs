//! Regular expressions of the verifiers' own.

use regex::Regex;

/// A pattern that is written in the source; a test compiles every one of them.
#[expect(clippy::unwrap_used, reason = "literals of this crate, each compiled in the test below")]
pub(super) fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::pattern;

    /// The value of the string literal that a source starts with, and what follows it.
    fn literal(source: &str) -> Option<(String, &str)> {
        if let Some(rest) = source.strip_prefix("r\"") {
            let (text, rest) = rest.split_once('"')?;
            return Some((text.to_owned(), rest));
        }
        let rest = source.strip_prefix('"')?;
        let (text, rest) = rest.split_once('"')?;
        assert!(!text.contains('\\'), "write {text:?} as a raw string");
        Some((text.to_owned(), rest))
    }

    /// The literals of `"..."` or `concat!("...", ...)`, joined; `None` for any other expression.
    fn argument(source: &str) -> Option<String> {
        let source = source.trim_start();
        let Some(mut rest) = source.strip_prefix("concat!(") else {
            return literal(source).map(|(text, _)| text);
        };
        let mut joined = String::new();
        while let Some((text, after)) = literal(rest.trim_start()) {
            joined.push_str(&text);
            rest = after.trim_start().strip_prefix(',').unwrap_or(after);
        }
        assert!(rest.trim_start().starts_with(')'), "a literal is missing in {joined:?}");
        Some(joined)
    }

    /// Every literal after `pattern(` in a file, and after the equals signs of a `patterns!` block.
    fn patterns_of(source: &str) -> Vec<String> {
        let calls = source.split("pattern(").skip(1).filter_map(argument);
        let blocks = source.split("patterns! {\n").skip(1).filter_map(|block| block.split("\n}").next());
        let listed = blocks.flat_map(str::lines).filter_map(|line| argument(line.split_once(" = ")?.1));
        calls.chain(listed).collect()
    }

    fn compile_all(folder: &Path, n_found: &mut usize) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                compile_all(&path, n_found);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with(file!())
            {
                for text in patterns_of(&fs::read_to_string(&path).unwrap()) {
                    pattern(&text);
                    *n_found += 1;
                }
            }
        }
    }

    #[test]
    fn every_pattern_of_the_sources_compiles() {
        let mut n_found = 0;
        compile_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/verifiers"), &mut n_found);
        assert!(n_found >= 60, "{n_found} patterns");
    }
}
