//! What of a model's states each rank holds: ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::memory::EngineMemory;
use crate::{ParameterRole, ParameterSpec, TrainableSpec};

/// Which states are divided over the ranks. A recipe writes the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum ZeroStage {
    /// None: each rank holds all states.
    #[default]
    Replicated,
    /// The optimiser's states (ZeRO-1).
    Optimizer,
    /// Gradients as well (ZeRO-2).
    Gradients,
    /// Parameters as well (ZeRO-3): a layer is gathered before it runs and freed after it.
    Parameters,
}

impl ZeroStage {
    /// All stages, in order.
    pub const ALL: [Self; 4] = [Self::Replicated, Self::Optimizer, Self::Gradients, Self::Parameters];

    /// 0 to 3.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Replicated => 0,
            Self::Optimizer => 1,
            Self::Gradients => 2,
            Self::Parameters => 3,
        }
    }
}

impl From<ZeroStage> for u8 {
    fn from(stage: ZeroStage) -> Self {
        stage.number()
    }
}

impl TryFrom<u8> for ZeroStage {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|stage| stage.number() == number);
        found.ok_or_else(|| format!("there is no ZeRO stage {number}; expected 0, 1, 2 or 3"))
    }
}

impl JsonSchema for ZeroStage {
    fn schema_name() -> Cow<'static, str> {
        "ZeroStage".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": 3 })
    }
}

/// The elements that rank `rank` of `n_ranks` owns of a parameter of `n_elements`. Ranges of all ranks follow each
/// other, and differ in length by at most one element. So states that were saved by any number of ranks can be read by
/// any other.
#[must_use]
pub fn owned_range(n_elements: usize, rank: usize, n_ranks: usize) -> Range<usize> {
    // In wide integers: a head has 10^9 elements, a job may have 10^3 ranks.
    let bound = |rank: usize| (n_elements as u128 * rank as u128 / n_ranks as u128) as usize;
    bound(rank)..bound(rank + 1)
}

impl EngineMemory {
    /// The bytes of one of `n_ranks` ranks that divide the states of `parameters`: the most that a rank holds. Layers
    /// and heads that are whole for a while are counted with the gradients (ZeRO-2 and 3) and the parameters (ZeRO-3).
    #[must_use]
    pub fn on_rank(
        self,
        parameters: &[ParameterSpec],
        trainable: &TrainableSpec,
        stage: ZeroStage,
        n_ranks: usize,
    ) -> Self {
        if n_ranks <= 1 {
            return self;
        }
        let learns = |p: &ParameterSpec| trainable.is_trainable(p);
        let of_trainable = Sizes::of(parameters, learns, n_ranks);
        let of_all = Sizes::of(parameters, |_| true, n_ranks);
        let mut memory = self;
        if stage >= ZeroStage::Optimizer {
            memory.optimizer_bytes = of_trainable.owned_bytes(self.optimizer_bytes);
        }
        if stage >= ZeroStage::Gradients {
            memory.gradient_bytes = of_trainable.owned_bytes(self.gradient_bytes)
                + of_trainable.largest_unit_bytes(self.gradient_bytes);
        }
        if stage >= ZeroStage::Parameters {
            memory.parameter_bytes =
                of_all.owned_bytes(self.parameter_bytes) + of_all.largest_unit_bytes(self.parameter_bytes);
        }
        memory
    }
}

/// Elements of some parameters: in all, of a rank, and of what is used at once (a layer, the embeddings, or the head).
struct Sizes {
    all: u64,
    owned: u64,
    largest_unit: u64,
}

impl Sizes {
    fn of(parameters: &[ParameterSpec], counts: impl Fn(&ParameterSpec) -> bool, n_ranks: usize) -> Self {
        let mut sizes = Self { all: 0, owned: 0, largest_unit: 0 };
        // By layer; outside of them the embeddings, and the final norm with the head. A tied head is as large as the
        // embedding.
        let mut units: BTreeMap<(Option<usize>, bool), u64> = BTreeMap::new();
        for parameter in parameters.iter().filter(|p| counts(p)) {
            let elements = parameter.n_elements() as u64;
            sizes.all += elements;
            sizes.owned += elements.div_ceil(n_ranks as u64);
            let is_embedding = parameter.role == ParameterRole::Embedding;
            *units.entry((parameter.layer, is_embedding)).or_default() += elements;
        }
        sizes.largest_unit = units.into_values().max().unwrap_or(0);
        sizes
    }

    /// A rank's part of states that take `bytes` in all.
    fn owned_bytes(&self, bytes: u64) -> u64 {
        self.owned * self.bytes_per_element(bytes)
    }

    fn largest_unit_bytes(&self, bytes: u64) -> u64 {
        self.largest_unit * self.bytes_per_element(bytes)
    }

    fn bytes_per_element(&self, bytes: u64) -> u64 {
        bytes.checked_div(self.all).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_all_ranks_cover_a_parameter_and_differ_by_one_element() {
        for n_elements in [0, 1, 2, 3, 7, 64, 1000, 2_101_346_304] {
            for n_ranks in [1, 2, 3, 4, 7, 1024] {
                let ranges: Vec<_> =
                    (0..n_ranks).map(|rank| owned_range(n_elements, rank, n_ranks)).collect();
                assert_eq!((ranges[0].start, ranges[n_ranks - 1].end), (0, n_elements));
                assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
                let (least, most) = (n_elements / n_ranks, n_elements.div_ceil(n_ranks));
                assert!(ranges.iter().all(|range| (least..=most).contains(&range.len())));
            }
        }
    }

    #[test]
    fn a_stage_is_a_number_from_0_to_3() {
        for number in 0..4 {
            assert_eq!(u8::from(ZeroStage::try_from(number).unwrap()), number);
        }
        let error = ZeroStage::try_from(4).unwrap_err();
        assert_eq!(error, "there is no ZeRO stage 4; expected 0, 1, 2 or 3");
    }

    #[test]
    fn each_stage_divides_one_state_more() {
        let parameter = |name: &str, n: usize, layer| ParameterSpec {
            name: name.into(),
            shape: vec![n],
            role: ParameterRole::Matrix,
            layer,
        };
        let parameters =
            [parameter("head", 40, None), parameter("a", 30, Some(0)), parameter("b", 30, Some(0))];
        let memory = EngineMemory {
            parameter_bytes: 400,
            gradient_bytes: 240,
            optimizer_bytes: 480,
            ..EngineMemory::default()
        };
        let trainable = TrainableSpec { lora: None, frozen: vec!["head".into()] };
        let states = |stage, n_ranks| {
            let memory = memory.on_rank(&parameters, &trainable, stage, n_ranks);
            (memory.parameter_bytes, memory.gradient_bytes, memory.optimizer_bytes)
        };
        assert_eq!(states(ZeroStage::Parameters, 1), (400, 240, 480));
        // Of 4 ranks each has at most 8 elements of 30, 10 of 40; the layer of 60 elements is whole for a while.
        assert_eq!(states(ZeroStage::Replicated, 4), (400, 240, 480));
        assert_eq!(states(ZeroStage::Optimizer, 4), (400, 240, 16 * 8));
        assert_eq!(states(ZeroStage::Gradients, 4), (400, 16 * 4 + 240, 16 * 8));
        assert_eq!(states(ZeroStage::Parameters, 4), (26 * 4 + 240, 16 * 4 + 240, 16 * 8));
    }
}
