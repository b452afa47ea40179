//! The part of a row that templates are compared on.

use std::borrow::Cow;

use super::{GAP, MAX_ROW_TOKENS};

/// A row with all but [`MAX_ROW_TOKENS`] of its tokens left out of its middle.
pub(super) fn view(row: &[u32]) -> Cow<'_, [u32]> {
    const HALF: usize = MAX_ROW_TOKENS / 2;
    if row.len() <= MAX_ROW_TOKENS {
        return Cow::Borrowed(row);
    }
    Cow::Owned([&row[..HALF], &[GAP], &row[row.len() - HALF..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_long_row_is_left_out() {
        let row: Vec<u32> = (0..5000).collect();
        let view = view(&row);
        assert_eq!((view.len(), view[1023], view[1024], view[1025]), (2049, 1023, GAP, 3976));
    }
}
