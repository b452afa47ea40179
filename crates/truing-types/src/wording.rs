//! Numbers in sentences.

/// A number with the words after it: `one` for 1, else `many`.
#[must_use]
pub fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_is_no_plural() {
        let rows = |n| counted(n, "row is", "rows are");
        assert_eq!([rows(0), rows(1), rows(2)], ["0 rows are", "1 row is", "2 rows are"]);
    }
}
