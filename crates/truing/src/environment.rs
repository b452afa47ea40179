//! Every environment variable that `truing` reads, in one place; those of launchers are [`Rendezvous::VARIABLES`].
//! Nothing else in the workspace looks.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use truing_parallel::Rendezvous;

use crate::ranks::transport::TRANSPORT_VARIABLE;

/// The variable with the token of a job.
pub(crate) const JOB_TOKEN: &str = "TRUING_JOB_TOKEN";
/// The variable that says how long ranks wait for each other.
const JOIN_SECONDS: &str = "TRUING_JOIN_SECONDS";

/// Name and meaning of each variable, for `truing doctor` and the documents.
pub(crate) const VARIABLES: &[(&str, &str)] = &[
    (
        "TRUING_CACHE",
        "folder of downloaded models and data sets; default: truing under the user's cache folder",
    ),
    ("TRUING_THREADS", "threads to compute with, where --threads is not given"),
    (
        TRANSPORT_VARIABLE,
        "what carries messages between ranks, tcp or mpi; default: mpi where launcher and program speak it",
    ),
    (JOB_TOKEN, "text that only the ranks of one job over TCP know: others are refused"),
    (JOIN_SECONDS, "seconds that ranks over TCP wait for each other at the start; default: 120"),
    ("XDG_CACHE_HOME", "the user's cache folder; default: .cache under HOME"),
    ("HOME", "the user's home folder"),
    ("HF_HOME", "Hugging Face's folder, searched for models that are already there"),
    ("HF_HUB_CACHE", "Hugging Face's model cache; default: hub under HF_HOME"),
    ("HF_HUB_OFFLINE", "1: never use the network for models and data sets"),
    ("HF_ENDPOINT", "address of the hub; default: https://huggingface.co"),
    ("HF_TOKEN", "token for models that need one"),
    (
        "HTTPS_PROXY",
        "proxy to servers of judges behind https; ALL_PROXY where it is not set; lower case counts too",
    ),
    ("HTTP_PROXY", "the same behind http; requests to this machine never use a proxy"),
    ("ALL_PROXY", "proxy where neither of the two is set"),
    ("NO_PROXY", "hosts for which no proxy is used, separated by commas"),
    ("PATH", "where python, pip and mpirun are looked for"),
    ("NO_COLOR", "any value: no colours"),
    #[cfg(feature = "torch")]
    ("TORCH_LIB", "folder of libtorch_cpu.so, for models on a GPU; --torch-lib takes precedence"),
    #[cfg(feature = "torch")]
    ("VIRTUAL_ENV", "Python environment whose torch is taken where neither of the two is given"),
];

/// Beginnings of the names of variables that remotes of pipelines read: credentials and options of object storage.
pub(crate) const STORAGE_VARIABLES: [&str; 4] = ["AWS_", "GOOGLE_", "AZURE_", "SERVICE_ACCOUNT"];

/// What the variables said when the process started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    /// `TRUING_CACHE`, or `truing` under the user's cache folder; `None` where no home is known.
    pub(crate) model_cache: Option<PathBuf>,
    /// `HOME`.
    pub(crate) home: Option<PathBuf>,
    /// `TRUING_THREADS`.
    pub(crate) n_threads: Option<usize>,
    /// `TRUING_TRANSPORT`.
    pub(crate) transport: Option<String>,
    /// `TRUING_JOB_TOKEN`. Never printed.
    job_token: Option<String>,
    /// `TRUING_JOIN_SECONDS`.
    join_seconds: Option<String>,
    /// Hugging Face's own cache, `.../hub`.
    pub(crate) hugging_face_cache: Option<PathBuf>,
    /// `HF_HUB_OFFLINE`.
    pub(crate) is_offline: bool,
    /// `HF_ENDPOINT`.
    pub(crate) hub_endpoint: Option<String>,
    /// `HF_TOKEN`. Never printed.
    pub(crate) hub_token: Option<String>,
    /// `HTTPS_PROXY` or `ALL_PROXY`. It may hold a password and is never printed.
    pub(crate) https_proxy: Option<String>,
    /// `HTTP_PROXY` or `ALL_PROXY`.
    pub(crate) http_proxy: Option<String>,
    /// `NO_PROXY`.
    pub(crate) no_proxy: Vec<String>,
    /// Folders of `PATH`.
    pub(crate) search_path: Vec<PathBuf>,
    /// `NO_COLOR`.
    pub(crate) no_color: bool,
    /// `TORCH_LIB`.
    #[cfg(feature = "torch")]
    pub(crate) torch_lib: Option<PathBuf>,
    /// `VIRTUAL_ENV`.
    #[cfg(feature = "torch")]
    pub(crate) virtual_env: Option<PathBuf>,
    /// What a launcher of several processes says ([`Rendezvous::VARIABLES`]).
    pub(crate) of_launcher: BTreeMap<String, String>,
    /// Names of the variables above that are set at all.
    pub(crate) variables_set: Vec<&'static str>,
}

impl Environment {
    /// Reads the process's environment.
    pub(crate) fn read() -> Self {
        Self::from_lookup(|name| env::var_os(name))
    }

    /// The key in a variable whose name a recipe gives (`api_key_env`). It is read when it is needed and never printed.
    pub(crate) fn api_key(name: &str) -> Option<String> {
        env::var(name).ok().filter(|key| !key.is_empty())
    }

    /// The variables for object storage ([`STORAGE_VARIABLES`]). They are read when they are needed and never printed.
    pub(crate) fn of_storage() -> Vec<(String, String)> {
        let is_for_storage =
            |name: &str| STORAGE_VARIABLES.iter().any(|beginning| name.starts_with(beginning));
        let all = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        all.filter(|(name, value)| is_for_storage(name) && !value.is_empty()).collect()
    }

    /// How long ranks wait for each other at the start, where `TRUING_JOIN_SECONDS` says so.
    ///
    /// # Errors
    /// When it is no number of seconds.
    pub(crate) fn join_within(&self) -> anyhow::Result<Option<Duration>> {
        let parse = |value: &String| {
            let seconds = value.parse::<u32>().ok().filter(|seconds| *seconds > 0);
            seconds.map(|seconds| Duration::from_secs(u64::from(seconds))).ok_or_else(|| {
                anyhow::anyhow!("`{JOIN_SECONDS}` is {value:?}, expected a whole number of seconds from 1")
            })
        };
        self.join_seconds.as_ref().map(parse).transpose()
    }

    /// What only the ranks of one job know; nothing where `TRUING_JOB_TOKEN` is not set.
    ///
    /// # Errors
    /// When it is no text: without it everybody could join.
    pub(crate) fn job_token(&self) -> anyhow::Result<&str> {
        let is_text = self.job_token.is_some() || !self.variables_set.contains(&JOB_TOKEN);
        anyhow::ensure!(is_text, "`{JOB_TOKEN}` is not valid UTF-8, expected text");
        Ok(self.job_token.as_deref().unwrap_or_default())
    }

    /// The first of `names` that lies in a folder of the search path.
    pub(crate) fn find_program(&self, names: &[&str]) -> Option<PathBuf> {
        names.iter().find_map(|name| {
            self.search_path.iter().map(|folder| folder.join(name)).find(|path| path.is_file())
        })
    }

    /// The same from any source of variables. An empty value counts as not set.
    fn from_lookup(look_up: impl Fn(&str) -> Option<OsString>) -> Self {
        let get = |name: &str| look_up(name).filter(|value| !value.is_empty());
        let text = |name: &str| get(name).and_then(|value| value.into_string().ok());
        let folder = |name: &str| get(name).map(PathBuf::from);
        let either = |name: &str| text(name).or_else(|| text(&name.to_lowercase()));
        let hosts = either("NO_PROXY").unwrap_or_default();
        let cache_home = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
        Self {
            model_cache: folder("TRUING_CACHE")
                .or_else(|| cache_home.as_ref().map(|cache| cache.join("truing"))),
            home: folder("HOME"),
            n_threads: text("TRUING_THREADS").and_then(|value| value.parse().ok()),
            transport: text(TRANSPORT_VARIABLE),
            job_token: text(JOB_TOKEN),
            join_seconds: text(JOIN_SECONDS),
            hugging_face_cache: folder("HF_HUB_CACHE")
                .or_else(|| folder("HF_HOME").map(|home| home.join("hub")))
                .or_else(|| cache_home.map(|cache| cache.join("huggingface").join("hub"))),
            is_offline: text("HF_HUB_OFFLINE")
                .is_some_and(|value| !matches!(value.to_lowercase().as_str(), "0" | "false" | "no" | "off")),
            hub_endpoint: text("HF_ENDPOINT"),
            hub_token: text("HF_TOKEN"),
            https_proxy: either("HTTPS_PROXY").or_else(|| either("ALL_PROXY")),
            http_proxy: either("HTTP_PROXY").or_else(|| either("ALL_PROXY")),
            no_proxy: hosts
                .split(',')
                .map(|host| host.trim().to_owned())
                .filter(|host| !host.is_empty())
                .collect(),
            search_path: get("PATH").map(|value| env::split_paths(&value).collect()).unwrap_or_default(),
            no_color: get("NO_COLOR").is_some(),
            #[cfg(feature = "torch")]
            torch_lib: folder("TORCH_LIB"),
            #[cfg(feature = "torch")]
            virtual_env: folder("VIRTUAL_ENV"),
            of_launcher: Rendezvous::VARIABLES
                .iter()
                .filter_map(|&name| Some((name.to_owned(), text(name)?)))
                .collect(),
            variables_set: VARIABLES
                .iter()
                .map(|(name, _)| *name)
                .filter(|name| get(name).is_some())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::from_lookup(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn caches_follow_the_most_specific_variable() {
        let home_only = environment(&[("HOME", "/home/u")]);
        assert_eq!(home_only.model_cache, Some("/home/u/.cache/truing".into()));
        assert_eq!(home_only.hugging_face_cache, Some("/home/u/.cache/huggingface/hub".into()));
        let specific = environment(&[("HOME", "/home/u"), ("TRUING_CACHE", "/big"), ("HF_HOME", "/hf")]);
        assert_eq!(specific.model_cache, Some("/big".into()));
        assert_eq!(specific.hugging_face_cache, Some("/hf/hub".into()));
    }

    #[test]
    fn the_time_to_join_is_a_number_of_seconds() {
        let within = |value: &str| environment(&[("TRUING_JOIN_SECONDS", value)]).join_within();
        assert_eq!(within("7").unwrap(), Some(Duration::from_secs(7)));
        assert_eq!(within("").unwrap(), None);
        for value in ["0", "-1", "2 min"] {
            let error = within(value).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("`TRUING_JOIN_SECONDS` is {value:?}, expected a whole number of seconds from 1")
            );
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_token_that_is_no_text_is_not_taken_for_none() {
        use std::os::unix::ffi::OsStringExt as _;

        assert_eq!(environment(&[(JOB_TOKEN, "secret")]).job_token().unwrap(), "secret");
        assert_eq!(environment(&[]).job_token().unwrap(), "");
        let of_bytes = Environment::from_lookup(|name| {
            (name == JOB_TOKEN).then(|| OsString::from_vec(vec![b's', 0xff]))
        });
        let error = of_bytes.job_token().unwrap_err().to_string();
        assert_eq!(error, "`TRUING_JOB_TOKEN` is not valid UTF-8, expected text");
    }

    #[test]
    fn offline_is_a_claim_that_can_be_denied() {
        assert!(environment(&[("HF_HUB_OFFLINE", "1")]).is_offline);
        assert!(!environment(&[("HF_HUB_OFFLINE", "0")]).is_offline);
        assert!(!environment(&[("HF_HUB_OFFLINE", "")]).is_offline);
        assert!(!environment(&[]).is_offline);
    }
}
