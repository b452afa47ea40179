//! Products of pairs of bf16 numbers, with sums in f32: what a tile of C is made of where the factors are bf16.
//!
//! A word holds two numbers that are neighbours in k, the first in its lower half, in the order that `VDPBF16PS` and
//! its relatives read them. Words lie in buffers of `f32`, whose numbers they are not: only their bits count.
//!
//! There are two ways to multiply them. Processors with AVX-512-BF16 have an instruction for the product of two pairs
//! and a sum. Everywhere else, both numbers of a pair are widened to `f32`, which is exact, and multiplied and added
//! there. Both round to `f32` after every addition, but not in the same places, and the instruction takes subnormal
//! numbers for 0: results differ by rounding, as those of two [`SimdLevel`]s do.
//!
//! AMX's tiles would be a third way: they hold B in the same order of words, so packing is theirs too, and their tile
//! kernel would be one more beside that of `micro_kernel.rs`. There is none yet: stable Rust has no intrinsics for AMX.

#![allow(
    unsafe_code,
    reason = "instruction-set intrinsics and raw pointers into blocks whose bounds the callers keep"
)]

#[cfg(target_arch = "x86_64")]
use crate::simd::Avx512;
use crate::simd::{Simd, SimdLevel};
use std::cell::Cell;
use std::fmt;

/// How pairs of bf16 numbers are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16Products {
    /// Widened to `f32`, at any [`SimdLevel`].
    Widened,
    /// By AVX-512-BF16's dot products.
    DotProducts,
}

thread_local! {
    static FORCED: Cell<Option<Bf16Products>> = const { Cell::new(None) };
}

impl Bf16Products {
    /// Both ways.
    pub const ALL: [Bf16Products; 2] = [Bf16Products::Widened, Bf16Products::DotProducts];

    /// Whether a kernel called now on this thread can multiply in this way, at its [`SimdLevel`].
    pub fn is_available(self) -> bool {
        match self {
            Bf16Products::Widened => true,
            #[cfg(target_arch = "x86_64")]
            Bf16Products::DotProducts => {
                SimdLevel::current() == SimdLevel::Avx512 && is_x86_feature_detected!("avx512bf16")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Bf16Products::DotProducts => false,
        }
    }

    /// The way that a kernel called now on this thread takes: the one forced by [`with_bf16_products`], or the faster.
    pub fn current() -> Bf16Products {
        let wanted = FORCED.get().unwrap_or(Bf16Products::DotProducts);
        if wanted.is_available() { wanted } else { Bf16Products::Widened }
    }
}

impl fmt::Display for Bf16Products {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bf16Products::Widened => "widened",
            Bf16Products::DotProducts => "dot products",
        })
    }
}

/// Runs `work` with the kernels it calls from this thread held to one way, for tests and measurements.
///
/// Returns `None`, without running `work`, when the machine or the current [`SimdLevel`] lacks it.
pub fn with_bf16_products<R>(products: Bf16Products, work: impl FnOnce() -> R) -> Option<R> {
    struct Restore(Option<Bf16Products>);
    impl Drop for Restore {
        fn drop(&mut self) {
            FORCED.set(self.0);
        }
    }
    if !products.is_available() {
        return None;
    }
    let _restore = Restore(FORCED.replace(Some(products)));
    Some(work())
}

/// One way to multiply vectors of words: pairs of bf16 numbers here, floats in `micro_kernel.rs`.
pub(crate) trait PairDot<S: Simd>: Copy {
    /// `sum + a_high · b_high + a_low · b_low`, lane by lane.
    fn dot(self, simd: S, a: S::V, b: S::V, sum: S::V) -> S::V;

    /// Adds the products of a column of `ROWS` words of A with a row of `VECTORS` vectors of words of B.
    ///
    /// # Safety
    /// Word `i · a_row` of `a` must be readable for `i < ROWS`, and `VECTORS` vectors at `b`.
    #[inline(always)]
    unsafe fn step<const ROWS: usize, const VECTORS: usize>(
        self,
        simd: S,
        (a, a_row): (*const f32, usize),
        b: *const f32,
        sums: &mut [[S::V; VECTORS]; ROWS],
    ) {
        let mut b_vectors = [simd.splat(0.0); VECTORS];
        for (v, vector) in b_vectors.iter_mut().enumerate() {
            // SAFETY: the caller vouches for the vectors.
            *vector = unsafe { simd.load_ptr(b.add(v * S::LANES)) };
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller vouches for the words.
            let x = simd.splat(unsafe { *a.add(i * a_row) });
            for (sum, vector) in sums.iter_mut().zip(b_vectors) {
                *sum = self.dot(simd, x, vector, *sum);
            }
        }
    }
}

/// [`Bf16Products::Widened`].
#[derive(Clone, Copy)]
pub(crate) struct Widen;

impl<S: Simd> PairDot<S> for Widen {
    #[inline(always)]
    fn dot(self, simd: S, a: S::V, b: S::V, sum: S::V) -> S::V {
        let sum = simd.fma(simd.high_of_pairs(a), simd.high_of_pairs(b), sum);
        simd.fma(simd.low_of_pairs(a), simd.low_of_pairs(b), sum)
    }

    /// First all upper halves, then all lower ones: each vector of B is widened once for all rows, and registers do not
    /// have to hold both halves.
    #[inline(always)]
    unsafe fn step<const ROWS: usize, const VECTORS: usize>(
        self,
        simd: S,
        (a, a_row): (*const f32, usize),
        b: *const f32,
        sums: &mut [[S::V; VECTORS]; ROWS],
    ) {
        for is_low in [false, true] {
            let mut b_vectors = [simd.splat(0.0); VECTORS];
            for (v, vector) in b_vectors.iter_mut().enumerate() {
                // SAFETY: the caller vouches for the vectors.
                let pairs = unsafe { simd.load_ptr(b.add(v * S::LANES)) };
                *vector = if is_low { simd.low_of_pairs(pairs) } else { simd.high_of_pairs(pairs) };
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller vouches for the words.
                let pair = unsafe { *a.add(i * a_row) }.to_bits();
                let x = simd.splat(f32::from_bits(if is_low { pair << 16 } else { pair & 0xffff_0000 }));
                for (sum, vector) in sums.iter_mut().zip(b_vectors) {
                    *sum = simd.fma(x, vector, *sum);
                }
            }
        }
    }
}

/// [`Bf16Products::DotProducts`]: proof that the machine has AVX-512-BF16.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Dot(());

#[cfg(target_arch = "x86_64")]
impl Dot {
    /// # Safety
    /// The machine must have AVX-512-BF16.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Dot(())
    }
}

#[cfg(target_arch = "x86_64")]
impl PairDot<Avx512> for Dot {
    #[inline(always)]
    fn dot(
        self,
        _simd: Avx512,
        a: std::arch::x86_64::__m512,
        b: std::arch::x86_64::__m512,
        sum: std::arch::x86_64::__m512,
    ) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::{__m512bh, _mm512_dpbf16_ps};
        // SAFETY: `self` proves the instruction; both types are 512 bits without meaning of their own.
        unsafe {
            let a = std::mem::transmute::<std::arch::x86_64::__m512, __m512bh>(a);
            let b = std::mem::transmute::<std::arch::x86_64::__m512, __m512bh>(b);
            _mm512_dpbf16_ps(sum, a, b)
        }
    }
}
