//! What carries the messages between ranks.

use clap::ValueEnum;
use truing_parallel::Rendezvous;

use crate::outcome::Hinted;

/// The environment variable that chooses.
pub(crate) const TRANSPORT_VARIABLE: &str = "TRUING_TRANSPORT";

/// What carries the messages between ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// Sockets; part of every build.
    Tcp,
    /// An MPI library; needs a build with the feature `mpi`.
    Mpi,
}

impl Transport {
    /// The name of a transport, as arguments and the environment have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Mpi => "mpi",
        }
    }

    /// Reads what the environment asks for.
    ///
    /// # Errors
    /// When it is no transport.
    pub(crate) fn of_environment(value: Option<&str>) -> anyhow::Result<Option<Self>> {
        let named = |value: &str| {
            Self::from_str(value, false)
                .map_err(|_| anyhow::anyhow!("`{TRANSPORT_VARIABLE}` is {value:?}, expected `tcp` or `mpi`"))
        };
        value.map(named).transpose()
    }

    /// Chooses for the ranks that a launcher started: what is `asked` for, else MPI where the launcher speaks it and
    /// this program does (`has_mpi`), else TCP.
    ///
    /// # Errors
    /// When the ranks cannot connect in this way.
    pub(super) fn choose(asked: Option<Self>, place: &Rendezvous, has_mpi: bool) -> anyhow::Result<Self> {
        let Rendezvous { launcher, world_size, address, .. } = place;
        match asked {
            Some(Self::Mpi) if !has_mpi => Err(no_mpi()),
            Some(Self::Mpi) => Ok(Self::Mpi),
            None if has_mpi && place.has_mpi => Ok(Self::Mpi),
            Some(Self::Tcp) | None if address.is_some() => Ok(Self::Tcp),
            Some(Self::Tcp) | None => {
                let source = anyhow::anyhow!(
                    "{launcher} started {world_size} processes, but `MASTER_ADDR` and `MASTER_PORT`, where they can \
                     meet over TCP, are not set"
                );
                let other = if place.has_mpi && !has_mpi {
                    "; `cargo build --release -p truing --features mpi` builds this program with MPI"
                } else {
                    ""
                };
                let hint = format!(
                    "set `MASTER_ADDR` to the host of rank 0 and `MASTER_PORT` to a free port there, the same for all \
                     processes{other}"
                );
                Err(anyhow::Error::new(Hinted { source, hint }))
            }
        }
    }
}

/// This build has no MPI.
pub(crate) fn no_mpi() -> anyhow::Error {
    let source = anyhow::anyhow!("this program has no MPI");
    let hint = "`cargo build --release -p truing --features mpi` builds it with MPI".to_owned();
    anyhow::Error::new(Hinted { source, hint })
}

#[cfg(test)]
mod tests {
    use truing_parallel::Launcher;

    use super::*;

    fn place(launcher: Launcher, has_mpi: bool, has_address: bool) -> Rendezvous {
        let address = has_address.then(|| ("host-a".to_owned(), 29500));
        let (n_on_host, job) = (None, None);
        Rendezvous { launcher, rank: 0, world_size: 2, local_rank: None, n_on_host, job, address, has_mpi }
    }

    #[test]
    fn mpi_is_chosen_where_launcher_and_program_speak_it() {
        use Transport::{Mpi, Tcp};
        for (asked, is_mpirun, has_address, has_mpi, expected) in [
            (None, true, true, true, Some(Mpi)),
            (None, true, false, true, Some(Mpi)),
            (None, true, true, false, Some(Tcp)),
            (None, true, false, false, None),
            (None, false, true, true, Some(Tcp)),
            (None, false, false, true, None),
            (Some(Tcp), true, true, true, Some(Tcp)),
            (Some(Tcp), true, false, true, None),
            (Some(Mpi), true, true, true, Some(Mpi)),
            (Some(Mpi), true, true, false, None),
        ] {
            let launcher = if is_mpirun { Launcher::OpenMpi } else { Launcher::Torchrun };
            let found = Transport::choose(asked, &place(launcher, is_mpirun, has_address), has_mpi).ok();
            assert_eq!(found, expected, "{asked:?} {launcher} {has_address} {has_mpi}");
        }
    }

    #[test]
    fn names_are_those_of_arguments_and_the_environment() {
        for transport in [Transport::Tcp, Transport::Mpi] {
            assert_eq!(Transport::of_environment(Some(transport.name())).unwrap(), Some(transport));
        }
        assert_eq!(Transport::of_environment(None).unwrap(), None);
        let error = Transport::of_environment(Some("udp")).unwrap_err().to_string();
        assert_eq!(error, "`TRUING_TRANSPORT` is \"udp\", expected `tcp` or `mpi`");
    }
}
