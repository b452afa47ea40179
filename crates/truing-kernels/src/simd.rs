//! Vectors of `f32`, one trait over the instruction sets the machine may have.
//!
//! A kernel is written once, generic over [`Simd`], inside [`simd_fn!`]; the macro compiles it for every level
//! and picks one at run time. A value of a token type (`Avx512`, `Avx2`, `Portable`) is the proof that the
//! machine has the level, which is what makes the methods safe to call.
//!
//! What it is not: a portable vector library. It holds the dozen operations the kernels of this crate use.

#![allow(unsafe_code, reason = "instruction-set intrinsics; every block says why it is sound")]

use std::cell::Cell;
use std::fmt;

/// The instruction sets a kernel exists for, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimdLevel {
    /// Plain Rust, vectorised by the compiler to what the target guarantees (SSE2 on x86-64, NEON on aarch64).
    Portable,
    /// AVX2 with fused multiply-add: 8 lanes, 16 registers.
    Avx2,
    /// AVX-512 F: 16 lanes, 32 registers.
    Avx512,
}

thread_local! {
    static FORCED: Cell<Option<SimdLevel>> = const { Cell::new(None) };
}

impl SimdLevel {
    /// Every level there is, slowest first.
    pub const ALL: [SimdLevel; 3] = [SimdLevel::Portable, SimdLevel::Avx2, SimdLevel::Avx512];

    /// Whether this machine can run the level.
    pub fn is_available(self) -> bool {
        match self {
            SimdLevel::Portable => true,
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 => SimdLevel::Avx2.is_available() && is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The fastest level this machine can run.
    pub fn detected() -> SimdLevel {
        let fastest = SimdLevel::ALL.into_iter().rev().find(|level| level.is_available());
        fastest.unwrap_or(SimdLevel::Portable)
    }

    /// The level a kernel called now on this thread uses: the one forced by [`with_simd_level`], or the detected.
    pub fn current() -> SimdLevel {
        FORCED.get().unwrap_or_else(SimdLevel::detected)
    }
}

impl fmt::Display for SimdLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SimdLevel::Portable => "portable",
            SimdLevel::Avx2 => "avx2+fma",
            SimdLevel::Avx512 => "avx512",
        })
    }
}

/// Runs `work` with the kernels it calls from this thread held to `level`, for tests and measurements.
///
/// Returns `None`, without running `work`, when the machine lacks the level. A kernel decides its level once,
/// on the thread that called it, so the worker threads it uses follow.
pub fn with_simd_level<R>(level: SimdLevel, work: impl FnOnce() -> R) -> Option<R> {
    struct Restore(Option<SimdLevel>);
    impl Drop for Restore {
        fn drop(&mut self) {
            FORCED.set(self.0);
        }
    }
    if !level.is_available() {
        return None;
    }
    let _restore = Restore(FORCED.replace(Some(level)));
    Some(work())
}

/// Operations on a vector of `LANES` floats.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// The register.
    type V: Copy;
    /// Floats in a register.
    const LANES: usize;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Reads `LANES` floats.
    ///
    /// # Safety
    /// `from` must be valid for reading `LANES` floats; no alignment is asked.
    unsafe fn load_ptr(self, from: *const f32) -> Self::V;
    /// Writes `LANES` floats.
    ///
    /// # Safety
    /// `to` must be valid for writing `LANES` floats; no alignment is asked.
    unsafe fn store_ptr(self, to: *mut f32, v: Self::V);
    /// Reads `LANES` signed bytes as floats.
    ///
    /// # Safety
    /// `from` must be valid for reading `LANES` bytes; no alignment is asked.
    unsafe fn load_i8_ptr(self, from: *const i8) -> Self::V;
    /// Reads `LANES` bf16 numbers as floats, which hold them exactly.
    ///
    /// # Safety
    /// `from` must be valid for reading `LANES` halves; no alignment is asked.
    unsafe fn load_bf16_ptr(self, from: *const u16) -> Self::V;
    /// Writes `LANES` floats as bf16 numbers: their upper halves. Round them first.
    ///
    /// # Safety
    /// `to` must be valid for writing `LANES` halves; no alignment is asked.
    unsafe fn store_bf16_ptr(self, to: *mut u16, v: Self::V);
    /// The nearest bf16 numbers, ties to even, as [`bf16_bits`] makes them: the lower halves of the lanes are 0.
    fn round_to_bf16(self, v: Self::V) -> Self::V;
    /// Two rounded vectors as pairs of bf16 numbers, `low` in the lower halves of the lanes.
    fn pair(self, low: Self::V, high: Self::V) -> Self::V;
    /// The numbers in the lower halves of pairs.
    fn low_of_pairs(self, pairs: Self::V) -> Self::V;
    /// The numbers in the upper halves of pairs.
    fn high_of_pairs(self, pairs: Self::V) -> Self::V;
    /// Asks for the cache line at `at`, which need not be valid.
    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        let _ = at;
    }
    /// Asks for the cache line at `at`, which need not be valid, no nearer than the second level cache: for a stream from
    /// memory. Lines on their way to the first level hold up every other miss there, such as of the rows that a stream
    /// of weights meets.
    #[inline(always)]
    fn prefetch_stream(self, at: *const f32) {
        let _ = at;
    }
    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once where the machine can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where either is NaN, so put the one whose NaN must survive second.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Square root.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// The nearest whole number; `|a| < 2^22`.
    fn round(self, a: Self::V) -> Self::V;
    /// `a · 2^n`, `n` a whole number in -160..=160.
    fn scale_by_power_of_two(self, a: Self::V, n: Self::V) -> Self::V;

    /// Transposes a `LANES` x `LANES` block: `to[j · to_stride + i] = from[i · from_stride + j]`.
    ///
    /// # Safety
    /// `LANES` floats must be readable at each of the `LANES` rows of `from`, and writable at those of `to`.
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);

    /// Reads the first `LANES` floats of `from`; panics when it is shorter.
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::V {
        assert!(from.len() >= Self::LANES);
        // SAFETY: the length was checked.
        unsafe { self.load_ptr(from.as_ptr()) }
    }

    /// Writes the first `LANES` floats of `to`; panics when it is shorter.
    #[inline(always)]
    fn store(self, to: &mut [f32], v: Self::V) {
        assert!(to.len() >= Self::LANES);
        // SAFETY: the length was checked.
        unsafe { self.store_ptr(to.as_mut_ptr(), v) }
    }

    /// Reads up to `LANES` floats; the lanes past the end of `from` hold `fill`.
    #[inline(always)]
    fn load_or(self, from: &[f32], fill: f32) -> Self::V {
        if from.len() >= Self::LANES {
            return self.load(from);
        }
        let mut lanes = [fill; MAX_LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load(&lanes)
    }

    /// Writes as many lanes as `to` has room for.
    #[inline(always)]
    fn store_some(self, to: &mut [f32], v: Self::V) {
        if to.len() >= Self::LANES {
            return self.store(to, v);
        }
        let mut lanes = [0.0; MAX_LANES];
        self.store(&mut lanes, v);
        let n = to.len();
        to.copy_from_slice(&lanes[..n]);
    }

    /// The sum of the lanes, halves first.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; MAX_LANES];
        self.store(&mut lanes, v);
        let mut width = Self::LANES;
        while width > 1 {
            width /= 2;
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
        }
        lanes[0]
    }

    /// The sums of the lanes of four vectors, each halves first: the order is the same at every place it is used.
    #[inline(always)]
    fn sum_four(self, v: [Self::V; 4]) -> [f32; 4] {
        v.map(|v| {
            let mut lanes = [0.0; MAX_LANES];
            self.store(&mut lanes, v);
            let mut width = Self::LANES;
            while width > 1 {
                width /= 2;
                for i in 0..width {
                    lanes[i] += lanes[i + width];
                }
            }
            lanes[0]
        })
    }

    /// The largest lane, where none is NaN.
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; MAX_LANES];
        self.store(&mut lanes, v);
        lanes[..Self::LANES].iter().fold(f32::NEG_INFINITY, |best, &x| best.max(x))
    }

    /// `e^x`, within 2 units in the last place; 0 below -104, infinity above 88.73, NaN stays NaN.
    ///
    /// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `ln 2` in two pieces (Cody and Waite) keeps `r` exact, and
    /// `e^r` is its Taylor polynomial of degree 7, whose remainder there is 5e-9.
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        let x = self.max(self.splat(-104.0), self.min(self.splat(89.0), x));
        let n = self.round(self.mul(x, self.splat(std::f32::consts::LOG2_E)));
        let r = self.fma(n, self.splat(-0.693_359_4), x);
        let r = self.fma(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.0 / 5040.0);
        for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = self.fma(p, r, self.splat(coefficient));
        }
        self.scale_by_power_of_two(p, n)
    }
}

/// The widest register of any level.
pub(crate) const MAX_LANES: usize = 16;

/// The bits of the nearest bf16 number, ties to even; NaN stays NaN, and what is too large becomes infinity.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        // Quiet, or the lower half could hold all that makes it a NaN.
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// The float that a bf16 number is.
#[inline(always)]
pub(crate) fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Four lanes in plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Simd for Portable {
    type V = [f32; 4];
    const LANES: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> [f32; 4] {
        // SAFETY: the caller gives room for four floats.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, v: [f32; 4]) {
        // SAFETY: the caller gives room for four floats.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_i8_ptr(self, from: *const i8) -> [f32; 4] {
        // SAFETY: the caller gives four bytes.
        unsafe { from.cast::<[i8; 4]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_bf16_ptr(self, from: *const u16) -> [f32; 4] {
        // SAFETY: the caller gives four halves.
        unsafe { from.cast::<[u16; 4]>().read_unaligned() }.map(bf16_value)
    }
    #[inline(always)]
    unsafe fn store_bf16_ptr(self, to: *mut u16, v: [f32; 4]) {
        // SAFETY: the caller gives room for four halves.
        unsafe { to.cast::<[u16; 4]>().write_unaligned(v.map(|x| (x.to_bits() >> 16) as u16)) }
    }
    #[inline(always)]
    fn round_to_bf16(self, v: [f32; 4]) -> [f32; 4] {
        v.map(|x| bf16_value(bf16_bits(x)))
    }
    #[inline(always)]
    fn pair(self, low: [f32; 4], high: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| f32::from_bits(low[i].to_bits() >> 16 | high[i].to_bits()))
    }
    #[inline(always)]
    fn low_of_pairs(self, pairs: [f32; 4]) -> [f32; 4] {
        pairs.map(|pair| f32::from_bits(pair.to_bits() << 16))
    }
    #[inline(always)]
    fn high_of_pairs(self, pairs: [f32; 4]) -> [f32; 4] {
        pairs.map(|pair| f32::from_bits(pair.to_bits() & 0xffff_0000))
    }
    #[inline(always)]
    fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        // Where the target has no fused instruction `mul_add` is a slow library call.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            std::array::from_fn(|i| a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    fn max(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn sqrt(self, a: [f32; 4]) -> [f32; 4] {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn round(self, a: [f32; 4]) -> [f32; 4] {
        // Adding 1.5 · 2^23 pushes the fraction out of the significand, in the rounding mode of the machine.
        const MAGIC: f32 = 12_582_912.0;
        a.map(|x| (x + MAGIC) - MAGIC)
    }
    #[inline(always)]
    fn scale_by_power_of_two(self, a: [f32; 4], n: [f32; 4]) -> [f32; 4] {
        // In two steps, so that results near both ends of the range come out right.
        let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
        std::array::from_fn(|i| {
            let n = n[i] as i32;
            let half = n >> 1;
            a[i] * power(half) * power(n - half)
        })
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for i in 0..4 {
            for j in 0..4 {
                // SAFETY: inside the two blocks, which the caller vouches for.
                unsafe { *to.add(j * to_stride + i) = *from.add(i * from_stride + j) };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
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
}

/// Declares a function compiled for every [`SimdLevel`]; the caller passes the level first.
///
/// `fn name<S>(simd, arg: Type, ...) -> Type { body }` becomes `fn name(level, arg, ...)`; in the body `simd` is
/// the token and `S` its type. The body may call only what is `#[inline(always)]`, for a function that is not
/// inlined would be compiled without the instructions.
macro_rules! simd_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$S:ident>($simd:ident $(, $arg:ident : $ty:ty)* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code, reason = "calls the body compiled for a level that was detected")]
        $vis fn $name(level: $crate::simd::SimdLevel $(, $arg: $ty)*) $(-> $ret)? {
            #[inline(always)]
            fn generic<$S: $crate::micro_kernel::MicroKernel>($simd: $S $(, $arg: $ty)*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f")]
            fn avx512($simd: $crate::simd::Avx512 $(, $arg: $ty)*) $(-> $ret)? {
                generic($simd $(, $arg)*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($simd: $crate::simd::Avx2 $(, $arg: $ty)*) $(-> $ret)? {
                generic($simd $(, $arg)*)
            }
            match level {
                // SAFETY: levels come from `SimdLevel::current`, which hands out only what the machine has.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::SimdLevel::Avx512 => unsafe { avx512($crate::simd::Avx512::assume() $(, $arg)*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::SimdLevel::Avx2 => unsafe { avx2($crate::simd::Avx2::assume() $(, $arg)*) },
                _ => generic($crate::simd::Portable $(, $arg)*),
            }
        }
    };
}
pub(crate) use simd_fn;

simd_fn! {
    /// Floats in a register of a level.
    pub(crate) fn lanes<S>(_simd) -> usize {
        S::LANES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    simd_fn! {
        fn exp_all<S>(simd, x: &[f32], out: &mut [f32]) {
            for (x, out) in x.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
                simd.store_some(out, simd.exp(simd.load_or(x, 0.0)));
            }
        }
    }

    #[test]
    fn small_exp_is_accurate_at_every_level() {
        let mut x: Vec<f32> = (0..200_001).map(|i| -87.0 + i as f32 * (175.0 / 200_000.0)).collect();
        x.extend([0.0, -0.0, 1.0, -1.0, 1e-30, 88.72]);
        for level in SimdLevel::ALL.into_iter().filter(|level| level.is_available()) {
            let mut out = vec![0.0; x.len()];
            exp_all(level, &x, &mut out);
            for (&x, &y) in x.iter().zip(&out) {
                let exact = f64::from(x).exp();
                assert!(
                    ((f64::from(y) - exact) / exact).abs() < 1.6e-7,
                    "{level}: exp({x}) = {y}, not {exact}"
                );
            }
            let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 90.0, -200.0];
            let mut out = [1.0; 5];
            exp_all(level, &special, &mut out);
            assert!(out[0].is_nan());
            assert_eq!(out[1..], [f32::INFINITY, 0.0, f32::INFINITY, 0.0], "{level}");
        }
    }

    simd_fn! {
        fn transpose_block<S>(simd, from: &[f32], to: &mut [f32]) -> usize {
            assert!(from.len() >= 16 * 20 && to.len() >= 16 * 17);
            // SAFETY: at most 16 rows of 16, in strides of 20 and 17.
            unsafe { simd.transpose(from.as_ptr(), 20, to.as_mut_ptr(), 17) };
            S::LANES
        }
    }

    #[test]
    fn small_blocks_are_transposed() {
        let from: Vec<f32> = (0..320).map(|i| i as f32).collect();
        for level in SimdLevel::ALL.into_iter().filter(|level| level.is_available()) {
            let mut to = vec![0.0; 16 * 17];
            let lanes = transpose_block(level, &from, &mut to);
            for i in 0..lanes {
                for j in 0..lanes {
                    assert_eq!(to[j * 17 + i], from[i * 20 + j], "{level}: ({i}, {j})");
                }
            }
        }
    }

    simd_fn! {
        fn round_and_pair<S>(simd, x: &[f32], rounded: &mut [f32], pairs: &mut [f32], halves: &mut [u16]) {
            for at in (0..x.len()).step_by(S::LANES) {
                let v = simd.round_to_bf16(simd.load(&x[at..]));
                simd.store(&mut rounded[at..], v);
                let both = simd.pair(v, simd.splat(1.0));
                simd.store(&mut pairs[at..], simd.sub(simd.low_of_pairs(both), simd.high_of_pairs(both)));
                assert!(halves.len() >= at + S::LANES);
                // SAFETY: LANES halves, as was checked.
                let again = unsafe {
                    simd.store_bf16_ptr(halves.as_mut_ptr().add(at), v);
                    simd.load_bf16_ptr(halves.as_ptr().add(at))
                };
                simd.store(&mut rounded[at..], again);
            }
        }
    }

    #[test]
    fn small_rounding_to_bf16_is_to_nearest_even_at_every_level() {
        // 1, ties down and up, just above and below a tie, the largest, and numbers of every size.
        let bits =
            [0x3f80_0000, 0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x3f80_7fff, 0x7f7f_ffff, 0x7f7f_7fff];
        let expected = [0x3f80, 0x3f80, 0x3f82, 0x3f81, 0x3f80, 0x7f80, 0x7f7f];
        for (bits, expected) in bits.into_iter().zip(expected) {
            assert_eq!(bf16_bits(f32::from_bits(bits)), expected, "{bits:x}");
        }
        for nan in [0x7f80_0001, 0xffff_ffff, 0x7fff_ffff, 0x7fc0_0000] {
            assert!(bf16_value(bf16_bits(f32::from_bits(nan))).is_nan(), "{nan:x}");
        }
        let mut x: Vec<f32> =
            (0..4096_u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9) ^ (i << 20))).collect();
        x[..8].copy_from_slice(&[0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40, -1e-45, 3e38]);
        for level in SimdLevel::ALL.into_iter().filter(|level| level.is_available()) {
            let (mut rounded, mut less_one, mut halves) = (x.clone(), x.clone(), vec![0_u16; x.len()]);
            round_and_pair(level, &x, &mut rounded, &mut less_one, &mut halves);
            for (i, &x) in x.iter().enumerate() {
                let expected = bf16_bits(x);
                assert_eq!(halves[i], expected, "{level}: {x:e}");
                assert_eq!(rounded[i].to_bits(), bf16_value(expected).to_bits(), "{level}: {x:e}");
                let difference = bf16_value(expected) - 1.0;
                assert!(less_one[i] == difference || difference.is_nan(), "{level}: {x:e}");
            }
        }
    }

    #[test]
    fn small_a_level_is_forced_and_restored() {
        let inside = with_simd_level(SimdLevel::Portable, SimdLevel::current);
        assert_eq!(inside, Some(SimdLevel::Portable));
        assert_eq!(SimdLevel::current(), SimdLevel::detected());
    }
}
