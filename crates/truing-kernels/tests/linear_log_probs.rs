use crate::support::*;
use truing_kernels::{
    LogProbRows, linear_log_probs_backward, linear_log_probs_forward, linear_log_probs_workspace_bytes,
};

struct Rows {
    log_probs: Vec<f32>,
    entropies: Vec<f32>,
    is_argmax: Vec<bool>,
}

impl Rows {
    fn new(n: usize) -> Self {
        Rows { log_probs: vec![f32::NAN; n], entropies: vec![f32::NAN; n], is_argmax: vec![false; n] }
    }

    fn parts(&mut self) -> LogProbRows<'_> {
        LogProbRows {
            log_probs: &mut self.log_probs,
            entropies: &mut self.entropies,
            is_argmax: &mut self.is_argmax,
        }
    }
}

/// (log-probabilities, entropies, is argmax)
fn oracle(hidden: &[f64], head: &[f64], h: usize, targets: &[u32]) -> (Vec<f64>, Vec<f64>, Vec<bool>) {
    let mut result = (vec![], vec![], vec![]);
    for (hidden, &target) in hidden.chunks(h).zip(targets) {
        let z: Vec<f64> = head.chunks(h).map(|w| w.iter().zip(hidden).map(|(a, b)| a * b).sum()).collect();
        let largest = z.iter().cloned().fold(f64::NEG_INFINITY, f64::max);
        let lse = largest + z.iter().map(|z| (z - largest).exp()).sum::<f64>().ln();
        result.0.push(z[target as usize] - lse);
        result.1.push(-z.iter().map(|z| (z - lse).exp() * (z - lse)).sum::<f64>());
        result.2.push(z.iter().position(|&z| z == largest) == Some(target as usize));
    }
    result
}

fn argmaxes(hidden: &[f32], head: &[f32], h: usize) -> Vec<u32> {
    let z = |w: &[f32], x: &[f32]| w.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    hidden
        .chunks(h)
        .map(|x| {
            let best = head.chunks(h).enumerate().max_by(|a, b| z(a.1, x).total_cmp(&z(b.1, x)));
            best.expect("a vocabulary").0 as u32
        })
        .collect()
}

fn check(n: usize, vocab: usize, h: usize, scale: f32) {
    let hidden: Vec<f32> = numbers(1, n * h).iter().map(|x| x * scale).collect();
    let head = numbers(2, vocab * h);
    let best = argmaxes(&hidden, &head, h);
    let targets: Vec<u32> =
        (0..n).map(|i| if i % 3 == 0 { best[i] } else { (i * 7919 % vocab) as u32 }).collect();
    let d_log_probs: Vec<f32> =
        numbers(4, n).iter().enumerate().map(|(i, d)| if i % 5 == 4 { 0.0 } else { *d }).collect();
    let (hidden64, head64) = (to_f64(&hidden), to_f64(&head));
    let want = oracle(&hidden64, &head64, h, &targets);

    // Closed form in f64, itself held to finite differences in `small_gradients`.
    let mut want_hidden = vec![0.0; n * h];
    let mut want_head = vec![0.5; vocab * h];
    for i in 0..n {
        let x = &hidden64[i * h..(i + 1) * h];
        let z: Vec<f64> = head64.chunks(h).map(|w| w.iter().zip(x).map(|(a, b)| a * b).sum()).collect();
        let lse = z[targets[i] as usize] - want.0[i];
        for t in 0..vocab {
            let onehot = if t == targets[i] as usize { 1.0 } else { 0.0 };
            let d = f64::from(d_log_probs[i]) * (onehot - (z[t] - lse).exp());
            for c in 0..h {
                want_hidden[i * h + c] += d * head64[t * h + c];
                want_head[t * h + c] += d * x[c];
            }
        }
    }
    at_every_level(|level| {
        let what = |name: &str| format!("{name}, n {n}, vocab {vocab}, h {h}, {level}");
        let mut rows = Rows::new(n);
        linear_log_probs_forward(&hidden, &head, &targets, rows.parts());
        // A logit of magnitude z is known to a few z · 2^-24 only.
        let tolerance = 1e-6 * f64::from(scale).max(3.0);
        assert_close(&what("log_probs"), &rows.log_probs, &want.0, tolerance);
        assert_close(&what("entropies"), &rows.entropies, &want.1, tolerance);
        assert_eq!(rows.is_argmax, want.2, "{}", what("is_argmax"));
        for with_head in [true, false] {
            let mut again = Rows::new(n);
            let mut d_hidden = vec![f32::NAN; n * h];
            let mut d_head = vec![0.5; vocab * h];
            let to_head = with_head.then_some(&mut d_head[..]);
            linear_log_probs_backward(
                &hidden,
                &head,
                &targets,
                &d_log_probs,
                again.parts(),
                &mut d_hidden,
                to_head,
            );
            assert_same_bits("log_probs of both passes", &rows.log_probs, &again.log_probs);
            assert_same_bits("entropies of both passes", &rows.entropies, &again.entropies);
            assert_eq!(rows.is_argmax, again.is_argmax);
            assert_close(&what("d_hidden"), &d_hidden, &want_hidden, tolerance);
            if with_head {
                assert_close(&what("d_head"), &d_head, &want_head, tolerance);
            }
        }
    });
}

#[test]
fn small_log_probs() {
    check(1, 1, 1, 1.0);
    check(1, 2, 3, 1.0);
    check(5, 17, 8, 3.0);
    check(7, 50, 33, 1.0);
}

#[test]
fn log_probs_of_odd_sizes() {
    check(49, 333, 40, 2.0);
    check(150, 1001, 24, 30.0);
    check(300, 97, 16, 1.0);
}

/// More rows than one chunk of the workspace takes.
#[test]
fn log_probs_over_several_chunks() {
    check(200, 60_000, 2, 1.0);
}

#[test]
fn small_gradients() {
    let (n, vocab, h) = (4, 11, 5);
    let (hidden, head, d_log_probs) = (numbers(1, n * h), numbers(2, vocab * h), numbers(3, n));
    let targets = [0, 10, 3, 3];
    let loss =
        |hidden: &[f64], head: &[f64]| weighted_sum(&oracle(hidden, head, h, &targets).0, &d_log_probs);
    let (hidden64, head64) = (to_f64(&hidden), to_f64(&head));
    let want_hidden = finite_differences(&hidden64, |x| loss(x, &head64));
    let want_head = finite_differences(&head64, |w| loss(&hidden64, w));
    at_every_level(|level| {
        let mut d_hidden = vec![f32::NAN; n * h];
        let mut d_head = vec![0.0; vocab * h];
        let (to_hidden, to_head) = (&mut d_hidden, Some(&mut d_head[..]));
        linear_log_probs_backward(
            &hidden,
            &head,
            &targets,
            &d_log_probs,
            Rows::new(n).parts(),
            to_hidden,
            to_head,
        );
        assert_close(&format!("d_hidden, {level}"), &d_hidden, &want_hidden, 1e-6);
        assert_close(&format!("d_head, {level}"), &d_head, &want_head, 1e-6);
    });
}

#[test]
fn no_targets_is_no_work() {
    at_every_level(|_| {
        let head = numbers(1, 12);
        linear_log_probs_forward(&[], &head, &[], Rows::new(0).parts());
        let mut d_head = vec![1.0; 12];
        linear_log_probs_backward(&[], &head, &[], &[], Rows::new(0).parts(), &mut [], Some(&mut d_head));
        assert_eq!(d_head, [1.0; 12]);
    });
}

#[test]
fn nan_stays_in_its_row() {
    let (n, vocab, h) = (60, 100, 8);
    let mut hidden = numbers(1, n * h);
    hidden[9 * h + 2] = f32::NAN;
    hidden[50 * h] = f32::INFINITY;
    at_every_level(|level| {
        let mut rows = Rows::new(n);
        let mut d_hidden = vec![0.0; n * h];
        let head = numbers(2, vocab * h);
        let d = vec![1.0; n];
        linear_log_probs_backward(&hidden, &head, &vec![3; n], &d, rows.parts(), &mut d_hidden, None);
        for i in 0..n {
            let bad = i == 9 || i == 50;
            assert_eq!(rows.log_probs[i].is_nan(), bad, "{level}: row {i}");
            assert_eq!(rows.entropies[i].is_nan(), bad, "{level}: row {i}");
            assert_eq!(d_hidden[i * h..(i + 1) * h].iter().any(|d| d.is_nan()), bad, "{level}: row {i}");
            assert!(!(bad && rows.is_argmax[i]), "{level}: row {i}");
        }
    });
}

#[test]
fn the_first_of_equal_logits_is_the_argmax() {
    at_every_level(|level| {
        let head = vec![1.0; 40];
        let mut rows = Rows::new(2);
        linear_log_probs_forward(&[2.0, 2.0], &head, &[0, 39], rows.parts());
        assert_eq!(rows.is_argmax, [true, false], "{level}");
    });
}

#[test]
fn threads_and_other_rows_do_not_matter() {
    let (n, vocab, h) = (170, 3000, 20);
    let (mut hidden, head, d) = (numbers(1, n * h), numbers(2, vocab * h), numbers(3, n));
    let targets: Vec<u32> = (0..n).map(|i| (i * 31 % vocab) as u32).collect();
    let run = |hidden: &[f32]| {
        let mut rows = Rows::new(n);
        let (mut d_hidden, mut d_head) = (vec![0.0; n * h], vec![0.0; vocab * h]);
        linear_log_probs_backward(
            hidden,
            &head,
            &targets,
            &d,
            rows.parts(),
            &mut d_hidden,
            Some(&mut d_head),
        );
        vec![rows.log_probs, rows.entropies, d_hidden, d_head]
    };
    assert_threads_do_not_matter(|| run(&hidden));
    let before = run(&hidden);
    hidden[..10 * h].iter_mut().for_each(|x| *x += 1.0);
    let after = run(&hidden);
    assert_same_bits("log_probs", &before[0][10..], &after[0][10..]);
    assert_same_bits("d_hidden", &before[2][10 * h..], &after[2][10 * h..]);
    assert_ne!(before[0][..10], after[0][..10]);
}

#[test]
fn the_workspace_is_bounded() {
    assert!(linear_log_probs_workspace_bytes(49_152, 576) <= 40 << 20);
    assert!(linear_log_probs_workspace_bytes(151_936, 1024) <= 40 << 20);
}
