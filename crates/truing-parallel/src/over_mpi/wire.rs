//! Messages between two ranks over MPI.

use ::mpi::point_to_point::send_receive_into_with_tags;
use ::mpi::topology::{Communicator as _, SimpleCommunicator};
use truing_types::CommunicationError;

use crate::transfers::Wire;

impl Wire for SimpleCommunicator {
    /// A rank that is lost is noticed by MPI's launcher, which ends this process.
    fn swap(
        &self,
        tag: u32,
        (to, send): (usize, &[u8]),
        (from, receive): (usize, &mut [u8]),
        _: &'static str,
    ) -> Result<(), CommunicationError> {
        let number = |rank: usize| i32::try_from(rank).expect("MPI's ranks are numbers of 32 bits");
        let tag = i32::try_from(tag).expect("fewer than 2^31 groups");
        let (to, from) = (self.process_at_rank(number(to)), self.process_at_rank(number(from)));
        send_receive_into_with_tags(send, &to, tag, receive, &from, tag);
        Ok(())
    }
}
