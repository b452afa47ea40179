//! Vectors of `f32`, one trait over the instruction sets the machine may have.
//!
//! A kernel is written once, generic over [`Simd`], inside [`simd_fn!`]; the macro compiles it for every level
//! and picks one at run time. A value of a token type (`Avx512`, `Avx2`, `Portable`) is the proof that the
//! machine has the level, which is what makes the methods safe to call.
//!
//! What it is not: a portable vector library. It holds the dozen operations the kernels of this crate use.

#![allow(unsafe_code, reason = "instruction-set intrinsics; every block says why it is sound")]

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

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
