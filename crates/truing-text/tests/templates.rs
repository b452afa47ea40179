//! Templates that fail, and the corners that goldens do not reach.

use proptest::prelude::*;
use serde_json::{Map, json};
use truing_text::{ChatRenderer, ChatTemplate, RenderOptions, TextError};
use truing_types::{Conversation, Role};

use crate::support::*;

fn failure(source: &str) -> TextError {
    match ChatTemplate::from_source(source) {
        Ok(template) => template.render(&one_turn(), &RenderOptions::default()).unwrap_err(),
        Err(error) => error,
    }
}

#[test]
fn a_template_that_raises_is_quoted_with_its_line() {
    let renderer = tiny_renderer(&template_source("strict"));
    let conversation = turns(&[(Role::User, "a"), (Role::User, "b")]);
    let error = renderer.prompt(&conversation).unwrap_err();
    assert!(matches!(error, TextError::TemplateRaised { line: 4, .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "the chat template refuses this conversation (line 4): roles must alternate, but message 1 is from user"
    );
}

#[test]
fn failures_name_the_line() {
    let error = failure("{{ messages }}\n{{ missing.name }}");
    assert!(matches!(&error, TextError::TemplateFailed { line: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("undefined"), "{error}");
    let error = failure("\n\n{% if %}");
    assert!(matches!(&error, TextError::TemplateSyntax { line: 3, .. }), "{error:?}");
    let error = failure("{{ messages | sing }}");
    assert!(error.to_string().contains("sing"), "{error}");
    let error = failure("\n{{ strftime_now('%Y') }}");
    assert!(matches!(error, TextError::NoDate { line: 2 }), "{error:?}");
    let error = failure("{% generation %}x");
    assert!(matches!(error, TextError::TemplateSyntax { .. }), "{error:?}");
}

#[test]
fn an_undefined_variable_is_empty_until_it_is_used() {
    assert_eq!(render("[{{ missing }}]", Map::new()), "[]");
    assert!(matches!(failure("{{ missing + 'x' }}"), TextError::TemplateFailed { line: 1, .. }));
}

#[test]
fn an_empty_conversation_is_refused() {
    let template = ChatTemplate::from_source("x").unwrap();
    let error = template.render(&Conversation::default(), &RenderOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "the conversation is empty");
}

#[test]
fn parts_that_are_not_text_are_refused_and_not_dropped() {
    let template = ChatTemplate::from_source("{{ messages[0].content }}").unwrap();
    let refused = |part: serde_json::Value| {
        let mut conversation = one_turn();
        conversation.messages[0].parts = vec![part];
        template.render(&conversation, &RenderOptions::default()).unwrap_err().to_string()
    };
    let expected = "this model reads text only: the message has a part of type `input_audio`";
    assert_eq!(refused(json!({"type": "input_audio"})), expected);
    assert!(refused(json!({})).ends_with("`unknown`"));
}

#[test]
fn a_template_without_end_runs_out_of_fuel() {
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x\
                 {% endfor %}{% endfor %}{% endfor %}";
    assert!(failure(loops).to_string().contains("fuel"));
}

#[test]
fn the_date_is_the_callers() {
    let template = ChatTemplate::from_source("{{ strftime_now('%d %b %Y, %-H:%M, %A %j') }}").unwrap();
    let now = Some("2024-02-03T04:05:06".parse().unwrap());
    let rendered = template.render(&one_turn(), &RenderOptions { now, ..Default::default() }).unwrap();
    assert_eq!(rendered.text, "03 Feb 2024, 4:05, Saturday 034");
}

#[test]
fn named_templates_are_chosen_by_the_conversation() {
    let template = ChatTemplate::from_named([("default", "plain"), ("tool_use", "tools")]).unwrap();
    let mut conversation = one_turn();
    let text =
        |conversation: &Conversation| template.render(conversation, &RenderOptions::default()).unwrap().text;
    assert_eq!(text(&conversation), "plain");
    conversation.tools = vec![json!({})];
    assert_eq!(text(&conversation), "tools");
    let template = ChatTemplate::from_named([("rag", "x")]).unwrap();
    let error = template.render(&conversation, &RenderOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "the tokenizer has the chat templates rag, but none called `default`");
}

#[test]
fn generation_marks_survive_marks_in_the_conversation() {
    let source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}";
    let template = ChatTemplate::from_source(source).unwrap();
    let conversation = turns(&[(Role::User, "\u{fdd0}x"), (Role::Assistant, "y\u{fdd1}")]);
    let rendered = template.render(&conversation, &RenderOptions::default()).unwrap();
    assert_eq!(rendered.text, "\u{fdd0}x;y\u{fdd1};");
    assert_eq!(rendered.generation_spans, [0..4, 5..9]);
}

#[test]
fn methods_that_templates_use_behave_as_in_python() {
    for (expression, expected) in [
        ("'a\x1f'.strip()", "a"),
        ("'--a--'.strip('-')", "a"),
        ("'a<think>b<think>c'.split('<think>')[-1]", "c"),
        ("'a.b.c'.rsplit('.', 1)[0]", "a.b"),
        ("'a.b.c'.split('.', maxsplit=1)[1]", "b.c"),
        ("'prefix-x'.removeprefix('prefix-')", "x"),
        ("'x.jinja'.removesuffix('.jinja')", "x"),
        ("'k=v=w'.partition('=')[2]", "v=w"),
        ("'k=v=w'.rpartition('=')[0]", "k=v"),
        ("'naïve'.index('v')", "3"),
        ("dict(a=1)['a']", "1"),
        ("value.items() | list | length", "1"),
        ("value.get('items')[0]", "7"),
        ("'%02d' | format(5)", "05"),
        ("value | tojson", r#"{"items": [7, "<&>'\u0001é"]}"#),
        ("value | tojson(true)", r#"{"items": [7, "<&>'\u0001\u00e9"]}"#),
        ("(1e-7, 1e22, 0.1, 3.0) | list | tojson", "[1e-07, 1e+22, 0.1, 3.0]"),
        ("'ab' is sequence and value is sequence and 3 is not sequence", "True"),
    ] {
        let variables = extra(json!({"items": [7, "<&>'\u{1}é"]}));
        assert_eq!(render(&format!("{{{{ {expression} }}}}"), variables), expected, "{expression}");
    }
}

#[test]
fn a_renderer_without_template_says_so() {
    let files = tiny().files().into_iter().filter(|(name, _)| name != "chat_template.jinja").collect();
    let tokenizer = truing_text::Tokenizer::from_files(files).unwrap();
    let renderer = ChatRenderer::new(tokenizer, RenderOptions::default()).unwrap();
    assert!(matches!(renderer.prompt(&one_turn()), Err(TextError::NoChatTemplate)));
}

proptest! {
    /// Whatever is in a template, the answer is a text or an error.
    #[test]
    fn no_template_panics(pieces in prop::collection::vec(prop::sample::select(vec![
        "{%", "%}", "{{", "}}", "{#", "#}", "-", "+", " ", "'", "\"", "\\", "generation", "endgeneration", "raw",
        "endraw", "for m in messages", "endfor", "if", "endif", "m.content", "[", "]", "(", ")", "|", "trim",
        "tojson", "messages", "0", ":", "~", "é", "\r\n", "set x = ", "macro f()", "endmacro", ".split(", "轮",
    ]), 0..24)) {
        if let Ok(template) = ChatTemplate::from_source(&pieces.concat()) {
            let _ = template.render(&one_turn(), &RenderOptions::default());
        }
    }
}
