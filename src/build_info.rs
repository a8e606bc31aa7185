//! The version, commit and target that this binary was built from.

/// The package's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, or `unknown` if the source had no repository.
pub const COMMIT: &str = env!("SIGLIP_BUILD_COMMIT");

/// The target triple.
pub const TARGET: &str = env!("SIGLIP_BUILD_TARGET");
