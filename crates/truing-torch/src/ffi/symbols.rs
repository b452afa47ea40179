//! The functions of the C interface, by name.

use std::ffi::{CStr, c_char, c_void};

use libloading::os::unix::Library;

/// `AtenTensorHandle`: a tensor on libtorch's heap.
pub(super) type Handle = *mut c_void;
/// `StableListHandle`.
pub(super) type List = *mut c_void;
/// `AOTITorchError`: 0 is success.
pub(super) type Status = i32;

/// Declares a struct of function pointers, and loads each by its name.
macro_rules! functions {
    ($(#[$doc:meta])* $name:ident { $($function:ident: $type:ty,)* }) => {
        $(#[$doc])*
        pub(super) struct $name { $(pub(super) $function: $type,)* }

        impl $name {
            /// # Errors
            /// When the library has no function of a name.
            pub(super) fn load(library: &Library) -> Result<Self, String> {
                Ok(Self {
                    $($function: {
                        let name = concat!(stringify!($function), "\0");
                        // SAFETY: the type is that of the function's declaration in libtorch's headers.
                        let found = unsafe { library.get::<$type>(name.as_bytes()) };
                        *found.map_err(|error| format!("it has no `{}`: {error}", stringify!($function)))?
                    },)*
                })
            }
        }
    };
}

functions! {
    /// Functions of `libtorch_cpu.so` that every libtorch since 2.11 has.
    #[expect(non_snake_case, reason = "the names of libtorch's headers")]
    Symbols {
        torch_call_dispatcher: unsafe extern "C" fn(*const c_char, *const c_char, *mut u64, u64) -> Status,
        torch_new_list_reserve_size: unsafe extern "C" fn(usize, *mut List) -> Status,
        torch_list_push_back: unsafe extern "C" fn(List, u64) -> Status,
        torch_new_string_handle: unsafe extern "C" fn(*const c_char, usize, *mut Handle) -> Status,
        aoti_torch_grad_mode_set_enabled: unsafe extern "C" fn(bool),
        aoti_torch_delete_tensor_object: unsafe extern "C" fn(Handle) -> Status,
        aoti_torch_new_tensor_handle: unsafe extern "C" fn(Handle, *mut Handle) -> Status,
        aoti_torch_empty_strided:
            unsafe extern "C" fn(i64, *const i64, *const i64, i32, i32, i32, *mut Handle) -> Status,
        aoti_torch__reinterpret_tensor:
            unsafe extern "C" fn(Handle, i64, *const i64, *const i64, i64, *mut Handle) -> Status,
        aoti_torch_copy_: unsafe extern "C" fn(Handle, Handle, i32) -> Status,
        aoti_torch_get_data_ptr: unsafe extern "C" fn(Handle, *mut *mut c_void) -> Status,
        aoti_torch_get_dim: unsafe extern "C" fn(Handle, *mut i64) -> Status,
        aoti_torch_get_sizes: unsafe extern "C" fn(Handle, *mut *mut i64) -> Status,
        aoti_torch_get_strides: unsafe extern "C" fn(Handle, *mut *mut i64) -> Status,
        aoti_torch_get_dtype: unsafe extern "C" fn(Handle, *mut i32) -> Status,
        aoti_torch_get_device_type: unsafe extern "C" fn(Handle, *mut i32) -> Status,
        aoti_torch_get_device_index: unsafe extern "C" fn(Handle, *mut i32) -> Status,
        aoti_torch_dtype_float32: unsafe extern "C" fn() -> i32,
        aoti_torch_dtype_float64: unsafe extern "C" fn() -> i32,
        aoti_torch_dtype_bfloat16: unsafe extern "C" fn() -> i32,
        aoti_torch_dtype_int32: unsafe extern "C" fn() -> i32,
        aoti_torch_dtype_int64: unsafe extern "C" fn() -> i32,
        aoti_torch_dtype_bool: unsafe extern "C" fn() -> i32,
        aoti_torch_device_type_cpu: unsafe extern "C" fn() -> i32,
        aoti_torch_device_type_cuda: unsafe extern "C" fn() -> i32,
    }
}

/// `self + alpha other`, into a new tensor.
pub(super) type Add = unsafe extern "C" fn(Handle, Handle, f64, *mut Handle) -> Status;
/// `out = beta self + alpha a b`.
pub(super) type Addmm = unsafe extern "C" fn(Handle, Handle, Handle, Handle, f64, f64) -> Status;

/// Operators with a number among their arguments, which the dispatcher of 2.11 does not take. Each kind of device
/// has its own.
pub(super) struct Arithmetic {
    pub(super) add: Add,
    pub(super) addmm_out: Addmm,
}

impl Arithmetic {
    /// `kind` is `cpu` or `cuda`.
    pub(super) fn load(library: &Library, kind: &str) -> Result<Self, String> {
        let (add, addmm) =
            (format!("aoti_torch_{kind}_add_Tensor\0"), format!("aoti_torch_{kind}_addmm_out\0"));
        let missing = |error: libloading::Error| error.to_string();
        // SAFETY: the types are those of `c_shim_cpu.h` and `c_shim_cuda.h`.
        let (add, addmm_out) =
            unsafe { (library.get::<Add>(add.as_bytes()), library.get::<Addmm>(addmm.as_bytes())) };
        Ok(Self { add: *add.map_err(missing)?, addmm_out: *addmm_out.map_err(missing)? })
    }
}

/// Functions that some versions have.
pub(super) struct Optional {
    /// The message of the last failure on this thread (2.13 and later).
    pub(super) what: Option<unsafe extern "C" fn() -> *const c_char>,
    /// `at::set_num_threads`.
    pub(super) set_num_threads: Option<unsafe extern "C" fn(i32)>,
    /// `operator new`: what an optional argument is allocated with, since libtorch deletes it.
    pub(super) operator_new: unsafe extern "C" fn(usize) -> *mut c_void,
}

impl Optional {
    pub(super) fn load(library: &Library) -> Result<Self, String> {
        // SAFETY: the types are those of the headers; the mangled names are those of `at::set_num_threads(int)` and
        // `operator new(unsigned long)`.
        unsafe {
            let what = library.get::<unsafe extern "C" fn() -> *const c_char>(
                b"torch_exception_get_what_without_backtrace\0",
            );
            let set_num_threads = library.get::<unsafe extern "C" fn(i32)>(b"_ZN2at15set_num_threadsEi\0");
            let operator_new = library.get::<unsafe extern "C" fn(usize) -> *mut c_void>(b"_Znwm\0");
            Ok(Self {
                what: what.ok().map(|symbol| *symbol),
                set_num_threads: set_num_threads.ok().map(|symbol| *symbol),
                operator_new: *operator_new.map_err(|error| format!("it has no `operator new`: {error}"))?,
            })
        }
    }

    /// The message of the failure that has just happened on this thread.
    pub(super) fn message(&self) -> String {
        let Some(what) = self.what else {
            return "libtorch printed the reason to the standard error stream".into();
        };
        // SAFETY: the function returns null or a string that lives until the next failure on this thread.
        unsafe {
            let text = what();
            if text.is_null() {
                return "libtorch gives no reason".into();
            }
            CStr::from_ptr(text).to_string_lossy().trim().to_owned()
        }
    }
}

/// Functions of CUDA's runtime, which `libtorch_cuda.so` depends on.
pub(super) struct CudaRuntime {
    set_device: unsafe extern "C" fn(i32) -> i32,
    mem_get_info: unsafe extern "C" fn(*mut usize, *mut usize) -> i32,
}

impl CudaRuntime {
    pub(super) fn load(library: &Library) -> Option<Self> {
        // SAFETY: the types are those of `cuda_runtime_api.h`.
        let (set_device, mem_get_info) = unsafe {
            (
                library.get::<unsafe extern "C" fn(i32) -> i32>(b"cudaSetDevice\0"),
                library.get::<unsafe extern "C" fn(*mut usize, *mut usize) -> i32>(b"cudaMemGetInfo\0"),
            )
        };
        Some(Self { set_device: *set_device.ok()?, mem_get_info: *mem_get_info.ok()? })
    }

    /// Bytes that are free on a GPU.
    pub(super) fn free_bytes(&self, idx: u16) -> Option<u64> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both pointers are to room for a number; a status other than 0 leaves them.
        let is_known = unsafe {
            (self.set_device)(i32::from(idx)) == 0 && (self.mem_get_info)(&raw mut free, &raw mut total) == 0
        };
        is_known.then_some(free as u64)
    }
}
