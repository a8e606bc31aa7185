//! Logs and metrics.

pub mod logs;
pub mod metrics;
mod tei;
pub mod timings;

pub use self::{
    metrics::Metrics,
    timings::{Stage, Timings},
};
