//! The methods again, as plainly as their papers state them: whole tensors in double precision, sorting where a threshold is
//! needed. Shares no code with the library but the documented seeds of the random choices.

use truing_model::Tensor;
use truing_types::Seed;

/// A tensor in double precision.
#[derive(Clone)]
pub(super) struct Matrix {
    pub(super) name: String,
    pub(super) width: usize,
    pub(super) values: Vec<f64>,
}

impl Matrix {
    pub(super) fn of(name: &str, tensor: &Tensor) -> Self {
        let width = if tensor.shape.len() > 1 { tensor.shape[1] } else { tensor.values.len() };
        let values = tensor.values.iter().map(|value| f64::from(*value)).collect();
        Self { name: name.to_owned(), width, values }
    }

    fn minus(&self, other: &Self) -> Vec<f64> {
        self.values.iter().zip(&other.values).map(|(a, b)| a - b).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

pub(super) fn linear(models: &[Matrix], weights: &[f64], normalize: bool) -> Vec<f64> {
    let sum: f64 = if normalize { weights.iter().sum() } else { 1.0 };
    (0..models[0].values.len())
        .map(|i| models.iter().zip(weights).map(|(model, w)| w * model.values[i]).sum::<f64>() / sum)
        .collect()
}

pub(super) fn slerp(a: &Matrix, b: &Matrix, t: f64) -> Vec<f64> {
    let cosine = (dot(&a.values, &b.values) / norm(&a.values) / norm(&b.values)).clamp(-1.0, 1.0);
    let theta = cosine.acos();
    let (of_a, of_b) = if cosine.abs() > 0.9995 {
        (1.0 - t, t)
    } else {
        (((1.0 - t) * theta).sin() / theta.sin(), (t * theta).sin() / theta.sin())
    };
    a.values.iter().zip(&b.values).map(|(a, b)| of_a * a + of_b * b).collect()
}

/// With the way through the tangent space that the library leaves out.
pub(super) fn multi_slerp(base: Option<&Matrix>, models: &[Matrix], weights: &[f64]) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    let weights: Vec<f64> = weights.iter().map(|w| w / sum).collect();
    let deltas: Vec<Vec<f64>> =
        models.iter().map(|m| base.map_or_else(|| m.values.clone(), |base| m.minus(base))).collect();
    let n = deltas[0].len();
    let units: Vec<Vec<f64>> =
        deltas.iter().map(|d| d.iter().map(|value| value / (norm(d) + 1e-8)).collect()).collect();
    let mean: Vec<f64> =
        (0..n).map(|i| units.iter().zip(&weights).map(|(u, w)| w * u[i]).sum::<f64>()).collect();
    let length = norm(&mean);
    let mean: Vec<f64> = mean.iter().map(|value| value / length).collect();
    let mut tangent = vec![0.0; n];
    for (unit, weight) in units.iter().zip(&weights) {
        let along = dot(unit, &mean);
        for i in 0..n {
            tangent[i] += weight * (unit[i] - along * mean[i]);
        }
    }
    let angle = norm(&tangent) + 1e-8;
    let mean_norm: f64 = deltas.iter().zip(&weights).map(|(d, w)| w * norm(d)).sum();
    (0..n)
        .map(|i| {
            let on_sphere = mean[i] * angle.cos() + tangent[i] * angle.sin() / angle;
            on_sphere * mean_norm + base.map_or(0.0, |base| base.values[i])
        })
        .collect()
}

/// How a delta is thinned out.
#[derive(Clone, Copy)]
pub(super) enum Thinning {
    Nothing,
    /// Keep the largest.
    Largest {
        density: f64,
    },
    /// Drop the largest, keep the next.
    Between {
        density: f64,
        gamma: f64,
    },
    Random {
        density: f64,
    },
    Ranked {
        density: f64,
        epsilon: f64,
    },
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scaling {
    Nothing,
    Probability,
    L1,
}

pub(super) struct DeltaMethod {
    pub(super) thinning: Thinning,
    pub(super) scaling: Scaling,
    pub(super) elects: bool,
    pub(super) normalize: bool,
    pub(super) lambda: f64,
    pub(super) seed: u64,
}

impl DeltaMethod {
    pub(super) fn merge(&self, base: &Matrix, models: &[Matrix], weights: &[f64]) -> Vec<f64> {
        let parts: Vec<Vec<f64>> =
            models.iter().enumerate().map(|(i, model)| self.thin(base, model, i)).collect();
        (0..base.values.len())
            .map(|i| {
                let products: Vec<(f64, f64)> =
                    parts.iter().zip(weights).map(|(p, w)| (w * p[i], *w)).collect();
                let sum: f64 = products.iter().map(|(product, _)| product).sum();
                let counted: Vec<&(f64, f64)> = products
                    .iter()
                    .filter(|(product, _)| {
                        !self.elects || (*product != 0.0 && (*product > 0.0) == (sum >= 0.0))
                    })
                    .collect();
                let mut delta: f64 = counted.iter().map(|(product, _)| product).sum();
                let divisor: f64 = counted.iter().map(|(_, weight)| weight).sum();
                if self.normalize && divisor != 0.0 {
                    delta /= divisor;
                }
                base.values[i] + self.lambda * delta
            })
            .collect()
    }

    fn thin(&self, base: &Matrix, model: &Matrix, number: usize) -> Vec<f64> {
        let delta = model.minus(base);
        let n = delta.len();
        let mut sorted: Vec<f64> = delta.iter().map(|value| value.abs()).collect();
        sorted.sort_by(f64::total_cmp);
        let kept = |density: f64| ((density * n as f64).floor() as usize).max(1);
        let factor: Vec<f64> = match self.thinning {
            Thinning::Nothing => vec![1.0; n],
            Thinning::Largest { density } => {
                let smallest = sorted[n - kept(density)];
                delta.iter().map(|value| f64::from(u8::from(value.abs() >= smallest))).collect()
            }
            Thinning::Between { density, gamma } => {
                let n_large = (gamma * n as f64).floor() as usize;
                let first = n.saturating_sub(kept(density) + n_large);
                let (low, high) = (sorted[first], sorted[first + kept(density) - 1]);
                delta
                    .iter()
                    .map(|value| f64::from(u8::from(value.abs() >= low && value.abs() <= high)))
                    .collect()
            }
            Thinning::Random { density } => self.chances(model, number, |_, _| density),
            Thinning::Ranked { density, epsilon } => self.chances(model, number, |row, column| {
                let row = &delta[row * model.width..][..model.width];
                let size = |i: usize| (row[i] as f32).abs();
                let rank = (0..row.len())
                    .filter(|&other| {
                        size(other) < size(column) || size(other) == size(column) && other < column
                    })
                    .count();
                let height = if row.len() == 1 { 0.5 } else { rank as f64 / (row.len() - 1) as f64 };
                density - epsilon + 2.0 * epsilon * height
            }),
        };
        let mut thin: Vec<f64> = delta.iter().zip(&factor).map(|(value, factor)| value * factor).collect();
        if self.scaling == Scaling::L1 {
            let size = |values: &[f64]| values.iter().map(|value| value.abs()).sum::<f64>();
            let scale = size(&delta) / size(&thin);
            if scale.is_finite() {
                thin.iter_mut().for_each(|value| *value *= scale);
            }
        }
        thin
    }

    /// Draws for every row, as the documentation of DARE states them.
    fn chances(&self, model: &Matrix, number: usize, chance: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        use rand_chacha::rand_core::Rng;
        let purpose = format!("merge {}", model.name);
        let mut factors = Vec::new();
        for row in 0..model.values.len() / model.width {
            let mut draws = Seed(self.seed).generator(&purpose, &[number as u64, row as u64]);
            for column in 0..model.width {
                let probability = chance(row, column);
                let is_kept = f64::from(draws.next_u32()) < probability * 2_f64.powi(32);
                let of_kept = if self.scaling == Scaling::Probability { 1.0 / probability } else { 1.0 };
                factors.push(if is_kept { of_kept } else { 0.0 });
            }
        }
        factors
    }
}

/// The merged tensor, and c and t (means over rows).
pub(super) fn model_stock(base: &Matrix, models: &[Matrix], row_wise: bool) -> (Vec<f64>, f64, f64) {
    let width = if row_wise { base.width } else { base.values.len() };
    let n = models.len() as f64;
    let mut merged = Vec::new();
    let (mut cosines, mut ratios) = (Vec::new(), Vec::new());
    for start in (0..base.values.len()).step_by(width) {
        let rows: Vec<Vec<f64>> =
            models.iter().map(|m| m.minus(base)[start..start + width].to_vec()).collect();
        let mut pairs = Vec::new();
        for (i, a) in rows.iter().enumerate() {
            for b in &rows[i + 1..] {
                let product = norm(a) * norm(b);
                pairs.push(if product > 0.0 { dot(a, b) / product } else { 0.0 });
            }
        }
        let c = pairs.iter().sum::<f64>() / pairs.len() as f64;
        let t = if c < 0.0 { 0.0 } else { n * c / (1.0 + (n - 1.0) * c) };
        for i in 0..width {
            let mean: f64 = models.iter().map(|m| m.values[start + i]).sum::<f64>() / n;
            merged.push(t * mean + (1.0 - t) * base.values[start + i]);
        }
        cosines.push(c);
        ratios.push(t);
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    (merged, mean(&cosines), mean(&ratios))
}
