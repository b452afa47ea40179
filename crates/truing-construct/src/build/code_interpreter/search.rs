//! The search for an answer to one turn of the user: depth first, going back where a branch ends.
//!
//! A node is the list of the cells so far. At each node at most `max_branches` next steps are tried, each with its own
//! seed. A branch ends where a cell cannot be kept, where too many cells in a row raise an error, where there are too
//! many cells, or where an answer is not the reference. The search then tries another step at the same node, or removes
//! the last cell and continues at the parent node. The number of replies is bounded, so the search ends. Removed cells
//! are not part of the conversation.

use super::config::CodeInterpreterConfig;

/// A cell with its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    /// What the assistant says before it.
    pub(super) thought: String,
    pub(super) code: String,
    pub(super) output: String,
    pub(super) is_error: bool,
}

/// The cells for one question so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Search {
    cells: Vec<Cell>,
    /// Steps that were tried before the first cell, after the first, and so on.
    n_tried: Vec<usize>,
    n_asked: usize,
    n_abandoned: usize,
    /// Why the last branch ended; before one has, why the search would end.
    problem: String,
    answer: Option<String>,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            cells: Vec::new(),
            n_tried: vec![0],
            n_asked: 0,
            n_abandoned: 0,
            problem: "no answer in `code_interpreter.max_steps` replies".into(),
            answer: None,
        }
    }
}

impl Search {
    pub(super) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    pub(super) fn answer(&self) -> Option<&str> {
        self.answer.as_deref()
    }

    /// Cells that were removed, and replies that were rejected.
    pub(super) fn n_abandoned(&self) -> usize {
        self.n_abandoned
    }

    /// Begins a step at the current node. Returns the number of steps that were tried there before.
    pub(super) fn begin(&mut self) -> usize {
        self.n_asked += 1;
        let n_tried = self.n_tried.last_mut().expect("there is a node before the first cell");
        *n_tried += 1;
        *n_tried - 1
    }

    /// Whether another cell is allowed here.
    pub(super) fn has_room(&self, settings: &CodeInterpreterConfig) -> bool {
        self.cells.len() < settings.max_cells
    }

    /// Adds a cell, unless too many in a row have an error.
    pub(super) fn add(&mut self, cell: Cell, settings: &CodeInterpreterConfig) {
        let n_errors = self.cells.iter().rev().take_while(|cell| cell.is_error).count();
        if cell.is_error && n_errors >= settings.max_corrections {
            return self.abandon("an error is not corrected");
        }
        self.cells.push(cell);
        self.n_tried.push(0);
    }

    /// Ends the branch at the current node.
    pub(super) fn abandon(&mut self, problem: impl Into<String>) {
        self.problem = problem.into();
        self.n_abandoned += 1;
    }

    pub(super) fn finish(&mut self, answer: String) {
        self.answer = Some(answer);
    }

    /// Moves to the node where the next step is tried.
    ///
    /// # Errors
    /// Why the last branch ended, where there is no such node or no reply is left.
    pub(super) fn settle(&mut self, settings: &CodeInterpreterConfig) -> Result<(), String> {
        if self.answer.is_some() {
            return Ok(());
        }
        if self.n_asked >= settings.max_steps {
            return Err(self.problem.clone());
        }
        while self.n_tried.last().is_some_and(|n_tried| *n_tried >= settings.max_branches) {
            if self.cells.pop().is_none() {
                return Err(self.problem.clone());
            }
            self.n_tried.pop();
            self.n_abandoned += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(code: &str, is_error: bool) -> Cell {
        Cell { thought: String::new(), code: code.into(), output: String::new(), is_error }
    }

    fn codes(search: &Search) -> Vec<&str> {
        search.cells().iter().map(|cell| cell.code.as_str()).collect()
    }

    #[test]
    fn a_branch_that_ends_is_taken_back_one_cell_at_a_time() {
        let settings = CodeInterpreterConfig { max_branches: 2, ..CodeInterpreterConfig::default() };
        let mut search = Search::default();
        for code in ["a", "b"] {
            assert_eq!(search.begin(), 0);
            search.add(cell(code, false), &settings);
            search.settle(&settings).unwrap();
        }
        // Two wrong answers after `b`: it is removed, and another cell is tried after `a`.
        for _ in 0..2 {
            search.begin();
            search.abandon("a wrong answer");
            search.settle(&settings).unwrap();
        }
        assert_eq!(codes(&search), ["a"]);
        assert_eq!(search.begin(), 1, "the second step after `a`");
        search.add(cell("c", false), &settings);
        search.settle(&settings).unwrap();
        search.begin();
        search.finish("7".into());
        search.settle(&settings).unwrap();
        assert_eq!((codes(&search), search.answer(), search.n_abandoned()), (vec!["a", "c"], Some("7"), 3));
    }

    #[test]
    fn a_search_without_an_answer_ends() {
        // Every place has two steps, of which each is a cell down to the depth of three.
        let settings =
            CodeInterpreterConfig { max_cells: 3, max_steps: 1000, ..CodeInterpreterConfig::default() };
        let mut search = Search::default();
        let mut n_replies = 0;
        let problem = loop {
            search.begin();
            n_replies += 1;
            match search.has_room(&settings) {
                true => search.add(cell("x", false), &settings),
                false => search.abandon("too many cells"),
            }
            if let Err(problem) = search.settle(&settings) {
                break problem;
            }
        };
        assert_eq!((problem.as_str(), n_replies), ("too many cells", 2 + 4 + 8 + 16));
        let few = CodeInterpreterConfig { max_steps: 2, ..settings };
        let mut search = Search::default();
        search.begin();
        search.abandon("one");
        search.settle(&few).unwrap();
        search.begin();
        search.abandon("two");
        assert_eq!(search.settle(&few), Err("two".to_owned()));
        let mut search = Search::default();
        search.begin();
        search.add(cell("a", false), &few);
        search.settle(&few).unwrap();
        search.begin();
        search.add(cell("b", false), &few);
        let reason = "no answer in `code_interpreter.max_steps` replies";
        assert_eq!(search.settle(&few), Err(reason.to_owned()));
    }

    #[test]
    fn errors_are_corrected_a_few_times() {
        let settings = CodeInterpreterConfig { max_corrections: 1, ..CodeInterpreterConfig::default() };
        let mut search = Search::default();
        search.begin();
        search.add(cell("a", true), &settings);
        search.settle(&settings).unwrap();
        search.begin();
        search.add(cell("b", true), &settings);
        search.settle(&settings).unwrap();
        assert_eq!(codes(&search), ["a"], "the second error in a row is not kept");
        search.begin();
        search.add(cell("c", false), &settings);
        search.settle(&settings).unwrap();
        search.begin();
        search.add(cell("d", true), &settings);
        assert_eq!(codes(&search), ["a", "c", "d"], "an error after a cell without one is the first again");
    }
}
