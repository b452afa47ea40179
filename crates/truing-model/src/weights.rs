//! Named tensors in memory, and the reader of safetensors files
//! (<https://huggingface.co/docs/safetensors>): eight bytes of header length, a JSON header, data.
//!
//! Files are read through buffers, never mapped: offsets may be unaligned, and a file that shrinks meanwhile
//! gives an error. Every tensor becomes f32, one at a time; 8-bit floats are multiplied by their scales (`fp8.rs`).

mod fp8;
mod header_only;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use crate::ModelError;
use header_only::{LENGTH_BYTES, NoData, is_header_path};

pub(crate) use fp8::ScaleBlock;
pub(crate) use header_only::{bytes_with_header, header_path};

/// Headers longer than this are refused, as the reference implementation does.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Stored bytes that are converted at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// The one file, and the index of several.
const SINGLE_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// A tensor of 32-bit floats.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tensor {
    /// Row-major shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// The values `[product of shape]`.
    pub values: Vec<f32>,
}

/// Tensors by their Hugging Face names.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Weights {
    /// In name order.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    /// One tensor.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Hands a tensor over, so that its memory can be reused.
    pub fn take(&mut self, name: &str) -> Option<Tensor> {
        self.tensors.remove(name)
    }
}

impl FromIterator<(String, Tensor)> for Weights {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        Self { tensors: tensors.into_iter().collect() }
    }
}

/// A reader with a position, behind a lock so that an open file can be shared.
pub(crate) type SharedReader = Mutex<Box<dyn ReadSeek>>;

/// Anything that weights can be read from.
pub(crate) trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

/// Reads blocks of `(values, bytes)` from `offset` on and converts them a chunk at a time.
pub(crate) fn read_blocks(
    reader: &SharedReader,
    offset: u64,
    (block_values, block_bytes): (usize, usize),
    values: &mut [f32],
    convert: impl Fn(&[u8], &mut [f32]),
) -> io::Result<()> {
    let blocks_at_a_time = CHUNK_BYTES / block_bytes;
    let mut buffer = vec![0; (values.len() / block_values).min(blocks_at_a_time) * block_bytes];
    let mut offset = offset;
    for chunk in values.chunks_mut(blocks_at_a_time * block_values) {
        let bytes = &mut buffer[..chunk.len() / block_values * block_bytes];
        {
            // Locked for the reading only, so that threads which share a file convert side by side.
            let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            reader.seek(SeekFrom::Start(offset))?;
            reader.read_exact(bytes)?;
        }
        convert(bytes, chunk);
        offset += bytes.len() as u64;
    }
    Ok(())
}

/// An input-output error as ours: an early end becomes [`ModelError::Truncated`].
pub(crate) fn read_error(path: &Path, what: &str, source: io::Error) -> ModelError {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => {
            ModelError::Truncated { path: path.to_path_buf(), what: what.to_owned() }
        }
        _ => ModelError::Io { path: path.to_path_buf(), source },
    }
}

/// One tensor of a safetensors header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetensorsInfo {
    /// Its name.
    pub name: String,
    /// The stored type by the format's name, for instance `BF16`.
    pub dtype: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the file. Not necessarily aligned.
    pub offset: u64,
}

impl SafetensorsInfo {
    /// Number of values.
    #[must_use]
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Bits of one value; `None` for a type that this reader has not heard of.
fn dtype_bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

/// Bytes of a stored value, and the reading of many of them.
type Stored = (usize, fn(&[u8], &mut [f32]));

/// How a type is read; `None` for one that holds no plain floats.
fn stored_floats(dtype: &str) -> Option<Stored> {
    Some(match dtype {
        "F32" => (4, |bytes, values| {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }),
        "F16" => (2, |bytes, values| {
            let halves: Vec<f16> = bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b)).collect();
            halves.convert_to_f32_slice(values);
        }),
        "BF16" => (2, |bytes, values| {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                *value = bf16::from_le_bytes(*bytes).to_f32();
            }
        }),
        "F64" => (8, |bytes, values| {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                *value = f64::from_le_bytes(*bytes) as f32;
            }
        }),
        _ => return None,
    })
}

/// An open safetensors file: header in memory, data on disk.
pub struct SafetensorsFile {
    /// Where it was read from.
    pub path: PathBuf,
    /// Free texts of the header's `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// The tensors in the order of their data.
    pub tensors: Vec<SafetensorsInfo>,
    reader: SharedReader,
}

impl std::fmt::Debug for SafetensorsFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SafetensorsFile")
            .field("path", &self.path)
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

impl SafetensorsFile {
    /// Reads and validates the header.
    ///
    /// # Errors
    /// When the file cannot be read, is cut off, or its header contradicts itself.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| ModelError::Io { path: path.to_path_buf(), source })?;
        Self::from_reader(file, path)
    }

    /// The same from any reader; `path` is what messages call it.
    ///
    /// # Errors
    /// As [`SafetensorsFile::open`].
    pub fn from_reader(
        mut reader: impl Read + Seek + Send + 'static,
        path: &Path,
    ) -> Result<Self, ModelError> {
        let header_error = |source| read_error(path, "the header", source);
        let malformed = |problem: String| ModelError::Malformed { path: path.to_path_buf(), problem };
        let length = reader.seek(SeekFrom::End(0)).map_err(header_error)?;
        reader.seek(SeekFrom::Start(0)).map_err(header_error)?;
        let mut beginning = vec![0; LENGTH_BYTES];
        reader.read_exact(&mut beginning).map_err(header_error)?;
        let data_start = bytes_with_header(&beginning).map_err(malformed)?.unwrap_or(LENGTH_BYTES);
        if data_start as u64 > length {
            return Err(header_error(io::ErrorKind::UnexpectedEof.into()));
        }
        beginning.resize(data_start, 0);
        reader.read_exact(&mut beginning[LENGTH_BYTES..]).map_err(header_error)?;
        let (metadata, tensors) = read_header(&beginning, Some(length), path)?;
        let reader = Mutex::new(Box::new(reader) as Box<dyn ReadSeek>);
        Ok(Self { path: path.to_path_buf(), metadata, tensors, reader })
    }

    /// The file, or the header that is there in its place.
    fn open_or_header(path: &Path) -> Result<Self, ModelError> {
        let header = header_path(path);
        if path.is_file() || !header.is_file() {
            return Self::open(path);
        }
        let beginning =
            std::fs::read(&header).map_err(|source| ModelError::Io { path: header.clone(), source })?;
        let (metadata, tensors) = read_header(&beginning, None, &header)?;
        let reader = Mutex::new(Box::new(NoData) as Box<dyn ReadSeek>);
        Ok(Self { path: header, metadata, tensors, reader })
    }

    /// Whether its values can be read: a plan may have the header alone.
    #[must_use]
    pub fn has_data(&self) -> bool {
        !is_header_path(&self.path)
    }

    /// The header's entry of a tensor.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&SafetensorsInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Checks, without reading it, that a tensor is stored as floats.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_dtype(&self, info: &SafetensorsInfo) -> Result<(), ModelError> {
        self.stored_as(info).map(|_| ())
    }

    fn stored_as(&self, info: &SafetensorsInfo) -> Result<Stored, ModelError> {
        stored_floats(&info.dtype).ok_or_else(|| ModelError::UnsupportedDtype {
            path: self.path.clone(),
            tensor: info.name.clone(),
            dtype: info.dtype.clone(),
            readable: "F32, F16, BF16 and F64",
        })
    }

    /// Some values of a tensor, from the one at `start` on.
    pub(crate) fn read_part(
        &self,
        info: &SafetensorsInfo,
        start: usize,
        values: &mut [f32],
    ) -> Result<(), ModelError> {
        let (bytes, convert) = self.stored_as(info)?;
        let offset = info.offset + (start * bytes) as u64;
        read_blocks(&self.reader, offset, (1, bytes), values, convert)
            .map_err(|source| read_error(&self.path, &format!("the data of tensor `{}`", info.name), source))
    }

    /// A tensor's values as f32.
    ///
    /// # Errors
    /// When there is no such tensor, it is not stored as floats, or the file has become shorter.
    pub fn read(&self, name: &str) -> Result<Tensor, ModelError> {
        let info = self
            .tensor(name)
            .ok_or_else(|| ModelError::MissingTensor { path: self.path.clone(), tensor: name.to_owned() })?;
        self.stored_as(info)?;
        let mut values = vec![0.0; info.n_elements()];
        self.read_part(info, 0, &mut values)?;
        Ok(Tensor { shape: info.shape.clone(), values })
    }
}

/// Metadata and tensors of a file of `length` bytes, where that is known, by its beginning up to the end of the header.
fn read_header(
    beginning: &[u8],
    length: Option<u64>,
    path: &Path,
) -> Result<(BTreeMap<String, String>, Vec<SafetensorsInfo>), ModelError> {
    let malformed = |problem: String| ModelError::Malformed { path: path.to_path_buf(), problem };
    let header = beginning.get(LENGTH_BYTES..).unwrap_or_default();
    let header: Header = serde_json::from_slice(header)
        .map_err(|error| malformed(format!("the header is not a valid safetensors header: {error}")))?;

    let mut entries = header.tensors;
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let data_start = beginning.len() as u64;
    let data_length = length.map(|length| length - data_start);
    let mut tensors = Vec::new();
    let mut end_of_previous = 0;
    for (name, entry) in entries {
        let (begin, end) = entry.data_offsets;
        if begin != end_of_previous || end < begin {
            return Err(malformed(format!(
                "tensor `{name}` has bytes {begin} to {end}, expected to begin at {end_of_previous}"
            )));
        }
        if data_length.is_some_and(|data_length| end > data_length) {
            let what = format!("the data of tensor `{name}`");
            return Err(ModelError::Truncated { path: path.to_path_buf(), what });
        }
        let n_elements =
            entry.shape.iter().try_fold(1u64, |n, &size| n.checked_mul(u64::try_from(size).ok()?));
        if let Some(bits) = dtype_bits(&entry.dtype) {
            let n_bits = n_elements.and_then(|n| n.checked_mul(bits));
            if n_bits.is_none() || n_bits != (end - begin).checked_mul(8) {
                let (dtype, shape) = (&entry.dtype, &entry.shape);
                return Err(malformed(format!(
                    "tensor `{name}` of type {dtype} and shape {shape:?} cannot have {} bytes",
                    end - begin
                )));
            }
        } else if n_elements.is_none() {
            return Err(malformed(format!("tensor `{name}` of shape {:?} overflows", entry.shape)));
        }
        end_of_previous = end;
        let offset = data_start.checked_add(begin).ok_or_else(|| {
            malformed(format!("tensor `{name}` begins at byte {begin}, which no file reaches"))
        })?;
        tensors.push(SafetensorsInfo { name, dtype: entry.dtype, shape: entry.shape, offset });
    }
    if let Some(data_length) = data_length.filter(|&length| length != end_of_previous) {
        return Err(malformed(format!("{} bytes follow the last tensor", data_length - end_of_previous)));
    }
    Ok((header.metadata, tensors))
}

/// The JSON header. Read by hand because a name given twice must be an error.
struct Header {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, HeaderEntry)>,
}

#[derive(Deserialize)]
struct HeaderEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { metadata: BTreeMap::new(), tensors: Vec::new() };
                let mut seen = std::collections::BTreeSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format!("tensor `{name}` appears twice")));
                    }
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The weights of a model directory: one file, or shards with their index.
#[derive(Debug)]
pub struct SafetensorsFiles {
    files: Vec<SafetensorsFile>,
    /// Tensor name to file, in name order.
    places: BTreeMap<String, usize>,
}

impl SafetensorsFiles {
    /// Whether a directory has files of the names that [`SafetensorsFiles::open`] looks for.
    #[must_use]
    pub fn are_in(directory: &Path) -> bool {
        [SINGLE_FILE, INDEX_FILE].iter().any(|name| directory.join(name).is_file())
            || header_path(&directory.join(SINGLE_FILE)).is_file()
    }

    /// What a user should know of files that are there and not read.
    #[must_use]
    pub(crate) fn notice_of_unread_files(directory: &Path) -> Option<String> {
        let (single, index) = (directory.join(SINGLE_FILE), directory.join(INDEX_FILE));
        if !single.is_file() || !index.is_file() {
            return None;
        }
        let index = std::fs::read(&index).ok().and_then(|text| serde_json::from_slice::<Index>(&text).ok());
        let names_others = |index: &Index| index.weight_map.values().any(|shard| shard != SINGLE_FILE);
        index.as_ref().is_none_or(names_others).then(|| {
            format!(
                "{} has both `{SINGLE_FILE}` and shards with `{INDEX_FILE}`; `{SINGLE_FILE}` is loaded, as \
                 transformers does, and the shards are not. Delete those that are out of date",
                directory.display()
            )
        })
    }

    /// Whether two tensors have the same shape and values.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn are_equal(&self, a: &str, b: &str) -> Result<bool, ModelError> {
        let place = |name: &str| {
            let file = self.file_of(name);
            file.and_then(|file| Some((file, file.tensor(name)?))).ok_or_else(|| ModelError::MissingTensor {
                path: self.files.first().map(|file| file.path.clone()).unwrap_or_default(),
                tensor: name.to_owned(),
            })
        };
        let ((first, a), (second, b)) = (place(a)?, place(b)?);
        if a.shape != b.shape {
            return Ok(false);
        }
        let mut start = 0;
        while start < a.n_elements() {
            let n = CHUNK_BYTES.min(a.n_elements() - start);
            let (mut left, mut right) = (vec![0.0; n], vec![0.0; n]);
            first.read_part(a, start, &mut left)?;
            second.read_part(b, start, &mut right)?;
            if left != right {
                return Ok(false);
            }
            start += n;
        }
        Ok(true)
    }

    /// Opens `model.safetensors`, or every shard that `model.safetensors.index.json` names. Of a model that was fetched
    /// for a plan these are headers.
    ///
    /// # Errors
    /// When neither is there, a shard is missing, a shard lacks a tensor of the index, or two hold the same.
    pub fn open(directory: &Path) -> Result<Self, ModelError> {
        if !Self::are_in(directory) {
            return Err(ModelError::NoWeights { path: directory.to_path_buf() });
        }
        let index = directory.join(INDEX_FILE);
        let single = directory.join(SINGLE_FILE);
        if single.is_file() || header_path(&single).is_file() {
            return Self::from_files(vec![SafetensorsFile::open_or_header(&single)?]);
        }
        let text = std::fs::read(&index).map_err(|source| ModelError::Io { path: index.clone(), source })?;
        let malformed = |problem: String| ModelError::Malformed { path: index.clone(), problem };
        let weight_map = serde_json::from_slice::<Index>(&text)
            .map_err(|error| malformed(format!("not an index of shards: {error}")))?
            .weight_map;
        let mut shards: Vec<&String> = weight_map.values().collect();
        shards.sort();
        shards.dedup();
        let mut files = Vec::new();
        for shard in shards {
            if Path::new(shard).file_name() != Some(shard.as_ref()) {
                return Err(malformed(format!("shard `{shard}` is not a file name")));
            }
            files.push(SafetensorsFile::open_or_header(&directory.join(shard))?);
        }
        let files = Self::from_files(files)?;
        for (tensor, shard) in &weight_map {
            let found = files.places.get(tensor).map(|&file| &files.files[file].path);
            let place = directory.join(shard);
            if found.is_none_or(|path| *path != place && *path != header_path(&place)) {
                let (path, tensor) = (place, tensor.clone());
                return Err(ModelError::MissingTensor { path, tensor });
            }
        }
        Ok(files)
    }

    fn from_files(files: Vec<SafetensorsFile>) -> Result<Self, ModelError> {
        let mut places = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for tensor in &file.tensors {
                if let Some(first) = places.insert(tensor.name.clone(), i) {
                    return Err(ModelError::DuplicateTensor {
                        tensor: tensor.name.clone(),
                        first: files[first].path.clone(),
                        second: file.path.clone(),
                    });
                }
            }
        }
        Ok(Self { files, places })
    }

    /// The files, in name order.
    #[must_use]
    pub fn files(&self) -> &[SafetensorsFile] {
        &self.files
    }

    /// Whether all values can be read ([`SafetensorsFile::has_data`]).
    #[must_use]
    pub fn have_data(&self) -> bool {
        self.files.iter().all(SafetensorsFile::has_data)
    }

    /// Every tensor's name, in name order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The file that holds a tensor.
    #[must_use]
    pub fn file_of(&self, name: &str) -> Option<&SafetensorsFile> {
        self.places.get(name).map(|&file| &self.files[file])
    }

    /// A tensor's values as f32, from whichever file holds it.
    ///
    /// # Errors
    /// As [`SafetensorsFile::read`].
    pub fn read(&self, name: &str) -> Result<Tensor, ModelError> {
        let file = self.file_of(name).or(self.files.first());
        file.ok_or_else(|| ModelError::MissingTensor { path: PathBuf::new(), tensor: name.to_owned() })?
            .read(name)
    }
}
