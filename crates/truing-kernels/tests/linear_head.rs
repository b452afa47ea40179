//! Heads with normalised rows and capped logits.

use crate::support::*;
use truing_kernels::{
    Divergence, DivergenceKind, LinearHead, LogProbRows, ReferenceRows, inverse_row_norms,
    linear_log_probs_divergence_backward, linear_log_probs_divergence_forward, linear_log_probs_of,
    linear_top_log_probs,
};

const H: usize = 5;

#[derive(Clone, Copy, Debug)]
struct Kind {
    is_normalized: bool,
    soft_cap: Option<f32>,
}

const KINDS: [Kind; 3] = [
    Kind { is_normalized: true, soft_cap: None },
    Kind { is_normalized: false, soft_cap: Some(1.5) },
    Kind { is_normalized: true, soft_cap: Some(0.8) },
];

impl Kind {
    fn logits(self, hidden: &[f64], weight: &[f64]) -> Vec<f64> {
        let of_row = |row: &[f64]| {
            let product: f64 = row.iter().zip(hidden).map(|(a, b)| a * b).sum();
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            let product = if self.is_normalized { product / norm } else { product };
            self.soft_cap.map_or(product, |cap| f64::from(cap) * (product / f64::from(cap)).tanh())
        };
        weight.chunks(H).map(of_row).collect()
    }

    fn head<'a>(self, weight: &'a [f32], norms: &'a [f32]) -> LinearHead<'a> {
        LinearHead {
            weight: weight.into(),
            inverse_norms: self.is_normalized.then_some(norms),
            soft_cap: self.soft_cap,
        }
    }
}

fn log_sum_exp(z: &[f64]) -> f64 {
    let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + z.iter().map(|z| (z - largest).exp()).sum::<f64>().ln()
}

struct Case {
    hidden: Vec<f32>,
    weight: Vec<f32>,
    targets: Vec<u32>,
    d_log_probs: Vec<f32>,
    d_kl: Vec<f32>,
    reference: (Vec<u32>, Vec<f32>),
}

/// Tokens of the reference of a row.
const K: usize = 3;

impl Case {
    fn new(n: usize, vocab: usize) -> Self {
        let tokens: Vec<u32> = (0..n * K).map(|i| ((i * 5 + i / K) % vocab) as u32).collect();
        let log_probs = (0..n).flat_map(|_| [0.2f32, 0.5, 0.3].map(f32::ln)).collect();
        Self {
            hidden: numbers(1, n * H).iter().map(|x| 3.0 * x).collect(),
            weight: numbers(2, vocab * H).iter().map(|x| 2.0 * x).collect(),
            targets: (0..n).map(|i| (i * 7 % vocab) as u32).collect(),
            d_log_probs: numbers(3, n),
            d_kl: numbers(4, n),
            reference: (tokens, log_probs),
        }
    }

    fn reference(&self) -> ReferenceRows<'_> {
        ReferenceRows { k: K, tokens: &self.reference.0, log_probs: &self.reference.1 }
    }

    /// (log-probabilities, forward KL from the reference)
    fn results(&self, kind: Kind, hidden: &[f64], weight: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let rows = hidden.chunks(H).zip(&self.targets).enumerate();
        rows.map(|(i, (hidden, &target))| {
            let z = kind.logits(hidden, weight);
            let row = i * K..(i + 1) * K;
            let some: Vec<f64> = self.reference.0[row.clone()].iter().map(|&v| z[v as usize]).collect();
            let total = log_sum_exp(&some);
            let kl = some.iter().zip(&self.reference.1[row]).map(|(z, &log_q)| {
                let log_q = f64::from(log_q);
                log_q.exp() * (log_q - (z - total))
            });
            (z[target as usize] - log_sum_exp(&z), kl.sum::<f64>())
        })
        .unzip()
    }

    fn loss(&self, kind: Kind, hidden: &[f64], weight: &[f64], with_kl: bool) -> f64 {
        let (log_probs, kl) = self.results(kind, hidden, weight);
        let of_kl = if with_kl { weighted_sum(&kl, &self.d_kl) } else { 0.0 };
        weighted_sum(&log_probs, &self.d_log_probs) + of_kl
    }

    fn check(&self, kind: Kind) {
        let n = self.targets.len();
        let (hidden64, weight64) = (to_f64(&self.hidden), to_f64(&self.weight));
        let (want, want_kl) = self.results(kind, &hidden64, &weight64);
        at_every_level(|level| {
            let norms = inverse_row_norms(&self.weight, H);
            let head = kind.head(&self.weight, &norms);
            for with_kl in [false, true] {
                let what = |name: &str| format!("{name}, {kind:?}, KL {with_kl}, {level}");
                let mut results = [vec![f32::NAN; n], vec![f32::NAN; n]];
                let (mut is_argmax, mut kl) = (vec![false; n], vec![f32::NAN; n]);
                let (mut d_hidden, mut d_weight) = (vec![f32::NAN; n * H], vec![0.5; self.weight.len()]);
                let [log_probs, entropies] = &mut results;
                let rows = LogProbRows { log_probs, entropies, is_argmax: &mut is_argmax };
                let divergence = Divergence {
                    reference: self.reference(),
                    kind: DivergenceKind::ForwardKl,
                    kl: &mut kl,
                    d_kl: &self.d_kl,
                };
                linear_log_probs_divergence_backward(
                    &self.hidden,
                    head,
                    &self.targets,
                    &[],
                    &self.d_log_probs,
                    rows,
                    with_kl.then_some(divergence),
                    &mut d_hidden,
                    Some(&mut d_weight),
                );
                assert_close(&what("log_probs"), &results[0], &want, 2e-6);
                if with_kl {
                    assert_close(&what("kl"), &kl, &want_kl, 2e-6);
                }
                let want_hidden = finite_differences(&hidden64, |x| self.loss(kind, x, &weight64, with_kl));
                assert_close(&what("d_hidden"), &d_hidden, &want_hidden, 3e-6);
                let want_weight = finite_differences(&weight64, |w| self.loss(kind, &hidden64, w, with_kl));
                let want_weight: Vec<f64> = want_weight.iter().map(|d| d + 0.5).collect();
                assert_close(&what("d_weight"), &d_weight, &want_weight, 3e-6);
            }
        });
    }
}

#[test]
fn small_heads_with_normalized_rows_and_caps() {
    for kind in KINDS {
        Case::new(4, 11).check(kind);
        Case::new(1, 3).check(kind);
    }
}

#[test]
fn heads_with_normalized_rows_and_caps_of_many_rows() {
    KINDS.into_iter().for_each(|kind| Case::new(37, 23).check(kind));
}

#[test]
fn small_excluded_rows_of_a_capped_head_take_no_part() {
    let case = Case::new(3, 9);
    let kept: Vec<usize> = (0..9).filter(|v| !(4..6).contains(v)).collect();
    at_every_level(|level| {
        let head = LinearHead { weight: (&case.weight).into(), inverse_norms: None, soft_cap: Some(1.5) };
        let (mut log_probs, mut entropies, mut is_argmax) = (vec![0.0; 3], vec![0.0; 3], vec![false; 3]);
        let out =
            LogProbRows { log_probs: &mut log_probs, entropies: &mut entropies, is_argmax: &mut is_argmax };
        let targets = [0, 7, 8];
        let excluded = std::slice::from_ref(&(4..6));
        linear_log_probs_divergence_forward(&case.hidden, head, &targets, excluded, out, None);
        let kind = Kind { is_normalized: false, soft_cap: Some(1.5) };
        let want: Vec<f64> = case
            .hidden
            .chunks(H)
            .zip(targets)
            .map(|(hidden, target)| {
                let z = kind.logits(&to_f64(hidden), &to_f64(&case.weight));
                let left: Vec<f64> = kept.iter().map(|&v| z[v]).collect();
                z[target as usize] - log_sum_exp(&left)
            })
            .collect();
        assert_close(&format!("log_probs, {level}"), &log_probs, &want, 2e-6);
    });
}

#[test]
fn small_top_tokens_and_rows_for_decoding_have_the_same_logits() {
    let (n, vocab) = (4, 11);
    let case = Case::new(n, vocab);
    for kind in KINDS {
        at_every_level(|level| {
            let norms = inverse_row_norms(&case.weight, H);
            let head = kind.head(&case.weight, &norms);
            let (tokens, log_probs) = linear_top_log_probs(&case.hidden, head, H, &[], vocab);
            let again = linear_log_probs_of(&case.hidden, head, H, &tokens, vocab);
            assert_same_bits(&format!("of the top tokens, {kind:?}, {level}"), &again, &log_probs);
            let (hidden64, weight64) = (to_f64(&case.hidden), to_f64(&case.weight));
            let mut products = Vec::new();
            for (i, hidden) in hidden64.chunks(H).enumerate() {
                let z = kind.logits(hidden, &weight64);
                let row = &tokens[i * vocab..(i + 1) * vocab];
                let want: Vec<f64> = row.iter().map(|&v| z[v as usize] - log_sum_exp(&z)).collect();
                let found = &log_probs[i * vocab..(i + 1) * vocab];
                assert_close(&format!("top, {kind:?}, {level}"), found, &want, 2e-6);
                let rows = weight64.chunks(H);
                products.extend(rows.map(|w| w.iter().zip(hidden).map(|(a, b)| a * b).sum::<f64>() as f32));
            }
            head.finish_rows(&mut products);
            let want: Vec<f64> =
                hidden64.chunks(H).flat_map(|hidden| kind.logits(hidden, &weight64)).collect();
            assert_close(&format!("rows, {kind:?}, {level}"), &products, &want, 2e-6);
        });
    }
}

#[test]
fn threads_do_not_matter() {
    let (n, vocab, h) = (70, 900, 12);
    let (hidden, weight, d) = (numbers(1, n * h), numbers(2, vocab * h), numbers(3, n));
    let targets: Vec<u32> = (0..n).map(|i| (i * 7 % vocab) as u32).collect();
    assert_threads_do_not_matter(|| {
        let norms = inverse_row_norms(&weight, h);
        let head = LinearHead { weight: (&weight).into(), inverse_norms: Some(&norms), soft_cap: Some(2.0) };
        let (mut log_probs, mut entropies, mut is_argmax) = (vec![0.0; n], vec![0.0; n], vec![false; n]);
        let rows =
            LogProbRows { log_probs: &mut log_probs, entropies: &mut entropies, is_argmax: &mut is_argmax };
        let (mut d_hidden, mut d_weight) = (vec![0.0; n * h], vec![0.0; vocab * h]);
        let to_weight = Some(&mut d_weight[..]);
        linear_log_probs_divergence_backward(
            &hidden,
            head,
            &targets,
            &[],
            &d,
            rows,
            None,
            &mut d_hidden,
            to_weight,
        );
        vec![log_probs, entropies, d_hidden, d_weight]
    });
}
