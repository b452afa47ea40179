//! Inner products of the models' tensors with each other.

use std::ops::Range;

use super::rule::Block;

/// The inner products of `n` tensors: the upper triangle, row by row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gram<'a> {
    pub(super) n: usize,
    pub(super) products: &'a [f64],
}

impl Gram<'_> {
    /// The product of two of them.
    pub(super) fn get(&self, i: usize, j: usize) -> f64 {
        let (i, j) = (i.min(j), i.max(j));
        self.products[i * self.n - i * (i + 1) / 2 + j]
    }
}

/// The inner products of the models' values, less the base's where there is one, in some places of a block. In f64, in
/// order.
pub(super) fn inner_products(block: &Block<'_>, has_base: bool, places: Range<usize>) -> Vec<f64> {
    let n = block.models.len();
    let mut products = Vec::with_capacity(n * (n + 1) / 2);
    let value = |model: usize, place: usize| match has_base {
        true => block.delta(model, place),
        false => f64::from(block.models[model][place]),
    };
    for i in 0..n {
        for j in i..n {
            // Four sums side by side: one would wait for itself.
            let mut sums = [0.0; 4];
            let mut place = places.start;
            while place + 4 <= places.end {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    *sum += value(i, place + lane) * value(j, place + lane);
                }
                place += 4;
            }
            let rest: f64 = (place..places.end).map(|place| value(i, place) * value(j, place)).sum();
            products.push(sums.iter().sum::<f64>() + rest);
        }
    }
    products
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_triangle_is_found_from_both_sides() {
        let gram = Gram { n: 3, products: &[0.0, 1.0, 2.0, 11.0, 12.0, 22.0] };
        for (i, j, expected) in
            [(0, 0, 0.0), (0, 2, 2.0), (2, 0, 2.0), (1, 1, 11.0), (2, 1, 12.0), (2, 2, 22.0)]
        {
            assert_eq!(gram.get(i, j), expected, "{i} {j}");
        }
    }
}
