"""Draws what `siglip-server bench URL --json` measured: time and throughput over the rate of requests, as one SVG.

    siglip-server bench URL --rate 5,10,20 --image photo.jpg --json >batches.json
    python3 tools/load_curves.py --title "siglip-base" --out load.svg "batches of 16=batches.json" ...

A file is what one call printed. The upper plot has the median and the 99th percentile of the time since a request was due; the
lower one has the items that were answered per second, beside those that were asked for. Needs nothing but Python.
"""

import argparse
import json
import math
from html import escape
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT = 640, 250, 70, 20
COLORS = ("#0b62c4", "#c2410c", "#15803d", "#7e22ce")
STYLE = """
text { font: 12px sans-serif; fill: #333 } .title { font-weight: bold }
.axis { stroke: #888; fill: none } .grid { stroke: #ccc; stroke-width: .5 }
@media (prefers-color-scheme: dark) { .paper { fill: #0d1117 } text { fill: #ddd } .grid { stroke: #444 } }
"""


def rounds(path):
    """The rounds of a file by their rate: offered and answered items per second, and times in milliseconds."""
    found = []
    for one in json.loads(Path(path).read_text())["rounds"]:
        answered = one["codes"].get("200", 0)
        items = one["items_per_second"] / one["answered_per_second"] if one["answered_per_second"] else 1
        if answered:
            times = {name: 1000 * one["time"][name] for name in ("p50", "p99")}
            found.append({"offered": one["rate"] * items, "answered": one["items_per_second"], **times})
    return found


def ticks(most):
    """Round numbers from 0 to `most`, between five and ten of them."""
    rough = most / 10
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * by for by in (1, 2, 5, 10) if unit * by >= rough)
    return [step * count for count in range(int(most / step) + 1)]


def powers(least, most):
    """Powers of ten that enclose both numbers."""
    return [10**power for power in range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)]


class Plot:
    """A rectangle with axes; the vertical one may be logarithmic."""

    def __init__(self, top, across, up, logarithmic):
        self.top, self.logarithmic = top, logarithmic
        self.right = across
        self.marks = powers(*up) if logarithmic else ticks(up[1])
        self.low, self.high = (self.marks[0], self.marks[-1]) if logarithmic else (0, up[1])
        self.parts = []

    def x(self, value):
        return LEFT + value / self.right * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        share = math.log(value / self.low) / math.log(self.high / self.low) if self.logarithmic else value / self.high
        return self.top + HEIGHT - share * HEIGHT

    def axes(self, title):
        for mark in self.marks:
            y = self.y(mark)
            self.parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            self.parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{mark:g}</text>')
        for mark in ticks(self.right):
            self.parts.append(f'<text x="{self.x(mark):.1f}" y="{self.top + HEIGHT + 16}" text-anchor="middle">{mark:g}</text>')
        self.parts.append(f'<path class="axis" d="M{LEFT} {self.top}V{self.top + HEIGHT}H{WIDTH - RIGHT}"/>')
        self.parts.append(f'<text class="title" x="{LEFT}" y="{self.top - 8}">{escape(title)}</text>')

    def line(self, points, color, dashes=""):
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dashes}"/>')
        if not dashes:
            self.parts += [f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3" fill="{color}"/>' for x, y in points]


def draw(title, series):
    across = 1.05 * max(one["offered"] for _, rows in series for one in rows)
    times = [one[name] for _, rows in series for one in rows for name in ("p50", "p99")]
    answered = 1.05 * max(one["answered"] for _, rows in series for one in rows)
    above = Plot(50, across, (min(times), max(times)), True)
    below = Plot(50 + HEIGHT + 60, across, (0, answered), False)
    above.axes("milliseconds since a request was due (solid: median, dashed: 99th percentile)")
    below.axes("items answered per second (grey: as many as were asked for)")
    below.line([(0, 0), (min(across, answered), min(across, answered))], "#999", "2 4")
    legend = [f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>']
    for place, (label, rows) in enumerate(series):
        color = COLORS[place % len(COLORS)]
        above.line([(one["offered"], one["p50"]) for one in rows], color)
        above.line([(one["offered"], one["p99"]) for one in rows], color, "6 4")
        below.line([(one["offered"], one["answered"]) for one in rows], color)
        x = LEFT + 140 + 150 * place
        legend.append(f'<path d="M{x} 16h24" stroke="{color}" stroke-width="3"/><text x="{x + 30}" y="20">{escape(label)}</text>')
    foot = below.top + HEIGHT + 36
    legend.append(f'<text x="{WIDTH / 2:.0f}" y="{foot}" text-anchor="middle">items asked for per second</text>')
    size = f'viewBox="0 0 {WIDTH} {foot + 14}" role="img" aria-label="{escape(title, quote=True)}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{foot + 14}" fill="#fff"/>',
            *legend,
            *above.parts,
            *below.parts,
            "</svg>\n",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", nargs="+", metavar="LABEL=FILE", help="what one call of bench printed, and its name")
    parser.add_argument("--title", default="Load")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    series = [(label, rounds(path)) for label, _, path in (one.rpartition("=") for one in given.series)]
    given.out.write_text(draw(given.title, series), encoding="utf-8")


if __name__ == "__main__":
    main()
