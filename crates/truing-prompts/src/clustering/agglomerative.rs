//! Hierarchical clustering of up to some thousand rows: every merge with its height, by nearest-neighbour chains
//! (Murtagh 1983), which need as many steps as there are pairs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use truing_kernels::{MatrixRef, Write, matmul};

use super::Vectors;

/// The distance between two clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Linkage {
    /// Distance of the nearest rows. Clusters can grow along chains.
    Single,
    /// Distance of the farthest rows: no two rows of a cluster are farther apart than the threshold.
    Complete,
    /// Mean distance over all pairs of rows.
    Average,
    /// Mean cosine over all pairs of rows, as the distance of two unit vectors with that cosine. It is exact for means
    /// of unit vectors too, so that layers lose nothing. Vectors must have length 1, or be such means.
    MeanCosine,
    /// Ward's method (Ward 1963): the distance of the means times `sqrt(2 a b / (a + b))` for clusters of `a` and `b`
    /// rows. Between two rows it is Euclidean. Single rows join their neighbours before two large clusters merge.
    #[default]
    Ward,
}

/// Two clusters that became one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Merge {
    /// A row of the one cluster.
    pub a: u32,
    /// A row of the other.
    pub b: u32,
    /// Their distance: that of the vectors, Euclidean, under the linkage.
    pub distance: f32,
}

/// All merges of a hierarchy, lowest first, `len - 1` of them. Any beginning of the list is the clustering at that
/// height.
///
/// `weights` says how many rows each vector is the mean of, one for each; single linkage and complete linkage do not
/// look. Needs a `[len, len]` table of distances.
pub fn agglomerate(vectors: Vectors<'_>, weights: &[f32], linkage: Linkage) -> Vec<Merge> {
    let n = vectors.len();
    let mut distances = match linkage {
        Linkage::MeanCosine => one_less_products(vectors),
        _ => distance_table(vectors),
    };
    let mut sizes = weights.to_vec();
    if linkage == Linkage::Ward {
        for (row, distances) in distances.chunks_exact_mut(n.max(1)).enumerate() {
            for (other, distance) in distances.iter_mut().enumerate() {
                // In an order of its own, so that both halves of the table are equal to the bit.
                let (a, b) = (sizes[row.min(other)], sizes[row.max(other)]);
                *distance *= (2.0 * a * b / (a + b)).sqrt();
            }
        }
    }
    let mut is_alive = vec![true; n];
    let mut chain: Vec<usize> = Vec::new();
    let mut merges: Vec<Merge> = Vec::with_capacity(n.saturating_sub(1));
    let mut first_alive = 0;
    while merges.len() + 1 < n {
        if chain.is_empty() {
            while !is_alive[first_alive] {
                first_alive += 1;
            }
            chain.push(first_alive);
        }
        let top = chain[chain.len() - 1];
        let before = chain.len().checked_sub(2).map(|at| chain[at]);
        let (neighbour, distance) = nearest(&distances[top * n..][..n], top, before);
        if Some(neighbour) != before {
            chain.push(neighbour);
            continue;
        }
        chain.truncate(chain.len() - 2);
        let (into, from) = (top.min(neighbour), top.max(neighbour));
        merges.push(Merge { a: into as u32, b: from as u32, distance });
        is_alive[from] = false;
        for other in 0..n {
            if !is_alive[other] || other == into {
                distances[from * n + other] = f32::INFINITY;
                distances[other * n + from] = f32::INFINITY;
                continue;
            }
            let (x, y) = (distances[into * n + other], distances[from * n + other]);
            let joined = match linkage {
                Linkage::Single => x.min(y),
                Linkage::Complete => x.max(y),
                Linkage::Average | Linkage::MeanCosine => {
                    (sizes[into] * x + sizes[from] * y) / (sizes[into] + sizes[from])
                }
                Linkage::Ward => {
                    let [a, b, c] = [sizes[into], sizes[from], sizes[other]];
                    let square = ((a + c) * x * x + (b + c) * y * y - c * distance * distance) / (a + b + c);
                    square.max(0.0).sqrt()
                }
            };
            distances[into * n + other] = joined;
            distances[other * n + into] = joined;
            distances[from * n + other] = f32::INFINITY;
            distances[other * n + from] = f32::INFINITY;
        }
        sizes[into] += sizes[from];
    }
    if linkage == Linkage::MeanCosine {
        merges.iter_mut().for_each(|merge| merge.distance = (2.0 * merge.distance).max(0.0).sqrt());
    }
    // The sort is stable: of merges at one height those inside a cluster stay before those of the cluster.
    merges.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    merges
}

/// The nearest cluster; `before`, where it is as near as any, so that the chain ends.
fn nearest(distances: &[f32], own: usize, before: Option<usize>) -> (usize, f32) {
    let mut best = before.map_or((usize::MAX, f32::INFINITY), |before| (before, distances[before]));
    for (other, &distance) in distances.iter().enumerate() {
        if distance < best.1 && other != own {
            best = (other, distance);
        }
    }
    if best.0 == usize::MAX {
        // Every distance overflowed: any other cluster is as good.
        best.0 = usize::from(own == 0);
    }
    best
}

/// `[n, n]` Euclidean distances; infinite on the diagonal.
fn distance_table(vectors: Vectors<'_>) -> Vec<f32> {
    table_of(vectors, |own, other, product| (own + other - 2.0 * product).max(0.0).sqrt())
}

/// `[n, n]`, 1 less the products; infinite on the diagonal.
fn one_less_products(vectors: Vectors<'_>) -> Vec<f32> {
    table_of(vectors, |_, _, product| 1.0 - product)
}

/// `[n, n]` of what `distance` makes of two squares and a product; infinite on the diagonal.
fn table_of(vectors: Vectors<'_>, distance: impl Fn(f32, f32, f32) -> f32) -> Vec<f32> {
    let (n, dim) = (vectors.len(), vectors.dim());
    let mut table = vec![0.0; n * n];
    let rows = MatrixRef::new(vectors.data(), n, dim);
    matmul(rows, rows.transposed(), &mut table, Write::Overwrite);
    let squares: Vec<f32> = (0..n).map(|i| table[i * n + i]).collect();
    for i in 0..n {
        for j in 0..i {
            // Both halves from one product, so that the table is symmetric to the bit.
            let distance = distance(squares[i], squares[j], table[i * n + j]);
            table[i * n + j] = distance;
            table[j * n + i] = distance;
        }
        table[i * n + i] = f32::INFINITY;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clustering::normalised;
    use truing_types::Seed;

    /// By definition: the nearest two clusters merge, again and again.
    fn by_definition(vectors: Vectors<'_>, linkage: Linkage) -> Vec<f32> {
        let mut clusters: Vec<Vec<usize>> = (0..vectors.len()).map(|row| vec![row]).collect();
        let distance = |a: usize, b: usize| {
            let pairs = vectors.row(a).iter().zip(vectors.row(b));
            pairs.map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>().sqrt()
        };
        let between = |a: &[usize], b: &[usize]| {
            let all: Vec<f64> = a.iter().flat_map(|&i| b.iter().map(move |&j| distance(i, j))).collect();
            match linkage {
                Linkage::Single => all.iter().copied().fold(f64::INFINITY, f64::min),
                Linkage::Complete => all.iter().copied().fold(0.0, f64::max),
                Linkage::Average => all.iter().sum::<f64>() / all.len() as f64,
                // Between rows of length 1 the square of the distance is twice what the cosine is less than 1.
                Linkage::MeanCosine => {
                    (all.iter().map(|distance| distance * distance).sum::<f64>() / all.len() as f64).sqrt()
                }
                Linkage::Ward => {
                    let mean = |rows: &[usize], at: usize| {
                        rows.iter().map(|&row| f64::from(vectors.row(row)[at])).sum::<f64>()
                            / rows.len() as f64
                    };
                    let squares =
                        (0..vectors.dim()).map(|at| (mean(a, at) - mean(b, at)).powi(2)).sum::<f64>();
                    let [n, m] = [a.len() as f64, b.len() as f64];
                    (2.0 * n * m / (n + m) * squares).sqrt()
                }
            }
        };
        let mut heights = Vec::new();
        while clusters.len() > 1 {
            let pairs = (0..clusters.len()).flat_map(|j| (0..j).map(move |i| (i, j)));
            let (i, j, height) = pairs
                .map(|(i, j)| (i, j, between(&clusters[i], &clusters[j])))
                .min_by(|a, b| a.2.total_cmp(&b.2))
                .unwrap();
            heights.push(height as f32);
            let other = clusters.remove(j);
            clusters[i].extend(other);
        }
        heights
    }

    #[test]
    fn heights_are_those_of_the_definition() {
        let data = Seed(1).normals("rows", 40 * 5, 1.0);
        let data = normalised(Vectors::new(&data, 5).unwrap());
        let vectors = Vectors::new(&data, 5).unwrap();
        for linkage in
            [Linkage::Single, Linkage::Complete, Linkage::Average, Linkage::MeanCosine, Linkage::Ward]
        {
            let merges = agglomerate(vectors, &[1.0; 40], linkage);
            let expect = by_definition(vectors, linkage);
            assert_eq!(merges.len(), 39);
            for (merge, expect) in merges.iter().zip(expect) {
                assert!((merge.distance - expect).abs() < 1e-4, "{linkage:?}: {merge:?}, {expect}");
            }
        }
    }

    #[test]
    fn a_weight_is_as_many_rows() {
        // Two rows at 0 and three at 1 are one row of weight 2 and one of weight 3.
        let rows = Vectors::new(&[0.0, 0.0, 1.0, 1.0, 1.0, 7.0], 1).unwrap();
        let means = Vectors::new(&[0.0, 1.0, 7.0], 1).unwrap();
        let [rows, means] = [(rows, &[1.0; 6][..]), (means, &[2.0, 3.0, 1.0])]
            .map(|(vectors, weights)| agglomerate(vectors, weights, Linkage::Ward));
        for (of_rows, of_means) in rows[3..].iter().zip(&means) {
            assert!((of_rows.distance - of_means.distance).abs() < 1e-6, "{of_rows:?} {of_means:?}");
        }
        assert!((means[0].distance - 2.4_f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn means_have_the_mean_cosines_of_their_rows() {
        let data = Seed(2).normals("rows", 6 * 4, 1.0);
        let rows = normalised(Vectors::new(&data, 4).unwrap());
        // The first three rows as one, the others as they are.
        let mean = (0..4).map(|at| (rows[at] + rows[4 + at] + rows[8 + at]) / 3.0);
        let means: Vec<f32> = mean.chain(rows[12..].iter().copied()).collect();
        let cosine = |a: usize, b: usize| (0..4).map(|at| rows[4 * a + at] * rows[4 * b + at]).sum::<f32>();
        let mean_cosine = |b: usize| (cosine(0, b) + cosine(1, b) + cosine(2, b)) / 3.0;
        let merges = agglomerate(
            Vectors::new(&[&means[..4], &means[4 * 2..4 * 3]].concat(), 4).unwrap(),
            &[3.0, 1.0],
            Linkage::MeanCosine,
        );
        assert!((merges[0].distance - (2.0 - 2.0 * mean_cosine(4)).sqrt()).abs() < 1e-6);
    }

    #[test]
    fn equal_rows_and_few_rows() {
        let merges =
            |data: &[f32]| agglomerate(Vectors::new(data, 1).unwrap(), &vec![1.0; data.len()], Linkage::Ward);
        assert!(merges(&[]).is_empty());
        assert!(merges(&[1.0]).is_empty());
        assert_eq!(merges(&[1.0, 4.0]), [Merge { a: 0, b: 1, distance: 3.0 }]);
        let equal = merges(&[2.0; 50]);
        assert!(equal.len() == 49 && equal.iter().all(|merge| merge.distance == 0.0));
    }
}
