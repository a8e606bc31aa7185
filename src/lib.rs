//! An embedding inference server for SigLIP image-text models.
//!
//! Requests flow one way: edge -> engine -> preprocess -> batch -> tower, and back. Everything below
//! [`engine`] knows no HTTP and no gRPC; the towers know no tokio. Each layer imports only what stands
//! below it:
//!
//! | layer | modules |
//! |---|---|
//! | 7 | `main`, [`cli`] |
//! | 6 | [`app`], [`shutdown`], `fuzz` |
//! | 5 | [`rest`], [`grpc`], [`edge`] |
//! | 4 | [`engine`], [`oip`], [`registry`] |
//! | 3 | [`batch`], [`model`] |
//! | 2 | [`preprocess`], [`tokenize`], [`fetch`], [`auth`], [`hub`], [`cache`], [`cpu_pool`], [`decoder`] |
//! | 1 | [`telemetry`], [`embedding`], [`tls`], [`checkpoint`] |
//! | 0 | [`allocator`], [`config`], [`error`], [`build_info`], [`small_file`] |

pub mod allocator;
pub mod app;
pub mod auth;
pub mod batch;
pub mod build_info;
pub mod cache;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod cpu_pool;
pub mod decoder;
pub mod edge;
pub mod embedding;
pub mod engine;
pub mod error;
pub mod fetch;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
pub mod grpc;
pub mod hub;
pub mod model;
pub mod oip;
pub mod preprocess;
pub mod registry;
pub mod rest;
pub mod shutdown;
pub mod small_file;
pub mod telemetry;
pub mod tls;
pub mod tokenize;
