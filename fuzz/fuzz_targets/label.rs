//! Names of labels as judges write them: resolved, found in a text, and added to the set.
#![no_main]

use libfuzzer_sys::fuzz_target;
use truing_prompts::labels::{Dimension, Label, LabelSet};

fuzz_target!(|input: (&str, &str)| {
    let (name, text) = input;
    let label = |name: &str| Label { name: name.to_owned(), ..Label::default() };
    let dimension = |name: &str, labels: Vec<Label>| Dimension {
        name: name.to_owned(),
        description: String::new(),
        multiple: true,
        labels,
    };
    let labels = vec![label("C++"), label("prose"), label("prose poem"), label("Ⅻ Café")];
    let mut set = LabelSet::new(vec![dimension("kind", labels)]).expect("this set is valid");
    let n_labels = set.dimensions()[0].labels.len();
    let mentioned = set.mentioned(0, text);
    assert!(mentioned.is_sorted() && mentioned.iter().all(|&label| label < n_labels));
    if let Some(label) = set.resolve(0, text) {
        assert!(mentioned.contains(&label), "a text that is a name mentions it");
    }
    if let Ok(added) = set.add(0, name) {
        assert_eq!(set.resolve(0, name), Some(added), "an added label is known by its name");
        assert!(set.mentioned(0, name).contains(&added));
        assert!(set.mentioned(0, text).iter().all(|&label| label <= n_labels));
    }
    let _ = LabelSet::new(vec![
        dimension(name, vec![label(text), label(name)]),
        dimension(text, vec![label(text)]),
    ]);
});
