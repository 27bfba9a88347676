"""What a change does to settings, figures and curves, as Markdown for a pull request.

    python -m tools.summary main

compares the results here with those of another commit. The curves are Mermaid charts, which GitHub and GitLab draw from
their text: nothing is uploaded.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.lib.common import cli, files
from stages.lib.common.translation import Parser

CURVES = (
    ("Training loss (nats a token)", Path("logs/train_loss.tsv"), "loss"),
    ("Validation (bits per byte)", Path("logs/validation.tsv"), "bits_per_byte"),
)
COLOUR = "#2a7ab9"  # Mermaid's own is hard to see on white
POINTS = 40  # of a chart: more would only make its lines thicker


def main() -> None:
    """Print the summary."""
    parser = Parser(__doc__)
    parser.add_argument("commit", nargs="?", default="HEAD", help="commit, tag or branch to compare with")
    args = parser.parse_args()
    for kind, title in (("params", "Settings"), ("metrics", "Figures")):
        cli.say(f"### {title}, against {args.commit}\n")
        cli.say((_difference(kind, args.commit) or "No difference.") + "\n")
    for title, path, column in CURVES:
        for line in chart(title, path, column):
            cli.say(line)


def _difference(kind: str, commit: str) -> str:
    command = [sys.executable, "-m", "dvc", kind, "diff", "--md", commit]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise cli.UserError(f"dvc {kind} diff failed: {done.stderr.strip().removeprefix('ERROR: ')}")
    table = done.stdout.strip()
    return table if len(table.splitlines()) > 2 else ""  # nothing below the header


def chart(title: str, path: Path, column: str) -> Iterator[str]:
    """The lines of a Mermaid chart of `column` over the steps in the table `path`; none where there are no two points.

    The chart's points are evenly spaced, which the table's need not be: between those, they are on a straight line.
    """
    rows = files.read_tsv(path) if path.exists() else []
    if len(rows) < 2:
        return
    steps, values = (np.array([float(row[name]) for row in rows]) for name in ("step", column))
    # Not through fewer points than there are: a curve's corners would be cut off.
    drawn = np.interp(np.linspace(steps[0], steps[-1], min(POINTS, max(len(rows), 2))), steps, values)
    yield "```mermaid"
    yield f"%%{{init: {{'themeVariables': {{'xyChart': {{'plotColorPalette': '{COLOUR}'}}}}}}}}%%"
    yield "xychart-beta"
    yield f'    title "{title}"'
    yield f'    x-axis "step" {steps[0]:.0f} --> {steps[-1]:.0f}'
    yield f"    y-axis {drawn.min():.4f} --> {drawn.max():.4f}"
    yield f"    line [{', '.join(f'{value:.4f}' for value in drawn)}]"
    yield "```\n"


if __name__ == "__main__":
    cli.run(main)
