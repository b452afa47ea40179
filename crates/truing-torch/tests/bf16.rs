//! The same engine in bfloat16, on libtorch's CPU device and, where there is one, on a GPU. Checks by finite
//! differences are left out: a step that is small enough for a slope is lost in the rounding of the loss. Against
//! PyTorch's gradients in double precision all are compared.

use truing_model::{ComputeDtype, EngineError};
use truing_torch::{Device, DeviceKind, TorchEngine};

/// The processor, in bfloat16 alone.
#[derive(Debug)]
struct CpuInBf16;

/// A GPU, in bfloat16 alone.
#[derive(Debug)]
struct GpuInBf16;

impl DeviceKind for CpuInBf16 {
    const ENGINE_NAME: &'static str = "libtorch cpu bf16";
    const DTYPES: &'static [ComputeDtype] = &[ComputeDtype::Bf16];

    fn device(_idx: usize) -> Result<Device, EngineError> {
        Ok(Device::Cpu)
    }
}

impl DeviceKind for GpuInBf16 {
    const ENGINE_NAME: &'static str = "libtorch cuda bf16";
    const DTYPES: &'static [ComputeDtype] = &[ComputeDtype::Bf16];

    fn device(_idx: usize) -> Result<Device, EngineError> {
        Ok(Device::Cuda(0))
    }
}

/// Makes a `#[test]` of some checks of the suite, for one engine.
macro_rules! checks_in_bf16 {
    ($engine:ty, $is_there:path; $($module:ident::$check:ident,)*) => {
        #[test]
        fn the_largest_errors_are_those_of_the_rounding() {
            if $is_there() {
                crate::measure::<$engine>([0.3, 0.15, 0.06, 0.02]);
            }
        }

        $(
            #[test]
            fn $check() {
                if $is_there() {
                    truing_conformance::engine::$module::$check::<$engine>();
                }
            }
        )*
    };
    ($engine:ty, $is_there:path) => {
        checks_in_bf16! { $engine, $is_there;
            decoding::a_decoded_sequence_does_not_depend_on_the_others,
            decoding::decoding_gives_the_log_probs_of_a_forward_pass,
            forward::a_sequence_cannot_see_another_one_of_its_pack,
            forward::a_shared_prefix_equals_sequences_written_out,
            forward::packed_equals_unpacked,
            gradients::gradients_do_not_depend_on_segments,
            parameters::a_resumed_run_equals_one_that_was_never_stopped,
            parameters::frozen_parameters_have_values_alone,
            parameters::tensors_are_read_as_they_were_written,
            pytorch::gradients_are_those_of_pytorch,
            pytorch::log_probs_are_those_of_pytorch,
            pytorch::three_steps_of_a_decoder_are_those_of_pytorch,
            pytorch::three_steps_of_an_encoder_are_those_of_pytorch,
            pytorch::vectors_are_those_of_pytorch,
            ranks::ranks_sum_their_gradients,
        }
    };
}

mod on_cpu {
    use super::{CpuInBf16, TorchEngine};

    checks_in_bf16!(TorchEngine<CpuInBf16>, crate::has_libtorch);
}

mod on_gpu {
    use super::{GpuInBf16, TorchEngine};

    checks_in_bf16!(TorchEngine<GpuInBf16>, crate::has_gpu);
}
