//! The levels of x86-64: each operation is one intrinsic, or a few.

#![allow(unsafe_code, reason = "instruction-set intrinsics; every block says why it is sound")]

use super::Simd;
use std::arch::x86_64::*;

/// Proof that the machine has AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Proof that the machine has AVX-512 F, AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx2 {
    /// # Safety
    /// The machine must have AVX2 and FMA.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Avx2(())
    }
}

impl Avx512 {
    /// # Safety
    /// The machine must have AVX-512 F, AVX2 and FMA.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Avx512(())
    }
}

/// The sums of four times four lanes, halves first. The machine must have AVX, as every caller's token proves.
#[inline(always)]
fn sum_four_of_four([a, b, c, d]: [__m128; 4]) -> [f32; 4] {
    // SAFETY: every x86-64 has SSE.
    unsafe {
        // a0 + a2, b0 + b2, a1 + a3, b1 + b3
        let ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
        let cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
        let mut sums = [0.0; 4];
        _mm_storeu_ps(sums.as_mut_ptr(), _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab)));
        sums
    }
}

// Each body is one intrinsic (or a few) of the level that `self` proves.
macro_rules! intrinsic {
    ($(fn $name:ident($($arg:ident),*) = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Self::V),*) -> Self::V {
            // SAFETY: `self` proves that the machine has the instructions.
            unsafe { $body }
        }
    )*};
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: `self` proves that the machine has the instructions.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> __m256 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, v: __m256) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm256_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_i8_ptr(self, from: *const i8) -> __m256 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_bf16_ptr(self, from: *const u16) -> __m256 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_ptr(self, to: *mut u16, v: __m256) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let halves = _mm256_srli_epi32::<16>(_mm256_castps_si256(v));
            // Each 128-bit lane packs its own four: the first and third quarter are the eight.
            let packed = _mm256_permute4x64_epi64::<0x08>(_mm256_packus_epi32(halves, halves));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        // SAFETY: a prefetch reads nothing, for any address; every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn prefetch_stream(self, at: *const f32) {
        // SAFETY: a prefetch reads nothing, for any address; every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    intrinsic! {
        fn add(a, b) = _mm256_add_ps(a, b);
        fn sub(a, b) = _mm256_sub_ps(a, b);
        fn mul(a, b) = _mm256_mul_ps(a, b);
        fn div(a, b) = _mm256_div_ps(a, b);
        fn fma(a, b, c) = _mm256_fmadd_ps(a, b, c);
        fn max(a, b) = _mm256_max_ps(a, b);
        fn min(a, b) = _mm256_min_ps(a, b);
        fn sqrt(a) = _mm256_sqrt_ps(a);
        fn round(a) = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        fn scale_by_power_of_two(a, n) = {
            // In two steps, so that results near both ends of the range come out right.
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let bias = _mm256_set1_epi32(127);
            let first = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
            let second = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias));
            _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second))
        };
        fn round_to_bf16(a) = {
            let bits = _mm256_castps_si256(a);
            let is_odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let carried = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), is_odd);
            let quiet = _mm256_or_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x0040_0000)));
            let is_nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a);
            let rounded = _mm256_blendv_ps(_mm256_castsi256_ps(carried), quiet, is_nan);
            _mm256_and_ps(rounded, _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32)))
        };
        fn pair(low, high) = {
            let low = _mm256_srli_epi32::<16>(_mm256_castps_si256(low));
            _mm256_or_ps(_mm256_castsi256_ps(low), high)
        };
        fn low_of_pairs(a) = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(a)));
        fn high_of_pairs(a) =
            _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32)));
    }
    #[inline(always)]
    fn sum_four(self, v: [__m256; 4]) -> [f32; 4] {
        // SAFETY: `self` proves that the machine has the instructions.
        unsafe {
            let [a, b, c, d] = v;
            let (ab, cd) = (_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x20>(c, d));
            let ab = _mm256_add_ps(ab, _mm256_permute2f128_ps::<0x31>(a, b));
            let cd = _mm256_add_ps(cd, _mm256_permute2f128_ps::<0x31>(c, d));
            sum_four_of_four([
                _mm256_castps256_ps128(ab),
                _mm256_extractf128_ps::<1>(ab),
                _mm256_castps256_ps128(cd),
                _mm256_extractf128_ps::<1>(cd),
            ])
        }
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let mut quads = [_mm256_setzero_ps(); 8];
            for group in 0..2 {
                let row = |i: usize| _mm256_loadu_ps(from.add((4 * group + i) * from_stride));
                let (low01, high01) =
                    (_mm256_unpacklo_ps(row(0), row(1)), _mm256_unpackhi_ps(row(0), row(1)));
                let (low23, high23) =
                    (_mm256_unpacklo_ps(row(2), row(3)), _mm256_unpackhi_ps(row(2), row(3)));
                // quads[4 group + c], 128-bit lane l: column 4 l + c of the four rows.
                quads[4 * group] = _mm256_shuffle_ps::<0x44>(low01, low23);
                quads[4 * group + 1] = _mm256_shuffle_ps::<0xee>(low01, low23);
                quads[4 * group + 2] = _mm256_shuffle_ps::<0x44>(high01, high23);
                quads[4 * group + 3] = _mm256_shuffle_ps::<0xee>(high01, high23);
            }
            for c in 0..4 {
                let first = _mm256_permute2f128_ps::<0x20>(quads[c], quads[4 + c]);
                let second = _mm256_permute2f128_ps::<0x31>(quads[c], quads[4 + c]);
                _mm256_storeu_ps(to.add(c * to_stride), first);
                _mm256_storeu_ps(to.add((4 + c) * to_stride), second);
            }
        }
    }
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves that the machine has the instructions.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, v: __m512) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_i8_ptr(self, from: *const i8) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_bf16_ptr(self, from: *const u16) -> __m512 {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_ptr(self, to: *mut u16, v: __m512) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let halves = _mm512_srli_epi32::<16>(_mm512_castps_si512(v));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(halves));
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        // SAFETY: a prefetch reads nothing, for any address; every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn prefetch_stream(self, at: *const f32) {
        // SAFETY: a prefetch reads nothing, for any address; every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    intrinsic! {
        fn add(a, b) = _mm512_add_ps(a, b);
        fn sub(a, b) = _mm512_sub_ps(a, b);
        fn mul(a, b) = _mm512_mul_ps(a, b);
        fn div(a, b) = _mm512_div_ps(a, b);
        fn fma(a, b, c) = _mm512_fmadd_ps(a, b, c);
        fn max(a, b) = _mm512_max_ps(a, b);
        fn min(a, b) = _mm512_min_ps(a, b);
        fn sqrt(a) = _mm512_sqrt_ps(a);
        fn round(a) = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        fn scale_by_power_of_two(a, n) = _mm512_scalef_ps(a, n);
        fn round_to_bf16(a) = {
            let bits = _mm512_castps_si512(a);
            let is_odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let carried = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), is_odd);
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
            let quiet = _mm512_set1_epi32(0x0040_0000);
            let rounded = _mm512_mask_or_epi32(carried, is_nan, bits, quiet);
            _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(0xffff_0000_u32 as i32)))
        };
        fn pair(low, high) = {
            let low = _mm512_srli_epi32::<16>(_mm512_castps_si512(low));
            _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_castps_si512(high)))
        };
        fn low_of_pairs(a) = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(a)));
        fn high_of_pairs(a) = _mm512_castsi512_ps(_mm512_and_si512(
            _mm512_castps_si512(a),
            _mm512_set1_epi32(0xffff_0000_u32 as i32),
        ));
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: `self` proves the instructions, the caller the memory.
        unsafe {
            let mut quads = [_mm512_setzero_ps(); 16];
            for group in 0..4 {
                let row = |i: usize| _mm512_loadu_ps(from.add((4 * group + i) * from_stride));
                let (low01, high01) =
                    (_mm512_unpacklo_ps(row(0), row(1)), _mm512_unpackhi_ps(row(0), row(1)));
                let (low23, high23) =
                    (_mm512_unpacklo_ps(row(2), row(3)), _mm512_unpackhi_ps(row(2), row(3)));
                // quads[4 group + c], 128-bit lane l: column 4 l + c of the four rows.
                quads[4 * group] = _mm512_shuffle_ps::<0x44>(low01, low23);
                quads[4 * group + 1] = _mm512_shuffle_ps::<0xee>(low01, low23);
                quads[4 * group + 2] = _mm512_shuffle_ps::<0x44>(high01, high23);
                quads[4 * group + 3] = _mm512_shuffle_ps::<0xee>(high01, high23);
            }
            for c in 0..4 {
                let (q0, q1, q2, q3) = (quads[c], quads[4 + c], quads[8 + c], quads[12 + c]);
                let (even01, odd01) =
                    (_mm512_shuffle_f32x4::<0x88>(q0, q1), _mm512_shuffle_f32x4::<0xdd>(q0, q1));
                let (even23, odd23) =
                    (_mm512_shuffle_f32x4::<0x88>(q2, q3), _mm512_shuffle_f32x4::<0xdd>(q2, q3));
                let columns = [
                    _mm512_shuffle_f32x4::<0x88>(even01, even23),
                    _mm512_shuffle_f32x4::<0x88>(odd01, odd23),
                    _mm512_shuffle_f32x4::<0xdd>(even01, even23),
                    _mm512_shuffle_f32x4::<0xdd>(odd01, odd23),
                ];
                for (lane, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_ps(to.add((4 * lane + c) * to_stride), column);
                }
            }
        }
    }
    #[inline(always)]
    fn sum_four(self, v: [__m512; 4]) -> [f32; 4] {
        // SAFETY: `self` proves that the machine has the instructions.
        unsafe {
            let [a, b, c, d] = v;
            // Lower halves of both, then upper halves: a 0..8 + a 8..16, b 0..8 + b 8..16.
            let ab = _mm512_shuffle_f32x4::<0x44>(a, b);
            let ab = _mm512_add_ps(ab, _mm512_shuffle_f32x4::<0xee>(a, b));
            let cd = _mm512_shuffle_f32x4::<0x44>(c, d);
            let cd = _mm512_add_ps(cd, _mm512_shuffle_f32x4::<0xee>(c, d));
            // Four lanes of each: a, b, c, d.
            let all = _mm512_shuffle_f32x4::<0x88>(ab, cd);
            let all = _mm512_add_ps(all, _mm512_shuffle_f32x4::<0xdd>(ab, cd));
            sum_four_of_four([
                _mm512_castps512_ps128(all),
                _mm512_extractf32x4_ps::<1>(all),
                _mm512_extractf32x4_ps::<2>(all),
                _mm512_extractf32x4_ps::<3>(all),
            ])
        }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: `self` proves that the machine has the instructions.
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    fn largest(self, v: __m512) -> f32 {
        // SAFETY: `self` proves that the machine has the instructions.
        unsafe { _mm512_reduce_max_ps(v) }
    }
}
