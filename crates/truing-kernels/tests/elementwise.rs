use crate::support::*;
use truing_kernels::*;

const LENGTHS: [usize; 6] = [0, 1, 7, 16, 61, 40_003];

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn check_swiglu(n: usize) {
    let gate: Vec<f32> = numbers(1, n).iter().map(|x| 12.0 * x).collect();
    let (up, d_out) = (numbers(2, n), numbers(3, n));
    let value = |gate: f64, up: f64| silu(gate) * up;
    let pairs = || gate.iter().zip(&up).map(|(&g, &u)| (f64::from(g), f64::from(u)));
    let want: Vec<f64> = pairs().map(|(g, u)| value(g, u)).collect();
    // Each output depends on its own inputs only, so the differences are taken element by element.
    let step = 1e-5;
    let slope = |f: &dyn Fn(f64) -> f64| (f(step) - f(-step)) / (2.0 * step);
    let want_gate: Vec<f64> =
        pairs().zip(&d_out).map(|((g, u), &d)| f64::from(d) * slope(&|e| value(g + e, u))).collect();
    let want_up: Vec<f64> =
        pairs().zip(&d_out).map(|((g, u), &d)| f64::from(d) * slope(&|e| value(g, u + e))).collect();
    at_every_level(|level| {
        let what = |name: &str| format!("{name}, {n}, {level}");
        let mut out = vec![f32::NAN; n];
        swiglu_forward(&gate, &up, &mut out);
        assert_close(&what("out"), &out, &want, 4e-7);
        let (mut d_gate, mut d_up) = (vec![f32::NAN; n], vec![f32::NAN; n]);
        swiglu_backward(&gate, &up, &d_out, &mut d_gate, &mut d_up);
        assert_close(&what("d_gate"), &d_gate, &want_gate, 8e-7);
        assert_close(&what("d_up"), &d_up, &want_up, 8e-7);
        let (mut g, mut u, mut d) = (gate.clone(), up.clone(), d_out.clone());
        swiglu_backward_in_place(&mut g, &mut u, &mut d);
        assert_same_bits("in place d_gate", &g, &d_gate);
        assert_same_bits("in place d_up", &u, &d_up);
        assert_same_bits("in place out", &d, &out);
    });
}

#[test]
fn small_swiglu() {
    [0, 1, 7, 16, 61].into_iter().for_each(check_swiglu);
}

#[test]
fn swiglu_of_every_length() {
    LENGTHS.into_iter().for_each(check_swiglu);
}

#[test]
fn swiglu_at_the_ends_of_the_range() {
    at_every_level(|level| {
        let gate = [-200.0, -90.0, -1e30, 200.0, 1e30, f32::NAN, 0.0];
        let mut out = [0.0; 7];
        swiglu_forward(&gate, &[1.0; 7], &mut out);
        assert_eq!(out[..5], [-0.0, out[1], -0.0, 200.0, 1e30], "{level}");
        assert!(out[1].abs() < 1e-36 && out[5].is_nan() && out[6] == 0.0, "{level}: {out:?}");
    });
}

fn check_geglu(n: usize) {
    let gate: Vec<f32> = numbers(1, n).iter().map(|x| 8.0 * x).collect();
    let (up, d_out) = (numbers(2, n), numbers(3, n));
    let gelu = |x: f64| {
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        0.5 * x * (1.0 + u.tanh())
    };
    let pairs = || gate.iter().zip(&up).map(|(&g, &u)| (f64::from(g), f64::from(u)));
    let want: Vec<f64> = pairs().map(|(g, u)| gelu(g) * u).collect();
    let step = 1e-5;
    let slope = |g: f64| (gelu(g + step) - gelu(g - step)) / (2.0 * step);
    let want_gate: Vec<f64> = pairs().zip(&d_out).map(|((g, u), &d)| f64::from(d) * u * slope(g)).collect();
    let want_up: Vec<f64> = pairs().zip(&d_out).map(|((g, _), &d)| f64::from(d) * gelu(g)).collect();
    at_every_level(|level| {
        let what = |name: &str| format!("{name}, {n}, {level}");
        let mut out = vec![f32::NAN; n];
        geglu_forward(&gate, &up, &mut out);
        assert_close(&what("out"), &out, &want, 4e-7);
        let (mut g, mut u, mut d) = (gate.clone(), up.clone(), d_out.clone());
        geglu_backward_in_place(&mut g, &mut u, &mut d);
        assert_close(&what("d_gate"), &g, &want_gate, 8e-7);
        assert_close(&what("d_up"), &u, &want_up, 8e-7);
        assert_same_bits(&what("out again"), &d, &out);
    });
}

#[test]
fn small_geglu() {
    [0, 1, 7, 16, 61].into_iter().for_each(check_geglu);
}

#[test]
fn geglu_of_every_length() {
    LENGTHS.into_iter().for_each(check_geglu);
}

#[test]
fn small_geglu_at_the_ends_of_the_range() {
    at_every_level(|level| {
        let gate = [-1e30, f32::NEG_INFINITY, 1e30, 200.0, 0.0, f32::NAN];
        let (mut out, up) = ([1.0; 6], [1.0; 6]);
        geglu_forward(&gate, &up, &mut out);
        assert!(out[..2].iter().all(|x| x.abs() < 1e-30), "{level}: {out:?}");
        assert_eq!(out[2..5], [1e30, 200.0, 0.0], "{level}");
        assert!(out[5].is_nan(), "{level}");
        let (mut d_gate, mut d_up, mut d_out) = (gate, up, [1.0; 6]);
        geglu_backward_in_place(&mut d_gate, &mut d_up, &mut d_out);
        assert!(d_gate[..2].iter().all(|x| x.abs() < 1e-30), "{level}: {d_gate:?}");
        assert_eq!(d_gate[2..5], [1.0, 1.0, 0.5], "{level}");
        assert!(d_gate[5].is_nan(), "{level}");
    });
}

fn check_soft_cap(n: usize, cap: f32) {
    let values: Vec<f32> = numbers(1, n).iter().map(|x| 6.0 * cap * x * x * x).collect();
    let d_out = numbers(2, n);
    let cap64 = f64::from(cap);
    let tangents: Vec<f64> = values.iter().map(|&z| (f64::from(z) / cap64).tanh()).collect();
    let want: Vec<f64> = tangents.iter().map(|t| cap64 * t).collect();
    let slopes = values.iter().map(|&z| (f64::from(z) / cap64).cosh().powi(-2));
    let want_gradient: Vec<f64> = slopes.zip(&d_out).map(|(slope, &d)| slope * f64::from(d)).collect();
    at_every_level(|level| {
        let mut found = values.clone();
        soft_cap_forward_in_place(&mut found, cap);
        assert_close(&format!("capped at {cap}, {n}, {level}"), &found, &want, 2e-7);
        for (found, want) in found.iter().zip(&want) {
            let error = (f64::from(*found) - want).abs() / want.abs().max(1e-20);
            assert!(error < 5e-7, "{level}: {found} of {want}");
        }
        let mut gradient = d_out.clone();
        soft_cap_backward_in_place(&values, cap, &mut gradient);
        assert_close(&format!("gradient at {cap}, {n}, {level}"), &gradient, &want_gradient, 4e-7);
    });
}

#[test]
fn small_soft_cap() {
    for n in [0, 1, 7, 16, 61] {
        [0.3, 1.0, 50.0].into_iter().for_each(|cap| check_soft_cap(n, cap));
    }
}

#[test]
fn soft_cap_of_every_length() {
    LENGTHS.into_iter().for_each(|n| check_soft_cap(n, 30.0));
}

#[test]
fn small_soft_cap_at_the_ends_of_the_range() {
    at_every_level(|level| {
        let mut values = [f32::NEG_INFINITY, -1e30, 1e30, f32::INFINITY, 0.0, f32::NAN];
        soft_cap_forward_in_place(&mut values, 30.0);
        assert_eq!(values[..5], [-30.0, -30.0, 30.0, 30.0, 0.0], "{level}");
        assert!(values[5].is_nan(), "{level}");
    });
}

fn rms_oracle(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let width = weight.len();
    x.chunks(width)
        .flat_map(|row| {
            let r = 1.0 / (row.iter().map(|x| x * x).sum::<f64>() / width as f64 + eps).sqrt();
            row.iter().zip(weight).map(move |(x, w)| x * r * w).collect::<Vec<_>>()
        })
        .collect()
}

fn check_rms_norm(rows: usize, width: usize, check_gradients: bool) {
    const EPS: f32 = 1e-3;
    let (x, weight, d_out) = (numbers(1, rows * width), numbers(2, width), numbers(3, rows * width));
    let (x64, weight64) = (to_f64(&x), to_f64(&weight));
    let want = rms_oracle(&x64, &weight64, f64::from(EPS));
    let loss = |x: &[f64], w: &[f64]| weighted_sum(&rms_oracle(x, w, f64::from(EPS)), &d_out);
    let want_x = if check_gradients { finite_differences(&x64, |x| loss(x, &weight64)) } else { vec![] };
    let want_weight = finite_differences(&weight64, |w| loss(&x64, w));
    at_every_level(|level| {
        let what = |name: &str| format!("{name} {rows} x {width}, {level}");
        let mut out = vec![f32::NAN; rows * width];
        rms_norm_forward(&x, &weight, EPS, &mut out);
        assert_close(&what("out"), &out, &want, 3e-7);
        let mut d_x = vec![f32::NAN; rows * width];
        let mut d_weight = vec![0.25; width];
        rms_norm_backward(&x, &weight, EPS, &d_out, &mut d_x, Write::Overwrite, Some(&mut d_weight));
        let want_weight: Vec<f64> = want_weight.iter().map(|w| w + 0.25).collect();
        assert_close(&what("d_weight"), &d_weight, &want_weight, 1e-6);
        if check_gradients {
            assert_close(&what("d_x"), &d_x, &want_x, 1e-6);
        }
        let mut added = d_out.clone();
        rms_norm_backward(&x, &weight, EPS, &d_out, &mut added, Write::Add, None);
        let want: Vec<f64> = d_x.iter().zip(&d_out).map(|(a, b)| f64::from(*a) + f64::from(*b)).collect();
        assert_close(&what("d_x added"), &added, &want, 2e-7);
    });
}

#[test]
fn small_rms_norm() {
    check_rms_norm(0, 8, true);
    check_rms_norm(1, 1, true);
    check_rms_norm(3, 5, true);
    check_rms_norm(4, 64, true);
    check_rms_norm(2, 77, true);
}

#[test]
fn rms_norm_of_many_rows() {
    check_rms_norm(211, 99, false);
    check_rms_norm(40, 576, false);
}

/// Φ by its series around 0 or, where that cancels, by the continued fraction of its tail; both in f64.
fn normal_distribution(x: f64) -> f64 {
    let z = x.abs();
    let density = (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let tail = if z < 3.0 {
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= z * z / f64::from(2 * n + 1);
            sum += term;
        }
        0.5 - density * sum
    } else {
        density / (1..200).rev().fold(z, |fraction, n| z + f64::from(n) / fraction)
    };
    if x < 0.0 { tail } else { 1.0 - tail }
}

fn check_gelu(n: usize) {
    let (x, d_out) = (numbers(1, n), numbers(3, n));
    let x: Vec<f32> = x.iter().map(|x| 8.0 * x).collect();
    let value = |x: f64| x * normal_distribution(x);
    let want: Vec<f64> = x.iter().map(|&x| value(f64::from(x))).collect();
    let step = 1e-5;
    let want_x: Vec<f64> = x
        .iter()
        .zip(&d_out)
        .map(|(&x, &d)| {
            let x = f64::from(x);
            f64::from(d) * (value(x + step) - value(x - step)) / (2.0 * step)
        })
        .collect();
    at_every_level(|level| {
        let what = |name: &str| format!("{name}, {n}, {level}");
        let mut out = vec![f32::NAN; n];
        gelu_forward(&x, &mut out);
        assert_close(&what("out"), &out, &want, 1e-7);
        let mut in_place = x.clone();
        gelu_forward_in_place(&mut in_place);
        assert_same_bits(&what("in place"), &in_place, &out);
        let (mut again, mut d_x) = (x.clone(), d_out.clone());
        gelu_backward_in_place(&mut again, &mut d_x);
        assert_same_bits(&what("recomputed"), &again, &out);
        assert_close(&what("d_x"), &d_x, &want_x, 3e-7);
    });
}

#[test]
fn small_gelu() {
    [0, 1, 7, 16, 61].into_iter().for_each(check_gelu);
}

#[test]
fn gelu_of_every_length() {
    LENGTHS.into_iter().for_each(check_gelu);
}

#[test]
fn small_gelu_at_the_ends_of_the_range() {
    at_every_level(|level| {
        let x = [-1e30, f32::NEG_INFINITY, 1e30, f32::INFINITY, 0.0, -0.0, 1e-40, f32::NAN];
        let mut out = [1.0; 8];
        gelu_forward(&x, &mut out);
        assert_eq!(out[..6], [0.0, 0.0, 1e30, f32::INFINITY, 0.0, 0.0], "{level}");
        assert!(out[6].abs() <= 1e-40 && out[7].is_nan(), "{level}: {out:?}");
        let (mut again, mut slope) = (x, [1.0; 8]);
        gelu_backward_in_place(&mut again, &mut slope);
        assert_eq!(slope[..4], [0.0, 0.0, 1.0, 1.0], "{level}");
        assert!(
            slope[4..7].iter().all(|s| (s - 0.5).abs() < 2e-7) && slope[7].is_nan(),
            "{level}: {slope:?}"
        );
    });
}

fn layer_norm_oracle(x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
    let width = weight.len();
    x.chunks(width)
        .flat_map(|row| {
            let mean = row.iter().sum::<f64>() / width as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            let r = 1.0 / (variance + eps).sqrt();
            let parameters = weight.iter().zip(bias);
            row.iter().zip(parameters).map(move |(x, (w, b))| (x - mean) * r * w + b).collect::<Vec<_>>()
        })
        .collect()
}

fn check_layer_norm(rows: usize, width: usize, offset: f32, check_gradients: bool) {
    const EPS: f32 = 1e-3;
    let x: Vec<f32> = numbers(1, rows * width).iter().map(|x| x + offset).collect();
    let (weight, bias, d_out) = (numbers(2, width), numbers(4, width), numbers(3, rows * width));
    let (x64, weight64, bias64) = (to_f64(&x), to_f64(&weight), to_f64(&bias));
    let oracle = |x: &[f64], w: &[f64], b: &[f64]| layer_norm_oracle(x, w, b, f64::from(EPS));
    let want = oracle(&x64, &weight64, &bias64);
    let loss = |x: &[f64], w: &[f64], b: &[f64]| weighted_sum(&oracle(x, w, b), &d_out);
    let want_x =
        if check_gradients { finite_differences(&x64, |x| loss(x, &weight64, &bias64)) } else { vec![] };
    let with_start = |values: Vec<f64>| values.into_iter().map(|v| v + 0.25).collect::<Vec<_>>();
    let want_weight = with_start(finite_differences(&weight64, |w| loss(&x64, w, &bias64)));
    let want_bias = with_start(finite_differences(&bias64, |b| loss(&x64, &weight64, b)));
    at_every_level(|level| {
        let what = |name: &str| format!("{name} {rows} x {width}, {level}");
        let mut out = vec![f32::NAN; rows * width];
        layer_norm_forward(&x, &weight, &bias, EPS, &mut out);
        // The mean itself is rounded to the digits of the offset.
        let tolerance = 4e-7 * (1.0 + f64::from(offset));
        assert_close(&what("out"), &out, &want, tolerance);
        let mut d_x = vec![f32::NAN; rows * width];
        let (mut d_weight, mut d_bias) = (vec![0.25; width], vec![0.25; width]);
        let d_parameters = [Some(&mut d_weight[..]), Some(&mut d_bias[..])];
        layer_norm_backward(&x, &weight, EPS, &d_out, &mut d_x, d_parameters);
        assert_close(&what("d_weight"), &d_weight, &want_weight, 3.0 * tolerance);
        assert_close(&what("d_bias"), &d_bias, &want_bias, 1e-6);
        if check_gradients {
            assert_close(&what("d_x"), &d_x, &want_x, 3.0 * tolerance);
        }
        let mut alone = vec![f32::NAN; rows * width];
        layer_norm_backward(&x, &weight, EPS, &d_out, &mut alone, [None, None]);
        assert_same_bits(&what("d_x alone"), &alone, &d_x);
    });
}

#[test]
fn small_layer_norm() {
    check_layer_norm(0, 8, 0.0, true);
    check_layer_norm(1, 1, 0.0, true);
    check_layer_norm(3, 5, 0.0, true);
    check_layer_norm(4, 64, 0.0, true);
    check_layer_norm(2, 77, 30.0, true);
}

#[test]
fn layer_norm_of_many_rows() {
    check_layer_norm(211, 99, 0.0, false);
    check_layer_norm(40, 384, 5.0, false);
}

fn check_rotary(n_heads: usize, head_dim: usize, factor: f32) {
    let frequencies: Vec<f32> =
        (0..head_dim / 2).map(|i| 10_000f32.powf(-(i as f32) / (head_dim / 2) as f32)).collect();
    let table = RotaryTable::new(&frequencies, 50, factor);
    assert_eq!((table.head_dim(), table.n_positions()), (head_dim, 50));
    let positions = [0u32, 1, 49, 7, 7];
    let x = numbers(1, positions.len() * n_heads * head_dim);
    let turn = |x: &[f64]| -> Vec<f64> {
        let mut y = x.to_vec();
        for (head, values) in y.chunks_mut(head_dim).enumerate() {
            for i in 0..head_dim / 2 {
                let angle = f64::from(positions[head / n_heads] as f32 * frequencies[i]);
                let (a, b) = (values[i], values[i + head_dim / 2]);
                values[i] = f64::from(factor) * (a * angle.cos() - b * angle.sin());
                values[i + head_dim / 2] = f64::from(factor) * (b * angle.cos() + a * angle.sin());
            }
        }
        y
    };
    let weights = numbers(2, x.len());
    let want = turn(&to_f64(&x));
    let want_gradient = finite_differences(&to_f64(&x), |x| weighted_sum(&turn(x), &weights));
    at_every_level(|level| {
        let mut y = x.clone();
        rotary_forward(&table, &positions, &mut y, n_heads);
        assert_close(&format!("rotary {level}"), &y, &want, 2e-7);
        let mut gradient = weights.clone();
        rotary_backward(&table, &positions, &mut gradient, n_heads);
        assert_close(&format!("rotary backward {level}"), &gradient, &want_gradient, 1e-6);
    });
}

#[test]
fn small_rotary() {
    check_rotary(1, 2, 1.0);
    check_rotary(3, 10, 1.0);
    check_rotary(2, 64, 1.3);
}

#[test]
fn small_rotary_of_the_first_components() {
    let (frequencies, positions) = ([1.0, 0.3, 0.01], [0u32, 3, 9]);
    let (part, head_dim, n_heads) = (6, 11, 2);
    let whole = RotaryTable::new(&frequencies, 10, 1.2);
    let table = whole.clone().for_heads_of(head_dim);
    assert_eq!((whole.head_dim(), table.head_dim()), (part, head_dim));
    let x = numbers(1, positions.len() * n_heads * head_dim);
    let firsts =
        |x: &[f32]| -> Vec<f32> { x.chunks(head_dim).flat_map(|head| head[..part].to_vec()).collect() };
    at_every_level(|level| {
        for turn in [rotary_forward, rotary_backward] {
            let (mut y, mut alone) = (x.clone(), firsts(&x));
            turn(&table, &positions, &mut y, n_heads);
            turn(&whole, &positions, &mut alone, n_heads);
            assert_same_bits(&format!("turned, {level}"), &firsts(&y), &alone);
            let rest = |x: &[f32]| -> Vec<f32> {
                x.chunks(head_dim).flat_map(|head| head[part..].to_vec()).collect()
            };
            assert_same_bits(&format!("left, {level}"), &rest(&y), &rest(&x));
        }
    });
}

#[test]
fn rotary_backward_undoes_forward_on_many_tokens() {
    let table = RotaryTable::new(&[1.0, 0.3, 0.01, 0.002], 1000, 1.0);
    let positions: Vec<u32> = (0..5000).map(|i| i % 1000).collect();
    let x = numbers(1, 5000 * 2 * 8);
    let mut y = x.clone();
    rotary_forward(&table, &positions, &mut y, 2);
    assert!(y != x);
    rotary_backward(&table, &positions, &mut y, 2);
    assert_close("there and back", &y, &to_f64(&x), 3e-7);
}

fn check_adamw(n: usize) {
    let start = numbers(1, n);
    at_every_level(|level| {
        let (mut p, mut m, mut v) = (start.clone(), vec![0.0; n], vec![0.0; n]);
        let (mut p64, mut m64, mut v64) = (to_f64(&start), vec![0.0f64; n], vec![0.0f64; n]);
        for step in 1..=5 {
            let g: Vec<f32> = numbers(10 + step, n).iter().map(|g| 8.0 * g).collect();
            let settings = AdamwStep {
                learning_rate: 0.01,
                beta1: 0.9,
                beta2: 0.99,
                epsilon: 1e-6,
                weight_decay: 0.1,
                gradient_scale: 0.125,
                step,
            };
            adamw(&mut p, &g, &mut m, &mut v, &settings);
            let (beta1, beta2) = (f64::from(settings.beta1), f64::from(settings.beta2));
            for i in 0..n {
                let g = f64::from(g[i]) * 0.125;
                m64[i] = beta1 * m64[i] + (1.0 - beta1) * g;
                v64[i] = beta2 * v64[i] + (1.0 - beta2) * g * g;
                let m_hat = m64[i] / (1.0 - beta1.powi(step as i32));
                let v_hat = v64[i] / (1.0 - beta2.powi(step as i32));
                p64[i] -= 0.01 * (m_hat / (v_hat.sqrt() + 1e-6) + 0.1 * p64[i]);
            }
        }
        assert_close(&format!("parameter, {level}"), &p, &p64, 1e-6);
        assert_close(&format!("first moment, {level}"), &m, &m64, 1e-6);
        assert_close(&format!("second moment, {level}"), &v, &v64, 1e-6);
    });
}

#[test]
fn small_adamw() {
    [0, 1, 7, 61].into_iter().for_each(check_adamw);
}

#[test]
fn adamw_of_every_length() {
    LENGTHS.into_iter().for_each(check_adamw);
}

#[test]
fn small_vectors() {
    at_every_level(|level| {
        for n in LENGTHS {
            let (a, b) = (numbers(1, n), numbers(2, n));
            let mut sum = a.clone();
            add_assign(&mut sum, &b);
            let want: Vec<f64> = a.iter().zip(&b).map(|(a, b)| f64::from(*a) + f64::from(*b)).collect();
            assert_close(&format!("sum {level}"), &sum, &want, 1e-7);
            let want: f64 = a.iter().map(|&a| f64::from(a) * f64::from(a)).sum();
            assert!((sum_of_squares(&a) - want).abs() <= 1e-12 * want, "{n}");
            assert!(all_finite(&a));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, n / 2, n.saturating_sub(1)] {
                    if n > 0 {
                        let mut a = a.clone();
                        a[at] = bad;
                        assert!(!all_finite(&a), "{bad} at {at} of {n}");
                    }
                }
            }
        }
    });
}

#[test]
fn small_rows_are_gathered_and_scattered() {
    let width = 5;
    let table = numbers(1, 7 * width);
    let ids = [6u32, 0, 6, 3];
    let mut out = vec![f32::NAN; ids.len() * width];
    gather_rows(&table, width, &ids, &mut out);
    for (row, &id) in out.chunks(width).zip(&ids) {
        assert_eq!(row, &table[id as usize * width..][..width]);
    }
    let mut doubled = out.clone();
    gather_add_rows(&table, width, &ids, &mut doubled);
    assert!(doubled.iter().zip(&out).all(|(doubled, out)| *doubled == 2.0 * out));
    let d_out = numbers(2, ids.len() * width);
    let mut d_table = vec![1.0; table.len()];
    scatter_add_rows(&d_out, width, &ids, &mut d_table);
    let mut want = vec![1.0f64; table.len()];
    for (row, &id) in d_out.chunks(width).zip(&ids) {
        (0..width).for_each(|i| want[id as usize * width + i] += f64::from(row[i]));
    }
    assert_close("scatter", &d_table, &want, 1e-7);
}

#[test]
fn threads_do_not_matter() {
    let n = 70_001;
    let ids: Vec<u32> = (0..300).map(|i| i * i % 50).collect();
    let (rows, width) = (130, 577);
    assert_threads_do_not_matter(|| {
        let squares = sum_of_squares(&numbers(1, n));
        let mut d_table = vec![0.0; 50 * 300];
        scatter_add_rows(&numbers(2, 300 * 300), 300, &ids, &mut d_table);
        let mut d_x = vec![0.0; rows * width];
        let mut d_weight = vec![0.0; width];
        let (x, weight, d_out) = (numbers(3, rows * width), numbers(4, width), numbers(5, rows * width));
        rms_norm_backward(&x, &weight, 1e-5, &d_out, &mut d_x, Write::Overwrite, Some(&mut d_weight));
        let mut d_norm = vec![0.0; rows * width];
        let (mut d_scale, mut d_bias) = (vec![0.0; width], vec![0.0; width]);
        let d_parameters = [Some(&mut d_scale[..]), Some(&mut d_bias[..])];
        layer_norm_backward(&x, &weight, 1e-5, &d_out, &mut d_norm, d_parameters);
        let bits = squares.to_bits();
        vec![
            vec![f32::from_bits(bits as u32), f32::from_bits((bits >> 32) as u32)],
            d_table,
            d_x,
            d_weight,
            d_norm,
            d_scale,
            d_bias,
        ]
    });
}
