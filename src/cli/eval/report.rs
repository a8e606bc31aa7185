//! An evaluation as tables and as a page with plots.

use std::fmt::Write as _;

use htmlize::escape_all_quotes;

use super::{
    Found,
    measures::{BINS, Recalls, Threshold},
};
use crate::model::Scorer;

/// Sides of a plot, in pixels.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 260.0;
/// Space around it for its words.
const MARGIN: f64 = 46.0;

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// The headings and rows of the tables, the same for both forms.
fn tables(found: &Found) -> Vec<(String, Vec<String>, Vec<Vec<String>>)> {
    let mut tables = Vec::new();
    let head = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let [of_images, of_texts] = found.retrieval;
    if found.data.classes {
        let row = vec![percent(of_images.r1), percent(of_images.r5)];
        tables.push(("Zero-shot accuracy".to_owned(), head(&["top 1", "top 5"]), vec![row]));
    }
    let recall = |name: &str, it: Recalls| {
        vec![name.to_owned(), percent(it.r1), percent(it.r5), percent(it.r10)]
    };
    tables.push((
        "Retrieval".to_owned(),
        head(&["asked", "R@1", "R@5", "R@10"]),
        vec![recall("texts of an image", of_images), recall("images of a text", of_texts)],
    ));
    if let Some(losses) = found.losses {
        let mut rows = vec![vec!["softmax".to_owned(), format!("{:.6}", losses.softmax)]];
        if matches!(found.scorer, Scorer::Sigmoid { .. }) {
            rows.insert(0, vec!["sigmoid".to_owned(), format!("{:.6}", losses.sigmoid)]);
        }
        let title = format!("Loss over one batch of {} rows", found.data.pairs.len());
        tables.push((title, head(&["loss", "value"]), rows));
    }
    if let Some(probabilities) = &found.probabilities {
        let row = |it: &Threshold| {
            let precision = it.precision.map_or("-".to_owned(), percent);
            vec![it.probability.to_string(), precision, percent(it.recall), percent(it.f1)]
        };
        let rows = probabilities.thresholds.iter().map(row).collect();
        let names = head(&["probability of at least", "precision", "recall", "F1"]);
        tables.push(("Thresholds".to_owned(), names, rows));
        if let Some(precision) = found.precision {
            let row = probabilities.wanted.as_ref().map_or_else(
                || vec!["none has it".to_owned(), String::new(), String::new()],
                |it| {
                    let precision = it.precision.map_or("-".to_owned(), percent);
                    vec![format!("{:.6}", it.probability), precision, percent(it.recall)]
                },
            );
            let title = format!("Threshold for a precision of {}", percent(precision));
            tables.push((title, head(&["probability", "precision", "recall"]), vec![row]));
        }
    }
    let cost = |it: &super::Cost| {
        vec![
            it.n.to_string(),
            format!("{:.4}", it.sigmoid_seconds),
            format!("{:.4}", it.softmax_seconds),
            mebibytes(it.chunk_bytes()),
            mebibytes(it.matrix_bytes()),
        ]
    };
    if !found.costs.is_empty() {
        let names =
            head(&["rows", "sigmoid, s", "softmax, s", "held at once, MiB", "whole matrix, MiB"]);
        tables.push((
            "What the losses cost".to_owned(),
            names,
            found.costs.iter().map(cost).collect(),
        ));
    }
    tables
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.2}", bytes as f64 / f64::from(1 << 20))
}

fn summary(found: &Found) -> String {
    let mut text = format!(
        "{} ({}), {} rows of {} images and {} texts",
        found.model,
        found.revision,
        found.data.pairs.len(),
        found.data.images.len(),
        found.data.texts.len()
    );
    if found.skipped > 0 {
        write!(text, ", {} images left out", found.skipped).unwrap_or_default();
    }
    if let Some(probabilities) = &found.probabilities {
        write!(text, ", expected calibration error {:.4}", probabilities.ece).unwrap_or_default();
    }
    text
}

/// Tables for a terminal.
pub(super) fn text(found: &Found) -> String {
    let mut text = summary(found) + "\n";
    for (title, names, rows) in tables(found) {
        let cells = std::iter::once(&names).chain(&rows);
        let width = |column: usize| {
            let cells = cells.clone().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..names.len()).map(width).collect();
        writeln!(text, "\n{title}").unwrap_or_default();
        for row in std::iter::once(&names).chain(&rows) {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:>width$}"));
            writeln!(text, "  {}", cells.collect::<Vec<_>>().join("  ")).unwrap_or_default();
        }
    }
    text
}

/// A page without scripts and without anything from elsewhere.
pub(super) fn html(found: &Found) -> String {
    let mut body = format!("<h1>Evaluation</h1>\n<p>{}</p>\n", escape_all_quotes(summary(found)));
    if !found.prompts.is_empty() {
        let prompts: Vec<_> =
            found.prompts.iter().map(|it| escape_all_quotes(it.as_str())).collect();
        writeln!(body, "<p>Prompts: <code>{}</code></p>", prompts.join("</code>, <code>"))
            .unwrap_or_default();
    }
    body += "<div class=plots>\n";
    if let Some(probabilities) = &found.probabilities {
        let bins = probabilities.bins.iter().filter(|bin| bin.count > 0);
        let points: Vec<_> = bins.map(|bin| (bin.probability, bin.positives)).collect();
        let title = format!("Reliability, {BINS} bins");
        body +=
            &plot(&title, ["mean probability", "share that belong"], &[("pairs", points)], true);
        let curve = |of: fn(&Threshold) -> Option<f64>| {
            let all = probabilities.thresholds.iter();
            all.filter_map(|it| Some((it.probability, of(it)?))).collect::<Vec<_>>()
        };
        let curves = [
            ("precision", curve(|it| it.precision)),
            ("recall", curve(|it| Some(it.recall))),
            ("F1", curve(|it| Some(it.f1))),
        ];
        body += &plot("Thresholds", ["probability of at least", "share"], &curves, false);
    }
    let of = |value: fn(&super::Cost) -> f64| {
        found.costs.iter().map(|it| (it.n as f64, value(it))).collect::<Vec<_>>()
    };
    if found.costs.len() > 1 {
        let times =
            [("sigmoid", of(|it| it.sigmoid_seconds)), ("softmax", of(|it| it.softmax_seconds))];
        body += &plot("Time of the losses", ["rows n", "seconds"], &times, false);
        let mib = f64::from(1 << 20);
        let bytes = [
            (
                "held",
                found.costs.iter().map(|it| (it.n as f64, it.chunk_bytes() as f64 / mib)).collect(),
            ),
            (
                "n x n",
                found
                    .costs
                    .iter()
                    .map(|it| (it.n as f64, it.matrix_bytes() as f64 / mib))
                    .collect(),
            ),
        ];
        body += &plot("Memory of the losses", ["rows n", "MiB of scores"], &bytes, false);
    }
    body += "</div>\n";
    for (title, names, rows) in tables(found) {
        writeln!(body, "<h2>{}</h2>\n<table>", escape_all_quotes(title.as_str()))
            .unwrap_or_default();
        let line = |cells: &[String], tag: &str| {
            let cells = cells
                .iter()
                .map(|cell| format!("<{tag}>{}</{tag}>", escape_all_quotes(cell.as_str())));
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        body += &line(&names, "th");
        rows.iter().for_each(|row| body += &line(row, "td"));
        body += "</table>\n";
    }
    format!(
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<meta name=viewport content=\"width=device-width\">\n\
         <title>Evaluation of {}</title>\n<style>\n{STYLE}</style>\n{body}</html>\n",
        escape_all_quotes(found.model.as_str())
    )
}

const STYLE: &str = "\
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .8rem; border-bottom: 1px solid #8884; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; }
svg { max-width: 100%; } svg text { fill: currentColor; font: 11px system-ui, sans-serif; }
.axis { stroke: currentColor; stroke-opacity: .4; fill: none; }
.s0 { stroke: #2563eb; fill: none; stroke-width: 2; } .s1 { stroke: #d97706; fill: none; stroke-width: 2; }
.s2 { stroke: #059669; fill: none; stroke-width: 2; }
";

/// A plot of lines, from zero; with `diagonal` the line of what is calibrated.
fn plot(
    title: &str,
    axes: [&str; 2],
    series: &[(&str, Vec<(f64, f64)>)],
    diagonal: bool,
) -> String {
    let all = || series.iter().flat_map(|(_, points)| points);
    let most =
        |of: fn(&(f64, f64)) -> f64| all().map(of).fold(if diagonal { 1.0 } else { 0.0 }, f64::max);
    let (most_x, most_y) =
        (most(|it| it.0).max(f64::MIN_POSITIVE), most(|it| it.1).max(f64::MIN_POSITIVE));
    let x = |value: f64| MARGIN + value / most_x * WIDTH;
    let y = |value: f64| MARGIN + HEIGHT - value / most_y * HEIGHT;
    let (right, bottom) = (MARGIN + WIDTH, MARGIN + HEIGHT);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {} {}\" width={} role=img aria-label=\"{title}\">\n\
         <text x={MARGIN} y=20>{title}</text>\n\
         <path class=axis d=\"M{MARGIN} {MARGIN}V{bottom}H{right}\"/>\n",
        right + MARGIN,
        bottom + MARGIN,
        right + MARGIN
    );
    if diagonal {
        writeln!(
            svg,
            "<path class=axis d=\"M{MARGIN} {bottom}L{right} {MARGIN}\" stroke-dasharray=4 />"
        )
        .unwrap_or_default();
    }
    let labels = [
        (MARGIN, bottom + 16.0, "0".to_owned(), "start"),
        (right, bottom + 16.0, short(most_x), "end"),
        (MARGIN - 4.0, MARGIN + 4.0, short(most_y), "end"),
        (MARGIN + WIDTH / 2.0, bottom + 32.0, axes[0].to_owned(), "middle"),
        (MARGIN, MARGIN - 8.0, axes[1].to_owned(), "start"),
    ];
    for (left, top, label, anchor) in labels {
        writeln!(svg, "<text x={left} y={top} text-anchor={anchor}>{label}</text>")
            .unwrap_or_default();
    }
    for (index, (name, points)) in series.iter().enumerate() {
        let mut line = String::new();
        for (step, &(at, value)) in points.iter().enumerate() {
            let command = if step == 0 { 'M' } else { 'L' };
            write!(line, "{command}{:.1} {:.1}", x(at), y(value)).unwrap_or_default();
        }
        writeln!(svg, "<path class=s{index} d=\"{line}\"/>").unwrap_or_default();
        if series.len() > 1 {
            let left = MARGIN + 150.0 + 70.0 * index as f64;
            writeln!(
                svg,
                "<path class=s{index} d=\"M{left} 16h14\"/><text x={} y=20>{name}</text>",
                left + 18.0
            )
            .unwrap_or_default();
        }
    }
    svg + "</svg>\n"
}

/// A number for an axis.
fn short(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}
