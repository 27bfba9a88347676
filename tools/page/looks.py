"""How the page looks: its colours, which are the report's, and the texts as HTML."""

from __future__ import annotations

from html import escape

import generate
from stages.lib.common import cli
from stages.lib.common.translation import translated
from stages.lib.page.marking import pieces
from tools.page.writing import Run, Wish

# The report's: of what stands in the corpus and of what is said beside, on a light screen and on a dark one.
MARK, DIM = ("#ffe08a", "#6b5200"), ("#5d636b", "#a3abb5")
STYLE = f"""
.gradio-container {{ --mark: {MARK[0]}; --dim: {DIM[0]}; max-width: 62rem !important; width: 100%; margin: auto }}
.dark .gradio-container, .gradio-container.dark {{ --mark: {MARK[1]}; --dim: {DIM[1]} }}
.gradio-container {{ --block-info-text-color: var(--dim); --block-label-text-color: var(--dim) }}
.text {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; min-height: 8rem; line-height: 1.55 }}
.text mark {{ background: var(--mark); color: inherit }}
.sheet h2 {{ margin: 0 0 .3rem; font-size: .9rem; font-weight: 600; color: var(--dim) }}
.state, .state * {{ color: var(--dim) }} .state {{ min-height: 1.5rem; overflow-wrap: anywhere }}
.state p {{ margin: 0 0 .2rem }} .state p.bad {{ color: var(--error-text-color) }} .state summary {{ cursor: pointer }}
.state code {{ white-space: pre-wrap; color: var(--body-text-color) }}
"""


def text_html(run: Run | None, name: str) -> str:
    """One model's text so far: the prompt in bold, what stands in the corpus marked."""
    written = ""
    if run and name in run.texts:
        marked = (
            f"<mark>{_plain(piece)}</mark>" if copied else _plain(piece)
            for piece, copied in pieces(run.texts[name], run.copied.get(name, []))
        )
        written = f"<b>{_plain(run.wish.prompt)}</b>{''.join(marked)}{'' if name in run.ended else '…'}"
    return f'<h2>{escape(translated(generate.TITLES[name]))}</h2><p class="text" dir="auto">{written}</p>'


def _plain(text: str) -> str:
    """A text as HTML that shows it as it is; control characters, which no browser shows, as escapes."""
    return escape(cli.harmless(text))


def run_html(run: Run, told: str = "", bad: str = "") -> str:
    """What there is to say of a run: how far it is, what went wrong, how to have it again; before it what was told."""
    before = "".join(f"<p>{escape(line)}</p>" for line in (told, *run.notes) if line)
    wrong = bad or run.error or ""
    after = _under_way(run) if not run.over else _again(run.wish) if run.texts else ""
    return _block(before + (_error(wrong) if wrong else "") + after)


def error_html(error: str) -> str:
    """What stands in the place of progress where nothing was begun."""
    return _block(_error(error))


def _block(html: str) -> str:
    return f'<div class="state" role="status">{html}</div>'


def _error(error: str) -> str:
    return f'<p class="bad">{escape(translated(f"error: {error}"))}</p>'


def _under_way(run: Run) -> str:
    now = "looks whether the texts stand in the training documents" if run.looking else "writes"
    return f"<p>{escape(translated('waits until another text is written' if run.waiting else now))}…</p>"


def _again(wish: Wish) -> str:
    named, again = escape(translated("Seed")), escape(translated("the same again in a terminal"))
    head = f'{named} <span id="seed-used">{wish.seed}</span>: {again}'
    return f"<details><summary>{head}</summary><code>{escape(wish.command)}</code></details>"
