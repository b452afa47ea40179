use super::*;
use truing_model::TokenLogProbs;
use truing_types::RowOrigin;

const PAIRED: [PreferenceLoss; 7] = [
    PreferenceLoss::Sigmoid,
    PreferenceLoss::SigmoidNorm,
    PreferenceLoss::Robust,
    PreferenceLoss::Ipo,
    PreferenceLoss::Hinge,
    PreferenceLoss::Simpo,
    PreferenceLoss::Orpo,
];

/// Two prompts; the first with three responses, one of which has a weight of its own.
fn example(is_unpaired: bool) -> (PreferencePack, HeadOutput) {
    let origin = |line| RowOrigin { source: "t".into(), line };
    let zeros = [0.0; 3];
    let batch = PackedBatch::with_prefixes([
        (&[1_u32, 2, 3][..], &zeros[..], origin(1), None),
        (&[4, 5][..], &[1.0, 1.0][..], origin(1), Some(0)),
        (&[6][..], &[1.0][..], origin(1), Some(0)),
        (&[7, 8, 9][..], &[1.0, 0.5, 1.0][..], origin(1), Some(0)),
        (&[1, 2][..], &zeros[..2], origin(2), None),
        (&[3, 3][..], &[1.0, 1.0][..], origin(2), Some(4)),
        (&[5][..], &[1.0][..], origin(2), Some(4)),
    ])
    .unwrap();
    let pair = |chosen, rejected| ResponsePair { chosen, rejected };
    let all = vec![pair(0, 1), pair(0, 2), pair(1, 2), pair(3, 4)];
    let pack = PreferencePack {
        batch,
        n_targets: vec![2, 1, 3, 2, 1],
        pairs: if is_unpaired { Vec::new() } else { all },
        verdicts: if is_unpaired { vec![true, false, false, true, true] } else { Vec::new() },
        reference_log_probs: vec![-1.5, -0.25, -3.0, -2.0, -1.0],
    };
    let log_probs = vec![-0.5, -1.25, -0.75, -0.125, -2.0, -1.0, -0.5, -0.25, -1.5];
    let tokens = TokenLogProbs { entropies: vec![1.0; 9], is_argmax: vec![true; 9], log_probs };
    (pack, HeadOutput { tokens, ..HeadOutput::default() })
}

fn value(objective: &Preference, pack: &PreferencePack, output: &HeadOutput) -> f64 {
    let measured = objective.measure(pack, &objective.request(pack), output);
    measured[0].numerator / measured[0].denominator
}

#[test]
fn every_gradient_equals_finite_differences() {
    let settings = [
        Preference { beta: 0.7, ..Preference::default() },
        Preference { beta: 0.3, label_smoothing: 0.2, nll_coefficient: 0.5, ..Preference::default() },
    ];
    let kto = [PreferenceLoss::Kto];
    for (setting, loss) in settings.iter().flat_map(|s| PAIRED.iter().chain(&kto).map(move |l| (s, *l))) {
        let (desirable_weight, kto_baseline) = (1.5, 0.3);
        let objective = Preference { loss, desirable_weight, kto_baseline, ..*setting };
        let (pack, output) = example(loss.is_unpaired());
        let request = objective.request(&pack);
        let denominators = objective.denominators(&pack, &request);
        let gradient = objective.gradient(&pack, &request, &output, &denominators).log_probs;
        assert_eq!(gradient.len(), 9);
        for (t, &closed_form) in gradient.iter().enumerate() {
            let moved = |by: f32| {
                let mut output = output.clone();
                output.tokens.log_probs[t] += by;
                value(&objective, &pack, &output)
            };
            let step = 1.0 / 512.0;
            let difference = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
            assert!(
                (f64::from(closed_form) - difference).abs() < 2e-5 * difference.abs().max(1.0),
                "{loss:?} target {t}: {closed_form} against {difference}"
            );
        }
    }
}

/// One pair with policy sums -1 and -3, reference sums -2 and -2.5, of 2 and 4 tokens.
fn pair_value(loss: PreferenceLoss, label_smoothing: f64) -> f64 {
    let chosen = ResponseLogProbs { policy: -1.0, reference: -2.0, n_tokens: 2.0 };
    let rejected = ResponseLogProbs { policy: -3.0, reference: -2.5, n_tokens: 4.0 };
    let objective = Preference { loss, beta: 0.5, label_smoothing, gamma: 0.4, ..Preference::default() };
    objective.pair_loss(chosen, rejected).loss
}

#[test]
fn values_are_those_of_the_papers() {
    let logistic = |x: f64| (1.0 + (-x).exp()).ln();
    let (h, h_mean) = (1.0 + 0.5, 0.5 + 0.125);
    let odds = |a: f64| (a.exp() / (1.0 - a.exp())).ln();
    for (loss, label_smoothing, expected) in [
        (PreferenceLoss::Sigmoid, 0.0, logistic(0.5 * h)),
        (PreferenceLoss::Sigmoid, 0.1, 0.9 * logistic(0.5 * h) + 0.1 * logistic(-0.5 * h)),
        (PreferenceLoss::Robust, 0.1, (0.9 * logistic(0.5 * h) - 0.1 * logistic(-0.5 * h)) / 0.8),
        (PreferenceLoss::SigmoidNorm, 0.0, logistic(0.5 * h_mean)),
        (PreferenceLoss::Ipo, 0.0, (h_mean - 1.0) * (h_mean - 1.0)),
        (PreferenceLoss::Hinge, 0.0, 1.0 - 0.5 * h),
        (PreferenceLoss::Simpo, 0.0, logistic(0.5 * (-0.5 + 0.75) - 0.4)),
        (PreferenceLoss::Orpo, 0.0, 0.5 + 0.5 * logistic(odds(-0.5) - odds(-0.75))),
    ] {
        assert!((pair_value(loss, label_smoothing) - expected).abs() < 1e-12, "{loss:?}");
    }
}

#[test]
fn robust_without_flipped_labels_is_dpo() {
    assert_eq!(pair_value(PreferenceLoss::Robust, 0.0), pair_value(PreferenceLoss::Sigmoid, 0.0));
}

#[test]
fn metrics_are_named_as_users_know_them() {
    let (pack, output) = example(false);
    let objective = Preference { beta: 1.0, ..Preference::default() };
    let measured = objective.measure(&pack, &objective.request(&pack), &output);
    let means: BTreeMap<&str, f64> = objective
        .metric_names()
        .iter()
        .copied()
        .zip(measured.iter().map(|sum| sum.numerator / sum.denominator))
        .collect();
    // Log-ratios of the responses: -0.25, -0.5, 3 - 0.125 - 1 - 1 = 0.875, 1.25, -0.5.
    assert!((means["rewards/chosen"] - (-0.25 - 0.25 - 0.5 + 1.25) / 4.0).abs() < 1e-9);
    assert!((means["rewards/rejected"] - (-0.5 + 0.875 + 0.875 - 0.5) / 4.0).abs() < 1e-9);
    assert_eq!(means["rewards/accuracies"], 0.5);
    assert_eq!(means["entropy"], 1.0);
}

/// At a mean log-probability of 0 the odds are infinite: value and gradient stay finite and small.
#[test]
fn orpo_of_certain_responses_is_finite_and_has_no_gradient_of_its_odds() {
    let objective = Preference { loss: PreferenceLoss::Orpo, beta: 0.5, ..Preference::default() };
    let of = |policy: f64| ResponseLogProbs { policy, reference: 0.0, n_tokens: 4.0 };
    for (chosen, rejected) in [(0.0, -3.0), (-3.0, 0.0), (0.0, 0.0), (-1e-9, -1e-12)] {
        let pair = objective.pair_loss(of(chosen), of(rejected));
        assert!(pair.loss.is_finite(), "{chosen} {rejected}: {pair:?}");
        // The likelihood's part is -1 / n; the odds add nothing where the response is certain.
        if chosen > -1e-8 {
            assert_eq!(pair.d_chosen, -0.25, "{chosen} {rejected}");
        }
        if rejected > -1e-8 {
            assert_eq!(pair.d_rejected, 0.0, "{chosen} {rejected}");
        }
        assert!(pair.d_chosen.abs() < 1.0 && pair.d_rejected.abs() < 1.0, "{chosen} {rejected}: {pair:?}");
    }
    // Just below the clamp the derivative is that of the formula: 1 / (1 - p).
    let a = -1e-3_f64;
    let pair = objective.pair_loss(of(4.0 * a), of(-3.0));
    let odds = |a: f64| a - (-a.exp_m1()).ln();
    let x = odds(a) - odds(-0.75);
    let expected = (-0.5 / (1.0 + x.exp()) / -a.exp_m1() - 1.0) / 4.0;
    assert!((pair.d_chosen - expected).abs() < 1e-12, "{pair:?} {expected}");
}
