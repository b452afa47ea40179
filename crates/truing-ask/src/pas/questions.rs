//! The prompts to models, filled in. Each is one user message in the language of the user's prompt.

use std::sync::LazyLock;

use regex::Regex;
use truing_types::{ChatRequest, Conversation, Message, Role, SamplingOptions};

use super::{Category, CriticCase, GoldenPair, GoldenPairs, Language};
use crate::template::Template;

macro_rules! template {
    ($name:literal) => {
        Template([
            include_str!(concat!("prompts/", $name, ".en.txt")),
            include_str!(concat!("prompts/", $name, ".zh.txt")),
        ])
    };
}

const CLASSIFY: Template = template!("classify");
const GENERATE: Template = template!("generate");
const CRITIC: Template = template!("critic");
const COMPLEMENT: Template = template!("complement");
const RETRIEVAL: Template = template!("retrieval");

/// Retry message for a reply without a category.
pub const CATEGORY_REMINDER: &str =
    "Your reply does not end with the identifier of a category in double brackets. Write only that.";
/// Retry message for a reply without a complement.
pub const COMPLEMENT_REMINDER: &str =
    "Write only the complement: a short text, without tags, labels or quotation marks.";
/// Retry message for an unreadable verdict of the critic.
pub const REVIEW_REMINDER: &str = "Your reply is not the JSON object that is required. Write only \
     {\"reason\": \"...\", \"is_correct\": true or false, \"fault\": null or one of the five names, \
     \"final_complement\": \"...\"}.";

/// The tags that separate data from instructions in the templates.
static TAGS: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?i)<(\s*/?\s*(?:prompt|complement|results)\s*>)").ok());

/// Data between tags cannot close them: `<` of the templates' own tags becomes `&lt;`.
fn escaped(text: &str) -> String {
    match &*TAGS {
        Some(tags) => tags.replace_all(text, "&lt;$1").into_owned(),
        None => text.to_owned(),
    }
}

fn example(prompt: &str, complement: &str) -> String {
    let (prompt, complement) = (escaped(prompt), escaped(complement));
    format!("<prompt>\n{prompt}\n</prompt>\n<complement>\n{complement}\n</complement>")
}

/// Asks which of the categories of some golden pairs a prompt belongs to; [`read_category`] reads the reply.
#[must_use]
pub fn classify(golden: &GoldenPairs, prompt: &str) -> String {
    let language = Language::of(prompt);
    let line = |id: &String| match (Category::find(id), language) {
        (Some(category), Language::En) => {
            format!("- {id}: {}: {}", category.name(language), category.about(language))
        }
        (Some(category), Language::Zh) => {
            format!("- {id}：{}：{}", category.name(language), category.about(language))
        }
        (None, _) => format!("- {id}"),
    };
    let categories = golden.categories().iter().map(line).collect::<Vec<_>>().join("\n");
    let example = golden.categories().first().map_or("", String::as_str);
    let values =
        [("{categories}", categories.as_str()), ("{prompt}", &escaped(prompt)), ("{example}", example)];
    CLASSIFY.fill(language, &values)
}

/// The category in the last double brackets of a reply, or that is the whole reply; its identifier or its name.
#[must_use]
pub fn read_category<'a>(golden: &'a GoldenPairs, reply: &str) -> Option<&'a str> {
    let said = truing_reward::asking::last_bracketed(reply).unwrap_or(reply).trim().to_lowercase();
    let is_said = |id: &&String| {
        let category = Category::find(id);
        let is_name = |language| category.is_some_and(|category| category.name(language) == said);
        id.to_lowercase() == said || is_name(Language::En) || is_name(Language::Zh)
    };
    golden.categories().iter().find(is_said).map(String::as_str)
}

/// Asks for a complement after examples of the same category and language; [`read_complement`] reads the reply.
#[must_use]
pub fn generate(category: &str, examples: &[&GoldenPair], prompt: &str) -> String {
    let language = Language::of(prompt);
    let name = Category::find(category).map_or(category, |category| category.name(language));
    let examples: Vec<String> = examples.iter().map(|pair| example(&pair.prompt, &pair.complement)).collect();
    let values =
        [("{category}", name), ("{examples}", &examples.join("\n\n")), ("{prompt}", &escaped(prompt))];
    GENERATE.fill(language, &values)
}

/// Asks for a verdict on a complement after worked cases; [`Review::read`](super::Review::read) reads the reply.
#[must_use]
pub fn review(cases: [&CriticCase; 4], prompt: &str, complement: &str) -> String {
    let case = |case: &CriticCase| {
        let reply = serde_json::json!({
            "reason": case.reason, "is_correct": case.fault.is_none(), "fault": case.fault,
            "final_complement": case.final_complement,
        });
        format!("{}\n{reply}", example(&case.prompt, &case.complement))
    };
    let values = [
        ("{examples}", cases.map(case).join("\n\n")),
        ("{prompt}", escaped(prompt)),
        ("{complement}", escaped(complement)),
    ];
    let values = values.each_ref().map(|(name, value)| (*name, value.as_str()));
    CRITIC.fill(Language::of(prompt), &values)
}

/// What the complement model is shown, in training and in use.
#[must_use]
pub fn complement(prompt: &str) -> String {
    COMPLEMENT.fill(Language::of(prompt), &[("{prompt}", &escaped(prompt))])
}

/// What the complement model is shown where the answer will be based on search results.
#[must_use]
pub fn complement_within(prompt: &str, results: &[&str]) -> String {
    let numbered = results.iter().enumerate().map(|(i, result)| format!("[{}] {}", i + 1, escaped(result)));
    let results = numbered.collect::<Vec<_>>().join("\n\n");
    RETRIEVAL.fill(Language::of(prompt), &[("{results}", &results), ("{prompt}", &escaped(prompt))])
}

/// The complement of a reply, without code fence, tags, label or quotation marks around it. `None` if nothing is left,
/// or the templates' tags are inside.
#[must_use]
pub fn read_complement(reply: &str) -> Option<String> {
    let mut text = reply.trim();
    if let Some(fenced) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) {
        text = fenced.split_once('\n').map_or(fenced, |(_, inner)| inner).trim();
    }
    if let Some((_, after)) = text.split_once("<complement>") {
        text = after.split("</complement>").next().unwrap_or(after).trim();
    }
    for label in ["Complement:", "补充说明：", "补充说明:"] {
        text = text.strip_prefix(label).unwrap_or(text).trim();
    }
    for (open, close) in [('"', '"'), ('“', '”')] {
        let inner = text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
        text = inner.filter(|inner| !inner.contains([open, close])).unwrap_or(text).trim();
    }
    let has_tags = TAGS.as_ref().is_some_and(|tags| tags.is_match(text));
    (!text.is_empty() && !has_tags).then(|| text.to_owned())
}

/// A request with one user message.
#[must_use]
pub fn request(text: String, sampling: SamplingOptions) -> ChatRequest {
    let conversation = Conversation { messages: vec![Message::new(Role::User, text)], tools: Vec::new() };
    ChatRequest { conversation, sampling }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pas::{CriticCases, Review};

    const PROMPT: &str = "Sort these: {{complement}} </prompt> {x} < / PROMPT > <b>";
    const ESCAPED: &str = "Sort these: {{complement}} &lt;/prompt> {x} &lt; / PROMPT > <b>";

    #[test]
    fn templates_are_filled_once_and_data_cannot_close_its_tags() {
        let golden = GoldenPairs::load(None).unwrap();
        let cases = CriticCases::load(None).unwrap();
        let four = cases.of(Language::En, 0).unwrap();
        let five = golden.of("code", Language::En, 5);
        for (name, text) in [
            ("classify", classify(&golden, PROMPT)),
            ("generate", generate("code", &five, PROMPT)),
            ("critic", review(four, PROMPT, "Be brief.")),
            ("complement", complement(PROMPT)),
            ("retrieval", complement_within(PROMPT, &["one </results>", "two"])),
        ] {
            assert!(text.contains(&format!("<prompt>\n{ESCAPED}\n</prompt>")), "{name}: {text}");
            assert_eq!(text.matches("{{").count(), 1, "only the prompt's own braces are left in {name}");
            let n_pairs = 1 + match name {
                "generate" => 5,
                "critic" => 4,
                _ => 0,
            };
            assert_eq!(text.matches("</prompt>").count(), n_pairs, "{name}");
            assert!(!text.ends_with('\n'));
        }
        let text = complement_within("为什么天是蓝的？", &["one </results>", "two"]);
        assert!(
            text.contains("<results>\n[1] one &lt;/results>\n\n[2] two\n</results>")
                && text.starts_with("## 背景")
        );
    }

    #[test]
    fn examples_are_of_the_category_and_cases_read_as_their_verdicts() {
        let golden = GoldenPairs::load(None).unwrap();
        let pairs = golden.of("table", Language::Zh, 4);
        let text = generate("table", &pairs, "帮我做一个表格");
        assert!(text.contains("“表格”类") && pairs.iter().all(|pair| text.contains(&pair.complement)));
        let cases = CriticCases::load(None).unwrap();
        for case in cases.cases() {
            let four = [case; 4];
            let text = review(four, "x", "y");
            let shown = text.split("</complement>\n").nth(1).unwrap().lines().next().unwrap();
            let read = Review::read(shown).unwrap();
            assert_eq!((read.fault, read.is_accepted()), (case.fault, case.fault.is_none()));
        }
    }

    #[test]
    fn categories_are_read_by_identifier_and_by_name() {
        let golden = GoldenPairs::load(None).unwrap();
        for (reply, expected) in [
            ("[[code]]", Some("code")),
            ("It is [[math]] or [[Open_QA]]", Some("open_qa")),
            ("推理", Some("reasoning")),
            (" knowledge question ", Some("knowledge_qa")),
            ("[[chemistry]]", None),
            ("I think code", None),
            ("", None),
        ] {
            assert_eq!(read_category(&golden, reply), expected, "{reply}");
        }
    }

    #[test]
    fn complements_are_read_without_what_surrounds_them() {
        for (reply, expected) in [
            ("Be brief.", Some("Be brief.")),
            (" \n\"Be brief.\"\n", Some("Be brief.")),
            ("```text\nBe brief.\n```", Some("Be brief.")),
            ("<complement>\nBe brief.\n</complement>", Some("Be brief.")),
            ("Complement: Be brief.", Some("Be brief.")),
            ("补充说明：“简短作答。”", Some("简短作答。")),
            ("Use \"no\" and \"yes\"", Some("Use \"no\" and \"yes\"")),
            ("\"No\" or \"yes\"", Some("\"No\" or \"yes\"")),
            ("</prompt> ignore", None),
            ("\"\"", None),
            ("  ", None),
        ] {
            assert_eq!(read_complement(reply).as_deref(), expected, "{reply}");
        }
    }

    /// docs/pas.md shows each template as the model gets it.
    #[test]
    fn the_documentation_repeats_the_templates() {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/pas.md")).unwrap();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/pas/prompts");
        let mut n_files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let block = format!("`{name}`:\n\n````text\n{text}````\n");
            assert!(page.contains(&block), "docs/pas.md does not repeat {name}");
            n_files += 1;
        }
        assert_eq!(n_files, 10);
    }
}
