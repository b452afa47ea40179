//! Confidence intervals in records of earlier versions.

use serde::{Deserialize, Deserializer};
use truing_statistics::ShareInterval;

/// Reads an interval of which earlier versions wrote half the width alone. That does not say where it lies: it is left
/// out.
pub(crate) fn interval_or_half_width<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ShareInterval>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Interval(ShareInterval),
        HalfWidth(#[expect(dead_code, reason = "read and left out")] f64),
    }
    Ok(match Option::<Written>::deserialize(deserializer)? {
        Some(Written::Interval(interval)) => Some(interval),
        Some(Written::HalfWidth(_)) | None => None,
    })
}
