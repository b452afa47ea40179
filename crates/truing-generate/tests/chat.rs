//! Texts: streaming, stop texts, turns.

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::json;
use truing_generate::{LocalChat, LocalReply};
use truing_text::{ChatRenderer, RenderOptions, SpecialTokens, Tokenizer};
use truing_types::{
    ChatError, ChatModel, ChatRequest, Conversation, FinishReason, Message, Role, SamplingOptions, TokenId,
};

use crate::parrot::{Parrot, one_hot};

/// The tiny vocabulary and template of `truing-text`'s tests.
fn renderer() -> ChatRenderer {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../truing-text/tests/fixtures/tiny");
    ChatRenderer::load(&dir, RenderOptions::default()).unwrap()
}

fn tokens(text: &str) -> Vec<TokenId> {
    renderer().tokenizer().encode(text, SpecialTokens::Parse).unwrap()
}

fn ask(turns: &[(Role, &str)]) -> ChatRequest {
    let messages = turns.iter().map(|&(role, content)| Message::new(role, content)).collect();
    ChatRequest {
        conversation: Conversation { messages, tools: Vec::new() },
        sampling: SamplingOptions::default(),
    }
}

/// Asks a model that says `answer`, and gives the reply and the pieces that were streamed.
fn reply(answer: &str, change: impl Fn(&mut SamplingOptions)) -> (LocalReply, Vec<String>) {
    let mut request = ask(&[(Role::User, "question")]);
    change(&mut request.sampling);
    let n_prompt = renderer().prompt(&request.conversation).unwrap().len();
    let chat = LocalChat::new(Parrot::saying(1000, n_prompt, tokens(answer)), renderer()).unwrap();
    let mut pieces = Vec::new();
    let reply = chat
        .reply(&request, &mut |piece| {
            pieces.push(piece.to_owned());
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(reply.reply.n_prompt_tokens, n_prompt);
    assert_eq!(reply.reply.tokens.len(), reply.log_probs.len());
    (reply, pieces)
}

#[test]
fn a_turn_ends_at_its_end_token_which_is_not_shown() {
    let (reply, pieces) = reply("Hallo 你好 🙂<|im_end|>\nmore", |_| {});
    assert_eq!(reply.reply.text, "Hallo 你好 🙂");
    assert_eq!(reply.reply.finish_reason, FinishReason::EndOfTurn);
    assert_eq!(reply.reply.tokens.last(), Some(&2));
    assert_eq!(pieces.concat(), reply.reply.text);
    assert!(pieces.len() > 3 && pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
}

#[test]
fn calls_of_tools_are_taken_out_of_the_text() {
    let mut request = ask(&[(Role::User, "Weather in Rome?")]);
    request.conversation.tools = vec![json!({"type": "function", "function": {"name": "weather"}})];
    let shown = renderer().with_tools_shown(request.conversation.clone()).unwrap();
    let prompt = renderer().prompt_text(&shown).unwrap();
    assert!(prompt.contains("weather"), "{prompt}");
    let n_prompt = renderer().prompt(&shown).unwrap().len();
    let asked = |answer: &str, request: &ChatRequest| {
        let parrot = Parrot::saying(2000, n_prompt, tokens(answer));
        let mut chat = LocalChat::new(parrot, renderer()).unwrap();
        let one = chat.chat(request, &mut |_| ControlFlow::Continue(())).unwrap();
        chat.engine_mut().unwrap();
        let many = chat.chat_all(std::slice::from_ref(request), &mut |_, _| ControlFlow::Continue(()));
        assert_eq!(many[0].as_ref().unwrap(), &one);
        one
    };
    let call =
        r#"I look.<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call><|im_end|>"#;
    let reply = asked(call, &request);
    assert_eq!((reply.text.as_str(), reply.finish_reason), ("I look.", FinishReason::ToolCalls));
    assert_eq!(reply.tool_calls.len(), 1);
    assert_eq!(reply.tool_calls[0]["function"]["name"], "weather");
    assert_eq!(reply.tool_calls[0]["function"]["arguments"], r#"{"city":"Rome"}"#);
    let unknown = asked(&call.replace("weather", "tide"), &request);
    assert!(unknown.tool_calls.is_empty() && unknown.text.contains("tide"), "{unknown:?}");
}

#[test]
fn end_tokens_come_from_the_model_the_tokenizer_and_the_template() {
    let chat = LocalChat::new(Parrot::new(10, |_| one_hot(0)), renderer()).unwrap();
    assert_eq!(chat.end_tokens(), [0, 2]);
}

#[test]
fn a_stop_text_across_tokens_is_never_shown() {
    let stop = |options: &mut SamplingOptions| options.stop = vec!["\nUser:".into()];
    let (stopped, pieces) = reply("One line\nUser: two", stop);
    assert_eq!(stopped.reply.text, "One line");
    assert_eq!(stopped.reply.finish_reason, FinishReason::StopText);
    assert_eq!(pieces.concat(), "One line");
    let (whole, pieces) = reply("One line\nUse", stop);
    assert_eq!(whole.reply.text, "One line\nUse");
    assert_eq!(whole.reply.finish_reason, FinishReason::EndOfTurn);
    assert_eq!(pieces.concat(), "One line\nUse");
}

#[test]
fn a_reply_cut_inside_a_character_shows_that() {
    let n_tokens = tokens("a🙂").len() - 1;
    let (reply, _) = reply("a🙂", |options| options.max_new_tokens = n_tokens);
    assert_eq!(reply.reply.text, "a\u{fffd}");
    assert_eq!(reply.reply.finish_reason, FinishReason::Length);
}

#[test]
fn the_next_turn_reads_only_what_is_new() {
    let answer = tokens("four<|im_end|>");
    let first = ask(&[(Role::User, "2 + 2?")]);
    let n_first = renderer().prompt(&first.conversation).unwrap().len();
    let parrot =
        Parrot::new(1000, move |so_far| one_hot(answer.get(so_far.len() - n_first).copied().unwrap_or(0)));
    let mut chat = LocalChat::new(parrot, renderer()).unwrap();
    let mut silent = |_: &str| ControlFlow::Continue(());
    assert_eq!(chat.chat(&first, &mut silent).unwrap().text, "four");
    let n_read = chat.with_engine(|engine| engine.n_read);
    let second = ask(&[(Role::User, "2 + 2?"), (Role::Assistant, "four"), (Role::User, "Sure?")]);
    let reply = chat.reply(&second, &mut silent).unwrap();
    let n_second = renderer().prompt(&second.conversation).unwrap().len();
    assert!(reply.n_reused_tokens > n_first, "{}", reply.n_reused_tokens);
    assert_eq!(chat.with_engine(|engine| engine.n_read) - n_read, n_second - reply.n_reused_tokens);
    // Weights that change make the cache stale.
    chat.engine_mut().unwrap().n_read = 0;
    assert_eq!(chat.reply(&second, &mut silent).unwrap().n_reused_tokens, 0);
}

/// Says something else after every other text, and ends now and then.
fn babbler() -> LocalChat<Parrot> {
    let parrot = Parrot::new(600, |so_far| {
        let mixed = so_far.iter().fold(7_u32, |sum, &token| sum.wrapping_mul(31).wrapping_add(token));
        let mut logits: Vec<f32> =
            (0..400_u32).map(|token| (mixed.wrapping_mul(token + 3) % 97) as f32 / 40.0).collect();
        logits[2] = 4.5;
        logits
    });
    LocalChat::new(parrot, renderer()).unwrap()
}

#[test]
fn many_requests_are_answered_as_each_alone() {
    let request = |i: usize| {
        let mut request =
            ask(&[(Role::System, &"Be brief. ".repeat(40)), (Role::User, &"why ".repeat(1 + i % 5))]);
        request.sampling = SamplingOptions {
            max_new_tokens: 5 + i,
            temperature: 1.0,
            seed: i as u64 % 3,
            stop: if i.is_multiple_of(4) { vec!["a".into()] } else { Vec::new() },
            ..SamplingOptions::default()
        };
        request
    };
    let mut requests: Vec<ChatRequest> = (0..20).map(request).collect();
    requests[3] = ask(&[]);
    requests[7].sampling.top_p = 2.0;
    requests[11] = ask(&[(Role::User, &"long ".repeat(600))]);
    let go_on = |_: &str| ControlFlow::Continue(());
    let alone: Vec<_> = requests
        .iter()
        .map(|request| babbler().chat(request, &mut { go_on }).map_err(|e| e.to_string()))
        .collect();
    assert_eq!(alone.iter().filter(|result| result.is_err()).count(), 3);
    let chat = babbler();
    let mut n_calls = vec![0; 20];
    let together = chat.chat_all(&requests, &mut |place, result| {
        n_calls[place] += 1;
        assert_eq!(result.as_ref().map_err(ToString::to_string), alone[place].as_ref().map_err(Clone::clone));
        ControlFlow::Continue(())
    });
    assert_eq!(n_calls, [1; 20], "one call per prompt");
    let together: Vec<_> = together.into_iter().map(|result| result.map_err(|e| e.to_string())).collect();
    assert_eq!(together, alone);
    // Whole pieces of common beginnings are read once, and of every reply all tokens but the last.
    let replies = || alone.iter().flatten();
    let n_drawn: usize = replies().map(|reply| reply.n_completion_tokens - 1).sum();
    let n_prompts: usize = replies().map(|reply| reply.n_prompt_tokens).sum();
    assert!(
        chat.with_engine(|engine| engine.n_read) - n_drawn < n_prompts / 2,
        "{} of {n_prompts}",
        chat.with_engine(|engine| engine.n_read) - n_drawn
    );

    let mut n_called = 0;
    let broken_off = babbler().chat_all(&requests, &mut |_, _| {
        n_called += 1;
        if n_called == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let is_asked = |result: &&truing_types::ChatResult| !matches!(result, Err(ChatError::BrokenOff));
    assert_eq!((broken_off.iter().filter(is_asked).count(), n_called), (5, 5));
}

#[test]
fn breaking_off_is_cancelling() {
    let chat = LocalChat::new(Parrot::new(1000, |_| one_hot(50)), renderer()).unwrap();
    let reply = chat.chat(&ask(&[(Role::User, "q")]), &mut |_| ControlFlow::Break(())).unwrap();
    assert_eq!((reply.tokens.len(), reply.finish_reason), (1, FinishReason::Cancelled));
}

#[test]
fn requests_that_cannot_be_served_say_why() {
    let chat = LocalChat::new(Parrot::new(8, |_| one_hot(50)), renderer()).unwrap();
    let mut silent = |_: &str| ControlFlow::Continue(());
    let error = chat.chat(&ask(&[]), &mut silent).unwrap_err();
    assert_eq!(error.to_string(), "the request cannot be served: the conversation is empty");
    let error = chat.chat(&ask(&[(Role::User, "far too long")]), &mut silent).unwrap_err();
    assert!(matches!(&error, ChatError::BadRequest(reason) if reason.contains("context holds 8")), "{error}");
    let mut hot = ask(&[(Role::User, "q")]);
    hot.sampling.temperature = -1.0;
    assert!(chat.chat(&hot, &mut silent).unwrap_err().to_string().contains("temperature"));
}

/// A local model reads text only, and says so rather than answering half of a message.
#[test]
fn a_message_with_an_image_is_refused() {
    let text = ask(&[(Role::User, "What is this?")]);
    let mut image = text.clone();
    image.conversation.messages[0].parts =
        vec![serde_json::json!({"type": "image_url", "image_url": {"url": "data:,"}})];
    let expected = "this model reads text only: the message has a part of type `image_url`";
    let chat = LocalChat::new(Parrot::new(1000, |_| one_hot(2)), renderer()).unwrap();
    let error = chat.chat(&image, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, ChatError::BadRequest(_)), "{error:?}");
    assert_eq!(error.reason(), expected);
    let results = chat.chat_all(&[image, text], &mut |_, _| ControlFlow::Continue(()));
    let reasons: Vec<_> = results.iter().map(|result| result.as_ref().err().map(ChatError::reason)).collect();
    assert_eq!(reasons, [Some(expected.to_owned()), None]);
}

#[test]
fn raw_texts_are_continued() {
    let answer = tokens(" rolls<|im_end|>");
    let n_prompt = tokens("the wheel").len();
    let chat = LocalChat::new(Parrot::saying(100, n_prompt, answer), renderer()).unwrap();
    let mut silent = |_: &str| ControlFlow::Continue(());
    let reply = chat.complete("the wheel", &SamplingOptions::default(), &mut silent).unwrap();
    assert_eq!(reply.reply.text, " rolls");
    let error = chat.complete("", &SamplingOptions::default(), &mut silent).unwrap_err();
    assert_eq!(error.to_string(), "the prompt is empty");
}

#[test]
fn a_tokenizer_without_template_continues_texts_only() {
    let files = renderer().tokenizer().files().into_iter().filter(|(name, _)| !name.ends_with(".jinja"));
    let tokenizer = Tokenizer::from_files(files.collect()).unwrap();
    let renderer = ChatRenderer::new(tokenizer, RenderOptions::default()).unwrap();
    let chat = LocalChat::new(Parrot::new(100, |_| one_hot(2)), renderer).unwrap();
    let mut silent = |_: &str| ControlFlow::Continue(());
    assert!(chat.complete("x", &SamplingOptions::default(), &mut silent).is_ok());
    let error = chat.chat(&ask(&[(Role::User, "q")]), &mut silent).unwrap_err();
    assert!(error.to_string().contains("no chat template"), "{error}");
}

/// Asks a model with this tokenizer that says `answer`, alone and as one of many.
fn split_reply(renderer: &ChatRenderer, answer: &str) -> (String, Option<String>) {
    let request = ask(&[(Role::User, "question")]);
    let n_prompt = renderer.prompt(&request.conversation).unwrap().len();
    let tokens = renderer.tokenizer().encode(answer, SpecialTokens::Parse).unwrap();
    let chat = || {
        let tokens = tokens.clone();
        let parrot = Parrot::new(1000, move |so_far| {
            let mut logits = vec![0.0; 410];
            logits[tokens.get(so_far.len() - n_prompt).copied().unwrap_or(2) as usize] = 20.0;
            logits
        });
        LocalChat::new(parrot.with_rows(410), renderer.clone()).unwrap()
    };
    let alone = chat().chat(&request, &mut |_| ControlFlow::Continue(())).unwrap();
    let many = chat().chat_all(&[request], &mut |_, _| ControlFlow::Continue(())).remove(0).unwrap();
    assert_eq!((&alone.text, &alone.reasoning), (&many.text, &many.reasoning));
    (alone.text, alone.reasoning)
}

#[test]
fn a_thought_comes_apart_from_the_answer() {
    let text = |text: &str, thought: Option<&str>| (text.to_owned(), thought.map(str::to_owned));
    assert_eq!(split_reply(&renderer(), "<think>hm</think>\n\nyes"), text("yes", Some("hm")));
    assert_eq!(split_reply(&renderer(), "<think>hm, cut"), text("", Some("hm, cut")));
    assert_eq!(split_reply(&renderer(), "yes <think>"), text("yes <think>", None));
    // A template that opens the thought, and one with marks of its own.
    let template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}";
    let opening = format!("{template}{{% if add_generation_prompt %}}<think>\n{{% endif %}}");
    let opening = renderer().with_template(&opening).unwrap();
    assert_eq!(split_reply(&opening, "hm</think>yes"), text("yes", Some("hm")));
    assert_eq!(split_reply(&opening, "hm, cut"), text("", Some("hm, cut")));
    // One that writes the first words of the thought too, and one that closes it.
    let begun = |words: &str| {
        let turn = format!("{template}{{% if add_generation_prompt %}}<think>\n{words}{{% endif %}}");
        renderer().with_template(&turn).unwrap()
    };
    assert_eq!(split_reply(&begun("Okay, "), "hm</think>yes"), text("yes", Some("hm")));
    assert_eq!(split_reply(&begun("Okay, "), "hm, cut"), text("", Some("hm, cut")));
    assert_eq!(split_reply(&begun("</think>So "), "yes"), text("yes", None));
    let own = renderer().with_template(&format!("{template}{{# <my_thought>..</my_thought> #}}")).unwrap();
    assert_eq!(split_reply(&own, "hm</my_thought>yes"), text("yes", Some("hm")));
    assert_eq!(split_reply(&renderer(), "hm</my_thought>yes").1, None);
    // A tag whose name speaks of thinking needs no declaration where it opens the text.
    assert_eq!(split_reply(&renderer(), "<my_thought>hm</my_thought>yes"), text("yes", Some("hm")));
    assert_eq!(split_reply(&renderer(), "<my_plan>hm</my_plan>yes").1, None);
}

#[test]
fn marks_that_are_special_tokens_are_not_lost() {
    let mut files = renderer().tokenizer().files();
    let (_, config) = files.iter_mut().find(|(name, _)| name == "tokenizer_config.json").unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(config).unwrap();
    json["added_tokens_decoder"] = serde_json::json!({
        "400": {"content": "[THINK]", "special": true},
        "401": {"content": "[/THINK]", "special": true},
        "402": {"content": "[OTHER]", "special": true},
    });
    *config = serde_json::to_vec(&json).unwrap();
    let renderer =
        ChatRenderer::new(Tokenizer::from_files(files).unwrap(), RenderOptions::default()).unwrap();
    let found = split_reply(&renderer, "[THINK]hm[OTHER][/THINK]yes[OTHER]");
    assert_eq!(found, ("yes".to_owned(), Some("hm".to_owned())));
}

/// The engine serves one thread after the other; what a reply says does not depend on who else asks.
#[test]
fn threads_share_a_model() {
    let requests: Vec<ChatRequest> = (0..8).map(|i| ask(&[(Role::User, &format!("question {i}"))])).collect();
    let says = |chat: &LocalChat<Parrot>, request: &ChatRequest| {
        chat.chat(request, &mut |_| ControlFlow::Continue(())).map_err(|error| error.to_string())
    };
    let alone: Vec<_> = requests.iter().map(|request| says(&babbler(), request)).collect();
    let chat = babbler();
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = requests.iter().map(|request| scope.spawn(|| says(&chat, request))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
}

/// A panic while a reply is generated does not take the model away from the others.
#[test]
fn a_thread_that_panics_leaves_the_model_usable() {
    let request = ask(&[(Role::User, "question")]);
    let n_prompt = renderer().prompt(&request.conversation).unwrap().len();
    let says_four = || Parrot::saying(1000, n_prompt, tokens("four<|im_end|>"));
    let chat = LocalChat::new(says_four(), renderer()).unwrap();
    let expected = LocalChat::new(says_four(), renderer())
        .unwrap()
        .chat(&request, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    std::thread::scope(|scope| {
        let panicking = scope.spawn(|| chat.chat(&request, &mut |_| panic!("the listener fails")));
        assert!(panicking.join().is_err());
    });
    assert_eq!(chat.chat(&request, &mut |_| ControlFlow::Continue(())).unwrap(), expected);
}
