//! Logs and metrics.

pub mod logs;
pub mod metrics;
pub mod timings;

pub use self::{
    metrics::Metrics,
    timings::{Stage, Timings},
};
