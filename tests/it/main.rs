//! The integration tests: one binary.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers included")]

mod app;
mod cli;
mod clients;
mod comings;
mod config_docs;
mod determinism;
mod documents;
mod expansion;
mod fake;
mod faults;
mod fuzz_corpus;
mod golden;
mod grpc;
mod hostile;
mod hub;
#[cfg(target_os = "linux")]
mod isolation;
mod layering;
mod lifecycle;
mod listeners;
mod memory;
mod metrics_docs;
mod models;
mod process;
mod rest;
mod rolling;
mod tidy;
mod traces;
mod transport;
mod truncated;
mod waiting;
mod wire;
