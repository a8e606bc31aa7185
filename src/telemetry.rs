//! Logs, metrics and traces.

pub mod logs;
pub mod metrics;
mod tei;
pub mod timings;
pub mod traces;

pub use self::{
    metrics::Metrics,
    timings::{Stage, Timings},
    traces::{BatchRun, BatchSpan, Trace, TraceError, Traces},
};
