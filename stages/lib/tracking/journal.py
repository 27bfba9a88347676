"""What a run has had to say to one tracker, and how much of it has arrived: a file beside the checkpoints.

It only grows, a line at a time, and a line that a kill cut short does not count. A run that goes on finds in it which
run of the tracker it was, and the points to send again where a tracker lost what was on its way to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.lib.common import files

Place = tuple[int, int]  # a step, and which of the points at that step
NOWHERE: Place = (-1, 0)  # before all points
Point = tuple[Place, dict[str, float]]


class Journal:
    """The journal in a file, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.run: str | None = None  # by what the tracker knows it
        self.arrived = NOWHERE
        self.points: list[Point] = []
        for line in self._lines():
            match line:
                case {"run": run}:
                    self.run = run
                case {"arrived": place}:
                    self.arrived = tuple(place)
                case {"place": place, "values": values}:
                    self.points.append((tuple(place), values))

    @property
    def newest(self) -> Place:
        """The place of the last point."""
        return self.points[-1][0] if self.points else NOWHERE

    def add(self, place: Place, values: Mapping[str, float]) -> None:
        """Add a point."""
        self.points.append((place, dict(values)))
        self._write({"place": place, "values": dict(values)})

    def began(self, run: str) -> None:
        """Note by what the tracker knows the run."""
        self.run = run
        self._write({"run": run})

    def went(self, place: Place) -> None:
        """Note that the points up to this place have arrived."""
        self.arrived = place
        self._write({"arrived": place})

    def after(self, place: Place) -> list[Point]:
        """The points that come after this place."""
        return [point for point in self.points if point[0] > place]

    def _write(self, line: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "ab", buffering=0) as file:  # a line at once, whichever thread writes
            file.write(files.to_json_line(line).encode())

    def _lines(self) -> Iterator[dict[str, Any]]:
        content = self._path.read_bytes() if self._path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._path.write_bytes(whole)
        yield from map(json.loads, whole.splitlines())
