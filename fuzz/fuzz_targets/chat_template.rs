//! A chat template from outside, rendered over a conversation with and without tools.
#![no_main]

use libfuzzer_sys::fuzz_target;
use truing_text::{ChatTemplate, RenderOptions};
use truing_types::{Conversation, Message, Role};

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::from_source(source) else { return };
    let mut conversation = Conversation {
        messages: vec![
            Message::new(Role::System, "Be brief."),
            Message::new(Role::User, "What is 1 < 2 & \"3\"?"),
            Message::new(Role::Assistant, "<think>\n</think>\n\ntrue \u{2028} ✓"),
        ],
        tools: Vec::new(),
    };
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let check = |conversation: &Conversation| {
        if let Ok(rendered) = template.render(conversation, &options) {
            for span in &rendered.generation_spans {
                assert!(rendered.text.get(span.clone()).is_some());
            }
        }
    };
    check(&conversation);
    conversation.tools = vec![serde_json::json!({"type": "function", "function": {"name": "f"}})];
    check(&conversation);
});
