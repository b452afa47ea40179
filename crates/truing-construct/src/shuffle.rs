//! Random orders that follow from the seed.

use rand_chacha::rand_core::Rng;
use truing_types::Seed;

/// The values in a random order (Fisher and Yates), which the seed, the purpose and the key decide.
pub(crate) fn shuffled<T>(mut values: Vec<T>, seed: Seed, purpose: &str, key: &[u64]) -> Vec<T> {
    let mut generator = seed.generator(purpose, key);
    for last in (1..values.len()).rev() {
        values.swap(last, (generator.next_u64() % (last as u64 + 1)) as usize);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_holds_every_value_and_follows_from_seed_purpose_and_key() {
        let order =
            |seed, purpose: &str, key| shuffled((0..20).collect::<Vec<_>>(), Seed(seed), purpose, &[key]);
        let one = order(1, "a", 0);
        assert_eq!(one, order(1, "a", 0));
        for other in [order(2, "a", 0), order(1, "b", 0), order(1, "a", 1)] {
            assert_ne!(one, other);
        }
        let mut sorted = one;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
        assert!(shuffled(Vec::<u8>::new(), Seed(1), "a", &[]).is_empty());
    }
}
