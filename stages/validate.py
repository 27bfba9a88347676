"""Stage `validate`: the corpus line by line, into documents that are known to be good, each in its split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from stages.lib import cli, corpus, files, params

OUTPUT = Path("data/validated")
REJECTED = Path("data/rejected.jsonl")
FIGURES = Path("logs/validate.json")
SHOWN = 20  # problems named one by one


def main() -> None:
    """Write `data/validated/`, `data/rejected.jsonl` and `logs/validate.json`."""
    settings = params.load()
    path, rules = settings.corpus.path, settings.validate_
    lines = Counter(lines=0, duplicates=0, rejected=0, blank=0)
    splits = {split: Counter(documents=0, characters=0, bytes=0) for split in corpus.SPLITS}
    first_lines: dict[bytes, int] = {}  # by document key
    problems: list[str] = []  # the first of them
    with (
        files.new_folder(OUTPUT) as folder,
        files.new_file(REJECTED) as rejected_file,
        corpus.Writer(folder) as writer,
        open(folder / "duplicates.tsv", "w", encoding="utf-8") as duplicates,
        open(rejected_file, "w", encoding="utf-8") as rejected,
        cli.progress("validate", corpus.size(path), "B") as bar,
    ):
        duplicates.write("line\tduplicate_of\n")
        for number, line in corpus.read_lines(path):
            bar.update(len(line) + 1)
            lines["lines"] += 1
            try:
                text = corpus.parse_line(line, settings.corpus.text_field)
            except corpus.BadLine as reason:
                lines["rejected"] += 1
                content = line.decode("utf-8", errors="backslashreplace")
                rejected.write(files.to_json_line({"line": number, "reason": str(reason), "content": content}))
                if len(problems) < SHOWN:
                    problems.append(f"{path}, line {number}: {reason}")
                continue
            if text is None:
                lines["blank"] += 1
                continue
            key = corpus.document_key(text)
            if (first := first_lines.setdefault(key, number)) != number:
                lines["duplicates"] += 1
                duplicates.write(f"{number}\t{first}\n")
                continue
            split = corpus.split_of(key, rules.split_seed, rules.validation_fraction, rules.test_fraction)
            size = writer.add(text, number, split)
            splits[split].update(documents=1, characters=len(text), bytes=size)
        if problems and rules.on_error == "fail":
            raise cli.UserError(_bad_lines(path, lines["rejected"], problems))
        if not splits["train"]["documents"]:
            raise cli.UserError(_nothing_to_train_on(path, splits, problems))
    kept = sum(split["documents"] for split in splits.values())
    figures = {"lines": lines.pop("lines"), "kept": kept, **lines, **splits}
    files.write_json(FIGURES, figures)
    _summary(path, figures)


def _bad_lines(path: str, count: int, problems: list[str]) -> str:
    more = [f"... and {count - len(problems)} more"] if count > len(problems) else []
    first = f"{count} bad line{'s' * (count > 1)} in {path}: mend them, or set validate.on_error: skip in params.yaml"
    return "\n".join([first, *problems, *more])


def _nothing_to_train_on(path: str, splits: dict[str, Counter], problems: list[str]) -> str:
    if any(split["documents"] for split in splits.values()):
        return (
            f"every document of {path} fell into validation or test: add texts, or set validate.validation_fraction "
            "and validate.test_fraction to 0 in params.yaml"
        )
    return "\n".join([f"{path} holds no document: put your texts into it", *problems])


def _summary(path: str, figures: dict) -> None:
    counts = ", ".join(f"{figures[name]} {name}" for name in ("kept", "duplicates", "rejected", "blank"))
    cli.say(f"validate: {path}: {figures['lines']} lines: {counts}")
    for split in corpus.SPLITS:
        cli.say("  {}: {documents} documents, {characters} characters, {bytes} bytes".format(split, **figures[split]))
        if not figures[split]["documents"]:
            cli.say(f"  no document fell into {split}: its figures stay empty. A larger corpus fills it")


if __name__ == "__main__":
    cli.run(main)
