//! What every [`Engine`] has to do, as tests that any engine can run.
//!
//! A crate with an engine runs all of them in its tests with one line; each check becomes a `#[test]` of its own:
//!
//! ```text
//! truing_conformance::engine_tests!(CpuEngine);
//! ```
//!
//! Each check runs in every number format that the engine loads. How near a result has to be comes from
//! [`Guarantees`](truing_model::Guarantees): equality of bits is asserted where it is stated, else the tolerance. The
//! references are small models of every family in double precision, computed by PyTorch (`conformance/make.py` and
//! `make_bert.py` of truing-model), closed forms, finite differences of the engine's own forward pass, and the host's
//! [`Sampler`](truing_model::Sampler).

#![allow(clippy::unwrap_used, reason = "checks fail by panicking, as tests do")]

pub mod adapters;
pub mod decoding;
pub mod encoders;
pub mod forward;
pub mod gradients;
pub mod heads;
pub mod loading;
pub mod models;
pub mod parameters;
pub mod pytorch;
pub mod ranks;
pub mod refusals;
pub mod sampling;
pub mod sequence_groups;
mod support;

pub use support::adamw;

use truing_model::{ComputeDtype, Engine};

/// Makes one `#[test]` of each check of the [conformance suite](crate::engine), for one engine. With
/// `if is_there` a check runs only where the function `is_there() -> bool` says so; `names of Engine` is an array of
/// the checks' names.
#[macro_export]
macro_rules! engine_tests {
    ($engine:ty) => { $crate::engine_tests!(@each test $engine); };
    // Where the machine may lack the engine's device: a check runs where the function says `true`.
    ($engine:ty, if $is_there:path) => { $crate::engine_tests!(@each test $engine, $is_there); };
    (names of $engine:ty) => { $crate::engine_tests!(@each names $engine) };
    (@each $what:ident $engine:ty $(, $is_there:path)?) => {
        $crate::engine_tests! { @$what $engine $(, $is_there)?;
            adapters::adapters_start_as_the_identity_and_only_they_learn,
            adapters::disabled_adapters_leave_the_base_model,
            adapters::disabled_adapters_take_no_part_in_a_backward_pass,
            adapters::gradients_of_adapters_are_slopes,
            decoding::a_copy_in_8_bits_is_near_the_weights_and_follows_them,
            decoding::a_decoded_sequence_does_not_depend_on_the_others,
            decoding::adapters_are_added_in_full_to_8_bits,
            decoding::decoding_gives_the_log_probs_of_a_forward_pass,
            decoding::failed_extensions_change_no_cache,
            decoding::prompts_and_training_do_not_read_the_copy_in_8_bits,
            decoding::several_tokens_at_once_give_the_logits_of_one_after_the_other,
            encoders::a_text_is_encoded_alone_as_in_a_pack,
            encoders::an_output_layer_is_a_linear_function_of_the_pooled_vector,
            encoders::frozen_parameters_of_an_encoder_have_no_gradient,
            encoders::gradients_of_encoders_are_slopes,
            encoders::neither_threads_nor_saved_activations_change_vectors_or_gradients,
            forward::a_sequence_cannot_see_another_one_of_its_pack,
            forward::a_shared_prefix_equals_sequences_written_out,
            forward::packed_equals_unpacked,
            forward::the_same_calls_give_the_same_results_on_any_number_of_threads,
            gradients::gradients_are_slopes,
            gradients::gradients_do_not_depend_on_segments,
            heads::gradients_of_log_probs_and_kl_are_slopes,
            heads::gradients_of_scores_are_slopes,
            heads::gradients_of_vectors_of_a_decoder_are_slopes,
            heads::kl_is_that_of_the_renormalised_distributions,
            heads::log_probs_are_those_of_the_logits,
            heads::scores_are_products_with_the_last_vectors,
            heads::the_kl_of_a_model_with_itself_is_zero,
            heads::top_log_probs_are_the_highest_renormalised,
            heads::vectors_of_a_decoder_are_its_pooled_states,
            loading::bad_weights_are_refused,
            loading::memory_is_known_before_loading,
            loading::new_parameters_are_drawn_by_seed,
            loading::unknown_devices_and_formats_are_refused,
            parameters::a_resumed_run_equals_one_that_was_never_stopped,
            parameters::frozen_parameters_have_values_alone,
            parameters::tensors_are_read_as_they_were_written,
            pytorch::gradients_are_those_of_pytorch,
            pytorch::log_probs_are_those_of_pytorch,
            pytorch::three_steps_of_a_decoder_are_those_of_pytorch,
            pytorch::three_steps_of_an_encoder_are_those_of_pytorch,
            pytorch::vectors_are_those_of_pytorch,
            ranks::ranks_sum_their_gradients,
            ranks::ranks_with_different_passes_do_not_wait_for_ever,
            ranks::sharded_states_are_those_of_replicated_ones,
            ranks::sharded_states_of_an_encoder_are_those_of_replicated_ones,
            ranks::states_move_to_other_numbers_of_ranks,
            refusals::bad_batches_are_refused,
            refusals::requests_that_the_model_cannot_answer_are_refused,
            refusals::segments_that_saved_nothing_have_no_backward,
            sampling::a_token_depends_on_its_row_history_and_sampler_alone,
            sampling::excluded_tokens_are_never_sampled,
            sampling::no_token_is_sampled_from_logits_that_are_not_numbers,
            sampling::sampled_log_probs_are_those_of_a_forward_pass,
            sequence_groups::a_sequence_group_computes_what_one_rank_does,
            sequence_groups::ranks_of_a_sequence_group_may_decode_other_texts,
            sequence_groups::heads_of_a_sequence_group_answer_the_whole_request,
            sequence_groups::sizes_that_the_heads_do_not_allow_are_refused,
        }
    };
    (@test $engine:ty; $($module:ident::$check:ident,)*) => {
        $(
            #[test]
            fn $check() {
                $crate::engine::$module::$check::<$engine>();
            }
        )*
    };
    (@test $engine:ty, $is_there:path; $($module:ident::$check:ident,)*) => {
        $(
            #[test]
            fn $check() {
                if $is_there() {
                    $crate::engine::$module::$check::<$engine>();
                }
            }
        )*
    };
    (@names $engine:ty; $($module:ident::$check:ident,)*) => {
        [$(concat!(stringify!($module), "::", stringify!($check))),*]
    };
    (@call $engine:ty; $($module:ident::$check:ident,)*) => {
        $( $crate::engine::$module::$check::<$engine>(); )*
    };
}

/// Runs every check.
///
/// # Panics
/// At the first one that fails.
pub fn check<E: Engine>() {
    crate::engine_tests!(@each call E);
}

/// The largest errors of an engine on the models of this suite, to be held against its
/// [`Guarantees`](truing_model::Guarantees).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The number format.
    pub dtype: ComputeDtype,
    /// Against [`decoding_log_prob_tolerance`](truing_model::Guarantees::decoding_log_prob_tolerance).
    pub decoding_log_prob: f64,
    /// Against [`log_prob_tolerance`](truing_model::Guarantees::log_prob_tolerance).
    pub log_prob: f64,
    /// Against [`gradient_tolerance`](truing_model::Guarantees::gradient_tolerance).
    pub gradient: f64,
    /// Against [`vector_tolerance`](truing_model::Guarantees::vector_tolerance).
    pub vector: f64,
}

/// Measures an engine in every number format that it loads.
///
/// # Panics
/// When the engine returns an error.
#[must_use]
pub fn measure<E: Engine>() -> Vec<Measured> {
    let measure = |options: truing_model::EngineOptions| Measured {
        dtype: options.dtype,
        decoding_log_prob: decoding::decoding_error::<E>(&options).largest,
        log_prob: pytorch::log_prob_error::<E>(&options).largest,
        gradient: pytorch::gradient_error::<E>(&options).largest,
        vector: pytorch::vector_error::<E>(&options).largest,
    };
    support::all_options::<E>().into_iter().map(measure).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Every public function without arguments of a module is a check, and is in the list of `engine_tests`.
    #[test]
    fn every_check_is_in_the_list() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine");
        let list = include_str!("mod.rs");
        let mut n_checks = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let source = std::fs::read_to_string(&path).unwrap();
            for name in
                source.lines().filter_map(|line| line.strip_prefix("pub fn ")?.split_once("<E: Engine>() {"))
            {
                if module != "mod" {
                    assert!(
                        list.contains(&format!(" {module}::{},", name.0)),
                        "{module}::{} is not in it",
                        name.0
                    );
                    n_checks += 1;
                }
            }
        }
        assert!(n_checks > 40);
    }
}
