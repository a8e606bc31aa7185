//! The Prometheus metrics, on their own registry.
//!
//! Every family is declared here once. The series whose labels are known are created at start, so that they are
//! in the first scrape, with the value zero.

mod buckets;
mod family;
mod labels;
mod log_lines;

use std::time::Duration;

use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry, TextEncoder, core::Collector,
};

pub use self::labels::{
    CACHES, DECODE_END_REASONS, DECODE_STATES, DROP_REASONS, LOAD_RESULTS, PRIORITIES, TOWERS,
    UNLOAD_REASONS,
};
use self::{
    buckets::{LOAD_SECONDS, ROWS, SECONDS},
    family::{
        Announced, Definition, Family, Label,
        Values::{self, Listed, Models, Routes},
        metrics,
    },
    log_lines::DroppedLines,
};
use super::{tei, timings::Stage};
use crate::{build_info, error::Code};

metrics! {
    /// Every metric of the process. Cheap to share behind an `Arc`; all updates are atomic.
    #[derive(Debug)]
    pub struct Metrics;

    /// Requests answered, by route and code (ok or the error's code).
    requests: IntCounterVec = "siglip_requests_total" ["route" = Routes, "code" = Listed(|| vec!["ok"])];
    /// Time from a request's head to the last byte of its answer.
    request_duration: HistogramVec = "siglip_request_duration_seconds" ["route" = Routes] in SECONDS;
    /// Requests that presented a known API key, by the key's name.
    key_requests: IntCounterVec = "siglip_key_requests_total" ["key"];
    /// Requests being answered.
    requests_in_flight: IntGauge = "siglip_requests_in_flight";
    /// Health watches and reflection streams that are open.
    watches: IntGauge = "siglip_grpc_watches";
    /// Time of one item in one stage.
    stage_duration: HistogramVec = "siglip_stage_duration_seconds"
        ["stage" = Listed(|| Stage::ALL.map(Stage::name).to_vec())] in SECONDS;
    /// Rows of each forward pass.
    batch_rows: HistogramVec = "siglip_batch_rows"
        ["model" = Models, "tower" = Listed(|| TOWERS.to_vec())] in ROWS;
    /// Rows of the last batch over the most that a batch may have.
    batch_fill_ratio: GaugeVec = "siglip_batch_fill_ratio"
        ["model" = Models, "tower" = Listed(|| TOWERS.to_vec())];
    /// Rows that wait for a batch.
    queue_rows: IntGaugeVec = "siglip_queue_rows" [
        "model" = Models,
        "tower" = Listed(|| TOWERS.to_vec()),
        "priority" = Listed(|| PRIORITIES.to_vec())
    ];
    /// Age of the oldest row that waits.
    queue_oldest: GaugeVec = "siglip_queue_oldest_seconds"
        ["model" = Models, "tower" = Listed(|| TOWERS.to_vec())];
    /// Items refused before they were queued, by the code of the error.
    rejected: IntCounterVec = "siglip_rejected_total"
        ["reason" = Listed(|| Code::ALL.map(Code::slug).to_vec())];
    /// Rows dropped before their forward pass: their caller left, or their deadline passed.
    dropped: IntCounterVec = "siglip_dropped_total" ["reason" = Listed(|| DROP_REASONS.to_vec())];
    /// Spans of traces that were sent to the collector, or could not be.
    spans: IntCounterVec = "siglip_trace_spans_total" ["result"];
    /// Images that a forward pass embedded, those of the warm-up included.
    images: IntCounterVec = "siglip_images_total" ["model" = Models];
    /// Texts that a forward pass embedded, those of the warm-up included.
    texts: IntCounterVec = "siglip_texts_total" ["model" = Models];
    /// Texts that were longer than the model reads, and were cut.
    truncated_texts: IntCounter = "siglip_truncated_texts_total";
    /// Image-text pairs scored.
    pairs: IntCounter = "siglip_pairs_total";
    /// Pixels decoded, before resizing.
    pixels_decoded: IntCounter = "siglip_pixels_decoded_total";
    /// Processes that decode images, by state.
    decode_processes: IntGaugeVec = "siglip_decode_processes"
        ["state" = Listed(|| DECODE_STATES.to_vec())];
    /// Decode processes that were ended because of an image, by reason.
    decode_ended: IntCounterVec = "siglip_decode_ended_total"
        ["reason" = Listed(|| DECODE_END_REASONS.to_vec())];
    /// Inputs answered from the cache or joined to an equal input in flight.
    cache_hits: IntCounterVec = "siglip_cache_hits_total" ["cache" = Listed(|| CACHES.to_vec())];
    /// Inputs that had to be computed.
    cache_misses: IntCounterVec = "siglip_cache_misses_total" ["cache" = Listed(|| CACHES.to_vec())];
    /// Bytes held by the cache.
    cache_bytes: IntGaugeVec = "siglip_cache_bytes" ["cache" = Listed(|| CACHES.to_vec())];
    /// 1 for the state that the model's worker is in, 0 for the others.
    worker_state: IntGaugeVec = "siglip_worker_state" ["model", "state"];
    /// Attempts to replace a model's worker after it broke.
    worker_restarts: IntCounterVec = "siglip_worker_restarts_total" ["model" = Models];
    /// Bytes of resident weights on the device.
    device_memory: IntGaugeVec = "siglip_device_memory_bytes" ["model"];
    /// 1 for a tower that is in memory, 0 for one that is not.
    towers_loaded: IntGaugeVec = "siglip_towers_loaded" ["model", "tower"];
    /// Loads of towers after the start, by result.
    model_loads: IntCounterVec = "siglip_model_loads_total"
        ["model" = Models, "result" = Listed(|| LOAD_RESULTS.to_vec())];
    /// Time that a load of towers took, the wait for memory included.
    model_load_duration: HistogramVec = "siglip_model_load_duration_seconds" ["model" = Models]
        in LOAD_SECONDS;
    /// Towers that were unloaded, by reason.
    tower_unloads: IntCounterVec = "siglip_tower_unloads_total"
        ["model" = Models, "reason" = Listed(|| UNLOAD_REASONS.to_vec())];
    /// Always 1; the labels describe the model.
    model_info: IntGaugeVec = "siglip_model_info"
        ["model", "revision", "dtype", "device", "cuda_kernels"];
    /// Always 1; the labels describe the build.
    build_info: IntGaugeVec = "siglip_build_info" ["version", "commit", "target"];
    /// 1 while the server is ready for traffic.
    ready: Gauge = "siglip_ready";
}

impl Metrics {
    /// A registry with every family, all series with known labels at zero.
    #[must_use]
    pub fn new() -> Self {
        let metrics = Self::register();
        metrics.announce(Announced::Nothing);
        let build = [build_info::VERSION, build_info::COMMIT, build_info::TARGET];
        metrics.build_info.with_label_values(&build).set(1);
        register(&metrics.registry, DroppedLines::new());
        #[cfg(target_os = "linux")]
        register(&metrics.registry, prometheus::process_collector::ProcessCollector::for_self());
        metrics
    }

    /// Creates every series of a route, so that it exists before the first request.
    pub fn touch_route(&self, route: &str) {
        self.announce(Announced::Route(route));
    }

    /// Creates every series of a model, so that it exists before the first row.
    pub fn touch_model(&self, model: &str) {
        self.announce(Announced::Model(model));
    }

    /// Notes the time of one item in one stage.
    pub fn observe_stage(&self, stage: Stage, time: Duration) {
        self.stage_duration.with_label_values(&[stage.name()]).observe(time.as_secs_f64());
    }

    /// The whole registry in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// Fails if a family cannot be written, which a buffer in memory never causes.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        let mut families = self.registry.gather();
        families.extend(tei::aliases(&families));
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }
}

/// Registers a collector of families that are not declared here.
#[expect(clippy::expect_used, reason = "names are constants, and a test registers them all")]
fn register(registry: &Registry, collector: impl Collector + 'static) {
    registry.register(Box::new(collector)).expect("every metric name is used once");
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render().expect("renders")).expect("utf-8")
    }

    #[test]
    fn the_whole_set_shows_before_the_first_request() {
        let text = text(&Metrics::new());
        assert!(text.contains("siglip_rejected_total{reason=\"overloaded\"} 0"), "{text}");
        assert!(text.contains("siglip_stage_duration_seconds_count{stage=\"forward\"} 0"));
        assert!(text.contains("siglip_build_info{"));
        assert!(text.contains("te_request_queue_duration_count 0"), "{text}");
        assert!(!text.contains("model="), "{text}");
    }

    #[test]
    fn a_model_has_a_series_for_each_combination_of_the_other_labels() {
        let metrics = Metrics::new();
        metrics.touch_model("m");
        let text = text(&metrics);
        for tower in TOWERS {
            for priority in PRIORITIES {
                let series = format!(
                    "siglip_queue_rows{{model=\"m\",priority=\"{priority}\",tower=\"{tower}\"}} 0"
                );
                assert!(text.contains(&series), "{series} is not in {text}");
            }
        }
        // No value of `state` is announced.
        assert!(!text.contains("siglip_worker_state"), "{text}");
        assert!(!text.contains("route="), "{text}");
    }
}
