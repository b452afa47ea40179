//! Multiple choice: MMLU (Hendrycks et al. 2020, arXiv 2009.03300), ARC (Clark et al. 2018, arXiv 1803.05457),
//! HellaSwag (Zellers et al. 2019, arXiv 1905.07830), C-Eval (Huang et al. 2023, arXiv 2305.08322), by the
//! likelihood of the options with prompts and metrics of lm-evaluation-harness, and by an answer that is
//! written.
//!
//! `acc` takes the option with the largest log-likelihood, `acc_norm` that with the largest per character of
//! the option, `acc_bytes` per byte in UTF-8. The first of equal ones counts, as numpy's argmax has it.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;
use truing_data::ObjectRow;
use truing_reward::verifiers::math_answer::{MathAnswer, MathAnswerConfig, extract_answer};
use truing_types::{SamplingOptions, Unscored};

use super::loading::shot_rows;
use super::{
    Answers, Ask, Benchmark, BenchmarkError, CompletionPrompt, Item, ItemScore, LogLikelihood, MetricInfo,
    Prompt, Recipient, Request, Row, Scoring, TaskOptions, verified,
};

/// A question with its options as the model sees them.
struct Question {
    text: String,
    /// What is scored: letters, or the options' texts.
    options: Vec<String>,
    /// Index of the right one.
    right: usize,
    description: String,
    categories: Vec<(&'static str, String)>,
}

/// How an option is chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Likelihood,
    Generation,
}

pub(super) struct MultipleChoice {
    name: &'static str,
    about: &'static str,
    default_shots: usize,
    by: By,
    read: fn(Row<'_>) -> Result<Question, BenchmarkError>,
}

const LETTERS: [&str; 26] = [
    "A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O", "P", "Q", "R", "S", "T", "U",
    "V", "W", "X", "Y", "Z",
];

pub(super) static MMLU: MultipleChoice = MultipleChoice {
    name: "mmlu",
    about: "MMLU: questions of 57 subjects, by likelihood of the letter (arXiv 2009.03300)",
    default_shots: 5,
    by: By::Likelihood,
    read: mmlu,
};
pub(super) static MMLU_GENERATE: MultipleChoice = MultipleChoice {
    name: "mmlu_generate",
    about: "MMLU, by the letter that is written (arXiv 2009.03300)",
    default_shots: 0,
    by: By::Generation,
    read: mmlu,
};
pub(super) static ARC: MultipleChoice = MultipleChoice {
    name: "arc",
    about: "ARC: grade-school science, by likelihood of the option (arXiv 1803.05457)",
    default_shots: 0,
    by: By::Likelihood,
    read: arc,
};
pub(super) static ARC_GENERATE: MultipleChoice = MultipleChoice {
    name: "arc_generate",
    about: "ARC, by the letter that is written (arXiv 1803.05457)",
    default_shots: 0,
    by: By::Generation,
    read: arc,
};
pub(super) static HELLASWAG: MultipleChoice = MultipleChoice {
    name: "hellaswag",
    about: "HellaSwag: sentence completion, by likelihood (arXiv 1905.07830)",
    default_shots: 0,
    by: By::Likelihood,
    read: hellaswag,
};
pub(super) static CEVAL: MultipleChoice = MultipleChoice {
    name: "ceval",
    about: "C-Eval: Chinese examinations of 52 subjects, by likelihood of the letter (arXiv 2305.08322)",
    default_shots: 5,
    by: By::Likelihood,
    read: ceval,
};
pub(super) static CEVAL_GENERATE: MultipleChoice = MultipleChoice {
    name: "ceval_generate",
    about: "C-Eval, by the letter that is written (arXiv 2305.08322)",
    default_shots: 0,
    by: By::Generation,
    read: ceval,
};

/// Question and lettered options on lines of their own.
fn lettered(question: &str, options: &[&str], end: &str) -> String {
    let lines: Vec<String> =
        LETTERS.iter().zip(options).map(|(letter, option)| format!("{letter}. {option}")).collect();
    format!("{}\n{}\n{end}", question.trim(), lines.join("\n"))
}

fn letters(n: usize) -> Vec<String> {
    LETTERS.iter().take(n).map(|&letter| letter.to_owned()).collect()
}

/// The index of the right option, written as its index or its letter.
fn right_option(row: Row<'_>, column: &str, n: usize) -> Result<usize, BenchmarkError> {
    let value = row.value(column, "the index or the letter of the right option")?;
    let by_letter = |text: &str| LETTERS.iter().position(|letter| letter.eq_ignore_ascii_case(text.trim()));
    let index = match value {
        Value::String(text) => text.trim().parse().ok().or_else(|| by_letter(text)),
        Value::Number(number) => number.as_u64().and_then(|number| usize::try_from(number).ok()),
        _ => None,
    };
    index.filter(|&index| index < n).ok_or_else(|| {
        row.bad(column, value, format!("the index (from 0) or the letter of one of {n} options"))
    })
}

fn check_options(row: Row<'_>, column: &str, n: usize) -> Result<(), BenchmarkError> {
    match (2..=LETTERS.len()).contains(&n) {
        true => Ok(()),
        false => Err(row.bad(column, &Value::from(n), "from 2 to 26 options")),
    }
}

fn mmlu(row: Row<'_>) -> Result<Question, BenchmarkError> {
    let options = row.texts("choices")?;
    check_options(row, "choices", options.len())?;
    let subject = row.optional_text("subject")?.unwrap_or_default();
    let description = match subject.is_empty() {
        true => String::new(),
        false => format!(
            "The following are multiple choice questions (with answers) about {}.\n\n",
            subject.replace('_', " ")
        ),
    };
    Ok(Question {
        text: lettered(row.text("question")?, &options, "Answer:"),
        options: letters(options.len()),
        right: right_option(row, "answer", options.len())?,
        description,
        categories: (!subject.is_empty()).then(|| ("subject", subject.to_owned())).into_iter().collect(),
    })
}

fn arc(row: Row<'_>) -> Result<Question, BenchmarkError> {
    let value = row.value("choices", "an object with `text` and `label`")?;
    let list = |name: &str| -> Result<Vec<String>, BenchmarkError> {
        let texts = value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let texts: Option<Vec<String>> = texts.iter().map(|text| text.as_str().map(str::to_owned)).collect();
        texts.ok_or_else(|| row.bad("choices", value, "an object with lists of texts `text` and `label`"))
    };
    let (texts, labels) = (list("text")?, list("label")?);
    check_options(row, "choices", texts.len())?;
    let key = row.text("answerKey")?;
    let right = labels.iter().position(|label| label == key).filter(|&right| right < texts.len());
    let right = right.ok_or_else(|| {
        row.bad("answerKey", &key.into(), format!("one of the labels {}", labels.join(", ")))
    })?;
    Ok(Question {
        text: format!("Question: {}\nAnswer:", row.text("question")?),
        options: texts,
        right,
        description: String::new(),
        categories: Vec::new(),
    })
}

/// The cleaning of lm-evaluation-harness: marks of the WikiHow part are removed.
fn cleaned(text: &str) -> String {
    static BRACKETS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\[.*?\]").ok());
    let text = text.trim().replace(" [title]", ". ");
    let text = match BRACKETS.as_ref() {
        Some(brackets) => brackets.replace_all(&text, "").into_owned(),
        None => text,
    };
    text.replace("  ", " ")
}

/// Python's `capitalize`: the first letter large, all others small.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters.as_str().to_lowercase().chars()).collect(),
        None => String::new(),
    }
}

fn hellaswag(row: Row<'_>) -> Result<Question, BenchmarkError> {
    let endings = row.texts("endings")?;
    check_options(row, "endings", endings.len())?;
    let context =
        format!("{} {}", row.text("ctx_a")?, capitalized(row.optional_text("ctx_b")?.unwrap_or_default()));
    let activity = row.text("activity_label")?;
    Ok(Question {
        text: cleaned(&format!("{activity}: {context}")),
        options: endings.iter().map(|ending| cleaned(ending)).collect(),
        right: right_option(row, "label", endings.len())?,
        description: String::new(),
        categories: Vec::new(),
    })
}

fn ceval(row: Row<'_>) -> Result<Question, BenchmarkError> {
    let options = [row.text("A")?, row.text("B")?, row.text("C")?, row.text("D")?];
    let subject = row.optional_text("subject")?.unwrap_or_default();
    let description = match subject.is_empty() {
        true => String::new(),
        false => format!("以下是中国关于{subject}的单项选择题，请选出其中的正确答案。\n\n"),
    };
    Ok(Question {
        text: lettered(row.text("question")?, &options, "答案："),
        options: letters(4),
        right: right_option(row, "answer", 4)?,
        description,
        categories: (!subject.is_empty()).then(|| ("subject", subject.to_owned())).into_iter().collect(),
    })
}

/// Index of the largest value, the first of equal ones.
fn argmax(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, value) in values.enumerate() {
        if value > best.1 {
            best = (i, value);
        }
    }
    best.0
}

/// The choices by likelihood: plain, per character, per byte.
fn choices(options: &[String], likelihoods: &[LogLikelihood]) -> [usize; 3] {
    let per = |length: fn(&str) -> usize| {
        argmax(likelihoods.iter().zip(options).map(|(one, option)| one.sum / length(option) as f64))
    };
    [argmax(likelihoods.iter().map(|one| one.sum)), per(|option| option.chars().count()), per(str::len)]
}

/// Column with the subject of a question.
const SUBJECT: &str = "subject";
const OPTIONS: &str = "options";
const RIGHT: &str = "right";
/// The letter of the right option, for the verifier.
const LETTER: &str = "letter";

fn options_of(item: &Item) -> Vec<String> {
    let options = item.row.get(OPTIONS).and_then(Value::as_array).into_iter().flatten();
    options.filter_map(|option| option.as_str().map(str::to_owned)).collect()
}

impl MultipleChoice {
    fn prompt(
        &self,
        row: &ObjectRow,
        question: &Question,
        options: &TaskOptions,
    ) -> Result<Prompt, BenchmarkError> {
        if self.by == By::Generation {
            return Ok(Prompt::user(written_question(question)));
        }
        let mut prompt = CompletionPrompt::new(question.text.clone());
        prompt.description = options.description.clone().unwrap_or_else(|| question.description.clone());
        // Where both say their subject, as the rows of MMLU and C-Eval do, examples are of the question's own.
        let subject = row.object.get(SUBJECT);
        let is_of_subject = |shot: &ObjectRow| {
            subject.is_none() || shot.object.get(SUBJECT).is_none_or(|of_shot| Some(of_shot) == subject)
        };
        for shot in shot_rows(self, row, options, is_of_subject) {
            let mut shot = (self.read)(Row(shot))?;
            prompt.shots.push((shot.text, shot.options.swap_remove(shot.right)));
        }
        let n_found = options.shots.iter().filter(|shot| is_of_subject(shot)).count();
        if let (Some(wanted), Some(subject)) = (options.n_shots, subject)
            && n_found < wanted
        {
            let expected =
                format!("a subject with {wanted} solved examples (`num_fewshot`); the file has {n_found}");
            return Err(Row(row).bad(SUBJECT, subject, expected));
        }
        Ok(Prompt::Completion(prompt))
    }
}

/// The question for an answer in words, with its options lettered.
fn written_question(question: &Question) -> String {
    let is_chinese = question.text.ends_with("答案：");
    let has_letters = question.options.first().is_some_and(|option| option == "A");
    let body = match has_letters {
        // The options are in the question; its last line asks for the answer.
        true => question.text.rsplit_once('\n').map_or(question.text.as_str(), |(body, _)| body).to_owned(),
        false => {
            let text = question.text.trim_start_matches("Question: ").trim_end_matches("\nAnswer:");
            let options: Vec<&str> = question.options.iter().map(String::as_str).collect();
            lettered(text, &options, "").trim_end().to_owned()
        }
    };
    match is_chinese {
        true => format!("{body}\n\n请思考后作答，最后一行写“答案是 (字母)”。"),
        false => format!("{body}\n\nThink about it, then end with the line \"The answer is (letter)\"."),
    }
}

impl Benchmark for MultipleChoice {
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
        match self.by {
            By::Likelihood => ["acc", "acc_norm", "acc_bytes"].map(MetricInfo::share).into(),
            By::Generation => vec![MetricInfo::share("exact_match").filter("verifier")],
        }
    }

    fn items(&self, rows: &[ObjectRow], options: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        let item = |row: &ObjectRow| {
            let question = (self.read)(Row(row))?;
            let prompt = self.prompt(row, &question, options)?;
            let id = Row(row).name_or_line(&["id", "ind", "question_id"])?;
            let target = match self.by {
                By::Likelihood => question.options[question.right].clone(),
                By::Generation => LETTERS[question.right].to_owned(),
            };
            let mut item = Item::new(id, Row(row), prompt, target);
            item.add(OPTIONS, question.options.into());
            item.add(RIGHT, question.right.into());
            item.add(LETTER, LETTERS[question.right].into());
            item.categories =
                question.categories.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            // Questions of a subject are numbered anew in each file.
            if let Some(subject) = item.categories.get("subject") {
                item.id = format!("{subject}/{}", item.id);
            }
            Ok(item)
        };
        rows.iter().map(item).collect()
    }

    fn requests(&self, item: &Item, _: &Answers, _: &TaskOptions) -> Vec<Request> {
        let ask = match self.by {
            By::Likelihood => Ask::LogLikelihood { context: item.prompt.clone(), options: options_of(item) },
            By::Generation => Ask::Generate {
                prompt: item.prompt.clone(),
                sampling: SamplingOptions { max_new_tokens: 1024, ..SamplingOptions::default() },
            },
        };
        vec![Request { id: "answer".into(), to: Recipient::Model, ask }]
    }

    fn score(&self, scored: &[(&Item, &Answers)], options: &TaskOptions, _: &Scoring<'_>) -> Vec<ItemScore> {
        let metrics = self.metrics(options);
        if self.by == By::Generation {
            let config = MathAnswerConfig { column: LETTER.into(), ..MathAnswerConfig::default() };
            let verdicts = verified(&mut MathAnswer(config), scored, "answer");
            let score = |((_, answers), verdict): (&(&Item, &Answers), Result<f64, Unscored>)| {
                let mut score = ItemScore::default();
                if let Ok(text) = answers.text("answer") {
                    score.extracted.insert("verifier".into(), extract_answer(text, false));
                }
                score.set(&metrics[0], verdict);
                score
            };
            return scored.iter().zip(verdicts).map(score).collect();
        }
        let score = |(item, answers): &(&Item, &Answers)| {
            let mut score = ItemScore::default();
            let options = options_of(item);
            let right =
                item.row.get(RIGHT).and_then(Value::as_u64).and_then(|right| usize::try_from(right).ok());
            let found =
                answers.log_likelihoods("answer", options.len()).map(|found| choices(&options, found));
            for (i, metric) in metrics.iter().enumerate() {
                score.set(metric, found.as_ref().map(|found| Some(found[i]) == right).map_err(Clone::clone));
            }
            if let Ok([plain, per_character, _]) = found {
                score.details.insert("choice".into(), plain.into());
                score.details.insert("choice_norm".into(), per_character.into());
            }
            score
        };
        scored.iter().map(score).collect()
    }
}
