"""The plots, as SVG that is the same for the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Ids and a date would differ from run to run.
matplotlib.rcParams["svg.hashsalt"] = "siglip-server"
matplotlib.rcParams["svg.fonttype"] = "none"
matplotlib.rcParams["font.size"] = 9

OURS = "#c2410c"
THEIRS = "#64748b"

Bar = tuple[str, float, float, float, bool]
"""Label, median, least, most, whether it is ours."""


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close(figure)


def bars(path: Path, panels: Sequence[tuple[str, Sequence[Bar]]], unit: str) -> None:
    """Horizontal bars with their spread, a panel each."""
    most = max(len(panel) for _, panel in panels)
    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 0.5 + 0.28 * most), squeeze=False)
    for axis, (title, panel) in zip(axes[0], panels, strict=True):
        _bars(axis, title, panel, unit)
    figure.tight_layout()
    _save(figure, path)


def _bars(axis: Axes, title: str, panel: Sequence[Bar], unit: str) -> None:
    for position, (_, middle, least, highest, ours) in enumerate(reversed(panel)):
        spread = [[middle - least], [highest - middle]]
        axis.barh(position, middle, color=OURS if ours else THEIRS, xerr=spread, error_kw={"lw": 0.8})
        axis.annotate(f" {middle:.3g}", (highest, position), va="center")
    axis.set_yticks(range(len(panel)), [bar[0] for bar in reversed(panel)])
    axis.set_title(title)
    axis.set_xlabel(unit)
    axis.margins(x=0.12)
    axis.spines[["top", "right"]].set_visible(False)


def lines(path: Path, panels: Sequence[tuple[str, Sequence[float], Sequence[float]]], unit: str) -> None:
    """Cost over size, both logarithmic; a straight grey line is what proportional growth would be."""
    columns = 4
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.1 * columns, 2.4 * rows), squeeze=False)
    for index in range(rows * columns):
        axis = axes[index // columns][index % columns]
        if index >= len(panels):
            axis.set_axis_off()
            continue
        title, sizes, costs = panels[index]
        axis.plot(sizes, [costs[-1] * size / sizes[-1] for size in sizes], color="#cbd5e1", lw=1)
        axis.plot(sizes, costs, color=OURS, marker="o", ms=3)
        axis.set(xscale="log", yscale="log", title=title, ylabel=unit)
        axis.set_xticks(list(sizes), [f"{size:g}" for size in sizes], minor=False)
        axis.minorticks_off()
    figure.tight_layout()
    _save(figure, path)


History = tuple[str, Sequence[str], dict[str, list[float]], dict[str, list[float]]]
"""Machine, labels of its runs, rates by name, ratios by name."""


def histories(path: Path, panels: Sequence[History]) -> None:
    """Rates and ratios over runs, a row of two panels for each machine."""
    figure, axes = plt.subplots(len(panels), 2, figsize=(11, 3.4 * len(panels)), squeeze=False)
    for (machine, runs, rates, ratios), (left, right) in zip(panels, axes, strict=True):
        for axis, lines_of, unit in ((left, rates, "embeddings a second"), (right, ratios, "by the fastest peer")):
            for name, values in lines_of.items():
                style = "-" if name.startswith("vision") else "--"
                axis.plot(range(len(runs)), values, style, marker="o", ms=3, label=name)
            axis.set_xticks(range(len(runs)), runs, rotation=30, ha="right")
            axis.set(title=machine, ylabel=unit)
            axis.spines[["top", "right"]].set_visible(False)
        left.set_yscale("log")
        right.axhline(1, color=THEIRS, lw=0.8)
        right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    _save(figure, path)
