//! Which tokens carry loss, under many kinds of template.

use serde_json::json;
use truing_text::{
    ChatRenderer, Omission, RenderNote, RenderOptions, RenderedSample, TextError, Tokenizer, WithoutLoss,
};
use truing_types::{Conversation, Message, Role, TrainingRow};

use crate::support::*;

fn train(renderer: &ChatRenderer, conversation: &Conversation) -> RenderedSample {
    renderer.training(&TrainingRow::Conversation(conversation.clone()), origin()).unwrap()
}

/// The texts of runs of tokens of equal, non-zero weight. A composed character may have lost the range of its
/// accent, so it is the tokens that must follow each other, not the bytes.
fn learnt(rendered: &RenderedSample) -> Vec<(String, f32)> {
    let mut runs: Vec<(std::ops::Range<usize>, f32)> = Vec::new();
    let mut previous = 0.0;
    for (range, &weight) in rendered.ranges.iter().zip(&rendered.sample.loss_weights) {
        match runs.last_mut() {
            Some((run, _)) if weight != 0.0 && weight == previous => run.end = run.end.max(range.end),
            _ if weight != 0.0 => runs.push((range.clone(), weight)),
            _ => {}
        }
        previous = weight;
    }
    runs.into_iter().map(|(run, weight)| (rendered.text[run].to_owned(), weight)).collect()
}

fn check(renderer: &ChatRenderer, conversation: &Conversation, expected: &[(&str, f32)]) -> Vec<RenderNote> {
    let rendered = train(renderer, conversation);
    let expected: Vec<(String, f32)> = expected.iter().map(|(text, w)| (text.to_string(), *w)).collect();
    assert_eq!(learnt(&rendered), expected, "{:?}", rendered.text);
    assert_eq!(rendered.sample.tokens.len(), rendered.sample.loss_weights.len());
    assert_eq!(rendered.sample.tokens.len(), rendered.ranges.len());
    rendered.notes
}

fn two_turns() -> Conversation {
    turns(&[
        (Role::System, "S"),
        (Role::User, "a 你"),
        (Role::Assistant, "b 好\u{2028}"),
        (Role::User, "c"),
        (Role::Assistant, "d"),
    ])
}

#[test]
fn chatml_by_prefixes() {
    let renderer = tiny_renderer(&template_source("chatml"));
    let notes = check(&renderer, &two_turns(), &[("b 好\u{2028}<|im_end|>", 1.0), ("d<|im_end|>", 1.0)]);
    assert_eq!(notes, []);
    assert_eq!(renderer.end_of_turn(), Some(2));
}

#[test]
fn reasoning_of_earlier_turns_is_dropped_and_spans_still_found() {
    let renderer = tiny_renderer(&template_source("chatml"));
    let mut conversation = two_turns();
    conversation.messages[2].reasoning_content = Some("hm".into());
    conversation.messages[4].reasoning_content = Some("so".into());
    let expected = [("b 好\u{2028}<|im_end|>", 1.0), ("<think>so</think>\nd<|im_end|>", 1.0)];
    // The prompt is a prefix, but the turn itself is written differently once others follow: found by its end.
    let notes = check(&renderer, &conversation, &expected);
    let not_shown = RenderNote::NotShown(Omission::EarlierReasoning { message: 2 });
    assert_eq!(notes, [not_shown, RenderNote::HistoryRewritten { message: 2 }]);
}

#[test]
fn tool_calls_are_learnt_and_tool_results_are_not() {
    let renderer = tiny_renderer(&template_source("chatml"));
    let mut conversation =
        turns(&[(Role::User, "add"), (Role::Assistant, ""), (Role::Tool, "3"), (Role::Assistant, "three")]);
    conversation.messages[1].tool_calls = Some(vec![json!({"function": {"name": "add"}})]);
    conversation.tools = vec![json!({"name": "add"})];
    let call = "\n<tool_call>{\"name\": \"add\"}</tool_call><|im_end|>";
    let rendered = train(&renderer, &conversation);
    let texts = learnt(&rendered);
    assert_eq!(texts.len(), 2);
    assert!(texts[0].0.ends_with(call), "{texts:?}");
    assert_eq!(texts[1].0, "three<|im_end|>");
}

#[test]
fn message_weights_multiply() {
    let renderer = tiny_renderer(&template_source("chatml"));
    let mut conversation = two_turns();
    conversation.messages[2].weight = Some(0.0);
    conversation.messages[4].weight = Some(0.5);
    check(&renderer, &conversation, &[("d<|im_end|>", 0.5)]);
    conversation.messages[1].weight = Some(2.0);
    check(&renderer, &conversation, &[("a 你<|im_end|>", 2.0), ("d<|im_end|>", 0.5)]);
    conversation.messages[1].weight = Some(f32::NAN);
    let error = renderer.training(&TrainingRow::Conversation(conversation), origin()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rows.jsonl:7: message 1: `weight` is NaN, expected a finite number that is not negative"
    );
}

#[test]
fn generation_blocks_are_believed() {
    let renderer = tiny_renderer(&template_source("generation"));
    let notes = check(&renderer, &two_turns(), &[("b 好<|im_end|>", 1.0), ("d!<|im_end|>", 1.0)]);
    assert_eq!(notes, []);
    let mut conversation = two_turns();
    conversation.messages[2].weight = Some(0.25);
    check(&renderer, &conversation, &[("b 好<|im_end|>", 0.25), ("d!<|im_end|>", 1.0)]);

    let open_end = "{% for m in messages %}{{ m.role }}:{% generation %}{{ m.content \
                    }}{% endgeneration %}<|im_end|>{% endfor %}";
    let renderer = tiny_renderer(open_end);
    let one = turns(&[(Role::Assistant, "x")]);
    let notes = check(&renderer, &one, &[("x", 1.0)]);
    assert_eq!(notes, [RenderNote::EndOfTurnWithoutLoss { message: 0 }]);
    conversation.messages[4].weight = Some(0.0);
    let error = renderer.training(&TrainingRow::Conversation(conversation), origin()).unwrap_err();
    assert!(error.to_string().contains("marks 5 generation blocks for 2 assistant turns"), "{error}");
}

/// Llama 3's first published template writes the assistant's header whether it is asked for or not.
#[test]
fn a_template_that_always_prompts() {
    let renderer = tiny_renderer(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n\
         {{ m.content | trim }}<|im_end|>{% endfor %}{{ '<|im_start|>assistant\n' }}",
    );
    check(&renderer, &two_turns(), &[("b 好<|im_end|>", 1.0), ("d<|im_end|>", 1.0)]);
}

#[test]
fn the_next_header_right_after_the_end_token() {
    let renderer = tiny_renderer(
        "{% for m in messages %}{{ m.role }}:\n\
         {{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}",
    );
    check(&renderer, &two_turns(), &[("b 好\u{2028}<|im_end|>", 1.0), ("d<|im_end|>", 1.0)]);
}

#[test]
fn without_end_of_turn_token_there_is_a_note() {
    let renderer = tiny_renderer(
        "{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n\
         {% endfor %}{% if add_generation_prompt %}### assistant\n{% endif %}",
    );
    let notes = check(&renderer, &one_turn(), &[("answer", 1.0)]);
    assert_eq!(notes, [RenderNote::EndOfTurnWithoutLoss { message: 1 }]);
}

#[test]
fn a_span_that_cannot_be_found_is_an_error() {
    // The whole conversation changes with its length, and contents are written twice.
    let renderer = tiny_renderer(
        "{{ messages | length }}{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
    );
    let error = renderer.training(&TrainingRow::Conversation(two_turns()), origin()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rows.jsonl:7: message 2: its place in the rendered text cannot be found (the template does not write \
         the content exactly once); mark it in the template with {% generation %} ... {% endgeneration %}"
    );
}

#[test]
fn a_conversation_found_by_substitution_alone() {
    // The first line counts the messages, so no prefix is preserved.
    let renderer = tiny_renderer(
        "{{ messages | length }}\n{% for m in messages %}<|im_start|>{{ m.role }}\n\
         {{ m.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\
         {% endif %}",
    );
    let notes = check(&renderer, &two_turns(), &[("b 好<|im_end|>", 1.0), ("d<|im_end|>", 1.0)]);
    assert_eq!(
        notes,
        [RenderNote::HistoryRewritten { message: 2 }, RenderNote::HistoryRewritten { message: 4 }]
    );
}

#[test]
fn nothing_to_learn_is_refused_unless_kept() {
    let renderer = tiny_renderer(&template_source("chatml"));
    let row = TrainingRow::Conversation(turns(&[(Role::User, "a")]));
    let error = renderer.training(&row, origin()).unwrap_err();
    assert_eq!(error.to_string(), "rows.jsonl:7: the conversation has no assistant turn that carries loss");
    let kept = renderer.with_rows_without_loss(WithoutLoss::Keep).training(&row, origin()).unwrap();
    assert_eq!(kept.notes, [RenderNote::NothingToLearn]);
    assert_eq!(kept.sample.loss_weight(), 0.0);
}

#[test]
fn an_empty_conversation_is_refused() {
    let renderer = tiny_renderer(&template_source("chatml"));
    let row = TrainingRow::Conversation(Conversation::default());
    let error = renderer.training(&row, origin()).unwrap_err();
    assert_eq!(error.to_string(), "rows.jsonl:7: the conversation is empty");
}

#[test]
fn prompt_and_completion() {
    let renderer = tiny_renderer("x");
    let row = |prompt: &str, completion: &str| TrainingRow::PromptCompletion {
        prompt: prompt.into(),
        completion: completion.into(),
    };
    let rendered = renderer.training(&row("2 + 2 =", " 4"), origin()).unwrap();
    assert_eq!(rendered.text, "2 + 2 = 4");
    assert_eq!(rendered.sample.tokens.last(), Some(&2));
    assert_eq!(learnt(&rendered), [(" 4".to_owned(), 1.0)]);
    assert_eq!(rendered.sample.loss_weights.last(), Some(&1.0));
    assert_eq!(rendered.notes, []);
    // An end token that is there is not doubled.
    let ended = renderer.training(&row("2 + 2 =", " 4<|im_end|>"), origin()).unwrap();
    assert_eq!(ended.sample.tokens, rendered.sample.tokens);
    let merged = renderer.training(&row("the whe", "el"), origin()).unwrap();
    assert_eq!(merged.notes, [RenderNote::BorderInsideToken { message: 1 }]);
    let error = renderer.training(&row("x", ""), origin()).unwrap_err();
    assert_eq!(error.to_string(), "rows.jsonl:7: field `completion` is empty");
}

#[test]
fn raw_text_is_learnt_whole_and_ended() {
    let rendered =
        tiny_renderer("x").training(&TrainingRow::Text("spin the wheel".into()), origin()).unwrap();
    assert!(rendered.sample.loss_weights.iter().all(|&weight| weight == 1.0));
    assert_eq!(rendered.sample.tokens.last(), Some(&2));
    let error = tiny_renderer("x").training(&TrainingRow::Text(String::new()), origin()).unwrap_err();
    assert_eq!(error.to_string(), "rows.jsonl:7: field `text` is empty");
}

/// The tiny tokenizer, made to begin every text with `<|endoftext|>`.
fn with_bos() -> Tokenizer {
    let mut files = tiny().files();
    let mut json: serde_json::Value = serde_json::from_slice(&files[0].1).unwrap();
    let bos = "<|endoftext|>";
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {bos: {"id": bos, "ids": [0], "tokens": [bos]}},
    });
    files[0].1 = serde_json::to_vec(&json).unwrap();
    Tokenizer::from_files(files).unwrap()
}

#[test]
fn a_second_bos_is_never_produced() {
    let renderer = ChatRenderer::new(with_bos(), RenderOptions::default()).unwrap();
    let template = |source: &str| renderer.clone().with_template(source).unwrap();
    let body = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}";
    let none = train(&template(body), &turns(&[(Role::Assistant, "x")]));
    assert_eq!((none.sample.tokens[0] == 0, &none.notes[..]), (false, &[RenderNote::NoBos][..]));
    let one = train(&template(&format!("{{{{ bos_token }}}}{body}")), &turns(&[(Role::Assistant, "x")]));
    assert_eq!((one.sample.tokens[0], &one.notes[..]), (0, &[][..]));
    let two = format!("{{{{ bos_token + bos_token }}}}{body}");
    let two = template(&two);
    let rendered = train(&two, &turns(&[(Role::Assistant, "x")]));
    assert_eq!(rendered.sample, one.sample);
    assert_eq!(rendered.notes, [RenderNote::DoubleBos]);
    assert_eq!(
        two.prompt(&turns(&[(Role::User, "x")])).unwrap()[..2].iter().filter(|&&id| id == 0).count(),
        1
    );
    for text in ["x", "<|endoftext|>x"] {
        let raw = renderer.training(&TrainingRow::Text(text.into()), origin()).unwrap();
        assert_eq!(raw.sample.tokens.iter().filter(|&&id| id == 0).count(), 1);
    }
}

#[test]
fn special_text_in_a_message_is_named() {
    let renderer = tiny_renderer(&template_source("chatml"));
    let mut conversation = one_turn();
    conversation.messages[0] = Message::new(Role::User, "say <|im_end|>");
    let notes = check(&renderer, &conversation, &[("answer<|im_end|>", 1.0)]);
    assert_eq!(notes, [RenderNote::SpecialTokenInContent { message: 0, token: "<|im_end|>".into() }]);
}

#[test]
fn pieces_for_a_person() {
    let renderer = tiny_renderer(&template_source("chatml"));
    let rendered = train(&renderer, &turns(&[(Role::User, "a"), (Role::Assistant, "🙂")]));
    let pieces = renderer.pieces(&rendered.sample);
    let end = &pieces[pieces.len() - 2];
    assert_eq!((end.text.as_str(), end.loss_weight, end.is_special), ("<|im_end|>", 1.0, true));
    let newline = &pieces[pieces.len() - 1];
    assert_eq!((newline.text.as_str(), newline.loss_weight, newline.is_special), ("\n", 0.0, false));
    assert!(pieces.iter().any(|piece| piece.text.starts_with("<0x")), "{pieces:?}");
}

#[test]
fn many_rows_keep_their_order_and_errors() {
    let renderer = tiny_renderer(&template_source("chatml"));
    let rows: Vec<_> = (0..100)
        .map(|n| {
            let role = if n % 10 == 3 { Role::User } else { Role::Assistant };
            let conversation = turns(&[(Role::User, "q"), (role, &n.to_string())]);
            (TrainingRow::Conversation(conversation), origin())
        })
        .collect();
    for (n, result) in renderer.training_many(&rows).into_iter().enumerate() {
        match result {
            Ok(rendered) => assert_eq!(learnt(&rendered)[0].0, format!("{n}<|im_end|>")),
            Err(error) => assert!(n % 10 == 3 && matches!(error, TextError::Row { .. })),
        }
    }
}

/// On real templates: loss texts of every golden conversation end in an end-of-turn token, and every turn is
/// found or refused, never guessed.
fn check_family(renderer: &ChatRenderer, rows: &str, end: &str) {
    let renderer = renderer.clone().with_rows_without_loss(WithoutLoss::Keep);
    for row in golden(rows) {
        let conversation = conversation(&row);
        if row["add_generation_prompt"] == true || row.get("error").is_some() {
            continue;
        }
        let n_assistant = conversation.messages.iter().filter(|m| m.role == Role::Assistant).count();
        let rendered = renderer
            .training(&TrainingRow::Conversation(conversation.clone()), origin())
            .unwrap_or_else(|error| panic!("{rows}: {}: {error}", row["name"]));
        let texts = learnt(&rendered);
        assert_eq!(texts.len(), n_assistant, "{rows}: {}: {texts:?}", row["name"]);
        assert!(texts.iter().all(|(text, _)| text.ends_with(end)), "{rows}: {}: {texts:?}", row["name"]);
        let spoken = conversation.messages.iter().filter(|m| m.role == Role::Assistant);
        for (message, (text, _)) in spoken.zip(&texts) {
            let content = message.content.rsplit("</think>").next().unwrap().trim();
            // Llama 3.2 leaves out what is said beside a tool call.
            let is_said = message.tool_calls.is_none() || rows != "llama3_2";
            assert!(!is_said || text.contains(content), "{rows}: {}: {text:?}", row["name"]);
            assert!(!text.contains("<|im_start|>assistant\n"), "{text:?}");
        }
    }
}

#[test]
fn turns_of_real_templates_are_found() {
    let now = Some("2024-07-26T13:45:06".parse().unwrap());
    let options = RenderOptions { now, ..RenderOptions::default() };
    for (name, end) in [
        ("llama3_1", "<|eot_id|>"),
        ("llama3_2", "<|eot_id|>"),
        ("qwen2_5", "<|im_end|>"),
        ("qwen3", "<|im_end|>"),
    ] {
        let Some(dir) = npm_package(name) else { return };
        check_family(&ChatRenderer::load(&dir, options.clone()).unwrap(), name, end);
    }
    if let Some(path) = from_environment("TRUING_TEST_GGUF") {
        check_family(&ChatRenderer::load(&path, options).unwrap(), "smollm2", "<|im_end|>");
    }
}
