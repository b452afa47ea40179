//! The verdict of a judge on two prompts.

use serde::Serialize;

/// A verdict on the first of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is worse.
    Worse,
    /// Neither is better.
    Equal,
    /// It is better.
    Better,
}

impl Verdict {
    /// The share of a win.
    #[must_use]
    pub fn share(self) -> f64 {
        match self {
            Self::Worse => 0.0,
            Self::Equal => 0.5,
            Self::Better => 1.0,
        }
    }

    /// The same from the other side.
    #[must_use]
    pub fn swapped(self) -> Self {
        match self {
            Self::Worse => Self::Better,
            Self::Equal => Self::Equal,
            Self::Better => Self::Worse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapping_twice_is_nothing() {
        for verdict in [Verdict::Worse, Verdict::Equal, Verdict::Better] {
            assert_eq!(verdict.swapped().swapped(), verdict);
            assert_eq!(verdict.swapped().share(), 1.0 - verdict.share());
        }
    }
}
