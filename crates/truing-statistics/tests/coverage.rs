//! A short run of the coverage study of `examples/interval_coverage`: the intervals that evaluations use hold the
//! truth.

#[path = "../examples/interval_coverage/study.rs"]
#[expect(dead_code, reason = "the page is written by the example")]
mod study;

/// 300 comparisons: a coverage of 95 % is measured within 4.5 points (3.5 standard errors).
const N: usize = 300;

#[test]
fn used_intervals_hold_the_truth() {
    let rows = [
        study::shares(N, 100, 0.5),
        study::shares(N, 100, 0.1),
        study::means(N, 100, false),
        study::clusters(N, 50),
        study::differences(N, 200, 0.5),
    ];
    // Where models differ on few items, the interval that is used holds; a bootstrap of them does not.
    let rare = study::rare_differences(N, 60, 0.03);
    assert!(
        rare.iter().filter(|row| row.is_used).all(|row| row.share > 0.95),
        "Newcombe's interval is too narrow"
    );
    let resampled = rare.iter().find(|row| row.method == "paired bootstrap");
    assert!(
        resampled.is_some_and(|row| row.share < 0.9),
        "the bootstrap of few discordant items is too narrow"
    );
    for row in rows.iter().flatten().filter(|row| row.is_used) {
        assert!((0.905..=0.99).contains(&row.share), "{} {}: {}", row.setting, row.method, row.share);
    }
    let by_turn = rows[3].iter().find(|row| row.method == "Student t by turn");
    assert!(by_turn.is_some_and(|row| row.share < 0.9), "turns of a dialogue are not independent");
}

#[test]
fn tests_find_what_they_promise() {
    let nothing = study::findings(N, 200, 0.5, true);
    assert!(nothing.mcnemar < 0.09 && nothing.exchange < 0.09, "{} {}", nothing.mcnemar, nothing.exchange);
    let something = study::findings(N, 200, 0.5, false);
    assert!((0.65..0.9).contains(&something.mcnemar), "{}", something.mcnemar);
    assert!(something.unpaired < something.mcnemar, "pairing gains power");
}
