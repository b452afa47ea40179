//! What ranks tell each other about a collective before its values count, so that ranks that have parted get an error.

use truing_types::CommunicationError;

/// What one rank called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Call {
    /// The method of `Communicator`.
    pub(crate) operation: &'static str,
    /// The rank whose values are wanted, or that wants them; 0 where all ranks are alike.
    pub(crate) root: usize,
    pub(crate) lengths: Lengths,
}

/// Elements of the two buffers of a collective.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lengths {
    pub(crate) send: usize,
    pub(crate) receive: usize,
}

impl Lengths {
    /// Both buffers have the same length.
    pub(crate) fn equal(length: usize) -> Self {
        Self { send: length, receive: length }
    }
}

/// Which lengths the ranks' buffers may have.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fit {
    /// Any.
    Free,
    /// Every rank's are as long as those of rank 0.
    Equal,
    /// Both buffers have one block for each rank.
    Blocks,
    /// `receive` has one block for each rank, `send` is one block.
    OneToAll,
    /// `send` has one block for each rank, `receive` is one block.
    AllToOne,
}

impl Fit {
    /// What every rank's buffers must be, from those of rank 0.
    fn expected(self, first: Lengths, n_ranks: usize) -> Lengths {
        match self {
            Self::Free | Self::Equal => first,
            Self::Blocks => Lengths::equal(first.receive / n_ranks * n_ranks),
            Self::OneToAll => Lengths { send: first.send, receive: first.send * n_ranks },
            Self::AllToOne => Lengths { send: first.receive * n_ranks, receive: first.receive },
        }
    }
}

/// Checks that all ranks, whose calls are in rank order, called the same with buffers that fit. Every rank that checks the
/// same calls finds the same error.
///
/// # Errors
/// The first rank that called another collective than rank 0, named another root, or brought other lengths.
pub(crate) fn check(calls: &[Call], fit: Fit) -> Result<(), CommunicationError> {
    let Call { operation, root, lengths } = calls[0];
    for (rank, call) in calls.iter().enumerate() {
        if call.operation != operation {
            return Err(CommunicationError::OperationMismatch { operation, rank, found: call.operation });
        }
    }
    for (rank, call) in calls.iter().enumerate() {
        if call.root != root {
            let (expected, found) = (root, call.root);
            return Err(CommunicationError::RootMismatch { operation, rank, expected, found });
        }
    }
    if matches!(fit, Fit::Free) {
        return Ok(());
    }
    let expected = fit.expected(lengths, calls.len());
    for (rank, Call { lengths: found, .. }) in calls.iter().enumerate() {
        for (expected, found) in [(expected.send, found.send), (expected.receive, found.receive)] {
            if expected != found {
                return Err(CommunicationError::LengthMismatch { operation, rank, expected, found });
            }
        }
    }
    Ok(())
}
