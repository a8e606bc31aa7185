//! The rounds of a load as a table and as a drawing.

use std::fmt::Write as _;

use super::Round;

/// The names of the columns of [`line`].
pub(super) fn head() -> String {
    format!(
        "{:>9} {:>9} {:>9} {:>9}  {:>9} {:>9} {:>9} {:>9} {:>9}  other answers\n",
        "rate/s",
        "requests",
        "200/s",
        "items/s",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms"
    )
}

/// A round as a line of a table.
pub(super) fn line(round: &Round) -> String {
    let ms = |time: Option<f64>| time.map_or("-".to_owned(), |it| format!("{:.2}", it * 1e3));
    let answered = round.times.len() as f64 / round.seconds;
    let others: Vec<_> = round
        .codes
        .iter()
        .filter(|(code, _)| *code != "200")
        .map(|(code, count)| format!("{code}: {count}"))
        .collect();
    format!(
        "{:>9} {:>9} {answered:>9.1} {:>9.1}  {:>9} {:>9} {:>9} {:>9} {:>9}  {}\n",
        round.rate,
        round.sent(),
        answered * round.items as f64,
        ms(round.quantile(0.5)),
        ms(round.quantile(0.9)),
        ms(round.quantile(0.99)),
        ms(round.quantile(0.999)),
        ms(round.times.last().copied()),
        others.join(", ")
    )
}

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 300.0;
const MARGIN: f64 = 56.0;

/// Its name, its colour, and its points.
type Line<'l> = (&'l str, &'l str, Vec<(f64, f64)>);

/// Times over rates, on a logarithmic scale; with one rate, times over the share of requests.
pub(super) fn svg(rounds: &[Round]) -> String {
    let quantiles = [("p50", 0.5, "#2563eb"), ("p90", 0.9, "#d97706"), ("p99", 0.99, "#dc2626")];
    let mut lines: Vec<Line<'_>> = Vec::new();
    let axis = if let [round] = rounds {
        let points = (0..=100).filter_map(|step| {
            let share = f64::from(step) / 100.0;
            Some((share * 100.0, round.quantile(share)? * 1e3))
        });
        lines.push(("", "#2563eb", points.collect()));
        "% of the requests"
    } else {
        for (name, share, colour) in quantiles {
            let points = rounds.iter().filter_map(|it| Some((it.rate, it.quantile(share)? * 1e3)));
            lines.push((name, colour, points.collect()));
        }
        "requests per second"
    };
    let all = || lines.iter().flat_map(|(_, _, points)| points);
    let most_x = all().map(|it| it.0).fold(f64::MIN_POSITIVE, f64::max);
    // Whole powers of ten around the times.
    let power = |value: f64| value.max(1e-6).log10();
    let low = all().map(|it| power(it.1)).fold(f64::INFINITY, f64::min).floor().min(3.0);
    let high = all().map(|it| power(it.1)).fold(f64::NEG_INFINITY, f64::max).ceil().max(low + 1.0);
    let x = |value: f64| MARGIN + value / most_x * WIDTH;
    let y = |value: f64| MARGIN + HEIGHT - (power(value) - low) / (high - low) * HEIGHT;
    let (right, bottom) = (MARGIN + WIDTH, MARGIN + HEIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <path d=\"M{MARGIN} {MARGIN}V{bottom}H{right}\" fill=\"none\" stroke=\"#666\"/>\n\
         <text x=\"{2}\" y=\"{3}\" text-anchor=\"middle\">{axis}</text>\n\
         <text x=\"{MARGIN}\" y=\"{4}\">milliseconds</text>\n\
         <text x=\"{right}\" y=\"{5}\" text-anchor=\"end\">{most_x}</text>\n",
        right + MARGIN,
        bottom + MARGIN,
        MARGIN + WIDTH / 2.0,
        bottom + 34.0,
        MARGIN - 12.0,
        bottom + 16.0,
    );
    let mut step = low;
    while step <= high {
        let (value, level) = (10_f64.powf(step), y(10_f64.powf(step)));
        writeln!(
            svg,
            "<path d=\"M{MARGIN} {level:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            MARGIN - 6.0,
            level + 4.0
        )
        .unwrap_or_default();
        step += 1.0;
    }
    for (index, (name, colour, points)) in lines.iter().enumerate() {
        let points: Vec<_> =
            points.iter().map(|&(at, ms)| format!("{:.1},{:.1}", x(at), y(ms))).collect();
        let left = right - 150.0 + 50.0 * index as f64;
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{left}\" y=\"{}\" fill=\"{colour}\">{name}</text>",
            points.join(" "),
            MARGIN - 12.0
        )
        .unwrap_or_default();
    }
    svg + "</svg>\n"
}
