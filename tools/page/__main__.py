"""Open a page to try the model on: the tuned one and the one that training started from, side by side.

    python -m tools.page
    python -m tools.page --port 8000

It is at http://127.0.0.1:7860 until Ctrl-C, for this machine alone. --host 0.0.0.0 opens it to all, with no password.
The packages for it stand in tools/page_requirements.txt. Texts that are kept go into logs/kept.jsonl.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import generate
import stages
from stages.lib.common import cli
from stages.lib.common.translation import Parser, above
from tools.packages import PAGE, package
from tools.page import server

HOST, PORT, KEPT = "127.0.0.1", 7860, Path("logs/kept.jsonl")


def main() -> None:
    """Serve the page until Ctrl-C."""
    args = arguments()
    if args.keep.is_dir():
        raise cli.UserError(f"--keep: {cli.printable(str(args.keep))} is a folder: name a file")
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with server.listening(args.host, args.port) as taken:
        with stages.loading():
            gradio = package("gradio", "the page", PAGE)
            from tools.page import layout  # with the libraries of the models
        page = layout.Page(gradio, generate.Models(("base", "tuned")), args.keep)
        app = server.application(page.blocks(), taken, **layout.looks_of(gradio))
        if server.is_reached_from_elsewhere(taken):
            cli.say("whoever reaches this machine can use the page: it asks for no password")
        cli.say(f"the page is at {server.address(taken)} until Ctrl-C")
        try:
            server.serve(app, taken)
        except KeyboardInterrupt:  # which is how it is meant to end
            pass
        finally:
            page.close()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--host", default=HOST, help="the address to listen at; by default only this machine sees it")
    parser.add_argument("--port", type=above(int, 0, 65535), default=PORT, help="0: any that is free")
    parser.add_argument("--keep", type=Path, default=KEPT, metavar="FILE", help="where texts go that are kept")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
    sys.stdout.flush()
    os._exit(0)  # a thread that is in the midst of a text would abort the interpreter's own end (SIGABRT)
