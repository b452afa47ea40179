//! One 64-bit hash of short lists of tokens, the same on every machine. It is not meant against an adversary: what
//! matters is compared afterwards.

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit of the input moves half of the output's.
pub(crate) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The hash of a list.
pub(crate) fn hash_tokens(tokens: &[u32]) -> u64 {
    let start = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(tokens.len() as u64 + 1);
    tokens.iter().fold(start, |hash, &token| mix(hash ^ (u64::from(token) + 1)))
}
