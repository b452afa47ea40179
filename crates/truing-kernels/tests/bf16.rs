//! Products in bf16: against sums in float64 of the rounded numbers, in both ways to multiply and at every level.

use crate::support::*;
use truing_kernels::{
    Bf16Matrix, Bf16Operand, Bf16Products, Epilogue, LinearHead, LogProbRows, MatrixRef, RowProduct,
    RowWeight, SimdLevel, Weight, Write, add_bias, bf16_matmul, bf16_matmul_with_epilogue,
    gelu_forward_in_place, inverse_row_norms, linear_log_probs_backward, linear_log_probs_forward,
    multiply_rows, with_bf16_products,
};

/// The nearest bf16 number, ties to even, in another way than the kernels': the neighbours below and above in magnitude
/// are compared in float64.
fn rounded(x: f32) -> f32 {
    let below = f32::from_bits(x.to_bits() & 0xffff_0000);
    let above = f32::from_bits((x.to_bits() & 0xffff_0000) + 0x1_0000);
    let (to_below, to_above) =
        ((f64::from(x) - f64::from(below)).abs(), (f64::from(above) - f64::from(x)).abs());
    let is_even = (below.to_bits() >> 16) & 1 == 0;
    if to_below < to_above || (to_below == to_above && is_even) { below } else { above }
}

fn matrix(weight: &[f32], n_out: usize, n_in: usize) -> Bf16Matrix {
    let mut matrix = Bf16Matrix::new(n_out, n_in);
    matrix.round(weight);
    matrix
}

/// Runs `test` at each level the machine has, in each way to multiply that the level has.
fn in_every_way(mut test: impl FnMut(SimdLevel, Bf16Products)) {
    at_every_level(|level| {
        for products in Bf16Products::ALL {
            with_bf16_products(products, || test(level, products));
        }
    });
}

/// `a: [m, k]`, `b: [k, n]`, as functions of (row, column), in float64.
fn oracle(
    (m, n, k): (usize, usize, usize),
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for p in 0..k {
            let x = f64::from(rounded(a(i, p)));
            for j in 0..n {
                c[i * n + j] += x * f64::from(rounded(b(p, j)));
            }
        }
    }
    c
}

fn turn(operand: Bf16Operand<'_>, is_turned: bool) -> Bf16Operand<'_> {
    if is_turned { operand.transposed() } else { operand }
}

/// All layouts, each factor as floats and as a rounded matrix, overwriting what was NaN and adding to what was there.
fn check(m: usize, n: usize, k: usize) {
    let (a, b) = (numbers(1, m * k), numbers(2, k * n));
    let before = numbers(3, m * n);
    for (a_turned, b_turned) in [(false, false), (false, true), (true, false), (true, true)] {
        let a_at = |i: usize, p: usize| if a_turned { a[p * m + i] } else { a[i * k + p] };
        let b_at = |p: usize, j: usize| if b_turned { b[j * k + p] } else { b[p * n + j] };
        let want = oracle((m, n, k), a_at, b_at);
        let added: Vec<f64> = want.iter().zip(&before).map(|(w, &b)| w + f64::from(b)).collect();
        let stored =
            |turned: bool, rows: usize, cols: usize| if turned { (cols, rows) } else { (rows, cols) };
        let (a_rows, a_cols) = stored(a_turned, m, k);
        let (b_rows, b_cols) = stored(b_turned, k, n);
        let (a_matrix, b_matrix) = (matrix(&a, a_rows, a_cols), matrix(&b, b_rows, b_cols));
        let a_all = [Bf16Operand::from(MatrixRef::new(&a, a_rows, a_cols)), Bf16Operand::from(&a_matrix)]
            .map(|operand| turn(operand, a_turned));
        let b_all = [Bf16Operand::from(MatrixRef::new(&b, b_rows, b_cols)), Bf16Operand::from(&b_matrix)]
            .map(|operand| turn(operand, b_turned));
        in_every_way(|level, products| {
            let mut first: Option<[Vec<f32>; 2]> = None;
            for (a_idx, a) in a_all.into_iter().enumerate() {
                for (b_idx, b) in b_all.into_iter().enumerate() {
                    let what = format!(
                        "{m} x {n} x {k}, a {a_turned} {a_idx}, b {b_turned} {b_idx}, {level}, {products}"
                    );
                    let tolerance = 1e-7 * (k as f64).sqrt().max(4.0);
                    let mut written = vec![f32::NAN; m * n];
                    bf16_matmul(a, b, &mut written, Write::Overwrite);
                    assert_close(&what, &written, &want, tolerance);
                    let mut sum = before.clone();
                    bf16_matmul(a, b, &mut sum, Write::Add);
                    assert_close(&format!("{what}, added"), &sum, &added, tolerance);
                    // Rounded before or on the way is the same.
                    let first = first.get_or_insert_with(|| [written.clone(), sum.clone()]);
                    assert_same_bits(&what, &written, &first[0]);
                    assert_same_bits(&what, &sum, &first[1]);
                }
            }
        });
    }
}

#[test]
fn small_sizes_around_the_tiles() {
    for &(m, n, k) in &[(1, 1, 1), (1, 5, 3), (2, 17, 9), (7, 47, 13), (8, 48, 16), (9, 49, 17), (15, 97, 33)]
    {
        check(m, n, k);
    }
}

#[test]
fn sizes_around_the_tiles() {
    for m in [1, 2, 5, 6, 7, 13, 16, 31, 33, 64, 65] {
        for n in [1, 15, 16, 17, 33, 63, 64, 65, 129] {
            check(m, n, 21);
        }
    }
}

#[test]
fn long_sums_and_several_blocks() {
    check(3, 5, 4000);
    check(50, 40, 2562);
    check(130, 200, 1301);
    check(33, 1700, 520);
    check(1100, 100, 64);
}

#[test]
fn empty_sizes() {
    in_every_way(|_, _| {
        let (a, b) = (MatrixRef::new(&[], 2, 0), MatrixRef::new(&[], 0, 3));
        let mut c = vec![f32::NAN; 6];
        bf16_matmul(a, b, &mut c, Write::Overwrite);
        assert_eq!(c, [0.0; 6], "an empty sum is zero");
        let mut c = vec![1.0; 6];
        bf16_matmul(a, b, &mut c, Write::Add);
        assert_eq!(c, [1.0; 6]);
        bf16_matmul(MatrixRef::new(&[], 0, 3), &matrix(&[0.0; 6], 3, 2), &mut [], Write::Overwrite);
    });
}

/// The two ways and all levels have the same terms; only the places where sums are rounded differ.
#[test]
fn levels_and_ways_differ_by_rounding_alone() {
    let (m, n, k) = (70, 130, 900);
    let (a, b) = (numbers(1, m * k), numbers(2, n * k));
    let mut all: Vec<(String, Vec<f32>)> = Vec::new();
    in_every_way(|level, products| {
        let mut c = vec![0.0; m * n];
        let b = Bf16Operand::from(MatrixRef::new(&b, n, k)).transposed();
        bf16_matmul(MatrixRef::new(&a, m, k), b, &mut c, Write::Overwrite);
        all.push((format!("{level}, {products}"), c));
    });
    for (what, c) in &all[1..] {
        assert_close(what, c, &to_f64(&all[0].1), 2e-6);
    }
}

#[test]
fn nan_and_infinity_reach_their_rows_and_columns_only() {
    let (m, n, k) = (70, 101, 51);
    in_every_way(|level, products| {
        for turned in [false, true] {
            let mut a = numbers(1, m * k);
            let mut b = numbers(2, k * n);
            a[37 * k + 11] = f32::NAN;
            b[if turned { 64 * k + 3 } else { 3 * n + 64 }] = f32::INFINITY;
            let b_ref = if turned { MatrixRef::new(&b, n, k).transposed() } else { MatrixRef::new(&b, k, n) };
            let mut c = vec![0.0; m * n];
            bf16_matmul(MatrixRef::new(&a, m, k), b_ref, &mut c, Write::Overwrite);
            for i in 0..m {
                for j in 0..n {
                    let x = c[i * n + j];
                    assert_eq!(x.is_nan(), i == 37, "{level}, {products}: ({i}, {j}) = {x}");
                    assert_eq!(x.is_infinite(), i != 37 && j == 64, "{level}, {products}: ({i}, {j}) = {x}");
                }
            }
        }
    });
}

#[test]
fn threads_do_not_matter() {
    for (m, n, k) in [(1, 300, 201), (5, 1000, 64), (100, 576, 576), (300, 200, 1500)] {
        let (a, b) = (numbers(1, m * k), numbers(2, n * k));
        for products in Bf16Products::ALL {
            assert_threads_do_not_matter(|| {
                let work = || {
                    let weight = matrix(&b, n, k);
                    let (mut nt, mut nn, mut tn) = (vec![0.0; m * n], vec![0.0; m * n], vec![0.5; m * n]);
                    let weight_by_k = Bf16Operand::from(&weight).transposed();
                    bf16_matmul(MatrixRef::new(&a, m, k), weight_by_k, &mut nt, Write::Overwrite);
                    let (a_ref, b_ref) = (MatrixRef::new(&a, m, k), MatrixRef::new(&b, k, n));
                    bf16_matmul(a_ref, b_ref, &mut nn, Write::Overwrite);
                    bf16_matmul(MatrixRef::new(&a, k, m).transposed(), b_ref, &mut tn, Write::Add);
                    vec![nt, nn, tn, weight.to_f32()]
                };
                with_bf16_products(products, work).unwrap_or_default()
            });
        }
    }
}

/// A row of the product is made of its own row of `a` alone, to the bit, whatever is in the other rows and however
/// many there are: few rows take another way through the weights.
#[test]
fn rows_do_not_see_each_other() {
    let (m, n, k) = (150, 70, 1301);
    let (a, b) = (numbers(1, m * k), numbers(2, n * k));
    let weight = matrix(&b, n, k);
    in_every_way(|level, products| {
        let product = |rows: usize| {
            let mut c = vec![0.0; rows * n];
            let a = MatrixRef::new(&a[..rows * k], rows, k);
            bf16_matmul(a, Bf16Operand::from(&weight).transposed(), &mut c, Write::Overwrite);
            c
        };
        let all = product(m);
        for rows in [1, 4, 63, 64, 65] {
            assert_same_bits(&format!("{rows} rows, {level}, {products}"), &product(rows), &all[..rows * n]);
        }
    });
}

/// A finish is what separate passes would make, in every bit, on each way through the product.
#[test]
fn small_finishes_are_separate_passes() {
    for (m, k, n) in [(1, 9, 5), (40, 7, 70), (70, 30, 48), (67, 2600, 29), (2, 0, 4)] {
        let (a, b, bias, start) = (numbers(1, m * k), numbers(2, n * k), numbers(3, n), numbers(4, m * n));
        let weight = matrix(&b, n, k);
        let (a, b) = (MatrixRef::new(&a, m, k), Bf16Operand::from(&weight).transposed());
        in_every_way(|level, products| {
            for write in [Write::Overwrite, Write::Add] {
                let what = format!("{m} {k} {n} {write:?} {level} {products}");
                let mut want = start.clone();
                bf16_matmul(a, b, &mut want, write);
                add_bias(&mut want, &bias);
                let mut found = start.clone();
                bf16_matmul_with_epilogue(a, b, &mut found, write, Epilogue::Bias(&bias));
                assert_same_bits(&format!("bias {what}"), &found, &want);
                gelu_forward_in_place(&mut want);
                let mut found = start.clone();
                bf16_matmul_with_epilogue(a, b, &mut found, write, Epilogue::BiasGelu(&bias));
                assert_same_bits(&format!("gelu {what}"), &found, &want);
            }
        });
    }
}

#[test]
fn small_matrices_hold_the_nearest_numbers() {
    for (n_out, n_in) in [(1, 1), (3, 7), (4, 32), (67, 577)] {
        let mut weight = numbers(4, n_out * n_in);
        weight.iter_mut().enumerate().for_each(|(i, w)| *w *= [1.0, 1e-6, 3e4, 0.0, 1e-30][i % 5]);
        let want: Vec<f32> = weight.iter().map(|&w| rounded(w)).collect();
        at_every_level(|level| {
            assert_same_bits(&format!("{level}"), &matrix(&weight, n_out, n_in).to_f32(), &want);
        });
    }
}

fn row_product(x: &[f32], weight: &Bf16Matrix, before: &[f32], write: Write) -> Vec<f32> {
    let mut y = before.to_vec();
    multiply_rows(x, weight.n_in(), &mut [RowProduct { weight: RowWeight::Bf16(weight), y: &mut y, write }]);
    y
}

/// Few rows against 16-bit weights: sums of the rounded numbers of both.
#[test]
fn small_row_products_are_those_of_the_rounded_numbers() {
    for (n_out, n_in) in [(1, 1), (3, 7), (4, 32), (9, 33), (30, 100), (67, 577)] {
        let weight = matrix(&numbers(1, n_out * n_in), n_out, n_in);
        let floats = weight.to_f32();
        for n_rows in [1, 2, 3, 6, 7, 8, 13, 40] {
            let (x, before) = (numbers(2, n_rows * n_in), numbers(3, n_rows * n_out));
            let (x_at, weight_at) =
                (|i: usize, p: usize| x[i * n_in + p], |p: usize, j: usize| floats[j * n_in + p]);
            let want = oracle((n_rows, n_out, n_in), x_at, weight_at);
            let added: Vec<f64> = want.iter().zip(&before).map(|(w, &b)| w + f64::from(b)).collect();
            in_every_way(|level, products| {
                let what = format!("{n_rows} rows of [{n_out}, {n_in}], {level}, {products}");
                let written = row_product(&x, &weight, &before, Write::Overwrite);
                assert_close(&what, &written, &want, 2e-6);
                let sum = row_product(&x, &weight, &before, Write::Add);
                assert_close(&format!("{what}, added"), &sum, &added, 2e-6);
            });
        }
    }
}

/// The bits of a row do not depend on how many rows there are.
#[test]
fn row_products_of_a_row_do_not_depend_on_the_others() {
    let (n_out, n_in, n_rows) = (70, 577, 40);
    let (weight, x) = (matrix(&numbers(1, n_out * n_in), n_out, n_in), numbers(2, n_rows * n_in));
    in_every_way(|level, products| {
        let of = |x: &[f32]| row_product(x, &weight, &vec![0.0; x.len() / n_in * n_out], Write::Overwrite);
        let alone: Vec<f32> = x.chunks(n_in).flat_map(of).collect();
        for n in [2, 5, 6, 7, 8, 9, 40] {
            let together = of(&x[..n * n_in]);
            assert_same_bits(&format!("{n} rows, {level}, {products}"), &together, &alone[..n * n_out]);
        }
    });
}

#[test]
fn row_products_do_not_depend_on_threads() {
    let (n_out, n_in, n_rows) = (700, 300, 9);
    let (weight, x) = (numbers(1, n_out * n_in), numbers(2, n_rows * n_in));
    assert_threads_do_not_matter(|| {
        let matrix = matrix(&weight, n_out, n_in);
        let mut y = vec![0.0; n_rows * n_out];
        let (weight, write) = (RowWeight::Bf16(&matrix), Write::Overwrite);
        multiply_rows(&x, n_in, &mut [RowProduct { weight, y: &mut y, write }]);
        vec![y]
    });
}

/// The three products of weights, against those in f32 of the rounded numbers.
#[test]
fn small_products_of_weights_are_those_of_the_rounded_numbers() {
    let (n_rows, n_out, n_in) = (70, 45, 33);
    let round_all = |x: &[f32]| x.iter().map(|&x| rounded(x)).collect::<Vec<f32>>();
    let [x, d_y, weight] = [(1, n_rows * n_in), (2, n_rows * n_out), (3, n_out * n_in)]
        .map(|(seed, n)| round_all(&numbers(seed, n)));
    let bf16 = matrix(&weight, n_out, n_in);
    in_every_way(|level, products| {
        let of = |weight: Weight<'_>| {
            let (x, d_y) = (MatrixRef::new(&x, n_rows, n_in), MatrixRef::new(&d_y, n_rows, n_out));
            let mut y = vec![0.0; n_rows * n_out];
            weight.forward(x, &mut y, Write::Overwrite, Epilogue::Nothing);
            let mut turned = vec![0.0; n_rows * n_out];
            weight.forward_transposed(x, &mut turned);
            let mut d_x = vec![1.0; n_rows * n_in];
            weight.backward_input(d_y, &mut d_x, Write::Add);
            let mut d_weight = vec![1.0; n_out * n_in];
            weight.add_gradient(d_y, x, &mut d_weight);
            [y, turned, d_x, d_weight]
        };
        for (i, (found, want)) in of(Weight::Bf16(&bf16)).iter().zip(of(Weight::from(&weight))).enumerate() {
            assert_close(&format!("product {i}, {level}, {products}"), found, &to_f64(&want), 1e-6);
        }
    });
}

/// A head in bf16: the same log-probabilities with and without a backward pass, near those in f32 of the rounded
/// numbers.
#[test]
fn log_probs_of_a_head_in_bf16_are_those_of_the_rounded_numbers() {
    let (n, vocab, h) = (37, 1100, 24);
    let round_all = |x: Vec<f32>| x.into_iter().map(rounded).collect::<Vec<f32>>();
    let (hidden, head) = (round_all(numbers(1, n * h)), round_all(numbers(2, vocab * h)));
    let targets: Vec<u32> = (0..n).map(|i| (i * 31 % vocab) as u32).collect();
    let d = numbers(3, n);
    let bf16 = matrix(&head, vocab, h);
    in_every_way(|level, products| {
        let backward = |weight: Weight<'_>| {
            let (mut log_probs, mut entropies, mut is_argmax) = (vec![0.0; n], vec![0.0; n], vec![false; n]);
            let (mut d_hidden, mut d_head) = (vec![0.0; n * h], vec![0.0; vocab * h]);
            let out = LogProbRows {
                log_probs: &mut log_probs,
                entropies: &mut entropies,
                is_argmax: &mut is_argmax,
            };
            linear_log_probs_backward(&hidden, weight, &targets, &d, out, &mut d_hidden, Some(&mut d_head));
            [log_probs, entropies, d_hidden, d_head]
        };
        let (found, want) = (backward(Weight::Bf16(&bf16)), backward(Weight::F32(&head)));
        let what = |what: &str| format!("{what}, {level}, {products}");
        assert_close(&what("log-probability"), &found[0], &to_f64(&want[0]), 1e-6);
        assert_close(&what("entropy"), &found[1], &to_f64(&want[1]), 1e-6);
        // The gradient at the logits is rounded, which has 8 significant bits.
        for (i, name) in [(2, "d_hidden"), (3, "d_head")] {
            let largest = want[i].iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (found, want) in found[i].iter().zip(&want[i]) {
                assert!((found - want).abs() <= 0.01 * largest, "{}: {found}, {want}", what(name));
            }
        }
        let (mut log_probs, mut entropies, mut is_argmax) = (vec![0.0; n], vec![0.0; n], vec![false; n]);
        let out =
            LogProbRows { log_probs: &mut log_probs, entropies: &mut entropies, is_argmax: &mut is_argmax };
        linear_log_probs_forward(&hidden, &bf16, &targets, out);
        assert_same_bits(&what("without a backward pass"), &log_probs, &found[0]);
    });
}

/// A head in bf16 with normalised rows and a cap, of an odd width, so that its rows are padded. What norms take off the
/// gradient of the weight is about half of it here, far more than is allowed.
#[test]
fn a_normalized_and_capped_head_in_bf16_is_that_of_the_rounded_numbers() {
    let (n, vocab, h) = (19, 70, 5);
    let round_all = |x: Vec<f32>| x.into_iter().map(rounded).collect::<Vec<f32>>();
    let (hidden, head) = (round_all(numbers(1, n * h)), round_all(numbers(2, vocab * h)));
    let targets: Vec<u32> = (0..n).map(|i| (i * 31 % vocab) as u32).collect();
    let (d, norms, bf16) = (numbers(3, n), inverse_row_norms(&head, h), matrix(&head, vocab, h));
    in_every_way(|level, products| {
        let backward = |weight: Weight<'_>| {
            let head = LinearHead { weight, inverse_norms: Some(&norms), soft_cap: Some(2.0) };
            let (mut log_probs, mut entropies, mut is_argmax) = (vec![0.0; n], vec![0.0; n], vec![false; n]);
            let (mut d_hidden, mut d_head) = (vec![0.0; n * h], vec![0.0; vocab * h]);
            let out = LogProbRows {
                log_probs: &mut log_probs,
                entropies: &mut entropies,
                is_argmax: &mut is_argmax,
            };
            linear_log_probs_backward(&hidden, head, &targets, &d, out, &mut d_hidden, Some(&mut d_head));
            [log_probs, entropies, d_hidden, d_head]
        };
        let (found, want) = (backward(Weight::Bf16(&bf16)), backward(Weight::F32(&head)));
        for (i, name, tolerance) in
            [(0, "log-probability", 2e-6), (1, "entropy", 2e-6), (2, "d_hidden", 0.02), (3, "d_head", 0.02)]
        {
            let largest = want[i].iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (found, want) in found[i].iter().zip(&want[i]) {
                let off = (found - want).abs();
                assert!(off <= tolerance * largest, "{name}, {level}, {products}: {found}, {want}");
            }
        }
    });
}
