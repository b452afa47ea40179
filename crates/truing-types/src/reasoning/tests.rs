use super::*;

fn split<'a>(text: &'a str, start: TextStart<'_>) -> (Option<String>, Option<&'a str>) {
    let split = split_reasoning(text, &ReasoningMarks::default(), start);
    (split.reasoning(), split.answer)
}

fn mark(open: &str, close: &str) -> ReasoningMark {
    ReasoningMark { open: open.into(), close: close.into() }
}

fn think() -> ReasoningMark {
    mark("<think>", "</think>")
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
    // A mark between two quotations is not in quotes; one that is quoted is.
    ("<think>say \"yes\"</think>\"yes\"", Some("say \"yes\""), Some("\"yes\"")),
    ("<think>so 'yes'</think>'yes'", Some("so 'yes'"), Some("'yes'")),
    ("<think>`x`</think>`y`", Some("`x`"), Some("`y`")),
    ("<think>He says \"go.\"</think>\"go\"", Some("He says \"go.\""), Some("\"go\"")),
    ("<think>I end with \"</think>\" later.</think>7", Some("I end with \"</think>\" later."), Some("7")),
    ("<think>Write (`</think>`) last.</think>7", Some("Write (`</think>`) last."), Some("7")),
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
    (
        "18. In HTML I close with </reasoning> as in XML.",
        None,
        Some("18. In HTML I close with </reasoning> as in XML."),
    ),
    ("The tags are a </think> b", None, Some("The tags are a </think> b")),
    ("The tag </think> is last.\n</think>\n7", Some("The tag </think> is last."), Some("7")),
    // Closing marks that are repeated, or that close nothing.
    ("<think>a</think></think>b", Some("a"), Some("b")),
    ("<think></think></think></think>18", None, Some("18")),
    ("</think> </think>\n</think>18", None, Some("18")),
    ("<think>a</think>7</think>", Some("a"), Some("7")),
    ("<think>a</think>7\n</think>\n</think>\n", Some("a"), Some("7")),
    ("<think>a</think>7 <think>b</think>", Some("a"), Some("7 <think>b</think>")),
    ("<think>a</think> 18 </thinking> 3", Some("a"), Some("18 </thinking> 3")),
    // What may be before the first mark.
    ("\u{feff}<think>a</think>b", Some("a"), Some("b")),
    ("\u{200b} \u{feff}\n<think>a", Some("a"), None),
    (".<think>maybe 18", Some("maybe 18"), None),
    ("**<think>** maybe 18 </think> 3", Some("** maybe 18"), Some("3")),
    ("assistant\n<think>a</think>b", Some("a"), Some("b")),
    ("<|im_start|>assistant\n<think>maybe 18", Some("maybe 18"), None),
    ("<|start_header_id|>assistant<|end_header_id|>\n\n<think>a</think>b", Some("a"), Some("b")),
    ("x <think>18", Some("18"), Some("x")),
    ("x<think>a</think>b", Some("a"), Some("b")),
    ("7 <think>a</think>", Some("a"), Some("7")),
    ("I <b>think</b> 7", None, Some("I <b>think</b> 7")),
    ("So: <think>a</think>b", None, Some("So: <think>a</think>b")),
    ("\"<think>\" opens it.", None, Some("\"<think>\" opens it.")),
    ("`<think>` opens it.", None, Some("`<think>` opens it.")),
    // Channels.
    (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final \
         <|constrain|>json<|message|>{\"x\":1}<|return|>",
        Some("a"),
        Some("{\"x\":1}"),
    ),
    ("\u{feff}<|channel|>final<|constrain|>json<|message|>[1]", None, Some("[1]")),
    (
        "<|channel|>analysis<|message|>I write <|channel|>final<|message|>18 later<|end|>",
        Some("I write <|channel|>final<|message|>18 later"),
        None,
    ),
    (
        "<|channel|>commentary to=f \
         <|constrain|>json<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>b",
        Some("{}"),
        Some("b"),
    ),
    ("<|channel|>final<|end|><|start|>assistant<|channel|>analysis<|message|>a", Some("a"), None),
    (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>",
        Some("a"),
        Some("b"),
    ),
    ("<|start|>assistant<|channel|>analysis<|message|>a", Some("a"), None),
    ("<|channel|>final<|message|>b", None, Some("b")),
    // Without ends of messages.
    ("<|channel|>analysis<|message|>2 + 2 is 4.<|channel|>final<|message|>4", Some("2 + 2 is 4."), Some("4")),
    ("<|channel|>analysis<|message|>a\n<|channel|>final<|message|>\nb", Some("a"), Some("b")),
    (
        "<|channel|>analysis<|message|>a<|channel|>commentary<|message|>c<|channel|>final \
         <|constrain|>json<|message|>[1]",
        Some("a\n\nc"),
        Some("[1]"),
    ),
    (
        "<|channel|>analysis<|message|>First `<|channel|>final<|message|>`, I say 18",
        Some("First `<|channel|>final<|message|>`, I say 18"),
        None,
    ),
    ("<|channel|>analysis<|message|>18.<|channel|>final", Some("18.<|channel|>final"), None),
    ("<|channel|>analysis<|message|>18.<|channel|>final<|message|>", Some("18."), None),
    // Without special tokens.
    ("analysisWe add 2 and 2.assistantfinal4", Some("We add 2 and 2."), Some("4")),
    ("analysisWe add 2 and 2, so [[4]]", Some("We add 2 and 2, so [[4]]"), None),
    ("analysisNo calls.assistantfinal", Some("No calls."), None),
    ("analysis of the text: 4", None, Some("analysis of the text: 4")),
    ("analysisResult = 4", None, Some("analysisResult = 4")),
    ("The analysisWe made: assistantfinal4", None, Some("The analysisWe made: assistantfinal4")),
    // Marks of more families.
    ("<|channel>thought\na\n<channel|>b", Some("a"), Some("b")),
    ("<|channel>thought\n<channel|>b", None, Some("b")),
    ("<|channel>thought\nperhaps 18", Some("perhaps 18"), None),
    ("<|channel>a<channel|>\n\nb", Some("a"), Some("b")),
    ("a\n<channel|>b", Some("a"), Some("b")),
    ("<longcat_think>\na\n</longcat_think>\nb", Some("a"), Some("b")),
    ("so 18\n</longcat_think>\n3", Some("so 18"), Some("3")),
    ("<longcat_think>so 18", Some("so 18"), None),
    ("<mm:think>a</mm:think>b", Some("a"), Some("b")),
    ("<think:opensource>a</think:opensource>b", Some("a"), Some("b")),
    ("<ifm|think_fast>a</ifm|think_fast>b", Some("a"), Some("b")),
    ("<|think_start|>a<|think_end|>b", Some("a"), Some("b")),
    ("a<|think:end|>b", Some("a"), Some("b")),
    ("[unused16]a[unused17]b", Some("a"), Some("b")),
    // Marks whose names speak of thinking.
    ("<deep_think>a</deep_think>b", Some("a"), Some("b")),
    ("<Chain_of_Thought>\na\n</Chain_of_Thought>\nb", Some("a"), Some("b")),
    ("<inner:thoughts>a</inner:thoughts>b", Some("a"), Some("b")),
    ("[DEEP_THOUGHT]a[/DEEP_THOUGHT]b", Some("a"), Some("b")),
    ("<|deep_thought|>a<|/deep_thought|>b", Some("a"), Some("b")),
    ("<deep_think>so 18", Some("so 18"), None),
    ("[Reasoning] 2 + 2\n[Answer] 4", None, Some("[Reasoning] 2 + 2\n[Answer] 4")),
    ("<rethinking the='plan'>a</rethinking>b", None, Some("<rethinking the='plan'>a</rethinking>b")),
    ("`<deep_think>` opens it.", None, Some("`<deep_think>` opens it.")),
    ("<answer>7</answer>", None, Some("<answer>7</answer>")),
    ("[I think](http://a.b) so", None, Some("[I think](http://a.b) so")),
    ("<b>reasons</b>: 7", None, Some("<b>reasons</b>: 7")),
];

#[test]
fn closing_marks_at_the_end_of_a_growing_text() {
    let marks = ReasoningMarks::default();
    let held = |text: &str| text[text.len() - marks.closing_at_end(text)..].to_owned();
    for (text, expected) in [
        ("", ""),
        ("a \n", ""),
        ("a < b", ""),
        ("a <", "<"),
        ("轮</thin", "</thin"),
        ("a </think> \n", "</think> \n"),
        ("a</think>\n</Think>", "</think>\n</Think>"),
        ("a</think> b", ""),
        ("<", "<"),
    ] {
        assert_eq!(held(text), expected, "{text}");
    }
}

#[test]
fn thought_and_answer_are_separated() {
    let n_with_thought = REPLIES.iter().filter(|(_, thought, _)| thought.is_some()).count();
    assert!(n_with_thought >= 40, "{n_with_thought}");
    for &(text, thought, answer) in REPLIES {
        assert_eq!(split(text, TextStart::Unknown), (thought.map(str::to_owned), answer), "{text}");
    }
}

#[test]
fn an_answer_that_was_split_off_is_its_own_answer() {
    for &(text, _, answer) in REPLIES {
        // A mark shown as an example after a thought is the one text that reads differently without it.
        let is_example = |answer: &&str| {
            ["Close it with </think>", "18 </thinking>", "b <think>", "7 <think>"]
                .iter()
                .any(|example| answer.starts_with(example))
        };
        if let Some(answer) = answer.filter(|answer| !is_example(answer)) {
            assert_eq!(split(answer, TextStart::Unknown), (None, Some(answer)), "{text}");
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
        (
            "Known tags are </thought> and so on. 5.</think>\n3",
            Some("Known tags are </thought> and so on. 5."),
            Some("3"),
        ),
        ("a </thought> 18", Some("a </thought> 18"), None),
        ("so x[/think] 18 and on", Some("so x[/think] 18 and on"), None),
        ("<thinking>a</thinking>18</think>b", Some("<thinking>a</thinking>18"), Some("b")),
        ("18</think>", Some("18"), None),
        ("</think></think>18", None, Some("18")),
        ("```\n</think>\nb", Some("```"), Some("b")),
        ("a</think><think>b</think>c", Some("a\n\nb"), Some("c")),
        ("a</think><think>b", Some("a\n\nb"), None),
        ("a<|end|><|start|>assistant<|channel|>final<|message|>b", Some("a"), Some("b")),
        ("[[2]] perhaps, or", Some("[[2]] perhaps, or"), None),
        ("a<|channel|>final<|message|>b <|end|>", Some("a"), Some("b ")),
        ("so <|channel|>final<|message|>b <|end|>", Some("so <|channel|>final<|message|>b"), None),
    ] {
        let opened = match text.contains("<|end|>") {
            true => mark("<|channel|>analysis<|message|>", "<|end|>"),
            false => think(),
        };
        let found = split(text, TextStart::Inside(&opened));
        assert_eq!(found, (thought.map(str::to_owned), answer), "{text}");
    }
    let square = mark("[think]", "[/think]");
    let found = split("a</think> 18 [/THINK] 3", TextStart::Inside(&square));
    assert_eq!(found, (Some("a</think> 18".into()), Some("3")));
}

#[test]
fn where_the_prompt_opened_none_a_stray_mark_at_the_end_closes_nothing() {
    for (text, thought, answer) in [
        ("The answer is 7.</think>", None, Some("The answer is 7.")),
        ("7\n</think>\n\n</think>\n", None, Some("7")),
        ("7</reasoning></think>", None, Some("7")),
        ("</think>", None, Some("")),
        ("a</think>\n\nb", Some("a"), Some("b")),
        ("a</think>b</think>", Some("a"), Some("b")),
        ("Close it with `</think>`", None, Some("Close it with `</think>`")),
        ("<think>a</think>", Some("a"), None),
        ("  7\n", None, Some("  7\n")),
    ] {
        assert_eq!(split(text, TextStart::Outside), (thought.map(str::to_owned), answer), "{text}");
    }
    // A server may have opened one.
    assert_eq!(split("perhaps [[2]]</think>", TextStart::Unknown).1, None);
}

#[test]
fn a_prompt_may_open_a_thought() {
    let marks = ReasoningMarks::default();
    for (prompt, expected) in [
        ("<|im_start|>assistant\n<think>\n", true),
        ("[INST]x[/INST][THINK]", true),
        ("<|start|>assistant<|channel|>analysis<|message|>", true),
        ("<|turn>model\n<|channel>thought\n", true),
        ("<|turn>model\n<|channel>thought\n<channel|>", false),
        ("<longcat_assistant><longcat_think>\n", true),
        ("<seed:bos>assistant\n<seed:think>", true),
        ("<|assistant|><|think:start|>", true),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", false),
        ("<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n", false),
        ("", false),
    ] {
        let opened = marks.opened_at_end(prompt);
        assert_eq!(opened.is_some(), expected, "{prompt}");
        assert_eq!(TextStart::after(opened.as_ref()) != TextStart::Outside, expected, "{prompt}");
    }
}

#[test]
fn a_prompt_may_begin_a_thought() {
    let marks = ReasoningMarks::default();
    for (turn, expected) in [
        ("assistant\n<think>\nOkay, let me", true),
        ("\n\n<THINK>I have to", true),
        ("User: What is 2 + 2?\nAssistant: <think>\nWe add", true),
        ("assistant\n<think>\n\n</think>\n\nThe answer", false),
        ("assistant\nThe mark <think> opens", false),
        ("User: What is <think>?\nAssistant: It is", false),
        ("User: <think> hard\nAssistant:", false),
        ("model\n<|channel>thought\nI add", true),
        ("model\n<|channel>thought\n<channel|>It is", false),
        ("Which model\n<think> is", false),
        ("<longcat_assistant><longcat_think>\nWe add", true),
        ("assistant\n", false),
    ] {
        assert_eq!(marks.opened_in_turn(turn).is_some(), expected, "{turn}");
    }
}

#[test]
fn further_marks_come_from_a_recipe_or_a_template() {
    let further = [mark("<Plan>", "</Plan>"), mark("", "x"), mark("|", "|")];
    let marks = ReasoningMarks::default().with(&further);
    let found = split_reasoning("<plan>a</plan>b", &marks, TextStart::Unknown);
    assert_eq!((found.reasoning().as_deref(), found.answer), (Some("a"), Some("b")));
    assert_eq!(split_reasoning("||b", &marks, TextStart::Unknown).answer, Some("||b"));

    let template = "{% if x %}<deep_thought>{{ m.r }}</deep_thought>{% endif %}<tool>{{ t }}</tool> [/INST]";
    let marks = ReasoningMarks::default().declared_by(template);
    assert_eq!(
        split_reasoning("<deep_thought>a</deep_thought>b", &marks, TextStart::Unknown).answer,
        Some("b")
    );
    assert_eq!(
        split_reasoning("<tool>a</tool>b", &marks, TextStart::Unknown).answer,
        Some("<tool>a</tool>b")
    );
    let opened = marks.opened_at_end("assistant\n<deep_thought>\n");
    assert_eq!(opened, Some(mark("<deep_thought>", "</deep_thought>")));
    assert!(marks.contains("</deep_thought>"));
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
        let think = think();
        for start in [TextStart::Unknown, TextStart::Outside, TextStart::Inside(&think)] {
            let found = split_reasoning(&text, &ReasoningMarks::default(), start);
            let n_bytes: usize = found.thoughts.iter().chain(&found.answer).map(|part| part.len()).sum();
            assert!(n_bytes <= text.len(), "{text}");
            assert!(!found.thoughts.is_empty() || found.answer.is_some() || text.contains("<|"), "{text}");
        }
    }
}
