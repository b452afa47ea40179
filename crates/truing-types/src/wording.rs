//! Numbers, names and errors in sentences.

use std::error::Error;

/// A number with the words after it: `one` for 1, else `many`.
#[must_use]
pub fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Numbers to choose from: `1`, `1 or 2`, `1, 2 or 4`.
#[must_use]
pub fn alternatives(numbers: &[usize]) -> String {
    let texts: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    match texts.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "none".to_owned(),
    }
}

/// An error with its causes, joined by colons. A cause that the text before it quotes already is left out.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}

/// Similarity (Jaro-Winkler) above which a name is suggested for another.
const NEAR: f64 = 0.7;

/// The known name that `found` is most like, if any is near: what a person may have meant. Case does not count.
#[must_use]
pub fn nearest_name<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let found = found.to_lowercase();
    let similarities =
        known.into_iter().map(|name| (strsim::jaro_winkler(&found, &name.to_lowercase()), name));
    let near = similarities.filter(|(similarity, _)| *similarity > NEAR);
    near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fmt;

    use super::{alternatives, counted, nearest_name, with_causes};

    #[derive(Debug)]
    struct Failed(&'static str, Option<Box<Failed>>);

    impl fmt::Display for Failed {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Failed {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &(dyn Error + 'static))
        }
    }

    #[test]
    fn causes_are_joined_and_none_is_repeated() {
        let disk = Failed("disk full", None);
        let saving = Failed("cannot save `a`: disk full", Some(Box::new(disk)));
        let step = Failed("step 3", Some(Box::new(saving)));
        assert_eq!(with_causes(&step), "step 3: cannot save `a`: disk full");
    }

    #[test]
    fn one_is_no_plural() {
        let rows = |n| counted(n, "row is", "rows are");
        assert_eq!([rows(0), rows(1), rows(2)], ["0 rows are", "1 row is", "2 rows are"]);
    }

    #[test]
    fn the_last_of_several_alternatives_follows_an_or() {
        let found = [&[][..], &[1], &[1, 2], &[1, 2, 4]].map(alternatives);
        assert_eq!(found, ["none", "1", "1 or 2", "1, 2 or 4"]);
    }

    #[test]
    fn a_misspelt_name_has_its_nearest_and_a_strange_one_has_none() {
        let known = ["learning_rate", "max_length", "warmup_steps"];
        assert_eq!(nearest_name("learnig_rate", known), Some("learning_rate"));
        assert_eq!(nearest_name("Max-Length", known), Some("max_length"));
        assert_eq!(nearest_name("zzz", known), None);
        assert_eq!(nearest_name("x", []), None);
    }
}
