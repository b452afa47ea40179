//! The main metric of two evaluations by category, on the items that both have scored.

use std::collections::{BTreeMap, BTreeSet};

use truing_eval::comparison::{MetricComparison, TaskPair, compare_metric, holm_over_tasks};
use truing_eval::results::ItemRecord;
use truing_statistics::Bootstrap;

/// Categories of a dimension that are compared, those with the most items.
const N_CATEGORIES: usize = 24;
/// A category with fewer items is left out.
const MIN_ITEMS: usize = 5;

/// One category compared.
pub(crate) struct CategoryComparison {
    pub(crate) dimension: String,
    pub(crate) category: String,
    pub(crate) comparison: MetricComparison,
}

/// Compares the main metric of a benchmark in each category. The p-values of the categories are corrected together.
pub(crate) fn compare_categories(task: &TaskPair) -> Vec<CategoryComparison> {
    let Some(metric) = task.comparisons.first().map(|comparison| &comparison.metric) else {
        return Vec::new();
    };
    let mut compared = Vec::new();
    for (dimension, categories) in categories_of(&task.items[0]) {
        for category in categories {
            let of = |items: &[ItemRecord]| -> Vec<ItemRecord> {
                let is_of = |record: &&ItemRecord| record.item.categories.get(&dimension) == Some(&category);
                items.iter().filter(is_of).cloned().collect()
            };
            let (first, second) = (of(&task.items[0]), of(&task.items[1]));
            let found = compare_metric(&task.records[0].task, metric, &first, &second, &Bootstrap::default());
            compared.extend(found.map(|comparison| CategoryComparison {
                dimension: dimension.clone(),
                category,
                comparison,
            }));
        }
    }
    holm_over_tasks(compared.iter_mut().map(|one| &mut one.comparison));
    compared
}

/// Dimensions with their categories that have items enough; a dimension with one category says nothing more than the
/// whole.
fn categories_of(items: &[ItemRecord]) -> BTreeMap<String, BTreeSet<String>> {
    let mut counts: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for (dimension, category) in items.iter().flat_map(|record| &record.item.categories) {
        *counts.entry(dimension).or_default().entry(category).or_default() += 1;
    }
    counts
        .into_iter()
        .filter(|(_, categories)| categories.len() > 1)
        .map(|(dimension, categories)| {
            let mut large: Vec<(&str, usize)> =
                categories.into_iter().filter(|(_, n)| *n >= MIN_ITEMS).collect();
            large.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
            let shown = large.into_iter().take(N_CATEGORIES).map(|(category, _)| category.to_owned());
            (dimension.to_owned(), shown.collect())
        })
        .collect()
}
