//! What the commands share that ask judges: `truing label` and `truing quality`.

use std::path::Path;

use truing_stages::{RunError, StageError};
use truing_statistics::Agreement;

use super::recipe_arguments::{RecipeArguments, no_recipe};
use super::stage::{self, RunArguments, RunKind, StageCommand};
use crate::Context;
use crate::outcome::Outcome;
use crate::printer::clean_path;

/// The file in a run's folder with the judges' replies, unless a judge's `cache` names another one.
const REPLIES: &str = "replies.sqlite";

/// Runs that keep the replies of models as they arrive.
pub(crate) const KIND: RunKind = RunKind {
    stopping: "stopping: replies that come within 5 s are kept; run the same command to continue",
    stopped: "stopped; run the same command to continue; all replies that came are kept",
    continues: true,
    trains: false,
};

/// Runs the recipe; without one, an error with an example of the command.
pub(crate) fn run<S: StageCommand>(
    recipe: Option<&RecipeArguments>,
    arguments: &RunArguments,
    example: &str,
    context: &Context,
) -> anyhow::Result<Outcome> {
    match recipe {
        Some(recipe) => stage::run_recipe::<S>(recipe, arguments, context),
        None => Err(no_recipe(example)),
    }
}

/// Says how many tokens the judges read and write.
pub(crate) fn announce_tokens(prompt_tokens: u64, completion_tokens: u64, context: &Context) {
    context.printer.note(format_args!(
        "about {prompt_tokens} tokens of prompts and at most {completion_tokens} of replies, minus cached replies"
    ));
}

/// How a finished run ended: its file is there, but it is no success where a judge left half of its calls or more
/// unanswered, or where the answers say nothing.
pub(crate) fn outcome(says_little: bool) -> Outcome {
    if says_little { Outcome::Finding } else { Outcome::Fine }
}

/// What to do about a folder that holds another run. The same command continues a run, so nothing else is advised.
/// `cache_key` is the setting of the stage that names the file with the judge's replies; a stage without a judge has
/// none.
pub(crate) fn advice(error: &StageError, folder: &Path, cache_key: Option<&str>) -> Option<String> {
    let is_other_run = matches!(
        error,
        StageError::Run(
            RunError::RecipeChanged { .. } | RunError::InputsChanged { .. } | RunError::FileChanged { .. },
        )
    );
    let replies = folder.join(REPLIES);
    let paid = cache_key.filter(|_| replies.is_file()).map_or_else(String::new, |key| {
        format!(
            "; `--set {key}={}` lets it use the replies that the first one paid for",
            clean_path(&replies)
        )
    });
    is_other_run.then(|| format!("`--set output_dir=...` starts another run{paid}"))
}

/// Two judges on one dimension.
pub(crate) fn print_agreement(
    [first, second, dimension]: [&str; 3],
    agreement: &Agreement,
    context: &Context,
) -> anyhow::Result<()> {
    let kappa = share(agreement.kappa);
    context.printer.line(format_args!(
        "{first} and {second} on {dimension}: agreement {:.2} on {} items, Cohen's kappa {kappa}",
        agreement.share, agreement.n
    ))?;
    Ok(())
}

/// A share, or a dash where there is none.
pub(crate) fn share(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{share:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_names_the_key_of_the_stage_where_there_are_replies() {
        let folder = tempfile::tempdir().unwrap();
        let error = StageError::Run(RunError::RecipeChanged { keys: vec!["limit".into()] });
        let hint = |key| advice(&error, folder.path(), key).unwrap();
        assert_eq!(hint(Some("judge.model.cache")), "`--set output_dir=...` starts another run");
        let replies = folder.path().join(REPLIES);
        std::fs::write(&replies, "").unwrap();
        let set = format!("`--set judge.model.cache={}`", replies.display());
        assert!(hint(Some("judge.model.cache")).contains(&set), "{}", hint(Some("judge.model.cache")));
        assert_eq!(hint(None), "`--set output_dir=...` starts another run");
        assert_eq!(advice(&StageError::Stopped, folder.path(), None), None);
    }
}
