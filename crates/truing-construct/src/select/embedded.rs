//! Rows as vectors.

use truing_prompts::clustering::Vectors;

use crate::StageError;

/// Vectors of the rows that are left, in their order.
#[derive(Debug)]
pub(super) struct Embedded {
    /// `[n, width]`.
    pub(super) data: Vec<f32>,
    pub(super) width: usize,
}

impl Embedded {
    pub(super) fn vectors(&self) -> Result<Vectors<'_>, StageError> {
        Ok(Vectors::new(&self.data, self.width)?)
    }

    /// Those of some rows.
    pub(super) fn rows(&self, rows: &[u32]) -> Self {
        let of_row = |&row: &u32| &self.data[row as usize * self.width..(row as usize + 1) * self.width];
        Self { data: rows.iter().flat_map(of_row).copied().collect(), width: self.width }
    }
}
