//! API keys.

/// Keys that requests may show. Only digests are kept, and compared: how long a comparison takes says nothing of a key.
#[derive(Clone)]
pub struct ApiKeys(Vec<blake3::Hash>);

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKeys({} of them)", self.0.len())
    }
}

impl ApiKeys {
    /// The keys of a file: one a line; empty lines and lines that begin with `#` are left out. `None` where there is
    /// none.
    #[must_use]
    pub fn of_text(text: &str) -> Option<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<blake3::Hash> = lines.map(|key| blake3::hash(key.as_bytes())).collect();
        (!keys.is_empty()).then_some(Self(keys))
    }

    /// Whether a key is one of them.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        let digest = blake3::hash(key.as_bytes());
        // `blake3::Hash` compares in constant time; every key is looked at.
        self.0.iter().fold(false, |found, known| found | (*known == digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_lines() {
        let keys = ApiKeys::of_text("# of the team\n\n key-1 \nkey-2\n").unwrap();
        assert!(keys.contains("key-1") && keys.contains("key-2"));
        assert!(!keys.contains("") && !keys.contains("# of the team") && !keys.contains("key-"));
        assert!(ApiKeys::of_text("\n# none\n").is_none());
        assert_eq!(format!("{keys:?}"), "ApiKeys(2 of them)");
    }
}
