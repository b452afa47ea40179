//! Responses of the writer that fulfil every constraint of their prompt: rules by program, questions by the checker.

use truing_reward::asking::fill_in;
use truing_reward::checklist::{CHECKLIST_PROMPT, numbered, read_verdicts};
use truing_reward::constraints::{Constraint, ConstraintCheck};
use truing_stages::StageError;

use super::asking::{Asking, Question};
use super::builder::Fates;

/// How a reply without verdicts is named, and the reminder after it.
pub(super) const VERDICTS: (&str, &str) = (
    "a verdict on each question",
    "Your reply does not end with one verdict for each question. Write only YES or NO for each, in order, separated by \
     commas, in double brackets.",
);
const RESPONSE: (&str, &str) = ("a response", "Your reply is empty. Answer the request.");

/// A prompt that is answered, and what its response has to fulfil.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prompt<'a> {
    /// The system message, where there is one.
    pub(super) system: Option<&'a str>,
    /// The user's turn.
    pub(super) text: &'a str,
    pub(super) constraints: &'a [Constraint],
}

impl Prompt<'_> {
    fn question(&self, variation: u64) -> Question {
        let system = self.system.map(str::to_owned);
        Question { system, ..Question::new(self.text.to_owned(), variation) }
    }

    /// The questions about a response, as the judge of a policy's run is asked them.
    pub(super) fn checklist(&self, response: &str) -> String {
        let list = numbered(questions_of(self.constraints));
        let asked = match self.system {
            Some(system) => format!("[system]\n{system}\n\n[user]\n{}", self.text),
            None => self.text.to_owned(),
        };
        fill_in(CHECKLIST_PROMPT, &[("question", &asked), ("answer", response), ("checklist", &list)])
    }

    /// Whether a response breaks a rule.
    fn is_broken_by(&self, response: &str) -> bool {
        self.constraints.iter().any(|constraint| constraint.is_followed_by(response) == Some(false))
    }
}

/// The questions of constraints that a judge checks.
pub(super) fn questions_of(constraints: &[Constraint]) -> Vec<&str> {
    let checks = constraints.iter().map(|constraint| &constraint.check);
    checks
        .filter_map(|check| match check {
            ConstraintCheck::Question { question } => Some(question.as_str()),
            ConstraintCheck::Rule { .. } => None,
        })
        .collect()
}

/// A response that fulfils every constraint of its prompt, or why there is none yet.
pub(super) type Response = Result<String, String>;

/// One response to each prompt of an open unit, in at most `n_rounds` rounds; `None` once the run is stopped.
/// `prompts` has one prompt for each unit.
///
/// # Errors
/// When a model refuses everything.
pub(super) fn respond(
    prompts: &[Prompt<'_>],
    n_rounds: usize,
    fates: &Fates,
    asking: &mut Asking<'_>,
) -> Result<Option<Vec<Response>>, StageError> {
    let mut responses: Vec<Response> = vec![Err("none was asked for".into()); prompts.len()];
    for round in 0..n_rounds as u64 {
        if asking.is_stopped() {
            return Ok(None);
        }
        let places: Vec<usize> = fates.open().into_iter().filter(|&idx| responses[idx].is_err()).collect();
        let questions = places.iter().map(|&idx| prompts[idx].question(round)).collect();
        let read = |_: usize, reply: &str| Some(reply.trim().to_owned()).filter(|text| !text.is_empty());
        let answers = asking.write("answering the prompts", questions, RESPONSE, read)?;
        let mut to_judge: Vec<(usize, String)> = Vec::new();
        for (idx, answer) in places.into_iter().zip(answers) {
            match answer {
                Ok(response) if prompts[idx].is_broken_by(&response) => {
                    responses[idx] = Err("no response follows every rule".into());
                }
                Ok(response) if questions_of(prompts[idx].constraints).is_empty() => {
                    responses[idx] = Ok(response);
                }
                Ok(response) => to_judge.push((idx, response)),
                Err(reason) => responses[idx] = Err(format!("no response: {reason}")),
            }
        }
        judge(to_judge, prompts, &mut responses, asking)?;
    }
    Ok(Some(responses))
}

/// Asks the checker the questions about some responses.
fn judge(
    to_judge: Vec<(usize, String)>,
    prompts: &[Prompt<'_>],
    responses: &mut [Response],
    asking: &mut Asking<'_>,
) -> Result<(), StageError> {
    let texts = to_judge.iter().map(|(idx, response)| prompts[*idx].checklist(response)).collect();
    let n_questions = |at: usize| questions_of(prompts[to_judge[at].0].constraints).len();
    let read = |at: usize, reply: &str| read_verdicts(reply, n_questions(at));
    let verdicts = asking.check("checking responses", texts, VERDICTS, read)?;
    for ((idx, response), verdicts) in to_judge.into_iter().zip(verdicts) {
        responses[idx] = match verdicts {
            Ok(verdicts) if verdicts.iter().all(|is_yes| *is_yes) => Ok(response),
            Ok(_) => Err("no response fulfils the checklist".into()),
            Err(reason) => Err(format!("no verdict on a response: {reason}")),
        };
    }
    Ok(())
}
