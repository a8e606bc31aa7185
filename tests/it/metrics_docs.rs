//! The table of metrics in `docs/operations.md` agrees with the registry.

// The process metrics exist on Linux only, and the table lists them.
#![cfg(target_os = "linux")]

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use siglip_server::telemetry::Metrics;

const BEGIN: &str =
    "<!-- metrics: the table between these marks is checked against the registry by a test -->\n";
const END: &str = "<!-- end of metrics -->";

#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: Vec<String>,
}

/// A registry in which every family has a series, since families without one are not written.
fn text() -> String {
    let metrics = Metrics::new();
    metrics.touch_route("route");
    metrics.touch_model("model");
    metrics.spans.with_label_values(&["sent"]);
    metrics.key_requests.with_label_values(&["key"]);
    metrics.worker_state.with_label_values(&["model", "running"]);
    metrics.device_memory.with_label_values(&["model"]);
    metrics.towers_loaded.with_label_values(&["model", "image"]);
    metrics.model_info.with_label_values(&["model", "revision", "dtype", "device", "cuda_kernels"]);
    String::from_utf8(metrics.render().expect("renders")).expect("utf-8")
}

fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            families.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((series, rest)) = line.split_once('{') {
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| series.strip_suffix(suffix))
                .find(|name| families.contains_key(*name))
                .unwrap_or(series);
            let family = families.get_mut(name).expect("a sample follows its HELP");
            if family.labels.is_empty() {
                let labels = rest.split('}').next().unwrap_or_default().split(',');
                family.labels = labels
                    .filter_map(|label| label.split_once('='))
                    .map(|(label, _)| label.to_owned())
                    .filter(|label| label != "le")
                    .collect();
                family.labels.sort();
            }
        }
    }
    families
}

fn table() -> String {
    let mut table = "\n| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for (name, Family { kind, help, labels }) in families(&text()) {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(table, "| `{name}` | {kind} | {} | {help} |", labels.join(", ")).expect("writes");
    }
    table.push('\n');
    table
}

#[test]
fn the_table_of_metrics_is_fresh() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = fs::read_to_string(&path).expect("the page");
    let (head, rest) = page.split_once(BEGIN).expect("the mark before the table");
    let (old, tail) = rest.split_once(END).expect("the mark after the table");
    let new = table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{head}{BEGIN}{new}{END}{tail}")).expect("writes the page");
        return;
    }
    assert_eq!(old, new, "stale; renew it with `UPDATE_DOCS=1 cargo test --test it metrics_docs`");
}
