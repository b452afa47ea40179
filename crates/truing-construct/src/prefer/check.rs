//! Whether the pairs of a run follow from the verdicts that are stored with them. The pairs are read back from their
//! file, and their scores are computed again from their `verdicts` and the judges' scales alone.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use truing_run::RunError;
use truing_stages::StageError;

use super::minimal::{COPY, MinimalPair, ORIGINAL, edit_share};
use super::output::PairRow;
use super::scores::{Scale, direct_preference, group_scores};

/// Largest difference of a score that is computed again.
const TOLERANCE: f64 = 1e-9;

/// Checks every pair of a file, and returns their number.
///
/// # Errors
/// When the file cannot be read, or a pair does not follow from its verdicts.
pub fn check_pairs(path: &Path, scales: &[Scale], prior_deviation: f64) -> Result<usize, StageError> {
    check_lines(path, |row: &PairRow| disagreement(row, scales, prior_deviation))
}

/// Checks every pair of a file of minimal differences, and returns their number.
///
/// # Errors
/// When the file cannot be read, or a pair does not follow from its verdicts.
pub fn check_minimal_pairs(path: &Path, scales: &[Scale]) -> Result<usize, StageError> {
    check_lines(path, |row: &MinimalPair| {
        let [Some(original), Some(copy)] = [row.chosen.last(), row.rejected.last()] else {
            return Some("a side without a turn".into());
        };
        if (edit_share(&original.content, &copy.content) - row.edit_share).abs() > TOLERANCE {
            return Some(format!("an edit share of {}", row.edit_share));
        }
        let direct = direct_preference(scales, &row.verdicts, ORIGINAL, COPY);
        (direct <= 0.0).then(|| "the judges do not prefer the original".into())
    })
}

/// Reads each line, and asks what is wrong with it.
fn check_lines<Row: DeserializeOwned>(
    path: &Path,
    problem_of: impl Fn(&Row) -> Option<String>,
) -> Result<usize, StageError> {
    let text =
        fs::read_to_string(path).map_err(|source| RunError::Read { path: path.to_path_buf(), source })?;
    let mut n_pairs = 0;
    for (i, line) in text.lines().enumerate() {
        let problem = match serde_json::from_str::<Row>(line) {
            Ok(row) => problem_of(&row),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            return Err(StageError::PairContradicted { path: path.to_path_buf(), line: i + 1, problem });
        }
        n_pairs += 1;
    }
    Ok(n_pairs)
}

/// What does not agree with the verdicts of a pair.
fn disagreement(row: &PairRow, scales: &[Scale], prior_deviation: f64) -> Option<String> {
    let (chosen, rejected) = (row.chosen_index, row.rejected_index);
    let scores = group_scores(scales, row.n_responses, &row.verdicts, prior_deviation);
    let score = |place: usize| scores.get(place).and_then(|found| Some(found.as_ref()?.score));
    let (Some(better), Some(worse)) = (score(chosen), score(rejected)) else {
        return Some("a response without a score".into());
    };
    let is_near = |one: f64, other: f64| (one - other).abs() <= TOLERANCE;
    if !is_near(better, row.chosen_score) || !is_near(worse, row.rejected_score) {
        let stored = format!("{} and {}", row.chosen_score, row.rejected_score);
        return Some(format!("the verdicts give scores of {better} and {worse}, the pair has {stored}"));
    }
    if better <= worse || !is_near(better - worse, row.margin) {
        return Some(format!("a margin of {} beside scores of {better} and {worse}", row.margin));
    }
    let direct = direct_preference(scales, &row.verdicts, chosen, rejected);
    (direct < 0.0).then(|| "the comparisons of the two prefer the rejected response".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefer::verdict::{RaterKind, Verdict};
    use serde_json::{Value, json};
    use truing_statistics::normal_probability;

    fn row() -> Value {
        let verdicts = [Verdict::of_score("s", 0, 1.0), Verdict::of_score("s", 1, 0.0)];
        let (better, worse) = (1.0 + 4.0 * normal_probability(1.0), 1.0 + 4.0 * normal_probability(-1.0));
        json!({
            "prompt": [{"role": "user", "content": "Hi"}],
            "chosen": [{"role": "assistant", "content": "Hello."}],
            "rejected": [{"role": "assistant", "content": "What?"}],
            "chosen_score": better, "rejected_score": worse, "margin": better - worse,
            "dataset": "d", "fate": "paired", "chosen_index": 0, "rejected_index": 1, "n_responses": 2,
            "verdicts": verdicts, "source": {"path": "rows.jsonl", "line": 1}, "answer": "kept",
        })
    }

    fn checked(row: &Value) -> Result<usize, String> {
        let scale = Scale {
            judge: "s".into(),
            kind: RaterKind::Score,
            weight: 1.0,
            reliability: 1.0,
            mean: 0.5,
            deviation: 0.5,
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.jsonl");
        fs::write(&path, format!("{row}\n")).unwrap();
        check_pairs(&path, &[scale], 2.0).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pair_that_its_verdicts_do_not_support_is_found() {
        assert_eq!(checked(&row()), Ok(1));
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut row = row();
            change(&mut row);
            checked(&row).unwrap_err()
        };
        let swapped = changed(&|row| {
            row["chosen_index"] = 1.into();
            row["rejected_index"] = 0.into();
        });
        assert!(
            swapped.contains("pairs.jsonl:1: ") && swapped.contains("the verdicts give scores"),
            "{swapped}"
        );
        assert!(
            changed(&|row| row["verdicts"][0]["value"] = 0.5.into()).contains("the verdicts give scores")
        );
        assert!(changed(&|row| row["margin"] = 1.into()).contains("a margin of 1"));
        assert!(changed(&|row| row["verdicts"] = json!([])).contains("a response without a score"));
        assert!(changed(&|row| row["chosen_index"] = 7.into()).contains("a response without a score"));
    }
}
