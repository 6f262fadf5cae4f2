"""Which plots are drawn of runs and of their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retrolit.evaluation.token_losses import READINGS
from retrolit.reports.load import Run
from retrolit.reports.plots import Bar, BarPlot, Line, LinePlot

BITS = "bits per byte"


def loss_plots(runs: Sequence[Run]) -> list[LinePlot]:
    """Loss and bits per byte while training: of the batches pale, of the validation split with dots."""
    return _present(
        LinePlot(title, "optimizer step", title, _lines(runs, f"val/{metric}", f"train/{metric}"))
        for title, metric in (("loss", "loss"), (BITS, "bits_per_byte"))
    )


def gain_plots(runs: Sequence[Run]) -> list[LinePlot]:
    """What the retrieved neighbors save at each validation, over every other reading; a plot a reading."""
    plots = []
    for reading in READINGS[1:]:
        lines = []
        for number, run in enumerate(runs):
            ours = dict(run.curve("val/bits_per_byte"))
            theirs = run.curve(f"val/bits_per_byte_{reading}")
            points = [(step, value - ours[step]) for step, value in theirs if step in ours]
            lines.append(Line(run.name, points, number))
        title = {"none": "gain over no neighbors", "random": "gain over random neighbors", "gpt": "gain over the GPT"}
        plots.append(LinePlot(title[reading], "optimizer step", BITS, lines, with_zero=True))
    return _present(plots)


def speed_plots(runs: Sequence[Run]) -> list[LinePlot]:
    """Tokens per second, and the share of the time that is spent waiting for data."""
    return _present(
        LinePlot(title, "optimizer step", title, [Line(run.name, run.curve(metric), i) for i, run in enumerate(runs)],
                 with_zero=True)
        for title, metric in (("tokens per second", "speed/tokens_per_second"),
                              ("share of the time waiting for data", "speed/data_wait_share"))
    )  # fmt: skip


def control_plots(results: dict[str, Any]) -> list[BarPlot]:
    """Gains over the controls, with their intervals; that over the GPT may be far larger and has its own scale."""
    bars = {
        reading: Bar(f"over {reading}", gain, results["gain_interval"][reading], READINGS.index(reading))
        for reading in READINGS
        if (gain := results["gain"].get(reading)) is not None
    }
    plots = [
        BarPlot("gain of the retrieved neighbors over none and over random ones", BITS, [*bars.values()][:2]),
        BarPlot("gain over the GPT", BITS, [bars["gpt"]] if "gpt" in bars else []),
    ]
    return [plot for plot in plots if plot.bars]


def overlap_plots(results: dict[str, Any]) -> list[LinePlot]:
    """Bits per byte and gain over none, by the overlap of a chunk with its neighbors."""
    curve = results["overlap_curve"]
    ticks = {float(place): f"{100 * point['at_most']:g} %" for place, point in enumerate(curve)}
    lines = []
    for reading in READINGS:
        if reading in results["readings"]:
            points = _points([point["bits_per_byte"][reading] for point in curve])
            lines.append(Line(reading, points, READINGS.index(reading)))
    gains = [point["gain"]["none"] for point in curve]
    intervals = [point["gain_interval"]["none"] for point, gain in zip(curve, gains, strict=True) if gain is not None]
    gain = Line("gain over none", _points(gains), 0, intervals=intervals)
    axis = "overlap of a chunk with its neighbors, at most"
    return _present(
        [
            LinePlot("bits per byte by overlap", axis, BITS, lines, ticks),
            LinePlot("gain over no neighbors by overlap", axis, BITS, [gain], ticks, with_zero=True),
        ]
    )


def _lines(runs: Sequence[Run], validation: str, training: str) -> list[Line]:
    pale = [Line(f"{run.name}, training", run.curve(training), i, faint=True) for i, run in enumerate(runs)]
    return pale + [Line(f"{run.name}, validation", run.curve(validation), i) for i, run in enumerate(runs)]


def _points(values: Sequence[float | None]) -> list[tuple[float, float]]:
    return [(float(place), value) for place, value in enumerate(values) if value is not None]


def _present(plots: Any) -> list[LinePlot]:
    """Plots and lines without any point are left out."""
    full = [(plot, [line for line in plot.lines if line.points]) for plot in plots]
    return [LinePlot(p.title, p.x, p.y, lines, p.ticks, p.with_zero) for p, lines in full if lines]
