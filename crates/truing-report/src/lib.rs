//! A run made visible: TensorBoard events while it goes on, one self-contained HTML page when it is over.
//!
//! Everything is read from the run directory; live processes are not known here.

mod error;
pub mod tensorboard;

pub use error::ReportError;
