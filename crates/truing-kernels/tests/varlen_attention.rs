use crate::support::*;
use truing_kernels::{
    AttentionShape, CACHE_BLOCK, CacheBlock, CachedSequence, Causality, cached_attention, decode_attention,
    varlen_attention_backward, varlen_attention_forward,
};

fn shape(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape {
        n_heads,
        n_kv_heads,
        head_dim,
        scale: 1.3 / (head_dim as f32).sqrt(),
        causality: Causality::Causal,
        sliding_window: None,
        soft_cap: None,
    }
}

fn cumulative(lengths: &[usize]) -> Vec<u32> {
    let mut sums = vec![0];
    lengths.iter().for_each(|&len| sums.push(sums[sums.len() - 1] + len as u32));
    sums
}

fn sees(shape: &AttentionShape, i: usize, j: usize) -> bool {
    let near = shape.sliding_window.is_none_or(|window| i.abs_diff(j) < window);
    near && (shape.causality == Causality::Full || j <= i)
}

/// q, k, v and the gradient of out, all f64.
struct Inputs {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
}

/// Probabilities of one head of one sequence, `[len, len]`, with their log Σ exp.
fn probabilities(
    shape: &AttentionShape,
    x: &Inputs,
    start: usize,
    len: usize,
    head: usize,
) -> (Vec<f64>, Vec<f64>) {
    let d = shape.head_dim;
    let kv_head = head / (shape.n_heads / shape.n_kv_heads);
    let (mut p, mut lse) = (vec![0.0; len * len], vec![]);
    for i in 0..len {
        let q = &x.q[((start + i) * shape.n_heads + head) * d..][..d];
        let score = |j: usize| {
            let k = &x.k[((start + j) * shape.n_kv_heads + kv_head) * d..][..d];
            let score = f64::from(shape.scale) * q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>();
            shape.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        };
        let scores: Vec<(usize, f64)> =
            (0..len).filter(|&j| sees(shape, i, j)).map(|j| (j, score(j))).collect();
        let largest = scores.iter().map(|s| s.1).fold(f64::NEG_INFINITY, f64::max);
        let row_lse = largest + scores.iter().map(|s| (s.1 - largest).exp()).sum::<f64>().ln();
        scores.iter().for_each(|&(j, score)| p[i * len + j] = (score - row_lse).exp());
        lse.push(row_lse);
    }
    (p, lse)
}

/// (out, log_sum_exp)
fn oracle_forward(shape: &AttentionShape, ends: &[u32], x: &Inputs) -> (Vec<f64>, Vec<f64>) {
    let d = shape.head_dim;
    let total = x.q.len() / (shape.n_heads * d);
    let (mut out, mut lse) = (vec![0.0; x.q.len()], vec![0.0; shape.n_heads * total]);
    for head in 0..shape.n_heads {
        let kv_head = head / (shape.n_heads / shape.n_kv_heads);
        for span in ends.windows(2) {
            let (start, len) = (span[0] as usize, (span[1] - span[0]) as usize);
            let (p, rows) = probabilities(shape, x, start, len, head);
            lse[head * total + start..][..len].copy_from_slice(&rows);
            for (at, p) in p.iter().enumerate().filter(|(_, p)| **p != 0.0) {
                let (i, j) = (start + at / len, start + at % len);
                for c in 0..d {
                    out[(i * shape.n_heads + head) * d + c] +=
                        p * x.v[(j * shape.n_kv_heads + kv_head) * d + c];
                }
            }
        }
    }
    (out, lse)
}

/// (d_q, d_k, d_v), in closed form.
fn oracle_backward(shape: &AttentionShape, ends: &[u32], x: &Inputs, d_out: &[f64]) -> [Vec<f64>; 3] {
    let d = shape.head_dim;
    let [mut d_q, mut d_k, mut d_v] = [&x.q, &x.k, &x.v].map(|x| vec![0.0; x.len()]);
    for head in 0..shape.n_heads {
        let kv_head = head / (shape.n_heads / shape.n_kv_heads);
        for span in ends.windows(2) {
            let (start, len) = (span[0] as usize, (span[1] - span[0]) as usize);
            let (p, lse) = probabilities(shape, x, start, len, head);
            // Of the capped score, which is log p + log Σ e^score.
            let slope = |i: usize, p: f64| {
                let of_cap = |cap: f32| 1.0 - ((p.ln() + lse[i]) / f64::from(cap)).powi(2);
                shape.soft_cap.map_or(1.0, of_cap)
            };
            for i in 0..len {
                let q_at = ((start + i) * shape.n_heads + head) * d;
                let kv_at = |j: usize| ((start + j) * shape.n_kv_heads + kv_head) * d;
                let d_p: Vec<f64> =
                    (0..len).map(|j| (0..d).map(|c| d_out[q_at + c] * x.v[kv_at(j) + c]).sum()).collect();
                let p = &p[i * len..(i + 1) * len];
                let delta: f64 = p.iter().zip(&d_p).map(|(p, d)| p * d).sum();
                for j in (0..len).filter(|&j| p[j] != 0.0) {
                    let d_score = p[j] * (d_p[j] - delta) * slope(i, p[j]) * f64::from(shape.scale);
                    for c in 0..d {
                        d_q[q_at + c] += d_score * x.k[kv_at(j) + c];
                        d_k[kv_at(j) + c] += d_score * x.q[q_at + c];
                        d_v[kv_at(j) + c] += p[j] * d_out[q_at + c];
                    }
                }
            }
        }
    }
    [d_q, d_k, d_v]
}

struct Case {
    shape: AttentionShape,
    ends: Vec<u32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    d_out: Vec<f32>,
}

impl Case {
    fn new(shape: AttentionShape, lengths: &[usize]) -> Self {
        let ends = cumulative(lengths);
        let total = lengths.iter().sum::<usize>();
        let (n, n_kv) = (total * shape.n_heads * shape.head_dim, total * shape.n_kv_heads * shape.head_dim);
        let q = numbers(1, n).iter().map(|q| 3.0 * q).collect();
        Case { shape, ends, q, k: numbers(2, n_kv), v: numbers(3, n_kv), d_out: numbers(4, n) }
    }

    fn inputs(&self) -> Inputs {
        Inputs { q: to_f64(&self.q), k: to_f64(&self.k), v: to_f64(&self.v) }
    }

    /// [out, log_sum_exp, d_q, d_k, d_v] of the kernels.
    fn run(&self) -> Vec<Vec<f32>> {
        let (shape, ends) = (&self.shape, &self.ends);
        let mut out = vec![f32::NAN; self.q.len()];
        let mut lse = vec![f32::NAN; self.q.len() / shape.head_dim];
        varlen_attention_forward(shape, ends, &self.q, &self.k, &self.v, &mut out, &mut lse);
        let [mut d_q, mut d_k, mut d_v] = [&self.q, &self.k, &self.v].map(|x| vec![f32::NAN; x.len()]);
        let (q, k, v) = (&self.q, &self.k, &self.v);
        varlen_attention_backward(
            shape,
            ends,
            q,
            k,
            v,
            &out,
            &lse,
            &self.d_out,
            &mut d_q,
            &mut d_k,
            &mut d_v,
        );
        vec![out, lse, d_q, d_k, d_v]
    }

    fn check(&self) {
        let x = self.inputs();
        let (out, lse) = oracle_forward(&self.shape, &self.ends, &x);
        let [d_q, d_k, d_v] = oracle_backward(&self.shape, &self.ends, &x, &to_f64(&self.d_out));
        at_every_level(|level| {
            let got = self.run();
            let what = |name: &str| format!("{name}, {:?}, {:?}, {level}", self.shape, self.ends);
            assert_close(&what("out"), &got[0], &out, 2e-6);
            assert_close(&what("log_sum_exp"), &got[1], &lse, 1e-6);
            assert_close(&what("d_q"), &got[2], &d_q, 5e-6);
            assert_close(&what("d_k"), &got[3], &d_k, 5e-6);
            assert_close(&what("d_v"), &got[4], &d_v, 5e-6);
        });
    }
}

#[test]
fn small_oracle_gradients_are_finite_differences() {
    for (sliding_window, soft_cap) in [(None, None), (Some(3), None), (None, Some(0.7))] {
        let case = Case::new(AttentionShape { sliding_window, soft_cap, ..shape(2, 1, 3) }, &[4, 1, 5]);
        let x = case.inputs();
        let loss = |x: &Inputs| weighted_sum(&oracle_forward(&case.shape, &case.ends, x).0, &case.d_out);
        let inputs = |q: &[f64], k: &[f64], v: &[f64]| Inputs { q: q.to_vec(), k: k.to_vec(), v: v.to_vec() };
        let differences = [
            finite_differences(&x.q, |q| loss(&inputs(q, &x.k, &x.v))),
            finite_differences(&x.k, |k| loss(&inputs(&x.q, k, &x.v))),
            finite_differences(&x.v, |v| loss(&inputs(&x.q, &x.k, v))),
        ];
        let gradients = oracle_backward(&case.shape, &case.ends, &x, &to_f64(&case.d_out));
        for (differences, gradient) in differences.iter().zip(&gradients) {
            differences.iter().zip(gradient).for_each(|(a, b)| assert!((a - b).abs() < 1e-8, "{a} and {b}"));
        }
    }
}

#[test]
fn small_sequences() {
    Case::new(shape(1, 1, 1), &[1]).check();
    Case::new(shape(2, 1, 4), &[1, 1, 3]).check();
    Case::new(shape(3, 3, 5), &[7, 2]).check();
    Case::new(shape(6, 2, 16), &[17, 1, 9]).check();
    Case::new(AttentionShape { causality: Causality::Full, ..shape(2, 2, 8) }, &[5, 1, 6]).check();
    Case::new(AttentionShape { sliding_window: Some(2), ..shape(2, 1, 8) }, &[5, 1, 6]).check();
}

#[test]
fn head_sizes_and_groups() {
    for head_dim in [1, 2, 7, 15, 16, 33, 63, 64, 65, 80, 96, 128, 130] {
        Case::new(shape(2, 1, head_dim), &[37, 3]).check();
    }
    for (n_heads, n_kv_heads) in [(1, 1), (4, 4), (9, 3), (8, 1), (14, 2)] {
        Case::new(shape(n_heads, n_kv_heads, 24), &[70, 30]).check();
    }
}

#[test]
fn lengths_around_the_tiles() {
    for length in [2, 15, 31, 32, 47, 48, 49, 63, 64, 65, 95, 96, 97, 127, 128, 129, 150, 191, 192, 193, 257]
    {
        Case::new(shape(2, 1, 20), &[length, 1, 3]).check();
        Case::new(AttentionShape { causality: Causality::Full, ..shape(1, 1, 20) }, &[length, 2]).check();
    }
}

#[test]
fn one_long_sequence() {
    Case::new(shape(2, 1, 16), &[1100]).check();
    Case::new(AttentionShape { sliding_window: Some(130), ..shape(2, 1, 16) }, &[700, 513]).check();
}

#[test]
fn sliding_windows() {
    for window in [1, 2, 47, 64, 65, 100, 199, 200, 1000] {
        for causality in [Causality::Causal, Causality::Full] {
            let shape = AttentionShape { sliding_window: Some(window), causality, ..shape(2, 1, 12) };
            Case::new(shape, &[200, 5, 66]).check();
        }
    }
}

#[test]
fn small_soft_caps() {
    for cap in [0.5, 3.0, 50.0] {
        Case::new(AttentionShape { soft_cap: Some(cap), ..shape(2, 1, 8) }, &[5, 1, 17]).check();
    }
}

#[test]
fn soft_caps_of_long_sequences() {
    let window = AttentionShape { soft_cap: Some(1.5), sliding_window: Some(70), ..shape(4, 2, 20) };
    Case::new(window, &[300, 5, 66]).check();
}

#[test]
fn empty_sequences_are_allowed() {
    Case::new(shape(2, 1, 8), &[0, 3, 0, 0, 4, 0]).check();
    Case::new(shape(2, 1, 8), &[0]).check();
    Case::new(shape(2, 1, 8), &[]).check();
}

#[test]
fn large_scores_do_not_overflow() {
    let mut case = Case::new(shape(2, 1, 8), &[150]);
    case.q.iter_mut().for_each(|q| *q *= 200.0);
    at_every_level(|level| {
        let got = case.run();
        assert!(got.iter().flatten().all(|x| x.is_finite()), "{level}");
    });
}

#[test]
fn threads_do_not_matter() {
    for lengths in [&[700][..], &[3, 150, 1, 64, 300]] {
        let case = Case::new(shape(6, 2, 16), lengths);
        assert_threads_do_not_matter(|| case.run());
    }
}

/// Changing one packed sequence, and even putting NaN in it, changes no bit of another's outputs or gradients.
#[test]
fn sequences_do_not_see_each_other() {
    let lengths = [70, 33, 130, 1];
    for sliding_window in [None, Some(20)] {
        at_every_level(|level| {
            let shape = AttentionShape { sliding_window, ..shape(4, 2, 16) };
            let mut case = Case::new(shape, &lengths);
            let before = case.run();
            for (x, n_heads) in [(&mut case.q, 4), (&mut case.k, 2), (&mut case.v, 2), (&mut case.d_out, 4)] {
                let width = n_heads * 16;
                x[70 * width..103 * width].iter_mut().enumerate().for_each(|(i, x)| {
                    *x = if i % 9 == 0 { f32::NAN } else { 50.0 * *x };
                });
            }
            let after = case.run();
            let total = 234;
            let changed = |token: usize| (70..103).contains(&token);
            for (which, (before, after)) in before.iter().zip(&after).enumerate() {
                for (i, (a, b)) in before.iter().zip(after).enumerate() {
                    let token = if which == 1 { i % total } else { i / (before.len() / total) };
                    if !changed(token) {
                        assert_eq!(a.to_bits(), b.to_bits(), "{level}: output {which}, token {token}");
                    }
                }
            }
            assert!(after[0].iter().any(|x| x.is_nan()), "NaN is not swallowed");
        });
    }
}

/// A later token cannot reach an earlier one, to the bit.
#[test]
fn the_future_is_not_seen() {
    at_every_level(|level| {
        let mut case = Case::new(shape(2, 1, 16), &[200]);
        let before = case.run();
        case.k[147 * 16..].iter_mut().for_each(|k| *k *= -2.0);
        case.v[147 * 16..].iter_mut().for_each(|v| *v += 1000.0);
        let after = case.run();
        assert_same_bits(&format!("{level}"), &before[0][..147 * 32], &after[0][..147 * 32]);
        assert!(before[0][147 * 32..] != after[0][147 * 32..], "{level}");
    });
}

fn blocks(shape: &AttentionShape, case: &Case, len: usize) -> Vec<CacheBlock> {
    let width = shape.n_kv_heads * shape.head_dim;
    let mut blocks = vec![CacheBlock::new(width, shape.head_dim); len.div_ceil(CACHE_BLOCK)];
    for (i, (k, v)) in case.k.chunks_exact(width).zip(case.v.chunks_exact(width)).take(len).enumerate() {
        blocks[i / CACHE_BLOCK].write(i % CACHE_BLOCK, k, v);
    }
    blocks
}

/// The last `n_new` tokens, each as the newest of a sequence that ends with it.
fn decoded(shape: &AttentionShape, case: &Case, blocks: &[CacheBlock], len: usize, n_new: usize) -> Vec<f32> {
    let sequence =
        |len: usize| CachedSequence { blocks: blocks[..len.div_ceil(CACHE_BLOCK)].iter().collect(), len };
    let sequences: Vec<CachedSequence<'_>> = (len - n_new + 1..=len).map(sequence).collect();
    let q = &case.q[(len - n_new) * shape.n_heads * shape.head_dim..len * shape.n_heads * shape.head_dim];
    let mut out = vec![f32::NAN; q.len()];
    decode_attention(shape, &sequences, q, &mut out);
    out
}

fn check_cached(shape: &AttentionShape, len: usize, n_new: usize) {
    let case = Case::new(*shape, &[len]);
    let (want, _) = oracle_forward(shape, &case.ends, &case.inputs());
    let skip = (len - n_new) * shape.n_heads * shape.head_dim;
    let blocks = blocks(shape, &case, len);
    at_every_level(|level| {
        let mut out = vec![f32::NAN; case.q.len() - skip];
        cached_attention(shape, &case.q[skip..], &case.k, &case.v, &mut out);
        let name = format!("{shape:?}, {n_new} of {len}, {level}");
        assert_close(&name, &out, &want[skip..], 2e-6);
        assert_close(&name, &decoded(shape, &case, &blocks, len, n_new), &want[skip..], 2e-6);
    });
}

/// What blocks of a cache hold is read as it was written, and a token's bits do not depend on what is decoded beside
/// it.
#[test]
fn blocks_of_a_cache() {
    let shape = shape(4, 2, 33);
    let case = Case::new(shape, &[150]);
    let blocks = blocks(&shape, &case, 150);
    let (mut keys, mut values) = (vec![0.0; 20 * 66], vec![0.0; 20 * 66]);
    blocks[1].read(&mut keys, &mut values);
    let rows = CACHE_BLOCK * 66..(CACHE_BLOCK + 20) * 66;
    assert_eq!((&keys[..], &values[..]), (&case.k[rows.clone()], &case.v[rows]));
    at_every_level(|level| {
        let together = decoded(&shape, &case, &blocks, 150, 150);
        let alone: Vec<f32> = (1..=150).flat_map(|len| decoded(&shape, &case, &blocks, len, 1)).collect();
        assert_same_bits(&format!("{level}"), &together, &alone);
    });
}

#[test]
fn small_cached_attention() {
    check_cached(&shape(2, 1, 8), 1, 1);
    check_cached(&shape(3, 1, 5), 9, 1);
    check_cached(&shape(4, 2, 16), 20, 3);
    check_cached(&AttentionShape { sliding_window: Some(4), ..shape(4, 2, 16) }, 20, 3);
    check_cached(&AttentionShape { soft_cap: Some(1.5), ..shape(4, 2, 15) }, 20, 3);
}

#[test]
fn cached_attention_of_every_kind() {
    for (len, n_new) in [(1, 1), (64, 1), (65, 1), (300, 1), (300, 7), (300, 64), (300, 300), (130, 129)] {
        check_cached(&shape(6, 2, 64), len, n_new);
        check_cached(&AttentionShape { sliding_window: Some(50), ..shape(2, 2, 33) }, len, n_new);
        check_cached(&AttentionShape { soft_cap: Some(0.8), ..shape(4, 2, 20) }, len, n_new);
    }
}

#[test]
fn cached_attention_threads_do_not_matter() {
    let case = Case::new(shape(9, 3, 64), &[400]);
    assert_threads_do_not_matter(|| {
        let decode = decoded(&case.shape, &case, &blocks(&case.shape, &case, 400), 400, 8);
        let mut prefill = vec![0.0; 100 * 9 * 64];
        cached_attention(&case.shape, &case.q[300 * 9 * 64..], &case.k, &case.v, &mut prefill);
        vec![decode, prefill]
    });
}
