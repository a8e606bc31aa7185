//! Names of text-embeddings-inference for families of ours that mean the same, so that its dashboards show
//! this server as well.

use prometheus::proto::{Metric, MetricFamily};

use super::Stage;

const STAGES: &str = "siglip_stage_duration_seconds";

/// Their name, our family, and the one stage of it where it has several. Their counts of requests have no
/// twin here: ours are by route, and count what is no inference.
const ALIASES: [(&str, &str, Option<Stage>); 5] = [
    ("te_request_tokenization_duration", STAGES, Some(Stage::Tokenize)),
    ("te_request_queue_duration", STAGES, Some(Stage::Queue)),
    ("te_request_inference_duration", STAGES, Some(Stage::Forward)),
    ("te_queue_size", "siglip_queue_rows", None),
    ("te_batch_next_size", "siglip_batch_rows", None),
];

/// The same series once more, under the names that text-embeddings-inference has for them.
pub(super) fn aliases(families: &[MetricFamily]) -> Vec<MetricFamily> {
    let alias = |&(name, family, stage): &(&str, &str, Option<Stage>)| {
        let ours = families.iter().find(|ours| ours.name() == family)?;
        let mut theirs = ours.clone();
        theirs.set_name(name.to_owned());
        theirs.set_help(format!("As {family}, under the name of text-embeddings-inference."));
        if let Some(stage) = stage {
            let series = theirs.take_metric().into_iter().filter_map(|it| of_stage(it, stage));
            theirs.set_metric(series.collect());
        }
        Some(theirs)
    };
    ALIASES.iter().filter_map(alias).collect()
}

/// A series without its stage, where it is that one.
fn of_stage(mut series: Metric, stage: Stage) -> Option<Metric> {
    let mut labels = series.take_label();
    let at = labels.iter().position(|label| label.name() == "stage")?;
    (labels.remove(at).value() == stage.name()).then(|| {
        series.set_label(labels);
        series
    })
}
