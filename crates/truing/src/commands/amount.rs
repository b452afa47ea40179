//! The amounts of a plan, for people and for programs.

use serde_json::Value;
use truing_train::Amount;

use crate::units;

/// An amount as a person reads it.
pub(super) fn amount_text(amount: Amount) -> String {
    match amount {
        Amount::Bytes(bytes) => units::bytes(bytes),
        Amount::Cost(cost) => format!("{cost:.2}"),
        Amount::Count(count) => units::count(count),
        Amount::Flops(flops) => format!("{:.1} GFLOP", flops / 1e9),
        Amount::Seconds(seconds) => units::duration(seconds),
        Amount::Share(share) => format!("{:.1} %", 100.0 * share),
        Amount::NotResolvedWith(n_items) => format!("none, too few items ({n_items})"),
        Amount::Unknown(why) => format!("unknown: {why}"),
    }
}

/// An amount as a number.
pub(super) fn amount_json(amount: Amount) -> Value {
    match amount {
        Amount::Bytes(whole) | Amount::Count(whole) => whole.into(),
        Amount::Cost(number) | Amount::Flops(number) | Amount::Seconds(number) | Amount::Share(number) => {
            number.into()
        }
        Amount::NotResolvedWith(_) | Amount::Unknown(_) => Value::Null,
    }
}
