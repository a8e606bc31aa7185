//! The Prometheus metrics, on a registry of their own.
//!
//! Every family stands here with its help text, and every series whose labels are known is created at
//! start, so that a scrape before the first request already shows the whole set, at zero.

mod buckets;
mod labels;
mod log_lines;

use std::time::Duration;

use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

pub use self::labels::{
    CACHES, DECODE_END_REASONS, DECODE_STATES, DROP_REASONS, LOAD_RESULTS, PRIORITIES, TOWERS,
    UNLOAD_REASONS,
};
use self::{
    buckets::{LOAD_SECONDS, ROWS, SECONDS},
    log_lines::DroppedLines,
};
use super::{tei, timings::Stage};
use crate::{build_info, error::Code};

/// Every metric of the process. Cheap to share behind an `Arc`; all updates are atomic.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests answered, by route and code (`ok` or the error's slug).
    pub requests: IntCounterVec,
    /// Seconds from the request's head to the last byte of its answer, by route.
    pub request_duration: HistogramVec,
    /// Requests that presented a key of the server's, by the key's name.
    pub key_requests: IntCounterVec,
    /// Requests being answered.
    pub requests_in_flight: IntGauge,
    /// Streams over gRPC that have no end of their own: health watches and reflection.
    pub watches: IntGauge,
    /// Seconds of one item in one stage.
    pub stage_duration: HistogramVec,
    /// Rows of each forward pass, by model and tower.
    pub batch_rows: HistogramVec,
    /// Rows of the last batch over the most it may have, by model and tower.
    pub batch_fill_ratio: GaugeVec,
    /// Rows that wait, by model, tower and priority.
    pub queue_rows: IntGaugeVec,
    /// Age of the oldest waiting row in seconds, by model and tower.
    pub queue_oldest: GaugeVec,
    /// Items refused at the door, by reason (an error slug).
    pub rejected: IntCounterVec,
    /// Rows dropped before their forward pass, by reason.
    pub dropped: IntCounterVec,
    /// Spans of traces, by whether they could be sent.
    pub spans: IntCounterVec,
    /// Images embedded, by model.
    pub images: IntCounterVec,
    /// Texts embedded, by model.
    pub texts: IntCounterVec,
    /// Texts cut to what the model reads.
    pub truncated_texts: IntCounter,
    /// Image-text pairs scored.
    pub pairs: IntCounter,
    /// Pixels decoded, before resizing.
    pub pixels_decoded: IntCounter,
    /// Processes that decode images, by state.
    pub decode_processes: IntGaugeVec,
    /// Decode processes that were ended because of an image, by reason.
    pub decode_ended: IntCounterVec,
    /// Inputs answered from the cache or from an equal input in flight, by cache.
    pub cache_hits: IntCounterVec,
    /// Inputs that had to be computed, by cache.
    pub cache_misses: IntCounterVec,
    /// Bytes held, by cache.
    pub cache_bytes: IntGaugeVec,
    /// 1 for the state that a model's worker is in, by model and state.
    pub worker_state: IntGaugeVec,
    /// Replacements of a model's worker, by model.
    pub worker_restarts: IntCounterVec,
    /// Bytes of resident weights on the device, by model.
    pub device_memory: IntGaugeVec,
    /// 1 for a tower that is in memory, by model and tower.
    pub towers_loaded: IntGaugeVec,
    /// Loads of towers after the start, by model and result.
    pub model_loads: IntCounterVec,
    /// Seconds from the row that found no tower to the tower, by model.
    pub model_load_duration: HistogramVec,
    /// Towers that were unloaded, by model and reason.
    pub tower_unloads: IntCounterVec,
    /// Always 1; the labels describe the model.
    pub model_info: IntGaugeVec,
    /// 1 while the server is ready for traffic.
    pub ready: Gauge,
}

/// Registers a freshly made collector, and keeps a handle to it.
#[expect(clippy::expect_used, reason = "names and labels are constants")]
fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: Result<C, prometheus::Error>,
) -> C {
    let collector = collector.expect("metric names and labels are valid constants");
    register(registry, collector.clone());
    collector
}

#[expect(clippy::expect_used, reason = "names are constants, and a test registers them all")]
fn register(registry: &Registry, collector: impl Collector + 'static) {
    registry.register(Box::new(collector)).expect("every metric name is used once");
}

impl Metrics {
    /// A registry with every family, all series with known labels at zero.
    #[must_use]
    pub fn new() -> Self {
        let r = &Registry::new();
        let counter = |name: &str, help: &str| registered(r, IntCounter::new(name, help));
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(r, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            registered(r, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let ratios = |name: &str, help: &str, labels: &[&str]| {
            registered(r, GaugeVec::new(Opts::new(name, help), labels))
        };
        let histograms = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            registered(r, HistogramVec::new(opts, labels))
        };

        let metrics = Self {
            requests: counters(
                "siglip_requests_total",
                "Requests answered, by route and code (ok or the error's code).",
                &["route", "code"],
            ),
            request_duration: histograms(
                "siglip_request_duration_seconds",
                "Time from a request's head to the last byte of its answer.",
                &["route"],
                &SECONDS,
            ),
            key_requests: counters(
                "siglip_key_requests_total",
                "Requests that presented a known API key, by the key's name.",
                &["key"],
            ),
            requests_in_flight: registered(
                r,
                IntGauge::new("siglip_requests_in_flight", "Requests being answered."),
            ),
            watches: registered(
                r,
                IntGauge::new(
                    "siglip_grpc_watches",
                    "Health watches and reflection streams that are open.",
                ),
            ),
            stage_duration: histograms(
                "siglip_stage_duration_seconds",
                "Time of one item in one stage.",
                &["stage"],
                &SECONDS,
            ),
            batch_rows: histograms(
                "siglip_batch_rows",
                "Rows of each forward pass.",
                &["model", "tower"],
                &ROWS,
            ),
            batch_fill_ratio: ratios(
                "siglip_batch_fill_ratio",
                "Rows of the last batch over the most that a batch may have.",
                &["model", "tower"],
            ),
            queue_rows: gauges(
                "siglip_queue_rows",
                "Rows that wait for a batch.",
                &["model", "tower", "priority"],
            ),
            queue_oldest: ratios(
                "siglip_queue_oldest_seconds",
                "Age of the oldest row that waits.",
                &["model", "tower"],
            ),
            rejected: counters(
                "siglip_rejected_total",
                "Items refused at the door, by the code they were refused with.",
                &["reason"],
            ),
            spans: counters(
                "siglip_trace_spans_total",
                "Spans of traces that were sent to the collector, or could not be.",
                &["result"],
            ),
            dropped: counters(
                "siglip_dropped_total",
                "Rows dropped before their forward pass: their caller left, or their deadline passed.",
                &["reason"],
            ),
            images: counters(
                "siglip_images_total",
                "Images that a forward pass embedded, those of the warm-up included.",
                &["model"],
            ),
            texts: counters(
                "siglip_texts_total",
                "Texts that a forward pass embedded, those of the warm-up included.",
                &["model"],
            ),
            truncated_texts: counter(
                "siglip_truncated_texts_total",
                "Texts that were longer than the model reads, and were cut.",
            ),
            pairs: counter("siglip_pairs_total", "Image-text pairs scored."),
            pixels_decoded: counter(
                "siglip_pixels_decoded_total",
                "Pixels decoded, before resizing.",
            ),
            decode_processes: gauges(
                "siglip_decode_processes",
                "Processes that decode images, by state.",
                &["state"],
            ),
            decode_ended: counters(
                "siglip_decode_ended_total",
                "Decode processes that were ended because of an image, by reason.",
                &["reason"],
            ),
            cache_hits: counters(
                "siglip_cache_hits_total",
                "Inputs answered from the cache or joined to an equal input in flight.",
                &["cache"],
            ),
            cache_misses: counters(
                "siglip_cache_misses_total",
                "Inputs that had to be computed.",
                &["cache"],
            ),
            cache_bytes: gauges("siglip_cache_bytes", "Bytes held by the cache.", &["cache"]),
            worker_state: gauges(
                "siglip_worker_state",
                "1 for the state that the model's worker is in, 0 for the others.",
                &["model", "state"],
            ),
            worker_restarts: counters(
                "siglip_worker_restarts_total",
                "Attempts to replace a model's worker after it broke.",
                &["model"],
            ),
            device_memory: gauges(
                "siglip_device_memory_bytes",
                "Bytes of resident weights on the device.",
                &["model"],
            ),
            towers_loaded: gauges(
                "siglip_towers_loaded",
                "1 for a tower that is in memory, 0 for one that is not.",
                &["model", "tower"],
            ),
            model_loads: counters(
                "siglip_model_loads_total",
                "Loads of towers after the start, by result.",
                &["model", "result"],
            ),
            model_load_duration: histograms(
                "siglip_model_load_duration_seconds",
                "Time that a load of towers took, the wait for memory included.",
                &["model"],
                &LOAD_SECONDS,
            ),
            tower_unloads: counters(
                "siglip_tower_unloads_total",
                "Towers that were unloaded, by reason.",
                &["model", "reason"],
            ),
            model_info: gauges(
                "siglip_model_info",
                "Always 1; the labels describe the model.",
                &["model", "revision", "dtype", "device", "cuda_kernels"],
            ),
            ready: registered(
                r,
                Gauge::new("siglip_ready", "1 while the server is ready for traffic."),
            ),
            registry: r.clone(),
        };
        metrics.touch_known_series();
        metrics.describe_build();
        register(r, DroppedLines::new());
        #[cfg(target_os = "linux")]
        register(r, prometheus::process_collector::ProcessCollector::for_self());
        metrics
    }

    /// Creates every series whose labels do not depend on routes or models.
    fn touch_known_series(&self) {
        for stage in Stage::ALL {
            self.stage_duration.with_label_values(&[stage.name()]);
        }
        for code in Code::ALL {
            self.rejected.with_label_values(&[code.slug()]);
        }
        for reason in DROP_REASONS {
            self.dropped.with_label_values(&[reason]);
        }
        for state in DECODE_STATES {
            self.decode_processes.with_label_values(&[state]);
        }
        for reason in DECODE_END_REASONS {
            self.decode_ended.with_label_values(&[reason]);
        }
        for cache in CACHES {
            self.cache_hits.with_label_values(&[cache]);
            self.cache_misses.with_label_values(&[cache]);
            self.cache_bytes.with_label_values(&[cache]);
        }
    }

    fn describe_build(&self) {
        let info = registered(
            &self.registry,
            IntGaugeVec::new(
                Opts::new("siglip_build_info", "Always 1; the labels describe the build."),
                &["version", "commit", "target"],
            ),
        );
        info.with_label_values(&[build_info::VERSION, build_info::COMMIT, build_info::TARGET])
            .set(1);
    }

    /// Creates every series of a route, so that it shows before its first request.
    pub fn touch_route(&self, route: &str) {
        self.requests.with_label_values(&[route, "ok"]);
        self.request_duration.with_label_values(&[route]);
    }

    /// Creates every series of a model, so that it shows before its first row.
    pub fn touch_model(&self, model: &str) {
        self.worker_restarts.with_label_values(&[model]);
        self.images.with_label_values(&[model]);
        self.texts.with_label_values(&[model]);
        self.model_load_duration.with_label_values(&[model]);
        for result in LOAD_RESULTS {
            self.model_loads.with_label_values(&[model, result]);
        }
        for reason in UNLOAD_REASONS {
            self.tower_unloads.with_label_values(&[model, reason]);
        }
        for tower in TOWERS {
            self.batch_rows.with_label_values(&[model, tower]);
            self.batch_fill_ratio.with_label_values(&[model, tower]);
            self.queue_oldest.with_label_values(&[model, tower]);
            for priority in PRIORITIES {
                self.queue_rows.with_label_values(&[model, tower, priority]);
            }
        }
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

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_set_shows_before_the_first_request() {
        let text = String::from_utf8(Metrics::new().render().expect("renders")).expect("utf-8");
        assert!(text.contains("siglip_rejected_total{reason=\"overloaded\"} 0"), "{text}");
        assert!(text.contains("siglip_stage_duration_seconds_count{stage=\"forward\"} 0"));
        assert!(text.contains("siglip_build_info{"));
        assert!(text.contains("te_request_queue_duration_count 0"), "{text}");
    }
}
