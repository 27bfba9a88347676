"""Makes the corpus of what people have.

    python -m tools.collect SOURCE...

A source is a file or a folder: texts, books (EPUB, FB2, Word, OpenDocument, HTML, RTF), tables (CSV, Excel), chats
(Telegram, WhatsApp, VK), records (JSON, JSON Lines, Parquet, Arrow), and archives of them. What a file is, is told by
its content. docs/corpus.md has the details.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from stages.lib.common import cli, files, versioned
from stages.lib.common.translation import Parser, translated
from tools.collect import decoding, divide
from tools.collect.account import Account
from tools.collect.collection import Collection
from tools.collect.documents import Wishes

OUTPUT = "data/my_corpus.jsonl"


def main() -> None:
    """Write the corpus, and say what is in it and what is not."""
    args = arguments().parse_args()
    wishes = _wishes(args)
    to_terminal = args.output == "-"
    if not to_terminal and Path(args.output).exists() and not args.force:
        raise cli.UserError(
            f"{cli.printable(args.output)} is there already: --force replaces it, --output FILE writes another"
        )
    say = _say_beside if to_terminal else cli.say
    account = Account(wishes)
    with ExitStack() as stack:
        if to_terminal:
            out = sys.stdout.buffer
        else:
            out = stack.enter_context(open(stack.enter_context(files.new_file(args.output)), "wb"))
        with cli.progress("collect", None, " documents") as bar:
            collection = Collection(wishes, account, out, args.bare, bar)
            for source in args.sources:
                collection.add(Path(source), Path(args.output).resolve())
        account.require_no_obstacle()
        for line in account.lines():
            say(line)
        account.require_speaker()
        if not account.documents:
            raise cli.UserError("no document was found in what was given: nothing is written")
    for line in (*account.examples(), account.advice()):
        if line:
            say(line)
    for source in args.sources:
        if versioned.would_enter_git(source):
            say(
                f"warning: {cli.printable(source)} lies in the project, and git add . would take it along: move it to "
                "my-texts/, which git ignores, or out of the project"
            )
    where = "" if to_terminal else f", in {cli.printable(args.output)}"
    say(f"{account.documents} documents, {account.characters} characters{where}")


def _say_beside(line: str) -> None:
    """Say what must not stand among the documents."""
    print(cli.harmless(translated(line)), file=sys.stderr)


def arguments() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = Parser(__doc__)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="a file, a folder or an archive")
    parser.add_argument("--output", default=OUTPUT, metavar="FILE", help=f"default: {OUTPUT}; - for the terminal")
    parser.add_argument("--force", action="store_true", help="replace the file that is there")
    parser.add_argument("--bare", action="store_true", help="without a field that says where each document is from")
    parser.add_argument("--encoding", metavar="NAME", help="of all texts, where it is not found out rightly")
    parser.add_argument(
        "--by", choices=divide.WAYS, help="what becomes a document; default: a file, of a book a chapter"
    )
    parser.add_argument(
        "--mark", action="append", default=[], metavar="TEXT", help="what parts documents in a text, and goes"
    )
    parser.add_argument("--size", type=int, default=4000, metavar="N", help="characters for --by size; default: 4000")
    parser.add_argument("--column", metavar="NAME", help="the column or field that holds the text")
    parser.add_argument("--template", metavar="TEXT", help="fields to a text, such as '{question}\\n{answer}'")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--mine", metavar="NAME", help="of chats, what this person wrote")
    who.add_argument("--dialogue", action="store_true", help="of chats, exchanges with names")
    parser.add_argument(
        "--pause", type=float, default=3, metavar="HOURS", help="of silence, that begin a new document; default: 3"
    )
    return parser


def _wishes(args: argparse.Namespace) -> Wishes:
    """What is asked for. Raises UserError where it cannot be."""
    if args.size < 100:
        raise cli.UserError(f"--size {args.size}: pieces have at least 100 characters")
    if not args.pause >= 0:
        raise cli.UserError(f"--pause {args.pause:g}: hours, from 0 on; inf for no pause at all")
    if args.encoding and not decoding.known(args.encoding):
        raise cli.UserError(f"--encoding {cli.printable(args.encoding)} is none that Python knows: try utf-8 or cp1251")
    names = ("by", "size", "column", "template", "mine", "dialogue", "pause", "encoding")
    if not all(args.mark):
        raise cli.UserError("--mark is empty: give it what stands between the documents")
    marks = tuple(mark.replace("\\n", "\n") for mark in args.mark)
    return Wishes(marks=marks, **{name: getattr(args, name) for name in names})


if __name__ == "__main__":
    cli.run(main)
