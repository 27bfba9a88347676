"""The page, in Gradio: what stands where, and what happens when something is pressed."""

from __future__ import annotations

import argparse
import asyncio
import secrets
from collections.abc import AsyncIterator
from html import escape
from pathlib import Path
from types import ModuleType
from typing import Any

import generate
from stages.lib.common import cli, params, translation
from stages.lib.common.translation import translated
from stages.lib.model.generation import Sampling
from tools.page import kept, looks
from tools.page.writing import SHOWN, Run, Wish

_SECONDS = 0.1  # between two looks at what was written
_PATIENCE = 10  # seconds for a token under way, when the page is closed
_HOTTEST = 2.0  # above it there is only noise
_LEGEND = "Highlighted: 50 characters or more in a row that stand word for word in a training document."
# Nothing of Gradio's over what is written, and no function for other programs.
_PLAIN = {"show_progress": "hidden", "api_visibility": "private"}


class Page:
    """What the page does, on `gradio`. Texts are kept in the file `kept_in`."""

    def __init__(self, gradio: ModuleType, models: generate.Models, kept_in: Path) -> None:
        self._gradio, self._models, self._kept_in = gradio, models, kept_in
        self._running: set[Run] = set()

    async def write(
        self, prompt: str, temperature: float, top_p: float, length: int, seed: str
    ) -> AsyncIterator[list[Any]]:
        """Yield what the page shows, again and again while the texts are written."""
        try:
            drawn = _seed(seed)
        except cli.UserError as error:
            same = self._gradio.skip()
            yield [same, looks.error_html(str(error)), same, same, *[same] * 2 * len(SHOWN)]
            return
        heat = temperature if temperature >= params.LEAST_TEMPERATURE else 0
        run = Run(self._models, Wish(prompt, Sampling(int(length), heat, top_p), drawn)).start()
        self._running.add(run)
        try:
            while not run.over:
                yield self._everything(run)
                await asyncio.sleep(_SECONDS)
            yield self._everything(run)
        finally:  # also when nobody looks on any more
            run.stop()
            self._running.discard(run)

    def _everything(self, run: Run) -> list[Any]:
        over, update = run.over, self._gradio.update
        sheets = [looks.text_html(run, name) for name in SHOWN]
        # What was stopped can be kept, too: as far as it came.
        keeps = [
            update(value=translated("Keep this text"), interactive=over and bool(run.texts.get(name))) for name in SHOWN
        ]
        return [run, looks.run_html(run), update(interactive=over), update(interactive=not over), *sheets, *keeps]

    def stop(self, run: Run | None) -> None:
        """Have a run stop; what it has written stays."""
        if run:
            run.stop()

    def keep(self, run: Run, name: str) -> list[Any]:
        """Put a text into the file, and say so."""
        try:
            kept.append(self._kept_in, run.line(name))
        except OSError as error:
            return [self._gradio.update(), looks.run_html(run, bad=cli.refusal(error) or str(error))]
        told = translated(f"kept in {cli.printable(str(self._kept_in))}")
        return [self._gradio.update(value=translated("Kept"), interactive=False), looks.run_html(run, told)]

    def close(self) -> None:
        """Have all that is still written end."""
        for run in set(self._running):
            run.stop(_PATIENCE)

    def blocks(self) -> Any:
        """The page as gradio.Blocks."""
        gradio = self._gradio
        title = translated("Base and tuned model")
        with gradio.Blocks(analytics_enabled=False, title=title) as made:
            gradio.HTML(f"<h1>{escape(title)}</h1>")
            prompt = gradio.Textbox(
                "", label=translated("How the text begins"), lines=3, max_lines=12, elem_id="prompt"
            )
            with gradio.Accordion(translated("Temperature, top-p, length, seed"), open=False, elem_id="knobs"):
                knobs = _knobs(gradio, self._models.context)
            with gradio.Row():
                write = gradio.Button(translated("Write"), variant="primary", elem_id="write")
                stop = gradio.Button(translated("Stop"), interactive=False, elem_id="stop")
            state = gradio.HTML(elem_id="state")
            with gradio.Row():
                texts, keeps = zip(*(_sheet(gradio, name) for name in SHOWN), strict=True)
            gradio.HTML(f"<p>{escape(translated(_LEGEND))}</p>", elem_classes="state")
            run = gradio.State()
            shown = [run, state, write, stop, *texts, *keeps]
            gradio.on([write.click, prompt.submit], self.write, [prompt, *knobs], shown, **_PLAIN)
            stop.click(self.stop, run, None, queue=False, **_PLAIN)
            for name, button in zip(SHOWN, keeps, strict=True):
                button.click(lambda run, name=name: self.keep(run, name), run, [button, state], queue=False, **_PLAIN)
        return made.queue(default_concurrency_limit=None)  # they wait for each other in their own way


def _seed(text: str) -> int:
    """The seed that was typed, or a new one. Raises UserError where it is none."""
    try:
        return translation.above(int, 0, 2**32 - 1)(text) if text.strip() else secrets.randbelow(2**32)
    except (ValueError, argparse.ArgumentTypeError):
        raise cli.UserError(f"{cli.printable(text)} is no seed: it is a number from 0 to {2**32 - 1}") from None


def looks_of(gradio: ModuleType) -> dict[str, Any]:
    """How it looks, for Gradio: fonts of the system, as Gradio's own have no Cyrillic letters, and our styles."""
    fonts = {
        name: [gradio.themes.Font(family) for family in families]
        for name, families in (("font", ("system-ui", "sans-serif")), ("font_mono", ("ui-monospace", "monospace")))
    }
    # Gradio takes the browser's language for that of the page.
    language = f"() => {{ document.documentElement.lang = '{translation.chosen_language()}' }}"
    return {"theme": gradio.themes.Default(primary_hue="blue", **fonts), "css": looks.STYLE, "js": language}


def _sheet(gradio: ModuleType, name: str) -> tuple[Any, Any]:
    """Where a model's text stands, and the button that keeps it."""
    with gradio.Column(min_width=280):
        text = gradio.HTML(looks.text_html(None, name), elem_id=name, elem_classes="sheet")
        keep = gradio.Button(translated("Keep this text"), size="sm", interactive=False, elem_id=f"keep-{name}")
    return text, keep


def _knobs(gradio: ModuleType, context: int) -> list[Any]:
    """Temperature, top-p, length and seed."""
    usual = Sampling(min(generate.NEW_TOKENS, context))
    heat = {"label": translated("Temperature"), "info": translated("0: always the likeliest token")}
    top_p = {"label": "Top-p", "info": translated("share of probability kept")}
    length = {"label": translated("Length"), "info": translated("tokens at most")}
    seed = {"label": translated("Seed"), "info": translated("the same seed gives the same text; empty: a new one")}
    with gradio.Row():
        first = [
            gradio.Slider(0, _HOTTEST, usual.temperature, step=0.05, elem_id="temperature", **heat),
            gradio.Slider(0.05, 1, usual.top_p, step=0.01, elem_id="top-p", **top_p),
        ]
    with gradio.Row():
        return [
            *first,
            gradio.Slider(1, context, usual.new_tokens, step=1, elem_id="length", **length),
            gradio.Textbox("", elem_id="seed", **seed),
        ]
