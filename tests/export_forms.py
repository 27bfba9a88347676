"""What the tests of exports share: every base that is accepted, and its GGUF."""

import torch
from layouts import LAYOUTS
from transformers import GPT2Config

from stages.lib.bases import conversion
from tools.export import to_gguf

TEXTS = [
    "The cat and the dog, don't they?  12 345",
    "— Ещё не вечер! — «так» сказал он.\n\n\tИ ушёл 🐈‍⬛",
    " blank at both ends ",
]
ACCEPTED = [layout for layout in LAYOUTS if not layout.refused]
# Not merges of bytes, so no vocabulary of llama.cpp's: refused by its export.
OF_BYTES = [layout for layout in ACCEPTED if "sentencepiece" not in layout.name]


def normalised(layout, folder, keep_special=False):
    """A base as the pipeline keeps it, of a published layout."""
    source = layout.fill(folder / "source")
    (folder / "base").mkdir()
    conversion.normalise(source.path, layout.name, folder / "base", layout.end_of_text, keep_special)
    return folder / "base"


def written(folder, output, kind="f32"):
    """The GGUF of a model folder."""
    to_gguf.export(folder, output, kind)
    return output / f"{folder.name}-{kind}.gguf"


def random_ids(folder):
    rows = GPT2Config.from_pretrained(folder).vocab_size
    return torch.randint(0, rows, (2, 40), generator=torch.Generator().manual_seed(0))


def copied(base, folder, config):
    """A base with another configuration."""
    folder.mkdir()
    for path in base.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config.save_pretrained(folder)
    return folder
