//! Pools that are odd: every step has a clear outcome for each.

use truing_prompts::clean::{CleanOptions, Cleaner};
use truing_prompts::clustering::{KmeansOptions, Vectors, coarse_and_fine};
use truing_prompts::duplicates::{ExactDuplicates, NearDuplicateOptions, near_duplicates};
use truing_prompts::selection::{SelectionOptions, Target, select};
use truing_prompts::templates::{TemplateOptions, mine_templates};
use truing_prompts::triplets::{TripletOptions, mine_triplets};

use crate::support::*;

struct Outcome {
    n_near_duplicates: usize,
    n_templates: usize,
    n_triplets: usize,
    n_chosen: usize,
}

fn run(texts: &[String]) -> Outcome {
    let pool = pool(texts);
    let vectors = word_vectors(texts);
    let vectors = Vectors::new(&vectors, DIM).unwrap();
    let templates = mine_templates(&pool, &TemplateOptions::default()).unwrap();
    let options = KmeansOptions { n_clusters: 4, ..Default::default() };
    let clusters = coarse_and_fine(vectors, &options, 10).unwrap();
    let triplets = mine_triplets(&templates, &clusters, vectors, &TripletOptions::default()).unwrap();
    let selection = select(vectors, None, Target::Ratio(0.5), &SelectionOptions::default()).unwrap();
    assert_eq!(selection.chosen.len() + selection.dropped.len(), texts.len());
    assert!(!templates.table(&pool, 2).is_empty());
    Outcome {
        n_near_duplicates: near_duplicates(&pool, None, &NearDuplicateOptions::default()).unwrap().len(),
        n_templates: templates.templates.len(),
        n_triplets: triplets.triplets.len(),
        n_chosen: selection.chosen.len(),
    }
}

fn check(texts: &[String], expect: [usize; 4]) {
    let outcome = run(texts);
    let found = [outcome.n_near_duplicates, outcome.n_templates, outcome.n_triplets, outcome.n_chosen];
    assert_eq!(found, expect, "near duplicates, templates, triplets, chosen");
}

#[test]
fn an_empty_pool_one_prompt_and_nothing_but_duplicates() {
    check(&[], [0, 0, 0, 0]);
    check(&["Write a poem.".to_owned()], [0, 0, 0, 1]);
    // One filler, however often it is told: no template.
    check(&vec!["Write a poem about the sea.".to_owned(); 100], [99, 0, 0, 50]);
    check(&vec![String::new(); 20], [19, 0, 0, 10]);
}

#[test]
fn prompts_of_100_kilobytes() {
    let long = |row: usize| {
        let words: Vec<String> = (0..16_000).map(|at| format!("r{row}w{}", at % 997)).collect();
        format!("Summarize the following text: {}\nSummary:", words.join(" "))
    };
    let texts: Vec<String> = (0..12).map(long).collect();
    assert!(texts.iter().all(|text| text.len() > 90_000));
    let cleaner = Cleaner::new(CleanOptions { characters: 1..=200_000, ..Default::default() }).unwrap();
    assert!(texts.iter().all(|text| cleaner.clean(text).is_ok()));
    let pool = pool(&texts);
    let templates = mine_templates(&pool, &TemplateOptions::default()).unwrap();
    let vocabulary = pool.vocabulary();
    let found: Vec<String> = templates.templates.iter().map(|template| template.text(vocabulary)).collect();
    assert_eq!(found, ["Summarize the following text: {1}\nSummary:"]);
    assert_eq!(run(&texts).n_chosen, 6);
}

#[test]
fn mixed_scripts() {
    let texts = filled_tasks();
    let mut seen = ExactDuplicates::default();
    assert!(texts.iter().all(|text| seen.insert(text).is_none()));
    let pool = pool(&texts);
    let set = mine_templates(&pool, &TemplateOptions::default()).unwrap();
    let mut found: Vec<String> =
        set.templates.iter().map(|template| template.text(pool.vocabulary())).collect();
    found.sort();
    let mut expect = TASKS.map(|task| task.replace("{}", "{1}")).to_vec();
    expect.sort();
    let squeeze = |texts: &[String]| texts.iter().map(|text| text.replace(' ', "")).collect::<Vec<_>>();
    assert_eq!(squeeze(&found), squeeze(&expect));
    for (row, template) in set.template_of_row.iter().enumerate() {
        assert_eq!(*template, set.template_of_row[row % 6], "row {row}");
        assert_eq!(set.fillers(&pool, row).unwrap().len(), 1);
    }
    let table = set.table(&pool, 2);
    assert!(table.contains("     80  Give three reasons why {1} matters to most people."), "{table}");
    assert!(table.contains("{1}: orchards in Kaville | bridges in "), "{table}");
}

#[test]
fn templates_are_the_same_on_any_number_of_threads() {
    let texts = filled_tasks();
    let pool = pool(&texts);
    on_any_threads(|| {
        let set = mine_templates(&pool, &TemplateOptions::default()).unwrap();
        (set.templates.clone(), set.template_of_row.clone(), set.table(&pool, 3))
    });
}

#[test]
fn text_that_fills_many_templates_is_no_template() {
    // Each of 30 passages fills ten templates: it recurs ten times, which is enough, but always beside itself.
    let names = ["red", "blue", "green", "white", "black", "brown", "pink", "grey", "gold", "teal"];
    let texts: Vec<String> = (0..300)
        .map(|row| {
            let (name, passage) = (names[row % 10], row / 10);
            format!(
                "Answer as {name} would: of p{passage}a and p{passage}b the question is p{passage}c, not \
                 p{passage}d"
            )
        })
        .collect();
    let pool = pool(&texts);
    let set = mine_templates(&pool, &TemplateOptions::default()).unwrap();
    let mut found: Vec<String> =
        set.templates.iter().map(|template| template.text(pool.vocabulary())).collect();
    found.sort();
    let mut expect = names.map(|name| format!("Answer as {name} would: of {{1}} the question is {{2}}"));
    expect.sort();
    // The comma and "not" between two passages are too short to be seen as fixed text.
    assert_eq!(found, expect);
}

#[test]
fn bad_template_options_are_named() {
    let check = |options: TemplateOptions, expect: &str| {
        assert_eq!(mine_templates(&pool(&[]), &options).unwrap_err().to_string(), expect);
    };
    let all = TemplateOptions::default;
    check(TemplateOptions { min_prompts: 1, ..all() }, "`min_prompts` is 1, expected at least 2");
    check(
        TemplateOptions { min_similarity: 1.5, ..all() },
        "`min_similarity` is 1.5, expected above 0, at most 1",
    );
    check(
        TemplateOptions { instruction_words: vec![], ..all() },
        "`instruction_words` is empty, expected at least one word",
    );
}
