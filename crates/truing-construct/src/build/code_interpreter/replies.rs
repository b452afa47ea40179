//! What is read from replies and from the output of independent programs.

use truing_reward::notebook::{CUT, CellOutput, NotebookError};

use crate::build::reasoning::{final_answer, is_comparable};
use crate::build::texts::tagged;

/// What the assistant does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Cell { thought: String, code: String },
    Answer(String),
}

/// The text before the first fence, and the Python in it; `None` without a closed fence.
pub(super) fn first_cell(reply: &str) -> Option<(String, String)> {
    let (before, rest) = reply.split_once("```")?;
    let (language, rest) = rest.split_once('\n')?;
    let is_python = matches!(language.trim().to_lowercase().as_str(), "" | "python" | "python3" | "py");
    let code = rest.split("\n```").next().filter(|code| code.len() < rest.len())?;
    (is_python && !code.trim().is_empty()).then(|| (before.trim().to_owned(), code.trim_end().to_owned()))
}

/// What a reply of the assistant does. What follows a cell was written without its output, and is not read.
pub(super) fn read_step(reply: &str) -> Option<Step> {
    let is_answer = reply.find("<final>").is_some_and(|at| reply.find("```").is_none_or(|fence| at < fence));
    if is_answer {
        let text = tagged(reply, "final")?;
        return final_answer(text).map(|_| Step::Answer(text.to_owned()));
    }
    first_cell(reply).map(|(thought, code)| Step::Cell { thought, code })
}

/// The last line that a program of one cell printed, as an answer.
pub(super) fn last_line(ran: Result<Vec<CellOutput>, NotebookError>) -> Result<String, String> {
    let outputs = ran.map_err(|error| format!("no independent solution: {error}"))?;
    let last = outputs.last().filter(|output| !output.is_error);
    let output = last.ok_or("no independent solution runs without an error")?;
    let line = output.text.lines().last().unwrap_or_default().trim().to_owned();
    if line == CUT {
        return Err(
            "an independent solution prints more than `code_interpreter.max_output_characters`".into()
        );
    }
    if is_comparable(&line) { Ok(line) } else { Err("no independent solution prints a short answer".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_a_cell_or_an_answer_whichever_comes_first() {
        let cell =
            |thought: &str, code: &str| Some(Step::Cell { thought: thought.into(), code: code.into() });
        let answer = |text: &str| Some(Step::Answer(text.into()));
        for (reply, expected) in [
            ("I read it.\n```python\nx = 1\nx\n```\n", cell("I read it.", "x = 1\nx")),
            ("```py\nx\n```\n<final>It is 3.\nAnswer: 3</final>", cell("", "x")),
            (
                "<final>As `x` says:\n```\n3\n```\nAnswer: 3</final>",
                answer("As `x` says:\n```\n3\n```\nAnswer: 3"),
            ),
            ("<final>所以是三。\n答案：3</final>", answer("所以是三。\n答案：3")),
            ("<final>It is 3.</final>", None),
            ("```python\nx = 1", None),
            ("```sql\nSELECT 1\n```", None),
            ("```python\n\n```", None),
            ("It is 3.", None),
            ("", None),
        ] {
            assert_eq!(read_step(reply), expected, "{reply}");
        }
    }

    #[test]
    fn a_reference_is_the_last_line_of_a_program_that_came_to_its_end() {
        let printed = |text: &str, is_error| Ok(vec![CellOutput { text: text.into(), is_error }]);
        for (ran, expected) in [
            (printed("60 rows\n 12.5 ", false), Ok("12.5")),
            (printed("North", false), Ok("North")),
            (printed(&format!("1\n2\n{CUT}"), false), Err("prints more than")),
            (printed("12\nZeroDivisionError: division by zero", true), Err("without an error")),
            (printed("", false), Err("a short answer")),
            (printed(&"a long story ".repeat(20), false), Err("a short answer")),
            (Ok(Vec::new()), Err("without an error")),
            (Err(NotebookError::NotReproducible), Err("differs between two runs")),
        ] {
            match (last_line(ran), expected) {
                (Ok(line), Ok(expected)) => assert_eq!(line, expected),
                (Err(problem), Err(part)) => assert!(problem.contains(part), "{problem}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
