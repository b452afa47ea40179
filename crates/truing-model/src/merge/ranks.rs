//! Magnitudes by their rank, found by counting: three passes over the values, each of which fixes the next bits. Nothing
//! is sorted and nothing is held, and the result is exact.

/// Bits that each pass fixes, of the 31 that a magnitude has. The order of the bits is the order of the magnitudes.
const BITS: [u32; 3] = [11, 10, 10];
/// Passes over the values.
pub(super) const N_PASSES: usize = BITS.len();

/// The search for some ranks among one model's magnitudes.
#[derive(Debug, Clone, Default)]
pub(super) struct RankSearch {
    targets: Vec<Target>,
}

#[derive(Debug, Clone, Copy)]
struct Target {
    /// How many values are smaller, among those that begin with `prefix`.
    rank: u64,
    /// The bits that are known.
    prefix: u32,
}

impl RankSearch {
    /// Ranks counted from 0 at the smallest magnitude.
    pub(super) fn new(ranks: &[u64]) -> Self {
        Self { targets: ranks.iter().map(|&rank| Target { rank, prefix: 0 }).collect() }
    }

    /// How many counts a pass makes.
    pub(super) fn n_counts(&self, pass: usize) -> usize {
        self.targets.len() << BITS[pass]
    }

    /// Counts values `[n]` by their next bits, for each target those that begin as it does.
    pub(super) fn count(&self, pass: usize, values: impl Iterator<Item = f32> + Clone, counts: &mut [u64]) {
        let below: u32 = BITS[pass + 1..].iter().sum();
        let n_bins = 1_usize << BITS[pass];
        for (target, bins) in self.targets.iter().zip(counts.chunks_exact_mut(n_bins)) {
            for value in values.clone() {
                let bits = value.abs().to_bits() >> below;
                if bits >> BITS[pass] == target.prefix {
                    bins[bits as usize & (n_bins - 1)] += 1;
                }
            }
        }
    }

    /// Takes the counts of all values.
    pub(super) fn finish(&mut self, pass: usize, counts: &[u64]) {
        let n_bins = 1_usize << BITS[pass];
        for (target, bins) in self.targets.iter_mut().zip(counts.chunks_exact(n_bins)) {
            let mut bin = 0;
            while bin + 1 < n_bins && target.rank >= bins[bin] {
                target.rank -= bins[bin];
                bin += 1;
            }
            target.prefix = target.prefix << BITS[pass] | bin as u32;
        }
    }

    /// The magnitudes of the ranks, after all passes.
    pub(super) fn magnitudes(&self) -> impl Iterator<Item = f32> {
        self.targets.iter().map(|target| f32::from_bits(target.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_sorted_magnitudes() {
        let mut state = 7_u64;
        let mut values: Vec<f32> = (0..5000)
            .map(|i| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Ties, zeros, subnormal numbers and large ones.
                match i % 5 {
                    0 => 0.0,
                    1 => ((state >> 60) as f32) * -0.25,
                    2 => f32::from_bits((state >> 50) as u32),
                    _ => (state >> 40) as f32 / 65536.0 - 128.0,
                }
            })
            .collect();
        let ranks = [0, 1, 999, 1000, 1001, 2500, 4998, 4999];
        let mut search = RankSearch::new(&ranks);
        for pass in 0..N_PASSES {
            let mut counts = vec![0; search.n_counts(pass)];
            for part in values.chunks(700) {
                search.count(pass, part.iter().copied(), &mut counts);
            }
            search.finish(pass, &counts);
        }
        let found: Vec<f32> = search.magnitudes().collect();
        values.iter_mut().for_each(|value| *value = value.abs());
        values.sort_by(f32::total_cmp);
        assert_eq!(found, ranks.map(|rank| values[rank as usize]));
    }
}
