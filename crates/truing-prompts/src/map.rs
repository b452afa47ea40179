//! Vectors laid out on a plane: principal components, and t-SNE for neighbourhoods. Pure functions over
//! `[n, dim]` numbers; what the vectors stand for, and who looks at them, is not known here.
//!
//! Equal input gives equal output for any number of threads: t-SNE begins at the principal components and not at
//! random, its neighbours are exact, and its parallel sums, whose order is not fixed, run on one thread.

use bhtsne::{Neighbor, tSNE};
use nalgebra::{DMatrix, DVector, SymmetricEigen};
use rand_chacha::rand_core::Rng;
use rayon::prelude::*;
use truing_types::{Projection, PromptMap, Seed};

use crate::PromptsError;
use crate::error::check_length;

/// Principal components that t-SNE works on: more are mostly noise, and neighbours take longer to find.
const TSNE_DIMENSIONS: usize = 50;
/// Fewer points than this have no meaningful neighbourhoods.
const TSNE_FEWEST_POINTS: usize = 12;
/// Barnes and Hut's opening angle; van der Maaten 2014 recommends 0.5.
const TSNE_THETA: f32 = 0.5;
/// Deviation of the first coordinate of the start (Kobak and Berens 2019).
const TSNE_START_DEVIATION: f64 = 1e-4;

/// How a map is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MapOptions {
    /// At most this many prompts are shown.
    pub n_points: usize,
    /// t-SNE's effective number of neighbours.
    pub perplexity: f32,
    /// t-SNE's gradient steps; 0 leaves t-SNE out.
    pub n_iterations: usize,
    /// Chooses the prompts that are shown.
    pub seed: Seed,
}

impl Default for MapOptions {
    fn default() -> Self {
        Self { n_points: 3000, perplexity: 30.0, n_iterations: 750, seed: Seed(0) }
    }
}

/// The map of a pool.
///
/// `ids` and `clusters` hold one entry a row, `vectors` is `[n, dim]`, row after row. Rows without a cluster are a
/// stratum of their own.
///
/// # Errors
/// When the sizes do not agree, or a vector that is shown holds a number that is not finite.
pub fn draw_map(
    ids: &[u64],
    clusters: &[Option<u32>],
    vectors: &[f32],
    dim: usize,
    options: &MapOptions,
) -> Result<PromptMap, PromptsError> {
    check_length("clusters", ids.len(), clusters.len())?;
    check_length("vectors", ids.len() * dim, vectors.len())?;
    let shown = stratified_sample(clusters, options.n_points, options.seed);
    let sampling = if shown.len() == ids.len() {
        format!("All {} rows.", ids.len())
    } else {
        format!(
            "{} of {} rows, sampled from each cluster in proportion to its size, by seed.",
            shown.len(),
            ids.len()
        )
    };
    let rows: Vec<f32> =
        shown.iter().flat_map(|&row| &vectors[row * dim..(row + 1) * dim]).copied().collect();
    Ok(PromptMap {
        sampling,
        ids: shown.iter().map(|&row| ids[row]).collect(),
        projections: project(&rows, dim, options)?,
    })
}

/// At most `n_wanted` rows, in order, from each cluster in proportion to its size (to within one row).
///
/// Systematic: clusters stand one after the other, shuffled inside, and every `n / n_wanted`-th row is taken.
#[must_use]
pub fn stratified_sample(clusters: &[Option<u32>], n_wanted: usize, seed: Seed) -> Vec<usize> {
    let n = clusters.len();
    if n <= n_wanted {
        return (0..n).collect();
    }
    let mut generator = seed.generator("rows of a map", &[]);
    let mut order: Vec<(Option<u32>, u64, usize)> =
        clusters.iter().enumerate().map(|(row, &cluster)| (cluster, generator.next_u64(), row)).collect();
    order.sort_unstable();
    let mut rows: Vec<usize> = (0..n_wanted).map(|i| order[i * n / n_wanted].2).collect();
    rows.sort_unstable();
    rows
}

/// Lays `[n, dim]` vectors out, each way that their number allows.
///
/// # Errors
/// When a number is not finite.
pub fn project(vectors: &[f32], dim: usize, options: &MapOptions) -> Result<Vec<Projection>, PromptsError> {
    if let Some(at) = vectors.iter().position(|value| !value.is_finite()) {
        return Err(PromptsError::NotFinite { row: at / dim, index: at % dim, value: vectors[at] });
    }
    if vectors.is_empty() {
        return Ok(Vec::new());
    }
    let components = PrincipalComponents::of(vectors, dim, TSNE_DIMENSIONS);
    let mut projections = vec![components.projection()];
    projections.extend(tsne(&components, options));
    Ok(projections)
}

/// Vectors along the axes of their greatest variance.
struct PrincipalComponents {
    /// `[n, n_components]`, the greatest variance first.
    coordinates: DMatrix<f64>,
    /// Share of all variance that each component holds.
    shares: Vec<f64>,
}

impl PrincipalComponents {
    /// Eigenvectors of the covariance. An axis points to where its largest entry is positive, so that equal input
    /// never gives a mirrored map.
    fn of(vectors: &[f32], dim: usize, n_wanted: usize) -> Self {
        let n = vectors.len() / dim;
        let mut centred = DMatrix::from_row_iterator(n, dim, vectors.iter().map(|&value| f64::from(value)));
        let mean: DVector<f64> = centred.row_mean().transpose();
        for mut row in centred.row_iter_mut() {
            row -= mean.transpose();
        }
        let eigen = SymmetricEigen::new(centred.tr_mul(&centred) / n.max(2) as f64);
        let mut order: Vec<usize> = (0..dim).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]).then(a.cmp(&b)));
        order.truncate(n_wanted.max(2));
        let axes: Vec<DVector<f64>> = order
            .iter()
            .map(|&idx| {
                let axis = eigen.eigenvectors.column(idx).into_owned();
                let largest = axis[axis.icamax()];
                if largest < 0.0 { -axis } else { axis }
            })
            .collect();
        let total: f64 = eigen.eigenvalues.iter().map(|value| value.max(0.0)).sum();
        let share = |idx: &usize| if total > 0.0 { eigen.eigenvalues[*idx].max(0.0) / total } else { 0.0 };
        Self {
            coordinates: centred * DMatrix::from_columns(&axes),
            shares: order.iter().map(share).collect(),
        }
    }

    /// Coordinate of a row; 0 for a component that there is not.
    fn at(&self, row: usize, component: usize) -> f64 {
        if component < self.coordinates.ncols() { self.coordinates[(row, component)] } else { 0.0 }
    }

    fn projection(&self) -> Projection {
        let share: f64 = self.shares.iter().take(2).sum();
        Projection {
            name: "PCA".into(),
            about: format!(
                "The two directions of greatest variance; they hold {:.0} % of it. Distances are true along them, \
                 everything else is hidden.",
                100.0 * share
            ),
            points: (0..self.coordinates.nrows())
                .map(|row| [self.at(row, 0) as f32, self.at(row, 1) as f32])
                .collect(),
        }
    }
}

/// t-SNE (van der Maaten and Hinton 2008) by Barnes and Hut's approximation; nothing where the points are too few, or
/// all the same.
fn tsne(components: &PrincipalComponents, options: &MapOptions) -> Option<Projection> {
    let (n, n_components) = components.coordinates.shape();
    let column = components.coordinates.column(0);
    let deviation = (column.norm_squared() / n as f64).sqrt();
    // So many neighbours have to be there: t-SNE looks at three times its perplexity.
    let perplexity = options.perplexity.min((n.saturating_sub(1) / 3) as f32);
    if n < TSNE_FEWEST_POINTS || deviation <= 0.0 || perplexity < 1.0 || options.n_iterations == 0 {
        return None;
    }
    let rows: Vec<f32> =
        (0..n * n_components).map(|i| components.at(i / n_components, i % n_components) as f32).collect();
    let points: Vec<&[f32]> = rows.chunks(n_components).collect();
    let neighbours = nearest_neighbours(&points, (3.0 * perplexity) as usize);
    let scale = TSNE_START_DEVIATION / deviation;
    let start: Vec<f32> =
        (0..n).flat_map(|row| [0, 1].map(|c| (components.at(row, c) * scale) as f32)).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().ok()?;
    let flat = pool.install(|| {
        let mut tsne: tSNE<'_, f32, &[f32]> = tSNE::new(&points);
        tsne.perplexity(perplexity)
            .epochs(options.n_iterations)
            .stop_lying_epoch(options.n_iterations / 3)
            .momentum_switch_epoch(options.n_iterations / 3)
            .initial_embedding(start)
            .barnes_hut_with_neighbors(TSNE_THETA, &neighbours);
        tsne.embedding()
    });
    let points: Vec<[f32; 2]> = flat.chunks_exact(2).map(|point| [point[0], point[1]]).collect();
    points.iter().flatten().all(|value| value.is_finite()).then(|| Projection {
        name: "t-SNE".into(),
        about: format!(
            "Keeps neighbours together (perplexity {perplexity:.0}, {} steps from the PCA). Distances between groups, \
             and their sizes, mean nothing.",
            options.n_iterations
        ),
        points,
    })
}

/// The `k` nearest other points of each, nearest first; of equally near ones the first.
fn nearest_neighbours(points: &[&[f32]], k: usize) -> Vec<Vec<Neighbor<f32>>> {
    let nearest = |(row, point): (usize, &&[f32])| {
        let mut others: Vec<(f32, usize)> = points
            .iter()
            .enumerate()
            .filter(|&(other, _)| other != row)
            .map(|(other, to)| (squared_distance(point, to), other))
            .collect();
        let order = |a: &(f32, usize), b: &(f32, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if k < others.len() {
            others.select_nth_unstable_by(k, order);
            others.truncate(k);
        }
        others.sort_unstable_by(order);
        others.into_iter().map(|(square, index)| Neighbor { index, distance: square.sqrt() }).collect()
    };
    points.par_iter().enumerate().map(nearest).collect()
}

fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 24;

    /// `n` vectors around each of four centres.
    fn four_groups(n: usize) -> (Vec<f32>, Vec<Option<u32>>) {
        let noise = Seed(3).normals("noise", 4 * n * DIM, 0.3);
        let vectors = (0..4 * n * DIM)
            .map(|i| {
                let (group, column) = (i / (n * DIM), i % DIM);
                noise[i] + if column == 5 * group { 3.0 + group as f32 } else { 0.0 }
            })
            .collect();
        (vectors, (0..4 * n).map(|row| Some((row / n) as u32)).collect())
    }

    /// Share of points whose nearest point on the plane is of their own group.
    fn purity(points: &[[f32; 2]], groups: &[Option<u32>]) -> f64 {
        let flat: Vec<&[f32]> = points.iter().map(|point| &point[..]).collect();
        let nearest = nearest_neighbours(&flat, 1);
        let n_pure =
            nearest.iter().zip(groups).filter(|(near, group)| groups[near[0].index] == **group).count();
        n_pure as f64 / points.len() as f64
    }

    #[test]
    fn principal_components_are_the_axes_of_greatest_variance() {
        // Points on a line through (1, 2, 0) with a little of (0, 0, 1) across it.
        let vectors: Vec<f32> = (-50..=50)
            .flat_map(|i: i32| {
                let t = i as f32 / 10.0;
                [t + 7.0, 2.0 * t, if i % 2 == 0 { 0.1 } else { -0.1 }]
            })
            .collect();
        let components = PrincipalComponents::of(&vectors, 3, 50);
        assert!(components.shares[0] > 0.999 && components.shares.len() == 3);
        let projection = components.projection();
        for (i, point) in projection.points.iter().enumerate() {
            let expected = (i as f32 - 50.0) / 10.0 * 5.0_f32.sqrt();
            assert!((point[0] - expected).abs() < 1e-3, "{point:?} {expected}");
            assert!((point[1].abs() - 0.1).abs() < 2e-3, "{point:?}");
        }
    }

    #[test]
    fn components_are_orthonormal_coordinates_that_keep_distances() {
        let (vectors, _) = four_groups(20);
        let components = PrincipalComponents::of(&vectors, DIM, DIM);
        for (a, b) in [(0, 1), (3, 70), (25, 41)] {
            let of = |row: usize| &vectors[row * DIM..(row + 1) * DIM];
            let expected = f64::from(squared_distance(of(a), of(b)));
            let found = (components.coordinates.row(a) - components.coordinates.row(b)).norm_squared();
            assert!((found - expected).abs() < 1e-4 * expected, "{found} {expected}");
        }
    }

    #[test]
    fn groups_stay_together_and_the_bits_do_not_depend_on_threads() {
        let (vectors, groups) = four_groups(60);
        let options = MapOptions { n_iterations: 300, ..MapOptions::default() };
        let on = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| project(&vectors, DIM, &options).unwrap())
        };
        let one = on(1);
        assert_eq!(one, on(3));
        assert_eq!(one, project(&vectors, DIM, &options).unwrap());
        let names: Vec<&str> = one.iter().map(|projection| &*projection.name).collect();
        assert_eq!(names, ["PCA", "t-SNE"]);
        assert!(purity(&one[1].points, &groups) > 0.98, "{}", purity(&one[1].points, &groups));
    }

    #[test]
    fn a_sample_is_proportional_and_repeats() {
        let clusters: Vec<Option<u32>> =
            (0..1000).map(|row| (row % 10 != 9).then_some(u32::from(row % 10 > 5))).collect();
        let rows = stratified_sample(&clusters, 200, Seed(1));
        assert_eq!((rows.len(), rows.is_sorted()), (200, true));
        let n_of = |cluster| rows.iter().filter(|&&row| clusters[row] == cluster).count();
        for (cluster, expected) in [(Some(0), 120), (Some(1), 60), (None, 20)] {
            assert!(n_of(cluster).abs_diff(expected) <= 1, "{cluster:?}: {}", n_of(cluster));
        }
        assert_eq!(rows, stratified_sample(&clusters, 200, Seed(1)));
        assert_ne!(rows, stratified_sample(&clusters, 200, Seed(2)));
    }

    #[test]
    fn few_equal_and_broken_vectors_have_a_clear_outcome() {
        let options = MapOptions { n_iterations: 50, ..MapOptions::default() };
        assert_eq!(draw_map(&[], &[], &[], 4, &options).unwrap().projections, Vec::new());
        let one = draw_map(&[9], &[None], &[1.0, 2.0], 2, &options).unwrap();
        assert_eq!((one.ids, one.projections[0].points.clone()), (vec![9], vec![[0.0, 0.0]]));
        let equal = project(&vec![0.5; 30 * 4], 4, &options).unwrap();
        assert_eq!((equal.len(), equal[0].points[29]), (1, [0.0, 0.0]));
        let line = project(&(0..40).map(|i| i as f32).collect::<Vec<_>>(), 1, &options).unwrap();
        assert_eq!((line.len(), line[0].points[0][1]), (2, 0.0));
        let mut halves = vec![0.0; 40];
        halves[20..].fill(1.0);
        assert!(
            project(&halves, 1, &options).unwrap()[0].points[0][0] < 0.0,
            "two places, many points in each"
        );
        let broken = project(&[1.0, 2.0, f32::NAN, 0.0], 2, &options).unwrap_err().to_string();
        assert!(broken.contains("the vector of row 1 holds NaN at index 0"), "{broken}");
        let sizes = draw_map(&[1, 2], &[None], &[0.0; 4], 2, &options).unwrap_err().to_string();
        assert!(sizes.contains("clusters has 1 entries, expected 2"), "{sizes}");
    }
}
