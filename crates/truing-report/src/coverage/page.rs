//! The coverage page itself: what `templates/coverage.html` is filled with, and the data that its script works on.

use std::cmp::Reverse;

use askama::Template;
use serde_json::{Value, json};
use truing_run::selection::{DroppedRow, PromptDecision, TemplatePiece, TemplateRow};

use super::charts::{self, CoverageChart};
use super::record::CoverageRecord;
use super::tally::{ClusterTally, Combination, Counts};
use crate::ReportError;
use crate::html::json_for_script;

/// Templates that a cluster names.
const TEMPLATES_OF_A_CLUSTER: usize = 3;
/// Layers that the summary sentence names.
const LAYERS_IN_SENTENCE: usize = 3;

/// `templates/coverage.html`.
#[derive(Template)]
#[template(path = "coverage.html")]
struct Page<'a> {
    record: &'a CoverageRecord,
    sentence: String,
    notes: Vec<String>,
    waterfall: CoverageChart,
    layers: Vec<LayerLine>,
    histograms: Vec<CoverageChart>,
    combinations: Listing<CombinationLine>,
    dimensions: Vec<&'a str>,
    clusters: Listing<ClusterLine<'a>>,
    templates: Listing<TemplateLine<'a>>,
    dropped_rule: String,
    settings: String,
    charts_json: String,
    coverage_json: String,
}

/// The first lines of a list, and how many there are.
struct Listing<T> {
    lines: Vec<T>,
    n_all: usize,
}

impl<T> Listing<T> {
    /// Which lines are shown, in a sentence.
    fn rule(&self, what: &str, order: &str) -> String {
        let (shown, all) = (grouped(self.lines.len() as u64), grouped(self.n_all as u64));
        if self.lines.len() == self.n_all {
            format!("All {all} {what}, {order}.")
        } else {
            format!("{shown} of {all} {what}, {order}.")
        }
    }
}

struct LayerLine {
    name: String,
    threshold: String,
    n_dropped: String,
    n_left: String,
}

struct CombinationLine {
    labels: Vec<String>,
    /// Rows before and their share, rows after and theirs, the share that was kept.
    figures: [String; 5],
}

struct ClusterLine<'a> {
    id: u32,
    n_rows: String,
    n_kept: String,
    n_fine: usize,
    templates: Vec<TemplateLine<'a>>,
    examples: Vec<&'a PromptDecision>,
}

struct TemplateLine<'a> {
    n_rows: String,
    n_kept: String,
    template: &'a TemplateRow,
}

pub(super) fn render(record: &CoverageRecord) -> Result<String, ReportError> {
    let waterfall = charts::waterfall(record);
    let histograms = charts::histograms(record);
    let figures: Vec<Value> = std::iter::once(&waterfall)
        .chain(&histograms)
        .map(|chart| {
            Ok(json!({ "id": format!("chart-{}", chart.name), "figure": serde_json::to_value(&chart.figure)? }))
        })
        .collect::<Result<_, ReportError>>()?;
    let page = Page {
        record,
        sentence: sentence(record),
        notes: notes(record),
        waterfall,
        layers: layers(record),
        histograms,
        combinations: combinations(record),
        dimensions: record.tally.labels.keys().map(String::as_str).collect(),
        clusters: clusters(record),
        templates: templates(record),
        dropped_rule: dropped_rule(record),
        settings: serde_json::to_string_pretty(&record.summary.settings)?,
        charts_json: json_for_script(&Value::Array(figures)),
        coverage_json: json_for_script(&script_data(record)),
    };
    Ok(page.render()?)
}

fn sentence(record: &CoverageRecord) -> String {
    let all = record.tally.all;
    let mut layers: Vec<_> = record.layers_in_order().into_iter().filter(|(_, n)| *n > 0).collect();
    layers.sort_by_key(|(_, n_dropped)| Reverse(*n_dropped));
    let named: Vec<String> = layers
        .iter()
        .take(LAYERS_IN_SENTENCE)
        .map(|(layer, n_dropped)| format!("{layer} ({})", grouped(*n_dropped)))
        .collect();
    let why = match named.as_slice() {
        [] => "No row was dropped.".to_owned(),
        [only] => format!("All others were dropped by one layer: {only}."),
        _ => format!("The layers that dropped most: {}.", named.join(", ")),
    };
    let tasks = match record.summary.n_tasks {
        0 => String::new(),
        n => format!(" {} tasks share them.", grouped(n)),
    };
    format!(
        "Of {} prompts {} were kept ({}).{tasks} {why}",
        grouped(all.before),
        grouped(all.after),
        percent(all.kept_share())
    )
}

/// The summary's notes, and where it disagrees with the decisions.
fn notes(record: &CoverageRecord) -> Vec<String> {
    let mut notes = record.summary.notes.clone();
    let (summary, all) = (&record.summary, record.tally.all);
    if (summary.n_rows, summary.n_kept) != (all.before, all.after) {
        notes.push(format!(
            "summary.json has {} rows of which {} were kept, decisions.jsonl {} and {}: the files of this folder do \
             not belong together.",
            summary.n_rows, summary.n_kept, all.before, all.after
        ));
    }
    notes
}

fn layers(record: &CoverageRecord) -> Vec<LayerLine> {
    let mut left = record.tally.all.before;
    record
        .layers_in_order()
        .into_iter()
        .map(|(layer, n_dropped)| {
            left -= n_dropped;
            let of_summary = record.summary.layers.iter().find(|count| count.layer == *layer);
            LayerLine {
                name: layer.to_string(),
                threshold: of_summary.and_then(|count| count.threshold).map_or_else(String::new, number),
                n_dropped: grouped(n_dropped),
                n_left: grouped(left),
            }
        })
        .collect()
}

fn combinations(record: &CoverageRecord) -> Listing<CombinationLine> {
    let tally = &record.tally;
    let mut sorted: Vec<_> = tally.combinations.iter().collect();
    sorted.sort_by_key(|(_, counts)| Reverse(counts.before));
    let n_all = sorted.len();
    let line = |(combination, counts): (&Combination, &Counts)| {
        let of = |dimension: &String| combination.iter().find(|(name, _)| name == dimension);
        let share = |n: u64, of: u64| percent(n as f64 / of.max(1) as f64);
        CombinationLine {
            labels: tally.labels.keys().map(|d| of(d).map_or_else(String::new, |l| l.1.clone())).collect(),
            figures: [
                grouped(counts.before),
                share(counts.before, tally.all.before),
                grouped(counts.after),
                share(counts.after, tally.all.after),
                percent(counts.kept_share()),
            ],
        }
    };
    let lines = sorted.into_iter().take(record.limits.n_combinations).map(line).collect();
    Listing { lines, n_all }
}

fn clusters(record: &CoverageRecord) -> Listing<ClusterLine<'_>> {
    let line = |(id, cluster): (u32, &ClusterTally)| {
        let mut templates: Vec<(u64, &TemplateRow)> = cluster
            .templates
            .iter()
            .filter_map(|(template, &n_rows)| Some((n_rows, record.templates.get(template)?)))
            .collect();
        templates.sort_by_key(|(n_rows, template)| (Reverse(*n_rows), template.id));
        templates.truncate(TEMPLATES_OF_A_CLUSTER);
        let of_cluster =
            |(n_rows, template)| TemplateLine { n_rows: grouped(n_rows), ..template_line(template) };
        ClusterLine {
            id,
            n_rows: grouped(cluster.counts.before),
            n_kept: grouped(cluster.counts.after),
            n_fine: cluster.fine.len(),
            templates: templates.into_iter().map(of_cluster).collect(),
            examples: cluster.examples().iter().filter_map(|id| record.rows.get(id)).collect(),
        }
    };
    let lines = record.largest_clusters().into_iter().map(line).collect();
    Listing { lines, n_all: record.tally.clusters.len() }
}

fn templates(record: &CoverageRecord) -> Listing<TemplateLine<'_>> {
    let mut sorted: Vec<&TemplateRow> = record.templates.values().collect();
    sorted.sort_by_key(|template| (Reverse(template.n_rows), template.id));
    sorted.truncate(record.limits.n_templates);
    Listing { lines: sorted.into_iter().map(template_line).collect(), n_all: record.templates.len() }
}

fn template_line(template: &TemplateRow) -> TemplateLine<'_> {
    TemplateLine { n_rows: grouped(template.n_rows), n_kept: grouped(template.n_kept), template }
}

fn dropped_rule(record: &CoverageRecord) -> String {
    let all = record.tally.all;
    let n_dropped = all.before - all.after;
    if record.dropped.len() as u64 == n_dropped {
        return format!("All {} dropped rows.", grouped(n_dropped));
    }
    format!(
        "{} of {} dropped rows: the rows are divided equally among the layers, small layers are shown in full, and \
         within a layer rows are sampled with a fixed seed. All are in decisions.jsonl.",
        grouped(record.dropped.len() as u64),
        grouped(n_dropped)
    )
}

/// What the script needs: rows by number, the dropped ones to list, the map.
fn script_data(record: &CoverageRecord) -> Value {
    let rows: serde_json::Map<String, Value> =
        record.rows.values().map(|row| (row.id.to_string(), script_row(row))).collect();
    let projections: Vec<Value> = record
        .map
        .projections
        .iter()
        .map(|projection| {
            let along = |axis: usize| -> Vec<f64> {
                // Four digits place a point to less than a pixel.
                projection.points.iter().map(|point| rounded(f64::from(point[axis]))).collect()
            };
            json!({ "name": projection.name, "about": projection.about, "x": along(0), "y": along(1) })
        })
        .collect();
    json!({
        "dimensions": record.tally.labels.keys().collect::<Vec<_>>(),
        "layers": record.layers_in_order().iter().map(|(layer, _)| layer.to_string()).collect::<Vec<_>>(),
        "rows": rows,
        "dropped": record.dropped,
        "map": { "ids": record.map.ids, "projections": projections },
    })
}

fn script_row(row: &PromptDecision) -> Value {
    let mut value = json!({ "text": row.text, "origin": row.origin.to_string() });
    let mut put = |name: &str, entry: Value| value[name] = entry;
    if let Some(language) = &row.language {
        put("language", json!(language));
    }
    if !row.labels.is_empty() {
        put("labels", json!(row.labels));
    }
    if let Some(quality) = row.quality {
        put("quality", json!(number(quality)));
    }
    if let Some(cluster) = row.coarse_cluster.or(row.fine_cluster) {
        put("cluster", json!(cluster));
    }
    if let Some(template) = row.template {
        put("template", json!(template));
    }
    if let Some(dropped) = row.decision.dropped() {
        put("layer", json!(dropped.layer.to_string()));
        put("why", json!(why(dropped)));
        if let Some(representative) = dropped.representative {
            put("representative", json!(representative));
        }
    }
    value
}

fn why(dropped: &DroppedRow) -> String {
    let threshold = dropped.threshold.map(|threshold| format!("threshold {}", number(threshold)));
    let parts = [Some(dropped.detail.clone()).filter(|detail| !detail.is_empty()), threshold];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// To four significant digits.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// As few digits as tell it to four places.
fn number(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `1234567` as `1,234,567`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for group in digits.as_bytes()[first..].chunks(3) {
        if !text.is_empty() {
            text.push(',');
        }
        text.extend(group.iter().map(|&digit| char::from(digit)));
    }
    text
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 7, 999, 1000, 1_234_567].map(grouped), ["0", "7", "999", "1,000", "1,234,567"]);
        assert_eq!([0.25, 1.0, 0.0, -2.71009].map(number), ["0.25", "1", "0", "-2.7101"]);
        assert_eq!([12345.6, 0.000_123_45, -9.87654, 0.0].map(rounded), [12350.0, 0.000_123_5, -9.877, 0.0]);
    }
}
