//! The screening of built rows by their texts: what belongs to an evaluation, what nearly repeats an earlier row, and
//! what is more than its share of one task template.

use std::collections::BTreeMap;

use truing_prompts::PromptsError;
use truing_prompts::decontamination::EvaluationIndex;
use truing_prompts::duplicates::{NearDuplicateOptions, near_duplicates};
use truing_prompts::templates::{TemplateOptions, mine_templates};
use truing_prompts::tokens::TokenPool;

use super::builder::Dropped;

/// The step that drops built rows by their texts.
const SCREENING: &str = "screening";

/// The texts of a row.
#[derive(Debug, Clone, Copy)]
pub struct RowTexts<'a> {
    /// The user's turn.
    pub prompt: &'a str,
    /// What follows it, where anything does.
    pub response: Option<&'a str>,
}

/// The thresholds.
#[derive(Debug, Clone, Copy)]
pub struct ScreeningOptions {
    /// Minimum Jaccard similarity of near duplicates.
    pub near_duplicate_threshold: f64,
    /// Maximum share of rows of one template.
    pub max_template_share: f64,
}

/// What screening found.
#[derive(Debug, Clone, PartialEq)]
pub struct Screened {
    /// Of each row why it is dropped; `None` for those that stay.
    pub dropped: Vec<Option<Dropped>>,
    /// The largest share of one template among the rows that stay; 0 without templates.
    pub largest_template_share: f64,
}

/// Where an evaluation has the text, in words.
pub(super) fn contamination(evaluations: &EvaluationIndex, text: &str) -> Option<String> {
    let found = evaluations.find(text)?;
    Some(format!("{}, item {}: {}", found.evaluation, found.item + 1, found.words))
}

/// Screens rows. Earlier rows stay in favour of later ones.
///
/// # Errors
/// When an option is outside its range.
pub fn screen(
    rows: &[RowTexts<'_>],
    evaluations: &EvaluationIndex,
    options: ScreeningOptions,
) -> Result<Screened, PromptsError> {
    let of_evaluation = |row: &RowTexts<'_>| {
        let mut texts = std::iter::once(row.prompt).chain(row.response);
        let detail = texts.find_map(|text| contamination(evaluations, text))?;
        Some(Dropped::new(SCREENING, "holds text of an evaluation").with_detail(detail))
    };
    let mut dropped: Vec<Option<Dropped>> = rows.iter().map(of_evaluation).collect();

    let left = places_left(&dropped);
    let tokens = TokenPool::of(left.iter().map(|&place| rows[place].prompt))?;
    let threshold = options.near_duplicate_threshold;
    let duplicates = near_duplicates(
        &tokens,
        None,
        &NearDuplicateOptions { threshold, ..NearDuplicateOptions::default() },
    )?;
    for duplicate in duplicates {
        let kept = left[duplicate.representative as usize] + 1;
        let detail = format!("row {kept} before screening, Jaccard {:.3}", duplicate.jaccard);
        let reason = "nearly repeats the prompt of an earlier row";
        dropped[left[duplicate.row as usize]] = Some(Dropped::new(SCREENING, reason).with_detail(detail));
    }

    let left = places_left(&dropped);
    let tokens = TokenPool::of(left.iter().map(|&place| rows[place].prompt))?;
    let template_options = TemplateOptions::default();
    let templates = mine_templates(&tokens, &template_options)?;
    let surplus = template_surplus(
        &templates.template_of_row,
        options.max_template_share,
        template_options.min_prompts,
    );
    for &row in &surplus.rows {
        let template = templates.template_of_row[row].map(|idx| &templates.templates[idx as usize]);
        let detail = template.map_or_else(String::new, |template| template.text(tokens.vocabulary()));
        let reason = "more rows of one task template than `max_template_share`";
        dropped[left[row]] = Some(Dropped::new(SCREENING, reason).with_detail(detail));
    }
    Ok(Screened { dropped, largest_template_share: surplus.largest_share })
}

fn places_left(dropped: &[Option<Dropped>]) -> Vec<usize> {
    (0..dropped.len()).filter(|&place| dropped[place].is_none()).collect()
}

/// Rows above the share of their template, and what is left.
struct Surplus {
    /// In ascending order.
    rows: Vec<usize>,
    largest_share: f64,
}

/// The last rows of each template that has more than `max_share` of all rows that are left in the end. Fewer rows than
/// `min_prompts` make no template, so that many may always stay.
fn template_surplus(template_of_row: &[Option<u32>], max_share: f64, min_prompts: usize) -> Surplus {
    let mut rows_of: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (row, template) in template_of_row.iter().enumerate() {
        if let Some(template) = template {
            rows_of.entry(*template).or_default().push(row);
        }
    }
    let mut surplus = Vec::new();
    let mut n_left = template_of_row.len();
    // Each round lowers the number of rows, and with it the most of a template, until nothing is left to drop.
    loop {
        let most = ((max_share * n_left as f64) as usize).max(min_prompts.saturating_sub(1));
        let n_before = n_left;
        for rows in rows_of.values_mut().filter(|rows| rows.len() > most) {
            let excess = rows.split_off(most);
            n_left -= excess.len();
            surplus.extend(excess);
        }
        if n_left == n_before {
            break;
        }
    }
    surplus.sort_unstable();
    let largest = rows_of.values().map(Vec::len).filter(|&n| n >= min_prompts).max().unwrap_or(0);
    Surplus { rows: surplus, largest_share: largest as f64 / n_left.max(1) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use truing_prompts::decontamination::DecontaminationOptions;

    const OPTIONS: ScreeningOptions =
        ScreeningOptions { near_duplicate_threshold: 0.8, max_template_share: 0.05 };

    #[test]
    fn evaluations_and_near_duplicates_go_and_the_first_row_stays() {
        let mut evaluations = EvaluationIndex::new(DecontaminationOptions::default()).unwrap();
        evaluations.add("capitals", ["What is the capital of France?"]).unwrap();
        let plain = |prompt| RowTexts { prompt, response: Some("An answer.") };
        let rows = [
            plain(
                "Write to the mayor about the noise of the new road in our village and ask for a long row of trees.",
            ),
            plain(
                "Write to the mayor about the noise of the new road in our village and ask for a long row of trees!",
            ),
            RowTexts { prompt: "Quiz me.", response: Some("So: what is the capital of France?") },
            plain("Explain why leaves turn red."),
        ];
        let screened = screen(&rows, &evaluations, OPTIONS).unwrap();
        let reasons: Vec<Option<&str>> =
            screened.dropped.iter().map(|one| one.as_ref().map(|dropped| dropped.reason.as_str())).collect();
        let expected = [
            None,
            Some("nearly repeats the prompt of an earlier row"),
            Some("holds text of an evaluation"),
            None,
        ];
        assert_eq!(reasons, expected);
        assert_eq!(screened.largest_template_share, 0.0);
        let detail = screened.dropped[1].as_ref().unwrap().detail.as_deref().unwrap();
        assert!(detail.starts_with("row 1 before screening"), "{detail}");
        assert!(screen(&[], &evaluations, OPTIONS).unwrap().dropped.is_empty());
    }

    #[test]
    fn a_template_keeps_its_share_of_what_is_left() {
        let of = |n_template: usize, n_others: usize| -> Vec<Option<u32>> {
            std::iter::repeat_n(Some(0), n_template).chain(std::iter::repeat_n(None, n_others)).collect()
        };
        // 100 others: 5 of 105 would be below 5 %, but fewer than 8 are no template.
        let surplus = template_surplus(&of(40, 100), 0.05, 8);
        assert_eq!((surplus.rows.len(), surplus.largest_share), (33, 0.0));
        assert_eq!(surplus.rows[0], 7, "the first stay");
        // 950 others: 50 of 1,000 rows are 5 %.
        let surplus = template_surplus(&of(200, 950), 0.05, 8);
        assert_eq!((200 - surplus.rows.len(), surplus.largest_share), (50, 0.05));
        assert!(template_surplus(&of(7, 0), 0.05, 8).rows.is_empty());
        assert!(template_surplus(&[], 0.05, 8).rows.is_empty());
        assert!(template_surplus(&of(40, 0), 1.0, 8).rows.is_empty());
    }
}
