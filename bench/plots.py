"""What do the figures of a record look like? Draws growth.png and decode.png from one that bench/suite.py wrote.

    python bench/plots.py RECORD.jsonl --out DIRECTORY

A record without the rows for a plot, from a run of some parts only, costs that plot.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from record import RESULTS, Row

Rows: TypeAlias = Mapping[str, Row]
"""A record's rows, by "part: row"."""
Point: TypeAlias = "tuple[float, float]"

OURS, BOUND = "gpupeak", "bound"


@dataclass(frozen=True)
class Series:
    """Points of one kind, in order; `labels` are written at some of them, `name` at the last one."""

    name: str
    points: Sequence[Point]
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Panel:
    """One small plot: what it shows with its unit, the unit of `x`, and the slope and start of a line through it."""

    title: str
    x: str
    series: Sequence[Series]
    says: str = ""
    line: Point | None = None
    log_x: bool = False


def read(record: Path) -> tuple[Row, Rows]:
    """A record's conditions and its rows."""
    first, *rows = map(json.loads, record.read_text().splitlines())
    return first["conditions"], {f"{row['part']}: {row['row']}": row for row in rows}


def growth_panels(rows: Rows) -> list[Panel]:
    """What of the growth there is in a record."""
    found = []

    def points(name: str, x: str, y: str) -> list[Point]:
        return [(float(point[x]), float(point[y])) for point in rows.get(f"growth: {name}", {}).get("points", [])]

    kinds = {"samples, decoding": "decoding, one worker", "samples, the line alone": "the line alone"}
    times, memory = [], []
    for name, kind in kinds.items():
        if of_row := rows.get(f"growth: {name}", {}).get("points", []):
            # What disturbs a run only adds to its time.
            each = [1000 * min(point["parts_s"]) * len(point["parts_s"]) / point["samples"] for point in of_row]
            times.append(Series(kind, [(point["samples"], ms) for point, ms in zip(of_row, each, strict=True)]))
            memory.append(Series(kind, points(name, "samples", "peak_mib")))
    found.append(Panel("Time a sample, ms", "samples", times, "the fastest tenth of each run", log_x=True))
    found.append(Panel("Memory at most, MiB", "samples", memory, "all processes", log_x=True))

    by_size = rows.get("growth: resolution", {})
    labels = [f"{point['height']:.0f}p" for point in by_size.get("points", [])]
    series = [Series("", points("resolution", "megapixels", "sample_ms"), labels)]
    found.append(_fitted("Time a sample, ms", "megapixels a frame", series, by_size, "ms a megapixel"))

    series = []
    for name, label in (("GOP length", "GOP {gop:.0f}"), ("frames a sample", "n {n}")):
        of_row = rows.get(f"growth: {name}", {}).get("points", [])
        series.append(Series("", points(name, "needed", "sample_ms"), [label.format(**point) for point in of_row]))
    needed = rows.get("growth: frames that have to be decoded", {})
    found.append(_fitted("Time a sample, ms", "frames that have to be decoded", series, needed, "ms a frame"))

    workers = [Series("", points("workers", "workers", "samples_per_s"))]
    says = f"times {rows.get('growth: workers', {}).get('times', 1):.2f} from one to two"
    found.append(Panel("Samples/s", "workers", workers, says))
    finished = rows.get("growth: finished files", {})
    series = [Series("", points("finished files", "files", "seconds"))]
    found.append(_fitted("Time until a finished run ends, s", "finished files", series, finished, "us a file", 1e6))
    return [panel for panel in found if any(each.points for each in panel.series)]


def _fitted(title: str, x: str, series: Sequence[Series], row: Row, unit: str, scale: float = 1) -> Panel:
    line = row.get("fit")
    if not line:
        return Panel(title, x, series)
    says = f"{scale * line['slope']:.3g} {unit}, R² {line['r2']:.3f}"
    return Panel(title, x, series, says, (line["slope"], line["start"]))


def decoding_times(rows: Rows) -> dict[str, tuple[float, dict[str, float]]]:
    """Of each clip our time in ms, and how many times as long each other side took; libraries in their best way."""
    found = {}
    for name, row in rows.items():
        part, _, clip = name.partition(": ")
        seconds = row.get("seconds", {})
        if part != "decoding" or OURS not in seconds:
            continue
        ours = seconds[OURS]["median_s"]
        others: dict[str, float] = {}
        for side, taken in seconds.items():
            if side != OURS:
                ratio = row.get("ratios", {}).get(side, {}).get("median", taken["median_s"] / ours)
                library = side.split()[0]
                others[library] = min(ratio, others.get(library, ratio))
        found[clip] = 1000 * ours, others
    return found


# Drawing: dark ink on a light card, which is as readable on a dark page as on a light one.

_CARD, _INK, _SOFT, _GRID = "#fcfcfb", "#1f1f1e", "#66655f", "#e4e3df"
_BLUE = "#0067b1"
_PEERS = {
    "decord": ("#d1520a", "o"),
    "torchcodec": ("#00856a", "s"),
    "OpenCV": ("#b07a00", "D"),
    "PyAV": ("#a5488a", "^"),
}
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": _INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.facecolor": _CARD,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "figure.facecolor": _CARD,
    "savefig.facecolor": _CARD,
    "savefig.dpi": 160,
}


def draw(record: Path, directory: Path) -> Row:
    """Draw what there is in a record. Without matplotlib, only says so."""
    try:
        import matplotlib
    except ImportError as error:
        return {"says": f"left out: {error}"}
    matplotlib.use("agg")
    conditions, rows = read(record)
    directory.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(_STYLE):
        figures: dict[str, Any] = {}
        if panels := growth_panels(rows):
            figures["growth.png"] = _growth(panels)
        if times := decoding_times(rows):
            figures["decode.png"] = _decoding(times)
        for name, figure in figures.items():
            figure.text(0.012, 0.012, told(conditions), color=_SOFT, fontsize=7.5)
            figure.savefig(directory / name, metadata={"Software": None})  # the same record, the same bytes
    return {"files": list(figures), "says": f"{', '.join(figures) or 'nothing'} in {directory}"}


def told(conditions: Row) -> str:
    """The conditions that no figure may go without, in a line."""
    what = [conditions.get("cpu"), f"{conditions.get('cores')} cores", conditions.get("gpu")]
    what += [f"gpupeak {conditions.get('commit')}", "clips drawn by code, weights from a seed"]
    return ", ".join(str(each).strip() for each in what if each)


def _growth(panels: Sequence[Panel]) -> Any:
    from matplotlib.figure import Figure

    rows = -(-len(panels) // 3)
    figure = Figure(figsize=(11, 3.3 * rows + 0.3))
    figure.subplots_adjust(0.045, 0.155 if rows > 1 else 0.27, 0.985, 0.92 if rows > 1 else 0.84, 0.2, 0.5)
    for number, panel in enumerate(panels, 1):
        _panel(figure.add_subplot(rows, 3, number), panel)
    return figure


def _panel(axes: Any, panel: Panel) -> None:
    every = [point for series in panel.series for point in series.points]
    axes.set_title(panel.title, pad=18)
    axes.set_xlabel(panel.x)
    axes.text(0, 1.03, panel.says, transform=axes.transAxes, color=_SOFT, fontsize=8)
    if panel.log_x:
        axes.set_xscale("log")
    if panel.line:
        slope, start = panel.line
        ends = (0, 1.05 * max(x for x, _ in every))
        axes.plot(ends, [start + slope * x for x in ends], color=_GRID, linewidth=2.5, solid_capstyle="round")
    kinds = ((_BLUE, "o", -1), ("#d1520a", "s", 1))
    for series, (colour, marker, side) in zip(panel.series, kinds, strict=False):
        if not series.points:
            continue
        xs, ys = zip(*series.points, strict=True)
        axes.plot(xs, ys, color=colour, marker=marker, markersize=5.5, linewidth=0 if panel.line else 2, clip_on=False)
        axes.annotate(series.name, (xs[0], max(ys)), (0, 8), textcoords="offset points", color=colour, fontsize=8)
        at: dict[Point, str] = {}
        for point, label in zip(series.points, series.labels, strict=False):
            at[point] = f"{at[point]}, {label.split()[-1]}" if point in at else label
        for point, label in at.items():
            right = side > 0 if len(panel.series) > 1 else point[0] < max(xs) / 2
            place = {"xytext": (7 if right else -7, -3), "ha": "left" if right else "right"}
            axes.annotate(label, point, textcoords="offset points", color=colour, fontsize=8, **place)
    axes.set_ylim(0, 1.25 * max(y for _, y in every))
    if panel.x == "workers":
        axes.set_xticks([x for x, _ in every])
        axes.margins(x=0.3)
    elif panel.log_x:
        axes.margins(x=0.08)
        ticks = sorted({x for x, _ in every})
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], minor=False)
        axes.minorticks_off()
    else:
        axes.set_xlim(0, 1.08 * max(x for x, _ in every))
        axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:,.6g}")


def _decoding(times: Mapping[str, tuple[float, Mapping[str, float]]]) -> Any:
    from matplotlib.figure import Figure

    clips = list(times)
    figure = Figure(figsize=(11, 0.36 * len(clips) + 1.9))
    height = figure.get_figheight()
    figure.subplots_adjust(0.3, 0.85 / height, 0.94, 1 - 0.85 / height)
    axes = figure.add_subplot()
    axes.grid(axis="x")
    axes.set_xscale("log")
    seen = {}
    for row, clip in enumerate(clips):
        ours, others = times[clip]
        for side, ratio in others.items():
            colour, marker = _PEERS.get(side, (_SOFT, "v")) if side != BOUND else (_INK, "|")
            seen[side] = axes.plot(
                ratio, row, color=colour, marker=marker, markersize=11 if side == BOUND else 6.5, lw=0
            )[0]
        seen[OURS] = axes.plot(1, row, color=_BLUE, marker="o", markersize=8, lw=0)[0]
        axes.annotate(f"{ours:.3g} ms", (1.01, row), xycoords=("axes fraction", "data"), va="center", color=_BLUE)
    axes.axvline(1, color=_BLUE, linewidth=1, alpha=0.4)
    axes.set_yticks(range(len(clips)), clips)
    axes.tick_params(axis="y", colors=_INK)
    axes.set_ylim(len(clips) - 0.5, -0.5)
    ratios = [ratio for _, others in times.values() for ratio in others.values()] + [1.0]
    axes.set_xlim(min(0.8, 0.95 * min(ratios)), 1.08 * max(1.2, *ratios))
    ticks = [
        tick
        for tick in (0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50)
        if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]
    ]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(
        "times as long as gpupeak, further right is slower; the bound is libavcodec given only the packets it needs"
    )
    figure.text(0.012, 1 - 0.3 / height, "Eight frames to 224x224, one thread", fontsize=10)
    told_first = (OURS, BOUND, *_PEERS)
    order = [side for side in told_first if side in seen] + [side for side in seen if side not in told_first]
    axes.legend(
        [seen[side] for side in order],
        order,
        loc="lower left",
        bbox_to_anchor=(-0.015, 0.99),
        ncols=len(order),
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.4,
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of a record.")
    parser.add_argument("record", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the PNG files go (default: bench/results)")
    options = parser.parse_args()
    print(draw(options.record, options.out)["says"])


if __name__ == "__main__":
    main()
