//! A run of each builder that is stopped at any call goes on, asks nothing twice, and ends with the rows of a
//! straight run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use tempfile::TempDir;
use truing_run::Ended;

use super::MODELS;
use super::{
    back_translation, code, code_interpreter, constraints, mathematics, reasoning, reversal, rewrite,
    system_messages, textbook, tools,
};
use crate::scripted::Scripted;

/// Calls of the writer after which a run is stopped.
const STOPS: [usize; 3] = [1, 5, 18];

struct Builder {
    recipe: &'static str,
    folder: fn() -> TempDir,
    writer: fn() -> Scripted,
    checker: fn() -> Scripted,
}

const BUILDERS: [Builder; 10] = [
    Builder {
        recipe: constraints::RECIPE,
        folder: constraints::folder,
        writer: constraints::writer,
        checker: constraints::checker,
    },
    Builder {
        recipe: reversal::RECIPE,
        folder: reversal::folder,
        writer: reversal::writer,
        checker: reversal::checker,
    },
    Builder {
        recipe: mathematics::RECIPE,
        folder: mathematics::folder,
        writer: mathematics::writer,
        checker: mathematics::checker,
    },
    Builder {
        recipe: system_messages::RECIPE,
        folder: system_messages::folder,
        writer: system_messages::writer,
        checker: system_messages::checker,
    },
    Builder {
        recipe: reasoning::RECIPE,
        folder: reasoning::folder,
        writer: reasoning::writer,
        checker: reasoning::checker,
    },
    Builder {
        recipe: textbook::RECIPE,
        folder: textbook::folder,
        writer: textbook::writer,
        checker: textbook::checker,
    },
    Builder { recipe: code::RECIPE, folder: code::folder, writer: code::writer, checker: code::checker },
    Builder { recipe: tools::RECIPE, folder: tools::folder, writer: tools::writer, checker: tools::checker },
    Builder {
        recipe: back_translation::RECIPE,
        folder: back_translation::folder,
        writer: back_translation::writer,
        checker: back_translation::checker,
    },
    Builder {
        recipe: rewrite::RECIPE,
        folder: rewrite::folder,
        writer: rewrite::writer,
        checker: rewrite::checker,
    },
];

/// What a model was asked, in the order of the texts. Several answers to one question are one text several times.
fn asked(model: &Scripted) -> Vec<String> {
    let mut asked = model.asked();
    asked.sort_unstable();
    asked
}

fn turns(rows: &[Value]) -> Vec<&Value> {
    rows.iter().map(|row| &row["messages"]).collect()
}

#[test]
fn a_run_that_is_stopped_continues_and_asks_nothing_twice() {
    for builder in BUILDERS {
        stop_and_continue(&builder);
    }
}

/// The cells are run again, and give the same questions.
#[test]
fn a_run_with_notebooks_that_is_stopped_continues_and_asks_nothing_twice() {
    if code::has_python() {
        stop_and_continue(&Builder {
            recipe: code_interpreter::RECIPE,
            folder: code_interpreter::folder,
            writer: code_interpreter::writer,
            checker: code_interpreter::checker,
        });
    }
}

fn stop_and_continue(Builder { recipe, folder, writer, checker }: &Builder) {
    let recipe = format!("{recipe}{MODELS}");
    let (straight, whole, whole_judge) = (folder(), writer(), checker());
    let cache = straight.path().join("c.sqlite");
    let models = vec![whole.cached(&cache), whole_judge.cached(&cache)];
    let expected = super::run(straight.path(), &recipe, models).unwrap();
    for n_before in STOPS.into_iter().filter(|&n| n < whole.asked().len()) {
        let folder = folder();
        let cache = folder.path().join("c.sqlite");
        let (stop, n_asked) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
        let (raised, rule) = (Arc::clone(&stop), writer());
        let (model, judge) = (
            Scripted::new(move |text| {
                if n_asked.fetch_add(1, Ordering::SeqCst) + 1 == n_before {
                    raised.store(true, Ordering::SeqCst);
                }
                rule.answer(text)
            }),
            checker(),
        );
        let models = || vec![model.cached(&cache), judge.cached(&cache)];
        let ended = super::run_until(folder.path(), &recipe, models(), &stop).unwrap();
        assert!(matches!(ended, Ended::Interrupted { .. }), "{ended:?}");
        assert!(!folder.path().join("built/fates.jsonl").exists());
        stop.store(false, Ordering::SeqCst);
        let built = super::run(folder.path(), &recipe, models()).unwrap();
        assert_eq!(turns(&built.rows), turns(&expected.rows));
        assert_eq!(asked(&model), asked(&whole), "nothing is asked twice, and nothing is left out");
        assert_eq!(asked(&judge), asked(&whole_judge));
        let n_first = judge.asked().len();
        let again = super::run(folder.path(), &recipe, models()).unwrap();
        assert_eq!((again.rows, judge.asked().len()), (built.rows, n_first));
    }
}
