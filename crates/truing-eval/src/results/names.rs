//! The names of files and models as lm-evaluation-harness 0.4.13 writes them.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// The results in the form of lm-evaluation-harness, in the run's folder.
pub const HARNESS_RESULTS: &str = "results_lm_eval.json";

/// Before the date of a file with results as lm-evaluation-harness names it.
const DATED_RESULTS: &str = "results_";
/// The end of it.
const JSON: &str = ".json";

/// The name of the results in the form of lm-evaluation-harness: `results_<date>.json`, or [`HARNESS_RESULTS`] without
/// a date.
#[must_use]
pub fn harness_results_name(date: Option<f64>) -> String {
    date.map_or_else(|| HARNESS_RESULTS.to_owned(), |date| format!("{DATED_RESULTS}{}{JSON}", date_id(date)))
}

/// The name of a task's samples in the form of lm-evaluation-harness: `samples_<task>_<date>.jsonl`, or
/// `samples_<task>.jsonl` without a date.
#[must_use]
pub fn harness_samples_name(task: &str, date: Option<f64>) -> String {
    match date {
        Some(date) => format!("samples_{task}_{}.jsonl", date_id(date)),
        None => format!("samples_{task}.jsonl"),
    }
}

/// The file in a run's folder with its results in the form of lm-evaluation-harness, the newest where there are
/// several.
#[must_use]
pub fn find_harness_results(folder: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let is_dated = |name: &String| {
        let date = name.strip_prefix(DATED_RESULTS).and_then(|rest| rest.strip_suffix(JSON));
        date.is_some_and(|date| date.starts_with(|first: char| first.is_ascii_digit()))
    };
    let newest = names.filter(is_dated).max().map(|name| folder.join(name));
    newest.or_else(|| Some(folder.join(HARNESS_RESULTS)).filter(|path| path.is_file()))
}

/// A moment, in seconds since 1970, in the names of files: `2026-01-31T23-59-58.250000` in UTC, Python's `isoformat`
/// without colons.
fn date_id(seconds: f64) -> String {
    let micros = (seconds.max(0.0) * 1e6).round() as i64;
    let moment = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX);
    moment.strftime("%Y-%m-%dT%H-%M-%S.%6f").to_string()
}

/// The name of a model as a folder's name: runs of signs that file systems refuse become `__`.
pub(super) fn sanitized(model: &str) -> String {
    let mut name = String::new();
    let mut is_in_run = false;
    for letter in model.chars() {
        let is_refused = matches!(letter, '"' | '<' | '>' | ':' | '/' | '|' | '\\' | '?' | '*' | '[' | ']');
        match (is_refused, is_in_run) {
            (true, false) => name.push_str("__"),
            (true, true) => {}
            (false, _) => name.push(letter),
        }
        is_in_run = is_refused;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_lm_evaluation_harness() {
        // datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace(":", "-"), with all digits of the second
        for (seconds, expected) in [
            (1_769_903_998.25, "2026-01-31T23-59-58.250000"),
            (1_709_164_800.0, "2024-02-29T00-00-00.000000"),
            (951_912_309.000_001, "2000-03-01T12-05-09.000001"),
            (0.0, "1970-01-01T00-00-00.000000"),
            (-1.0, "1970-01-01T00-00-00.000000"),
            (1e300, "9999-12-30T22-00-00.999999"),
        ] {
            assert_eq!(date_id(seconds), expected);
        }
        let date = Some(1_709_164_800.0);
        assert_eq!(harness_results_name(date), "results_2024-02-29T00-00-00.000000.json");
        // lm_eval.utils.get_file_task_name gives `gsm8k_cot` of it: from the first `_` to the last.
        let samples = "samples_gsm8k_cot_2024-02-29T00-00-00.000000.jsonl";
        assert_eq!(harness_samples_name("gsm8k_cot", date), samples);
        assert_eq!(harness_samples_name("gsm8k", None), "samples_gsm8k.jsonl");
        // lm_eval.utils.sanitize_model_name
        assert_eq!(sanitized("org/model:v1"), "org__model__v1");
        assert_eq!(sanitized("a//b c"), "a__b c");
    }

    #[test]
    fn the_newest_results_are_found() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(find_harness_results(folder.path()), None);
        let write = |name: &str| std::fs::write(folder.path().join(name), "{}").unwrap();
        let found = || find_harness_results(folder.path()).map(|path| path.file_name().unwrap().to_owned());
        write(HARNESS_RESULTS);
        assert_eq!(found().unwrap(), HARNESS_RESULTS);
        for date in [1_709_164_800.0, 1_769_903_998.25, 951_912_309.0] {
            write(&harness_results_name(Some(date)));
        }
        assert_eq!(found().unwrap(), "results_2026-01-31T23-59-58.250000.json");
    }
}
