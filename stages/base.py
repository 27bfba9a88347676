"""Stage `base`: the model to start from, from a folder or the Hub, in the one form the pipeline reads."""

from __future__ import annotations

from pathlib import Path

from stages.lib import cli, files, hub, params

OUTPUT = Path("model/base")


def main() -> None:
    """Write `model/base/` and, in `provenance.json`, where it came from."""
    everything = params.load()
    settings = everything.base
    if settings.hub:
        download = hub.download(settings.hub, settings.revision)
        name, source, commit = download.name, download.folder, download.commit
    else:
        name, source, commit = settings.folder, Path(settings.folder), None
        if not source.is_dir():
            raise cli.UserError(f"{name} is no folder: mend base.folder in params.yaml, or set base.hub")
    # Only now: PyTorch takes seconds to load and one to unload, and a download that fails or is stopped ends at once.
    from stages.lib import models

    # Nothing that is stored depends on these settings: they are refused here because here the work begins.
    everything.check_context(models.read_config(source, name).n_positions)
    with files.new_folder(OUTPUT) as folder:
        models.normalise(source, name, folder)
        provenance = {
            "name": name,
            "source": "hub" if settings.hub else "folder",
            "commit": commit,
            "licence": models.licence(source),
            "files": models.provenance(source),
        }
        files.write_json(folder / "provenance.json", provenance)
    cli.say(f"base: {name}" + (f" at commit {commit}" if commit else ""))


if __name__ == "__main__":
    cli.run(main)
