//! Labels that the data has, and corrected reviews.

use super::*;

#[test]
fn labels_of_the_data_are_taken_and_compared() {
    let folder = folder();
    let columns = ["columns.ability=category", "columns.language=in.languages"];
    let judge = good();
    let (_, rows) = run(folder.path(), RECIPE, &columns, vec![judge.open()]).unwrap();
    assert_eq!(judge.asked().len(), 3, "where the data say both, nothing is asked");
    assert!(judge.asked().iter().all(|text| !text.contains("ability:")));
    assert_eq!(rows[0]["labels"], json!({ "ability": "mathematics", "language": ["English"] }));
    assert_eq!(rows[0]["labelled_by"], json!({ "ability": "column", "language": "judges" }));
    assert_eq!((&rows[1]["votes"], &rows[1]["confidence"]["ability"]), (&json!({}), &json!(1.0)));

    // Half of the prompts are code; who calls everything code is right on that half.
    let says_code = Scripted::says(r#"{"ability": "code", "language": ["English", "Python"]}"#);
    let overrides = [columns[0], columns[1], "compare=true"];
    let recipe = format!("{RECIPE}{SECOND}");
    fs::remove_dir_all(folder.path().join("labels")).unwrap();
    let (summary, rows) =
        run(folder.path(), &recipe, &overrides, vec![says_code.open(), good().open()]).unwrap();
    assert_eq!(rows[0]["labels"]["ability"], "mathematics", "the data's label stays");
    let found: Vec<(&str, Option<&str>, usize, f64)> = summary
        .comparison
        .iter()
        .map(|compared| {
            (compared.dimension.as_str(), compared.judge.as_deref(), compared.n, compared.accuracy)
        })
        .collect();
    let expected = [
        ("ability", None, 6, 0.5 + 0.5),
        ("ability", Some("one"), 6, 0.5),
        ("ability", Some("two"), 6, 1.0),
        ("language", None, 3, 1.0),
        ("language", Some("one"), 3, 1.0),
        ("language", Some("two"), 3, 1.0),
    ];
    assert_eq!(found, expected);
    assert_eq!(summary.comparison[0].most_frequent_share, 0.5);

    // Without a judge the data's labels are made regular, and what they do not say is missing.
    let no_judge = ["judge=[]", columns[0], columns[1]];
    fs::remove_dir_all(folder.path().join("labels")).unwrap();
    let (summary, rows) = run(folder.path(), RECIPE, &no_judge, Vec::new()).unwrap();
    assert_eq!(
        (summary.n_unlabelled, &rows[0]["unlabelled"]),
        (3, &json!({ "language": "no judge was called" }))
    );
}

#[test]
fn labels_of_the_data_that_the_set_does_not_know_are_errors_or_added() {
    let folder = folder();
    let rows =
        "{\"prompt\": \"a\", \"category\": \"code\"}\n{\"prompt\": \"b\", \"category\": \"mathematic\"}\n";
    fs::write(folder.path().join("prompts.jsonl"), rows).unwrap();
    let error = plan(folder.path(), RECIPE, &["columns.ability=category"]).unwrap_err().to_string();
    let expected = format!(
        "{}:2: `category` is `mathematic`, which is not a label of `ability`; the nearest is `mathematics`",
        folder.path().join("prompts.jsonl").display()
    );
    assert_eq!(error, expected);
    let overrides = ["columns.ability=category", "on_unknown_label=add"];
    let judge = good();
    let (summary, rows) = run(folder.path(), RECIPE, &overrides, vec![judge.open()]).unwrap();
    assert_eq!(rows[1]["labels"]["ability"], "mathematic");
    assert_eq!(summary.dimensions[0].labels.last().map(|label| label.label.as_str()), Some("mathematic"));
    assert!(
        fs::read_to_string(folder.path().join("labels/label_set.toml")).unwrap().contains("mathematic\"")
    );
}

#[test]
fn a_corrected_review_wins_and_asks_nothing_anew() {
    let folder = folder();
    let recipe = format!("{RECIPE}{SECOND}");
    let other = Scripted::says(r#"{"ability": "logic", "language": ["Python"]}"#);
    let cache = folder.path().join("c");
    let judges = || vec![good().cached(&cache), other.cached(&folder.path().join("d"))];
    run(folder.path(), &recipe, &[], judges()).unwrap();
    let review = folder.path().join("labels/review.jsonl");
    let (mut rows, corrected) = (lines(&review), folder.path().join("corrected.jsonl"));
    let n_rows = rows.len();
    rows[0]["labels"]["ability"] = json!("Math");
    rows[1]["labels"] = json!({ "ability": "code" });
    rows.push(json!({ "prompt": "of another file", "labels": { "ability": "code" } }));
    fs::write(&corrected, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let n_asked = other.asked().len();
    let path = format!("corrections={}", corrected.display());
    let (summary, labels) = run(folder.path(), &recipe, &[&path], judges()).unwrap();
    let row = |place: usize| labels[rows[place]["origin"]["line"].as_u64().unwrap() as usize - 1].clone();
    assert_eq!(
        (&row(0)["labels"]["ability"], &row(0)["confidence"]["ability"]),
        (&json!("mathematics"), &json!(1.0))
    );
    assert_eq!(row(0)["labelled_by"], json!({ "ability": "correction", "language": "correction" }));
    assert_eq!(row(1)["labelled_by"], json!({ "ability": "correction", "language": "judges" }));
    assert_eq!(other.asked().len(), n_asked, "every reply was known");
    assert!(summary.warnings.iter().any(|warning| warning.starts_with("1 corrections are of prompts")));
    assert!(summary.n_in_review < n_rows);

    let own = format!("corrections={}", review.display());
    let refused = plan(folder.path(), &recipe, &[&own]).unwrap_err().to_string();
    assert!(refused.starts_with("`corrections` is the review file of this very run"), "{refused}");
    fs::write(&corrected, "{\"prompt\": \"code 1\", \"labels\": {\"ability\": \"codes\"}}\n").unwrap();
    let wrong = plan(folder.path(), &recipe, &[&path]).unwrap_err().to_string();
    assert!(
        wrong.ends_with(
            "corrected.jsonl:1: `labels.ability` is `codes`, which is not a label of `ability`; the nearest \
             is `code`"
        ),
        "{wrong}"
    );
}
