//! Reader of GGUF files, versions 2 and 3, little-endian
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
//!
//! The file is laid out as magic, version, counts, metadata, tensor table, padding, data. It is read through
//! buffers, never mapped, so a file that shrinks meanwhile gives an error. Nothing is allocated by a count
//! that the file's length does not back. Names and values stay as the file has them; what they mean for a
//! model family is recognised in [`crate::families`].

mod blocks;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub use blocks::GgufType;

use crate::ModelError;
use crate::weights::{SharedReader, read_blocks, read_error};

/// Dimensions that ggml knows.
const MAX_DIMENSIONS: u32 = 4;
/// Arrays of arrays deeper than this are refused.
const MAX_ARRAY_DEPTH: usize = 4;

/// One metadata value. Integer and float widths are folded together; arrays are kept compact, because a
/// vocabulary has hundreds of thousands of entries.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataValue {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// A float of 32 or 64 bits.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// UTF-8 text.
    Text(String),
    /// Array of integers.
    Integers(Vec<i64>),
    /// Array of floats.
    Floats(Vec<f32>),
    /// Array of true or false.
    Booleans(Vec<bool>),
    /// Array of texts.
    Texts(Vec<String>),
    /// Array of arrays.
    Arrays(Vec<MetadataValue>),
}

impl MetadataValue {
    /// What it is, for messages.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Unsigned(_) => "an unsigned integer",
            Self::Signed(_) => "a signed integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::Text(_) => "a text",
            Self::Integers(_) => "an array of integers",
            Self::Floats(_) => "an array of floats",
            Self::Booleans(_) => "an array of booleans",
            Self::Texts(_) => "an array of texts",
            Self::Arrays(_) => "an array of arrays",
        }
    }
}

/// A type that a metadata value can be asked for; see [`GgufFile::require`].
pub trait FromMetadata<'a>: Sized {
    /// How messages call it.
    const EXPECTED: &'static str;
    /// The value as this type, if it is one.
    fn from_metadata(value: &'a MetadataValue) -> Option<Self>;
}

macro_rules! from_metadata {
    ($type:ty, $expected:literal, $($pattern:pat => $result:expr),+) => {
        impl<'a> FromMetadata<'a> for $type {
            const EXPECTED: &'static str = $expected;
            fn from_metadata(value: &'a MetadataValue) -> Option<Self> {
                match value {
                    $($pattern => $result,)+
                    _ => None,
                }
            }
        }
    };
}

from_metadata!(u64, "an unsigned integer",
    MetadataValue::Unsigned(v) => Some(*v), MetadataValue::Signed(v) => u64::try_from(*v).ok());
from_metadata!(f64, "a float", MetadataValue::Float(v) => Some(*v));
from_metadata!(bool, "a boolean", MetadataValue::Boolean(v) => Some(*v));
from_metadata!(&'a str, "a text", MetadataValue::Text(v) => Some(v.as_str()));
from_metadata!(&'a [i64], "an array of integers", MetadataValue::Integers(v) => Some(v.as_slice()));
from_metadata!(&'a [f32], "an array of floats", MetadataValue::Floats(v) => Some(v.as_slice()));
from_metadata!(&'a [bool], "an array of booleans", MetadataValue::Booleans(v) => Some(v.as_slice()));
from_metadata!(&'a [String], "an array of texts", MetadataValue::Texts(v) => Some(v.as_slice()));

/// One entry of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The file's own name, for instance `blk.0.attn_q.weight`.
    pub name: String,
    /// How the values are stored.
    pub dtype: GgufType,
    /// Row-major shape: the file's dimensions reversed.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    pub offset: u64,
}

impl TensorInfo {
    /// Number of values.
    #[must_use]
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// An open GGUF file: metadata and tensor table in memory, data on disk.
pub struct GgufFile {
    /// Where it was read from.
    pub path: PathBuf,
    /// Version of the format.
    pub version: u32,
    /// Metadata by key.
    pub metadata: BTreeMap<String, MetadataValue>,
    /// The tensor table in the file's order.
    pub tensors: Vec<TensorInfo>,
    reader: SharedReader,
}

impl std::fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GgufFile")
            .field("path", &self.path)
            .field("version", &self.version)
            .field("metadata", &self.metadata.len())
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

impl GgufFile {
    /// Reads metadata and tensor table.
    ///
    /// # Errors
    /// When the file cannot be read, is not GGUF, is cut off, or contradicts itself.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| ModelError::Io { path: path.to_path_buf(), source })?;
        Self::from_reader(BufReader::new(file), path)
    }

    /// The same from any reader; `path` is what messages call it.
    ///
    /// # Errors
    /// As [`GgufFile::open`].
    pub fn from_reader(
        mut reader: impl Read + Seek + Send + 'static,
        path: &Path,
    ) -> Result<Self, ModelError> {
        let io_error = |source| ModelError::Io { path: path.to_path_buf(), source };
        let length = reader.seek(SeekFrom::End(0)).map_err(io_error)?;
        reader.seek(SeekFrom::Start(0)).map_err(io_error)?;
        let mut header = HeaderReader { reader: &mut reader, remaining: length, path };
        let (version, metadata, mut tensors) = header.read_header()?;
        let header_end = length - header.remaining;

        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(MetadataValue::Unsigned(alignment)) if alignment.is_power_of_two() => *alignment,
            Some(_) => {
                return Err(header.malformed("`general.alignment` must be a power of two".to_owned()));
            }
        };
        let data_start = header_end.checked_next_multiple_of(alignment);
        for tensor in &mut tensors {
            tensor.offset = data_start
                .and_then(|start| start.checked_add(tensor.offset))
                .filter(|offset| {
                    // The size of a format that is not read is not known.
                    let bytes = match tensor.dtype.block() {
                        Some(_) => tensor.dtype.byte_len(tensor.n_elements()),
                        None => Some(0),
                    };
                    let end = bytes.and_then(|bytes| offset.checked_add(bytes as u64));
                    end.is_some_and(|end| end <= length)
                })
                .ok_or_else(|| ModelError::Truncated {
                    path: path.to_path_buf(),
                    what: format!("the data of tensor `{}`", tensor.name),
                })?;
        }
        let path = path.to_path_buf();
        Ok(Self { path, version, metadata, tensors, reader: Mutex::new(Box::new(reader)) })
    }

    /// The metadata under `key`, or `None` where there is none.
    ///
    /// # Errors
    /// When it has another type.
    pub fn find<'a, T: FromMetadata<'a>>(&'a self, key: &str) -> Result<Option<T>, ModelError> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        T::from_metadata(value).map(Some).ok_or_else(|| ModelError::WrongMetadata {
            path: self.path.clone(),
            key: key.to_owned(),
            expected: T::EXPECTED,
            found: value.type_name(),
        })
    }

    /// The metadata under `key`, for instance `file.require::<&str>("general.architecture")`.
    ///
    /// # Errors
    /// When there is none, or it has another type.
    pub fn require<'a, T: FromMetadata<'a>>(&'a self, key: &str) -> Result<T, ModelError> {
        self.find(key)?.ok_or_else(|| ModelError::MissingMetadata {
            path: self.path.clone(),
            key: key.to_owned(),
            expected: T::EXPECTED,
        })
    }

    /// The table entry of a tensor.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// A tensor's values as f32, row-major.
    ///
    /// # Errors
    /// When there is no such tensor, its storage format is unknown, or the file has become shorter.
    pub fn dequantize(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let info = self
            .tensor(name)
            .ok_or_else(|| ModelError::MissingTensor { path: self.path.clone(), tensor: name.to_owned() })?;
        let unsupported = || ModelError::UnsupportedDtype {
            path: self.path.clone(),
            tensor: name.to_owned(),
            dtype: info.dtype.to_string(),
            readable: GgufType::READABLE,
        };
        let block = info.dtype.block().ok_or_else(unsupported)?;
        let mut values = vec![0.0; info.n_elements()];
        read_blocks(&self.reader, info.offset, block, &mut values, |bytes, values| {
            info.dtype.dequantize(bytes, values);
        })
        .map_err(|source| read_error(&self.path, &format!("the data of tensor `{name}`"), source))?;
        Ok(values)
    }
}

type Header = (u32, BTreeMap<String, MetadataValue>, Vec<TensorInfo>);

/// Reads the part before the data and knows how many bytes are left.
struct HeaderReader<'a, R> {
    reader: &'a mut R,
    remaining: u64,
    path: &'a Path,
}

impl<R: Read> HeaderReader<'_, R> {
    fn malformed(&self, problem: String) -> ModelError {
        ModelError::Malformed { path: self.path.to_path_buf(), problem }
    }

    fn truncated(&self, what: &str) -> ModelError {
        ModelError::Truncated { path: self.path.to_path_buf(), what: what.to_owned() }
    }

    /// `count` things of at least `min_bytes` each are ahead: a count the file cannot hold is refused before
    /// anything is allocated by it.
    fn check_count(&self, count: u64, min_bytes: u64, what: &str) -> Result<usize, ModelError> {
        match count.checked_mul(min_bytes) {
            Some(bytes) if bytes <= self.remaining => Ok(count as usize),
            _ => Err(self.truncated(what)),
        }
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ModelError> {
        self.check_count(N as u64, 1, what)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => self.truncated(what),
            _ => ModelError::Io { path: self.path.to_path_buf(), source },
        })?;
        self.remaining -= N as u64;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, ModelError> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, ModelError> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    fn text(&mut self, what: &str) -> Result<String, ModelError> {
        let length = self.u64(what)?;
        let length = self.check_count(length, 1, what)?;
        let mut bytes = vec![0; length];
        self.reader
            .read_exact(&mut bytes)
            .map_err(|source| ModelError::Io { path: self.path.to_path_buf(), source })?;
        self.remaining -= length as u64;
        String::from_utf8(bytes).map_err(|_| self.malformed(format!("{what} is not UTF-8")))
    }

    fn read_header(&mut self) -> Result<Header, ModelError> {
        if self.bytes("the magic number").ok() != Some(*b"GGUF") {
            return Err(self.malformed("not a GGUF file (it does not begin with `GGUF`)".to_owned()));
        }
        let version = self.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(self.malformed(match version.swap_bytes() {
                2 | 3 => "big-endian GGUF; only little-endian is read".to_owned(),
                _ => format!("GGUF version {version}; versions 2 and 3 are read"),
            }));
        }
        let n_tensors = self.u64("the tensor count")?;
        let n_metadata = self.u64("the metadata count")?;
        // An entry has at least a name's length and a type.
        self.check_count(n_metadata, 12, "the metadata")?;

        let mut metadata = BTreeMap::new();
        for _ in 0..n_metadata {
            let key = self.text("a metadata key")?;
            let what = format!("metadata `{key}`");
            let type_id = self.u32(&what)?;
            let value = self.value(type_id, &what, 0)?;
            if metadata.insert(key, value).is_some() {
                return Err(self.malformed(format!("{what} appears twice")));
            }
        }

        self.check_count(n_tensors, 24, "the tensor table")?;
        let mut tensors = Vec::new();
        let mut names = BTreeSet::new();
        for _ in 0..n_tensors {
            let tensor = self.tensor_info()?;
            if !names.insert(tensor.name.clone()) {
                return Err(self.malformed(format!("tensor `{}` appears twice", tensor.name)));
            }
            tensors.push(tensor);
        }
        Ok((version, metadata, tensors))
    }

    fn value(&mut self, type_id: u32, what: &str, depth: usize) -> Result<MetadataValue, ModelError> {
        Ok(match type_id {
            0 => MetadataValue::Unsigned(u8::from_le_bytes(self.bytes(what)?).into()),
            1 => MetadataValue::Signed(i8::from_le_bytes(self.bytes(what)?).into()),
            2 => MetadataValue::Unsigned(u16::from_le_bytes(self.bytes(what)?).into()),
            3 => MetadataValue::Signed(i16::from_le_bytes(self.bytes(what)?).into()),
            4 => MetadataValue::Unsigned(self.u32(what)?.into()),
            5 => MetadataValue::Signed(i32::from_le_bytes(self.bytes(what)?).into()),
            6 => MetadataValue::Float(f32::from_le_bytes(self.bytes(what)?).into()),
            7 => match u8::from_le_bytes(self.bytes(what)?) {
                byte @ 0..=1 => MetadataValue::Boolean(byte == 1),
                byte => return Err(self.malformed(format!("{what} is a boolean of value {byte}"))),
            },
            8 => MetadataValue::Text(self.text(what)?),
            9 => self.array(what, depth)?,
            10 => MetadataValue::Unsigned(self.u64(what)?),
            11 => MetadataValue::Signed(i64::from_le_bytes(self.bytes(what)?)),
            12 => MetadataValue::Float(f64::from_le_bytes(self.bytes(what)?)),
            _ => return Err(self.malformed(format!("{what} has unknown type {type_id}"))),
        })
    }

    fn array(&mut self, what: &str, depth: usize) -> Result<MetadataValue, ModelError> {
        if depth == MAX_ARRAY_DEPTH {
            return Err(self.malformed(format!("{what} is nested deeper than {MAX_ARRAY_DEPTH} arrays")));
        }
        let type_id = self.u32(what)?;
        let count = self.u64(what)?;
        let min_bytes = match type_id {
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            _ => 1,
        };
        let count = self.check_count(count, min_bytes, what)?;
        let mut values = (0..count).map(|_| self.value(type_id, what, depth + 1));
        Ok(match type_id {
            0..=5 | 10 | 11 => MetadataValue::Integers(
                values
                    .map(|value| match value? {
                        // A 64-bit unsigned above the signed range keeps its bits; nothing stores one.
                        MetadataValue::Unsigned(v) => Ok(v as i64),
                        MetadataValue::Signed(v) => Ok(v),
                        _ => Ok(0),
                    })
                    .collect::<Result<_, ModelError>>()?,
            ),
            6 | 12 => MetadataValue::Floats(
                values
                    .map(|value| Ok(if let MetadataValue::Float(v) = value? { v as f32 } else { 0.0 }))
                    .collect::<Result<_, ModelError>>()?,
            ),
            7 => MetadataValue::Booleans(
                values
                    .map(|value| Ok(value? == MetadataValue::Boolean(true)))
                    .collect::<Result<_, ModelError>>()?,
            ),
            8 => MetadataValue::Texts(
                values
                    .map(|value| Ok(if let MetadataValue::Text(v) = value? { v } else { String::new() }))
                    .collect::<Result<_, ModelError>>()?,
            ),
            9 => MetadataValue::Arrays(values.collect::<Result<_, ModelError>>()?),
            _ => {
                let unknown = values.next().and_then(Result::err);
                return Err(unknown.unwrap_or_else(|| {
                    self.malformed(format!("{what} is an array of unknown type {type_id}"))
                }));
            }
        })
    }

    fn tensor_info(&mut self) -> Result<TensorInfo, ModelError> {
        let name = self.text("a tensor's name")?;
        let what = format!("the table entry of tensor `{name}`");
        let n_dimensions = self.u32(&what)?;
        if n_dimensions > MAX_DIMENSIONS {
            return Err(self.malformed(format!(
                "tensor `{name}` has {n_dimensions} dimensions, expected at most {MAX_DIMENSIONS}"
            )));
        }
        let mut shape = Vec::new();
        for _ in 0..n_dimensions {
            shape.insert(0, usize::try_from(self.u64(&what)?).unwrap_or(usize::MAX));
        }
        let dtype = GgufType::from_id(self.u32(&what)?);
        let offset = self.u64(&what)?;
        let n_elements = shape
            .iter()
            .try_fold(1usize, |n, &size| n.checked_mul(size))
            .ok_or_else(|| self.malformed(format!("tensor `{name}` of shape {shape:?} overflows")))?;
        if let Some((block_values, _)) = dtype.block() {
            let row = shape.last().copied().unwrap_or(1);
            if row % block_values != 0 || n_elements % block_values != 0 {
                return Err(self.malformed(format!(
                    "tensor `{name}` has rows of {row} values, but {dtype} stores blocks of {block_values}"
                )));
            }
        }
        Ok(TensorInfo { name, dtype, shape, offset })
    }
}
