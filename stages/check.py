"""Stage `check`: whether the settings can be used, said before DVC deletes an output that would be made with them."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from stages.lib.common import cli, files, params, parents, scripts, versioned
from stages.lib.corpus import lines, records
from stages.lib.rows import limits
from stages.lib.tracking import choice

OUTPUT = Path("logs/checked")  # the same bytes whatever the settings are: nothing that depends on it runs again
BASE = Path("model/base")
LOOKED_AT = 100  # documents, whose letters prompts are held against


def main() -> None:
    """Write `logs/checked`, or say what is wrong with the settings."""
    settings = params.load()
    corpus, base = settings.corpus.path, settings.base
    if parents.in_experiment() and not versioned.known_to_git_or_dvc(corpus):
        quoted = shlex.quote(corpus)
        raise cli.UserError(
            f"{cli.printable(corpus)} is neither in DVC nor in git, and experiments work on what these two know: "
            + cli.command(f"dvc add {quoted} && git add {quoted}.dvc")
        )
    if not Path(corpus).exists() and not versioned.made_by_a_stage(corpus):
        raise cli.UserError(f"{cli.printable(corpus)} is not there: mend corpus.path in params.yaml")
    choice.require(choice.named(settings.train.report_to))
    limits.need_folder(base)
    if is_taken(base):
        limits.check(settings, BASE)
    # A new corpus is no reason to run this stage again: as a dependency, one that is missing would be DVC's to name, in
    # its words. Stage `validate` runs then, and says the same of it.
    if settings.evaluate.prompts != "auto":
        first = islice(first_texts(settings), LOOKED_AT)
        scripts.name_other_prompts(settings.evaluate.prompts, scripts.main_script(first))
    files.write_text(OUTPUT, "The settings can be used.\n")


def first_texts(settings: params.Params) -> Iterator[str]:
    """Yield the texts in the first block of the corpus; what is wrong with it or its lines is left to `validate`."""
    field, most = settings.corpus.text_field, settings.validate_.max_line_bytes
    try:
        content = next(iter(lines.Reader(settings.corpus.path, most)), lines.Block(1, b"", 0)).content
    except cli.UserError:
        return
    for number, raw in enumerate(io.BytesIO(content), 1):
        try:
            text = records.text_of(records.Line(number, raw, b"", len(raw)), field, most)
        except records.BadLine:
            continue
        if text is not None:
            yield text


def is_taken(base: params.Base) -> bool:
    """Whether `model/base` is still the one that these settings ask for: what it allows is known then."""
    try:
        taken = files.read_json(BASE / "provenance.json")
    except (OSError, ValueError):
        return False
    if base.hub:
        return (taken["source"], taken["name"]) == ("hub", base.hub) and base.revision in (None, taken["commit"])
    given = {path.name: files.sha256(path) for path in Path(base.folder).glob("*.json")}
    same = all(given.get(name) == one for name, one in taken["files"].items() if name.endswith(".json"))
    return (taken["source"], taken["name"]) == ("folder", base.folder) and same


if __name__ == "__main__":
    cli.run(main)
