//! Runs cells.

use truing_reward::RewardError;
use truing_reward::notebook::{CellOutput, Notebook, NotebookError, NotebookRunner};
use truing_reward::sandbox::Limits;
use truing_run::RunError;
use truing_stages::StageError;

use super::InterpreterJob;
use super::config::CodeInterpreterConfig;
use crate::build::asking::Asking;

/// The outputs of a notebook.
pub(super) type Ran = Result<Vec<CellOutput>, NotebookError>;

impl InterpreterJob {
    /// A runner, after a test run of one cell.
    ///
    /// # Errors
    /// When none can be run here.
    pub(super) fn new_runner(&self, asking: &Asking<'_>) -> Result<NotebookRunner, StageError> {
        let program = asking.sandbox_program.ok_or(RewardError::NoSandboxProgram)?;
        let CodeInterpreterConfig { interpreter, max_output_characters, .. } = &self.settings;
        let runner =
            NotebookRunner::new(interpreter, program.to_owned(), Limits::default(), *max_output_characters);
        let mut runner = runner.map_err(|why| self.no_sandbox(&why))?;
        let probe = Notebook { cells: vec!["1 + 1".to_owned()], ..Notebook::default() };
        let ran: Result<Vec<_>, NotebookError> = runner.run(&[probe]).into_iter().collect();
        ran.map_err(|why| self.no_sandbox(&why))?;
        Ok(runner)
    }

    fn no_sandbox(&self, why: &NotebookError) -> StageError {
        let expected = format!("a Python that runs in the sandbox of this machine: {why}");
        let found = format!("`{}`", self.settings.interpreter);
        RunError::BadSetting { key: "code_interpreter.interpreter", found, expected }.into()
    }

    /// Runs notebooks; `None` once the run is stopped.
    ///
    /// # Errors
    /// When the sandbox fails, which is no fault of the cells.
    pub(super) fn run(
        &self,
        runner: &mut NotebookRunner,
        notebooks: &[Notebook],
        asking: &Asking<'_>,
    ) -> Result<Option<Vec<Ran>>, StageError> {
        // A stop is noticed between batches.
        const N_AT_ONCE: usize = 16;
        let mut ran: Vec<Ran> = Vec::with_capacity(notebooks.len());
        for notebooks in notebooks.chunks(N_AT_ONCE) {
            if asking.is_stopped() {
                return Ok(None);
            }
            ran.extend(runner.run(notebooks));
        }
        let is_failure = |why: &&NotebookError| matches!(why, NotebookError::NoSandbox(_));
        let failure = ran.iter().filter_map(|one| one.as_ref().err()).find(is_failure);
        match failure {
            Some(why) => Err(self.no_sandbox(why)),
            None => Ok(Some(ran)),
        }
    }
}
