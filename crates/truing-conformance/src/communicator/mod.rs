//! What every [`Communicator`] has to do, as checks that any implementation can run.
//!
//! Every rank of a world runs [`CHECKS`] in their order, each with the world's communicator. A check fails by panicking, as
//! tests do. What happens when a rank is lost differs between implementations and is tested beside each.

#![allow(clippy::unwrap_used, reason = "checks fail by panicking, as tests do")]

pub mod bytes;
pub mod groups;
pub mod mistakes;
pub mod numbers;

use truing_types::Communicator;

/// A check with its name.
pub type Check = (&'static str, fn(&dyn Communicator));

/// All checks.
pub const CHECKS: &[Check] = &[
    ("numbers::sums_run_in_rank_order_and_in_double_precision", numbers::sums_run_in_rank_order),
    ("numbers::sums_of_every_length_have_the_bits_of_their_definition", numbers::sums_of_every_length),
    ("numbers::sums_of_doubles_have_the_bits_of_their_definition", numbers::sums_of_doubles),
    ("numbers::reduce_scatter_and_all_gather_are_all_reduce", numbers::reduce_scatter_and_all_gather),
    ("numbers::all_to_all_is_a_transposition_and_its_own_inverse", numbers::all_to_all_transposes),
    ("numbers::all_gather_joins_in_rank_order", numbers::all_gather_joins),
    ("numbers::broadcasts_copy_the_root", numbers::broadcasts_copy_the_root),
    ("numbers::long_values_arrive_whole", numbers::long_values),
    ("numbers::the_same_values_give_the_same_bits_again", numbers::repeated_sums),
    ("bytes::bytes_of_any_length_reach_all_ranks", bytes::any_length_reaches_all),
    ("bytes::bytes_are_gathered_on_the_root_alone", bytes::gathered_on_the_root_alone),
    ("bytes::the_bytes_of_the_root_replace_all_others", bytes::root_replaces_all),
    ("bytes::long_bytes_arrive_whole", bytes::long_bytes),
    ("bytes::dealt_lists_come_back_in_their_order", bytes::dealt_lists),
    ("groups::groups_hold_the_ranks_of_their_colour", groups::of_one_colour),
    ("groups::a_group_can_be_split_further", groups::split_further),
    ("groups::a_dropped_group_leaves_the_others_intact", groups::dropped),
    ("groups::interleaved_collectives_do_not_meet", groups::interleaved),
    ("groups::the_world_divides_into_two_dimensions", groups::two_dimensions),
    ("mistakes::buffers_that_do_not_fit_are_an_error", mistakes::buffers_that_do_not_fit),
    ("mistakes::different_lengths_are_an_error_on_every_rank", mistakes::different_lengths),
    ("mistakes::different_collectives_are_an_error_on_every_rank", mistakes::different_collectives),
    ("mistakes::different_roots_are_an_error_on_every_rank", mistakes::different_roots),
    ("mistakes::a_mistake_in_a_group_stays_in_it", mistakes::in_a_group),
];

/// Runs every check on this rank. All ranks of the world have to call it.
///
/// # Panics
/// When a check fails.
pub fn run_all(communicator: &dyn Communicator) {
    for (_, check) in CHECKS {
        check(communicator);
    }
}
