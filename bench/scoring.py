"""How fast documents are scored, against scoring them one by one and in padded batches as they come.

    python -m bench.scoring                              GPT-2's shape with 124 M random weights, on the sample corpus
    python -m bench.scoring --base model/embedded        another base, with its own vocabulary and weights
    ... --corpus FILE --documents 100                    other documents, the first so many

All are in float32 and take turns. `one by one` and `padded batches` are a plain loop over transformers' own model and
loss; the batches hold eight documents in the order of the corpus. The last column is the largest relative error of a
document's nats, held against the plain loop in float64. Needs bench/requirements.txt for GPT-2's vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel

from bench import measure
from stages.lib.common import cli
from stages.lib.model import devices, models, scoring
from stages.lib.rows import tokens
from stages.lib.rows.packing import Document

BATCH = 8  # documents in a padded batch


def main() -> None:
    """Print the table."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--base", type=Path, help="a base of this repository instead of GPT-2 with random weights")
    parser.add_argument("--documents", type=int, default=20, help="documents to score (default 20)")
    args = parser.parse_args()
    devices.keep_freed_memory()
    with measure.workspace() as folder:
        measure.write_base(folder, args.base)
        model = models.load(folder / "model/base").to(devices.choose())
        found = _documents(folder / "model/base", model.config.n_positions, args.corpus or [measure.own_corpus()])
        documents = list(islice(found, args.documents))
    ways = {
        "this project": lambda: [one.nats + one.end_of_text_nats for one in scoring.score_documents(model, documents)],
        "padded batches": lambda: _padded(model, documents, BATCH),
        "one by one": lambda: _padded(model, documents, 1),
    }
    nats = {name: np.array(way()) for name, way in ways.items()}
    seconds = dict(zip(ways, measure.in_turns(args.runs, *ways.values()), strict=True))
    count = sum(len(document.ids) - 1 for document in documents)
    rates = {name: count / taken for name, taken in seconds.items()}
    exact = np.array(_padded(model.double(), documents, 1))
    apart = {name: float(np.max(np.abs(one / exact - 1))) for name, one in nats.items()}
    rows = [
        [name, f"{rate:.0f}", f"{rate / rates['one by one']:.2f}", f"{apart[name]:.0e}"] for name, rate in rates.items()
    ]
    header = ["way", "tokens/s", "times one by one", "error"]
    figures = {"documents": len(documents), "tokens_per_second": rates, "relative_error": apart}
    measure.report(f"Scoring {len(documents)} documents, {count} tokens.", header, rows, figures, args.json)


def _documents(base: Path, context: int, corpora: list[Path]) -> Iterator[Document]:
    """The documents that the model sees whole: for longer ones the plain loops would have to be less plain."""
    tokenizer = tokens.Tokenizer(base)
    for path in corpora:
        for number, text in enumerate(measure.texts(path), 1):
            ids = tokenizer.document(tokenizer.encode(text))
            if len(ids) <= context:
                yield Document(number, ids, len(text.encode()))


@torch.no_grad()
def _padded(model: GPT2LMHeadModel, documents: list[Document], size: int) -> list[float]:
    """Nats of each document, end-of-text included, in batches of `size` padded to the longest of each."""
    nats: list[float] = []
    for at in range(0, len(documents), size):
        batch = [torch.from_numpy(document.ids).long() for document in documents[at : at + size]]
        ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True).to(model.device)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in batch], batch_first=True)
        logits = model(ids, attention_mask=mask.to(model.device)).logits[:, :-1]
        losses = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").cpu() * mask[:, 1:]
        nats += losses.double().sum(1).tolist()
    return nats


if __name__ == "__main__":
    cli.run(main)
