//! The one place that splits what a model wrote into its thought and its answer.
//!
//! Rules, for texts in which the thought stands between marks such as `<think>` and `</think>`:
//! - A thought begins where its opening mark is the first thing in the text (white space aside), or the first thing after
//!   another thought. A mark further on, for instance in an example or in a code block, is part of the answer.
//! - A thought ends at the first closing mark of its kind that is not in quotes. Where further opening marks stand inside it,
//!   the thought goes on to their closing marks too, as far as there are any.
//! - A text may begin inside a thought, because the chat template has written the opening mark. Servers do not say so. A
//!   closing mark without an opening one therefore ends a thought that began with the text, unless it stands in quotes or in
//!   code.
//! - A thought without a closing mark is open: the text was cut, or the model forgot to answer. It has no answer. Neither has
//!   a text in which nothing but white space follows the thought.
//! - White space between thought and answer belongs to neither. A text without a thought is its own answer, as it is.
//!
//! gpt-oss writes channels instead of marks (`<|channel|>analysis<|message|>...`): `final` is the answer, everything else is
//! thought.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// What opens and closes a thought.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReasoningMark {
    /// Before the thought, for instance `<think>`.
    pub open: String,
    /// After it, for instance `</think>`.
    pub close: String,
}

/// The marks of the models that are known, in lower case.
const KNOWN: [(&str, &str); 11] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<seed:think>", "</seed:think>"),
    ("[think]", "[/think]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|start_thinking|>", "<|end_thinking|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
];

/// The marks that count as a thought's: those of known models, and further ones. Upper and lower case are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasoningMarks(Vec<ReasoningMark>);

impl Default for ReasoningMarks {
    fn default() -> Self {
        let mark = |(open, close): (&str, &str)| ReasoningMark { open: open.into(), close: close.into() };
        Self(KNOWN.into_iter().map(mark).collect())
    }
}

impl ReasoningMarks {
    /// These marks and further ones, for instance of a recipe. A mark without text, or that closes as it opens, is left out.
    #[must_use]
    pub fn with<'a>(mut self, further: impl IntoIterator<Item = &'a ReasoningMark>) -> Self {
        for mark in further {
            let mark = ReasoningMark {
                open: mark.open.trim().to_ascii_lowercase(),
                close: mark.close.trim().to_ascii_lowercase(),
            };
            let is_usable = !mark.open.is_empty() && !mark.close.is_empty() && mark.open != mark.close;
            if is_usable && !self.0.contains(&mark) {
                self.0.push(mark);
            }
        }
        self
    }

    /// These marks and those that a chat template declares: a pair of tags in its source, `<name>` and `</name>` or `[NAME]`
    /// and `[/NAME]`, whose name speaks of thinking.
    #[must_use]
    pub fn declared_by(self, template: &str) -> Self {
        let template = template.to_ascii_lowercase();
        let mut found = Vec::new();
        for (before, after) in [("</", '>'), ("[/", ']')] {
            for (at, _) in template.match_indices(before) {
                let rest = &template[at + before.len()..];
                let Some(name) = rest.find(after).map(|end| &rest[..end]) else { continue };
                let is_name =
                    name.len() <= 40 && !name.contains(|c: char| c.is_whitespace() || "<>[]".contains(c));
                let is_of_thinking = ["think", "thought", "reason"].iter().any(|word| name.contains(word));
                let open = format!("{}{name}{after}", &before[..1]);
                if is_name && is_of_thinking && template.contains(&open) {
                    found.push(ReasoningMark { open, close: format!("{before}{name}{after}") });
                }
            }
        }
        self.with(&found)
    }

    /// Whether a prompt ends in an opening mark, so that the model's text begins inside a thought.
    #[must_use]
    pub fn are_open_at_end(&self, prompt: &str) -> bool {
        let end = prompt.trim_end().to_ascii_lowercase();
        self.0.iter().any(|mark| end.ends_with(&mark.open))
            || end.ends_with(&format!("{CHANNEL}analysis{MESSAGE}"))
    }

    /// Whether a text names one of the marks.
    #[must_use]
    pub fn occur_in(&self, text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        self.0.iter().any(|mark| text.contains(&mark.open) || text.contains(&mark.close))
    }

    /// Whether a piece of text is one of the marks. Tokenizers may have special tokens for them.
    #[must_use]
    pub fn contains(&self, text: &str) -> bool {
        let text = text.trim().to_ascii_lowercase();
        self.0.iter().any(|mark| mark.open == text || mark.close == text)
    }

    /// The marks of gpt-oss's channels.
    #[must_use]
    pub fn of_channels() -> [&'static str; 6] {
        [START, CHANNEL, MESSAGE, "<|end|>", "<|return|>", "<|call|>"]
    }
}

/// A text in its two parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SplitText<'a> {
    /// The thoughts, in order; the last may be open.
    pub thoughts: Vec<&'a str>,
    /// What was said; `None` where there is nothing but thought.
    pub answer: Option<&'a str>,
}

impl SplitText<'_> {
    /// All thoughts as one text; `None` where there is none, or none that says anything.
    #[must_use]
    pub fn reasoning(&self) -> Option<String> {
        let thoughts =
            self.thoughts.iter().map(|thought| thought.trim()).filter(|thought| !thought.is_empty());
        let joined = thoughts.collect::<Vec<_>>().join("\n\n");
        Some(joined).filter(|joined| !joined.is_empty())
    }
}

/// Splits a text into thought and answer. `starts_inside` says that the prompt has opened a thought. See the module for
/// the rules.
#[must_use]
pub fn split_reasoning<'a>(text: &'a str, marks: &ReasoningMarks, starts_inside: bool) -> SplitText<'a> {
    // Letters of ASCII alone change, so that every place is the same in both.
    let lower = text.to_ascii_lowercase();
    if let Some(split) = split_channels(text, &lower, starts_inside) {
        return split;
    }
    let mut splitter = Splitter { text, lower: &lower, marks, at: 0, thoughts: Vec::new() };
    let is_closed = splitter.take_unopened(starts_inside) && splitter.take_thoughts();
    let Splitter { at, thoughts, .. } = splitter;
    let answer = match (is_closed, thoughts.is_empty()) {
        (false, _) => None,
        (true, true) => Some(text),
        (true, false) => Some(text[at..].trim_start()).filter(|answer| !answer.is_empty()),
    };
    SplitText { thoughts, answer }
}

struct Splitter<'a, 'b> {
    text: &'a str,
    lower: &'b str,
    marks: &'b ReasoningMarks,
    /// Up to where the text has been taken.
    at: usize,
    thoughts: Vec<&'a str>,
}

impl Splitter<'_, '_> {
    /// Takes a thought that began before the text. False where it stays open.
    fn take_unopened(&mut self, starts_inside: bool) -> bool {
        // A model that was given the opening mark may write it once more.
        if self.opening().is_some() {
            return true;
        }
        let found = match starts_inside {
            true => self.closes(self.at).min_by_key(|close| close.start),
            false => self.bare_close(),
        };
        match found {
            Some(close) => {
                self.thoughts.push(&self.text[self.at..close.start]);
                self.at = close.end;
                true
            }
            None if starts_inside => {
                self.thoughts.push(self.text);
                false
            }
            None => true,
        }
    }

    /// Takes thoughts as long as one begins here. False where one stays open.
    fn take_thoughts(&mut self) -> bool {
        while let Some((mark, inside)) = self.opening() {
            let Some(mut close) = find_unquoted(self.lower, inside, &mark.close) else {
                self.thoughts.push(&self.text[inside..]);
                return false;
            };
            let mut n_open = count_unquoted(&self.lower[inside..close.start], &mark.open);
            while n_open > 0 {
                // Marks that the thought only talks about need not be closed.
                let Some(next) = find_unquoted(self.lower, close.end, &mark.close) else { break };
                n_open += count_unquoted(&self.lower[close.end..next.start], &mark.open);
                n_open -= 1;
                close = next;
            }
            self.thoughts.push(&self.text[inside..close.start]);
            self.at = close.end;
            self.skip_repeated(&mark.close);
        }
        true
    }

    /// The mark that opens a thought here, and where its inside begins.
    fn opening(&self) -> Option<(ReasoningMark, usize)> {
        let rest = self.lower[self.at..].trim_start();
        let start = self.lower.len() - rest.len();
        let mark = self.marks.0.iter().find(|mark| rest.starts_with(&mark.open))?;
        Some((mark.clone(), start + mark.open.len()))
    }

    /// A closing mark that stands there twice.
    fn skip_repeated(&mut self, close: &str) {
        let rest = self.lower[self.at..].trim_start();
        if rest.starts_with(close) {
            self.at = self.lower.len() - rest.len() + close.len();
        }
    }

    /// First unquoted closing mark of each kind after a place.
    fn closes(&self, from: usize) -> impl Iterator<Item = Range<usize>> {
        self.marks.0.iter().filter_map(move |mark| find_unquoted(self.lower, from, &mark.close))
    }

    /// A closing mark without its opening one, outside of code.
    fn bare_close(&self) -> Option<Range<usize>> {
        let mut code: Option<Vec<Range<usize>>> = None;
        let bare = |mark: &ReasoningMark| {
            let mut from = 0;
            loop {
                let close = find_unquoted(self.lower, from, &mark.close)?;
                let code = code.get_or_insert_with(|| code_ranges(self.text));
                if code.iter().any(|range| range.contains(&close.start)) {
                    from = close.end;
                } else {
                    let is_opened = count_unquoted(&self.lower[..close.start], &mark.open) > 0;
                    return Some(close).filter(|_| !is_opened);
                }
            }
        };
        self.marks.0.iter().filter_map(bare).min_by_key(|close| close.start)
    }
}

/// Where a mark stands next, not in quotes.
fn find_unquoted(lower: &str, from: usize, mark: &str) -> Option<Range<usize>> {
    lower[from..]
        .match_indices(mark)
        .map(|(at, _)| from + at..from + at + mark.len())
        .find(|range| !is_quoted(lower, range))
}

fn count_unquoted(lower: &str, mark: &str) -> usize {
    lower.match_indices(mark).filter(|(at, _)| !is_quoted(lower, &(*at..at + mark.len()))).count()
}

/// Whether quotes stand directly around it.
fn is_quoted(text: &str, range: &Range<usize>) -> bool {
    const QUOTES: [(char, char); 8] =
        [('`', '`'), ('"', '"'), ('\'', '\''), ('“', '”'), ('‘', '’'), ('«', '»'), ('„', '“'), ('「', '」')];
    let (before, after) = (text[..range.start].chars().next_back(), text[range.end..].chars().next());
    before.zip(after).is_some_and(|pair| QUOTES.contains(&pair))
}

/// Blocks between fences that are closed, and code between backticks of one line.
fn code_ranges(text: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut fence: Option<(usize, &str)> = None;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        let mark = ["```", "~~~"].into_iter().find(|mark| trimmed.starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => fence = Some((start, mark)),
            // A closing fence has nothing behind it.
            (Some((from, opened)), Some(mark))
                if opened == mark && trimmed.trim_start_matches(&mark[..1]).is_empty() =>
            {
                ranges.push(from..start + line.len());
                fence = None;
            }
            (None, None) => {
                ranges.extend(inline_code(line).map(|range| start + range.start..start + range.end))
            }
            (Some(_), _) => {}
        }
        start += line.len();
    }
    ranges
}

fn inline_code(line: &str) -> impl Iterator<Item = Range<usize>> {
    let ticks: Vec<usize> = line.match_indices('`').map(|(at, _)| at).collect();
    let pairs: Vec<Range<usize>> = ticks.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
    pairs.into_iter()
}

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const ENDS: [&str; 4] = ["<|end|>", "<|return|>", "<|call|>", START];

/// A text in gpt-oss's channels; `None` where it is none.
fn split_channels<'a>(text: &'a str, lower: &str, starts_inside: bool) -> Option<SplitText<'a>> {
    let after_role = lower.trim_start();
    let after_role =
        after_role.strip_prefix(START).map_or(after_role, |rest| &rest[rest.find(CHANNEL).unwrap_or(0)..]);
    let is_inside = starts_inside && lower.contains(&format!("<|end|>{START}"));
    if !after_role.starts_with(CHANNEL) && !is_inside {
        return None;
    }
    let mut split = SplitText::default();
    let content = |from: usize| {
        let end = ENDS.iter().filter_map(|mark| lower[from..].find(mark)).min();
        &text[from..end.map_or(text.len(), |end| from + end)]
    };
    if is_inside {
        split.thoughts.push(content(0));
    }
    for (at, _) in lower.match_indices(CHANNEL) {
        let header_start = at + CHANNEL.len();
        // A header that was cut has no content.
        let Some(header) =
            lower[header_start..].find(MESSAGE).map(|end| &lower[header_start..header_start + end])
        else {
            continue;
        };
        let said = content(header_start + header.len() + MESSAGE.len());
        match header.trim() {
            "final" => split.answer = Some(said.trim_start()).filter(|answer| !answer.is_empty()),
            _ => split.thoughts.push(said),
        }
    }
    Some(split)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, starts_inside: bool) -> (Option<String>, Option<&str>) {
        let split = split_reasoning(text, &ReasoningMarks::default(), starts_inside);
        (split.reasoning(), split.answer)
    }

    /// Text, its thought, its answer.
    const REPLIES: &[(&str, Option<&str>, Option<&str>)] = &[
        // No thought.
        ("The answer is 7.", None, Some("The answer is 7.")),
        ("", None, Some("")),
        ("  7\n", None, Some("  7\n")),
        ("I think 7 < 8.", None, Some("I think 7 < 8.")),
        ("<b>think</b> 7", None, Some("<b>think</b> 7")),
        // A thought, closed.
        ("<think>a</think>b", Some("a"), Some("b")),
        ("<think>\na\n</think>\n\nb\n", Some("a"), Some("b\n")),
        ("\n <think>a</think> b", Some("a"), Some("b")),
        ("<think>\n\n</think>\n\nb", None, Some("b")),
        ("<think></think>b", None, Some("b")),
        ("<Think>a</THINK>b", Some("a"), Some("b")),
        ("<thinking>a</thinking>b", Some("a"), Some("b")),
        ("<thought>a</thought>b", Some("a"), Some("b")),
        ("<reasoning>\na\n</reasoning>\n<answer>\nb\n</answer>", Some("a"), Some("<answer>\nb\n</answer>")),
        ("<scratchpad>a</scratchpad>b", Some("a"), Some("b")),
        ("<seed:think>a</seed:think>b", Some("a"), Some("b")),
        ("[THINK]a[/THINK]b", Some("a"), Some("b")),
        ("◁think▷a◁/think▷b", Some("a"), Some("b")),
        ("<|begin_of_thought|>a<|end_of_thought|>b", Some("a"), Some("b")),
        ("<|START_THINKING|>a<|END_THINKING|>b", Some("a"), Some("b")),
        ("<think>日本</think>答え", Some("日本"), Some("答え")),
        // Several.
        ("<think>a</think><think>b</think>c", Some("a\n\nb"), Some("c")),
        ("<think>a</think>\n<thinking>b</thinking>\nc", Some("a\n\nb"), Some("c")),
        ("<think>a</think></think>b", Some("a"), Some("b")),
        ("<think>a <think>b</think> c</think> d", Some("a <think>b</think> c"), Some("d")),
        ("<think>I write <think> first.</think> 7", Some("I write <think> first."), Some("7")),
        // The opening mark was the template's.
        ("a</think>\n\nb", Some("a"), Some("b")),
        ("a\n[/THINK]b", Some("a"), Some("b")),
        ("</think>\n\nb", None, Some("b")),
        ("```py\nprint(1)\n</think>\nb", Some("```py\nprint(1)"), Some("b")),
        // Open: no answer.
        ("<think>a", Some("a"), None),
        ("<think>", None, None),
        ("<think>\nmaybe [[2]], but", Some("maybe [[2]], but"), None),
        ("<think>a</think><think>b", Some("a\n\nb"), None),
        ("<think>a</thin", Some("a</thin"), None),
        ("<think>a</thinking>b", Some("a</thinking>b"), None),
        ("[THINK]a", Some("a"), None),
        // Nothing but thought.
        ("<think>a</think>", Some("a"), None),
        ("<think>a</think>\n\n", Some("a"), None),
        ("a</think>", Some("a"), None),
        // Marks that the answer talks about.
        ("Write <think>a</think> first.", None, Some("Write <think>a</think> first.")),
        ("```\n<think>\na\n</think>\n```", None, Some("```\n<think>\na\n</think>\n```")),
        ("```\na\n</think>\n```\nends it.", None, Some("```\na\n</think>\n```\nends it.")),
        ("Close it with `</think>`.", None, Some("Close it with `</think>`.")),
        ("Close it with \"</think>\".", None, Some("Close it with \"</think>\".")),
        ("In code: `x </think> y`.", None, Some("In code: `x </think> y`.")),
        ("<think>a</think>Close it with </think>.", Some("a"), Some("Close it with </think>.")),
        ("<think>a</think>b <think>c</think>", Some("a"), Some("b <think>c</think>")),
        ("<think>the mark `</think>` ends it</think>b", Some("the mark `</think>` ends it"), Some("b")),
        // Channels.
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>",
            Some("a"),
            Some("b"),
        ),
        ("<|start|>assistant<|channel|>analysis<|message|>a", Some("a"), None),
        ("<|channel|>final<|message|>b", None, Some("b")),
    ];

    #[test]
    fn thought_and_answer_are_told_apart() {
        for &(text, thought, answer) in REPLIES {
            assert_eq!(split(text, false), (thought.map(str::to_owned), answer), "{text}");
        }
    }

    #[test]
    fn an_answer_that_was_split_off_is_its_own_answer() {
        for &(text, _, answer) in REPLIES {
            // A thought shown as an example after a thought is the one text that reads differently without it.
            if let Some(answer) = answer.filter(|answer| !answer.starts_with("Close it with </think>")) {
                assert_eq!(split(answer, false), (None, Some(answer)), "{text}");
            }
        }
    }

    #[test]
    fn a_text_may_begin_inside_a_thought() {
        for (text, thought, answer) in [
            ("a</think>b", Some("a"), Some("b")),
            ("<think>a</think>b", Some("a"), Some("b")),
            ("a", Some("a"), None),
            ("", None, None),
            ("the form is <think>x</think> so b", Some("the form is <think>x"), Some("so b")),
            ("```\n</think>\nb", Some("```"), Some("b")),
            ("a</think><think>b</think>c", Some("a\n\nb"), Some("c")),
            ("a</think><think>b", Some("a\n\nb"), None),
            ("a<|end|><|start|>assistant<|channel|>final<|message|>b", Some("a"), Some("b")),
            ("[[2]] perhaps, or", Some("[[2]] perhaps, or"), None),
        ] {
            assert_eq!(split(text, true), (thought.map(str::to_owned), answer), "{text}");
        }
    }

    #[test]
    fn a_prompt_may_open_a_thought() {
        let marks = ReasoningMarks::default();
        for (prompt, expected) in [
            ("<|im_start|>assistant\n<think>\n", true),
            ("[INST]x[/INST][THINK]", true),
            ("<|start|>assistant<|channel|>analysis<|message|>", true),
            ("<|im_start|>assistant\n<think>\n\n</think>\n\n", false),
            ("<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n", false),
            ("", false),
        ] {
            assert_eq!(marks.are_open_at_end(prompt), expected, "{prompt}");
        }
    }

    #[test]
    fn further_marks_come_from_a_recipe_or_a_template() {
        let mark = |open: &str, close: &str| ReasoningMark { open: open.into(), close: close.into() };
        let further = [mark("<Plan>", "</Plan>"), mark("", "x"), mark("|", "|")];
        let marks = ReasoningMarks::default().with(&further);
        let found = split_reasoning("<plan>a</plan>b", &marks, false);
        assert_eq!((found.reasoning().as_deref(), found.answer), (Some("a"), Some("b")));
        assert_eq!(split_reasoning("||b", &marks, false).answer, Some("||b"));

        let template =
            "{% if x %}<deep_thought>{{ m.r }}</deep_thought>{% endif %}<tool>{{ t }}</tool> [/INST]";
        let marks = ReasoningMarks::default().declared_by(template);
        assert_eq!(split_reasoning("<deep_thought>a</deep_thought>b", &marks, false).answer, Some("b"));
        assert_eq!(split_reasoning("<tool>a</tool>b", &marks, false).answer, Some("<tool>a</tool>b"));
        assert!(marks.are_open_at_end("assistant\n<deep_thought>\n") && marks.contains("</deep_thought>"));
    }

    #[test]
    fn no_text_makes_it_panic_and_nothing_is_lost() {
        let pieces = [
            "<think>",
            "</think>",
            "`",
            "```\n",
            "\"",
            "é",
            "日",
            "[THINK]",
            "[/think]",
            "<|channel|>",
            "final",
            "<|message|>",
            "<|end|>",
            "<|start|>",
            " ",
            "\n",
            "x",
        ];
        let mut state = 7_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..8 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            for starts_inside in [false, true] {
                let found = split_reasoning(&text, &ReasoningMarks::default(), starts_inside);
                let n_bytes: usize = found.thoughts.iter().chain(&found.answer).map(|part| part.len()).sum();
                assert!(n_bytes <= text.len(), "{text}");
                assert!(
                    !found.thoughts.is_empty() || found.answer.is_some() || text.contains("<|"),
                    "{text}"
                );
            }
        }
    }
}
