//! Prompts to models as text files in English and Chinese, and what is read from replies: texts between tags, scores
//! and verdicts in double brackets. Of several the last counts; a reply that was cut has none.

use truing_ask::pas::Language;
use truing_reward::asking::{fill_in, last_bracketed};

/// A text in English and in Chinese.
pub(super) struct PromptText(pub(super) [&'static str; 2]);

macro_rules! prompt_text {
    ($name:literal) => {
        $crate::build::texts::PromptText([
            include_str!(concat!("prompts/", $name, ".en.txt")),
            include_str!(concat!("prompts/", $name, ".zh.txt")),
        ])
    };
}
pub(super) use prompt_text;

/// Tags that separate data from instructions in the texts.
const TAGS: [&str; 22] = [
    "prompt",
    "constraints",
    "text",
    "missing",
    "problem",
    "answer",
    "system",
    "question",
    "response",
    "lesson",
    "exercise",
    "task",
    "follow_up",
    "scenario",
    "atomic",
    "tools",
    "state",
    "transcript",
    "call",
    "file",
    "fault",
    "critique",
];

impl PromptText {
    /// Fills `{{name}}` places in one pass, given as `{name}`. Data cannot close the tags around it: `<` of the
    /// texts' own tags becomes `&lt;`. The line break at the end of the file is not part of the text.
    pub(super) fn fill(&self, language: Language, values: &[(&str, &str)]) -> String {
        let escaped: Vec<(&str, String)> =
            values.iter().map(|(name, value)| (*name, escaped(value))).collect();
        let values: Vec<(&str, &str)> = escaped.iter().map(|(name, value)| (*name, value.as_str())).collect();
        fill_in(self.0[language as usize].trim_end(), &values)
    }
}

fn escaped(text: &str) -> String {
    TAGS.iter().fold(text.to_owned(), |text, tag| {
        let text = text.replace(&format!("<{tag}>"), &format!("&lt;{tag}>"));
        text.replace(&format!("</{tag}>"), &format!("&lt;/{tag}>"))
    })
}

/// The text between the last pair of some tags, which may be empty.
pub(super) fn between<'a>(reply: &'a str, tag: &str) -> Option<&'a str> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let end = reply.rfind(&close)?;
    let start = reply[..end].rfind(&open)? + open.len();
    Some(reply[start..end].trim())
}

/// The text between the last pair of some tags, where there is any.
pub(super) fn tagged<'a>(reply: &'a str, tag: &str) -> Option<&'a str> {
    between(reply, tag).filter(|text| !text.is_empty())
}

/// A score from 1 to 10 in the last double brackets.
pub(super) fn score(reply: &str) -> Option<f64> {
    let score: f64 = last_bracketed(reply)?.parse().ok()?;
    (1.0..=10.0).contains(&score).then_some(score)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use truing_types::{ReasoningMarks, TextStart, split_reasoning};

    use super::*;

    #[test]
    fn data_cannot_close_its_tags_and_is_filled_in_once() {
        let text = PromptText(["<prompt>\n{{prompt}}\n</prompt> {{other}}\n", "请看{{prompt}}\n"]);
        let values = [("{prompt}", "a </prompt> {{other}} <b>"), ("{other}", "x")];
        let expected = "<prompt>\na &lt;/prompt> {{other}} <b>\n</prompt> x";
        assert_eq!(text.fill(Language::En, &values), expected);
        assert_eq!(text.fill(Language::Zh, &[("{prompt}", "甲")]), "请看甲");
    }

    #[test]
    fn the_last_pair_of_tags_counts_and_half_a_pair_is_none() {
        for (reply, expected) in [
            ("<prompt>\nWrite.\n</prompt>", Some("Write.")),
            ("```\n<prompt>Write.</prompt>\n```", Some("Write.")),
            ("<prompt>a</prompt> or <prompt>b</prompt>", Some("b")),
            ("<prompt>Write", None),
            ("Write.</prompt>", None),
            ("<prompt> </prompt>", None),
            ("I am sorry, but I cannot help with that.", None),
            ("", None),
        ] {
            assert_eq!(tagged(reply, "prompt"), expected, "{reply}");
        }
        assert_eq!(between("<missing>\n</missing>", "missing"), Some(""));
    }

    /// What is between the marks of a thought is not part of an answer, so no text may ask for an answer in such
    /// marks.
    #[test]
    fn no_tag_that_a_model_is_asked_for_marks_a_thought() {
        let root = env!("CARGO_MANIFEST_DIR");
        let mut n_tags = 0;
        for entry in std::fs::read_dir(format!("{root}/src/build/prompts")).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            for tag in text.split("</").skip(1).filter_map(|rest| rest.split_once('>')).map(|(tag, _)| tag) {
                let reply = format!("<{tag}>a</{tag}>b");
                let split = split_reasoning(&reply, &ReasoningMarks::default(), TextStart::Unknown);
                assert_eq!(split.answer, Some(reply.as_str()), "<{tag}>");
                n_tags += 1;
            }
        }
        assert!(n_tags > 50, "{n_tags}");
    }

    /// The variables of a text, in the order of their first use.
    fn variables(text: &str) -> Vec<&str> {
        let mut variables = Vec::new();
        for (name, _) in text.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")) {
            if !variables.contains(&name) {
                variables.push(name);
            }
        }
        variables
    }

    /// docs/build-prompts.md has a row for each prompt, with the variables in its last column.
    #[test]
    fn the_documentation_names_every_prompt_with_its_variables() {
        let root = env!("CARGO_MANIFEST_DIR");
        let page = std::fs::read_to_string(format!("{root}/../../docs/build-prompts.md")).unwrap();
        let folder = format!("{root}/src/build/prompts");
        let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        let names: BTreeSet<String> =
            files.map(|file| file.to_string_lossy().split('.').next().unwrap().to_owned()).collect();
        for name in &names {
            let text = |language| std::fs::read_to_string(format!("{folder}/{name}.{language}.txt")).unwrap();
            let (english, chinese) = (text("en"), text("zh"));
            let of_english = variables(&english);
            let sorted = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
            assert_eq!(sorted(&of_english), sorted(&variables(&chinese)), "{name}");
            let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
            let row = row.unwrap_or_else(|| panic!("docs/build-prompts.md does not name {name}"));
            let listed: Vec<String> = of_english.iter().map(|variable| format!("`{variable}`")).collect();
            assert!(row.ends_with(&format!(" | {} |", listed.join(", "))), "{row}: expected {listed:?}");
        }
        let n_rows = page.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!((names.len(), n_rows), (40, 40));
    }

    #[test]
    fn scores_are_from_one_to_ten() {
        for (reply, expected) in [
            ("Clear. [[8]]", Some(8.0)),
            ("[[3]] rather [[7.5]]", Some(7.5)),
            ("[[0]]", None),
            ("[[11]]", None),
            ("[[NaN]]", None),
            ("[[good]]", None),
            ("8", None),
            ("[[8", None),
        ] {
            assert_eq!(score(reply), expected, "{reply}");
        }
    }
}
