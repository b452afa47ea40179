//! Every type against texts that follow it and texts that do not.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const LOCALES: [Locale; 2] = [Locale::En, Locale::Zh];

/// Draws the numbers 0, 1, 2 and so on, each below the number asked for.
fn counting() -> impl FnMut(usize) -> usize {
    let mut next = 0;
    move |n| {
        next += 1;
        (next - 1) % n
    }
}

fn number(constraint: &Constraint, name: &str) -> usize {
    constraint.args[name].as_u64().unwrap() as usize
}

fn text<'a>(constraint: &'a Constraint, name: &str) -> &'a str {
    constraint.args[name].as_str().unwrap()
}

fn texts<'a>(constraint: &'a Constraint, name: &str) -> Vec<&'a str> {
    constraint.args[name].as_array().unwrap().iter().map(|value| value.as_str().unwrap()).collect()
}

/// A text of so many words, or Chinese characters.
fn words(n: usize, locale: Locale) -> String {
    match locale {
        Locale::Zh => "风".repeat(n),
        _ => vec!["wind"; n].join(" "),
    }
}

/// A text of so many sentences.
fn sentences(n: usize, locale: Locale) -> String {
    match locale {
        Locale::Zh => "风很大。".repeat(n),
        _ => vec!["The wind is strong."; n].join(" "),
    }
}

const FOREIGN: [(&str, &str); 7] = [
    ("en", "The house by the lake was sold to a young family from the next town last summer."),
    ("zh", "湖边的房子去年夏天卖给了邻镇的一户年轻人家，他们很喜欢那里的风景。"),
    ("fr", "La maison au bord du lac a été vendue l'été dernier à une jeune famille de la ville voisine."),
    ("de", "Das Haus am See wurde im letzten Sommer an eine junge Familie aus der Nachbarstadt verkauft."),
    ("es", "La casa junto al lago fue vendida el verano pasado a una familia joven del pueblo vecino."),
    ("ru", "Дом у озера был продан прошлым летом молодой семье из соседнего города."),
    ("ja", "湖のそばの家は、去年の夏に隣町の若い家族に売られました。"),
];

/// A text that follows a constraint, and one that does not.
fn good_and_bad(constraint: &Constraint, locale: Locale) -> (String, String) {
    let n = |name: &str| number(constraint, name);
    let is_zh = locale == Locale::Zh;
    let both = |good: &str, bad: &str| (good.to_owned(), bad.to_owned());
    match constraint.id.as_str() {
        "length.words_at_least" => (words(n("num_words"), locale), words(n("num_words") - 1, locale)),
        "length.words_less_than" => (words(n("num_words") - 1, locale), words(n("num_words"), locale)),
        "length.sentences_at_least" => {
            (sentences(n("num_sentences"), locale), sentences(n("num_sentences") - 1, locale))
        }
        "length.sentences_less_than" => {
            (sentences(n("num_sentences") - 1, locale), sentences(n("num_sentences"), locale))
        }
        "length.paragraphs" => {
            let parts = vec!["wind"; n("num_paragraphs")];
            (parts.join("\n***\n"), parts.join("\n"))
        }
        "length.paragraph_first_word" => {
            let mut parts = vec!["wind blows".to_owned(); n("num_paragraphs")];
            let bad = parts.join("\n\n");
            parts[n("nth_paragraph") - 1] = format!("{} blows", text(constraint, "first_word"));
            (parts.join("\n\n"), bad)
        }
        "format.bullets" => ("* wind\n".repeat(n("num_bullets")), "* wind\n".repeat(n("num_bullets") + 1)),
        "format.highlights" => {
            ("*wind* blows ".repeat(n("num_highlights")), "*wind* ".repeat(n("num_highlights") - 1) + "blows")
        }
        "format.title" => both("<<Wind>>\nIt blows.", "Wind\nIt blows."),
        "format.json" => both("{\"wind\": \"strong\"}", "The wind is strong."),
        "format.sections" => {
            let word = text(constraint, "section_spliter");
            let heading =
                |i: usize| if is_zh { format!("第{i}{word}\n风。") } else { format!("{word} {i}\nWind.") };
            let part = |n: usize| (1..=n).map(heading).collect::<Vec<_>>().join("\n");
            (part(n("num_sections")), part(n("num_sections") - 1))
        }
        "format.two_responses" => both("wind\n******\nrain", "wind\n***\nrain"),
        "content.keywords" => {
            let keywords = texts(constraint, "keywords");
            (keywords.join(" / "), keywords[1..].join(" / "))
        }
        "content.forbidden_words" => {
            both("wind", &format!("wind {} rain", texts(constraint, "forbidden_words")[0]))
        }
        "content.keyword_frequency" => {
            let word = format!("{} ", text(constraint, "keyword"));
            (word.repeat(n("frequency")), word.repeat(n("frequency") - 1))
        }
        "content.letter_frequency" => {
            let letter = text(constraint, "letter");
            (letter.repeat(n("let_frequency")), letter.repeat(n("let_frequency") - 1))
        }
        "content.placeholders" => {
            ("[x] ".repeat(n("num_placeholders")), "[x] ".repeat(n("num_placeholders") - 1) + "wind")
        }
        "content.constrained_response" => both("My answer is no.", "No."),
        "language.other_language" => {
            let code = text(constraint, "language");
            let of = |wanted: &str| FOREIGN.iter().find(|(known, _)| *known == wanted).unwrap().1;
            both(of(code), of(locale.code()))
        }
        "language.all_capitals" => both("THE WIND IS STRONG AND THE RAIN IS COLD.", "The wind is strong."),
        "language.all_lowercase" => both("the wind is strong and the rain is cold.", "The wind is strong."),
        "language.capital_words" => (
            "WIND blows ".repeat(n("capital_frequency")),
            "WIND ".repeat(n("capital_frequency") - 1) + "blows",
        ),
        "language.no_comma" => both("wind and rain", if is_zh { "风、雨" } else { "wind, rain" }),
        "position.begin_phrase" => {
            let phrase = text(constraint, "prompt_to_repeat");
            (format!("{phrase} It blows."), format!("So: {phrase}"))
        }
        "position.end_phrase" => {
            let phrase = text(constraint, "end_phrase");
            (format!("It blows. {phrase}"), format!("{phrase} It blows."))
        }
        "position.postscript" => (
            format!("It blows.\n{} Rain too.", text(constraint, "postscript_marker")),
            "It blows.".to_owned(),
        ),
        "position.quotation" => both("\"It blows.\"", "It blows."),
        other => panic!("no texts for {other}"),
    }
}

#[test]
fn a_constraint_of_each_rule_holds_on_a_good_text_and_fails_on_a_bad_one() {
    for locale in LOCALES {
        for of_type in ConstraintType::of(locale).filter(|of_type| of_type.is_rule()) {
            let mut draw = counting();
            for _ in 0..8 {
                let constraint = of_type.sample(locale, &mut draw);
                let (good, bad) = good_and_bad(&constraint, locale);
                let problem = format!("{constraint:?}");
                assert_eq!(constraint.is_followed_by(&good), Some(true), "{problem}: {good}");
                assert_eq!(constraint.is_followed_by(&bad), Some(false), "{problem}: {bad}");
            }
        }
    }
}

#[test]
fn types_have_identifiers_of_their_own_three_wordings_and_places_for_every_value() {
    let ids: BTreeSet<&str> = ConstraintType::all().map(|of_type| of_type.id).collect();
    assert_eq!(ids.len(), ConstraintType::all().count());
    assert!(ConstraintType::of(Locale::En).count() >= 40 && ConstraintType::of(Locale::Zh).count() >= 30);
    for locale in LOCALES {
        for of_type in ConstraintType::of(locale) {
            let wordings: BTreeSet<&str> = of_type.wordings(locale).iter().copied().collect();
            assert!(wordings.len() >= 3, "{}", of_type.id);
            let mut draw = counting();
            for _ in 0..6 {
                let constraint = of_type.sample(locale, &mut draw);
                assert!(!constraint.text.contains(['{', '}']), "{}", constraint.text);
                assert_eq!(constraint.missing_args(&constraint.text, locale), Vec::<String>::new());
                assert_eq!(constraint.is_rule(), constraint.is_followed_by("x").is_some(), "{constraint:?}");
                if let ConstraintCheck::Question { question } = &constraint.check {
                    assert!(!question.contains(['{', '}']) && question.ends_with(['?', '？']), "{question}");
                }
                let printed = serde_json::to_string(&constraint).unwrap();
                assert_eq!(serde_json::from_str::<Constraint>(&printed).unwrap(), constraint);
            }
        }
    }
}

#[test]
fn every_english_instruction_of_ifeval_has_a_type() {
    let used: BTreeSet<&str> = ConstraintType::all()
        .filter_map(|of_type| match &of_type.check {
            TypeCheck::Rule { instruction, .. } => Some(*instruction),
            TypeCheck::Question(_) => None,
        })
        .collect();
    let known: BTreeSet<&str> = crate::verifiers::ifeval::instruction_ids(Locale::En).collect();
    assert_eq!(used, known);
}

#[test]
fn types_that_decide_the_same_part_conflict_either_way_round() {
    let find = |id: &str| ConstraintType::find(id).unwrap();
    for (first, second, conflict) in [
        ("language.all_lowercase", "language.all_capitals", true),
        ("language.all_lowercase", "position.postscript", true),
        ("language.all_lowercase", "format.sections", true),
        ("language.all_capitals", "format.sections", true),
        ("language.all_lowercase", "position.end_phrase", true),
        ("language.all_capitals", "position.end_phrase", true),
        ("length.words_at_least", "length.words_less_than", true),
        ("format.json", "position.end_phrase", true),
        ("format.json", "language.no_comma", true),
        ("format.json", "style.tone", true),
        ("language.other_language", "content.keywords", true),
        ("language.other_language", "language.no_comma", false),
        ("position.begin_phrase", "structure.summary_first", true),
        ("content.keywords", "content.forbidden_words", false),
        ("length.words_at_least", "format.bullets", false),
        ("style.tone", "persona.audience", false),
    ] {
        assert_eq!(find(first).conflicts_with(find(second)), conflict, "{first}, {second}");
        assert_eq!(find(second).conflicts_with(find(first)), conflict, "{second}, {first}");
    }
}

#[test]
fn draws_are_balanced_compatible_and_begin_with_a_rule_where_asked() {
    let allowed: Vec<&'static ConstraintType> = ConstraintType::of(Locale::En).collect();
    let (mut counts, mut draw) = (BTreeMap::new(), counting());
    for place in 0..200 {
        let drawn = draw_types(&allowed, 1 + place % 4, true, &counts, &mut draw);
        assert!(drawn[0].is_rule());
        for (i, one) in drawn.iter().enumerate() {
            assert!(drawn[..i].iter().all(|other| other.id != one.id && !other.conflicts_with(one)));
            *counts.entry(one.id).or_insert(0) += 1;
        }
    }
    assert_eq!(counts.len(), allowed.len(), "every type comes up");
    let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
    assert!(*most <= 3 * *least, "{counts:?}");
    let only = [ConstraintType::find("style.tone").unwrap()];
    assert!(draw_types(&only, 2, true, &BTreeMap::new(), &mut draw).is_empty(), "no rule is there");
    assert_eq!(draw_types(&only, 2, false, &BTreeMap::new(), &mut draw).len(), 1);
}

#[test]
fn what_a_text_fulfils_is_measured_as_strictly_as_it_can_be() {
    let text = "* The wind is strong today.\n* The rain is cold and it falls all day.\n";
    let measured = |id: &str| {
        ConstraintType::find(id).unwrap().measured(text, Locale::En, &mut |_| 0).map(|found| found.args)
    };
    let args = |name: &str, value: usize| Some(Map::from_iter([(name.to_owned(), json!(value))]));
    assert_eq!(measured("format.bullets"), args("num_bullets", 2));
    // It has 14 words.
    assert_eq!(measured("length.words_less_than"), args("num_words", 60));
    assert_eq!(measured("length.words_at_least"), None);
    assert_eq!(measured("language.no_comma"), Some(Map::new()));
    assert_eq!(measured("format.title"), None);
    assert_eq!(measured("content.keywords"), None, "its words would have to be guessed");
    assert_eq!(measured("style.tone"), None, "a judge would have to say so");
}

#[test]
fn values_that_a_prompt_does_not_name_are_missing() {
    let bullets = ConstraintType::find("format.bullets").unwrap().sample(Locale::En, &mut |_| 3);
    assert_eq!(bullets.args["num_bullets"], 5);
    assert_eq!(bullets.missing_args("Use 5 bullets.", Locale::En), Vec::<String>::new());
    assert_eq!(bullets.missing_args("Use 15 or 50 bullets.", Locale::En), ["5"]);
    let language = ConstraintType::find("language.other_language").unwrap().sample(Locale::Zh, &mut |_| 0);
    assert_eq!(language.missing_args("请用英语回答", Locale::Zh), Vec::<String>::new());
    assert_eq!(language.missing_args("Answer in English", Locale::Zh), ["英语"]);
    let tone = ConstraintType::find("style.tone").unwrap().sample(Locale::En, &mut |_| 0);
    assert_eq!(tone.args["tone"], "warm");
    assert_eq!(tone.missing_args("Answer warmly.", Locale::En), Vec::<String>::new(), "a judge reads it");
}
