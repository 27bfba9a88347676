"""The report's pictures as SVG, the same bytes for the same figures."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from stages.lib.page.language import Words

Rows = list[dict[str, str]]
TRAINING, VALIDATION, CHOSEN = "#4a86d0", "#dd7a3f", "#2f9e62"  # legible on white and on black
POINTS = 2000  # in one picture at most, of points that stand for one document or step each
_SIZE = (5.0, 3.2)  # inches; letters of 10 points stay legible when a phone shows it 340 pixels wide
_SQUARE = (4.4, 4.2)
_INK = "#0d0e0f"  # stands for the colour of the page's text
_PRINTED = ("#000000", "#ffffff")  # ink and paper of a picture that is no part of the page


def loss(train: Rows, validation: Rows, best_step: int, words: Words) -> str:
    """Training and validation loss over the steps, the chosen weights marked."""
    return _inline("loss", lambda axes: _loss(axes, train, validation, best_step, words))


def documents(rows: Rows, words: Words) -> str:
    """A point for each test document: its bits per byte with the base model and with the tuned one."""

    def draw(axes: Axes) -> None:
        base, tuned = ([float(row[name]) for row in _thinned(rows)] for name in ("base", "tuned"))
        low, high = min(base + tuned), max(base + tuned)
        margin = 0.05 * (high - low) or 0.1  # where all are the same, too, there is a field around them
        ends = (low - margin, high + margin)
        axes.plot(ends, ends, color=_INK, linestyle=":", linewidth=1)
        better = [after < before for before, after in zip(base, tuned, strict=True)]
        for wanted, colour, label in ((True, CHOSEN, words("better")), (False, VALIDATION, words("not better"))):
            chosen = [point for point, one in zip(zip(base, tuned, strict=True), better, strict=True) if one is wanted]
            if chosen:
                axes.plot(*zip(*chosen, strict=True), "o", color=colour, markersize=4, alpha=0.7, label=label)
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        _label(axes, words("base model, bits per byte"), words("tuned model, bits per byte"), words)
        axes.legend(frameon=False)

    return _inline("documents", draw, _SQUARE)


def lengths(rows: Rows, words: Words) -> str:
    """How many documents have so many characters; the classes grow with the length, so the axis is logarithmic."""

    def draw(axes: Axes) -> None:
        edges = [int(row["from"]) for row in rows] + [int(rows[-1]["to"])]
        axes.stairs([int(row["documents"]) for row in rows], edges, fill=True, color=TRAINING)
        _label(axes, words("characters in a document"), words("documents"), words)
        if edges[-1] > 10 * max(1, edges[0]):
            axes.set_xscale("log")

    return _inline("lengths", draw)


def curves(train: Rows, validation: Rows, best_step: int, words: Words) -> str:
    """The same as `loss` on white, as a file that stands by itself."""
    size = [1.6 * side for side in _SIZE]
    return _svg("curves", size, lambda figure: _loss(figure.subplots(), train, validation, best_step, words), *_PRINTED)


def _loss(axes: Axes, train: Rows, validation: Rows, best_step: int, words: Words) -> None:
    axes.plot(*_points(_thinned(train), "loss"), color=TRAINING, label=words("training"))
    if validation:
        _validation(axes, validation, best_step, words)
    _label(axes, words("step"), words("loss, nats per token"), words)
    axes.legend(frameon=False)


def _validation(axes: Axes, validation: Rows, best_step: int, words: Words) -> None:
    steps, values = _points(validation, "loss")
    axes.plot(steps, values, color=VALIDATION, marker="o", markersize=4, label=words("validation"))
    if best_step in steps:
        axes.plot(
            [best_step],
            [values[steps.index(best_step)]],
            color=CHOSEN,
            linestyle="none",
            marker="o",
            markersize=11,
            fillstyle="none",
            markeredgewidth=2,
            label=words("kept: step %(step)s", step=words.number(best_step, 0)),
        )


class _Ticks(ScalarFormatter):
    """Numbers along an axis as the report's language writes them."""

    def __init__(self, words: Words) -> None:
        super().__init__(useOffset=False)
        self._words = words

    def __call__(self, value: float, position: int | None = None) -> str:
        return self._words.decimal(super().__call__(value, position))


def _label(axes: Axes, across: str, up: str, words: Words) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.xaxis.set_major_formatter(_Ticks(words))
    axes.yaxis.set_major_formatter(_Ticks(words))


def _thinned(rows: Rows) -> Rows:
    """Every n-th of the rows, so that no more than `POINTS` are left."""
    return rows[:: max(1, math.ceil(len(rows) / POINTS))]


def _points(rows: Rows, column: str) -> tuple[list[int], list[float]]:
    return [int(row["step"]) for row in rows], [float(row[column] or math.nan) for row in rows]


def _inline(name: str, draw: Callable[[Axes], None], size: Sequence[float] = _SIZE) -> str:
    """A picture for the page: in the colour of its text, on whatever the page is."""
    svg = _svg(name, size, lambda figure: draw(figure.subplots()), _INK, "none")
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")


def _svg(name: str, size: Sequence[float], draw: Callable[[Figure], None], ink: str, paper: str) -> str:
    with matplotlib.rc_context(_style(name, ink, paper)):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        # Without these, the date stands in the file.
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    # Several pictures share a page, and ids must not.
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", buffer.getvalue())


def _style(name: str, ink: str, paper: str) -> dict[str, Any]:
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    return dict.fromkeys(inked, ink) | {
        "svg.hashsalt": name,  # otherwise ids are random
        "font.size": 10,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": "#808080",
        "grid.alpha": 0.25,
        "axes.facecolor": "none",
        "savefig.facecolor": paper,
    }
