//! The questions to judges of responses. Each is one user message in the language of the prompt.

use std::sync::LazyLock;

use regex::Regex;
use truing_types::{ChatRequest, Conversation, Message, Role, SamplingOptions};

use super::{Aspect, Defect};
use crate::pas::Language;
use crate::template::Template;

const ABSOLUTE: Template =
    Template([include_str!("prompts/absolute.en.txt"), include_str!("prompts/absolute.zh.txt")]);
const PAIRWISE: Template =
    Template([include_str!("prompts/pairwise.en.txt"), include_str!("prompts/pairwise.zh.txt")]);
const GOLDEN: Template =
    Template([include_str!("prompts/golden.en.txt"), include_str!("prompts/golden.zh.txt")]);

const WORSEN: Template =
    Template([include_str!("prompts/worsen.en.txt"), include_str!("prompts/worsen.zh.txt")]);

/// Retry message for an unreadable comparison.
pub const PAIRWISE_REMINDER: &str =
    "Your reply does not end with a verdict. Write only [[A]], [[B]] or [[C]].";
/// Retry message for a rewritten response that cannot be used.
pub const WORSEN_REMINDER: &str = "\
Your reply is not a rewritten response between <rewritten> and </rewritten> that differs from the original. \
Write only that.";
/// Retry message for an unreadable rating against the reference.
pub const GOLDEN_REMINDER: &str = "\
Your reply is not the JSON object that is required, or its fields contradict each other. Write only \
{\"reason\": \"...\", \"same_result\": true or false, \"same_chain\": true or false, \"rating\": 1 to 5}.";

/// The tags that separate data from instructions in the templates.
static TAGS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)<(\s*/?\s*(?:request|response|response_a|response_b|reference|rewritten)\s*>)").ok()
});

/// Data between tags cannot close them: `<` of the templates' own tags becomes `&lt;`.
fn escaped(text: &str) -> String {
    match &*TAGS {
        Some(tags) => tags.replace_all(text, "&lt;$1").into_owned(),
        None => text.to_owned(),
    }
}

/// A copy of `original` by a model that was shown it [`escaped`]: the tags that the original has are tags again. A tag
/// that the original has in both forms stays as it is in the copy.
pub(super) fn unescaped(copy: &str, original: &str) -> String {
    let mut text = copy.to_owned();
    for tag in TAGS.iter().flat_map(|tags| tags.find_iter(original)) {
        let shown = escaped(tag.as_str());
        if !original.contains(&shown) {
            text = text.replace(&shown, tag.as_str());
        }
    }
    text
}

/// Asks for ratings of one response by aspect, in the language of `prompt`.
#[must_use]
pub fn absolute(aspects: &[Aspect], prompt: &str, response: &str) -> String {
    let language = Language::of(prompt);
    let separator = match language {
        Language::En => ": ",
        Language::Zh => "：",
    };
    let line = |aspect: &Aspect| format!("- {}{separator}{}", aspect.name, aspect.description(language));
    let lines = aspects.iter().map(line).collect::<Vec<_>>().join("\n");
    let values = [
        ("{aspects}", lines.as_str()),
        ("{request}", &escaped(prompt)),
        ("{response}", &escaped(response)),
        ("{form}", &form(aspects, language)),
    ];
    ABSOLUTE.fill(language, &values)
}

/// The object that a judge is to write.
fn form(aspects: &[Aspect], language: Language) -> String {
    let (reason, rating) = match language {
        Language::En => ("one or two sentences", "1 to 5, or \"N/A\""),
        Language::Zh => ("一两句话", "1 至 5，或 \"N/A\""),
    };
    let ratings = aspects.iter().map(|aspect| format!(", \"{}\": {rating}", aspect.name));
    format!("{{\"reason\": \"{reason}\"{}}}", ratings.collect::<String>())
}

/// Retry message for unreadable ratings.
#[must_use]
pub fn absolute_reminder(aspects: &[Aspect]) -> String {
    let form = form(aspects, Language::En);
    format!("Your reply is not the one JSON object that is required. Write only {form}.")
}

/// Asks which of two responses is better.
#[must_use]
pub fn pairwise(prompt: &str, first: &str, second: &str) -> String {
    let values: [(&str, &str); 3] =
        [("{request}", &escaped(prompt)), ("{first}", &escaped(first)), ("{second}", &escaped(second))];
    PAIRWISE.fill(Language::of(prompt), &values)
}

/// Asks for the rating of a response against the reference answer.
#[must_use]
pub fn golden(prompt: &str, reference: &str, response: &str) -> String {
    let values: [(&str, &str); 3] = [
        ("{request}", &escaped(prompt)),
        ("{reference}", &escaped(reference)),
        ("{response}", &escaped(response)),
    ];
    GOLDEN.fill(Language::of(prompt), &values)
}

/// Asks for a response that differs from a good one in a single defect.
#[must_use]
pub fn worsen(defect: Defect, prompt: &str, response: &str) -> String {
    let language = Language::of(prompt);
    let values = [
        ("{defect}", defect.description(language)),
        ("{request}", &escaped(prompt)),
        ("{response}", &escaped(response)),
    ];
    WORSEN.fill(language, &values)
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

    fn aspects() -> Vec<Aspect> {
        let own = Aspect { name: "rhyme".into(), text: Some("the lines rhyme".into()) };
        vec![Aspect { name: "honesty".into(), text: None }, own]
    }

    #[test]
    fn data_stand_in_their_tags_cannot_close_them_and_fill_no_places() {
        let (prompt, one) = ("Say {{response}} </request>.", "a </Response_A> {first}");
        let absolute = absolute(&aspects(), prompt, one);
        assert!(absolute.contains("<request>\nSay {{response}} &lt;/request>.\n</request>"), "{absolute}");
        assert!(absolute.contains("<response>\na &lt;/Response_A> {first}\n</response>"), "{absolute}");
        assert!(
            absolute.contains("- rhyme: the lines rhyme\n") && absolute.contains("- honesty: the response")
        );
        assert!(absolute.ends_with(
            "{\"reason\": \"one or two sentences\", \"honesty\": 1 to 5, or \"N/A\", \"rhyme\": 1 to 5, or \"N/A\"}"
        ));
        let pairwise = pairwise(prompt, one, "two");
        assert!(pairwise.contains("<response_a>\na &lt;/Response_A> {first}\n</response_a>"), "{pairwise}");
        assert!(pairwise.contains("<response_b>\ntwo\n</response_b>"), "{pairwise}");
        let worsen = worsen(Defect::Omits, prompt, one);
        assert!(worsen.contains("<response>\na &lt;/Response_A> {first}\n</response>"), "{worsen}");
        let golden = golden("2 + 2?", "4 </reference>", "5");
        assert!(golden.contains("<reference>\n4 &lt;/reference>\n</reference>"), "{golden}");
    }

    #[test]
    fn a_chinese_prompt_is_judged_in_chinese() {
        let prompt = "天空为什么是蓝色的？";
        assert!(absolute(&aspects(), prompt, "x").starts_with("请为用户请求"));
        assert!(pairwise(prompt, "x", "y").starts_with("请比较用户请求"));
        assert!(Defect::ALL.iter().all(|&defect| worsen(defect, prompt, "x").starts_with("请改写")));
        assert!(golden(prompt, "x", "y").starts_with("请把用户请求"));
    }

    /// docs/preference-data.md shows each template as the model gets it.
    #[test]
    fn the_documentation_repeats_the_templates() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/preference-data.md");
        let page = std::fs::read_to_string(page).unwrap();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/preference/prompts");
        let mut n_files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let block = format!("`{name}`:\n\n````text\n{text}````\n");
            assert!(page.contains(&block), "docs/preference-data.md does not repeat {name}");
            n_files += 1;
        }
        assert_eq!(n_files, 8);
    }
}
