//! The simulations, and the page that shows them.

use std::fmt::Write as _;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use truing_statistics::{
    Bootstrap, BootstrapKind, Interval, Power, ShareInterval, clustered_mean, mcnemar, mean_estimate,
    normal_quantile, paired_difference,
};
use truing_types::Seed;

/// Comparisons of the published page.
pub(crate) const N_COMPARISONS: usize = 1_000;
const RESAMPLES: usize = 1_000;
const LEVEL: f64 = 0.95;

/// How often a method's interval held the truth.
pub(crate) struct Coverage {
    /// What was simulated.
    pub(crate) setting: String,
    /// The method.
    pub(crate) method: &'static str,
    /// Whether it is the method that an evaluation uses here.
    pub is_used: bool,
    /// Share of intervals that held the truth.
    pub(crate) share: f64,
    /// Mean width of the intervals.
    pub(crate) width: f64,
}

fn unit(generator: &mut ChaCha8Rng) -> f64 {
    ((generator.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

fn normal(generator: &mut ChaCha8Rng) -> f64 {
    normal_quantile(unit(generator))
}

fn bootstrap(seed: usize) -> Bootstrap {
    Bootstrap { n_resamples: RESAMPLES, seed: Seed(seed as u64), level: LEVEL }
}

fn of_share(interval: ShareInterval) -> Interval {
    Interval { low: interval.low, high: interval.high }
}

fn resampled(values: &[f64], kind: BootstrapKind, seed: usize) -> Option<Interval> {
    bootstrap(seed).interval(values.len(), kind, |drawn| {
        drawn.iter().map(|&i| values[i]).sum::<f64>() / drawn.len() as f64
    })
}

/// Counts, for each method, how often its interval holds the truth. A comparison without an interval counts as
/// one that does not.
fn counted(
    n: usize,
    setting: &str,
    truth: f64,
    methods: &[(&'static str, bool)],
    mut intervals: impl FnMut(usize) -> Vec<Option<Interval>>,
) -> Vec<Coverage> {
    let mut held = vec![(0_usize, 0.0); methods.len()];
    for comparison in 0..n {
        for ((n_held, width), interval) in held.iter_mut().zip(intervals(comparison)) {
            let Some(Interval { low, high }) = interval else { continue };
            *n_held += usize::from(low <= truth && truth <= high);
            *width += high - low;
        }
    }
    let rows = methods.iter().zip(held);
    rows.map(|(&(method, is_used), (n_held, width))| Coverage {
        setting: setting.to_owned(),
        method,
        is_used,
        share: n_held as f64 / n as f64,
        width: width / n as f64,
    })
    .collect()
}

/// Shares of right answers.
pub(crate) fn shares(n: usize, items: usize, p: f64) -> Vec<Coverage> {
    let methods =
        [("Wilson", true), ("Clopper-Pearson", false), ("Student t", false), ("bootstrap percentile", false)];
    counted(n, &format!("{items} items, share {p}"), p, &methods, |comparison| {
        let mut generator = Seed(comparison as u64).generator("share", &[items as u64, p.to_bits()]);
        let values: Vec<f64> = (0..items).map(|_| f64::from(u8::from(unit(&mut generator) < p))).collect();
        let n_right = values.iter().sum::<f64>();
        vec![
            ShareInterval::wilson(n_right / items as f64, items as f64).map(of_share),
            ShareInterval::clopper_pearson(n_right as u64, items as u64).map(of_share),
            mean_estimate(&values).and_then(|mean| mean.interval(LEVEL)),
            resampled(&values, BootstrapKind::Percentile, comparison),
        ]
    })
}

/// Means of scores: even (uniform) or skewed (most answers get the best grade, a few a very low one).
pub(crate) fn means(n: usize, items: usize, is_skewed: bool) -> Vec<Coverage> {
    let methods = [("Student t", true), ("bootstrap percentile", false), ("bootstrap BCa", false)];
    let (name, truth) = if is_skewed { ("skewed grades", 9.2) } else { ("uniform scores", 0.5) };
    counted(n, &format!("{items} items, {name}"), truth, &methods, |comparison| {
        let mut generator = Seed(comparison as u64).generator(name, &[items as u64]);
        let mut score = || {
            let drawn = unit(&mut generator);
            match is_skewed {
                false => drawn,
                // 0.8 * 10 + 0.1 * 8 + 0.1 * 4
                true if drawn < 0.8 => 10.0,
                true if drawn < 0.9 => 8.0,
                true => 4.0,
            }
        };
        let values: Vec<f64> = (0..items).map(|_| score()).collect();
        vec![
            mean_estimate(&values).and_then(|mean| mean.interval(LEVEL)),
            resampled(&values, BootstrapKind::Percentile, comparison),
            resampled(&values, BootstrapKind::Bca, comparison),
        ]
    })
}

/// Five right-or-wrong turns a dialogue, correlated within it.
pub(crate) fn clusters(n: usize, dialogues: usize) -> Vec<Coverage> {
    const TURNS: usize = 5;
    let methods =
        [("Student t by dialogue", true), ("cluster bootstrap", false), ("Student t by turn", false)];
    let setting = format!("{dialogues} dialogues of {TURNS} turns");
    counted(n, &setting, 0.5, &methods, |comparison| {
        let mut generator = Seed(comparison as u64).generator("cluster", &[dialogues as u64]);
        let (mut values, mut of) = (Vec::new(), Vec::new());
        for dialogue in 0..dialogues {
            let shift = normal(&mut generator);
            for _ in 0..TURNS {
                values.push(f64::from(u8::from(shift + normal(&mut generator) > 0.0)));
                of.push(dialogue);
            }
        }
        let sums: Vec<f64> =
            values.chunks(TURNS).map(|turns| turns.iter().sum::<f64>() / TURNS as f64).collect();
        vec![
            clustered_mean(&values, &of).and_then(|mean| mean.interval(LEVEL)),
            resampled(&sums, BootstrapKind::Percentile, comparison),
            mean_estimate(&values).and_then(|mean| mean.interval(LEVEL)),
        ]
    })
}

/// Two models on the same items: one is right with probability `p`, the other with `p + difference`, and most
/// items are equally hard for both.
fn two_models(generator: &mut ChaCha8Rng, items: usize, p: f64, difference: f64) -> (Vec<f64>, Vec<f64>) {
    (0..items)
        .map(|_| {
            let hardness = unit(generator);
            let other = if unit(generator) < 0.7 { hardness } else { unit(generator) };
            (f64::from(u8::from(hardness < p)), f64::from(u8::from(other < p + difference)))
        })
        .unzip()
}

/// Methods of an interval of the difference of two models on the same right-or-wrong items.
const OF_DIFFERENCES: [(&str, bool); 4] = [
    ("paired Newcombe", true),
    ("paired bootstrap", false),
    ("paired Student t", false),
    ("unpaired Student t", false),
];

/// The intervals of [`OF_DIFFERENCES`].
fn of_difference(first: &[f64], second: &[f64], comparison: usize) -> Vec<Option<Interval>> {
    let names: Vec<usize> = (0..first.len()).collect();
    let paired = paired_difference(first, second, &names, &bootstrap(comparison));
    let differences: Vec<f64> = first.iter().zip(second).map(|(first, second)| second - first).collect();
    let apart = mean_estimate(first).zip(mean_estimate(second)).and_then(|(first, second)| {
        let error = first.standard_error?.hypot(second.standard_error?) * normal_quantile(0.975);
        let difference = second.mean - first.mean;
        Some(Interval { low: difference - error, high: difference + error })
    });
    vec![
        paired.and_then(|found| found.interval),
        resampled(&differences, BootstrapKind::Percentile, comparison),
        paired.and_then(|found| found.estimate.interval(LEVEL)),
        apart,
    ]
}

/// Intervals of the difference of two models.
pub(crate) fn differences(n: usize, items: usize, p: f64) -> Vec<Coverage> {
    const DIFFERENCE: f64 = 0.05;
    let setting = format!("{items} items, shares {p} and {:.2}", p + DIFFERENCE);
    counted(n, &setting, DIFFERENCE, &OF_DIFFERENCES, |comparison| {
        let mut generator = Seed(comparison as u64).generator("pair", &[items as u64, p.to_bits()]);
        let (first, second) = two_models(&mut generator, items, p, DIFFERENCE);
        of_difference(&first, &second, comparison)
    })
}

/// The same where the models differ on few items: on the share `discordant` of them one alone is right, three times out
/// of four the second. Both are right on 70 % of the others.
pub(crate) fn rare_differences(n: usize, items: usize, discordant: f64) -> Vec<Coverage> {
    let setting = format!("{items} items, {:.0} % discordant", 100.0 * discordant);
    let truth = discordant * (0.75 - 0.25);
    counted(n, &setting, truth, &OF_DIFFERENCES, |comparison| {
        let mut generator =
            Seed(comparison as u64).generator("rare pair", &[items as u64, discordant.to_bits()]);
        let mut item = || match unit(&mut generator) < discordant {
            true if unit(&mut generator) < 0.75 => (0.0, 1.0),
            true => (1.0, 0.0),
            false if unit(&mut generator) < 0.7 => (1.0, 1.0),
            false => (0.0, 0.0),
        };
        let (first, second): (Vec<f64>, Vec<f64>) = (0..items).map(|_| item()).unzip();
        of_difference(&first, &second, comparison)
    })
}

/// How often each test finds a difference at 5 %.
pub(crate) struct Found {
    /// What was simulated.
    pub(crate) setting: String,
    /// The true difference.
    pub(crate) difference: f64,
    /// McNemar's exact test.
    pub(crate) mcnemar: f64,
    /// Exchange of the two models' scores.
    pub(crate) exchange: f64,
    /// Two independent means.
    pub(crate) unpaired: f64,
}

/// Findings where there is no difference, and at the smallest difference that the items resolve.
pub(crate) fn findings(n: usize, items: usize, p: f64, is_null: bool) -> Found {
    // Items on which the two differ: between the two shares, and of the 30 % that are independent draws.
    let discordant = |difference: f64| {
        let other = p + difference;
        0.7 * difference + 0.3 * (p * (1.0 - other) + (1.0 - p) * other)
    };
    // The discordance grows with the difference: the first difference that resolves itself.
    let resolves = |difference: &f64| {
        let smallest = Power::default().paired_shares(items as u64, discordant(*difference));
        smallest.is_some_and(|smallest| smallest <= *difference)
    };
    let smallest = (1..500).map(|i| f64::from(i) / 1000.0).find(resolves).unwrap_or(0.0);
    let difference = if is_null { 0.0 } else { smallest };
    let mut found = [0_usize; 3];
    for comparison in 0..n {
        let mut generator = Seed(comparison as u64).generator("test", &[items as u64, u64::from(is_null)]);
        let (first, second) = two_models(&mut generator, items, p, difference);
        let pairs = || first.iter().zip(&second);
        let only = |wanted: (f64, f64)| pairs().filter(|&(a, b)| (*a, *b) == wanted).count() as u64;
        let test = mcnemar(only((1.0, 0.0)), only((0.0, 1.0)));
        let names: Vec<usize> = (0..items).collect();
        let exchange = paired_difference(&first, &second, &names, &bootstrap(comparison));
        let apart = mean_estimate(&first).zip(mean_estimate(&second)).is_some_and(|(first, second)| {
            let error = first.standard_error.unwrap_or(0.0).hypot(second.standard_error.unwrap_or(0.0));
            (second.mean - first.mean).abs() > normal_quantile(0.975) * error
        });
        found[0] += usize::from(test.p_value < 0.05);
        found[1] += usize::from(exchange.is_some_and(|found| found.p_value < 0.05));
        found[2] += usize::from(apart);
    }
    let [mcnemar, exchange, unpaired] = found.map(|found| found as f64 / n as f64);
    Found { setting: format!("{items} items, share {p}"), difference, mcnemar, exchange, unpaired }
}

fn table(page: &mut String, title: &str, rows: &[Coverage]) {
    let _ = write!(page, "\n## {title}\n\n| setting | method | coverage | mean width |\n|---|---|---|---|\n");
    for row in rows {
        let mark = if row.is_used { " (used)" } else { "" };
        let off = if (row.share - LEVEL).abs() > 0.02 { " (off)" } else { "" };
        let Coverage { setting, method, share, width, .. } = row;
        let _ = writeln!(page, "| {setting} | {method}{mark} | {:.1} %{off} | {width:.3} |", 100.0 * share);
    }
}

/// The page.
pub(crate) fn page(n: usize) -> String {
    let mut page = format!(
        "# Coverage of intervals, and what tests find\n\n\
         Made by `cargo run --release -p truing-statistics --example interval_coverage`. Each row is {n} simulated\n\
         comparisons with a known truth; the intervals claim 95 %. A coverage measured so has a standard error of 0.7\n\
         points. `(off)` marks what is more than 2 points from 95 %; `(used)` is the method that `truing \
         evaluate` prints.\n\
         Bootstraps draw {RESAMPLES} samples.\n"
    );
    let of_shares: Vec<Coverage> = [20, 100, 500]
        .into_iter()
        .flat_map(|items| [0.02, 0.1, 0.5, 0.9].map(|p| shares(n, items, p)))
        .flatten()
        .collect();
    table(&mut page, "Shares of right answers", &of_shares);
    let of_means: Vec<Coverage> = [20, 100, 500]
        .into_iter()
        .flat_map(|items| [false, true].map(|is_skewed| means(n, items, is_skewed)))
        .flatten()
        .collect();
    table(&mut page, "Means of scores", &of_means);
    let of_clusters: Vec<Coverage> =
        [10, 50, 200].into_iter().flat_map(|dialogues| clusters(n, dialogues)).collect();
    table(&mut page, "Items in clusters", &of_clusters);
    let pairs = [(50, 0.5), (200, 0.5), (200, 0.9), (1000, 0.5)];
    let of_pairs: Vec<Coverage> = pairs.into_iter().flat_map(|(items, p)| differences(n, items, p)).collect();
    table(&mut page, "Differences of two models on the same items", &of_pairs);
    let of_rare: Vec<Coverage> = [60, 100, 200]
        .into_iter()
        .flat_map(|items| [0.01, 0.03, 0.05].map(|discordant| rare_differences(n, items, discordant)))
        .flatten()
        .collect();
    table(&mut page, "Differences of two models that differ on few items", &of_rare);
    page.push_str(
        "\n## Tests at 5 %\n\n\
         Share of comparisons in which a test finds a difference. Without a difference it should be at most \
         5 %. At the\n\
         smallest difference that the items resolve (`Power::paired_shares`) McNemar's test should find it in 80 %.\n\n\
         | setting | true difference | McNemar, exact (used) | exchange (used) | unpaired |\n|---|---|---|---|---|\n",
    );
    for (items, p) in [(50, 0.5), (200, 0.5), (200, 0.9), (1000, 0.7)] {
        for is_null in [true, false] {
            let Found { setting, difference, mcnemar, exchange, unpaired } = findings(n, items, p, is_null);
            let [mcnemar, exchange, unpaired] = [mcnemar, exchange, unpaired].map(|share| 100.0 * share);
            let _ = writeln!(
                page,
                "| {setting} | {difference:.3} | {mcnemar:.1} % | {exchange:.1} % | {unpaired:.1} % |"
            );
        }
    }
    page.push_str(FAILURES);
    page
}

/// What the tables show.
const FAILURES: &str = "
## Where intervals fail

- Student's t and the bootstrap on shares near 0 or 1 with few items: a sample without a single wrong (or right) answer
  has an interval of width 0. Wilson's interval is used there. Counts are whole numbers, so its coverage swings about
  95 % with the number of items and the share, by up to 3 points for up to 100 items, and by less for more.
- Clopper-Pearson never promises too much, and is up to a fifth wider.
- Means of skewed grades of 20 items: a sample that by chance has no low grade does not know of them. No method here
  repairs that; a benchmark of 20 items should not be compared by its mean.
- Turns of a dialogue taken as independent: intervals a third too narrow. The cluster bootstrap needs more than ten
  dialogues; Student's t by dialogue does not.
- The bootstrap and Student's t of two models that differ on few items: a sample without a discordant item has an \
interval of
  width 0, and one with few has too narrow a one. Newcombe's interval for paired shares is used; it holds more often \
than it
  claims there, as it cannot know that the models are so alike.
- Grades that are all equal have no spread either. Their interval is that of a share of which none was seen, times \
the range of the
  grades (`interval_of_equal_values`); without a range there is none. With few units that differ the bootstrap of \
other scores
  than right or wrong is too narrow, like that of shares.
- Differences from two separate intervals: they hold the truth, but are a third to two thirds too wide, and miss many
  differences that the paired test finds.
- McNemar's exact test finds less than 5 % where there is no difference, because counts are whole numbers.
";
