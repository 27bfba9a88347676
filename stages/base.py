"""Stage `base`: the model to start from, from a folder or the Hub, in the one form the pipeline reads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import stages
from stages.lib.bases import licence
from stages.lib.common import cli, files, params
from stages.lib.hub import snapshot
from stages.lib.rows import limits

if TYPE_CHECKING:
    from stages.lib.bases.conversion import Facts

OUTPUT = Path("model/base")


def main() -> None:
    """Write `model/base/` and, in `provenance.json`, what it is and where it came from."""
    everything = params.load()
    settings = everything.base
    limits.need_folder(settings)
    if settings.hub:
        download = snapshot.download(settings.hub, settings.revision)
        name, source, commit = download.name, download.folder, download.commit
    else:
        name, source, commit = settings.folder, Path(settings.folder), None
    # Only now: PyTorch takes seconds to load and one to unload, and a download that fails or is stopped ends at once.
    with stages.loading():
        from stages.lib.bases import conversion

    with files.new_folder(OUTPUT) as folder:
        facts = conversion.normalise(source, name, folder, settings.end_of_text, settings.special_tokens == "keep")
        # Nothing that is stored depends on these settings: they are refused here because here the work begins.
        limits.check(everything, folder)
        provenance = {
            "name": name,
            "source": "hub" if settings.hub else "folder",
            "commit": commit,
            "licence": licence.stated(source),
            **asdict(facts),
            "files": conversion.provenance(source, name),
        }
        files.write_json(folder / "provenance.json", provenance)
    _summary(name, commit, facts)


def _summary(name: str, commit: str | None, facts: Facts) -> None:
    cli.say(f"base: {cli.printable(name)}" + (f" at commit {commit}" if commit else ""))
    cli.say(
        f"  {facts.layers} layers of width {facts.width}, {facts.parameters / 1e6:.1f} M parameters, sees "
        f"{facts.context} tokens, knows {facts.vocabulary}"
    )
    opening, closing = map(cli.printable, (facts.opens_a_text, facts.closes_a_text))
    both, each = f"{closing} opens and closes a text", f"{opening} opens a text and {closing} closes it"
    cli.say(f"  {both if opening == closing else each}")
    for what in facts.converted:
        cli.say(f"  {what}")


if __name__ == "__main__":
    cli.run(main)
