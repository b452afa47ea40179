//! k-means: the centroids that rows are nearest to, and are the means of.
//!
//! - Seeding: k-means++ (Arthur and Vassilvitskii 2007), greedy over `2 + ln k` draws a centroid. Drawing by the
//!   distances of a random projection was tried: three times as fast and 1.4 % more inertia, so it is not done. Nor are
//!   fewer draws, or draws judged by a part of the rows: on real embeddings 1 to 4 % more, though on even heaps none.
//! - Iteration: Lloyd's, exact. A cluster whose rows are still the same does not move, on embeddings soon most of them:
//!   distances are made to the centroids that moved alone, and to all of them for the rows whose own centroid moved
//!   farther away than the others are known to be. Distances are matrix products. Bounds from how far centroids moved
//!   (Hamerly 2010) were there before: between embeddings of hundreds of numbers they leave most rows in doubt.
//! - Pools with more than [`KmeansOptions::max_rows_per_cluster`] rows a cluster: the centroids are those of a sample
//!   of that size, and every row then goes to its nearest.
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

/// How to cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KmeansOptions {
    /// Centroids.
    pub n_clusters: usize,
    /// Most iterations.
    pub max_iterations: usize,
    /// Stop when an iteration lowers the inertia by at most this share of it.
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

/// Moves the centroids of changed clusters to the means of their rows, if they have any; whether each moved.
fn move_to_means(
    vectors: Vectors<'_>,
    rows_of: &[Vec<u32>],
    is_changed: &[bool],
    centroids: &mut [f32],
) -> Vec<bool> {
    let dim = vectors.dim();
    let move_one = |((centroid, rows), &is_changed): ((&mut [f32], &Vec<u32>), &bool)| {
        if rows.is_empty() || !is_changed {
            return false;
        }
        let mut sums = vec![0.0_f64; dim];
        for &row in rows {
            sums.iter_mut().zip(vectors.row(row as usize)).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let mut has_moved = false;
        for (c, sum) in centroid.iter_mut().zip(sums) {
            let mean = (sum / rows.len() as f64) as f32;
            has_moved |= mean != *c;
            *c = mean;
        }
        has_moved
    };
    centroids.par_chunks_mut(dim).zip(rows_of).zip(is_changed).map(move_one).collect()
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
    centroid_squares: Vec<f32>,
    labels: Vec<u32>,
    /// Clusters whose rows are others than those that their centroid is the mean of.
    is_changed: Vec<bool>,
    /// The squared distance of each row to its centroid, and at most that to any other; both less the row's own square.
    own: Vec<f32>,
    lower: Vec<f32>,
    products: Products,
}

/// Products of a block of rows with centroids, and the room they are made in.
#[derive(Default)]
struct Products {
    rows: Vec<f32>,
    values: Vec<f32>,
}

impl Products {
    /// `[rows, centroids]`
    fn make(&mut self, vectors: Vectors<'_>, rows: &[u32], centroids: Vectors<'_>) -> &mut [f32] {
        let (dim, n_clusters) = (vectors.dim(), centroids.len());
        let first = rows[0] as usize;
        let block = if rows[rows.len() - 1] as usize - first + 1 == rows.len() {
            &vectors.data()[first * dim..][..rows.len() * dim]
        } else {
            vectors.gather_into(rows, &mut self.rows);
            &self.rows
        };
        self.values.resize(rows.len() * n_clusters, 0.0);
        let by_centroid = MatrixRef::new(centroids.data(), n_clusters, dim).transposed();
        matmul(MatrixRef::new(block, rows.len(), dim), by_centroid, &mut self.values, Write::Overwrite);
        &mut self.values
    }
}

impl<'a> Lloyd<'a> {
    /// Rows at their nearest centroids.
    fn new(vectors: Vectors<'a>, centroids: Vec<f32>) -> Self {
        let n = vectors.len();
        let centroid_squares = squared_lengths(Vectors { data: &centroids, dim: vectors.dim() });
        let mut lloyd = Lloyd {
            vectors,
            squares: squared_lengths(vectors),
            is_changed: vec![true; centroid_squares.len()],
            centroids,
            centroid_squares,
            labels: vec![0; n],
            own: vec![f32::INFINITY; n],
            lower: vec![f32::NEG_INFINITY; n],
            products: Products::default(),
        };
        lloyd.compare_with_all(&(0..n as u32).collect::<Vec<u32>>());
        lloyd
    }

    /// Iterates until the inertia hardly falls; how often.
    fn run(&mut self, max_iterations: usize, tolerance: f64) -> usize {
        let mut before = self.inertia();
        for iteration in 1..=max_iterations {
            let moved = self.update();
            let n_changed = self.assign(&moved);
            let inertia = self.inertia();
            if n_changed == 0 || before - inertia <= tolerance * inertia {
                return iteration;
            }
            before = inertia;
        }
        max_iterations
    }

    /// As well as single precision tells it.
    fn inertia(&self) -> f64 {
        let rows = self.own.iter().zip(&self.squares);
        rows.map(|(own, square)| f64::from((own + square).max(0.0))).sum()
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

    /// Moves centroids to the means of their rows; those that moved. A centroid without rows goes to the row that is
    /// farthest from its own.
    fn update(&mut self) -> Vec<u32> {
        let mut rows_of = rows_by_label(&self.labels, self.is_changed.len());
        self.fill_empty(&mut rows_of);
        let has_moved = move_to_means(self.vectors, &rows_of, &self.is_changed, &mut self.centroids);
        self.is_changed.fill(false);
        self.centroid_squares = squared_lengths(Vectors { data: &self.centroids, dim: self.vectors.dim() });
        (0..has_moved.len() as u32).filter(|&cluster| has_moved[cluster as usize]).collect()
    }

    fn fill_empty(&mut self, rows_of: &mut [Vec<u32>]) {
        let empty: Vec<usize> = (0..rows_of.len()).filter(|&cluster| rows_of[cluster].is_empty()).collect();
        if empty.is_empty() {
            return;
        }
        let mut far: Vec<u32> = (0..self.labels.len() as u32).collect();
        let distance = |row: u32| self.own[row as usize] + self.squares[row as usize];
        far.sort_by(|&a, &b| distance(b).total_cmp(&distance(a)).then(a.cmp(&b)));
        let mut far = far.into_iter();
        for cluster in empty {
            let row = far.find(|&row| rows_of[self.labels[row as usize] as usize].len() > 1);
            let Some(row) = row else { continue };
            let left = self.labels[row as usize] as usize;
            rows_of[left].retain(|&other| other != row);
            rows_of[cluster].push(row);
            self.labels[row as usize] = cluster as u32;
            (self.is_changed[left], self.is_changed[cluster]) = (true, true);
            // Nothing is known of its distances any more.
            (self.own[row as usize], self.lower[row as usize]) = (f32::INFINITY, f32::NEG_INFINITY);
        }
    }

    /// Brings rows to their nearest centroids, after some have moved; how many changed.
    fn assign(&mut self, moved: &[u32]) -> usize {
        let all: Vec<u32> = (0..self.labels.len() as u32).collect();
        if moved.len() == self.is_changed.len() {
            return self.compare_with_all(&all);
        }
        let (n_changed, in_doubt) = self.compare_with_moved(&all, moved);
        n_changed + self.compare_with_all(&in_doubt)
    }

    /// Brings rows to their nearest centroids, where only those that moved can be nearer than their own: what stood
    /// still is no nearer than `lower`. How many changed, and the rows whose own centroid is no nearer than that
    /// either.
    fn compare_with_moved(&mut self, rows: &[u32], moved: &[u32]) -> (usize, Vec<u32>) {
        let dim = self.vectors.dim();
        let centroids = Vectors { data: &self.centroids, dim }.gather(moved);
        let centroids = Vectors { data: &centroids, dim };
        let squares: Vec<f32> =
            moved.iter().map(|&cluster| self.centroid_squares[cluster as usize]).collect();
        let mut places = vec![None; self.is_changed.len()];
        moved.iter().enumerate().for_each(|(place, &cluster)| places[cluster as usize] = Some(place));
        let (mut n_changed, mut in_doubt) = (0, Vec::new());
        for rows in rows.chunks(BLOCK_ROWS).filter(|_| !moved.is_empty()) {
            let products = self.products.make(self.vectors, rows, centroids);
            let compared: Vec<Option<Nearest>> = products
                .par_chunks_mut(moved.len())
                .zip(rows)
                .map(|(products, &row)| {
                    let (label, lower) = (self.labels[row as usize], self.lower[row as usize]);
                    let mut own = self.own[row as usize];
                    if let Some(place) = places[label as usize] {
                        // The others are looked through without it.
                        let product = std::mem::replace(&mut products[place], f32::NEG_INFINITY);
                        own = squares[place] - 2.0 * product;
                    }
                    if own >= lower {
                        return None;
                    }
                    let Nearest { label: other, first, second } = two_nearest(products, &squares);
                    let other = moved[other as usize];
                    Some(if (first, other) < (own, label) {
                        Nearest { label: other, first, second: lower.min(own).min(second) }
                    } else {
                        Nearest { label, first: own, second: lower.min(first) }
                    })
                })
                .collect();
            for (&row, compared) in rows.iter().zip(compared) {
                match compared {
                    Some(nearest) => n_changed += usize::from(self.set_nearest(row, nearest)),
                    None => in_doubt.push(row),
                }
            }
        }
        (n_changed, in_doubt)
    }

    /// Assigns rows to their nearest centroids; returns how many changed.
    fn compare_with_all(&mut self, rows: &[u32]) -> usize {
        let mut n_changed = 0;
        for rows in rows.chunks(BLOCK_ROWS) {
            let centroids = Vectors { data: &self.centroids, dim: self.vectors.dim() };
            let products = self.products.make(self.vectors, rows, centroids);
            let nearest: Vec<Nearest> = products
                .par_chunks(centroids.len())
                .map(|products| two_nearest(products, &self.centroid_squares))
                .collect();
            for (&row, nearest) in rows.iter().zip(nearest) {
                n_changed += usize::from(self.set_nearest(row, nearest));
            }
        }
        n_changed
    }

    /// Whether the row changed clusters.
    fn set_nearest(&mut self, row: u32, nearest: Nearest) -> bool {
        let row = row as usize;
        let before = std::mem::replace(&mut self.labels[row], nearest.label);
        (self.own[row], self.lower[row]) = (nearest.first, nearest.second);
        if before != nearest.label {
            self.is_changed[before as usize] = true;
            self.is_changed[nearest.label as usize] = true;
        }
        before != nearest.label
    }
}

/// A centroid, and how near it and the next are.
#[derive(Clone, Copy)]
struct Nearest {
    label: u32,
    first: f32,
    second: f32,
}

/// The nearest centroid, the lower of equally near ones, and the values of the two nearest. Without a branch, in lanes
/// that a compiler keeps in vector registers.
fn two_nearest(products: &[f32], centroid_squares: &[f32]) -> Nearest {
    const LANES: usize = 8;
    let mut first = [f32::INFINITY; LANES];
    let mut second = [f32::INFINITY; LANES];
    let mut labels = [0_u32; LANES];
    let rows = products.chunks(LANES).zip(centroid_squares.chunks(LANES));
    for (step, (products, squares)) in rows.enumerate() {
        let mut values = [f32::INFINITY; LANES];
        for ((value, &product), &square) in values.iter_mut().zip(products).zip(squares) {
            *value = square - 2.0 * product;
        }
        for lane in 0..LANES {
            let (value, label) = (values[lane], (step * LANES + lane) as u32);
            second[lane] = second[lane].min(first[lane].max(value));
            labels[lane] = if value < first[lane] { label } else { labels[lane] };
            first[lane] = first[lane].min(value);
        }
    }
    let by_value = |&a: &usize, &b: &usize| first[a].total_cmp(&first[b]).then(labels[a].cmp(&labels[b]));
    let best = (0..LANES).min_by(by_value).unwrap_or(0);
    let others = (0..LANES).filter(|&lane| lane != best).map(|lane| first[lane]);
    Nearest {
        label: labels[best],
        first: first[best],
        second: others.chain(second).fold(f32::INFINITY, f32::min),
    }
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
