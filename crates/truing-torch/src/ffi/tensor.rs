//! Owned tensors: creation, copies from and to the host, and views.

use std::ffi::c_void;
use std::fmt;
use std::ptr::NonNull;

use super::TorchLib;
use super::symbols::Handle;
use crate::device::Device;
use crate::error::TorchError;

/// Number formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dtype {
    F32,
    F64,
    Bf16,
    I32,
    I64,
    Bool,
}

impl TorchLib {
    /// libtorch's number of a format.
    pub(super) fn dtype_code(&self, dtype: Dtype) -> i32 {
        let symbols = &self.symbols;
        // SAFETY: functions without arguments.
        unsafe {
            match dtype {
                Dtype::F32 => (symbols.aoti_torch_dtype_float32)(),
                Dtype::F64 => (symbols.aoti_torch_dtype_float64)(),
                Dtype::Bf16 => (symbols.aoti_torch_dtype_bfloat16)(),
                Dtype::I32 => (symbols.aoti_torch_dtype_int32)(),
                Dtype::I64 => (symbols.aoti_torch_dtype_int64)(),
                Dtype::Bool => (symbols.aoti_torch_dtype_bool)(),
            }
        }
    }

    /// libtorch's two numbers of a device.
    fn device_codes(&self, device: Device) -> (i32, i32) {
        // SAFETY: functions without arguments.
        unsafe {
            match device {
                Device::Cpu => ((self.symbols.aoti_torch_device_type_cpu)(), 0),
                Device::Cuda(idx) => ((self.symbols.aoti_torch_device_type_cuda)(), i32::from(idx)),
            }
        }
    }
}

/// A handle to a tensor. A clone is a second handle to the same numbers, and so is a view; in-place operators change
/// them for all.
pub(crate) struct Tensor {
    handle: NonNull<c_void>,
    torch: &'static TorchLib,
}

// SAFETY: a handle is a pointer to a tensor on libtorch's heap, whose reference counts are atomic; no part of it
// belongs to a thread.
unsafe impl Send for Tensor {}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: the handle is owned and not used again.
        unsafe { (self.torch.symbols.aoti_torch_delete_tensor_object)(self.handle.as_ptr()) };
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tensor").field(&self.shape()).finish()
    }
}

/// Row-major strides.
fn strides_of(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1) as i64;
    }
    strides
}

fn signed(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&size| size as i64).collect()
}

impl Tensor {
    /// Takes a handle that a call has returned.
    pub(super) fn own(torch: &'static TorchLib, handle: Handle) -> Self {
        let handle = NonNull::new(handle).expect("libtorch returns no null tensor where it reports success");
        Self { handle, torch }
    }

    pub(crate) fn torch(&self) -> &'static TorchLib {
        self.torch
    }

    fn fail(operator: &'static str, reason: impl Into<String>) -> TorchError {
        TorchError::Arguments { operator, reason: reason.into() }
    }

    /// A second handle, for a call that consumes it.
    pub(super) fn new_handle(&self) -> Result<Handle, TorchError> {
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: the tensor is alive.
        let status = unsafe {
            (self.torch.symbols.aoti_torch_new_tensor_handle)(self.handle.as_ptr(), &raw mut handle)
        };
        self.torch.check(status, "aoti_torch_new_tensor_handle")?;
        Ok(handle)
    }

    /// A second handle to the same numbers.
    pub(crate) fn alias(&self) -> Result<Self, TorchError> {
        Ok(Self::own(self.torch, self.new_handle()?))
    }

    /// Room with unspecified content.
    pub(crate) fn empty(
        torch: &'static TorchLib,
        shape: &[usize],
        dtype: Dtype,
        device: Device,
    ) -> Result<Self, TorchError> {
        let (sizes, strides) = (signed(shape), strides_of(shape));
        let (kind, idx) = torch.device_codes(device);
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: sizes and strides have the length that is given.
        let status = unsafe {
            (torch.symbols.aoti_torch_empty_strided)(
                sizes.len() as i64,
                sizes.as_ptr(),
                strides.as_ptr(),
                torch.dtype_code(dtype),
                kind,
                idx,
                &raw mut handle,
            )
        };
        torch.check(status, "aoti_torch_empty_strided")?;
        Ok(Self::own(torch, handle))
    }

    /// A copy of numbers on the host.
    fn from_host<T: Copy>(
        torch: &'static TorchLib,
        values: &[T],
        shape: &[usize],
        dtype: Dtype,
        device: Device,
    ) -> Result<Self, TorchError> {
        if shape.iter().product::<usize>() != values.len() {
            let reason = format!("{} numbers for the shape {shape:?}", values.len());
            return Err(Self::fail("copy to the device", reason));
        }
        let host = Self::empty(torch, shape, dtype, Device::Cpu)?;
        if !values.is_empty() {
            let place = host.data()?.cast::<T>();
            // SAFETY: `place` has room for the shape's elements of this format, which `T` is the type of.
            unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), place, values.len()) };
        }
        if device == Device::Cpu {
            return Ok(host);
        }
        let copy = Self::empty(torch, shape, dtype, device)?;
        copy.copy_from(&host)?;
        Ok(copy)
    }

    pub(crate) fn from_f32(
        torch: &'static TorchLib,
        values: &[f32],
        shape: &[usize],
        device: Device,
    ) -> Result<Self, TorchError> {
        Self::from_host(torch, values, shape, Dtype::F32, device)
    }

    pub(crate) fn from_i64(
        torch: &'static TorchLib,
        values: &[i64],
        shape: &[usize],
        device: Device,
    ) -> Result<Self, TorchError> {
        Self::from_host(torch, values, shape, Dtype::I64, device)
    }

    pub(crate) fn from_i32(
        torch: &'static TorchLib,
        values: &[i32],
        shape: &[usize],
        device: Device,
    ) -> Result<Self, TorchError> {
        Self::from_host(torch, values, shape, Dtype::I32, device)
    }

    pub(crate) fn from_bool(
        torch: &'static TorchLib,
        values: &[bool],
        shape: &[usize],
        device: Device,
    ) -> Result<Self, TorchError> {
        Self::from_host(torch, values, shape, Dtype::Bool, device)
    }

    /// A number on the host, which operators on any device take as a factor.
    pub(crate) fn scalar(torch: &'static TorchLib, value: f32) -> Result<Self, TorchError> {
        Self::from_f32(torch, &[value], &[], Device::Cpu)
    }

    /// Where the storage of this tensor begins on the host.
    fn data(&self) -> Result<*mut c_void, TorchError> {
        let mut pointer = std::ptr::null_mut();
        // SAFETY: the tensor is alive.
        let status =
            unsafe { (self.torch.symbols.aoti_torch_get_data_ptr)(self.handle.as_ptr(), &raw mut pointer) };
        self.torch.check(status, "aoti_torch_get_data_ptr")?;
        Ok(pointer)
    }

    /// The numbers on the host, row-major; waits for the device.
    fn to_host<T: Copy + Default>(&self, dtype: Dtype) -> Result<Vec<T>, TorchError> {
        let shape = self.shape();
        let host = Self::empty(self.torch, &shape, dtype, Device::Cpu)?;
        host.copy_from(self)?;
        let mut values = vec![T::default(); shape.iter().product()];
        if !values.is_empty() {
            let place = host.data()?.cast::<T>();
            // SAFETY: `place` holds the shape's elements in this format, which `T` is the type of.
            unsafe { std::ptr::copy_nonoverlapping(place, values.as_mut_ptr(), values.len()) };
        }
        Ok(values)
    }

    /// In single precision, whatever the tensor's format.
    pub(crate) fn to_f32(&self) -> Result<Vec<f32>, TorchError> {
        self.to_host(Dtype::F32)
    }

    pub(crate) fn to_f64(&self) -> Result<Vec<f64>, TorchError> {
        self.to_host(Dtype::F64)
    }

    pub(crate) fn to_i64(&self) -> Result<Vec<i64>, TorchError> {
        self.to_host(Dtype::I64)
    }

    /// Overwrites the numbers by another tensor's, which may be in another format, on another device, or of a shape
    /// that can be expanded to this one.
    pub(crate) fn copy_from(&self, source: &Self) -> Result<(), TorchError> {
        // SAFETY: both tensors are alive; libtorch checks their shapes.
        let status =
            unsafe { (self.torch.symbols.aoti_torch_copy_)(self.handle.as_ptr(), source.handle.as_ptr(), 0) };
        self.torch.check(status, "aoti_torch_copy_")
    }

    fn n_axes(&self) -> usize {
        let mut n_axes = 0;
        // SAFETY: the tensor is alive. It cannot fail for a strided tensor, and 0 is written otherwise.
        unsafe { (self.torch.symbols.aoti_torch_get_dim)(self.handle.as_ptr(), &raw mut n_axes) };
        n_axes as usize
    }

    pub(crate) fn shape(&self) -> Vec<usize> {
        self.numbers(self.torch.symbols.aoti_torch_get_sizes).iter().map(|&size| size as usize).collect()
    }

    fn strides(&self) -> Vec<i64> {
        self.numbers(self.torch.symbols.aoti_torch_get_strides)
    }

    fn numbers(&self, get: unsafe extern "C" fn(Handle, *mut *mut i64) -> i32) -> Vec<i64> {
        let n_axes = self.n_axes();
        let mut pointer: *mut i64 = std::ptr::null_mut();
        // SAFETY: the tensor is alive and lends as many numbers as it has axes.
        unsafe {
            if get(self.handle.as_ptr(), &raw mut pointer) != 0 || pointer.is_null() {
                return Vec::new();
            }
            std::slice::from_raw_parts(pointer, n_axes).to_vec()
        }
    }

    pub(crate) fn n_elements(&self) -> usize {
        self.shape().iter().product()
    }

    /// Length of an axis.
    pub(crate) fn size(&self, axis: usize) -> usize {
        self.shape().get(axis).copied().unwrap_or(1)
    }

    /// The format; `None` for those that are not used here.
    pub(crate) fn dtype(&self) -> Option<Dtype> {
        let mut code = -1;
        // SAFETY: the tensor is alive.
        unsafe { (self.torch.symbols.aoti_torch_get_dtype)(self.handle.as_ptr(), &raw mut code) };
        [Dtype::F32, Dtype::F64, Dtype::Bf16, Dtype::I32, Dtype::I64, Dtype::Bool]
            .into_iter()
            .find(|&dtype| self.torch.dtype_code(dtype) == code)
    }

    pub(crate) fn device(&self) -> Device {
        let (mut kind, mut idx) = (0, 0);
        // SAFETY: the tensor is alive; the last function has no argument.
        let cuda = unsafe {
            (self.torch.symbols.aoti_torch_get_device_type)(self.handle.as_ptr(), &raw mut kind);
            (self.torch.symbols.aoti_torch_get_device_index)(self.handle.as_ptr(), &raw mut idx);
            (self.torch.symbols.aoti_torch_device_type_cuda)()
        };
        if kind == cuda { Device::Cuda(u16::try_from(idx).unwrap_or(0)) } else { Device::Cpu }
    }

    fn is_contiguous(&self) -> bool {
        let (shape, strides) = (self.shape(), self.strides());
        let expected = strides_of(&shape);
        shape.iter().zip(strides.iter().zip(&expected)).all(|(&size, (a, b))| size == 1 || a == b)
    }

    /// Room of the same format on the same device.
    pub(crate) fn empty_like(&self, shape: &[usize]) -> Result<Self, TorchError> {
        let dtype = self.dtype().ok_or_else(|| Self::fail("empty_like", "an unknown number format"))?;
        Self::empty(self.torch, shape, dtype, self.device())
    }

    /// The same numbers, row-major; itself where it is.
    pub(crate) fn contiguous(&self) -> Result<Self, TorchError> {
        if self.is_contiguous() { self.alias() } else { self.copy() }
    }

    /// A copy, row-major.
    pub(crate) fn copy(&self) -> Result<Self, TorchError> {
        let copy = self.empty_like(&self.shape())?;
        copy.copy_from(self)?;
        Ok(copy)
    }

    /// The numbers in a format; itself where it has it.
    pub(crate) fn to(&self, dtype: Dtype) -> Result<Self, TorchError> {
        if self.dtype() == Some(dtype) {
            return self.alias();
        }
        let copy = Self::empty(self.torch, &self.shape(), dtype, self.device())?;
        copy.copy_from(self)?;
        Ok(copy)
    }

    /// A view of the same storage. Sizes, strides and offset come from this file alone, which keeps them within this
    /// tensor.
    fn strided(&self, sizes: &[usize], strides: &[i64], offset: i64) -> Result<Self, TorchError> {
        let sizes = signed(sizes);
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: sizes and strides have one length, and every element of the view is one of this tensor.
        let status = unsafe {
            (self.torch.symbols.aoti_torch__reinterpret_tensor)(
                self.handle.as_ptr(),
                sizes.len() as i64,
                sizes.as_ptr(),
                strides.as_ptr(),
                offset,
                &raw mut handle,
            )
        };
        self.torch.check(status, "aoti_torch__reinterpret_tensor")?;
        Ok(Self::own(self.torch, handle))
    }

    /// The same numbers under another shape. What is not row-major is copied.
    pub(crate) fn reshape(&self, shape: &[usize]) -> Result<Self, TorchError> {
        let (found, expected) = (self.n_elements(), shape.iter().product::<usize>());
        if found != expected {
            return Err(Self::fail("reshape", format!("{:?} to {shape:?}", self.shape())));
        }
        self.contiguous()?.strided(shape, &strides_of(shape), 0)
    }

    /// With two axes exchanged.
    pub(crate) fn transpose(&self, one: usize, other: usize) -> Result<Self, TorchError> {
        let (mut shape, mut strides) = (self.shape(), self.strides());
        if one.max(other) >= shape.len() {
            return Err(Self::fail("transpose", format!("axes {one} and {other} of {shape:?}")));
        }
        shape.swap(one, other);
        strides.swap(one, other);
        self.strided(&shape, &strides, 0)
    }

    /// A matrix, transposed.
    pub(crate) fn t(&self) -> Result<Self, TorchError> {
        self.transpose(0, 1)
    }

    /// `len` places of an axis from `start` on.
    pub(crate) fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self, TorchError> {
        let (mut shape, strides) = (self.shape(), self.strides());
        if axis >= shape.len() || start + len > shape[axis] {
            let reason = format!("{start}..{} of axis {axis} of {shape:?}", start + len);
            return Err(Self::fail("narrow", reason));
        }
        shape[axis] = len;
        self.strided(&shape, &strides, start as i64 * strides[axis])
    }

    /// Rows from `start` to `end`.
    pub(crate) fn rows(&self, rows: std::ops::Range<usize>) -> Result<Self, TorchError> {
        self.narrow(0, rows.start, rows.len())
    }

    /// With an axis of length 1 repeated, without a copy.
    pub(crate) fn expand(&self, axis: usize, len: usize) -> Result<Self, TorchError> {
        let (mut shape, mut strides) = (self.shape(), self.strides());
        if shape.get(axis) != Some(&1) {
            return Err(Self::fail("expand", format!("axis {axis} of {shape:?} has not the length 1")));
        }
        (shape[axis], strides[axis]) = (len, 0);
        self.strided(&shape, &strides, 0)
    }

    /// `self + factor * other`, where the shapes can be expanded to one.
    pub(crate) fn add_scaled(&self, other: &Self, factor: f64) -> Result<Self, TorchError> {
        let mut handle: Handle = std::ptr::null_mut();
        let add = self.torch.arithmetic(self.device())?.add;
        // SAFETY: both tensors are alive; libtorch checks their shapes.
        let status = unsafe { add(self.handle.as_ptr(), other.handle.as_ptr(), factor, &raw mut handle) };
        self.torch.check(status, "aten::add.Tensor")?;
        Ok(Self::own(self.torch, handle))
    }

    /// Adds the product of two matrices in place.
    pub(crate) fn add_product(&self, a: &Self, b: &Self) -> Result<(), TorchError> {
        let (shape, a_shape, b_shape) = (self.shape(), a.shape(), b.shape());
        let fits = matches!(
            (&shape[..], &a_shape[..], &b_shape[..]),
            ([n, m], [an, ak], [bk, bm]) if n == an && m == bm && ak == bk
        );
        if !fits {
            return Err(Self::fail("aten::addmm.out", format!("{a_shape:?} times {b_shape:?} to {shape:?}")));
        }
        let addmm = self.torch.arithmetic(self.device())?.addmm_out;
        let handle = self.handle.as_ptr();
        // SAFETY: all tensors are alive and fit together.
        let status = unsafe { addmm(handle, handle, a.handle.as_ptr(), b.handle.as_ptr(), 1.0, 1.0) };
        self.torch.check(status, "aten::addmm.out")
    }
}

impl TorchLib {
    fn arithmetic(&self, device: Device) -> Result<&super::symbols::Arithmetic, TorchError> {
        match (device, &self.cuda) {
            (Device::Cpu, _) => Ok(&self.cpu),
            (Device::Cuda(_), Ok(cuda)) => Ok(cuda),
            (Device::Cuda(_), Err(reason)) => {
                Err(TorchError::NoDevice { device: device.to_string(), reason: reason.clone() })
            }
        }
    }
}
