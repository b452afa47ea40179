//! Randomness without state: a generator is keyed by (seed, purpose, indices), so a resumed or sharded run
//! draws the same numbers without a saved generator.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The run's one seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Seed(pub u64);

impl Seed {
    /// The generator for one purpose, for example `seed.generator("shuffle", &[epoch])`.
    #[must_use]
    pub fn generator(self, purpose: &str, indices: &[u64]) -> ChaCha8Rng {
        let mut hasher = blake3::Hasher::new_derive_key("truing seed 1");
        hasher.update(&self.0.to_le_bytes());
        hasher.update(&(purpose.len() as u64).to_le_bytes());
        hasher.update(purpose.as_bytes());
        for index in indices {
            hasher.update(&index.to_le_bytes());
        }
        ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
    }

    /// The values in a random order (Fisher and Yates).
    #[must_use]
    pub fn shuffled<T>(self, mut values: Vec<T>, purpose: &str, indices: &[u64]) -> Vec<T> {
        let mut generator = self.generator(purpose, indices);
        for last in (1..values.len()).rev() {
            values.swap(last, (generator.next_u64() % (last as u64 + 1)) as usize);
        }
        values
    }

    /// Moves `n` values, sampled without replacement, to the front; the order of the others changes too. With `n` or
    /// fewer values, all are shuffled.
    pub fn sample_to_front<T>(self, values: &mut [T], n: usize, purpose: &str, indices: &[u64]) {
        let mut generator = self.generator(purpose, indices);
        for idx in 0..n.min(values.len()) {
            let n_left = (values.len() - idx) as u64;
            values.swap(idx, idx + (generator.next_u64() % n_left) as usize);
        }
    }

    /// `n` normal numbers of mean 0 (Box and Muller 1958).
    #[must_use]
    pub fn normals(self, purpose: &str, n: usize, deviation: f32) -> Vec<f32> {
        let mut generator = self.generator(purpose, &[]);
        let mut unit = || ((generator.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        (0..n)
            .map(|_| {
                let (radius, angle) = ((-2.0 * unit().ln()).sqrt(), std::f64::consts::TAU * unit());
                (radius * angle.cos()) as f32 * deviation
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_and_indices_give_different_streams_and_repeats_give_the_same() {
        let draw = |seed: u64, purpose, indices: &[u64]| Seed(seed).generator(purpose, indices).next_u64();
        assert_eq!(draw(1, "shuffle", &[0]), draw(1, "shuffle", &[0]));
        assert_ne!(draw(1, "shuffle", &[0]), draw(1, "shuffle", &[1]));
        assert_ne!(draw(1, "shuffle", &[0]), draw(1, "sample", &[0]));
        assert_ne!(draw(1, "shuffle", &[0]), draw(2, "shuffle", &[0]));
    }
    #[test]
    fn an_order_holds_every_value_and_follows_from_seed_purpose_and_indices() {
        let order =
            |seed, purpose: &str, idx| Seed(seed).shuffled((0..20).collect::<Vec<_>>(), purpose, &[idx]);
        let one = order(1, "a", 0);
        assert_eq!(one, order(1, "a", 0));
        for other in [order(2, "a", 0), order(1, "b", 0), order(1, "a", 1)] {
            assert_ne!(one, other);
        }
        let mut sorted = one;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
        assert!(Seed(1).shuffled(Vec::<u8>::new(), "a", &[]).is_empty());
    }

    #[test]
    fn a_sample_is_at_the_front_and_no_value_is_lost() {
        let sampled = |n| {
            let mut values: Vec<u32> = (0..20).collect();
            Seed(1).sample_to_front(&mut values, n, "a", &[]);
            values
        };
        assert_eq!(sampled(0), (0..20).collect::<Vec<_>>());
        assert_eq!(sampled(5)[..5], sampled(9)[..5], "a larger sample continues a smaller one");
        for n in [5, 20, 30] {
            let mut sorted = sampled(n);
            assert_ne!(sorted, (0..20).collect::<Vec<_>>());
            sorted.sort_unstable();
            assert_eq!(sorted, (0..20).collect::<Vec<_>>());
        }
    }
}
