//! What a task is made from, its parts while it is worked on, and how they are read from replies.

use truing_ask::pas::Language;

use super::config::CodeConfig;
use super::kinds::{CodeCategory, CodeDifficulty, ProgrammingLanguage};
use crate::build::Dropped;
use crate::build::texts::tagged;

/// What a task is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spec {
    pub(super) category: CodeCategory,
    pub(super) language: ProgrammingLanguage,
    pub(super) difficulty: CodeDifficulty,
    /// How many tasks about the topic came before.
    pub(super) variant: usize,
}

impl Spec {
    /// What the task of a row is to be. The categories change fastest, then the languages. In as many rows as there are
    /// triples, each triple of category, language and difficulty is used once.
    pub(super) fn of(settings: &CodeConfig, row: usize, n_topics: usize) -> Self {
        let place = Place::of(settings, row);
        Self {
            category: settings.categories[place.category],
            language: settings.languages[place.language],
            difficulty: settings.difficulties[place.sum() % settings.difficulties.len()],
            variant: row / n_topics.max(1),
        }
    }

    /// Whether its programs are run with tests.
    pub(super) fn has_tests(self) -> bool {
        self.language == ProgrammingLanguage::Python && self.category.wants_program()
    }

    /// What the row counts for in the coverage table. Rows that are run are counted apart from those only read.
    pub(super) fn kinds(self) -> Vec<String> {
        let checked = if self.has_tests() { "tests" } else { "checker" };
        vec![
            format!("category.{}", self.category.code()),
            format!("language.{}", self.language.code()),
            format!("difficulty.{}", self.difficulty.code()),
            format!("checked_by.{checked}"),
        ]
    }

    /// The parts of a task that the writer replies with, each between its tags, on a line of its own. None of these
    /// tags is one that is taken out of data.
    pub(super) fn outline(self, language: Language) -> String {
        let is_english = language == Language::En;
        let mut lines = vec![match is_english {
            true => "<request>what the user writes, without the code that the user shows</request>",
            false => "<request>用户写的话，不包括用户给出的代码</request>",
        }];
        if self.category.gives_code() {
            lines.push(match is_english {
                true => "<given_code>the code that the user shows</given_code>",
                false => "<given_code>用户给出的代码</given_code>",
            });
        }
        if self.has_tests() {
            lines.push(match is_english {
                true => "<solution>a complete program that does what is asked</solution>",
                false => "<solution>完成任务的完整程序</solution>",
            });
            lines.push(match is_english {
                true => {
                    "<tests>five or more `assert` statements that call the functions of the solution by the names that \
                     the task gives them, with ordinary cases and edge cases; without imports, input or output</tests>"
                }
                false => {
                    "<tests>五条以上的assert语句，用任务中规定的函数名调用解答中的函数，包括普通情形和边界情形；不要导入模块，\
                     不要输入输出</tests>"
                }
            });
        }
        lines.join("\n")
    }
}

/// The language that the task of a row is written in. Each triple of category, language and difficulty meets every one
/// equally often.
pub(super) fn prompt_language(settings: &CodeConfig, row: usize) -> Language {
    let (place, n_languages) = (Place::of(settings, row), settings.prompt_languages.len());
    let n_difficulties = settings.difficulties.len();
    // Where both would change together, the languages are shifted by one after each pass over the difficulties.
    let moved = if n_difficulties.is_multiple_of(n_languages) { place.cycle / n_difficulties } else { 0 };
    settings.prompt_languages[(place.sum() + moved) % n_languages]
}

/// The place of a row: its category, its language, and the number of complete passes over all pairs of both before it.
struct Place {
    category: usize,
    language: usize,
    cycle: usize,
}

impl Place {
    fn of(settings: &CodeConfig, row: usize) -> Self {
        let (n_categories, n_languages) = (settings.categories.len(), settings.languages.len());
        let turn = row / n_categories;
        Self { category: row % n_categories, language: turn % n_languages, cycle: turn / n_languages }
    }

    /// Differs between consecutive rows, and takes every value for each pair of category and language.
    fn sum(&self) -> usize {
        self.category + self.language + self.cycle
    }
}

/// The parts of a task.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Task {
    /// What the user sends: the text, and the code in a fence.
    pub(super) prompt: String,
    /// The code that the user shows.
    pub(super) given_code: Option<String>,
    /// A program that passes the tests; empty where nothing is run.
    pub(super) solution: String,
    /// Its tests; empty where nothing is run.
    pub(super) tests: String,
}

impl Task {
    /// Reads a reply. `None` where a part is missing.
    pub(super) fn read(reply: &str, spec: Spec) -> Option<Self> {
        let part = |tag: &str| tagged(reply, tag).map(without_fence).filter(|text| !text.is_empty());
        let text = tagged(reply, "request")?;
        let given_code = match spec.category.gives_code() {
            true => Some(part("given_code")?),
            false => None,
        };
        let (solution, tests) = match spec.has_tests() {
            true => (part("solution")?, part("tests")?),
            false => (String::new(), String::new()),
        };
        let prompt = match &given_code {
            Some(code) => format!("{text}\n\n{}", fenced(code, spec.language)),
            None => text.to_owned(),
        };
        Some(Self { prompt, given_code, solution, tests })
    }
}

/// A row while it is worked on.
#[derive(Debug, Clone, Default)]
pub(super) struct Draft {
    pub(super) task: Task,
    /// Faulty variants of the solution, and how many of them a test notices.
    pub(super) n_mutants: usize,
    pub(super) n_caught: usize,
    pub(super) response: Option<String>,
    pub(super) difficulty: Option<CodeDifficulty>,
    /// The deeper question and its answer.
    pub(super) follow_up: Option<(String, String)>,
    /// Why the last response was not used.
    pub(super) rejected: Option<Dropped>,
}

/// Code in a fence of its language.
pub(super) fn fenced(code: &str, language: ProgrammingLanguage) -> String {
    format!("```{}\n{}\n```", language.code(), code.trim_matches('\n'))
}

/// Whether a response has code in a fence.
pub(super) fn has_fence(response: &str) -> bool {
    response.contains("```")
}

/// Code without the fence around it, if there is one. Its indentation stays.
fn without_fence(text: &str) -> String {
    let inner = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    let inner = inner.and_then(|rest| rest.split_once('\n')).map(|(_, code)| code);
    inner.unwrap_or(text).trim_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn spec(category: CodeCategory, language: ProgrammingLanguage) -> Spec {
        Spec { category, language, difficulty: CodeDifficulty::Easy, variant: 0 }
    }

    #[test]
    fn tasks_have_the_parts_of_their_category() {
        let debugging = spec(CodeCategory::Debugging, ProgrammingLanguage::Python);
        let reply = "<request>It is wrong.</request>\n<given_code>\n```python\ndef f():\n    return 2\n```\n\
                     </given_code>\n\
                     <solution>def f():\n    return 1</solution><tests>assert f() == 1</tests>";
        let task = Task::read(reply, debugging).unwrap();
        assert_eq!(task.prompt, "It is wrong.\n\n```python\ndef f():\n    return 2\n```");
        assert_eq!(task.given_code.as_deref(), Some("def f():\n    return 2"));
        assert_eq!(
            (task.solution.as_str(), task.tests.as_str()),
            ("def f():\n    return 1", "assert f() == 1")
        );
        assert_eq!(Task::read(&reply.replace("</tests>", ""), debugging), None);
        assert_eq!(Task::read(&reply.replace("given_code", "code"), debugging), None);
        let question = spec(CodeCategory::KnowledgeQa, ProgrammingLanguage::Python);
        let task = Task::read("<request>What is a list?</request>", question).unwrap();
        assert_eq!(
            (task.prompt.as_str(), task.given_code, task.tests.as_str()),
            ("What is a list?", None, "")
        );
    }

    #[test]
    fn every_triple_comes_up_equally_often_in_each_language() {
        let default = CodeConfig::default;
        let (easy, medium) = (CodeDifficulty::Easy, CodeDifficulty::Medium);
        for settings in [default(), CodeConfig { difficulties: vec![easy, medium], ..default() }] {
            let n_triples =
                settings.categories.len() * settings.languages.len() * settings.difficulties.len();
            let mut n_of: BTreeMap<_, [usize; 2]> = BTreeMap::new();
            for row in 0..2 * n_triples {
                let Spec { category, language, difficulty, .. } = Spec::of(&settings, row, 31);
                let n_of_triple = n_of.entry((category, language, difficulty)).or_default();
                n_of_triple[prompt_language(&settings, row) as usize] += 1;
            }
            assert_eq!(n_of.len(), n_triples);
            assert!(n_of.values().all(|n_of_triple| *n_of_triple == [1, 1]), "{n_of:?}");
        }
        let few = (0..15).map(|row| Spec::of(&default(), row, 31).difficulty);
        assert_eq!(few.filter(|difficulty| *difficulty == easy).count(), 5);
    }

    #[test]
    fn rows_that_are_run_are_counted_apart() {
        let kind = |category, language| spec(category, language).kinds().pop().unwrap();
        assert_eq!(kind(CodeCategory::Generation, ProgrammingLanguage::Python), "checked_by.tests");
        assert_eq!(kind(CodeCategory::Generation, ProgrammingLanguage::Go), "checked_by.checker");
        assert_eq!(kind(CodeCategory::Explanation, ProgrammingLanguage::Python), "checked_by.checker");
        let outline = spec(CodeCategory::Completion, ProgrammingLanguage::Python).outline(Language::En);
        assert_eq!(outline.lines().count(), 4);
        assert_eq!(
            spec(CodeCategory::Generation, ProgrammingLanguage::Go).outline(Language::Zh).lines().count(),
            1
        );
    }
}
