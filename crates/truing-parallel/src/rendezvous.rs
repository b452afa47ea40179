//! What a launcher tells a process about its ranks: a pure function of environment variables, which the caller reads.
//!
//! Launchers nest: `torchrun` under `srun`, `mpirun` in a Slurm allocation. The innermost one started this process, so
//! the first of these that is there counts:
//!
//! 1. torchrun, `truing launch`, or variables set by hand: `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`,
//!    `MASTER_ADDR`, `MASTER_PORT`.
//! 2. OpenMPI's `mpirun`: `OMPI_COMM_WORLD_RANK`, `OMPI_COMM_WORLD_SIZE`, `OMPI_COMM_WORLD_LOCAL_RANK`,
//!    `OMPI_COMM_WORLD_LOCAL_SIZE`.
//! 3. MPICH's `mpiexec`, or `srun --mpi=pmi2`: `PMI_RANK`, `PMI_SIZE`, `MPI_LOCALRANKID`, `MPI_LOCALNRANKS`.
//! 4. `srun`: `SLURM_PROCID`, `SLURM_STEP_NUM_TASKS`, `SLURM_LOCALID`. A batch script without `srun` has `SLURM_PROCID`
//!    and `SLURM_NTASKS` as well, but is one process: only `SLURM_STEP_NUM_TASKS` says that `srun` started this one.
//!
//! What identifies the job among others is torchrun's `TORCHELASTIC_RUN_ID`, or Slurm's `SLURM_JOB_ID` and
//! `SLURM_STEP_ID`.
//!
//! Variables set by hand (1, without torchrun's `TORCHELASTIC_RUN_ID`) must agree with those of 2 and 3.

use std::collections::BTreeMap;
use std::fmt;

/// What started the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// `truing launch`, which sets torchrun's variables and [`Rendezvous::LAUNCHED`].
    Truing,
    /// torchrun, or its variables set by hand (Kubernetes' PyTorchJob does so).
    Torchrun,
    /// OpenMPI's `mpirun`.
    OpenMpi,
    /// A launcher that speaks PMI: MPICH's `mpiexec`, or `srun --mpi=pmi2`.
    Pmi,
    /// Slurm's `srun`.
    Slurm,
}

/// The names of a launcher's variables.
struct Names {
    launcher: Launcher,
    rank: &'static str,
    world_size: &'static str,
    local_rank: &'static str,
    n_on_host: Option<&'static str>,
}

/// In the order in which they count.
const LAUNCHERS: [Names; 4] = [
    Names {
        launcher: Launcher::Torchrun,
        rank: "RANK",
        world_size: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        n_on_host: Some("LOCAL_WORLD_SIZE"),
    },
    Names {
        launcher: Launcher::OpenMpi,
        rank: "OMPI_COMM_WORLD_RANK",
        world_size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        n_on_host: Some("OMPI_COMM_WORLD_LOCAL_SIZE"),
    },
    Names {
        launcher: Launcher::Pmi,
        rank: "PMI_RANK",
        world_size: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        n_on_host: Some("MPI_LOCALNRANKS"),
    },
    Names {
        launcher: Launcher::Slurm,
        rank: "SLURM_PROCID",
        world_size: "SLURM_STEP_NUM_TASKS",
        local_rank: "SLURM_LOCALID",
        n_on_host: None,
    },
];

/// The place of this process among those that a launcher started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendezvous {
    /// What started it.
    pub launcher: Launcher,
    /// Its number.
    pub rank: usize,
    /// Number of processes.
    pub world_size: usize,
    /// Its number among the processes of its host, if the launcher says it.
    pub local_rank: Option<usize>,
    /// Number of processes on its host, if the launcher says it.
    pub n_on_host: Option<usize>,
    /// What identifies the job among others of the launcher, if it says so: the same for all ranks.
    pub job: Option<String>,
    /// Host and port where rank 0 can listen, if the launcher agreed on one with all ranks.
    pub address: Option<(String, u16)>,
    /// Whether MPI can find the other processes: the launcher speaks PMI or PMIx.
    pub has_mpi: bool,
}

/// Variables that do not say what a process has to know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RendezvousError {
    /// One of a launcher's variables is there and another is not.
    #[error("`{found}` is set but `{missing}` is not: {launcher} sets both")]
    Incomplete {
        /// Whose variables they are.
        launcher: Launcher,
        /// What is set.
        found: &'static str,
        /// What is not set.
        missing: &'static str,
    },
    /// A variable is not what it should be.
    #[error("`{name}` is {value:?}, expected {expected}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A rank that the world does not have.
    #[error("`{rank_name}` is {rank} and `{size_name}` is {world_size}: ranks count from 0")]
    OutOfRange {
        /// The variable of the rank.
        rank_name: &'static str,
        /// Its value.
        rank: usize,
        /// The variable of the number of processes.
        size_name: &'static str,
        /// Its value.
        world_size: usize,
    },
    /// Variables set by hand differ from those of the launcher.
    #[error(
        "`{name}` is {value} but `{other_name}` is {other}: unset the variables that do not belong to this job"
    )]
    Contradiction {
        /// A variable.
        name: &'static str,
        /// Its value.
        value: usize,
        /// A variable of the same meaning.
        other_name: &'static str,
        /// Its value.
        other: usize,
    },
}

impl fmt::Display for Launcher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Truing => "truing launch",
            Self::Torchrun => "torchrun",
            Self::OpenMpi => "mpirun",
            Self::Pmi => "a launcher with PMI",
            Self::Slurm => "srun",
        })
    }
}

impl Rendezvous {
    /// Every variable that [`from_variables`](Self::from_variables) looks at.
    pub const VARIABLES: [&'static str; 23] = [
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "TORCHELASTIC_RUN_ID",
        "TORCHELASTIC_USE_AGENT_STORE",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "PMI_RANK",
        "PMI_SIZE",
        "MPI_LOCALRANKID",
        "MPI_LOCALNRANKS",
        "PMIX_NAMESPACE",
        "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_LOCALID",
        "SLURM_JOB_ID",
        "SLURM_STEP_ID",
        Self::LAUNCHED,
    ];

    /// What `truing launch` sets beside torchrun's variables: the number of its process.
    pub const LAUNCHED: &'static str = "TRUING_LAUNCHED";

    /// Reads what the launcher says; `None` where no launcher started this process. An empty variable counts as not
    /// set.
    ///
    /// # Errors
    /// When variables are missing, are no numbers, or contradict each other.
    pub fn from_variables(variables: &BTreeMap<String, String>) -> Result<Option<Self>, RendezvousError> {
        let variables = Variables(variables);
        let mut found: Option<(&Names, Self)> = None;
        for names in &LAUNCHERS {
            let Some(place) = variables.place(names)? else { continue };
            match &found {
                None => found = Some((names, place)),
                // Slurm's are those of the job step, which may hold another launcher.
                Some((first, of_first))
                    if is_by_hand(first, &variables) && names.launcher != Launcher::Slurm =>
                {
                    agree((first.rank, of_first.rank), (names.rank, place.rank))?;
                    let of_first = (first.world_size, of_first.world_size);
                    agree(of_first, (names.world_size, place.world_size))?;
                }
                Some(_) => {}
            }
        }
        let Some((_, mut place)) = found else { return Ok(None) };
        if place.launcher == Launcher::Torchrun && variables.get(Self::LAUNCHED).is_some() {
            place.launcher = Launcher::Truing;
        }
        place.address = variables.master()?;
        place.job = variables.job();
        // Below torchrun the variables of MPI's launcher are those of torchrun's agent.
        let is_below_torchrun = variables.get("TORCHELASTIC_RUN_ID").is_some();
        let mpi = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_NAMESPACE"];
        place.has_mpi = !is_below_torchrun && mpi.iter().any(|name| variables.get(name).is_some());
        Ok(Some(place))
    }
}

/// Whether somebody else than torchrun set its variables.
fn is_by_hand(names: &Names, variables: &Variables<'_>) -> bool {
    names.launcher == Launcher::Torchrun && variables.get("TORCHELASTIC_RUN_ID").is_none()
}

fn agree(
    (name, value): (&'static str, usize),
    (other_name, other): (&'static str, usize),
) -> Result<(), RendezvousError> {
    if value == other {
        return Ok(());
    }
    Err(RendezvousError::Contradiction { name, value, other_name, other })
}

struct Variables<'a>(&'a BTreeMap<String, String>);

impl<'a> Variables<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn number(&self, name: &'static str) -> Result<Option<usize>, RendezvousError> {
        let expected = "a whole number from 0";
        let parse = |value: &str| {
            value.parse().map_err(|_| RendezvousError::Invalid { name, value: value.to_owned(), expected })
        };
        self.get(name).map(parse).transpose()
    }

    /// What one launcher says. Its rank and number of processes are both there or neither is.
    fn place(&self, names: &Names) -> Result<Option<Rendezvous>, RendezvousError> {
        let &Names { launcher, rank: rank_name, world_size: size_name, local_rank, n_on_host } = names;
        let (rank, world_size) = match (self.number(rank_name)?, self.number(size_name)?) {
            (Some(rank), Some(world_size)) => (rank, world_size),
            (None, None) => return Ok(None),
            // A batch script that srun did not start.
            (Some(_), None) if launcher == Launcher::Slurm => return Ok(None),
            (Some(_), None) => {
                return Err(RendezvousError::Incomplete { launcher, found: rank_name, missing: size_name });
            }
            (None, Some(_)) => {
                return Err(RendezvousError::Incomplete { launcher, found: size_name, missing: rank_name });
            }
        };
        if rank >= world_size {
            return Err(RendezvousError::OutOfRange { rank_name, rank, size_name, world_size });
        }
        Ok(Some(Rendezvous {
            launcher,
            rank,
            world_size,
            local_rank: self.number(local_rank)?,
            n_on_host: n_on_host.map(|name| self.number(name)).transpose()?.flatten(),
            job: None,
            address: None,
            has_mpi: false,
        }))
    }

    /// torchrun's name of the job, or Slurm's number of job and step.
    fn job(&self) -> Option<String> {
        let of_slurm = || Some(format!("{}.{}", self.get("SLURM_JOB_ID")?, self.get("SLURM_STEP_ID")?));
        self.get("TORCHELASTIC_RUN_ID").map(str::to_owned).or_else(of_slurm)
    }

    /// `MASTER_ADDR` and `MASTER_PORT`. Where torchrun's agent listens on that port itself, the next one.
    fn master(&self) -> Result<Option<(String, u16)>, RendezvousError> {
        let (address, port) = ("MASTER_ADDR", "MASTER_PORT");
        let launcher = Launcher::Torchrun;
        let (host, text) = match (self.get(address), self.get(port)) {
            (Some(host), Some(text)) => (host, text),
            (None, None) => return Ok(None),
            (Some(_), None) => {
                return Err(RendezvousError::Incomplete { launcher, found: address, missing: port });
            }
            (None, Some(_)) => {
                return Err(RendezvousError::Incomplete { launcher, found: port, missing: address });
            }
        };
        let is_taken = self.get("TORCHELASTIC_USE_AGENT_STORE") == Some("True");
        let number = text.parse::<u16>().ok().filter(|number| *number > 0);
        let free = number.and_then(|number| number.checked_add(u16::from(is_taken)));
        let invalid = || {
            let expected = "a port from 1 to 65535 (65534 where torchrun's agent listens there)";
            RendezvousError::Invalid { name: port, value: text.to_owned(), expected }
        };
        Ok(Some((host.to_owned(), free.ok_or_else(invalid)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Rendezvous>, RendezvousError> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Rendezvous::from_variables(&variables.collect())
    }

    fn refusal(variables: &[(&str, &str)]) -> String {
        read(variables).unwrap_err().to_string()
    }

    const TORCHRUN: [(&str, &str); 8] = [
        ("RANK", "3"),
        ("WORLD_SIZE", "4"),
        ("LOCAL_RANK", "1"),
        ("LOCAL_WORLD_SIZE", "2"),
        ("MASTER_ADDR", "host-a"),
        ("MASTER_PORT", "29500"),
        ("TORCHELASTIC_RUN_ID", "none"),
        ("TORCHELASTIC_USE_AGENT_STORE", "False"),
    ];
    const MPIRUN: [(&str, &str); 4] = [
        ("OMPI_COMM_WORLD_RANK", "1"),
        ("OMPI_COMM_WORLD_SIZE", "2"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ("PMIX_NAMESPACE", "1234"),
    ];
    const SRUN: [(&str, &str); 4] =
        [("SLURM_PROCID", "5"), ("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_NTASKS", "8"), ("SLURM_LOCALID", "1")];

    #[test]
    fn every_launcher_is_understood() {
        let address = |host: &str, port| Some((host.to_owned(), port));
        let place = |launcher: Launcher, rank, world_size, local_rank, address, has_mpi| {
            let n_on_host = (launcher == Launcher::Torchrun).then_some(2);
            let job = (launcher == Launcher::Torchrun).then(|| "none".to_owned());
            Ok(Some(Rendezvous { launcher, rank, world_size, local_rank, n_on_host, job, address, has_mpi }))
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(
            read(&TORCHRUN),
            place(Launcher::Torchrun, 3, 4, Some(1), address("host-a", 29500), false)
        );
        assert_eq!(read(&MPIRUN), place(Launcher::OpenMpi, 1, 2, Some(1), None, true));
        assert_eq!(
            read(&[("PMI_RANK", "0"), ("PMI_SIZE", "3")]),
            place(Launcher::Pmi, 0, 3, None, None, true)
        );
        assert_eq!(read(&SRUN), place(Launcher::Slurm, 5, 8, Some(1), None, false));
        let with_pmix = [&SRUN[..], &[("PMIX_NAMESPACE", "slurm.pmix.1.0")]].concat();
        assert_eq!(read(&with_pmix), place(Launcher::Slurm, 5, 8, Some(1), None, true));
    }

    #[test]
    fn the_innermost_launcher_counts() {
        let launcher = |variables: &[&[(&str, &str)]]| read(&variables.concat()).unwrap().unwrap();
        assert_eq!(launcher(&[&MPIRUN, &SRUN]).launcher, Launcher::OpenMpi);
        assert_eq!(launcher(&[&TORCHRUN, &[(Rendezvous::LAUNCHED, "1")]]).launcher, Launcher::Truing);
        assert_eq!(launcher(&[&MPIRUN, &[(Rendezvous::LAUNCHED, "1")]]).launcher, Launcher::OpenMpi);
        let below = launcher(&[&TORCHRUN, &MPIRUN, &SRUN]);
        assert_eq!((below.launcher, below.rank, below.has_mpi), (Launcher::Torchrun, 3, false));
    }

    #[test]
    fn a_batch_script_without_srun_is_one_process() {
        assert_eq!(read(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8"), ("SLURM_JOB_ID", "7")]), Ok(None));
    }

    #[test]
    fn jobs_have_the_names_of_their_launchers() {
        let step = [("SLURM_JOB_ID", "17"), ("SLURM_STEP_ID", "2")];
        let job = |variables: &[&[(&str, &str)]]| read(&variables.concat()).unwrap().unwrap().job;
        assert_eq!(job(&[&SRUN, &step]).as_deref(), Some("17.2"));
        assert_eq!(job(&[&TORCHRUN, &SRUN, &step]).as_deref(), Some("none"));
        assert_eq!(job(&[&SRUN, &step[..1]]), None);
        let sizes = [("OMPI_COMM_WORLD_LOCAL_SIZE", "2")];
        assert_eq!(read(&[&MPIRUN[..], &sizes].concat()).unwrap().unwrap().n_on_host, Some(2));
    }

    #[test]
    fn the_port_of_torchruns_agent_is_left_to_it() {
        let with_agent = [&TORCHRUN[..7], &[("TORCHELASTIC_USE_AGENT_STORE", "True")]].concat();
        assert_eq!(read(&with_agent).unwrap().unwrap().address, Some(("host-a".to_owned(), 29501)));
    }

    #[test]
    fn an_address_can_be_given_to_any_launcher() {
        let given = [("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "4000")];
        for launcher in [&MPIRUN[..], &SRUN[..]] {
            let place = read(&[launcher, &given[..]].concat()).unwrap().unwrap();
            assert_eq!(place.address, Some(("10.0.0.1".to_owned(), 4000)));
        }
    }

    #[test]
    fn incomplete_variables_are_named() {
        assert_eq!(refusal(&[("RANK", "0")]), "`RANK` is set but `WORLD_SIZE` is not: torchrun sets both");
        assert_eq!(
            refusal(&[("OMPI_COMM_WORLD_SIZE", "2")]),
            "`OMPI_COMM_WORLD_SIZE` is set but `OMPI_COMM_WORLD_RANK` is not: mpirun sets both"
        );
        assert_eq!(
            refusal(&[&MPIRUN[..], &[("MASTER_ADDR", "a")]].concat()),
            "`MASTER_ADDR` is set but `MASTER_PORT` is not: torchrun sets both"
        );
        // An empty variable is none.
        assert_eq!(
            refusal(&[("RANK", "1"), ("WORLD_SIZE", " ")]),
            "`RANK` is set but `WORLD_SIZE` is not: torchrun sets both"
        );
    }

    #[test]
    fn wrong_values_are_named() {
        assert_eq!(
            refusal(&[("RANK", "-1"), ("WORLD_SIZE", "2")]),
            "`RANK` is \"-1\", expected a whole number from 0"
        );
        assert_eq!(
            refusal(&[("PMI_RANK", "2"), ("PMI_SIZE", "2")]),
            "`PMI_RANK` is 2 and `PMI_SIZE` is 2: ranks count from 0"
        );
        for port in ["0", "65536", "http"] {
            let found = refusal(&[&TORCHRUN[..5], &[("MASTER_PORT", port)]].concat());
            assert!(found.starts_with(&format!("`MASTER_PORT` is {port:?}, expected a port")), "{found}");
        }
    }

    #[test]
    fn variables_by_hand_must_agree_with_the_launcher() {
        let by_hand = |rank, size| [&MPIRUN[..], &[("RANK", rank), ("WORLD_SIZE", size)]].concat();
        let place = read(&by_hand("1", "2")).unwrap().unwrap();
        assert_eq!((place.rank, place.world_size, place.has_mpi), (1, 2, true));
        assert_eq!(
            refusal(&by_hand("0", "2")),
            "`RANK` is 0 but `OMPI_COMM_WORLD_RANK` is 1: unset the variables that do not belong to this job"
        );
        assert!(refusal(&by_hand("1", "4")).starts_with("`WORLD_SIZE` is 4 but `OMPI_COMM_WORLD_SIZE` is 2"));
    }
}
