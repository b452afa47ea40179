//! The KL divergence from a reference over its most likely tokens.

use crate::support::*;
use truing_kernels::{
    Divergence, DivergenceKind, LogProbRows, ReferenceRows, linear_log_probs_divergence_backward,
    linear_log_probs_divergence_forward, linear_log_probs_forward, linear_log_probs_of, linear_top_log_probs,
};

const KINDS: [DivergenceKind; 5] = [
    DivergenceKind::ReverseKl,
    DivergenceKind::ForwardKl,
    DivergenceKind::JensenShannon(0.1),
    DivergenceKind::JensenShannon(0.5),
    DivergenceKind::JensenShannon(0.9),
];

fn logits(hidden: &[f64], head: &[f64], h: usize) -> Vec<f64> {
    head.chunks(h).map(|w| w.iter().zip(hidden).map(|(a, b)| a * b).sum()).collect()
}

/// Log-probabilities over the chosen tokens alone.
fn renormalised(z: &[f64], tokens: &[u32]) -> Vec<f64> {
    let log_sum = tokens.iter().map(|&v| z[v as usize].exp()).sum::<f64>().ln();
    tokens.iter().map(|&v| z[v as usize] - log_sum).collect()
}

/// KL(a, b) of log-probabilities.
fn kl(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.exp() * (a - b)).sum()
}

fn divergences(
    kind: DivergenceKind,
    hidden: &[f64],
    head: &[f64],
    h: usize,
    tokens: &[u32],
    log_q: &[f32],
) -> Vec<f64> {
    let k = tokens.len() / (hidden.len() / h);
    let rows = hidden.chunks(h).zip(tokens.chunks(k).zip(log_q.chunks(k)));
    rows.map(|(x, (tokens, log_q))| {
        let (p, q) = (renormalised(&logits(x, head, h), tokens), to_f64(log_q));
        match kind {
            DivergenceKind::ReverseKl => kl(&p, &q),
            DivergenceKind::ForwardKl => kl(&q, &p),
            DivergenceKind::JensenShannon(beta) => {
                let mixed = |(p, q): (&f64, &f64)| (beta * q.exp() + (1.0 - beta) * p.exp()).ln();
                let m: Vec<f64> = p.iter().zip(&q).map(mixed).collect();
                beta * kl(&q, &m) + (1.0 - beta) * kl(&p, &m)
            }
        }
    })
    .collect()
}

fn log_prob(x: &[f64], head: &[f64], h: usize, target: u32) -> f64 {
    let z = logits(x, head, h);
    z[target as usize] - z.iter().map(|z| z.exp()).sum::<f64>().ln()
}

struct Results {
    log_probs: Vec<f32>,
    entropies: Vec<f32>,
    is_argmax: Vec<bool>,
}

impl Results {
    fn new(n: usize) -> Self {
        Self { log_probs: vec![f32::NAN; n], entropies: vec![f32::NAN; n], is_argmax: vec![false; n] }
    }

    fn parts(&mut self) -> LogProbRows<'_> {
        LogProbRows {
            log_probs: &mut self.log_probs,
            entropies: &mut self.entropies,
            is_argmax: &mut self.is_argmax,
        }
    }
}

#[test]
fn value_and_gradient_equal_float64_and_finite_differences() {
    KINDS.into_iter().for_each(value_and_gradient_of);
}

fn value_and_gradient_of(kind: DivergenceKind) {
    let (n, vocab, h, k) = (5, 23, 7, 6);
    let (hidden, head, other) = (numbers(1, n * h), numbers(2, vocab * h), numbers(3, n * h));
    let (d_log_probs, d_kl) = (numbers(4, n), numbers(5, n));
    let targets = [0, 22, 3, 3, 9];
    let (tokens, log_q) = linear_top_log_probs(&other, &head, h, &[], k);
    let (hidden64, head64) = (to_f64(&hidden), to_f64(&head));
    let loss = |hidden: &[f64], head: &[f64]| {
        let log_probs: Vec<f64> =
            hidden.chunks(h).zip(targets).map(|(x, target)| log_prob(x, head, h, target)).collect();
        weighted_sum(&log_probs, &d_log_probs)
            + weighted_sum(&divergences(kind, hidden, head, h, &tokens, &log_q), &d_kl)
    };
    let want_hidden = finite_differences(&hidden64, |x| loss(x, &head64));
    let want_head = finite_differences(&head64, |w| loss(&hidden64, w));
    let want_kl = divergences(kind, &hidden64, &head64, h, &tokens, &log_q);
    let reference = ReferenceRows { k, tokens: &tokens, log_probs: &log_q };
    at_every_level(|level| {
        let mut kl = vec![f32::NAN; n];
        let forward = Divergence { reference, kind, kl: &mut kl, d_kl: &[] };
        linear_log_probs_divergence_forward(
            &hidden,
            &head,
            &targets,
            &[],
            Results::new(n).parts(),
            Some(forward),
        );
        assert_close(&format!("{kind:?}, {level}"), &kl, &want_kl, 1e-6);
        let (mut d_hidden, mut d_head) = (vec![f32::NAN; n * h], vec![0.0; vocab * h]);
        let mut again = vec![f32::NAN; n];
        linear_log_probs_divergence_backward(
            &hidden,
            &head,
            &targets,
            &[],
            &d_log_probs,
            Results::new(n).parts(),
            Some(Divergence { reference, kind, kl: &mut again, d_kl: &d_kl }),
            &mut d_hidden,
            Some(&mut d_head),
        );
        assert_same_bits("kl of both passes", &kl, &again);
        assert_close(&format!("d_hidden, {kind:?}, {level}"), &d_hidden, &want_hidden, 1e-6);
        assert_close(&format!("d_head, {kind:?}, {level}"), &d_head, &want_head, 1e-6);
    });
}

#[test]
fn without_gradient_for_log_probs_only_the_divergence_counts() {
    let (n, vocab, h, k) = (3, 11, 4, 11);
    let (hidden, head, other) = (numbers(1, n * h), numbers(2, vocab * h), numbers(3, n * h));
    let (tokens, log_q) = linear_top_log_probs(&other, &head, h, &[], k);
    let reference = ReferenceRows { k, tokens: &tokens, log_probs: &log_q };
    let (kind, d_kl) = (DivergenceKind::ReverseKl, [1.0, 0.5, -2.0]);
    let gradient = |d_log_probs: &[f32]| {
        let (mut kl, mut d_hidden) = (vec![0.0; n], vec![f32::NAN; n * h]);
        linear_log_probs_divergence_backward(
            &hidden,
            &head,
            &[1, 2, 3],
            &[],
            d_log_probs,
            Results::new(n).parts(),
            Some(Divergence { reference, kind, kl: &mut kl, d_kl: &d_kl }),
            &mut d_hidden,
            None,
        );
        d_hidden
    };
    let head64 = to_f64(&head);
    let want = finite_differences(&to_f64(&hidden), |x| {
        weighted_sum(&divergences(kind, x, &head64, h, &tokens, &log_q), &d_kl)
    });
    assert_close("d_hidden", &gradient(&[]), &want, 1e-6);
    assert_close("d_hidden of zeros", &gradient(&[0.0; 3]), &want, 1e-6);
}

#[test]
fn it_is_zero_from_itself_and_never_negative() {
    let (n, vocab, h) = (40, 300, 8);
    let head = numbers(2, vocab * h);
    let cases = [(300, 0.0), (50, 0.0), (50, 1e-4), (300, 1e-4), (1, 1.0)];
    for (kind, (k, moved)) in KINDS.into_iter().flat_map(|kind| cases.map(|case| (kind, case))) {
        let hidden = numbers(1, n * h);
        let other: Vec<f32> = hidden.iter().zip(numbers(7, n * h)).map(|(x, d)| x + moved * d).collect();
        let (tokens, log_q) = linear_top_log_probs(&other, &head, h, &[], k);
        let reference = ReferenceRows { k, tokens: &tokens, log_probs: &log_q };
        let mut kl = vec![f32::NAN; n];
        let divergence = Divergence { reference, kind, kl: &mut kl, d_kl: &[] };
        let targets = vec![0; n];
        linear_log_probs_divergence_forward(
            &hidden,
            &head,
            &targets,
            &[],
            Results::new(n).parts(),
            Some(divergence),
        );
        assert!(kl.iter().all(|&kl| (0.0..1e-3).contains(&kl)), "{k} {moved}: {kl:?}");
    }
}

#[test]
fn the_top_is_sorted_and_among_equals_the_lower_token_comes_first() {
    // One column: the logits are the head itself times 1 and times -2.
    let head = [0.5, 2.0, -1.0, 2.0, 0.5, 0.5];
    let (tokens, log_probs) = linear_top_log_probs(&[1.0, -2.0], &head, 1, &[], 4);
    assert_eq!(tokens, [1, 3, 0, 4, 2, 0, 4, 5]);
    for (row, z) in log_probs.chunks(4).zip([[2.0, 2.0, 0.5, 0.5], [2.0, -1.0, -1.0, -1.0_f64]]) {
        let log_sum = z.iter().map(|z| z.exp()).sum::<f64>().ln();
        assert_close("log_probs", row, &z.map(|z| z - log_sum), 1e-6);
    }
}

#[test]
fn threads_do_not_matter() {
    let (n, vocab, h, k) = (70, 900, 16, 40);
    let (hidden, head, other) = (numbers(1, n * h), numbers(2, vocab * h), numbers(3, n * h));
    let targets: Vec<u32> = (0..n as u32).collect();
    assert_threads_do_not_matter(|| {
        let (tokens, log_q) = linear_top_log_probs(&other, &head, h, &[], k);
        let reference = ReferenceRows { k, tokens: &tokens, log_probs: &log_q };
        let (mut kl, mut d_hidden, mut d_head) = (vec![0.0; n], vec![0.0; n * h], vec![0.0; vocab * h]);
        linear_log_probs_divergence_backward(
            &hidden,
            &head,
            &targets,
            &[],
            &numbers(4, n),
            Results::new(n).parts(),
            Some(Divergence {
                reference,
                kind: DivergenceKind::ReverseKl,
                kl: &mut kl,
                d_kl: &numbers(5, n),
            }),
            &mut d_hidden,
            Some(&mut d_head),
        );
        vec![log_q, kl, d_hidden, d_head]
    });
}

/// Everything that the head computes with some rows excluded, against a head that does not have these rows.
#[test]
fn excluded_rows_are_as_if_the_head_did_not_have_them() {
    let (n, vocab, h, k) = (37, 700, 9, 12);
    // A hole at the start, one across the border of two blocks of 512, one in the middle, and the tail.
    let excluded = [0..3, 40..41, 510..530, 650..700];
    let is_excluded = |v: usize| excluded.iter().any(|range| range.contains(&(v as u32)));
    let mut head = numbers(2, vocab * h);
    for v in (0..vocab).filter(|&v| is_excluded(v)) {
        // If one of these leaked it would be the most likely token.
        head[v * h..(v + 1) * h].iter_mut().for_each(|w| *w *= 40.0);
    }
    let left: Vec<usize> = (0..vocab).filter(|&v| !is_excluded(v)).collect();
    let small_head: Vec<f32> = left.iter().flat_map(|&v| head[v * h..(v + 1) * h].to_vec()).collect();
    let (hidden, other) = (numbers(1, n * h), numbers(3, n * h));
    let (d_log_probs, d_kl) = (numbers(4, n), numbers(5, n));
    let small_targets: Vec<u32> = (0..n).map(|i| (i * 7919 % left.len()) as u32).collect();
    let targets: Vec<u32> = small_targets.iter().map(|&v| left[v as usize] as u32).collect();
    at_every_level(|level| {
        let (tokens, log_q) = linear_top_log_probs(&other, &head, h, &excluded, k);
        let (small_tokens, small_log_q) = linear_top_log_probs(&other, &small_head, h, &[], k);
        assert_eq!(tokens, small_tokens.iter().map(|&v| left[v as usize] as u32).collect::<Vec<_>>());
        assert_close("log_q", &log_q, &to_f64(&small_log_q), 1e-6);

        let run = |head: &[f32], targets: &[u32], excluded: &[_], tokens: &[u32], log_q: &[f32]| {
            let reference = ReferenceRows { k, tokens, log_probs: log_q };
            let (mut kl, mut results) = (vec![f32::NAN; n], Results::new(n));
            let (mut d_hidden, mut d_head) = (vec![f32::NAN; n * h], vec![0.25; head.len()]);
            linear_log_probs_divergence_backward(
                &hidden,
                head,
                targets,
                excluded,
                &d_log_probs,
                results.parts(),
                Some(Divergence { reference, kind: DivergenceKind::ReverseKl, kl: &mut kl, d_kl: &d_kl }),
                &mut d_hidden,
                Some(&mut d_head),
            );
            let mut forward = Results::new(n);
            linear_log_probs_divergence_forward(&hidden, head, targets, excluded, forward.parts(), None);
            assert_same_bits("log_probs of both passes", &forward.log_probs, &results.log_probs);
            (results, kl, d_hidden, d_head)
        };
        let (found, kl, d_hidden, d_head) = run(&head, &targets, &excluded, &tokens, &log_q);
        let (want, want_kl, want_hidden, want_head) =
            run(&small_head, &small_targets, &[], &small_tokens, &small_log_q);
        let what = |name: &str| format!("{name}, {level}");
        assert_close(&what("log_probs"), &found.log_probs, &to_f64(&want.log_probs), 1e-6);
        assert_close(&what("entropies"), &found.entropies, &to_f64(&want.entropies), 1e-6);
        assert_eq!(found.is_argmax, want.is_argmax);
        assert_close(&what("kl"), &kl, &to_f64(&want_kl), 1e-6);
        assert_close(&what("d_hidden"), &d_hidden, &to_f64(&want_hidden), 1e-6);
        let d_of_left: Vec<f32> = left.iter().flat_map(|&v| d_head[v * h..(v + 1) * h].to_vec()).collect();
        assert_close(&what("d_head"), &d_of_left, &to_f64(&want_head), 1e-6);
        for v in (0..vocab).filter(|&v| is_excluded(v)) {
            assert_eq!(d_head[v * h..(v + 1) * h], vec![0.25; h], "row {v} has no gradient");
        }
    });
}

#[test]
fn excluding_nothing_changes_no_bit() {
    let (n, vocab, h) = (19, 130, 6);
    let (hidden, head) = (numbers(1, n * h), numbers(2, vocab * h));
    let targets: Vec<u32> = (0..n as u32).collect();
    let (mut plain, mut with_list) = (Results::new(n), Results::new(n));
    linear_log_probs_forward(&hidden, &head, &targets, plain.parts());
    linear_log_probs_divergence_forward(&hidden, &head, &targets, &[], with_list.parts(), None);
    assert_same_bits("log_probs", &plain.log_probs, &with_list.log_probs);
    assert_same_bits("entropies", &plain.entropies, &with_list.entropies);
}

#[test]
fn a_policy_that_is_its_own_reference_has_no_divergence_and_no_gradient() {
    let sizes = [(1, 40, 9, 7), (5, 1_300, 64, 50), (40, 4_097, 96, 500), (300, 700, 33, 16)];
    for (kind, (n, vocab, h, k)) in KINDS.into_iter().flat_map(|kind| sizes.map(|size| (kind, size))) {
        let (hidden, head) = (numbers(1, n * h), numbers(2, vocab * h));
        let targets: Vec<u32> = (0..n as u32).map(|i| i % vocab as u32).collect();
        at_every_level(|level| {
            let (tokens, log_q) = linear_top_log_probs(&hidden, &head, h, &[], k);
            let mut kl = vec![f32::NAN; n];
            let (mut d_hidden, mut d_head) = (vec![f32::NAN; n * h], vec![0.0; vocab * h]);
            let reference = ReferenceRows { k, tokens: &tokens, log_probs: &log_q };
            linear_log_probs_divergence_backward(
                &hidden,
                &head,
                &targets,
                &[],
                &[],
                Results::new(n).parts(),
                Some(Divergence { reference, kind, kl: &mut kl, d_kl: &vec![1.0; n] }),
                &mut d_hidden,
                Some(&mut d_head),
            );
            let is_zero = |values: &[f32]| values.iter().all(|&value| value == 0.0);
            assert!(is_zero(&kl), "{level:?}, {n} rows of {vocab}: {kl:?}");
            assert!(is_zero(&d_hidden) && is_zero(&d_head), "{level:?}, {n} rows of {vocab}");
        });
    }
}

/// Probabilities that underflow have a mixture all the same.
#[test]
fn very_unlikely_tokens_have_a_finite_divergence() {
    let (hidden, head) = ([1.0_f32], [0.0_f32, -800.0, -2000.0]);
    let (tokens, log_q) = ([0_u32, 1, 2], [0.0_f32, -900.0, -1500.0]);
    for kind in KINDS {
        let (mut kl, mut d_hidden) = ([f32::NAN], [f32::NAN]);
        let reference = ReferenceRows { k: 3, tokens: &tokens, log_probs: &log_q };
        linear_log_probs_divergence_backward(
            &hidden,
            &head,
            &[0],
            &[],
            &[],
            Results::new(1).parts(),
            Some(Divergence { reference, kind, kl: &mut kl, d_kl: &[1.0] }),
            &mut d_hidden,
            None,
        );
        assert!(kl[0] >= 0.0 && kl[0] < 1e-6 && d_hidden[0].abs() < 1e-6, "{kind:?}: {kl:?} {d_hidden:?}");
    }
}

#[test]
fn log_probs_of_the_top_tokens_are_the_top_log_probs() {
    for (n, vocab, h, k) in [(1, 40, 9, 7), (40, 4_097, 96, 500), (300, 700, 33, 16)] {
        let (hidden, head, other) = (numbers(1, n * h), numbers(2, vocab * h), numbers(3, n * h));
        at_every_level(|level| {
            let (tokens, log_probs) = linear_top_log_probs(&hidden, &head, h, &[], k);
            assert_same_bits("of itself", &linear_log_probs_of(&hidden, &head, h, &tokens, k), &log_probs);
            let found = linear_log_probs_of(&other, &head, h, &tokens, k);
            let (other64, head64) = (to_f64(&other), to_f64(&head));
            let rows = other64.chunks(h).zip(tokens.chunks(k));
            let expected: Vec<f64> =
                rows.flat_map(|(x, tokens)| renormalised(&logits(x, &head64, h), tokens)).collect();
            assert_close(&format!("of another, {level}"), &found, &expected, 2e-6);
        });
    }
}
