//! k-means: the centroids that rows are nearest to, and are the means of.
//!
//! - Seeding: k-means++ (Arthur and Vassilvitskii 2007), greedy over `2 + ln k` draws a centroid. Drawing by the
//!   distances of a random projection was tried: three times as fast and 1.4 % more inertia, so it is not done. Nor are
//!   fewer draws, or draws judged by a part of the rows: on real embeddings 1 to 4 % more, though on even heaps none.
//! - Iteration: Lloyd's, exact. A row whose bounds (Hamerly 2010) show that its centroid is still the nearest is not
//!   looked at; the others' distances are a matrix product.
//! - Pools with more than [`KmeansOptions::max_rows_per_cluster`] rows a cluster: the centroids are those of a sample of
//!   that size, and every row then goes to its nearest.
//!
//! Sums run in the order of the rows, so no bit depends on the number of threads.

use rand_chacha::rand_core::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use truing_kernels::{MatrixRef, Write, matmul};
use truing_types::Seed;

use super::Vectors;
use crate::PromptsError;
use crate::error::check_option;

/// Rows whose products with all centroids are made at a time.
const BLOCK_ROWS: usize = 2048;
/// Centroids whose draws are made at once.
const BATCH: usize = 4;
/// Rows whose weights are summed in single precision.
const SUM_ROWS: usize = 1024;
/// Relative error that single precision may put into a distance: bounds are believed beyond it only.
const SLACK: f32 = 1e-5;

/// How to cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KmeansOptions {
    /// Centroids.
    pub n_clusters: usize,
    /// Most iterations.
    pub max_iterations: usize,
    /// Stop when the centroids' squared movements sum to at most this share of the vectors' mean variance.
    pub tolerance: f64,
    /// Rows of the sample that centroids are fitted to, for each cluster.
    pub max_rows_per_cluster: usize,
    /// Of every draw.
    pub seed: Seed,
}

impl Default for KmeansOptions {
    fn default() -> Self {
        KmeansOptions {
            n_clusters: 100,
            max_iterations: 100,
            tolerance: 1e-4,
            max_rows_per_cluster: 256,
            seed: Seed(0),
        }
    }
}

/// Clusters.
#[derive(Debug, Clone, PartialEq)]
pub struct Kmeans {
    /// `[clusters, dim]`; with fewer rows than clusters, the rows.
    pub centroids: Vec<f32>,
    /// For each row the nearest centroid, the lower of equally near ones.
    pub labels: Vec<u32>,
    /// Sum of the rows' squared distances to their centroids.
    pub inertia: f64,
    /// Iterations on whole rows.
    pub n_iterations: usize,
}

/// Clusters rows. Up to `n_clusters` rows are a cluster each.
///
/// # Errors
/// When an option is outside its range.
pub fn kmeans(vectors: Vectors<'_>, options: &KmeansOptions) -> Result<Kmeans, PromptsError> {
    let KmeansOptions { n_clusters, max_iterations, max_rows_per_cluster, .. } = *options;
    check_option(n_clusters > 0, "n_clusters", n_clusters, "at least 1")?;
    check_option(max_iterations > 0, "max_iterations", max_iterations, "at least 1")?;
    check_option(max_rows_per_cluster >= 2, "max_rows_per_cluster", max_rows_per_cluster, "at least 2")?;
    check_option(options.tolerance >= 0.0, "tolerance", options.tolerance, "at least 0")?;
    let (n, dim) = (vectors.len(), vectors.dim());
    if n <= n_clusters {
        let labels = (0..n as u32).collect();
        return Ok(Kmeans { centroids: vectors.data().to_vec(), labels, inertia: 0.0, n_iterations: 0 });
    }
    let most = n_clusters.saturating_mul(max_rows_per_cluster);
    let sample = (n > most).then(|| vectors.gather(&sample_rows(n, most, options.seed)));
    let training = sample.as_ref().map_or(vectors, |data| Vectors { data, dim });
    let mut lloyd = Lloyd::new(training, training.gather(&plus_plus(training, options)));
    let n_iterations = lloyd.run(options.max_iterations, options.tolerance);
    if sample.is_some() {
        let centroids = lloyd.centroids;
        let (labels, inertia) = Lloyd::new(vectors, centroids.clone()).finish();
        return Ok(Kmeans { centroids, labels, inertia, n_iterations });
    }
    let centroids = lloyd.centroids.clone();
    let (labels, inertia) = lloyd.finish();
    Ok(Kmeans { centroids, labels, inertia, n_iterations })
}

/// `most` different rows, in order: those that get the smallest random numbers.
fn sample_rows(n: usize, most: usize, seed: Seed) -> Vec<u32> {
    let mut generator = seed.generator("k-means sample", &[]);
    let mut drawn: Vec<(u64, u32)> = (0..n as u32).map(|row| (generator.next_u64(), row)).collect();
    drawn.par_sort_unstable();
    let mut rows: Vec<u32> = drawn[..most].iter().map(|&(_, row)| row).collect();
    rows.par_sort_unstable();
    rows
}

fn rows_by_label(labels: &[u32], n_clusters: usize) -> Vec<Vec<u32>> {
    let mut rows_of: Vec<Vec<u32>> = vec![Vec::new(); n_clusters];
    labels.iter().enumerate().for_each(|(row, &label)| rows_of[label as usize].push(row as u32));
    rows_of
}

/// Moves each centroid to the mean of its rows, if it has any; how far each moved.
fn move_to_means(vectors: Vectors<'_>, rows_of: &[Vec<u32>], centroids: &mut [f32]) -> Vec<f32> {
    let dim = vectors.dim();
    let move_one = |(centroid, rows): (&mut [f32], &Vec<u32>)| {
        if rows.is_empty() {
            return 0.0;
        }
        let mut sums = vec![0.0_f64; dim];
        for &row in rows {
            sums.iter_mut().zip(vectors.row(row as usize)).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let mut moved = 0.0;
        for (c, sum) in centroid.iter_mut().zip(sums) {
            let mean = (sum / rows.len() as f64) as f32;
            moved += (mean - *c) * (mean - *c);
            *c = mean;
        }
        moved.sqrt()
    };
    centroids.par_chunks_mut(dim).zip(rows_of).map(move_one).collect()
}

/// Greedy k-means++: each centroid is the best of some rows drawn by their squared distance to the nearest so far.
///
/// The draws of [`BATCH`] centroids are made at once, so that one product reads the rows for all of them. A later
/// centroid of a batch keeps a draw with the probability by which its distance has shrunk since, which makes the draws
/// those of the distances of then (von Neumann's rejection); it has some draws fewer, or none and waits.
fn plus_plus(vectors: Vectors<'_>, options: &KmeansOptions) -> Vec<u32> {
    let n = vectors.len();
    let n_draws = 2 + (options.n_clusters as f64).ln() as usize;
    let mut generator = options.seed.generator("k-means++", &[]);
    let squares = squared_lengths(vectors);
    let mut nearest = vec![f32::INFINITY; n];
    let mut chosen: Vec<u32> = Vec::with_capacity(options.n_clusters);
    let mut distances: Vec<f32> = Vec::new();
    while chosen.len() < options.n_clusters {
        let draws = if chosen.is_empty() {
            vec![below(&mut generator, n)]
        } else {
            draw_by_weight(&nearest, BATCH * n_draws, &mut generator)
        };
        let weights: Vec<f32> = draws.iter().map(|&draw| nearest[draw as usize]).collect();
        squared_distances(vectors, &squares, &draws, &mut distances);
        for (step, of_step) in draws.chunks(n_draws).enumerate().take(options.n_clusters - chosen.len()) {
            let places = step * n_draws..step * n_draws + of_step.len();
            let kept: Vec<usize> = places
                .filter(|&place| {
                    let has_shrunk_to = nearest[draws[place] as usize];
                    step == 0 || (unit(&mut generator) as f32) * weights[place] < has_shrunk_to
                })
                .collect();
            let row_of = |place: usize| &distances[place * n..][..n];
            let sums: Vec<f64> =
                kept.par_iter().map(|&place| sum_of_least(row_of(place), &nearest)).collect();
            let best = (0..kept.len()).min_by(|&a, &b| sums[a].total_cmp(&sums[b]));
            let Some(place) = best.map(|best| kept[best]) else { continue };
            nearest.iter_mut().zip(row_of(place)).for_each(|(nearest, &new)| *nearest = nearest.min(new));
            nearest[draws[place] as usize] = 0.0;
            chosen.push(draws[place]);
        }
    }
    chosen
}

/// The squared distances of some rows to all: `[some, n]`.
fn squared_distances(vectors: Vectors<'_>, squares: &[f32], some: &[u32], distances: &mut Vec<f32>) {
    let (n, dim) = (vectors.len(), vectors.dim());
    let from = vectors.gather(some);
    distances.resize(some.len() * n, 0.0);
    let rows = MatrixRef::new(vectors.data(), n, dim).transposed();
    matmul(MatrixRef::new(&from, some.len(), dim), rows, distances, Write::Overwrite);
    distances.par_chunks_mut(n).zip(some).for_each(|(products, &row)| {
        let own = squares[row as usize];
        for (product, &square) in products.iter_mut().zip(squares) {
            *product = (own + square - 2.0 * *product).max(0.0);
        }
    });
}

/// The sum of the lesser of each pair: running sums of a block in eight lanes, which a compiler keeps in vector
/// registers; blocks in double precision.
fn sum_of_least(a: &[f32], b: &[f32]) -> f64 {
    let of_block = |(a, b): (&[f32], &[f32])| {
        let mut lanes = [0.0_f32; 8];
        let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
        let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a.min(*b)).sum();
        for (a, b) in a.zip(b) {
            for lane in 0..8 {
                lanes[lane] += a[lane].min(b[lane]);
            }
        }
        f64::from(lanes.iter().sum::<f32>() + rest)
    };
    a.chunks(SUM_ROWS).zip(b.chunks(SUM_ROWS)).map(of_block).sum()
}

/// Rows drawn with probability in proportion to their weight, with repetition; any row where all weights are 0.
fn draw_by_weight(weights: &[f32], n_draws: usize, generator: &mut impl Rng) -> Vec<u32> {
    let sums: Vec<f64> =
        weights.par_chunks(SUM_ROWS).map(|weights| weights.iter().map(|&w| f64::from(w)).sum()).collect();
    let total: f64 = sums.iter().sum();
    let mut draw = || {
        if total <= 0.0 {
            return below(generator, weights.len());
        }
        let mut left = unit(generator) * total;
        let mut block = 0;
        while block + 1 < sums.len() && left >= sums[block] {
            left -= sums[block];
            block += 1;
        }
        let end = weights.len().min((block + 1) * SUM_ROWS);
        let mut row = block * SUM_ROWS;
        while row + 1 < end && left >= f64::from(weights[row]) {
            left -= f64::from(weights[row]);
            row += 1;
        }
        row as u32
    };
    (0..n_draws).map(|_| draw()).collect()
}

/// A number from 0 to 1, 1 left out.
fn unit(generator: &mut impl Rng) -> f64 {
    (generator.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

fn below(generator: &mut impl Rng, n: usize) -> u32 {
    (generator.next_u64() % n as u64) as u32
}

fn squared_lengths(vectors: Vectors<'_>) -> Vec<f32> {
    let square = |row: &[f32]| row.iter().map(|x| x * x).sum();
    vectors.data().par_chunks(vectors.dim()).map(square).collect()
}

/// The state of the iteration.
struct Lloyd<'a> {
    vectors: Vectors<'a>,
    squares: Vec<f32>,
    /// `[clusters, dim]`
    centroids: Vec<f32>,
    labels: Vec<u32>,
    /// At least the distance of each row to its centroid, and at most that to any other.
    upper: Vec<f32>,
    lower: Vec<f32>,
    products: Vec<f32>,
}

impl<'a> Lloyd<'a> {
    /// Rows at their nearest centroids.
    fn new(vectors: Vectors<'a>, centroids: Vec<f32>) -> Self {
        let n = vectors.len();
        let squares = squared_lengths(vectors);
        let (upper, lower) = (vec![f32::INFINITY; n], vec![0.0; n]);
        let mut lloyd =
            Lloyd { vectors, squares, centroids, labels: vec![0; n], upper, lower, products: Vec::new() };
        lloyd.assign();
        lloyd
    }

    /// Iterates until centroids stand still; how often.
    fn run(&mut self, max_iterations: usize, tolerance: f64) -> usize {
        let still = tolerance * mean_variance(self.vectors);
        for iteration in 1..=max_iterations {
            let movements = self.update();
            self.loosen(&movements);
            let n_changed = self.assign();
            let moved: f64 = movements.iter().map(|&m| f64::from(m) * f64::from(m)).sum();
            if n_changed == 0 || moved <= still {
                return iteration;
            }
        }
        max_iterations
    }

    /// Labels and inertia.
    fn finish(self) -> (Vec<u32>, f64) {
        let dim = self.vectors.dim();
        let sums: Vec<f64> = self
            .labels
            .par_chunks(SUM_ROWS)
            .enumerate()
            .map(|(chunk, labels)| {
                let distance = |(i, &label): (usize, &u32)| {
                    let row = self.vectors.row(chunk * SUM_ROWS + i);
                    let centroid = &self.centroids[label as usize * dim..][..dim];
                    row.iter().zip(centroid).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
                };
                labels.iter().enumerate().map(distance).sum()
            })
            .collect();
        (self.labels, sums.iter().sum())
    }

    /// Moves centroids to the means of their rows; how far each moved. A centroid without rows goes to the row that is
    /// farthest from its own.
    fn update(&mut self) -> Vec<f32> {
        let n_clusters = self.centroids.len() / self.vectors.dim();
        let mut rows_of = rows_by_label(&self.labels, n_clusters);
        self.fill_empty(&mut rows_of);
        move_to_means(self.vectors, &rows_of, &mut self.centroids)
    }

    fn fill_empty(&mut self, rows_of: &mut [Vec<u32>]) {
        let empty: Vec<usize> = (0..rows_of.len()).filter(|&cluster| rows_of[cluster].is_empty()).collect();
        if empty.is_empty() {
            return;
        }
        let mut far: Vec<u32> = (0..self.labels.len() as u32).collect();
        far.sort_by(|&a, &b| self.upper[b as usize].total_cmp(&self.upper[a as usize]).then(a.cmp(&b)));
        let mut far = far.into_iter();
        for cluster in empty {
            let row = far.find(|&row| rows_of[self.labels[row as usize] as usize].len() > 1);
            let Some(row) = row else { continue };
            rows_of[self.labels[row as usize] as usize].retain(|&other| other != row);
            rows_of[cluster].push(row);
            self.labels[row as usize] = cluster as u32;
            // Nothing is known of its distances any more.
            (self.upper[row as usize], self.lower[row as usize]) = (f32::INFINITY, 0.0);
        }
    }

    /// Makes the bounds true for centroids that moved.
    fn loosen(&mut self, movements: &[f32]) {
        let (mut first, mut second, mut who) = (0.0, 0.0, 0);
        for (cluster, &moved) in movements.iter().enumerate() {
            if moved > first {
                (first, second, who) = (moved, first, cluster as u32);
            } else if moved > second {
                second = moved;
            }
        }
        let rows = self.upper.par_iter_mut().zip(&mut self.lower).zip(&self.labels);
        rows.for_each(|((upper, lower), &label)| {
            *upper += movements[label as usize];
            *lower -= if label == who { second } else { first };
        });
    }

    /// Brings the rows whose bounds leave a doubt to their nearest centroids; how many changed.
    fn assign(&mut self) -> usize {
        let dim = self.vectors.dim();
        let centroids = Vectors { data: &self.centroids, dim };
        let n_clusters = centroids.len();
        let centroid_squares = squared_lengths(centroids);
        let in_doubt: Vec<u32> = (0..self.labels.len() as u32)
            .filter(|&row| self.upper[row as usize] * (1.0 + SLACK) >= self.lower[row as usize])
            .collect();
        let mut n_changed = 0;
        self.products.resize(BLOCK_ROWS.min(in_doubt.len()) * n_clusters, 0.0);
        for rows in in_doubt.chunks(BLOCK_ROWS) {
            let gathered;
            let block = if rows[rows.len() - 1] as usize - rows[0] as usize + 1 == rows.len() {
                &self.vectors.data()[rows[0] as usize * dim..][..rows.len() * dim]
            } else {
                gathered = self.vectors.gather(rows);
                &gathered
            };
            let products = &mut self.products[..rows.len() * n_clusters];
            let by_centroid = MatrixRef::new(&self.centroids, n_clusters, dim).transposed();
            matmul(MatrixRef::new(block, rows.len(), dim), by_centroid, products, Write::Overwrite);
            let nearest: Vec<(u32, f32, f32)> = products
                .par_chunks(n_clusters)
                .map(|products| two_nearest(products, &centroid_squares))
                .collect();
            for (&row, (label, first, second)) in rows.iter().zip(nearest) {
                let row = row as usize;
                n_changed += usize::from(self.labels[row] != label);
                self.labels[row] = label;
                self.upper[row] = (first + self.squares[row]).max(0.0).sqrt();
                self.lower[row] = (second + self.squares[row]).max(0.0).sqrt();
            }
        }
        n_changed
    }
}

/// The nearest centroid and the squared distances of the two nearest, less the row's own square.
fn two_nearest(products: &[f32], centroid_squares: &[f32]) -> (u32, f32, f32) {
    let (mut label, mut first, mut second) = (0, f32::INFINITY, f32::INFINITY);
    for (cluster, (&product, &square)) in products.iter().zip(centroid_squares).enumerate() {
        let distance = square - 2.0 * product;
        if distance < second {
            if distance < first {
                (label, second, first) = (cluster as u32, first, distance);
            } else {
                second = distance;
            }
        }
    }
    (label, first, second)
}

/// The variance of a column, averaged over columns.
fn mean_variance(vectors: Vectors<'_>) -> f64 {
    let (n, dim) = (vectors.len() as f64, vectors.dim());
    let (mut sums, mut squares) = (vec![0.0_f64; dim], 0.0_f64);
    for row in vectors.data().chunks_exact(dim) {
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum += f64::from(x);
            squares += f64::from(x) * f64::from(x);
        }
    }
    let means: f64 = sums.iter().map(|sum| (sum / n) * (sum / n)).sum();
    ((squares / n - means) / dim as f64).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heaps(n_heaps: usize, per_heap: usize, dim: usize, deviation: f32) -> Vec<f32> {
        let centres = Seed(5).normals("centres", n_heaps * dim, 1.0);
        let noise = Seed(6).normals("noise", n_heaps * per_heap * dim, deviation);
        let at = |i: usize| centres[(i / dim % n_heaps) * dim + i % dim] + noise[i];
        (0..noise.len()).map(at).collect()
    }

    fn run(data: &[f32], dim: usize, options: &KmeansOptions) -> Kmeans {
        kmeans(Vectors::new(data, dim).unwrap(), options).unwrap()
    }

    #[test]
    fn heaps_that_are_apart_are_found() {
        for dim in [3, 200] {
            let data = heaps(7, 40, dim, 0.02);
            let found = run(&data, dim, &KmeansOptions { n_clusters: 7, ..Default::default() });
            let mut pairs: Vec<(usize, u32)> =
                found.labels.iter().enumerate().map(|(row, &l)| (row % 7, l)).collect();
            pairs.sort_unstable();
            pairs.dedup();
            assert_eq!(pairs.len(), 7, "dim {dim}: {pairs:?}");
        }
    }

    #[test]
    fn bounds_change_no_label_and_each_row_is_at_its_nearest_centroid() {
        let data = heaps(20, 60, 8, 0.8);
        let found = run(&data, 8, &KmeansOptions { n_clusters: 31, tolerance: 0.0, ..Default::default() });
        let distance = |row: usize, cluster: usize| -> f64 {
            let (x, c) = (&data[row * 8..][..8], &found.centroids[cluster * 8..][..8]);
            x.iter().zip(c).map(|(x, c)| (f64::from(*x) - f64::from(*c)).powi(2)).sum()
        };
        let mut inertia = 0.0;
        for (row, &label) in found.labels.iter().enumerate() {
            let own = distance(row, label as usize);
            inertia += own;
            assert!((0..31).all(|cluster| own <= distance(row, cluster) + 1e-5), "row {row}");
        }
        assert!((inertia - found.inertia).abs() < 1e-5 * inertia);
        // The centroids are the means of their rows: the iteration ended in a fixed point.
        for cluster in 0..31 {
            let rows: Vec<usize> = (0..1200).filter(|&row| found.labels[row] == cluster).collect();
            for column in 0..8 {
                let mean =
                    rows.iter().map(|row| f64::from(data[row * 8 + column])).sum::<f64>() / rows.len() as f64;
                assert!((mean - f64::from(found.centroids[cluster as usize * 8 + column])).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn equal_bits_on_any_number_of_threads() {
        let data = heaps(9, 300, 120, 0.5);
        let options = KmeansOptions { n_clusters: 40, max_rows_per_cluster: 50, ..Default::default() };
        let with = |n_threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| run(&data, 120, &options))
        };
        let one = with(1);
        assert_eq!(one, with(2));
        assert_eq!(one, with(4));
        assert_ne!(one.labels, run(&data, 120, &KmeansOptions { seed: Seed(1), ..options }).labels);
    }

    #[test]
    fn pools_smaller_than_their_clusters_and_equal_rows() {
        let few = run(&[1.0, 2.0, 3.0, 4.0], 2, &KmeansOptions::default());
        assert_eq!((few.labels, few.inertia), (vec![0, 1], 0.0));
        assert!(run(&[], 2, &KmeansOptions::default()).labels.is_empty());
        let equal = run(&[1.0; 60], 2, &KmeansOptions { n_clusters: 4, ..Default::default() });
        assert_eq!(equal.inertia, 0.0);
        let bad =
            kmeans(Vectors::new(&[1.0], 1).unwrap(), &KmeansOptions { n_clusters: 0, ..Default::default() });
        assert_eq!(bad.unwrap_err().to_string(), "`n_clusters` is 0, expected at least 1");
    }
}
