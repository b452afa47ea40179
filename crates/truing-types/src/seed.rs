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
}
