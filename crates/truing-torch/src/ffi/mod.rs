//! The one place of this crate with `unsafe` code: libtorch's stable C interface (PyTorch's "LibTorch Stable ABI",
//! `torch/csrc/stable/c/shim.h` and `torch/csrc/inductor/aoti_torch/c/shim.h` of torch 2.11 and later).
//!
//! `symbols.rs` holds the functions, `library.rs` finds and loads the library, `call.rs` calls operators by name, and
//! `tensor.rs` owns tensors. What leaves this module is safe to use: operators are called with the arguments that
//! their schema names, views stay within their storage, and memory on the host is copied, never shared.

#![allow(unsafe_code, reason = "the C interface of libtorch")]

mod call;
mod library;
mod symbols;
mod tensor;

pub(crate) use call::{Argument, Operator};
pub use library::{TorchLib, TorchPlaces};
pub(crate) use tensor::{Dtype, Tensor};

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::call::Kind;
    pub(crate) use super::call::tests::{kinds, schema};
}
