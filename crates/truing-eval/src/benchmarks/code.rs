//! Programs that have to pass tests: HumanEval (Chen et al. 2021, arXiv 2107.03374) and MBPP (Austin et al.
//! 2021, arXiv 2108.07732), run in the sandbox by the verifier of training; unbiased pass@k of several samples.

use truing_data::ObjectRow;
use truing_reward::verifiers::code::{Code, CodeConfig};
use truing_statistics::pass_at_k;
use truing_types::{SamplingOptions, Unscored, UnscoredReason};

use super::loading::shot_rows;
use super::{
    Answers, Ask, Benchmark, BenchmarkError, CompletionPrompt, Item, ItemScore, MetricInfo, Prompt,
    Recipient, Request, Row, Scoring, TaskOptions, verified,
};

/// Samples that pass@k is estimated for.
const KS: [usize; 5] = [1, 5, 10, 50, 100];

/// How a program is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A function whose head is given, in a chat.
    Function,
    /// The same as a text that is continued.
    Continuation,
    /// A task with three tests, as lm-evaluation-harness shows it.
    Task,
}

pub(super) struct Programs {
    name: &'static str,
    about: &'static str,
    default_shots: usize,
    shape: Shape,
}

pub(super) static HUMANEVAL: Programs = Programs {
    name: "humaneval",
    about: "HumanEval: Python functions that pass tests, requested in a chat (arXiv 2107.03374)",
    default_shots: 0,
    shape: Shape::Function,
};
pub(super) static HUMANEVAL_COMPLETION: Programs = Programs {
    name: "humaneval_completion",
    about: "HumanEval: Python functions that pass tests, as text that is continued (arXiv 2107.03374)",
    default_shots: 0,
    shape: Shape::Continuation,
};
pub(super) static MBPP: Programs = Programs {
    name: "mbpp",
    about: "MBPP: short Python programs that pass tests (arXiv 2108.07732)",
    default_shots: 3,
    shape: Shape::Task,
};

impl Programs {
    fn task_text(row: Row<'_>) -> Result<String, BenchmarkError> {
        let column = if row.get("text").is_some() { "text" } else { "prompt" };
        let tests = row.texts("test_list")?;
        Ok(format!(
            "You are an expert Python programmer, and here is your task: {} Your code should pass these \
             tests:\n\n{}\n[BEGIN]\n",
            row.text(column)?,
            tests.iter().take(3).copied().collect::<Vec<_>>().join("\n")
        ))
    }

    fn prompt(&self, row: &ObjectRow, options: &TaskOptions) -> Result<Prompt, BenchmarkError> {
        let text = |column| Row(row).text(column);
        Ok(match self.shape {
            Shape::Function => Prompt::user(format!(
                "Complete this Python function. Reply with the whole function, with what it imports, in one \
                 ```python block.\n\n```python\n{}\n```",
                text("prompt")?.trim_end()
            )),
            Shape::Continuation => {
                let prompt = CompletionPrompt::new(text("prompt")?);
                Prompt::Completion(CompletionPrompt { delimiter: String::new(), ..prompt })
            }
            Shape::Task => {
                let mut prompt = CompletionPrompt::new(Self::task_text(Row(row))?);
                prompt.delimiter = String::new();
                for shot in shot_rows(self, row, options, |_| true) {
                    let shot = Row(shot);
                    prompt.shots.push((Self::task_text(shot)?, format!("{}\n[DONE]", shot.text("code")?)));
                }
                Prompt::Completion(prompt)
            }
        })
    }

    fn stop(&self) -> Vec<String> {
        let texts: &[&str] = match self.shape {
            Shape::Function => &[],
            Shape::Continuation => &["\nclass", "\ndef", "\n#", "\nif", "\nprint"],
            Shape::Task => &["[DONE]"],
        };
        texts.iter().map(|&text| text.to_owned()).collect()
    }
}

fn n_samples(options: &TaskOptions) -> usize {
    options.n_samples.unwrap_or(1).max(1)
}

impl Benchmark for Programs {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        self.about
    }

    fn default_shots(&self) -> usize {
        self.default_shots
    }

    fn metrics(&self, options: &TaskOptions) -> Vec<MetricInfo> {
        let n = n_samples(options);
        KS.iter().filter(|&&k| k <= n).map(|k| MetricInfo::share(format!("pass@{k}"))).collect()
    }

    fn items(&self, rows: &[ObjectRow], options: &TaskOptions) -> Result<Vec<Item>, BenchmarkError> {
        let item = |row: &ObjectRow| {
            let prompt = self.prompt(row, options)?;
            let row = Row(row);
            let target = match self.shape {
                Shape::Task => row.texts("test_list")?.join("\n"),
                _ => {
                    row.text("entry_point")?;
                    row.text("test")?.to_owned()
                }
            };
            Ok(Item::new(row.name("task_id")?, row, prompt, target))
        };
        rows.iter().map(item).collect()
    }

    fn requests(&self, item: &Item, _: &Answers, options: &TaskOptions) -> Vec<Request> {
        let n = n_samples(options);
        // One sample is the likeliest one; several are drawn as in the paper.
        let (temperature, top_p) = if n == 1 { (0.0, 1.0) } else { (0.8, 0.95) };
        let request = |sample: usize| {
            let sampling = SamplingOptions {
                max_new_tokens: 1024,
                temperature,
                top_p,
                seed: sample as u64,
                stop: self.stop(),
                ..SamplingOptions::default()
            };
            let ask = Ask::Generate { prompt: item.prompt.clone(), sampling };
            Request { id: format!("sample{sample}"), to: Recipient::Model, ask }
        };
        (0..n).map(request).collect()
    }

    fn score(
        &self,
        scored: &[(&Item, &Answers)],
        options: &TaskOptions,
        scoring: &Scoring<'_>,
    ) -> Vec<ItemScore> {
        let n = n_samples(options);
        let infos = self.metrics(options);
        let Some(program) = scoring.sandbox_program else {
            let why =
                Unscored::new(UnscoredReason::NoSandbox, "no program was given that can start the sandbox");
            return scored.iter().map(|_| ItemScore::unscored(&infos, &why)).collect();
        };
        let mut verifier = match Code::new(CodeConfig::default(), program.to_path_buf()) {
            Ok(verifier) => verifier,
            Err(error) => {
                let why = Unscored::new(UnscoredReason::NoSandbox, error.to_string());
                return scored.iter().map(|_| ItemScore::unscored(&infos, &why)).collect();
            }
        };
        let samples: Vec<Vec<Result<f64, Unscored>>> =
            (0..n).map(|sample| verified(&mut verifier, scored, &format!("sample{sample}"))).collect();
        let score = |place: usize| {
            let mut score = ItemScore::default();
            let verdicts: Result<Vec<f64>, Unscored> =
                samples.iter().map(|sample| sample[place].clone()).collect();
            for (info, &k) in infos.iter().zip(KS.iter().filter(|&&k| k <= n)) {
                let measure = verdicts.as_ref().map_err(Clone::clone).map(|verdicts| {
                    let n_right = verdicts.iter().filter(|verdict| **verdict == 1.0).count();
                    pass_at_k(n, n_right, k).unwrap_or(f64::NAN)
                });
                score.set(info, measure);
            }
            if let Ok(verdicts) = verdicts {
                score
                    .details
                    .insert("passed".into(), verdicts.iter().map(|verdict| *verdict == 1.0).collect());
            }
            score
        };
        (0..scored.len()).map(score).collect()
    }
}
