//! ggml's storage formats, one function each. All numbers are little-endian; `d`, `m` and `dmin` are f16
//! scales; "low half first" means that a byte's low four bits come 16 (or 32) values before its high four.
//! Layouts after `ggml-common.h`; products and sums are rounded one by one, as the reference does.

use half::{bf16, f16};

/// Values in a block of the k-quantised formats.
const QK_K: usize = 256;

/// How a tensor is stored. Formats that are not read are kept by number, so that a file can still be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "ggml's own names")]
#[expect(non_camel_case_types, reason = "ggml's own names")]
pub enum GgufType {
    F32,
    F16,
    BF16,
    F64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    /// A format that is not read, by ggml's number.
    Other(u32),
}

impl std::fmt::Display for GgufType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self::Other(id) = self else { return write!(f, "{self:?}") };
        let name = match id {
            9 => "Q8_1",
            15 => "Q8_K",
            16 => "IQ2_XXS",
            17 => "IQ2_XS",
            18 => "IQ3_XXS",
            19 => "IQ1_S",
            20 => "IQ4_NL",
            21 => "IQ3_S",
            22 => "IQ2_S",
            23 => "IQ4_XS",
            24 => "I8",
            25 => "I16",
            26 => "I32",
            27 => "I64",
            29 => "IQ1_M",
            34 => "TQ1_0",
            35 => "TQ2_0",
            39 => "MXFP4",
            _ => return write!(f, "unknown type {id}"),
        };
        f.write_str(name)
    }
}

impl GgufType {
    /// The formats that are read, for messages.
    pub const READABLE: &'static str =
        "F32, F16, BF16, F64, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K and Q6_K";

    pub(super) fn from_id(id: u32) -> Self {
        match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2_K,
            11 => Self::Q3_K,
            12 => Self::Q4_K,
            13 => Self::Q5_K,
            14 => Self::Q6_K,
            28 => Self::F64,
            30 => Self::BF16,
            other => Self::Other(other),
        }
    }

    /// Values and bytes of one block; `None` for formats that are not read.
    #[must_use]
    pub fn block(self) -> Option<(usize, usize)> {
        Some(match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::F64 => (1, 8),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2_K => (QK_K, 84),
            Self::Q3_K => (QK_K, 110),
            Self::Q4_K => (QK_K, 144),
            Self::Q5_K => (QK_K, 176),
            Self::Q6_K => (QK_K, 210),
            Self::Other(_) => return None,
        })
    }

    /// Bytes that `n_elements` values take; `None` for formats that are not read, or on overflow.
    #[must_use]
    pub fn byte_len(self, n_elements: usize) -> Option<usize> {
        let (block_values, block_bytes) = self.block()?;
        (n_elements / block_values).checked_mul(block_bytes)
    }

    /// Converts whole blocks. `bytes` and `values` hold the same number of blocks of a readable format.
    pub(super) fn dequantize(self, bytes: &[u8], values: &mut [f32]) {
        let Some((block_values, block_bytes)) = self.block() else { return };
        let convert: fn(&[u8], &mut [f32]) = match self {
            Self::F32 => f32_value,
            Self::F16 => f16_value,
            Self::BF16 => bf16_value,
            Self::F64 => f64_value,
            Self::Q4_0 => q4_0,
            Self::Q4_1 => q4_1,
            Self::Q5_0 => q5_0,
            Self::Q5_1 => q5_1,
            Self::Q8_0 => q8_0,
            Self::Q2_K => q2_k,
            Self::Q3_K => q3_k,
            Self::Q4_K => q4_k,
            Self::Q5_K => q5_k,
            Self::Q6_K => q6_k,
            Self::Other(_) => return,
        };
        for (block, out) in bytes.chunks_exact(block_bytes).zip(values.chunks_exact_mut(block_values)) {
            convert(block, out);
        }
    }
}

fn scale(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// Little-endian f32.
fn f32_value(block: &[u8], out: &mut [f32]) {
    out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
}

/// IEEE half precision.
fn f16_value(block: &[u8], out: &mut [f32]) {
    out[0] = scale(block);
}

/// The upper half of an f32.
fn bf16_value(block: &[u8], out: &mut [f32]) {
    out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32();
}

/// Little-endian f64, rounded.
fn f64_value(block: &[u8], out: &mut [f32]) {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(block);
    out[0] = f64::from_le_bytes(bytes) as f32;
}

/// `d` | 16 bytes of 4 bits, low half first: `d (q - 8)`.
fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = scale(block);
    let (low, high) = out.split_at_mut(16);
    for ((low, high), &q) in low.iter_mut().zip(high).zip(&block[2..]) {
        *low = d * (f32::from(q & 15) - 8.0);
        *high = d * (f32::from(q >> 4) - 8.0);
    }
}

/// `d` | `m` | 16 bytes of 4 bits, low half first: `d q + m`.
fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (scale(block), scale(&block[2..]));
    let (low, high) = out.split_at_mut(16);
    for ((low, high), &q) in low.iter_mut().zip(high).zip(&block[4..]) {
        *low = d * f32::from(q & 15) + m;
        *high = d * f32::from(q >> 4) + m;
    }
}

/// The 32 values of 5 bits that Q5_0 and Q5_1 share: 32 fifth bits, then 16 bytes, low half first.
fn five_bits(bytes: &[u8], mut put: impl FnMut(usize, f32)) {
    let fifth = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (i, &q) in bytes[4..].iter().enumerate() {
        put(i, f32::from(q & 15 | ((fifth >> i & 1) << 4) as u8));
        put(i + 16, f32::from(q >> 4 | ((fifth >> (i + 16) & 1) << 4) as u8));
    }
}

/// `d` | fifth bits | 16 bytes: `d (q - 16)`.
fn q5_0(block: &[u8], out: &mut [f32]) {
    let d = scale(block);
    five_bits(&block[2..], |i, q| out[i] = d * (q - 16.0));
}

/// `d` | `m` | fifth bits | 16 bytes: `d q + m`.
fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (scale(block), scale(&block[2..]));
    five_bits(&block[4..], |i, q| out[i] = d * q + m);
}

/// `d` | 32 signed bytes: `d q`.
fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = scale(block);
    for (value, &q) in out.iter_mut().zip(&block[2..]) {
        *value = d * f32::from(q as i8);
    }
}

/// 16 bytes of (scale 4 bits, minimum 4 bits) | 64 bytes of 2 bits | `d` | `dmin`: `(d s) q - (dmin m)`.
/// Each 32 bytes hold 128 values, four planes of 32; a scale serves 16 values.
fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, dmin) = (scale(&block[80..]), scale(&block[82..]));
    for (group, values) in out.chunks_exact_mut(16).enumerate() {
        let (d, m) = (d * f32::from(scales[group] & 15), dmin * f32::from(scales[group] >> 4));
        let (half, plane, start) = (group / 8, group % 8 / 2, group % 2 * 16);
        for (value, &q) in values.iter_mut().zip(&quants[half * 32 + start..]) {
            *value = d * f32::from(q >> (2 * plane) & 3) - m;
        }
    }
}

/// 32 bytes of third bits | 64 bytes of 2 bits | 12 bytes of 16 scales of 6 bits | `d`:
/// `d (s - 32) (q - 4)`, where a set third bit adds 4 back. Planes as in Q2_K.
fn q3_k(block: &[u8], out: &mut [f32]) {
    let (third, quants, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = scale(&block[108..]);
    for (group, values) in out.chunks_exact_mut(16).enumerate() {
        // Low four bits: bytes 0..8, low half first. High two bits: bytes 8..12, four planes.
        let low = scales[group % 8] >> (4 * (group / 8)) & 15;
        let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        let d = d * (f32::from(low | high << 4) - 32.0);
        let (half, plane, start) = (group / 8, group % 8 / 2, group % 2 * 16);
        for (i, value) in values.iter_mut().enumerate() {
            let q = quants[half * 32 + start + i] >> (2 * plane) & 3;
            let is_set = third[start + i] >> (half * 4 + plane) & 1;
            *value = d * (f32::from(q) - if is_set == 1 { 0.0 } else { 4.0 });
        }
    }
}

/// Scale and minimum number `i` of the eight pairs of 6 bits that Q4_K and Q5_K pack into 12 bytes:
/// the first four whole in the low six bits of bytes 0..4 and 4..8; of the others, the low four bits in
/// bytes 8..12 and the high two in the top of bytes 0..4 and 4..8.
fn scale_and_minimum(packed: &[u8], i: usize) -> (f32, f32) {
    let (s, m) = if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4)
    };
    (f32::from(s), f32::from(m))
}

/// `d` | `dmin` | 12 bytes of 8 scales and minima | 128 bytes of 4 bits: `(d s) q - (dmin m)`.
/// Each 32 bytes hold 64 values, low half first; a scale serves 32 values.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (scale(block), scale(&block[2..]));
    for (group, values) in out.chunks_exact_mut(32).enumerate() {
        let (s, m) = scale_and_minimum(&block[4..16], group);
        let (d, m) = (d * s, dmin * m);
        for (value, &q) in values.iter_mut().zip(&block[16 + group / 2 * 32..]) {
            *value = d * f32::from(q >> (4 * (group % 2)) & 15) - m;
        }
    }
}

/// `d` | `dmin` | 12 bytes of 8 scales and minima | 32 bytes of fifth bits, eight planes | 128 bytes of
/// 4 bits: as Q4_K with five bits.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin) = (scale(block), scale(&block[2..]));
    let (fifth, quants) = (&block[16..48], &block[48..]);
    for (group, values) in out.chunks_exact_mut(32).enumerate() {
        let (s, m) = scale_and_minimum(&block[4..16], group);
        let (d, m) = (d * s, dmin * m);
        for ((value, &q), &high) in values.iter_mut().zip(&quants[group / 2 * 32..]).zip(fifth) {
            let q = q >> (4 * (group % 2)) & 15 | (high >> group & 1) << 4;
            *value = d * f32::from(q) - m;
        }
    }
}

/// 128 bytes of low 4 bits | 64 bytes of high 2 bits | 16 signed scales | `d`: `(d s) (q - 32)`.
/// Each half of 128 values takes 64 low bytes (low half first, 64 apart) and 32 high bytes (four planes).
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = scale(&block[208..]);
    for (group, values) in out.chunks_exact_mut(16).enumerate() {
        let d = d * f32::from(scales[group] as i8);
        let (half, plane, start) = (group / 8, group % 8 / 2, group % 2 * 16);
        let low = &low[half * 64 + plane % 2 * 32 + start..];
        let high = &high[half * 32 + start..];
        for ((value, &low), &high) in values.iter_mut().zip(low).zip(high) {
            let q = low >> (4 * (plane / 2)) & 15 | (high >> (2 * plane) & 3) << 4;
            *value = d * (f32::from(q) - 32.0);
        }
    }
}
