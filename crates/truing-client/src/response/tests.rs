//! Tests of `response.rs`.

use super::*;

#[test]
fn answers_of_many_servers_are_read() {
    for (body, text, finish) in [
        (
            r#"{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}"#,
            "hi",
            FinishReason::EndOfTurn,
        ),
        (
            r#"{"choices":[{"message":{"content":"hi"},"finish_reason":"length"}],"error":null}"#,
            "hi",
            FinishReason::Length,
        ),
        (
            concat!(
                r#"{"choices":[{"message":{"content":[{"type":"text","text":"a"},{"type":"image"},"b"]},"#,
                r#""finish_reason":""}],"x":[1]}"#,
            ),
            "ab",
            FinishReason::EndOfTurn,
        ),
        (
            r#"{"choices":[{"message":{"content":null,"tool_calls":[]},"finish_reason":"brand_new"}]}"#,
            "",
            FinishReason::EndOfTurn,
        ),
        (r#"{"choices":[{"message":{"content":null,"refusal":"no"}}]}"#, "", FinishReason::Refusal),
        (r#"{"choices":[{"text":"old"}]}"#, "old", FinishReason::EndOfTurn),
    ] {
        let answer = parse_answer(body.as_bytes()).unwrap();
        assert_eq!((answer.text.as_str(), answer.finish(16)), (text, finish), "{body}");
    }
    let answer = parse_answer(
        br#"{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#,
    )
    .unwrap();
    assert_eq!((answer.n_prompt_tokens, answer.n_completion_tokens), (5, 2));
}

#[test]
fn reasoning_is_kept_apart_under_all_its_names() {
    for (message, text, reasoning) in [
        (r#"{"content":"b","reasoning_content":"a"}"#, "b", "a"),
        (r#"{"content":"b","reasoning":"a"}"#, "b", "a"),
        (r#"{"content":"b","reasoning":"a","reasoning_content":"a"}"#, "b", "a"),
        (r#"{"content":"b","reasoning":null,"reasoning_content":""}"#, "b", ""),
        (r#"{"content":null,"reasoning_content":"a"}"#, "", "a"),
        (
            r#"{"content":"b","reasoning":"a","reasoning_details":[{"type":"reasoning.text","text":"a"}]}"#,
            "b",
            "a",
        ),
        (
            concat!(
                r#"{"content":"b","reasoning_details":[{"type":"reasoning.summary","summary":"a"},"#,
                r#"{"type":"reasoning.encrypted","data":"x"}]}"#,
            ),
            "b",
            "a",
        ),
        (
            r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"a"}]},{"type":"text","text":"b"}]}"#,
            "b",
            "a",
        ),
        (
            r#"{"content":[{"type":"thinking","thinking":"a","signature":"x"},{"type":"text","text":"b"}]}"#,
            "b",
            "a",
        ),
        (r#"{"content":[{"type":"reasoning","text":"a"},{"type":"output_text","text":"b"}]}"#, "b", "a"),
    ] {
        let body = format!(r#"{{"choices":[{{"message":{message},"finish_reason":"stop"}}]}}"#);
        let answer = parse_answer(body.as_bytes()).unwrap();
        assert_eq!((answer.text.as_str(), answer.reasoning.as_str()), (text, reasoning), "{message}");
        let piece = format!("data: {{\"choices\":[{{\"delta\":{message},\"finish_reason\":\"stop\"}}]}}\n\n");
        let streamed = read(piece.as_bytes(), 5).unwrap();
        assert_eq!((streamed.text.as_str(), streamed.reasoning.as_str()), (text, reasoning), "{message}");
    }
}

#[test]
fn ends_that_are_no_answer_have_their_reason() {
    for (choice, expected) in [
        (r#"{"message":{"content":"x"},"finish_reason":"content_filter"}"#, FinishReason::ContentFilter),
        (
            r#"{"message":{"content":null,"tool_calls":[{"id":"1"}]},"finish_reason":"tool_calls"}"#,
            FinishReason::ToolCalls,
        ),
        (
            r#"{"message":{"content":"","tool_calls":[{"id":"1"}]},"finish_reason":"stop"}"#,
            FinishReason::ToolCalls,
        ),
        (r#"{"message":{"content":"x","refusal":null},"finish_reason":"stop"}"#, FinishReason::EndOfTurn),
        (r#"{"message":{"content":"x"},"finish_reason":"max_tokens"}"#, FinishReason::Length),
        (r#"{"message":{"content":"x"},"finish_reason":"MAX_TOKENS"}"#, FinishReason::Length),
        (r#"{"message":{"content":"x"},"finish_reason":"FinishReason.MAX_TOKENS"}"#, FinishReason::Length),
        (r#"{"message":{"content":"x"},"finish_reason":"Length"}"#, FinishReason::Length),
        (r#"{"message":{"content":"x"},"finish_reason":"SAFETY"}"#, FinishReason::ContentFilter),
        (r#"{"message":{"content":"x"},"finish_reason":"RECITATION"}"#, FinishReason::ContentFilter),
        (r#"{"message":{"content":"x"},"finish_reason":"content-filter"}"#, FinishReason::ContentFilter),
        (r#"{"message":{"content":"x"},"finish_reason":"STOP"}"#, FinishReason::EndOfTurn),
        (r#"{"message":{"content":"x"},"finish_reason":"COMPLETE"}"#, FinishReason::EndOfTurn),
        (r#"{"message":{"content":null},"finish_reason":"TOOL_CALL"}"#, FinishReason::ToolCalls),
    ] {
        let answer = parse_answer(format!(r#"{{"choices":[{choice}]}}"#).as_bytes()).unwrap();
        assert_eq!(answer.finish(16), expected, "{choice}");
    }
    for choice in [
        r#"{"message":{"content":"x"},"finish_reason":"abort"}"#,
        r#"{"message":{"content":"x"},"finish_reason":"TIMEOUT"}"#,
        r#"{"message":{"content":"x"},"finish_reason":"ERROR"}"#,
        r#"{"message":{"content":"x"},"finish_reason":"insufficient_system_resource"}"#,
        r#"{"message":{"content":"x"},"finish_reason":"error"}"#,
        r#"{"message":{"content":"x"},"finish_reason":"stop","error":{"message":"lost","code":502}}"#,
    ] {
        assert!(parse_answer(format!(r#"{{"choices":[{choice}]}}"#).as_bytes()).is_err(), "{choice}");
        let delta = choice.replacen("message", "delta", 1);
        let piece = format!("data: {{\"choices\":[{delta}]}}\n\ndata: [DONE]\n\n");
        assert!(read(piece.as_bytes(), 5).is_err(), "{delta}");
    }
}

/// Some servers give no reason; the tokens they count say whether the reply was cut.
#[test]
fn an_answer_without_a_reason_has_ended_unless_it_used_up_its_tokens() {
    for reason in ["", r#","finish_reason":null"#, r#","finish_reason":"""#] {
        for (usage, expected) in [
            ("", FinishReason::EndOfTurn),
            (r#","usage":{"completion_tokens":15}"#, FinishReason::EndOfTurn),
            (r#","usage":{"completion_tokens":16}"#, FinishReason::Length),
        ] {
            let body = format!(r#"{{"choices":[{{"message":{{"content":"x"}}{reason}}}]{usage}}}"#);
            assert_eq!(parse_answer(body.as_bytes()).unwrap().finish(16), expected, "{body}");
        }
    }
    // A reason that is given is believed.
    let body = r#"{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}],"usage":{"completion_tokens":16}}"#;
    assert_eq!(parse_answer(body.as_bytes()).unwrap().finish(16), FinishReason::EndOfTurn);
}

#[test]
fn errors_have_names() {
    for (body, expected) in [
        (
            r#"{"error":{"message":"m","type":"insufficient_quota","code":"Insufficient_Quota"}}"#,
            &["insufficient_quota", "insufficient_quota"][..],
        ),
        (
            r#"{"error":{"code":400,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
            &["400", "responsibleaipolicyviolation"],
        ),
        (r#"[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}]"#, &["429", "resource_exhausted"]),
        (r#"{"code":"Arrearage","message":"m"}"#, &["arrearage"]),
        ("<html>", &[]),
    ] {
        assert_eq!(error_names(body.as_bytes()), expected, "{body}");
    }
}

#[test]
fn what_is_no_answer_is_told_apart() {
    let error = |body: &str| parse_answer(body.as_bytes()).unwrap_err();
    assert!(matches!(error(r#"{"choices":[{"message":{"con"#), AnswerError::CutOff(_)));
    assert!(matches!(error(""), AnswerError::CutOff(_)));
    assert!(
        matches!(error("<html>busy</html>"), AnswerError::NotJson { beginning, .. } if beginning == "<html>busy</html>")
    );
    for body in
        [r#"{"choices":[]}"#, "[]", "3", r#"{"choices":[{"message":"text"}]}"#, r#"{"choices":{"0":1}}"#]
    {
        assert!(matches!(error(body), AnswerError::NoChoice { .. }), "{body}");
    }
    let reported = |said: &str, names: &[&str]| AnswerError::Reported {
        said: said.into(),
        names: names.iter().map(ToString::to_string).collect(),
    };
    let cards = reported("out of cards", &["1"]);
    assert_eq!(error(r#"{"error":{"message":"out of\n cards","code":1}}"#), cards);
    assert_eq!(error(r#"{"error":"busy"}"#), reported("busy", &[]));
    assert_eq!(error(r#"{"detail":"Not Found"}"#), reported("Not Found", &[]));
}

#[test]
fn an_error_page_is_shortened() {
    let page = format!("<html>\n  <body>{}</body>", "x".repeat(5000));
    let text = error_text(page.as_bytes());
    assert!(text.starts_with("<html> <body>xxx") && text.ends_with("...") && text.len() < 320, "{text}");
    assert_eq!(error_text(b""), "");
    assert_eq!(error_text(&[0xff; 3]), "\u{fffd}\u{fffd}\u{fffd}");
}

const STREAM: &str = concat!(
    ": ping\r\n\r\n",
    "event: x\r\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\"},\"finish_reason\":null}]}\r\n\r\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"häl\"}}]}\n\n",
    "data:{\"choices\":[{\"delta\":\r",
    "data: {\"content\":\"lo\"},\"finish_reason\":\"\"}]}\r\r",
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2}}\n\n",
    "data: [DONE]\n\n",
    "data: not looked at\n\n",
);

fn read(stream: &[u8], piece: usize) -> Result<Answer, AnswerError> {
    let mut parser = StreamParser::default();
    let mut text = String::new();
    for bytes in stream.chunks(piece) {
        text += &parser.push(bytes)?;
    }
    let answer = parser.finish()?;
    assert_eq!(answer.text, text);
    Ok(answer)
}

#[test]
fn a_stream_cut_anywhere_into_pieces_gives_the_same_text() {
    let expected = Answer {
        text: "hällo".into(),
        finish_reason: Some("stop".into()),
        n_prompt_tokens: 4,
        n_completion_tokens: 2,
        ..Answer::default()
    };
    for piece in 1..40 {
        assert_eq!(read(STREAM.as_bytes(), piece).unwrap(), expected, "{piece}");
    }
}

#[test]
fn a_stream_without_its_end_is_no_answer() {
    // With the finish reason it is whole, and before it never.
    let whole_from = STREAM.find("\"stop\"}]}").unwrap() + "\"stop\"}]}".len();
    for end in 0..STREAM.len() {
        let found = read(&STREAM.as_bytes()[..end], 7);
        match end >= whole_from {
            true => {
                assert!(found.is_ok() || end < STREAM.find("data: [DONE]").unwrap(), "{end}: {found:?}")
            }
            false => assert!(matches!(found, Err(AnswerError::CutOff(_))), "{end}: {found:?}"),
        }
    }
    let error = read(b"data: {\"error\":{\"message\":\"lost\"}}\n\n", 9).unwrap_err();
    assert_eq!(error, AnswerError::Reported { said: "lost".into(), names: Vec::new() });
    assert!(matches!(read(b"data: <html>\n\n", 3), Err(AnswerError::NotJson { .. })));
    assert!(matches!(read(b"data: {\"choices\"", 3), Err(AnswerError::CutOff(_))));
}
