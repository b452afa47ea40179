//! Planning for a cluster: from a model's sizes and a description of devices, hosts and links to the degrees of
//! parallelism, k, the bytes of each device, the time of a step, and the least number of devices.
//!
//! Pure arithmetic. It runs no engine and measures nothing: every rate is an input, and everything that is neither
//! given nor counted is a field of [`Assumptions`]. `docs/scale.md` has the formulas with their sources.

mod config;
mod degrees;
mod error;
mod fit;
mod least_devices;
mod memory;
mod plan;
mod time;

pub use config::{
    Assumptions, ClusterConfig, DeviceConfig, FixedDegrees, LayerActivations, LinkConfig, RolloutShape,
    TrainingShape,
};
pub use degrees::{Degrees, check_sequence_degree, key_heads_per_device};
pub use error::ClusterError;
pub use least_devices::{
    LeastDevices, LeastDevicesRow, LeastDevicesTable, REPORT_DEVICES, least_devices, least_devices_table,
};
pub use memory::{DeviceBytes, DeviceMemory, ModelSizes, PeakMoment};
pub use plan::{ClusterChoice, ClusterPlan, Variation};
pub use time::StepTime;
pub use truing_model::ZeroStage;
