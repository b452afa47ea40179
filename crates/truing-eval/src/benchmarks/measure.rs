//! What is measured of an item, and how items become one number.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use truing_types::{Unscored, UnscoredReason};

/// One measurement of one item. For means the weight is 1; for ratios of sums, as shares of constraints or of
/// tokens are, `value` goes into the numerator and `weight` into the denominator.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// The value, or the item's part of the numerator.
    pub value: f64,
    /// The item's part of the denominator.
    pub weight: f64,
}

impl From<f64> for Measure {
    fn from(value: f64) -> Self {
        Self { value, weight: 1.0 }
    }
}

impl From<bool> for Measure {
    fn from(value: bool) -> Self {
        Self { value: f64::from(u8::from(value)), weight: 1.0 }
    }
}

/// How the measures of items become one number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// The mean of the values.
    Mean,
    /// The sum of the values by the sum of the weights.
    Ratio,
    /// exp of minus the ratio: values are log-likelihoods, weights words, bytes or tokens.
    Perplexity,
    /// Minus the ratio by ln 2.
    Bits,
    /// The mean of the means of the categories of a dimension.
    MeanOfCategories(Cow<'static, str>),
}

/// A metric of a benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricInfo {
    /// Its name, such as `acc`.
    pub name: Cow<'static, str>,
    /// How answers were read, such as `strict-match`; `none` where there is one way.
    pub filter: Cow<'static, str>,
    /// How items become one number.
    pub aggregation: Aggregation,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Lowest and highest value of an item (or of its value by weight), where there are bounds.
    pub range: Option<[f64; 2]>,
}

impl MetricInfo {
    /// A mean of values from 0 to 1 of which more is better.
    #[must_use]
    pub fn share(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            filter: "none".into(),
            aggregation: Aggregation::Mean,
            higher_is_better: true,
            range: Some([0.0, 1.0]),
        }
    }

    /// With a filter.
    #[must_use]
    pub fn filter(self, filter: &'static str) -> Self {
        Self { filter: filter.into(), ..self }
    }

    /// With another aggregation.
    #[must_use]
    pub fn aggregated(self, aggregation: Aggregation) -> Self {
        Self { aggregation, ..self }
    }

    /// With another range.
    #[must_use]
    pub fn range(self, range: Option<[f64; 2]>) -> Self {
        Self { range, ..self }
    }

    /// The key of lm-evaluation-harness, `name,filter`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{},{}", self.name, self.filter)
    }
}

/// What was measured of one item.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ItemScore {
    /// By the metric's key. A metric that is not there does not apply to the item.
    pub measures: BTreeMap<String, Result<Measure, Unscored>>,
    /// What was read out of the answer, by filter; null where nothing could be.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extracted: BTreeMap<String, Option<String>>,
    /// Further findings about the item, for the record alone.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub details: serde_json::Map<String, serde_json::Value>,
}

impl ItemScore {
    /// Sets a measure under a metric's key.
    pub fn set(&mut self, metric: &MetricInfo, measure: Result<impl Into<Measure>, Unscored>) {
        let measure = measure.map(Into::into).and_then(|measure: Measure| {
            match measure.value.is_finite() && measure.weight.is_finite() {
                true => Ok(measure),
                false => {
                    Err(Unscored::new(UnscoredReason::Failed, format!("the score is {}", measure.value)))
                }
            }
        });
        self.measures.insert(metric.key(), measure);
    }

    /// All metrics unscored for one reason.
    #[must_use]
    pub fn unscored(metrics: &[MetricInfo], why: &Unscored) -> Self {
        let mut score = Self::default();
        for metric in metrics {
            score.set(metric, Err::<f64, _>(why.clone()));
        }
        score
    }
}
