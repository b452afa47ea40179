use crate::support::*;
use truing_kernels::{Int8Matrix, RowProduct, RowWeight, Write, multiply_rows};

fn quantized(weight: &[f32], n_out: usize, n_in: usize) -> Int8Matrix {
    let mut matrix = Int8Matrix::new(n_out, n_in);
    matrix.compress(weight);
    matrix
}

fn product(x: &[f32], weight: RowWeight<'_>, n_in: usize, y: &[f32], write: Write) -> Vec<f32> {
    let mut y = y.to_vec();
    multiply_rows(x, n_in, &mut [RowProduct { weight, y: &mut y, write }]);
    y
}

/// Widths below, at and between whole blocks and vectors; rows of weights that are no multiple of four.
const SHAPES: [(usize, usize); 6] = [(1, 1), (3, 7), (4, 32), (9, 40), (30, 100), (67, 577)];

#[test]
fn small_products_are_those_of_the_numbers_that_the_blocks_stand_for() {
    for (n_out, n_in) in SHAPES {
        let weight = numbers(1, n_out * n_in);
        for n_rows in [1, 2, 3, 6, 7, 8, 13] {
            let (x, before) = (numbers(2, n_rows * n_in), numbers(3, n_rows * n_out));
            at_every_level(|level| {
                let matrix = quantized(&weight, n_out, n_in);
                let floats = matrix.to_f32();
                let mut want: Vec<f64> = to_f64(&before);
                for (i, want) in want.iter_mut().enumerate() {
                    let (row, column) = (i / n_out, i % n_out);
                    let x = &x[row * n_in..(row + 1) * n_in];
                    let w = &floats[column * n_in..(column + 1) * n_in];
                    *want += x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
                }
                let what = format!("{n_rows} rows of [{n_out}, {n_in}], {level}");
                let found = product(&x, RowWeight::Int8(&matrix), n_in, &before, Write::Add);
                assert_close(&what, &found, &want, 2e-6);
                // And in every bit those of an f32 weight of the same numbers.
                for write in [Write::Add, Write::Overwrite] {
                    let int8 = product(&x, RowWeight::Int8(&matrix), n_in, &before, write);
                    let f32 = product(&x, RowWeight::F32(&floats), n_in, &before, write);
                    assert_same_bits(&what, &int8, &f32);
                }
            });
        }
    }
}

#[test]
fn small_numbers_are_within_half_a_step_at_every_level() {
    for (n_out, n_in) in SHAPES {
        let mut weight = numbers(4, n_out * n_in);
        // Blocks of very different sizes, and one of zeros.
        for (i, w) in weight.iter_mut().enumerate() {
            *w *= [1.0, 1e-6, 300.0, 0.0, 1e-30][i / 32 % 5];
        }
        let mut first = None;
        at_every_level(|level| {
            let floats = quantized(&weight, n_out, n_in).to_f32();
            for (rows, floats) in weight.chunks(n_in).zip(floats.chunks(n_in)) {
                for (block, floats) in rows.chunks(32).zip(floats.chunks(32)) {
                    let largest = block.iter().fold(0.0f32, |most, w| most.max(w.abs()));
                    for (w, float) in block.iter().zip(floats) {
                        let error = (w - float).abs();
                        assert!(error <= largest / 127.0 * 0.50001, "{level}: {w} became {float}");
                    }
                }
            }
            let first = first.get_or_insert_with(|| floats.clone());
            assert_same_bits(&format!("{level}"), first, &floats);
        });
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let (n_out, n_in, n_rows) = (70, 576, 32);
    let (weight, x) = (numbers(1, n_out * n_in), numbers(2, n_rows * n_in));
    let matrix = quantized(&weight, n_out, n_in);
    at_every_level(|level| {
        let of = |x: &[f32]| {
            let zeros = vec![0.0; x.len() / n_in * n_out];
            product(x, RowWeight::Int8(&matrix), n_in, &zeros, Write::Overwrite)
        };
        let alone: Vec<f32> = x.chunks(n_in).flat_map(of).collect();
        for n in [2, 5, 6, 7, 8, 32] {
            let together = of(&x[..n * n_in]);
            assert_same_bits(&format!("{n} rows, {level}"), &together, &alone[..n * n_out]);
        }
    });
}

#[test]
fn threads_do_not_matter() {
    // Enough work for several items each, and two weights of different kinds at once.
    let (n_out, n_in, n_rows) = (700, 300, 9);
    let (weight, x) = (numbers(1, n_out * n_in), numbers(2, n_rows * n_in));
    assert_threads_do_not_matter(|| {
        let matrix = quantized(&weight, n_out, n_in);
        let [mut a, mut b] = [vec![0.0; n_rows * n_out], vec![1.0; n_rows * n_out]];
        let of = |weight, y, write| RowProduct { weight, y, write };
        let int8 = of(RowWeight::Int8(&matrix), &mut a[..], Write::Overwrite);
        let f32 = of(RowWeight::F32(&weight), &mut b[..], Write::Add);
        multiply_rows(&x, n_in, &mut [int8, f32]);
        vec![matrix.to_f32(), a, b]
    });
}

#[test]
fn small_nan_and_infinity_spoil_their_block_and_nothing_else() {
    let (n_out, n_in) = (5, 70);
    at_every_level(|level| {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut weight = numbers(1, n_out * n_in);
            weight[2 * n_in + 40] = bad;
            let matrix = quantized(&weight, n_out, n_in);
            for (i, w) in matrix.to_f32().iter().enumerate() {
                let is_in_block = i / n_in == 2 && (32..64).contains(&(i % n_in));
                assert_eq!(w.is_nan(), is_in_block, "{level}: {i} is {w}");
            }
            let y = product(&numbers(2, n_in), RowWeight::Int8(&matrix), n_in, &[0.0; 5], Write::Overwrite);
            assert!(y.iter().enumerate().all(|(column, y)| y.is_nan() == (column == 2)), "{level}: {y:?}");
        }
    });
}
