//! The same engine in bfloat16, on libtorch's CPU device. Checks by finite differences are left out: a step that is small
//! enough for a slope is lost in the rounding of the loss. Against PyTorch's gradients in double precision all are compared.

use truing_model::conformance::{decoding, forward, gradients, parameters, pytorch, ranks};
use truing_model::{ComputeDtype, EngineError};
use truing_torch::{Device, DeviceKind, TorchEngine};

use crate::{has_libtorch, measure};

/// The processor, in bfloat16 alone.
#[derive(Debug)]
struct InBf16;

impl DeviceKind for InBf16 {
    const ENGINE_NAME: &'static str = "libtorch cpu bf16";
    const DTYPES: &'static [ComputeDtype] = &[ComputeDtype::Bf16];

    fn device(_idx: usize) -> Result<Device, EngineError> {
        Ok(Device::Cpu)
    }
}

type Bf16Engine = TorchEngine<InBf16>;

#[test]
fn the_largest_errors_in_bfloat16_are_those_of_its_rounding() {
    if has_libtorch() {
        measure::<Bf16Engine>([0.1, 0.15, 0.06, 0.02]);
    }
}

#[test]
fn packs_in_bfloat16_are_sequences_side_by_side() {
    if has_libtorch() {
        forward::a_sequence_cannot_see_another_one_of_its_pack::<Bf16Engine>();
        forward::a_shared_prefix_equals_sequences_written_out::<Bf16Engine>();
        forward::packed_equals_unpacked::<Bf16Engine>();
    }
}

#[test]
fn steps_in_bfloat16_are_those_of_pytorch() {
    if has_libtorch() {
        pytorch::log_probs_are_those_of_pytorch::<Bf16Engine>();
        pytorch::gradients_are_those_of_pytorch::<Bf16Engine>();
        pytorch::vectors_are_those_of_pytorch::<Bf16Engine>();
        pytorch::three_steps_of_a_decoder_are_those_of_pytorch::<Bf16Engine>();
        pytorch::three_steps_of_an_encoder_are_those_of_pytorch::<Bf16Engine>();
    }
}

#[test]
fn segments_and_ranks_in_bfloat16_change_no_gradient() {
    if has_libtorch() {
        gradients::gradients_do_not_depend_on_segments::<Bf16Engine>();
        ranks::ranks_sum_their_gradients::<Bf16Engine>();
    }
}

#[test]
fn master_weights_are_kept_in_single_precision() {
    if has_libtorch() {
        parameters::tensors_are_read_as_they_were_written::<Bf16Engine>();
        parameters::frozen_parameters_have_values_alone::<Bf16Engine>();
        parameters::a_resumed_run_equals_one_that_was_never_stopped::<Bf16Engine>();
    }
}

#[test]
fn decoding_in_bfloat16_is_that_of_a_forward_pass() {
    if has_libtorch() {
        decoding::decoding_gives_the_log_probs_of_a_forward_pass::<Bf16Engine>();
        decoding::a_decoded_sequence_does_not_depend_on_the_others::<Bf16Engine>();
    }
}
