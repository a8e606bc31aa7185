//! The values of labels that are known beforehand.

/// The towers, as a label.
pub const TOWERS: [&str; 2] = ["image", "text"];
/// The priorities, as a label.
pub const PRIORITIES: [&str; 2] = ["interactive", "bulk"];
/// Why a row was dropped before its forward pass, as a label.
pub const DROP_REASONS: [&str; 2] = ["cancelled", "expired"];
/// What a decode process does, as a label.
pub const DECODE_STATES: [&str; 2] = ["busy", "idle"];
/// Why a decode process was ended, as a label.
pub const DECODE_END_REASONS: [&str; 4] = ["crash", "killed", "memory", "time"];
/// How a load of towers ended, as a label.
pub const LOAD_RESULTS: [&str; 2] = ["ok", "failed"];
/// Why a tower was unloaded, as a label.
pub const UNLOAD_REASONS: [&str; 3] = ["idle", "memory", "admin"];
/// The caches, as a label.
pub const CACHES: [&str; 2] = ["text", "image"];
