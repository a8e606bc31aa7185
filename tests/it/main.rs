//! The integration tests: one binary.

#![expect(clippy::expect_used, reason = "a test fails by panicking, its helpers included")]

mod app;
mod cli;
mod config_docs;
mod documents;
mod fake;
mod golden;
mod grpc;
mod hub;
mod layering;
mod lifecycle;
mod metrics_docs;
mod models;
mod process;
mod rest;
