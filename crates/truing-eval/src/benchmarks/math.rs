//! Mathematical problems with an answer that a program can compare: GSM8K (Cobbe et al. 2021, arXiv
//! 2110.14168), MATH (Hendrycks et al. 2021, arXiv 2103.03874), SVAMP (Patel et al. 2021, arXiv 2103.07191),
//! MGSM (Shi et al. 2022, arXiv 2210.03057).
//!
//! Three readings of one answer stand side by side: the verifier of training (`verifier`), and
//! lm-evaluation-harness's two (`strict-match`, `flexible-extract`). Prompts are lm-evaluation-harness's.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;
use truing_data::ObjectRow;
use truing_reward::verifiers::math_answer::{MathAnswer, MathAnswerConfig, extract_answer};
use truing_types::{SamplingOptions, Unscored};

use super::loading::shot_rows;
use super::{
    Answers, Ask, Benchmark, BenchmarkError, CompletionPrompt, Item, ItemScore, MetricInfo, Prompt,
    Recipient, Request, Row, Scoring, TaskOptions, verified,
};

/// A problem as its row has it.
struct Problem {
    question: String,
    /// An answer, or a solution with a marked answer.
    reference: String,
    /// What a solved example shows after its question.
    solution: String,
    /// Texts that end the answer.
    stop: Vec<String>,
    categories: Vec<(&'static str, String)>,
}

/// A set of problems.
pub(super) struct MathTask {
    name: &'static str,
    about: &'static str,
    default_shots: usize,
    /// Between a question and its answer.
    delimiter: &'static str,
    /// Whether lm-evaluation-harness's readings apply.
    filters: &'static [Filter],
    read: fn(Row<'_>) -> Result<Problem, BenchmarkError>,
}

/// A reading of lm-evaluation-harness.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filter {
    /// The number after `####`.
    Strict,
    /// The last number.
    Flexible,
}

impl Filter {
    fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict-match",
            Self::Flexible => "flexible-extract",
        }
    }

    /// What the reading finds in an answer.
    fn extract(self, text: &str) -> Option<String> {
        static STRICT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"#### (-?[0-9.,]+)").ok());
        static FLEXIBLE: LazyLock<Option<Regex>> =
            LazyLock::new(|| Regex::new(r"(-?[$0-9.,]{2,})|(-?[0-9]+)").ok());
        let found = match self {
            Self::Strict => STRICT.as_ref()?.captures(text)?.get(1)?.as_str(),
            Self::Flexible => FLEXIBLE.as_ref()?.find_iter(text).last()?.as_str(),
        };
        Some(found.trim().to_owned())
    }
}

/// What lm-evaluation-harness compares: without commas, dollars, what precedes `####` and a full stop at the
/// end, in small letters.
fn bare(text: &str) -> String {
    let text = text.replace([',', '$'], "");
    let text = text.rsplit_once("#### ").map_or(text.as_str(), |(_, answer)| answer);
    text.strip_suffix('.').unwrap_or(text).to_lowercase()
}

fn number_text(row: Row<'_>, column: &str) -> Result<String, BenchmarkError> {
    match row.value(column, "a number or a text")? {
        // 3.0 is 3.
        Value::Number(number) => Ok(match number.as_f64() {
            Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => format!("{value:.0}"),
            _ => number.to_string(),
        }),
        Value::String(text) => Ok(text.clone()),
        other => Err(row.bad(column, other, "a number or a text")),
    }
}

const GSM8K_STOP: [&str; 3] = ["Question:", "</s>", "<|im_end|>"];

fn stops(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

pub(super) static GSM8K: MathTask = MathTask {
    name: "gsm8k",
    about: "GSM8K: grade-school word problems (arXiv 2110.14168)",
    default_shots: 5,
    delimiter: " ",
    filters: &[Filter::Strict, Filter::Flexible],
    read: |row| {
        Ok(Problem {
            question: format!("Question: {}\nAnswer:", row.text("question")?),
            reference: row.text("answer")?.to_owned(),
            solution: row.text("answer")?.to_owned(),
            stop: stops(&GSM8K_STOP),
            categories: Vec::new(),
        })
    },
};

pub(super) static MATH: MathTask = MathTask {
    name: "math",
    about: "MATH: competition problems with a boxed answer (arXiv 2103.03874)",
    default_shots: 0,
    delimiter: " ",
    filters: &[],
    read: |row| {
        let reference = row.optional_text("answer")?.map_or_else(|| row.text("solution"), Ok)?;
        let solution = row.optional_text("solution")?.unwrap_or(reference);
        let mut categories = Vec::new();
        for (dimension, columns) in [("subject", &["type", "subject"][..]), ("level", &["level"])] {
            if let Some(column) = columns.iter().find(|column| row.get(column).is_some()) {
                categories.push((dimension, row.name(column)?));
            }
        }
        Ok(Problem {
            question: format!("Problem: {}\nAnswer:", row.text("problem")?),
            reference: reference.to_owned(),
            solution: solution.to_owned(),
            stop: stops(&["Problem:"]),
            categories,
        })
    },
};

pub(super) static SVAMP: MathTask = MathTask {
    name: "svamp",
    about: "SVAMP: short word problems in varied wordings (arXiv 2103.07191)",
    default_shots: 0,
    delimiter: " ",
    filters: &[Filter::Flexible],
    read: |row| {
        let [body, question] = [row.text("Body")?, row.text("Question")?].map(str::trim);
        let mut end = "";
        if !body.ends_with(['.', '?', '!', ',']) {
            end = ".";
        }
        let answer = number_text(row, "Answer")?;
        let kind = row.optional_text("Type")?.map(|kind| ("type", kind.to_owned()));
        Ok(Problem {
            question: format!("Question: {body}{end} {question}\nAnswer:"),
            reference: answer.clone(),
            solution: answer,
            stop: stops(&GSM8K_STOP),
            categories: kind.into_iter().collect(),
        })
    },
};

/// Code, the word for a question and the word for an answer of each language of MGSM, as lm-evaluation-harness
/// has them.
const LANGUAGES: [(&str, &str, &str); 11] = [
    ("bn", "প্রশ্ন: ", "Answer:"),
    ("de", "Frage: ", "Antwort:"),
    ("en", "Question: ", "Answer:"),
    ("es", "Pregunta: ", "Respuesta:"),
    ("fr", "Question : ", "Réponse :"),
    ("ja", "問題： ", "Answer:"),
    ("ru", "Задача: ", "Answer:"),
    ("sw", "Swali: ", "Answer:"),
    ("te", "ప్రశ్న: ", "Answer:"),
    ("th", "โจทย์: ", "Answer:"),
    ("zh", "问题： ", "Answer:"),
];

pub(super) static MGSM: MathTask = MathTask {
    name: "mgsm",
    about: "MGSM: GSM8K in eleven languages (arXiv 2210.03057)",
    default_shots: 0,
    delimiter: "",
    filters: &[Filter::Flexible],
    read: |row| {
        let codes = || LANGUAGES.map(|(code, ..)| code).join(", ");
        // The files are named after their language, `mgsm_zh.tsv`.
        let stem =
            Path::new(&*row.origin().source).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let of_file = stem.split(['_', '.', '-']).rfind(|part| part.len() == 2);
        let code = row.optional_text("language")?.or(of_file).unwrap_or("en").to_lowercase();
        let known = LANGUAGES.iter().find(|(known, ..)| *known == code);
        let Some((_, question_word, answer_word)) = known else {
            return Err(row.bad("language", &code.clone().into(), format!("one of {}", codes())));
        };
        let column = if row.get("answer_number").is_some() { "answer_number" } else { "answer" };
        let answer = number_text(row, column)?;
        let question = row.text("question")?;
        // Rows with a worked answer begin with the word for a question already.
        let word = if row.get("answer_number").is_some() && row.get("answer").is_some() {
            ""
        } else {
            *question_word
        };
        let mut stop = stops(&["</s>", "<|im_end|>"]);
        stop.insert(0, question_word.trim_end().to_owned());
        Ok(Problem {
            question: format!("{word}{question}\n{answer_word}"),
            reference: answer.clone(),
            solution: row.optional_text("answer")?.map_or(answer, str::to_owned),
            stop,
            categories: vec![("language", code)],
        })
    },
};

/// Column of an item's row that the verifier reads.
const REFERENCE: &str = "reference";

fn verifier_metric() -> MetricInfo {
    MetricInfo::share("exact_match").filter("verifier")
}

impl Benchmark for MathTask {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        self.about
    }

    fn default_shots(&self) -> usize {
        self.default_shots
    }

    fn metrics(&self, _: &TaskOptions) -> Vec<MetricInfo> {
        let others = self.filters.iter().map(|filter| MetricInfo::share("exact_match").filter(filter.name()));
        std::iter::once(verifier_metric()).chain(others).collect()
    }

    fn items(&self, rows: &[ObjectRow], options: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        let item = |row: &ObjectRow| {
            let problem = (self.read)(Row(row))?;
            // One way of reading would call it wrong and another unscored.
            if problem.reference.trim().is_empty() {
                return Err(Row(row).bad("answer", &Value::from(""), "a reference answer that is not empty"));
            }
            let mut prompt = CompletionPrompt::new(problem.question);
            prompt.delimiter = self.delimiter.to_owned();
            prompt.description = options.description.clone().unwrap_or_default();
            for shot in shot_rows(self, row, options, |_| true) {
                let shot = (self.read)(Row(shot))?;
                prompt.shots.push((shot.question, shot.solution));
            }
            let id = Row(row).name_or_line(&["id", "ID", "unique_id"])?;
            let mut item = Item::new(id, Row(row), Prompt::Completion(prompt), problem.reference.clone());
            item.add(REFERENCE, problem.reference.into());
            item.add("stop", problem.stop.into());
            item.categories =
                problem.categories.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            Ok(item)
        };
        rows.iter().map(item).collect()
    }

    fn requests(&self, item: &Item, _: &Answers, _: &TaskOptions) -> Vec<Request> {
        let stop = item.row.get("stop").and_then(Value::as_array).into_iter().flatten();
        let sampling = SamplingOptions {
            max_new_tokens: 1024,
            stop: stop.filter_map(|text| text.as_str().map(str::to_owned)).collect(),
            ..SamplingOptions::default()
        };
        let ask = Ask::Generate { prompt: item.prompt.clone(), sampling };
        vec![Request { id: "answer".into(), to: Recipient::Model, ask }]
    }

    fn score(&self, scored: &[(&Item, &Answers)], _: &TaskOptions, _: &Scoring<'_>) -> Vec<ItemScore> {
        let config = MathAnswerConfig { column: REFERENCE.into(), ..MathAnswerConfig::default() };
        let by_verifier = verified(&mut MathAnswer(config), scored, "answer");
        let score = |((item, answers), verdict): (&(&Item, &Answers), Result<f64, Unscored>)| {
            let mut score = ItemScore::default();
            let text = answers.text("answer");
            if let Ok(text) = &text {
                score.extracted.insert("verifier".into(), extract_answer(text, false));
            }
            score.set(&verifier_metric(), verdict);
            for filter in self.filters {
                let metric = MetricInfo::share("exact_match").filter(filter.name());
                let found = text.clone().map(|text| {
                    let found = filter.extract(text);
                    let is_right =
                        found.as_ref().is_some_and(|found| bare(found) == bare(item.text(REFERENCE)));
                    score.extracted.insert(filter.name().into(), found);
                    is_right
                });
                score.set(&metric, found);
            }
            score
        };
        scored.iter().zip(by_verifier).map(score).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_those_of_lm_evaluation_harness() {
        // Python's re on the same patterns.
        for (text, strict, flexible) in [
            ("So 3 + 4 = 7.\n#### 7", Some("7"), Some("7")),
            ("#### 1,234. That is all 5", Some("1,234."), Some("5")),
            ("It is $18.", None, Some("$18.")),
            ("no number", None, None),
            ("-5 and -12", None, Some("-12")),
        ] {
            assert_eq!(Filter::Strict.extract(text).as_deref(), strict, "{text}");
            assert_eq!(Filter::Flexible.extract(text).as_deref(), flexible, "{text}");
        }
        assert_eq!(bare("He has 5.\n#### 1,018"), "1018");
        assert_eq!(bare("$18."), "18");
    }
}
