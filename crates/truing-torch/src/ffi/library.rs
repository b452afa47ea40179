//! Finding and loading libtorch: at run time, once for a process, and never unloaded (it starts threads).

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::symbols::{Arithmetic, CudaRuntime, Optional, Symbols};
use crate::device::Device;
use crate::error::{Rejected, TorchError};

/// The oldest version with all functions that are called here.
const OLDEST: (u8, u8) = (2, 11);
/// What the program is written against; libtorch converts arguments by it.
pub(super) const BUILD_VERSION: u64 = ((OLDEST.0 as u64) << 56) | ((OLDEST.1 as u64) << 48);

const CPU_LIBRARY: &str = "libtorch_cpu.so";
const CUDA_LIBRARY: &str = "libtorch_cuda.so";

static LOADED: OnceLock<TorchLib> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

/// A libtorch in this process.
pub struct TorchLib {
    pub(super) symbols: Symbols,
    pub(super) optional: Optional,
    pub(super) cpu: Arithmetic,
    /// The CUDA half, or why there is none.
    pub(super) cuda: Result<Arithmetic, String>,
    cuda_runtime: Option<CudaRuntime>,
    version: (u8, u8, u8),
    folder: PathBuf,
}

impl fmt::Debug for TorchLib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cuda = self.cuda.as_ref().map(drop);
        f.debug_struct("TorchLib")
            .field("folder", &self.folder)
            .field("version", &self.version)
            .field("cuda", &cuda)
            .finish_non_exhaustive()
    }
}

/// Where libtorch may be, in the order in which it is looked for.
///
/// A place may be the folder of `libtorch_cpu.so`, a folder with `lib/` in it (the unpacked C++ archive, or the
/// package `torch`), a `site-packages` folder, or a virtual environment.
#[derive(Debug, Clone, Default)]
pub struct TorchPlaces {
    /// The place that the user gave, with the name of the option or setting.
    pub explicit: Option<(&'static str, PathBuf)>,
    /// The value of the environment variable `TORCH_LIB`.
    pub variable: Option<PathBuf>,
    /// An installed wheel: a virtual environment or a `site-packages` folder, with where it was given.
    pub wheels: Vec<(&'static str, PathBuf)>,
}

impl TorchPlaces {
    /// The value of `TORCH_LIB` alone.
    #[must_use]
    pub fn of_variable(value: Option<&OsStr>) -> Self {
        Self { variable: value.filter(|value| !value.is_empty()).map(PathBuf::from), ..Self::default() }
    }

    /// Every place with where it was given. An explicit one, or that of the variable, is the only one.
    fn in_order(&self) -> Vec<(&'static str, &Path)> {
        if let Some((origin, path)) = &self.explicit {
            return vec![(origin, path)];
        }
        if let Some(path) = &self.variable {
            return vec![("TORCH_LIB", path)];
        }
        self.wheels.iter().map(|(origin, path)| (*origin, &**path)).collect()
    }
}

impl TorchLib {
    /// Loads the first usable libtorch. A process has one: a later call gets the same, and fails where its places
    /// name only others.
    ///
    /// # Errors
    /// When no place has one that can be loaded; the error names each with its reason.
    pub fn find(places: &TorchPlaces) -> Result<&'static Self, TorchError> {
        let _only_one = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rejected = Vec::new();
        let candidates = places.in_order();
        for (origin, path) in &candidates {
            match Self::at(path) {
                Ok(found) => return Ok(found),
                Err(reason) => {
                    rejected.push(Rejected { origin: (*origin).into(), path: path.to_path_buf(), reason });
                }
            }
        }
        if candidates.is_empty() {
            rejected.push(Rejected {
                origin: "TORCH_LIB".into(),
                path: PathBuf::new(),
                reason: "is not set, and no other place was named".into(),
            });
        }
        Err(TorchError::NotFound(rejected))
    }

    /// The libtorch that [`find`](Self::find) has loaded.
    ///
    /// # Errors
    /// When none is loaded.
    pub fn loaded() -> Result<&'static Self, TorchError> {
        LOADED.get().ok_or_else(|| {
            let reason = "no libtorch was loaded by this process".to_owned();
            TorchError::NotFound(vec![Rejected { origin: "libtorch".into(), path: PathBuf::new(), reason }])
        })
    }

    fn at(path: &Path) -> Result<&'static Self, String> {
        let folder = folder_of(path)?;
        match LOADED.get() {
            Some(loaded) if loaded.folder == folder => Ok(loaded),
            Some(loaded) => {
                Err(format!("the libtorch of `{}` is loaded in this process", loaded.folder.display()))
            }
            None => {
                let loaded = Self::load(&folder)?;
                Ok(LOADED.get_or_init(|| loaded))
            }
        }
    }

    fn load(folder: &Path) -> Result<Self, String> {
        let library = open(&folder.join(CPU_LIBRARY))?;
        let version = version_of(&library)?;
        if (version.0, version.1) < OLDEST || version.0 != OLDEST.0 {
            let (major, minor, patch) = version;
            return Err(format!(
                "its version is {major}.{minor}.{patch}, needed is 2.{} or a later one of torch 2",
                OLDEST.1
            ));
        }
        let symbols = Symbols::load(&library)?;
        let optional = Optional::load(&library)?;
        let cpu = Arithmetic::load(&library, "cpu")?;
        std::mem::forget(library);
        let (cuda, cuda_runtime) = match open_cuda(folder) {
            Ok((arithmetic, runtime)) => (Ok(arithmetic), runtime),
            Err(reason) => (Err(reason), None),
        };
        Ok(Self { symbols, optional, cpu, cuda, cuda_runtime, version, folder: folder.to_owned() })
    }

    /// The folder of `libtorch_cpu.so`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `major.minor.patch`.
    #[must_use]
    pub fn version(&self) -> String {
        let (major, minor, patch) = self.version;
        format!("{major}.{minor}.{patch}")
    }

    /// Whether failures come with a message: since 2.13.
    #[must_use]
    pub fn has_messages(&self) -> bool {
        self.optional.what.is_some()
    }

    /// Why this libtorch has no CUDA half; `None` where it has one, which does not mean that there is a GPU.
    #[must_use]
    pub fn why_no_cuda(&self) -> Option<&str> {
        self.cuda.as_ref().err().map(String::as_str)
    }

    /// Allocates on a device, to see whether it is there.
    ///
    /// # Errors
    /// When it is not, with libtorch's reason.
    pub fn check_device(&'static self, device: Device) -> Result<(), TorchError> {
        let no_device = |reason: String| TorchError::NoDevice { device: device.to_string(), reason };
        if let (Device::Cuda(_), Some(reason)) = (device, self.why_no_cuda()) {
            return Err(no_device(format!("this libtorch has no CUDA half ({reason})")));
        }
        match super::Tensor::empty(self, &[1], super::Dtype::F32, device) {
            Ok(_) => Ok(()),
            Err(TorchError::Failed { message, .. }) => Err(no_device(message)),
            Err(error) => Err(error),
        }
    }

    /// Bytes that are free on a GPU; `None` for the processor, and where CUDA does not report it.
    #[must_use]
    pub fn free_bytes(&self, device: Device) -> Option<u64> {
        match device {
            Device::Cpu => None,
            Device::Cuda(idx) => self.cuda_runtime.as_ref()?.free_bytes(idx),
        }
    }

    /// The threads that operators on the CPU use, called from this thread. Does nothing where this libtorch does not
    /// export `at::set_num_threads`; 0 leaves libtorch's own choice.
    pub(crate) fn set_threads(&self, n_threads: usize) {
        if let (Some(set), Ok(n @ 1..)) = (self.optional.set_num_threads, i32::try_from(n_threads)) {
            // SAFETY: `at::set_num_threads(int)` takes any positive number.
            unsafe { set(n) };
        }
    }
}

/// The folder of `libtorch_cpu.so` in or below a place.
fn folder_of(place: &Path) -> Result<PathBuf, String> {
    if !place.exists() {
        return Err("there is no such folder".into());
    }
    let mut folders = vec![place.to_owned(), place.join("lib"), place.join("torch/lib")];
    // A virtual environment: `lib/python3.12/site-packages/torch/lib`.
    if let Ok(entries) = place.join("lib").read_dir() {
        let mut pythons: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("python"))
            .map(|entry| entry.path().join("site-packages/torch/lib"))
            .collect();
        pythons.sort();
        folders.extend(pythons);
    }
    let found = folders.into_iter().find(|folder| folder.join(CPU_LIBRARY).is_file());
    let found =
        found.ok_or_else(|| format!("neither it nor `lib` or `torch/lib` in it holds `{CPU_LIBRARY}`"))?;
    found.canonicalize().map_err(|error| error.to_string())
}

/// Symbols are shared with libraries that are loaded later, as libtorch's parts need.
fn open(path: &Path) -> Result<Library, String> {
    // SAFETY: a library's initialisers run. libtorch's do nothing but register operators.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }
        .map_err(|error| format!("it cannot be loaded: {error}"))
}

fn open_cuda(folder: &Path) -> Result<(Arithmetic, Option<CudaRuntime>), String> {
    let path = folder.join(CUDA_LIBRARY);
    if !path.is_file() {
        return Err(format!("`{}` holds no `{CUDA_LIBRARY}`", folder.display()));
    }
    let library = open(&path)?;
    let loaded = Arithmetic::load(&library, "cuda");
    let runtime = CudaRuntime::load(&library);
    std::mem::forget(library);
    Ok((loaded?, runtime))
}

fn version_of(library: &Library) -> Result<(u8, u8, u8), String> {
    // SAFETY: the type is that of `aoti_torch/c/shim.h`.
    let version = unsafe { library.get::<unsafe extern "C" fn() -> u64>(b"aoti_torch_abi_version\0") };
    let version = version.map_err(|_| format!("it is older than {}.{}", OLDEST.0, OLDEST.1))?;
    // SAFETY: a function without arguments.
    let version = unsafe { version() };
    Ok(((version >> 56) as u8, (version >> 48) as u8, (version >> 40) as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_without_libtorch_is_named_with_its_reason() {
        let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let nowhere = here.join("no-such-folder");
        let places = TorchPlaces {
            wheels: vec![("python3", nowhere.clone()), ("pip", here.clone())],
            ..TorchPlaces::default()
        };
        match TorchLib::find(&places) {
            Err(TorchError::NotFound(rejected)) => {
                assert_eq!(rejected.len(), 2);
                assert_eq!((&rejected[0].path, &*rejected[0].reason), (&nowhere, "there is no such folder"));
                assert!(rejected[1].reason.contains("libtorch_cpu.so"), "{}", rejected[1]);
            }
            other => panic!("{other:?}"),
        }
        // An explicit place is the only one.
        let explicit = TorchPlaces { explicit: Some(("--torch-lib", here)), ..places };
        let message = TorchLib::find(&explicit).unwrap_err().to_string();
        assert!(message.contains("--torch-lib") && !message.contains("python3"), "{message}");
        let none = TorchLib::find(&TorchPlaces::default()).unwrap_err().to_string();
        assert!(none.contains("TORCH_LIB: is not set"), "{none}");
    }

    #[test]
    fn a_library_that_is_not_libtorch_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("lib")).unwrap();
        std::fs::write(folder.path().join("lib").join(CPU_LIBRARY), "no library").unwrap();
        // Not by `find`: another test may have loaded the process's one libtorch.
        let message = TorchLib::load(&folder_of(folder.path()).unwrap()).unwrap_err();
        assert!(message.contains("cannot be loaded"), "{message}");
    }
}
