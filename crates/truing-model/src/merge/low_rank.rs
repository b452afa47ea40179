//! The matrix of a given rank that is nearest to another: a truncated singular value decomposition, found by subspace
//! iteration from a random start (Halko, Martinsson and Tropp 2011, arXiv 0909.4061, algorithms 4.4 and 5.1). Sums are in f64, in
//! order; the start follows from the seed, so the result is always the same.

use nalgebra::DMatrix;
use rayon::prelude::*;
use truing_types::Seed;

/// Directions that are followed beyond those that are kept.
const OVERSAMPLING: usize = 8;
/// Rounds of the iteration. Each squares the ratio by which larger singular values are preferred, twice.
const N_ROUNDS: usize = 4;
/// Columns that one thread works on at a time.
const COLUMNS_PER_ITEM: usize = 64;

/// Two factors of a matrix `[out, in]`: `b` `[out, rank]`, `a` `[rank, in]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Factors {
    pub(super) b: Vec<f32>,
    pub(super) a: Vec<f32>,
    /// The share of the squared norm that the product has; 1 of a matrix of zeros.
    pub(super) captured: f64,
}

/// A matrix by rows.
#[derive(Clone, Copy)]
struct Rows<'a> {
    values: &'a [f32],
    width: usize,
}

impl Rows<'_> {
    fn n_rows(self) -> usize {
        self.values.len() / self.width
    }

    /// The product with `x` `[in, k]`.
    fn times(self, x: &DMatrix<f64>) -> DMatrix<f64> {
        let (k, by_row) = (x.ncols(), x.transpose());
        let x = by_row.as_slice();
        let mut product = vec![0.0; self.n_rows() * k];
        product.par_chunks_mut(k).zip(self.values.par_chunks(self.width)).for_each(|(sums, row)| {
            for (value, x) in row.iter().zip(x.chunks_exact(k)) {
                sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += f64::from(*value) * x);
            }
        });
        DMatrix::from_row_slice(self.n_rows(), k, &product)
    }

    /// The product of the transposed matrix with `y` `[out, k]`.
    fn transposed_times(self, y: &DMatrix<f64>) -> DMatrix<f64> {
        let (k, by_row) = (y.ncols(), y.transpose());
        let y = by_row.as_slice();
        let mut product = vec![0.0; self.width * k];
        product.par_chunks_mut(k * COLUMNS_PER_ITEM).enumerate().for_each(|(item, sums)| {
            let first = item * COLUMNS_PER_ITEM;
            for (row, y) in self.values.chunks_exact(self.width).zip(y.chunks_exact(k)) {
                for (value, sums) in row[first..].iter().zip(sums.chunks_exact_mut(k)) {
                    sums.iter_mut().zip(y).for_each(|(sum, y)| *sum += f64::from(*value) * y);
                }
            }
        });
        DMatrix::from_row_slice(self.width, k, &product)
    }
}

/// The best factors of `rank` of a matrix `[out, in]`. A smaller matrix has zeros in the directions that it does not have.
pub(super) fn factor(values: &[f32], width: usize, rank: usize, seed: Seed, name: &str) -> Factors {
    let matrix = Rows { values, width };
    let (n_rows, least) = (matrix.n_rows(), matrix.n_rows().min(width));
    let square: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
    let mut factors = Factors { b: vec![0.0; n_rows * rank], a: vec![0.0; rank * width], captured: 1.0 };
    if square == 0.0 {
        return factors;
    }
    let k = (rank + OVERSAMPLING).min(least);
    let start = seed.normals(&format!("merge factors {name}"), width * k, 1.0);
    let start = DMatrix::from_iterator(width, k, start.into_iter().map(f64::from));
    let mut left = matrix.times(&start).qr().q();
    for _ in 0..N_ROUNDS {
        let right = matrix.transposed_times(&left).qr().q();
        left = matrix.times(&right).qr().q();
    }
    // The matrix seen from those directions, and its own main axes.
    let seen = matrix.transposed_times(&left);
    let axes = (seen.transpose() * &seen).symmetric_eigen();
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by(|&i, &j| axes.eigenvalues[j].total_cmp(&axes.eigenvalues[i]));
    let kept: Vec<usize> = order.into_iter().take(rank).filter(|&i| axes.eigenvalues[i] > 0.0).collect();
    for (place, &axis) in kept.iter().enumerate() {
        let direction = axes.eigenvectors.column(axis);
        // Half of the singular value goes to each factor.
        let half = axes.eigenvalues[axis].sqrt().sqrt();
        let out = &left * direction;
        let input = &seen * direction;
        out.iter().enumerate().for_each(|(row, value)| factors.b[row * rank + place] = (value * half) as f32);
        let of_axis = &mut factors.a[place * width..(place + 1) * width];
        of_axis.iter_mut().zip(input.iter()).for_each(|(a, value)| *a = (value / half) as f32);
    }
    factors.captured = (kept.iter().map(|&i| axes.eigenvalues[i]).sum::<f64>() / square).min(1.0);
    factors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(factors: &Factors, rank: usize, width: usize) -> Vec<f64> {
        let n_rows = factors.b.len() / rank;
        let at = |row: usize, column: usize| {
            let terms = (0..rank)
                .map(|r| f64::from(factors.b[row * rank + r]) * f64::from(factors.a[r * width + column]));
            terms.sum::<f64>()
        };
        (0..n_rows * width).map(|i| at(i / width, i % width)).collect()
    }

    #[test]
    fn a_matrix_of_low_rank_comes_back() {
        for (n_rows, width) in [(30, 50), (50, 30)] {
            let b = Seed(1).normals("b", n_rows * 3, 1.0);
            let a = Seed(1).normals("a", 3 * width, 1.0);
            let whole: Vec<f32> =
                product(&Factors { b, a, captured: 0.0 }, 3, width).iter().map(|v| *v as f32).collect();
            for rank in [3, 5] {
                let factors = factor(&whole, width, rank, Seed(0), "x");
                for (found, expected) in product(&factors, rank, width).iter().zip(&whole) {
                    assert!((found - f64::from(*expected)).abs() < 1e-5, "{found} {expected}");
                }
                assert!(factors.captured > 1.0 - 1e-10, "{}", factors.captured);
            }
        }
    }

    /// Against nalgebra's singular value decomposition of the whole matrix.
    #[test]
    fn what_is_kept_are_the_largest_singular_values() {
        let (n_rows, width, rank) = (40, 60, 6);
        // Singular values fall off like 0.8^i.
        let noise = Seed(2).normals("m", n_rows * width, 1.0);
        let mut svd = DMatrix::from_iterator(n_rows, width, noise.into_iter().map(f64::from)).svd(true, true);
        svd.singular_values.iter_mut().enumerate().for_each(|(i, value)| *value = 0.8_f64.powi(i as i32));
        let matrix = svd.clone().recompose().unwrap();
        let values: Vec<f32> = matrix.transpose().iter().map(|value| *value as f32).collect();
        let factors = factor(&values, width, rank, Seed(0), "x");
        svd.singular_values.iter_mut().skip(rank).for_each(|value| *value = 0.0);
        let best = svd.recompose().unwrap().transpose();
        for (found, expected) in product(&factors, rank, width).iter().zip(best.iter()) {
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
        let squares = |from: i32, to: i32| (from..to).map(|i| 0.64_f64.powi(i)).sum::<f64>();
        assert!((factors.captured - squares(0, 6) / squares(0, 40)).abs() < 1e-6, "{}", factors.captured);
    }

    #[test]
    fn zeros_and_ranks_beyond_the_matrix_are_no_trouble() {
        let factors = factor(&[0.0; 12], 4, 2, Seed(0), "x");
        assert_eq!((factors.captured, factors.b, factors.a), (1.0, vec![0.0; 6], vec![0.0; 8]));
        let factors = factor(&[1.0, 0.0, 0.0, 2.0], 2, 5, Seed(0), "x");
        let back = product(&factors, 5, 2);
        assert!(
            back.iter().zip([1.0, 0.0, 0.0, 2.0]).all(|(found, expected)| (found - expected).abs() < 1e-6),
            "{back:?}"
        );
    }
}
