"""Stage `base`: the model to start from, from a folder or the Hub, in the one form the pipeline reads."""

from __future__ import annotations

from pathlib import Path

from stages.lib import cli, files, hub, limits, models, params

OUTPUT = Path("model/base")


def main() -> None:
    """Write `model/base/` and, in `provenance.json`, where it came from."""
    everything = params.load()
    settings = everything.base
    if settings.hub:
        download = hub.download(settings.hub, settings.revision)
        name, source, commit, licence = settings.hub, download.folder, download.commit, download.licence
    else:
        name, source, commit, licence = settings.folder, Path(settings.folder), None, None
        if not source.is_dir():
            raise cli.UserError(f"{name} is no folder: mend base.folder in params.yaml, or set base.hub")
    with files.new_folder(OUTPUT) as folder:
        models.normalise(source, name, folder)
        # Nothing that is stored depends on these settings: they are refused here because here the work begins.
        limits.check(everything, folder)
        provenance = {
            "name": name,
            "source": "hub" if settings.hub else "folder",
            "commit": commit,
            "licence": licence or models.licence(source),
            "files": models.provenance(source),
        }
        files.write_json(folder / "provenance.json", provenance)
    cli.say(f"base: {name}" + (f" at commit {commit}" if commit else ""))


if __name__ == "__main__":
    cli.run(main)
