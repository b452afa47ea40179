//! Sampling one token from a distribution: penalties and biases, the tokens that a grammar allows, temperature, top-k, top-p (Holtzman et al. 2020, arXiv
//! 1904.09751), min-p.
//!
//! In that order, as transformers does: logits are divided by the temperature, the k highest are kept, of these the
//! smallest set whose probability reaches p, and of these the tokens not too far below the likeliest. Among equals
//! the lower token id comes first.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use truing_types::{AllowedTokens, SamplingOptions, Seed, TokenId};

/// A sampling option outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sampling option `{option}` is {found}, expected {expected}")]
pub struct SamplingError {
    /// The option.
    pub option: &'static str,
    /// Its value.
    pub found: String,
    /// What it may be.
    pub expected: &'static str,
}

/// A sampled token, and its log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampledToken {
    /// The token.
    pub token: TokenId,
    /// Natural logarithm of its probability under the model itself: temperature 1, nothing cut off. The same
    /// number that the trainer computes.
    pub log_prob: f32,
    /// The same under the distribution that it was sampled from: penalty, temperature and cuts. 0 where the most
    /// likely token is taken.
    pub sampling_log_prob: f32,
}

/// What shapes the distribution that a token is sampled from.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f64,
    /// Keep only the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f64,
    /// Keep only tokens whose probability is at least this share of the most likely one's; 0 keeps all.
    pub min_p: f64,
    /// Logits of tokens that have occurred are divided by this where positive, multiplied where negative; 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of each token that this sampler has sampled.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit once for each time that this sampler has sampled it.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens `(token, bias)`, ascending.
    pub logit_bias: Vec<(TokenId, f32)>,
}

impl SamplerOptions {
    /// Whether the logits are changed before the temperature.
    #[must_use]
    pub fn changes_logits(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || !self.logit_bias.is_empty()
    }
}

/// Samples tokens; the same options and indices give the same tokens. This is the reference for engines that sample on a
/// device: they read [`Sampler::options`] and take one [`Sampler::uniform`] number a token.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    generator: ChaCha8Rng,
    /// `(token, unnormalised probability)` by ascending token; kept so that no memory is asked for.
    candidates: Vec<(TokenId, f64)>,
    /// Logits while the k highest are looked for; kept for the same reason.
    sorting: Vec<f32>,
    /// Logits after penalties, biases and masks.
    adjusted: Vec<f32>,
    /// How often each token has been sampled; kept where a penalty needs it.
    n_sampled: BTreeMap<TokenId, u32>,
}

impl Sampler {
    /// A sampler at the beginning of a reply.
    ///
    /// # Errors
    /// When an option lies outside its range.
    pub fn new(options: &SamplingOptions) -> Result<Self, SamplingError> {
        Self::keyed(options, &[])
    }

    /// The same for one of many replies, each of which has its own random numbers by its indices.
    ///
    /// # Errors
    /// When an option lies outside its range.
    pub fn keyed(options: &SamplingOptions, indices: &[u64]) -> Result<Self, SamplingError> {
        let check = |is_good: bool, option, found: &dyn std::fmt::Display, expected| match is_good {
            true => Ok(()),
            false => Err(SamplingError { option, found: found.to_string(), expected }),
        };
        let SamplingOptions { temperature, top_k, top_p, .. } = *options;
        check(
            temperature.is_finite() && temperature >= 0.0,
            "temperature",
            &temperature,
            "0 or a positive number",
        )?;
        check(top_p > 0.0 && top_p <= 1.0, "top_p", &top_p, "a number above 0 and up to 1")?;
        check(options.max_new_tokens > 0, "max_new_tokens", &options.max_new_tokens, "at least 1")?;
        check(
            !options.stop.iter().any(String::is_empty),
            "stop",
            &"empty",
            "texts of at least one character",
        )?;
        let SamplingOptions { min_p, repetition_penalty, .. } = *options;
        check((0.0..=1.0).contains(&min_p), "min_p", &min_p, "a number from 0 to 1")?;
        check(
            repetition_penalty.is_finite() && repetition_penalty > 0.0,
            "repetition_penalty",
            &repetition_penalty,
            "a number above 0",
        )?;
        let SamplingOptions { presence_penalty, frequency_penalty, .. } = *options;
        let penalties = [("presence_penalty", presence_penalty), ("frequency_penalty", frequency_penalty)];
        for (option, penalty) in penalties {
            check((-2.0..=2.0).contains(&penalty), option, &penalty, "a number from -2 to 2")?;
        }
        for bias in options.logit_bias.values() {
            check((-100.0..=100.0).contains(bias), "logit_bias", bias, "numbers from -100 to 100")?;
        }
        Ok(Self {
            options: SamplerOptions {
                temperature: f64::from(temperature),
                top_k,
                top_p: f64::from(top_p),
                min_p: f64::from(min_p),
                repetition_penalty,
                presence_penalty,
                frequency_penalty,
                logit_bias: options.logit_bias.iter().map(|(&token, &bias)| (token, bias)).collect(),
            },
            adjusted: Vec::new(),
            n_sampled: BTreeMap::new(),
            generator: Seed(options.seed).generator("draw tokens", indices),
            candidates: Vec::new(),
            sorting: Vec::new(),
        })
    }

    /// What shapes the distribution.
    #[must_use]
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// The next random number, uniform in [0, 1): one for each token that is not simply the most likely.
    pub fn uniform(&mut self) -> f64 {
        uniform(&mut self.generator)
    }

    /// Samples one token from logits `[vocab]`; `None` when they hold a NaN or no finite value.
    pub fn sample(&mut self, logits: &[f32]) -> Option<SampledToken> {
        let mut best = 0;
        let mut has_nan = false;
        for (token, &logit) in logits.iter().enumerate() {
            has_nan |= logit.is_nan();
            if logit > logits[best] {
                best = token;
            }
        }
        let highest = f64::from(*logits.get(best)?);
        if has_nan || !highest.is_finite() {
            return None;
        }
        let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum();
        let (token, sampling_log_prob) =
            if self.options.temperature == 0.0 { (best, 0.0) } else { self.sample_one(logits, highest) };
        let log_prob = f64::from(logits[token]) - highest - total.ln();
        Some(SampledToken {
            token: token as TokenId,
            log_prob: log_prob as f32,
            sampling_log_prob: sampling_log_prob as f32,
        })
    }

    /// The same after some tokens, which the repetition penalty looks at, and of those alone that are allowed. Penalties and
    /// biases change the logits in the order of vLLM: repetition, frequency, presence, then the bias.
    pub fn sample_after(
        &mut self,
        logits: &[f32],
        history: &[TokenId],
        allowed: Option<&AllowedTokens>,
    ) -> Option<SampledToken> {
        if !self.options.changes_logits() && allowed.is_none() {
            return self.sample(logits);
        }
        let mut adjusted = std::mem::take(&mut self.adjusted);
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        self.adjust(logits, history, &mut adjusted);
        if let Some(allowed) = allowed {
            allowed.mask(&mut adjusted);
        }
        let sampled = self.sample(&adjusted);
        self.adjusted = adjusted;
        let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum();
        sampled.map(|sampled| {
            if self.options.presence_penalty != 0.0 || self.options.frequency_penalty != 0.0 {
                *self.n_sampled.entry(sampled.token).or_default() += 1;
            }
            let log_prob = (f64::from(logits[sampled.token as usize]) - highest - total.ln()) as f32;
            SampledToken { log_prob, ..sampled }
        })
    }

    /// Applies penalties and biases to a copy of the logits.
    fn adjust(&self, logits: &[f32], history: &[TokenId], adjusted: &mut [f32]) {
        let options = &self.options;
        if options.repetition_penalty != 1.0 {
            for &token in history {
                // From the original: a token that occurred twice is penalised once.
                if let Some(&logit) = logits.get(token as usize) {
                    let penalty = options.repetition_penalty;
                    adjusted[token as usize] = if logit > 0.0 { logit / penalty } else { logit * penalty };
                }
            }
        }
        for (&token, &count) in &self.n_sampled {
            if let Some(logit) = adjusted.get_mut(token as usize) {
                *logit -= options.frequency_penalty * count as f32 + options.presence_penalty;
            }
        }
        for &(token, bias) in &options.logit_bias {
            if let Some(logit) = adjusted.get_mut(token as usize) {
                *logit += bias;
            }
        }
    }

    /// The lowest logit that top-k keeps, and how many tokens with just that logit it keeps.
    fn top_k_threshold(&mut self, logits: &[f32]) -> Option<(f32, usize)> {
        if self.options.top_k == 0 || self.options.top_k >= logits.len() {
            return None;
        }
        self.sorting.clear();
        self.sorting.extend_from_slice(logits);
        let (above, &mut threshold, _) =
            self.sorting.select_nth_unstable_by(self.options.top_k - 1, |a, b| b.total_cmp(a));
        let n_above = above.iter().filter(|&&logit| logit > threshold).count();
        Some((threshold, self.options.top_k - n_above))
    }

    /// A token and its log-probability among those that were left.
    fn sample_one(&mut self, logits: &[f32], highest: f64) -> (usize, f64) {
        let keep = self.top_k_threshold(logits);
        let candidates = &mut self.candidates;
        candidates.clear();
        let mut n_equal_left = keep.map_or(0, |(_, n_equal)| n_equal);
        for (token, &logit) in logits.iter().enumerate() {
            if let Some((threshold, _)) = keep {
                if logit < threshold || (logit == threshold && n_equal_left == 0) {
                    continue;
                }
                n_equal_left -= usize::from(logit == threshold);
            }
            let probability = ((f64::from(logit) - highest) / self.options.temperature).exp();
            if probability > 0.0 {
                candidates.push((token as TokenId, probability));
            }
        }
        if self.options.top_p < 1.0 {
            let total: f64 = candidates.iter().map(|candidate| candidate.1).sum();
            // All tokens below this together stay below 1 - p, so the others reach p without them.
            let negligible = total * (1.0 - self.options.top_p) / candidates.len() as f64;
            candidates.retain(|candidate| candidate.1 >= negligible);
            candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let mut reached = 0.0;
            let needed = candidates.iter().position(|candidate| {
                reached += candidate.1;
                reached >= self.options.top_p * total
            });
            candidates.truncate(needed.map_or(candidates.len(), |last| last + 1));
        }
        if self.options.min_p > 0.0 {
            // The likeliest has the unnormalised probability 1.
            candidates.retain(|candidate| candidate.1 >= self.options.min_p);
        }
        let total: f64 = candidates.iter().map(|candidate| candidate.1).sum();
        let mut left = uniform(&mut self.generator) * total;
        for &(token, probability) in candidates.iter() {
            left -= probability;
            if left < 0.0 {
                return (token as usize, (probability / total).ln());
            }
        }
        // Rounding can leave a rest; it belongs to the last one.
        candidates
            .last()
            .map_or((0, 0.0), |&(token, probability)| (token as usize, (probability / total).ln()))
    }
}

/// The `k` most likely tokens of logits `[vocab]` with their log-probabilities at temperature 1, the likeliest first; the lower
/// id first among equals. Tokens whose logit is minus infinity are left out.
#[must_use]
pub fn top_log_probs(logits: &[f32], k: usize) -> Vec<(TokenId, f32)> {
    let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum();
    let mut order: Vec<usize> =
        (0..logits.len()).filter(|&token| logits[token] > f32::NEG_INFINITY).collect();
    let by_logit = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    if k < order.len() {
        if k > 0 {
            order.select_nth_unstable_by(k - 1, by_logit);
        }
        order.truncate(k);
    }
    order.sort_unstable_by(by_logit);
    let log_prob = |token: usize| (f64::from(logits[token]) - highest - total.ln()) as f32;
    order.into_iter().map(|token| (token as TokenId, log_prob(token))).collect()
}

/// 53 random bits.
fn uniform(generator: &mut ChaCha8Rng) -> f64 {
    (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(temperature: f32, top_k: usize, top_p: f32) -> SamplingOptions {
        SamplingOptions { temperature, top_k, top_p, ..SamplingOptions::default() }
    }

    fn frequencies(options: &SamplingOptions, logits: &[f32], n: usize) -> Vec<f64> {
        let mut sampler = Sampler::new(options).unwrap();
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..n {
            counts[sampler.sample(logits).unwrap().token as usize] += 1.0 / n as f64;
        }
        counts
    }

    fn check(options: &SamplingOptions, logits: &[f32], expected: &[f64]) {
        let found = frequencies(options, logits, 20_000);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 0.015, "{found} {expected}");
            assert!(*expected > 0.0 || *found == 0.0, "{found}");
        }
    }

    #[test]
    fn greedy_takes_the_highest_and_the_lower_id_among_equals() {
        let mut sampler = Sampler::new(&options(0.0, 0, 1.0)).unwrap();
        let sampled = sampler.sample(&[1.0, 3.0, 3.0, 2.0]).unwrap();
        assert_eq!(sampled.token, 1);
        let total = 1f32.exp() + 2.0 * 3f32.exp() + 2f32.exp();
        assert!((sampled.log_prob - (3.0 - total.ln())).abs() < 1e-6);
    }

    #[test]
    fn frequencies_follow_the_options() {
        let logits = [0.4f32.ln(), 0.3f32.ln(), 0.2f32.ln(), 0.1f32.ln(), f32::NEG_INFINITY];
        check(&options(1.0, 0, 1.0), &logits, &[0.4, 0.3, 0.2, 0.1, 0.0]);
        check(&options(1.0, 2, 1.0), &logits, &[4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0, 0.0]);
        check(&options(1.0, 0, 0.65), &logits, &[4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0, 0.0]);
        check(&options(1.0, 0, 0.75), &logits, &[4.0 / 9.0, 3.0 / 9.0, 2.0 / 9.0, 0.0, 0.0]);
        // top-p is measured in what top-k has left: 4/7 alone reach 0.5.
        check(&options(1.0, 2, 0.5), &logits, &[1.0, 0.0, 0.0, 0.0, 0.0]);
        let min_p = SamplingOptions { min_p: 0.6, ..options(1.0, 0, 1.0) };
        check(&min_p, &logits, &[4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0, 0.0]);
        check(&options(0.5, 0, 1.0), &logits, &[16.0 / 30.0, 9.0 / 30.0, 4.0 / 30.0, 1.0 / 30.0, 0.0]);
    }

    #[test]
    fn both_log_probabilities_are_told() {
        let logits = [0.4f32.ln(), 0.3f32.ln(), 0.2f32.ln(), 0.1f32.ln()];
        let mut sampler = Sampler::new(&options(1.0, 2, 1.0)).unwrap();
        for _ in 0..20 {
            let sampled = sampler.sample(&logits).unwrap();
            let [plain, cut] =
                [[0.4f32, 0.3], [4.0 / 7.0, 3.0 / 7.0]].map(|p| p[sampled.token as usize].ln());
            assert!(
                (sampled.log_prob - plain).abs() < 1e-6 && (sampled.sampling_log_prob - cut).abs() < 1e-6
            );
        }
        let greedy = Sampler::new(&options(0.0, 0, 1.0)).unwrap().sample(&logits).unwrap();
        assert_eq!(greedy.sampling_log_prob, 0.0);
    }

    #[test]
    fn what_has_occurred_is_penalised_once_and_told_without_penalty() {
        let penalty = SamplingOptions { repetition_penalty: 2.0, ..options(0.0, 0, 1.0) };
        let mut sampler = Sampler::new(&penalty).unwrap();
        let logits = [3.0, 1.9, -1.0];
        assert_eq!(sampler.sample_after(&logits, &[], None).unwrap().token, 0);
        let sampled = sampler.sample_after(&logits, &[0, 0, 2], None).unwrap();
        let total: f32 = logits.iter().map(|z: &f32| z.exp()).sum();
        assert_eq!(sampled.token, 1);
        assert!((sampled.log_prob - (1.9 - total.ln())).abs() < 1e-6);
    }

    #[test]
    fn penalties_count_what_was_sampled_and_biases_are_added() {
        let greedy = options(0.0, 0, 1.0);
        let tokens = |options: SamplingOptions, logits: &[f32], n: usize| -> Vec<TokenId> {
            let mut sampler = Sampler::new(&options).unwrap();
            // The history of the prompt does not count.
            (0..n).map(|_| sampler.sample_after(logits, &[0, 0, 0], None).unwrap().token).collect()
        };
        let logits = [3.0, 2.5, 0.0];
        let presence = SamplingOptions { presence_penalty: 1.0, ..greedy.clone() };
        assert_eq!(tokens(presence, &logits, 4), [0, 1, 0, 0]);
        // 3, 2.5 -> 2.4, 2.5 -> 2.4, 1.9 -> 1.8, 1.9 -> 1.8, 1.3.
        let frequency = SamplingOptions { frequency_penalty: 0.6, ..greedy.clone() };
        assert_eq!(tokens(frequency, &logits, 5), [0, 1, 0, 1, 0]);
        let bias = SamplingOptions { logit_bias: [(2, 4.0), (0, -100.0), (9, 1.0)].into(), ..greedy };
        let mut sampler = Sampler::new(&bias).unwrap();
        let sampled = sampler.sample_after(&logits, &[], None).unwrap();
        let total: f32 = logits.iter().map(|z: &f32| z.exp()).sum();
        assert_eq!(sampled.token, 2);
        assert!((sampled.log_prob - (0.0 - total.ln())).abs() < 1e-6, "the model's own");
    }

    #[test]
    fn only_allowed_tokens_are_sampled() {
        let allowed = AllowedTokens::of([1, 3]);
        let mut sampler = Sampler::new(&options(1.0, 0, 1.0)).unwrap();
        let logits = [5.0, 0.0, 5.0, 0.0];
        let tokens: Vec<TokenId> =
            (0..50).map(|_| sampler.sample_after(&logits, &[], Some(&allowed)).unwrap().token).collect();
        assert!(tokens.contains(&1) && tokens.contains(&3) && !tokens.contains(&0) && !tokens.contains(&2));
        assert_eq!(sampler.sample_after(&logits, &[], Some(&AllowedTokens::of([]))), None);
    }

    #[test]
    fn the_likeliest_tokens_with_their_log_probabilities() {
        let logits = [1.0f32, 3.0, 3.0, f32::NEG_INFINITY];
        let top = top_log_probs(&logits, 3);
        assert_eq!(top.iter().map(|&(token, _)| token).collect::<Vec<_>>(), [1, 2, 0]);
        let total: f32 = 1f32.exp() + 2.0 * 3f32.exp();
        assert!((top[0].1 - (3.0 - total.ln())).abs() < 1e-6);
        assert_eq!(top_log_probs(&logits, 9).len(), 3, "impossible tokens are left out");
        assert_eq!(top_log_probs(&logits, 0), []);
    }

    #[test]
    fn equals_at_the_edge_of_top_k_go_to_lower_ids() {
        check(&options(1.0, 2, 1.0), &[0.0, 0.0, 0.0], &[0.5, 0.5, 0.0]);
        check(&options(1.0, 0, 0.6), &[0.0, 0.0, 0.0], &[0.5, 0.5, 0.0]);
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let logits: Vec<f32> = (0..100).map(|n| (n % 7) as f32 / 3.0).collect();
        let draw = |seed| {
            let mut sampler = Sampler::new(&SamplingOptions { seed, ..options(1.0, 0, 0.9) }).unwrap();
            (0..20).map(|_| sampler.sample(&logits).unwrap().token).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn nothing_is_sampled_from_what_is_no_distribution() {
        let mut sampler = Sampler::new(&options(1.0, 0, 1.0)).unwrap();
        assert_eq!(sampler.sample(&[0.0, f32::NAN]), None);
        assert_eq!(sampler.sample(&[f32::NAN, 0.0]), None);
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY; 3]), None);
        assert_eq!(sampler.sample(&[f32::INFINITY, 0.0]), None);
        assert_eq!(sampler.sample(&[]), None);
    }

    #[test]
    fn options_outside_their_range_are_refused() {
        let refused = |options: SamplingOptions| Sampler::new(&options).unwrap_err().to_string();
        assert_eq!(
            refused(options(-1.0, 0, 1.0)),
            "sampling option `temperature` is -1, expected 0 or a positive number"
        );
        assert!(refused(options(f32::NAN, 0, 1.0)).contains("NaN"));
        assert!(refused(options(1.0, 0, 0.0)).contains("`top_p` is 0"));
        assert!(
            refused(SamplingOptions { max_new_tokens: 0, ..Default::default() }).contains("max_new_tokens")
        );
        assert!(
            refused(SamplingOptions { stop: vec![String::new()], ..Default::default() }).contains("stop")
        );
    }
}
