"""`bench/run`: see there."""

from __future__ import annotations

import argparse
import datetime
import subprocess
from dataclasses import asdict
from importlib import metadata

from . import history, machine, quiet, report
from .prepare import build
from .samples import Samples
from .settings import CHECK, RESULTS, ROOT, Settings

PARTS = ("peak", "tower", "http", "growth", "families")
VERSIONS = ("torch", "transformers", "onnxruntime", "openvino", "nncf", "infinity-emb", "numpy")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench/run", description="Measures siglip-server beside its peers.")
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="peak, tower, http, growth, families, report, history; all by default"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: minutes, wider spreads")
    parser.add_argument("--rounds", type=int, help="rounds of each part (5, quick 2)")
    parser.add_argument(
        "--minutes", type=float, help="no round but the first begins after so much measuring (35, quick 7)"
    )
    parser.add_argument("--threads", type=int, default=machine.CORES, help="of every engine")
    parser.add_argument("--others", type=float, default=0.5, metavar="CORES", help="most that other processes may use")
    parser.add_argument("--patience", type=float, default=60, metavar="SECONDS", help="longest wait for them")
    parser.add_argument("--no-build", action="store_true", help="measure the release binaries that are there")
    parser.add_argument("--out", help="folder below bench/results, by default named after the machine")
    return parser.parse_args()


def settings(args: argparse.Namespace) -> Settings:
    """What the flags mean."""
    if CHECK:
        limits = {"most_others": 1e3, "patience": 0.0, "waiting": 0.0, "minutes": 30.0}
        return Settings(
            quick=True, rounds=2, seconds=0.05, window=0.3, threads=args.threads, build=not args.no_build, **limits
        )
    quick = args.quick
    return Settings(
        quick=quick,
        rounds=args.rounds or (2 if quick else 5),
        seconds=0.8 if quick else 2.0,
        window=3.0 if quick else 8.0,
        threads=args.threads,
        most_others=args.others,
        patience=args.patience,
        waiting=60.0 if quick else 1800.0,
        minutes=args.minutes or (7 if quick else 35),
        build=not args.no_build,
    )


def about(chosen: Settings) -> dict[str, object]:
    """What holds for the whole run."""
    this = asdict(machine.describe())
    this["machine"] = this.pop("name")
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    versions = {name: metadata.version(name) for name in VERSIONS}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {
        **this,
        "threads": chosen.threads,
        "most_others": chosen.most_others,
        "date": today,
        "commit": commit.stdout.strip(),
        "versions": versions,
        "rounds": chosen.rounds,
    }


def run(chosen: Settings, parts: list[str], samples: Samples) -> None:
    """Prepares what the parts need, and measures them."""
    from .parts import families, growth, http, peak, tower

    program = build.peak()
    if set(parts) - {"peak"}:
        if chosen.build:
            build.server()
        build.checkpoint()
    converted = families.prepare() if "families" in parts else {}
    # A random checkpoint's exports take minutes, and only once.
    made = build.exports(["onnx", "onnx-int8", "openvino", "openvino-int8"]) if "tower" in parts else []
    if "growth" in parts:
        for side in growth.SIDES:
            build.checkpoint(side)
    dtypes = build.dtypes() if set(parts) - {"peak"} else []
    # Without instructions for it bf16 is served for memory's sake: for speed it is f32 with a conversion.
    http_dtypes = [dtype for dtype in dtypes if dtype != "bf16" or build.has_bf16()]
    chosen = chosen.from_now()
    quiet.begin(chosen)
    if "peak" in parts and "tower" not in parts:
        for number in range(chosen.rounds):
            peak.measure(chosen, samples, program, number)
    if "tower" in parts:
        tower.measure(chosen, samples, dtypes, peers(made), program)
    if "http" in parts:
        http.measure(chosen, samples, http_dtypes)
    if "growth" in parts:
        growth.measure(chosen, samples)
    if "families" in parts:
        families.measure(chosen, samples, dtypes, converted)


def peers(made: list[str]) -> list[tuple[str, str]]:
    """Engine and dtype of the peers at tower level."""
    known = {"onnx": "onnxruntime", "openvino": "openvino"}
    found = [("torch", "f32")]
    for kind in made:
        name, _, dtype = kind.partition("-")
        found.append((known[name], dtype or "f32"))
    if build.has_bf16():
        found.append(("torch", "bf16"))
        found += [("openvino", "bf16")] if "openvino" in made else []
    return found


def main() -> None:
    """Measures, and writes what was measured and the report of it."""
    args = arguments()
    parts = args.parts or list(PARTS)
    unknown = set(parts) - {*PARTS, "report", "history"}
    if unknown:
        raise SystemExit(f"no such part: {', '.join(sorted(unknown))}")
    if parts == ["history"]:
        for known in sorted(RESULTS.glob("*/samples.json")):
            history.recall(known.parent)
        return history.write(RESULTS)
    chosen = settings(args)
    folder = RESULTS / (args.out or machine.describe().slug)
    folder.mkdir(parents=True, exist_ok=True)
    kept = Samples.read(folder / "samples.json")
    if parts != ["report"]:
        fresh = Samples(about(chosen))
        try:
            run(chosen, [part for part in parts if part != "report"], fresh)
        finally:
            # What was measured before something broke, or before Ctrl-C, is worth keeping.
            if fresh.records:
                kept.replace_parts(fresh)
                kept.save(folder / "samples.json")
    report.write(folder, kept)
    history.remember(folder, kept)
    history.write(RESULTS)
    print(f"written: {folder.relative_to(ROOT)}/README.md")


if __name__ == "__main__":
    main()
