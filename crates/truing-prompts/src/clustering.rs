//! Clusters of vectors, coarse and fine.
//!
//! - [`kmeans`]: greedy k-means++ seeding and Lloyd's iteration, for many clusters.
//! - [`coarse_and_fine`]: k-means, and k-means again inside each coarse cluster: topics and their parts.
//! - [`agglomerate`]: the merges of hierarchical clustering, for up to some thousand rows; [`crate::selection`] runs it
//!   block by block.
//!
//! Vectors are rows of numbers from any encoder. Distances are Euclidean; for cosine distances give
//! [`normalised`] vectors.

mod agglomerative;
mod kmeans;

use rayon::prelude::*;

use crate::PromptsError;
use crate::error::check_option;

pub use agglomerative::{Linkage, Merge, agglomerate};
pub use kmeans::{Kmeans, KmeansOptions, kmeans};

/// `[n, dim]` numbers.
#[derive(Debug, Clone, Copy)]
pub struct Vectors<'a> {
    data: &'a [f32],
    dim: usize,
}

impl<'a> Vectors<'a> {
    /// Checks that `data` is whole rows of finite numbers.
    ///
    /// # Errors
    /// When it is not.
    pub fn new(data: &'a [f32], dim: usize) -> Result<Self, PromptsError> {
        check_option(dim > 0, "dim", dim, "at least 1")?;
        check_option(data.len().is_multiple_of(dim), "data length", data.len(), "a multiple of `dim`")?;
        match data.par_iter().position_first(|x| !x.is_finite()) {
            Some(at) => Err(PromptsError::NotFinite { row: at / dim, index: at % dim, value: data[at] }),
            None => Ok(Vectors { data, dim }),
        }
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.data.len() / self.dim
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Numbers of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All rows, one after another.
    pub fn data(&self) -> &'a [f32] {
        self.data
    }

    /// One row. Panics when there is none.
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.dim..][..self.dim]
    }

    /// Copies of some rows.
    pub(crate) fn gather(&self, rows: &[u32]) -> Vec<f32> {
        let mut gathered = Vec::new();
        self.gather_into(rows, &mut gathered);
        gathered
    }

    /// The same, in a buffer's room.
    fn gather_into(&self, rows: &[u32], gathered: &mut Vec<f32>) {
        gathered.resize(rows.len() * self.dim, 0.0);
        gathered
            .par_chunks_mut(self.dim)
            .zip(rows)
            .for_each(|(to, &row)| to.copy_from_slice(self.row(row as usize)));
    }
}

/// The rows with length 1; rows of zeros stay.
pub fn normalised(vectors: Vectors<'_>) -> Vec<f32> {
    let mut rows = vectors.data.to_vec();
    rows.par_chunks_mut(vectors.dim).for_each(|row| {
        let length = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
    });
    rows
}

/// The scalar product of two vectors, in lanes that a compiler keeps in vector registers.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let (a_steps, b_steps) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_steps.remainder().iter().zip(b_steps.remainder()).map(|(a, b)| a * b).sum();
    let mut lanes = [0.0; LANES];
    for (a, b) in a_steps.zip(b_steps) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Labels at two grains. A fine cluster lies in one coarse cluster, and its number is used in no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoarseAndFine {
    /// For each row its coarse cluster.
    pub coarse: Vec<u32>,
    /// For each row its fine cluster.
    pub fine: Vec<u32>,
}

/// Clusters rows, then each cluster's rows into clusters of about `rows_per_fine_cluster`.
///
/// # Errors
/// When an option is outside its range.
pub fn coarse_and_fine(
    vectors: Vectors<'_>,
    options: &KmeansOptions,
    rows_per_fine_cluster: usize,
) -> Result<CoarseAndFine, PromptsError> {
    check_option(rows_per_fine_cluster > 0, "rows_per_fine_cluster", rows_per_fine_cluster, "at least 1")?;
    let coarse = kmeans(vectors, options)?.labels;
    let mut rows_of = vec![Vec::new(); options.n_clusters];
    coarse.iter().enumerate().for_each(|(row, &label)| rows_of[label as usize].push(row as u32));
    let mut fine = vec![0; coarse.len()];
    let mut first = 0;
    for (cluster, rows) in rows_of.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
        let n_clusters = rows.len().div_ceil(rows_per_fine_cluster);
        let inside = vectors.gather(rows);
        let seed = truing_types::Seed(options.seed.0 ^ crate::hashing::mix(cluster as u64 + 1));
        let inner = KmeansOptions { n_clusters, seed, ..options.clone() };
        let labels = kmeans(Vectors { data: &inside, dim: vectors.dim }, &inner)?.labels;
        rows.iter().zip(labels).for_each(|(&row, label)| fine[row as usize] = first + label);
        first += n_clusters as u32;
    }
    Ok(CoarseAndFine { coarse, fine })
}
