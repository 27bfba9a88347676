"""Pretrain a small GPT-2 from scratch: the tool that made model/embedded.

    python -m tools.pretrain --corpus russian.jsonl:2 english.jsonl:4 --output model/embedded

Reads any JSON Lines files (`{"text": "..."}`), learns a byte-level BPE vocabulary from them, packs them into rows as
the pipeline does, and trains with Muon on the matrices inside the blocks and AdamW on everything else. The learning
rate rises over the first steps and then falls in a straight line to zero. `FILE:N` goes over a file N times.

Vocabulary, rows and the state of training stand in the folder OUTPUT.work; stopped or killed, the same command goes on
from there. The model is stored as bfloat16 safetensors, half the size of float32.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from datasets import concatenate_datasets
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import GPT2Config

from stages.lib.bases import vocabularies
from stages.lib.common import cli, files
from stages.lib.common.translation import Parser, above, folder
from stages.lib.corpus import documents, lines
from stages.lib.model import devices, scoring
from stages.lib.model import models as gpt2
from stages.lib.processes.interruption import Interruption
from stages.lib.rows import batches, packing, tokens
from stages.lib.rows.encoder import Encoder

LONGEST_LINE = 2**28  # bytes


@dataclass(frozen=True)
class Source:
    """A corpus file and how many times training goes over it."""

    path: Path
    passes: int

    @classmethod
    def parse(cls, text: str) -> Source:
        """From `FILE` or `FILE:N`."""
        path, _, passes = text.rpartition(":")
        return cls(Path(path), int(passes)) if path and passes.isdigit() and int(passes) else cls(Path(text), 1)

    def texts(self, tell: Callable[[str], None] = lambda _: None) -> Iterator[tuple[int, str]]:
        """Yield line number and text of each document; `tell` hears of each line that is left out, and why."""
        rules = documents.Rules("text", LONGEST_LINE)
        reader = lines.Reader(self.path, LONGEST_LINE)
        for block in reader:
            found = documents.read(rules, block)
            for problem in found.problems(rules):
                tell(f"left out: {reader.places.full(problem.line)}: {problem.reason}")
            yield from zip(found.lines, found.strings().to_pylist(), strict=True)


def train_tokenizer(sources: list[Source], size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of GPT-2's kind with `size` entries, each file weighing as often as it is read."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[vocabularies.END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for source in sources for _ in range(source.passes) for _, text in source.texts())
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encoded(source: Source, encoder: Encoder, chunk: int = 1000) -> Iterator[packing.Document]:
    """Yield the documents of a file as token ids."""
    waiting: list[tuple[int, str]] = []

    def flush() -> Iterator[packing.Document]:
        for (line, text), ids in zip(waiting, encoder.encode([text for _, text in waiting]), strict=True):
            yield packing.Document(line, ids, len(text.encode("utf-8")))
        waiting.clear()

    for item in source.texts(tell=cli.say):
        waiting.append(item)
        if len(waiting) == chunk:
            yield from flush()
    yield from flush()


def prepare(sources: list[Source], work: Path, vocabulary: int, context: int) -> None:
    """Learn the vocabulary and pack each file into `work`, unless an earlier run of the same command did."""
    if not (work / "tokenizer_config.json").exists():  # which is written last
        cli.say(f"learning a vocabulary of {vocabulary} entries")
        vocabularies.store(vocabularies.usual(train_tokenizer(sources, vocabulary)), work, context)
    encoder = Encoder(work)
    for index, source in enumerate(sources):
        path = work / f"{index}.arrow"
        if not path.exists():
            with files.new_file(path) as partial:
                rows, _, count = tokens.write_rows(partial, packing.pack(encoded(source, encoder), context))
            again = f", read {source.passes} times" if source.passes > 1 else ""
            cli.say(f"{source.path}: {count} tokens in {rows} rows of {context}{again}")


def optimizers(model: torch.nn.Module, matrix_rate: float, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, biases and layer norms."""
    blocks = list(model.transformer.h.parameters())
    matrices = [parameter for parameter in blocks if parameter.ndim == 2]
    chosen = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    made = [
        torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


def schedule(step: int, steps: int, warmup: int) -> float:
    """The share of the peak learning rate at a step: up over `warmup` steps or all, then straight down to zero."""
    warmup = min(warmup, steps)
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def train(args: argparse.Namespace, sources: list[Source], work: Path, interruption: Interruption) -> torch.nn.Module:
    """Train from the state in `work`, or from the start, until every pass is done. Raises Stopped when told to stop."""
    torch.manual_seed(args.seed)
    tokenizer = tokens.Tokenizer(work)
    config = GPT2Config(
        vocab_size=tokenizer.library.get_vocab_size(),  # fewer than were asked for, where there are few texts
        n_positions=args.context,
        n_embd=args.width,
        n_layer=args.layers,
        n_head=args.heads,
        bos_token_id=tokenizer.opening,
        eos_token_id=tokenizer.closing,
    )
    model = gpt2.create(config).to(devices.choose()).train()
    passes = [index for index, source in enumerate(sources) for _ in range(source.passes)]
    rows = concatenate_datasets([batches.open_rows(work, str(index)) for index in passes])
    order = np.random.default_rng(args.seed).permutation(len(rows))
    steps = len(order) // args.batch_rows
    if not steps:
        raise cli.UserError(
            f"{len(order)} rows make no step of {args.batch_rows}: give more texts, or lower --batch-rows"
        )
    made = optimizers(model, args.matrix_rate, args.rate)
    state_file, start, seen, trained = work / "state.pt", 0, 0, 0.0
    if state_file.exists():
        state = _read(state_file)
        start, seen, trained = state["step"], state["tokens"], state["seconds"]
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(made, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        cli.say(f"goes on from step {start} of {steps}")
    cli.say(
        f"{gpt2.parameters(model) / 1e6:.2f} M parameters, {steps} step{'s' * (steps > 1)} of {args.batch_rows} rows"
    )
    if steps < args.warmup:
        cli.say(
            f"  the learning rate should rise over {args.warmup} steps: in so few a model learns little; go over the "
            "files more often (FILE:N), or lower --batch-rows"
        )
    began = saved_at = time.monotonic()
    nats_sum = count_sum = 0.0
    for step in tqdm(range(start, steps), initial=start, total=steps, disable=None):
        chosen = order[step * args.batch_rows : (step + 1) * args.batch_rows]
        batch = batches.collate([rows[int(index)] for index in chosen])
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "position_ids", "labels")}
        predicted = len(batch["predicted"])
        with torch.autocast(model.device.type, torch.bfloat16, enabled=args.bfloat16):
            loss = scoring.next_token_nats(model, **inputs).sum() / predicted
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in made:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(step, steps, args.warmup)
            optimizer.step()
            optimizer.zero_grad()
        seen += predicted
        nats_sum, count_sum = nats_sum + loss.item() * predicted, count_sum + predicted
        now = time.monotonic()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            rate = seen / (trained + now - began)
            cli.say(f"step {step + 1}/{steps}: {nats_sum / count_sum:.4f} nats a token, {rate:.0f} tokens/s")
            nats_sum = count_sum = 0.0
        if now - saved_at > args.save_seconds or step + 1 == steps or interruption.reason:
            with files.new_file(state_file) as partial:
                state = {"step": step + 1, "tokens": seen, "seconds": trained + now - began}
                state |= {"model": model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in made]}
                torch.save(state, partial)
            saved_at = now
            interruption.check(f"at step {step + 1} of {steps}")
    return model.eval()


def _read(state_file: Path) -> dict[str, Any]:
    try:
        return torch.load(state_file)
    except (RuntimeError, EOFError, UnpicklingError):
        raise cli.UserError(f"{state_file} holds no state of a training: delete it, and training begins anew") from None


def save(model: torch.nn.Module, work: Path, output: Path) -> None:
    """Write the model as an ordinary Hugging Face folder, weights in bfloat16, beside what else is in `output`."""
    usual = GPT2Config()
    for name in ("activation_function", "attn_pdrop", "embd_pdrop", "resid_pdrop"):
        setattr(model.config, name, getattr(usual, name))
    output.mkdir(parents=True, exist_ok=True)
    gpt2.save(model.to(torch.bfloat16), output)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(work / name, output / name)


def evaluate(model: torch.nn.Module, encoder: Encoder, path: Path, limit: int) -> float:
    """Bits per byte over `limit` documents of a file, evenly spaced."""
    everything = list(encoded(Source(path, 1), encoder))
    places = np.linspace(0, len(everything) - 1, min(limit, len(everything)), dtype=int)
    return scoring.total(scoring.score_documents(model, [everything[place] for place in places])).bits_per_byte


def arguments() -> argparse.Namespace:
    """The command line."""
    parser, rate = Parser(__doc__), above(float, 1e-6, 1)
    parser.add_argument("--corpus", nargs="+", required=True, metavar="FILE[:N]", help="JSON Lines; N passes over it")
    parser.add_argument("--evaluate", nargs="*", default=[], metavar="FILE", help="JSON Lines to measure at the end")
    parser.add_argument(
        "--documents", type=above(int, 1), default=120, help="of each such file, evenly spaced (default 120)"
    )
    parser.add_argument("--output", type=folder, required=True, help="folder of the model")
    parser.add_argument("--vocabulary", type=above(int, 257), default=8192, help="entries (default 8192)")
    parser.add_argument("--layers", type=above(int, 1), default=4)
    parser.add_argument("--width", type=above(int, 1), default=256)
    parser.add_argument("--heads", type=above(int, 1), default=4)
    parser.add_argument("--context", type=above(int, 2), default=512, help="tokens the model can see (default 512)")
    parser.add_argument(
        "--batch-rows", type=above(int, 1), default=8, help="rows of `context` tokens a step (default 8)"
    )
    parser.add_argument("--matrix-rate", type=rate, default=6e-3, help="peak learning rate of Muon (default 6e-3)")
    parser.add_argument("--rate", type=rate, default=3e-3, help="peak learning rate of AdamW (default 3e-3)")
    parser.add_argument("--warmup", type=above(int, 1), default=100, help="steps (default 100)")
    parser.add_argument("--bfloat16", action="store_true", help="faster on GPUs, and on CPUs with AVX512-BF16 or AMX")
    parser.add_argument("--seed", type=above(int, 0, 2**32 - 1), default=0)
    parser.add_argument(
        "--save-seconds", type=above(float, 0), default=300, help="time between two saves (default 300)"
    )
    args = parser.parse_args()
    if args.width % args.heads:
        parser.error(f"argument --heads: {args.width} is no multiple of {args.heads}")
    return args


def main() -> None:
    """Make the model, store it, and measure what was stored."""
    args = arguments()
    devices.keep_freed_memory()
    sources = [Source.parse(text) for text in args.corpus]
    for path in [*(source.path for source in sources), *args.evaluate]:
        lines.size(path)  # what is not there is better known before hours of training than after
    for source in [*sources, *(Source(Path(path), 1) for path in args.evaluate)]:
        if next(source.texts(), None) is None:
            raise cli.UserError(
                f"{cli.printable(str(source.path))} has no document: files are JSON Lines, as tools.collect makes them"
            )
    work = args.output.with_name(args.output.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    command = work / "command.json"
    free_to_change = ("save_seconds", "evaluate", "documents")
    given = {name: str(value) for name, value in vars(args).items() if name not in free_to_change}
    given["sha256"] = [files.sha256_of_tree(source.path) for source in sources]
    if command.exists() and json.loads(command.read_text()) != given:
        raise cli.UserError(f"{work} belongs to another command or other files: delete it, or give another --output")
    files.write_json(command, given)
    prepare(sources, work, args.vocabulary, args.context)
    with Interruption() as interruption:
        model = train(args, sources, work, interruption)
    save(model, work, args.output)
    stored = gpt2.load(args.output)
    for name in args.evaluate:
        figure = evaluate(stored, Encoder(args.output), Path(name), args.documents)
        cli.say(f"{name}: {figure:.4f} bits per byte")
    place = cli.printable(str(args.output))
    cli.say(f"{place} is a base now: in params.yaml set base.folder: {place}, base.hub: null")
    cli.say(f"  and tokenize.max_length: {args.context} or less; {cli.printable(str(work))} can go")


if __name__ == "__main__":
    cli.run(main)
