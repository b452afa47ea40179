//! A reply while it is written: what is thought, what is answer, and what may become a tool call.

use truing_text::tool_calls::ToolCall;
use truing_types::{ReasoningMark, ReasoningMarks, TextStart, split_reasoning};

use crate::tools::Tools;

/// Characters at the beginning of a text in which a thought can open.
const OPENING_CHARS: usize = 80;

/// A text in its parts.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Parts {
    pub(crate) reasoning: Option<String>,
    /// The answer without tool calls.
    pub(crate) content: String,
    pub(crate) calls: Vec<ToolCall>,
}

/// What can be shown of a reply that grows. What was shown is never taken back.
#[derive(Debug)]
pub(crate) struct GrowingReply<'a> {
    marks: &'a ReasoningMarks,
    /// The mark of the thought that the prompt has opened.
    opened: Option<ReasoningMark>,
    tools: &'a Tools,
    text: String,
    /// Bytes of the text that are certainly before the answer; `None` while that is not known.
    answer_start: Option<usize>,
    n_reasoning_shown: usize,
    n_content_shown: usize,
}

/// What is new.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Delta {
    pub(crate) reasoning: String,
    pub(crate) content: String,
}

impl<'a> GrowingReply<'a> {
    pub(crate) fn new(marks: &'a ReasoningMarks, opened: Option<ReasoningMark>, tools: &'a Tools) -> Self {
        Self {
            marks,
            opened,
            tools,
            text: String::new(),
            answer_start: None,
            n_reasoning_shown: 0,
            n_content_shown: 0,
        }
    }

    /// Takes the next piece and returns what can be shown for certain.
    pub(crate) fn push(&mut self, piece: &str) -> Delta {
        self.text.push_str(piece);
        if self.answer_start.is_none() {
            let is_opening = self.opened.is_some()
                || self.marks.occur_in(&self.text)
                || self.text.chars().count() < OPENING_CHARS && may_open(&self.text);
            if is_opening {
                return self.push_thought();
            }
            self.answer_start = Some(0);
        }
        let mut delta = Delta::default();
        self.show_content(&mut delta);
        delta
    }

    /// The reply may be a thought, or begin one. Of a thought that is surely open, all but the last characters is
    /// shown, which may be a part of the closing mark.
    fn push_thought(&mut self) -> Delta {
        let start = TextStart::after(self.opened.as_ref());
        let split = split_reasoning(&self.text, self.marks, start);
        let (reasoning, answer) = (split.reasoning(), split.answer);
        let mut delta = Delta::default();
        match (reasoning, answer) {
            (Some(reasoning), Some(answer)) => {
                // What follows could still be a further closing mark, but not once it is text.
                if answer.chars().count() > OPENING_CHARS {
                    // The answer is a part of the text. Its end may be trimmed, so its start does not follow from its
                    // length.
                    self.answer_start = Some(answer.as_ptr() as usize - self.text.as_ptr() as usize);
                    show(&reasoning, &mut self.n_reasoning_shown, &mut delta.reasoning);
                    self.show_content(&mut delta);
                }
            }
            (Some(reasoning), None) => {
                let n_held = OPENING_CHARS.min(reasoning.len());
                let mut end = reasoning.len() - n_held;
                while !reasoning.is_char_boundary(end) {
                    end -= 1;
                }
                show(&reasoning[..end], &mut self.n_reasoning_shown, &mut delta.reasoning);
            }
            (None, _) => {}
        }
        delta
    }

    fn show_content(&mut self, delta: &mut Delta) {
        let Some(start) = self.answer_start else { return };
        let answer = &self.text[start..];
        // A closing mark at the end of an answer is not part of it.
        let end = answer.len() - self.marks.closing_at_end(answer);
        let end = self.tools.may_begin(answer).map_or(end, |call| call.min(end));
        show(&answer[..end], &mut self.n_content_shown, &mut delta.content);
    }

    /// The whole reply in its parts, and what of it was not shown yet.
    pub(crate) fn finish(mut self, text: &str) -> (Parts, Delta) {
        let parts = parts(text, self.marks, self.opened.as_ref(), self.tools);
        let mut delta = Delta::default();
        if let Some(reasoning) = &parts.reasoning {
            show(reasoning, &mut self.n_reasoning_shown, &mut delta.reasoning);
        }
        show(&parts.content, &mut self.n_content_shown, &mut delta.content);
        (parts, delta)
    }
}

/// Shows the text beyond what has been shown.
fn show(text: &str, n_shown: &mut usize, delta: &mut String) {
    if let Some(new) = text.get(*n_shown..) {
        delta.push_str(new);
        *n_shown = text.len().max(*n_shown);
    }
}

/// Whether a thought may still open: the text is white space, or begins like a tag.
fn may_open(text: &str) -> bool {
    let text = text.trim_start();
    text.is_empty() || text.starts_with(['<', '[', '◁'])
}

/// A whole reply in its parts.
pub(crate) fn parts(
    text: &str,
    marks: &ReasoningMarks,
    opened: Option<&ReasoningMark>,
    tools: &Tools,
) -> Parts {
    let split = split_reasoning(text, marks, TextStart::after(opened));
    let reasoning = split.reasoning();
    let answer = split.answer.unwrap_or_default();
    match tools.calls(answer) {
        Some((content, calls)) => Parts { reasoning, content, calls },
        None => Parts { reasoning, content: answer.to_owned(), calls: Vec::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Fields;

    fn tools() -> Tools {
        let body = r#"{"tools": [{"type": "function", "function": {"name": "f"}}]}"#;
        Tools::read(&mut Fields::of_body(body.as_bytes()).unwrap()).unwrap()
    }

    /// Shown piece by piece, in pieces of every length, a reply is what it is as a whole.
    #[test]
    fn what_is_shown_joins_to_the_whole() {
        let long = "word ".repeat(60);
        let texts = [
            "A plain answer, 3 < 4 and [so] on.".to_owned(),
            "<think>First this.\nThen that.</think>\n\nThe answer.".to_owned(),
            format!("<think>{long}</think>{long}"),
            "<think>never closed".to_owned(),
            format!("{long}<tool_call>{{\"name\": \"f\", \"arguments\": {{}}}}</tool_call>"),
            "{\"name\": \"f\"}".to_owned(),
            "{\"name\": \"not a tool\"}".to_owned(),
            "<b>bold</b> text".to_owned(),
            "轮子 <tool_ is no mark".to_owned(),
            format!("<think>Brief.</think>{long}轮子轮子</think>\n"),
            format!("<think>Brief.</think>{long}轮</think></think>"),
            format!("{long}end</THINK>"),
            format!("{long}a `</think>` in code, </think"),
            String::new(),
        ];
        let (marks, with, without) = (ReasoningMarks::default(), tools(), Tools::default());
        for (text, tools) in texts.iter().flat_map(|text| [(text, &with), (text, &without)]) {
            let expected = parts(text, &marks, None, tools);
            let chars: Vec<char> = text.chars().collect();
            for n in [1, 2, 3, 7, 1000] {
                let mut growing = GrowingReply::new(&marks, None, tools);
                let mut shown = Delta::default();
                for piece in chars.chunks(n) {
                    let delta = growing.push(&piece.iter().collect::<String>());
                    shown.reasoning += &delta.reasoning;
                    shown.content += &delta.content;
                }
                let (whole, rest) = growing.finish(text);
                assert_eq!(whole, expected);
                assert_eq!(shown.content + &rest.content, expected.content, "{text}, by {n}");
                let reasoning = expected.reasoning.clone().unwrap_or_default();
                assert_eq!(shown.reasoning + &rest.reasoning, reasoning, "{text}, by {n}");
            }
        }
    }

    #[test]
    fn an_answer_is_shown_at_once() {
        let (marks, tools) = (ReasoningMarks::default(), tools());
        let mut growing = GrowingReply::new(&marks, None, &tools);
        assert_eq!(growing.push("Hel").content, "Hel");
        assert_eq!(growing.push("lo").content, "lo");
        assert_eq!(growing.push(" <tool").content, " ");
        assert_eq!(growing.push("s>").content, "<tools>");
        let opened = ReasoningMark { open: "<think>".into(), close: "</think>".into() };
        let mut growing = GrowingReply::new(&marks, Some(opened), &tools);
        let thought = "thinking ".repeat(30);
        assert!(growing.push(&thought).reasoning.starts_with("thinking thinking"));
        let shown = growing.push(&format!("</think>{}", "answer ".repeat(20)));
        assert!(shown.content.starts_with("answer ") && !shown.content.contains("think"));
    }
}
