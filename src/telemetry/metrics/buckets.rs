//! The buckets of the histograms.

/// From a cache hit (tens of microseconds) to a minute's timeout. Between 1 s and 10 s, where alerts have their
/// thresholds, the steps are small, because a quantile is a guess within its bucket.
pub(super) const SECONDS: [f64; 22] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5,
    2.0, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0,
];

/// From a small tower out of the page cache to a large one from a slow disk.
pub(super) const LOAD_SECONDS: [f64; 12] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// Powers of two: a batch that is not full is formed of what waited.
pub(super) const ROWS: [f64; 11] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
