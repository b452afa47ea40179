//! The grader of mathematical answers: a table of comparisons, whole completions, and damaged input.

use serde_json::{Map, json};
use truing_reward::verifiers::math_answer::{
    MathAnswer, MathAnswerConfig, Verdict, extract_answer, grade, grade_with, number,
};
use truing_reward::{Completion, RewardFunction};
use truing_types::{Conversation, FinishReason, RowOrigin, UnscoredReason};

use crate::{rows, shared};

fn table() -> Vec<(bool, String, String)> {
    include_str!("../fixtures/math_answers.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            assert!(fields.len() == 3 && ["=", "!"].contains(&fields[0]), "{line}");
            (fields[0] == "=", fields[1].to_owned(), fields[2].to_owned())
        })
        .collect()
}

#[test]
fn the_table_of_answers_holds_without_a_false_verdict() {
    let table = table();
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    for (is_equal, answer, reference) in &table {
        let found = grade(answer, reference);
        if (found == Verdict::Equal) != *is_equal || found == Verdict::Unparsed {
            let list = if *is_equal { &mut wrong } else { &mut right };
            list.push(format!("{answer:?} against {reference:?}: {found:?}"));
        }
    }
    assert!(right.is_empty() && wrong.is_empty(), "false positives: {right:#?}, false negatives: {wrong:#?}");
    let n_wrong = table.iter().filter(|row| !row.0).count();
    assert!(table.len() >= 150 && n_wrong * 2 >= table.len() - 60, "{n_wrong} of {}", table.len());
}

#[test]
fn verdicts_do_not_depend_on_which_side_is_the_reference() {
    for (is_equal, answer, reference) in table() {
        let found = grade(&reference, &answer);
        if found != Verdict::Unparsed {
            assert_eq!(found == Verdict::Equal, is_equal, "{reference:?} against {answer:?}");
        }
        assert_eq!(grade(&reference, &reference), Verdict::Equal, "{reference:?} against itself");
    }
}

fn score(reference: &str, text: &str) -> Result<f64, UnscoredReason> {
    let mut columns = Map::new();
    columns.insert("answer".into(), json!(reference));
    let (prompt, origin) = (Conversation::default(), RowOrigin { source: "a.jsonl".into(), line: 1 });
    let completion = Completion {
        prompt: &prompt,
        text,
        n_tokens: 9,
        finish_reason: FinishReason::EndOfTurn,
        columns: &columns,
        origin: &origin,
    };
    let mut reward = MathAnswer(MathAnswerConfig::default());
    reward.score(&[completion]).remove(0).map_err(|unscored| unscored.reason)
}

#[test]
fn a_bare_number_never_answers_an_expression_in_which_it_occurs() {
    for (reference, answer) in [
        ("\\sqrt{3}", "3"),
        ("12\\pi", "12"),
        ("x^2", "2"),
        ("\\pm 2021", "2021"),
        ("3!", "3"),
        ("\\frac{\\pi}{2}", "2"),
        ("3i", "3"),
        ("\\log 2", "2"),
        ("x \\ge 4", "x \\le 4"),
        ("4\\text{ or more}", "4"),
        ("B7", "7"),
        ("n+1", "1"),
        ("-\\sqrt{6}", "6"),
    ] {
        assert_eq!(
            score(reference, &format!("So we get \\boxed{{{answer}}}.")),
            Ok(0.0),
            "{answer}, {reference}"
        );
        assert_eq!(
            score(answer, &format!("So we get \\boxed{{{reference}}}.")),
            Ok(0.0),
            "{reference}, {answer}"
        );
    }
}

#[test]
fn the_same_value_in_another_notation_is_right() {
    for (reference, answer) in [
        ("\\frac{2}{3}", "\\frac23"),
        ("12", "12\\text{ cm}^2"),
        ("(C)", "C"),
        ("\\dfrac{\\sqrt{3}}{2}", "\\frac{\\sqrt{3}}{2}"),
    ] {
        assert_eq!(
            score(reference, &format!("So we get \\boxed{{{answer}}}.")),
            Ok(1.0),
            "{answer}, {reference}"
        );
    }
}

#[test]
fn the_answer_of_a_completion_is_the_last_one_that_is_stated() {
    for (text, expected) in [
        ("so 3 + 4 = 7\n#### 7", Some("7")),
        ("\\boxed{3} or rather \\boxed{\\frac{1}{2}} of 9", Some("\\frac{1}{2}")),
        ("\\boxed 5 it is", Some("5")),
        ("\\fbox{5}", Some("5")),
        ("\\boxed{2} and \\boxed{3}", Some("2, 3")),
        ("First \\boxed{2}. Later we find \\boxed{3}.", Some("3")),
        ("We had \\boxed{5}, so \\boxed{", None),
        ("\\boxed{\\frac{1}{2", None),
        ("It costs <<2*3=6>>6.\nA: 1,200", Some("1,200")),
        ("The answer is $18.", Some("$18")),
        ("The final answer is $26. I hope it is correct.", Some("$26")),
        ("The answer is 17. No wait, the answer is 18.", Some("18")),
        ("The answer is 17. No, it should be 18.", Some("18")),
        ("The answer is 17.\nWait, that is wrong. The answer is 18", Some("18")),
        ("\\boxed{17}. Wait, I made a mistake. The answer is 18.", Some("18")),
        ("\\boxed{18}. So the answer is reasonable.", Some("18")),
        ("the answer is not 18", None),
        ("The answer isn't 18.", None),
        ("I get 20. The answer cannot be 18.", None),
        ("The answer is not 18 but 20.", Some("20")),
        ("The answer is not 18, it is 20.", Some("20")),
        ("The answer is 20. The answer is not 18.", Some("20")),
        ("The answer is 20, not 18.", Some("20")),
        ("**Answer:** 42", Some("42")),
        ("**Final Answer:**\n\n$$\\frac{3}{4}$$", Some("\\frac{3}{4}")),
        ("The answer is:\n\\[\n18\n\\]", Some("18")),
        ("The answer is therefore \\(x = 5\\).", Some("\\(x = 5\\)")),
        ("The correct answer is (C).", Some("(C)")),
        ("The answer is 4 or more.", Some("4 or more")),
        ("The answer is $2\\sqrt{3}$, because 12 = 4 * 3.", Some("$2\\sqrt{3}$")),
        ("The answer is that she earns 9 * 2 = $18 every day.", Some("$18")),
        ("所以答案是18。", Some("18")),
        ("最终答案：十二", Some("十二")),
        ("答案不是18。", None),
        ("答えは18です。", Some("18です")),
        ("First 3, then 18 eggs.", Some("18 eggs")),
        ("nothing", None),
    ] {
        let found = extract_answer(text, false);
        let close =
            |found: &str, expected: &str| found == expected || grade(found, expected) == Verdict::Equal;
        let is_right = match (&found, expected) {
            (Some(found), Some(expected)) => close(found, expected),
            (found, expected) => found.is_none() && expected.is_none(),
        };
        assert!(is_right, "{text}: {found:?}, expected {expected:?}");
    }
    assert_eq!(extract_answer("First 3, then 18 eggs.", true), None);
}

#[test]
fn a_last_number_is_taken_with_the_expression_around_it_or_not_at_all() {
    for (text, reference, expected) in [
        ("the range is 3-5", "-5", false),
        ("So 2 - 3", "-3", false),
        ("So 2 - 3", "3", false),
        ("Hence the side is √3.", "3", false),
        ("Hence the side is √3.", "\\sqrt3", true),
        ("The area is 2π.", "2", false),
        ("The area is 2π.", "2\\pi", true),
        ("The area is 2 π", "2", false),
        ("So we find $2\\sqrt{3}$.", "3", false),
        ("So we find $2\\sqrt{3}$.", "\\sqrt{12}", true),
        ("That gives x^2", "2", false),
        ("It is in row B7", "7", false),
        ("There are 5 rows; it is in row B7.", "5", true),
        ("He finished 2nd", "2", false),
        ("It fell to -5", "-5", true),
        ("She has 10 - 3 = 7 left.", "7", true),
        ("That makes 12,500 dollars in total", "12500", true),
        ("We need 1 1/2 cups", "1.5", true),
        ("It grows by 50%", "0.5", true),
        ("一共赚了2万元", "20000", true),
        ("她每天赚18美元。", "18", true),
        ("It weighs 5 kg.", "5 g", false),
        ("It weighs 5 kg.", "5", true),
        ("It costs $5 and then $6", "6", true),
    ] {
        assert_eq!(score(reference, text), Ok(f64::from(u8::from(expected))), "{text} against {reference}");
    }
}

#[test]
fn a_reference_that_cannot_be_read_leaves_the_completion_without_a_score() {
    for reference in ["", " ", "$$", "\\frac{1", "1/0", "\\boxed{", "?"] {
        assert_eq!(score(reference, "The answer is 12."), Err(UnscoredReason::BadReference), "{reference:?}");
    }
    assert_eq!(grade("12", ""), Verdict::Unparsed);
}

#[test]
fn tolerance_is_a_setting() {
    let exact = MathAnswerConfig { float_rounding: 0, ..MathAnswerConfig::default() };
    let loose = MathAnswerConfig { tolerance: 0.01, ..MathAnswerConfig::default() };
    for (answer, reference, by_default, is_exact, is_loose) in [
        ("0.333333", "1/3", true, false, true),
        ("18.000000001", "18", true, false, true),
        ("3.14", "\\pi", false, false, true),
        ("18.1", "18", false, false, true),
        ("18.2", "18", false, false, false),
        ("0.5", "1/2", true, true, true),
    ] {
        let verdict = |config: &MathAnswerConfig| grade_with(answer, reference, config) == Verdict::Equal;
        let found = (verdict(&MathAnswerConfig::default()), verdict(&exact), verdict(&loose));
        assert_eq!(found, (by_default, is_exact, is_loose), "{answer}, {reference}");
    }
}

#[test]
fn a_number_is_one_only_without_symbols_beside_it() {
    let is = |text: &str| number(text).map(|found| found.to_string());
    assert_eq!(is("1,234").as_deref(), Some("1234"));
    assert_eq!(is("$5.50").as_deref(), Some("11/2"));
    assert_eq!(is("72 hours").as_deref(), Some("72"));
    for text in ["2\\pi", "\\sqrt{3}", "x^2", "3x", "3i", "(1, 2)", "12 or 13", "not 5", "", "B7"] {
        assert_eq!(is(text), None, "{text}");
    }
    assert_eq!(is("5!").as_deref(), Some("120"));
}

/// Texts that are long, deep, huge in value or cut anywhere.
#[test]
fn nothing_makes_it_panic_or_hang() {
    let mut texts: Vec<String> =
        ["10^{10^{10}}", "9!!!!", "(((9!)!)!)!", "1/0", "0^{-1}", "2^{2^{2^{2^{2^2}}}}"]
            .map(str::to_owned)
            .to_vec();
    for piece in [
        "(", "{", "\\frac{", "\\sqrt{", "[", "|", "-", "2^{", "\\sin ", "√", "1/", "x+", "\\{", "\\text{",
        "!", "%", "\\boxed{",
    ] {
        texts.extend([50, 700, 20_000].map(|n| piece.repeat(n)));
        texts.extend([50, 300].map(|n| format!("{}x{}", piece.repeat(n), "}".repeat(n))));
        texts.extend([50, 300].map(|n| format!("{}7{}", piece.repeat(n), ")".repeat(n))));
    }
    texts.push(format!("({})^{{20}}", (0..20).map(|at| format!("x_{at}")).collect::<Vec<_>>().join("+")));
    texts.push(vec!["\\sqrt{2}"; 150].join("+"));
    texts.push((1..150).map(|n| format!("\\sqrt{{{n}}}")).collect::<Vec<_>>().join("+"));
    texts.push("9".repeat(400));
    texts.push("1e9999".into());
    let pieces = [
        "\\frac{",
        "}{",
        "}",
        "1e99",
        "/0",
        "-",
        "####",
        "\\boxed{",
        "é",
        "$",
        ",",
        "−",
        "^",
        "_",
        "(",
        ")",
        "]",
        "二",
        "万",
        "3",
        "x",
        "\\pm",
        "\\sqrt",
        "!",
        "%",
        "°",
        "=",
        "<",
        "\\begin{pmatrix}",
        "\\end{pmatrix}",
        "&",
        "\\\\",
        " and ",
        "the answer is ",
        "not ",
        "½",
        "²",
        "\\text{cm}",
        "|",
        "\\cup",
        "\u{1F600}",
        "\\",
    ];
    let mut state = 1_u64;
    for _ in 0..6000 {
        let mut text = String::new();
        for _ in 0..9 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
        }
        texts.push(text);
    }
    for text in &texts {
        let _ = grade(&extract_answer(text, false).unwrap_or_default(), text);
        let _ = grade(text, "12");
        if grade(text, text) == Verdict::Different {
            panic!("{text:?} differs from itself");
        }
    }
}

#[test]
fn references_of_gsm8k_and_its_relatives_equal_their_usual_variants() {
    let Some(data) = shared() else { return };
    let mut n = 0;
    for file in ["gsm8k_test.jsonl", "gsm8k_train.jsonl.gz"] {
        for row in rows(&data.join("math").join(file)) {
            let solution = row["answer"].as_str().unwrap();
            let reference = extract_answer(solution, true).unwrap();
            n += 1;
            for text in [
                format!("\\boxed{{{reference}}}"),
                format!("So the answer is ${reference}."),
                format!("The total is {reference} apples."),
                format!("A: {reference}.00"),
                format!("#### {}", reference.replace(',', "")),
            ] {
                assert_eq!(score(solution, &text), Ok(1.0), "{text}");
            }
            assert_eq!(score(solution, &format!("The answer is {reference}1")), Ok(0.0));
            assert_eq!(score(solution, &format!("The answer is not {reference}")), Ok(0.0));
        }
    }
    for (file, column) in [
        ("mgsm_zh.jsonl", "answer"),
        ("mgsm_ja.jsonl", "answer"),
        ("svamp.jsonl", "Answer"),
        ("gsm_hard.jsonl.gz", "target"),
    ] {
        for row in rows(&data.join("math").join(file)) {
            let reference = row[column].to_string().trim_matches('"').to_owned();
            n += 1;
            assert_eq!(score(&reference, &format!("答案是 {reference}。")), Ok(1.0), "{reference}");
            assert_eq!(score(&reference, &format!("\\boxed{{{reference}}}")), Ok(1.0), "{reference}");
        }
    }
    println!("{n} references");
    assert!(n > 7000);
}

/// Rows of the tables with pieces of each other, letters left out, doubled and exchanged.
#[test]
fn damaged_rows_of_the_tables_do_not_make_it_panic() {
    let rows: Vec<Vec<char>> =
        [include_str!("../fixtures/math_adversarial.tsv"), include_str!("../fixtures/math_answers.tsv")]
            .iter()
            .flat_map(|table| table.lines())
            .filter_map(|line| line.split('\t').nth(1))
            .filter(|text| !text.is_empty())
            .map(|text| text.chars().collect())
            .collect();
    let mut state = 7_u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n.max(1)
    };
    for round in 0..6000 {
        let mut letters = rows[round % rows.len()].clone();
        for _ in 0..1 + below(4) {
            let (at, other) = (below(letters.len()), &rows[below(rows.len())]);
            match below(5) {
                0 => {
                    let end = (at + 1 + below(3)).min(letters.len());
                    letters.drain(at..end);
                }
                1 => letters.insert(at, other[below(other.len())]),
                2 => letters.splice(at..at, other.clone()).for_each(drop),
                3 => letters.truncate(at + 1),
                _ => {
                    let to = below(letters.len());
                    if !letters.is_empty() {
                        letters.swap(at, to);
                    }
                }
            }
        }
        let text: String = letters.into_iter().collect();
        let answer = extract_answer(&text, false).unwrap_or_default();
        let _ = (grade(&answer, "18"), grade(&text, &answer), extract_answer(&text, true));
        assert_ne!(grade(&text, &text), Verdict::Different, "{text:?} differs from itself");
    }
}

/// Loops that policies fall into: the work must not grow with the square of the length.
#[test]
fn long_loops_are_read_in_linear_time() {
    for piece in [
        "The answer is ",
        "The answer is 18. ",
        "答案是",
        "_",
        "*",
        "** ",
        "\\boxed{1} and ",
        "\\boxed{1}, ",
        "#### 1\n",
        "#### Step\n",
        "#",
        "$1 ",
        "Wait, it is 5. ",
        "not 5 but ",
        "1 + 1 = ",
        "<answer>",
        "Q: 1\n",
        "Question: How many?\nAnswer: 18\n",
        "so 18, sorry, ",
        "18, I am 10% ",
        "\\boxed{18} per day, so 36. ",
        "<|im_end|>",
        "A: 1\nB: 2\n",
        "18 does not satisfy it. ",
    ] {
        let text = piece.repeat(200_000 / piece.len());
        for text in [text.clone(), format!("\\boxed{{18}}\n{text}")] {
            let _ = grade(&extract_answer(&text, false).unwrap_or_default(), "18");
        }
    }
}
