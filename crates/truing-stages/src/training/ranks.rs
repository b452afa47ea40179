//! What a plan says of a run on several ranks.

use truing_model::ZeroStage;
use truing_run::Machine;
use truing_run::settings::ResourceSettings;
use truing_train::{Amount, PlanRow};

/// The ranks and what they shard, before the memory of one of them. Nothing of a single rank.
pub(crate) fn rows(resources: &ResourceSettings, n_ranks: usize) -> Vec<PlanRow> {
    if n_ranks <= 1 {
        return Vec::new();
    }
    let count = |name: &str, n: u64| PlanRow::new(name, Amount::Count(n));
    vec![count("ranks", n_ranks as u64), count("ZeRO stage", u64::from(resources.zero_stage.number()))]
}

/// Bytes that decoding gathers of parameters that are sharded: all of them, beside the part that a rank keeps.
pub(crate) fn gathered_bytes(resources: &ResourceSettings, machine: &Machine, parameter_bytes: u64) -> u64 {
    let is_sharded = machine.n_ranks > 1 && resources.zero_stage >= ZeroStage::Parameters;
    if is_sharded { parameter_bytes } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_gathers_what_several_ranks_have_sharded() {
        let machine = |n_ranks| Machine {
            n_threads: 1,
            available_bytes: 1 << 30,
            resident_bytes: 0,
            gigaflops: None,
            gigabytes_per_second: None,
            n_ranks,
        };
        let gathered = |zero_stage, n_ranks| {
            let resources = ResourceSettings { zero_stage, ..ResourceSettings::default() };
            gathered_bytes(&resources, &machine(n_ranks), 400)
        };
        assert_eq!(gathered(ZeroStage::Parameters, 2), 400);
        assert_eq!(gathered(ZeroStage::Parameters, 1), 0);
        assert_eq!(gathered(ZeroStage::Gradients, 2), 0);
    }
}
