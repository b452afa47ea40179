//! Bounds of counts.

/// How a count is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    LessThan(usize),
    AtLeast(usize),
    AtMost(usize),
}

impl Bound {
    pub(super) fn holds(self, count: usize) -> bool {
        match self {
            Self::LessThan(limit) => count < limit,
            Self::AtLeast(limit) => count >= limit,
            Self::AtMost(limit) => count <= limit,
        }
    }
}
