use crate::support::*;
use truing_kernels::{
    Epilogue, MatrixRef, Write, add_bias, bias_backward, gelu_forward_in_place, matmul, matmul_with_epilogue,
};

/// `a: [m, k]`, `b: [k, n]` as functions of (row, column).
fn oracle(
    m: usize,
    n: usize,
    k: usize,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for p in 0..k {
            let x = f64::from(a(i, p));
            for j in 0..n {
                c[i * n + j] += x * f64::from(b(p, j));
            }
        }
    }
    c
}

/// All four layouts, overwriting what was NaN and adding to what was there.
fn check(m: usize, n: usize, k: usize) {
    let (a, b) = (numbers(1, m * k), numbers(2, k * n));
    let before = numbers(3, m * n);
    for (a_turned, b_turned) in [(false, false), (false, true), (true, false), (true, true)] {
        let a_at = |i: usize, p: usize| if a_turned { a[p * m + i] } else { a[i * k + p] };
        let b_at = |p: usize, j: usize| if b_turned { b[j * k + p] } else { b[p * n + j] };
        let want = oracle(m, n, k, a_at, b_at);
        let added: Vec<f64> = want.iter().zip(&before).map(|(w, &b)| w + f64::from(b)).collect();
        let a_ref = if a_turned { MatrixRef::new(&a, k, m).transposed() } else { MatrixRef::new(&a, m, k) };
        let b_ref = if b_turned { MatrixRef::new(&b, n, k).transposed() } else { MatrixRef::new(&b, k, n) };
        at_every_level(|level| {
            let what = format!("{m} x {n} x {k}, a {a_turned}, b {b_turned}, {level}");
            let tolerance = 1e-7 * (k as f64).sqrt().max(4.0);
            let mut c = vec![f32::NAN; m * n];
            matmul(a_ref, b_ref, &mut c, Write::Overwrite);
            assert_close(&what, &c, &want, tolerance);
            let mut c = before.clone();
            matmul(a_ref, b_ref, &mut c, Write::Add);
            assert_close(&format!("{what}, added"), &c, &added, tolerance);
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
    for m in [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 31, 32, 33, 34, 64] {
        for n in [1, 15, 16, 17, 31, 33, 47, 48, 49, 95, 96, 97] {
            check(m, n, 20);
        }
    }
}

#[test]
fn long_sums_and_several_blocks() {
    check(3, 5, 2000);
    check(50, 40, 1537);
    check(130, 200, 700);
    check(33, 1700, 520);
    check(1100, 100, 64);
}

#[test]
fn empty_sizes() {
    at_every_level(|_| {
        let mut c = vec![f32::NAN; 6];
        matmul(MatrixRef::new(&[], 2, 0), MatrixRef::new(&[], 0, 3), &mut c, Write::Overwrite);
        assert_eq!(c, [0.0; 6], "an empty sum is zero");
        let mut c = vec![1.0; 6];
        matmul(MatrixRef::new(&[], 2, 0), MatrixRef::new(&[], 0, 3), &mut c, Write::Add);
        assert_eq!(c, [1.0; 6]);
        matmul(MatrixRef::new(&[], 0, 3), MatrixRef::new(&[0.0; 6], 3, 2), &mut [], Write::Overwrite);
        matmul(MatrixRef::new(&[0.0; 6], 2, 3), MatrixRef::new(&[], 3, 0), &mut [], Write::Add);
    });
}

#[test]
fn nan_and_infinity_reach_their_rows_and_columns_only() {
    let (m, n, k) = (70, 101, 50);
    at_every_level(|level| {
        for turned in [false, true] {
            let mut a = numbers(1, m * k);
            let mut b = numbers(2, k * n);
            a[37 * k + 11] = f32::NAN;
            b[if turned { 64 * k + 3 } else { 3 * n + 64 }] = f32::INFINITY;
            let b_ref = if turned { MatrixRef::new(&b, n, k).transposed() } else { MatrixRef::new(&b, k, n) };
            let mut c = vec![0.0; m * n];
            matmul(MatrixRef::new(&a, m, k), b_ref, &mut c, Write::Overwrite);
            for i in 0..m {
                for j in 0..n {
                    let x = c[i * n + j];
                    assert_eq!(x.is_nan(), i == 37, "{level}: ({i}, {j}) = {x}");
                    assert_eq!(x.is_infinite(), i != 37 && j == 64, "{level}: ({i}, {j}) = {x}");
                }
            }
        }
    });
}

#[test]
fn threads_do_not_matter() {
    for (m, n, k) in [(1, 300, 200), (5, 1000, 64), (100, 576, 576), (300, 200, 1100)] {
        let (a, b) = (numbers(1, m * k), numbers(2, n * k));
        assert_threads_do_not_matter(|| {
            let mut nt = vec![0.0; m * n];
            matmul(
                MatrixRef::new(&a, m, k),
                MatrixRef::new(&b, n, k).transposed(),
                &mut nt,
                Write::Overwrite,
            );
            let mut nn = vec![0.0; m * n];
            matmul(MatrixRef::new(&a, m, k), MatrixRef::new(&b, k, n), &mut nn, Write::Overwrite);
            let mut tn = vec![0.5; m * n];
            matmul(MatrixRef::new(&a, k, m).transposed(), MatrixRef::new(&b, k, n), &mut tn, Write::Add);
            vec![nt, nn, tn]
        });
    }
}

/// A row of the product is made of its own row of `a` alone, to the bit, whatever is in the other rows.
#[test]
fn rows_do_not_see_each_other() {
    for (m, n, k) in [(5, 100, 70), (64, 200, 300)] {
        at_every_level(|level| {
            let mut a = numbers(1, m * k);
            let b = numbers(2, n * k);
            let product = |a: &[f32]| {
                let mut c = vec![0.0; m * n];
                matmul(
                    MatrixRef::new(a, m, k),
                    MatrixRef::new(&b, n, k).transposed(),
                    &mut c,
                    Write::Overwrite,
                );
                c
            };
            let before = product(&a);
            a[..2 * k].iter_mut().for_each(|x| *x *= -3.0);
            let after = product(&a);
            assert_same_bits(&format!("{level}"), &before[2 * n..], &after[2 * n..]);
            assert_ne!(before[..2 * n], after[..2 * n]);
        });
    }
}

#[test]
fn small_bias() {
    at_every_level(|_| {
        for (rows, width) in [(1, 1), (3, 5), (70, 131), (40, 16)] {
            let x = numbers(4, rows * width);
            let bias = numbers(5, width);
            let mut y = x.clone();
            add_bias(&mut y, &bias);
            let want: Vec<f64> =
                x.iter().enumerate().map(|(i, &x)| f64::from(x) + f64::from(bias[i % width])).collect();
            assert_close("bias", &y, &want, 1e-7);
            let mut d_bias = bias.clone();
            bias_backward(&x, &mut d_bias);
            let mut want = to_f64(&bias);
            x.iter().enumerate().for_each(|(i, &x)| want[i % width] += f64::from(x));
            assert_close("d_bias", &d_bias, &want, 1e-6);
        }
    });
}

#[test]
fn bias_threads_do_not_matter() {
    let x = numbers(4, 500 * 577);
    assert_threads_do_not_matter(|| {
        let mut d_bias = numbers(5, 577);
        bias_backward(&x, &mut d_bias);
        vec![d_bias]
    });
}

/// A finish is what separate passes would make, in every bit, on each way through the product.
#[test]
fn small_finishes_are_separate_passes() {
    for (m, k, n) in [(1, 9, 5), (3, 20, 33), (40, 7, 70), (70, 30, 48), (67, 1300, 29), (2, 0, 4)] {
        let (a, b, bias, start) = (numbers(1, m * k), numbers(2, n * k), numbers(3, n), numbers(4, m * n));
        let (a, b) = (MatrixRef::new(&a, m, k), MatrixRef::new(&b, n, k).transposed());
        at_every_level(|level| {
            for write in [Write::Overwrite, Write::Add] {
                let mut want = start.clone();
                matmul(a, b, &mut want, write);
                add_bias(&mut want, &bias);
                let mut found = start.clone();
                matmul_with_epilogue(a, b, &mut found, write, Epilogue::Bias(&bias));
                assert_same_bits(&format!("bias {m} {k} {n} {write:?} {level}"), &found, &want);
                gelu_forward_in_place(&mut want);
                let mut found = start.clone();
                matmul_with_epilogue(a, b, &mut found, write, Epilogue::BiasGelu(&bias));
                assert_same_bits(&format!("gelu {m} {k} {n} {write:?} {level}"), &found, &want);
            }
        });
    }
}
