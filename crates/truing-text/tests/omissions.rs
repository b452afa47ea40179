//! What templates leave out of conversations, found by rendering.

use serde_json::json;
use truing_text::{ChatRenderer, Omission, RenderNote};
use truing_types::{Conversation, Message, Role, TrainingRow};

use crate::support::*;

/// Roles and contents, and nothing else.
const PLAIN: &str = "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n\
                     ' + message.content + '<|im_end|>\n\
                     ' }}{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n\
                     ' }}{%- endif %}";

fn notes(renderer: &ChatRenderer, conversation: &Conversation) -> Vec<Omission> {
    let row = TrainingRow::Conversation(conversation.clone());
    let notes = renderer.training(&row, origin()).unwrap().notes.into_iter();
    notes
        .filter_map(|note| match note {
            RenderNote::NotShown(omission) => Some(omission),
            _ => None,
        })
        .collect()
}

/// Everything that a conversation may hold. The question names the function, so that a search for its name finds it.
fn everything() -> Conversation {
    let mut conversation = turns(&[
        (Role::System, "Be brief."),
        (Role::User, "Call tides for Brest."),
        (Role::Assistant, ""),
        (Role::Tool, "high"),
        (Role::Assistant, "4"),
    ]);
    let messages = &mut conversation.messages;
    messages[1].name = Some("Ann".into());
    messages[2].tool_calls = Some(vec![
        json!({"type": "function", "function": {"name": "tides", "arguments": {"port": "Brest"}}}),
    ]);
    messages[3].name = Some("tides".into());
    messages[4].reasoning_content = Some("4".into());
    let tool =
        json!({"name": "tides", "description": "Brest", "parameters": {"type": "object", "properties": {}}});
    conversation.tools = vec![json!({"type": "function", "function": tool})];
    conversation
}

#[test]
fn what_a_template_without_tools_and_reasoning_leaves_out_is_found_though_the_words_are_in_the_text() {
    let found = notes(&tiny_renderer(PLAIN), &everything());
    let expected = [
        Omission::Tools,
        Omission::Name { message: 1 },
        Omission::OnlyToolCalls { message: 2 },
        Omission::Reasoning { message: 4 },
    ];
    assert_eq!(found, expected);
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(texts[0], "the template does not show `tools`");
    assert_eq!(
        texts[2],
        "message 2: the template does not show its `tool_calls`: the turn trains only its end token"
    );
    let counted = RenderNote::NotShown(found[3]).without_message_number();
    assert_eq!(counted, "the template does not show its `reasoning_content`");
}

#[test]
fn what_a_template_shows_in_any_form_is_no_omission() {
    // The name in capitals, the tool's parameters alone, the call's arguments alone, reasoning trimmed and quoted.
    let source = "{%- for tool in tools %}{{ tool.function.parameters | tojson \
                  }}{%- endfor %}{%- for message in messages %}{{ '<|im_start|>' + message.role \
                  }}{%- if message.name %}{{ message.name | upper }}{%- endif %}{{ '\n\
                  ' }}{%- if message.reasoning_content %}{{ message.reasoning_content.strip() | tojson \
                  }}{%- endif %}{{ message.content }}{%- for call in message.tool_calls or [] %}{{ \
                  call.function.arguments | length }}{{ call.function.arguments | tojson }}{%- endfor %}{{ \
                  '<|im_end|>\n' }}{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n\
                  ' }}{%- endif %}";
    assert_eq!(notes(&tiny_renderer(source), &everything()), [Omission::CalledNames { message: 2 }]);
}

#[test]
fn a_template_that_only_says_that_there_are_tools_does_not_show_them() {
    let source = format!("{{%- if tools %}}You have tools.{{%- endif %}}{PLAIN}");
    assert!(notes(&tiny_renderer(&source), &everything()).contains(&Omission::Tools));
}

#[test]
fn turns_that_are_dropped_are_named_with_their_role() {
    // A second system turn is dropped, and tool results are.
    let source = "{%- for message in messages %}\
        {%- if message.role != 'tool' and (message.role != 'system' or loop.first) %}\
        {{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}\
        {%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}";
    let renderer = tiny_renderer(source);
    let conversation = turns(&[
        (Role::System, "S"),
        (Role::System, "T"),
        (Role::User, "T"),
        (Role::Tool, "T"),
        (Role::Assistant, "a"),
    ]);
    let expected = [
        Omission::Content { message: 1, role: Role::System },
        Omission::Content { message: 3, role: Role::Tool },
    ];
    assert_eq!(notes(&renderer, &conversation), expected);
    let mut prompt = conversation;
    prompt.messages.pop();
    let (tokens, found) = renderer.prompt_with_omissions(&prompt).unwrap();
    assert_eq!((tokens, &found[..]), (renderer.prompt(&prompt).unwrap(), &expected[..]));
}

#[test]
fn reasoning_that_is_shown_of_the_last_turn_only_is_told_apart_from_reasoning_that_is_never_shown() {
    let mut conversation =
        turns(&[(Role::User, "a"), (Role::Assistant, "b"), (Role::User, "c"), (Role::Assistant, "d")]);
    for message in [1, 3] {
        conversation.messages[message].reasoning_content = Some("hm".into());
    }
    let found = notes(&tiny_renderer(&template_source("chatml")), &conversation);
    assert_eq!(found, [Omission::EarlierReasoning { message: 1 }]);
    let found = notes(&tiny_renderer(PLAIN), &conversation);
    assert_eq!(found, [Omission::Reasoning { message: 1 }, Omission::Reasoning { message: 3 }]);
}

/// Shapes are remembered: equal ones must give equal findings, and a field more is another shape.
#[test]
fn conversations_of_another_shape_are_looked_at_again() {
    let renderer = tiny_renderer(PLAIN);
    let mut conversation = turns(&[(Role::User, "a"), (Role::Assistant, "b")]);
    assert_eq!(notes(&renderer, &conversation), []);
    conversation.messages[1].reasoning_content = Some("hm".into());
    assert_eq!(notes(&renderer, &conversation), [Omission::Reasoning { message: 1 }]);
    conversation.messages[1].reasoning_content = Some(" \n".into());
    assert_eq!(notes(&renderer, &conversation), [], "blank reasoning is nothing to show");
    conversation.messages[1] = Message::new(Role::Assistant, "other");
    assert_eq!(notes(&renderer, &conversation), []);
}

/// Renders the calls of assistant turns with `calls`, everything else plainly.
fn with_calls(calls: &str) -> String {
    format!(
        "{{%- for message in messages %}}{{{{ '<|im_start|>' + message.role + '\n' + message.content }}}}\
         {{%- if message.tool_calls %}}{calls}{{%- endif %}}{{{{ '<|im_end|>\n' }}}}{{%- endfor %}}\
         {{%- if add_generation_prompt %}}{{{{ '<|im_start|>assistant\n' }}}}{{%- endif %}}"
    )
}

fn two_calls() -> Conversation {
    let call = |name: &str, port: &str| {
        json!({
            "type": "function", "function": {"name": name, "arguments": {"port": port, "day": 4}}
        })
    };
    let mut conversation = turns(&[
        (Role::User, "Call tides for Brest, day 4."),
        (Role::Assistant, ""),
        (Role::User, "Thanks."),
    ]);
    conversation.messages[1].tool_calls = Some(vec![call("tides", "Brest"), call("moon", "Brest")]);
    conversation.messages.push(Message::new(Role::Assistant, "Welcome."));
    conversation
}

#[test]
fn each_call_its_name_and_each_argument_are_looked_for() {
    let some = Omission::SomeToolCalls { message: 1 };
    let arguments = Omission::CallArguments { message: 1 };
    for (calls, expected) in [
        ("{{ message.tool_calls | tojson }}", vec![]),
        ("{{ message.tool_calls[0].function | tojson }}", vec![some]),
        ("{{ message.tool_calls[1].function | tojson }}", vec![some]),
        ("{%- for call in message.tool_calls %}{{ call.function.name }}{%- endfor %}", vec![arguments]),
        (
            "{%- for call in message.tool_calls %}{{ call.function.name + call.function.arguments.port }}{%- endfor %}",
            vec![arguments],
        ),
        (
            "{%- for call in message.tool_calls %}{{ call.function.arguments | tojson }}{%- endfor %}",
            vec![Omission::CalledNames { message: 1 }],
        ),
        ("{{ message.tool_calls[0].function.name }}", vec![arguments, some]),
        ("{{ message.tool_calls | length }}", vec![Omission::OnlyToolCalls { message: 1 }]),
    ] {
        let found = notes(&tiny_renderer(&with_calls(calls)), &two_calls());
        assert_eq!(found, expected, "{calls}");
    }
    // Another argument is another shape.
    let day_only = "{%- for call in message.tool_calls %}{{ call.function.name }}{{ \
                    call.function.arguments.day }}{%- endfor %}";
    let renderer = tiny_renderer(&with_calls(day_only));
    assert_eq!(notes(&renderer, &two_calls()), [arguments]);
    let mut conversation = two_calls();
    for call in conversation.messages[1].tool_calls.iter_mut().flatten() {
        call["function"]["arguments"] = json!({"day": 4});
    }
    assert_eq!(notes(&renderer, &conversation), []);
}

#[test]
fn tools_are_looked_for_one_by_one() {
    let source = format!("{{{{ tools[0] | tojson }}}}{PLAIN}");
    let mut conversation = everything();
    assert!(!notes(&tiny_renderer(&source), &conversation).contains(&Omission::SomeTools));
    conversation.tools.push(json!({"type": "function", "function": {"name": "moon"}}));
    assert!(notes(&tiny_renderer(&source), &conversation).contains(&Omission::SomeTools));
}

/// A template with this text in place of a message's content.
fn with_content(content: &str) -> String {
    PLAIN.replace("message.content", &format!("({content})"))
}

#[test]
fn a_cut_of_a_turn_s_text_is_found_in_each_conversation() {
    let cut = |message, role| Omission::PartOfContent { message, role };
    let long = "The tide is high at noon and low at six in the evening.";
    let conversation = |said: &str| turns(&[(Role::User, long), (Role::Assistant, said)]);
    let renderer = tiny_renderer(&with_content("message.content[:20]"));
    assert_eq!(notes(&renderer, &conversation("Yes.")), [cut(0, Role::User)]);
    // The same shape, another text.
    assert_eq!(notes(&renderer, &turns(&[(Role::User, "When?"), (Role::Assistant, "Noon.")])), []);
    assert_eq!(
        notes(&renderer, &turns(&[(Role::User, "When?"), (Role::Assistant, long)])),
        [cut(1, Role::Assistant)]
    );

    let thought = "<think>\nNoon, I think.\n</think>\n\nAt noon.";
    let cases = [
        // The beginning, the first line alone, the middle, all but the first words.
        ("message.content.split('</think>')[-1]", thought, vec![cut(1, Role::Assistant)]),
        ("message.content.split('\\n')[0]", "One.\nTwo.\nThree.", vec![cut(1, Role::Assistant)]),
        ("message.content.replace('I think', '')", thought, vec![]),
        (
            "message.content.split(' X ')[0] + message.content.split(' X ')[-1]",
            "a b X c d X e f",
            vec![cut(1, Role::Assistant)],
        ),
        // Changed, and whole.
        ("message.content | trim", "  At noon.\n", vec![]),
        ("message.content | tojson", "\"At noon\",\nsaid he.", vec![]),
        ("message.content | upper", "At noon.", vec![]),
        ("message.content.split('</think>')[-1] if loop.index < 1 else message.content", thought, vec![]),
    ];
    for (content, said, expected) in cases {
        let question = turns(&[(Role::User, "When?"), (Role::Assistant, said)]);
        assert_eq!(notes(&tiny_renderer(&with_content(content)), &question), expected, "{content}");
    }
    let texts = [cut(1, Role::Assistant), cut(0, Role::User)]
        .map(|o| RenderNote::NotShown(o).without_message_number());
    assert_eq!(texts[0], "the template leaves out a part of the text of this `assistant` turn");
    assert_eq!(texts[1], "the template leaves out a part of the text of this `user` turn");
}
