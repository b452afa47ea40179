use truing_prompts::clustering::{CoarseAndFine, Vectors};
use truing_prompts::templates::{TemplateOptions, mine_templates};
use truing_prompts::triplets::{TripletOptions, mine_triplets};

use crate::support::*;

/// Coarse clusters by topic, fine ones by topic and place, as a plain semantic embedding would give.
fn clusters(n: usize) -> CoarseAndFine {
    let filler = |row: usize| row / TASKS.len();
    CoarseAndFine {
        coarse: (0..n).map(|row| (filler(row) / 4) as u32).collect(),
        fine: (0..n).map(|row| filler(row) as u32).collect(),
    }
}

#[test]
fn same_task_elsewhere_is_a_positive_and_another_task_on_the_topic_a_negative() {
    let texts = filled_tasks();
    let set = mine_templates(&pool(&texts), &TemplateOptions::default()).unwrap();
    let clusters = clusters(texts.len());
    let vectors = word_vectors(&texts);
    let vectors = Vectors::new(&vectors, DIM).unwrap();
    let found =
        on_any_threads(|| mine_triplets(&set, &clusters, vectors, &TripletOptions::default()).unwrap());
    assert_eq!(found.triplets.len(), texts.len());
    for triplet in &found.triplets {
        let [anchor, positive, negative] =
            [triplet.anchor, triplet.positive, triplet.negative].map(|row| row as usize);
        assert_eq!(anchor % 6, positive % 6, "{triplet:?}");
        assert_ne!(anchor % 6, negative % 6, "{triplet:?}");
        assert_ne!(clusters.fine[anchor], clusters.fine[positive]);
        assert_eq!(clusters.coarse[anchor], clusters.coarse[negative]);
        assert!(triplet.positive_share >= 0.75 && triplet.negative_share <= 0.5, "{triplet:?}");
    }
}

#[test]
fn anchors_without_what_they_need_are_counted() {
    let mut texts = filled_tasks();
    texts.push("hello there".to_owned());
    let set = mine_templates(&pool(&texts), &TemplateOptions::default()).unwrap();
    let vectors = word_vectors(&texts);
    let vectors = Vectors::new(&vectors, DIM).unwrap();
    let options = TripletOptions::default();
    let one = CoarseAndFine { coarse: vec![0; 481], fine: vec![0; 481] };
    let found = mine_triplets(&set, &one, vectors, &options).unwrap();
    assert_eq!((found.n_without_template, found.n_without_positive, found.triplets.len()), (1, 480, 0));
    let apart = CoarseAndFine { coarse: (0..481).collect(), fine: (0..481).collect() };
    let found = mine_triplets(&set, &apart, vectors, &options).unwrap();
    assert_eq!((found.n_without_negative, found.triplets.len()), (480, 0));
    let short = CoarseAndFine { coarse: vec![0; 480], fine: vec![0; 481] };
    let error = mine_triplets(&set, &short, vectors, &options).unwrap_err();
    assert_eq!(error.to_string(), "coarse has 480 entries, expected 481: one for each row");
}
