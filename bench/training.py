"""How fast a training step is, against two usual recipes with stock Trainer settings, and how full the machine is.

    python -m bench.training --corpus FILE         GPT-2's shape with 124 M random weights, and its own vocabulary
    python -m bench.training --base model/embedded another base, with its own vocabulary and weights
    ... --memory                                   besides: the memory of one step with batches of 8 and 16
    ... --quality                                  besides: whole runs, and the validation loss they come to
    ... --processes 1,2,4                          instead: one step, shared by so many processes
    ... --length 1024 --batch 32 --steps 20 --peak 989   on a GPU, here one of 989 TFLOP/s by its data sheet

The recipes: `padded`, every line padded to the length of a row, as most train.py do; `concatenated`, all lines in one
stream that is cut into rows, as run_clm.py does; `plain loop`, random pieces of that stream in a loop without Trainer,
fused and, on a GPU, compiled and in bfloat16, as nanoGPT does. All have the same base, corpus, batches and rows. Each
is a process that waits for its turn; in each turn it takes some steps. Tokens count when they are predicted: padding
does not.

The share of the peak is what a step computes, 6 N + 12 x layers x width x length operations a token, N without the
input embeddings' look-up and with the output matrix (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361, and the
attention scores), over what matrix products of the model's own shapes reach, measured in turns with the steps, in
float32 or, on a GPU, in bfloat16; or over `--peak`. Needs bench/requirements.txt for GPT-2's vocabulary.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from itertools import chain, product
from pathlib import Path
from statistics import median
from typing import Any

from bench import measure
from stages.lib.common import cli, files, params
from stages.lib.corpus import splits
from stages.lib.processes.group import Group

BASE, VALIDATED, TOKENS = Path("model/base"), Path("data/validated"), Path("data/tokens")
RECIPES = ("padded", "concatenated", "plain loop", "this stage, float32", "this stage")
EPOCHS = 3


def main() -> None:
    """Print the tables; with the name of a recipe as the first argument, be that recipe."""
    if sys.argv[1:2] and sys.argv[1] in (*RECIPES, "matmul"):
        _be(*sys.argv[1:])
        return
    parser = measure.arguments(__doc__)
    parser.add_argument("--base", type=Path, help="a base of this repository instead of GPT-2 with random weights")
    parser.add_argument("--batch", type=int, default=2, help="rows in a batch (default 2)")
    parser.add_argument("--length", type=int, default=512, help="tokens in a row (default 512)")
    parser.add_argument("--steps", type=int, default=2, help="steps in a turn (default 2; on a GPU take 20)")
    parser.add_argument("--peak", type=float, help="the machine's peak in TFLOP/s, instead of the measured one")
    parser.add_argument("--processes", help="numbers of processes to share a step, as 1,2,4, instead of the recipes")
    parser.add_argument("--memory", action="store_true", help="measure the memory of larger batches as well")
    parser.add_argument("--quality", action="store_true", help="measure whole runs as well")
    args = parser.parse_args()
    base = args.base and args.base.resolve()
    with measure.workspace() as folder:
        size = measure.write_corpus(folder, args.corpus or [measure.own_corpus()], args.megabytes)
        measure.change_settings(folder, {"tokenize": {"max_length": args.length}})
        measure.run(folder, "bench.training", "base", *([str(base)] if base else []))
        for stage in ("validate", "tokenize"):
            measure.run(folder, f"stages.{stage}")
        figures: dict[str, Any] = {"bytes": size, "batch": args.batch, "length": args.length}
        title = f"Training on {size / 1e6:.1f} MB of text, batches of {args.batch} x {args.length} tokens."
        if args.processes:
            _processes(folder, args, figures, title)
        else:
            _speed(folder, args, figures, title)
        if args.memory:
            _memory(folder, figures)
        if args.quality:
            _quality(folder, args, figures)
    if args.json:
        files.write_json(args.json, {"machine": measure.machine(), **figures})


def _speed(folder: Path, args: Any, figures: dict[str, Any], title: str) -> None:
    workers = {name: _Worker(folder, name, str(args.batch)) for name in ("matmul", *RECIPES)}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for _ in range(args.runs):
        for name, worker in workers.items():
            taken[name].append(worker.turn(args.steps))
    measured = median(one["operations"] / one["seconds"] for one in taken.pop("matmul"))
    peak = args.peak * 1e12 if args.peak else measured
    rates = {name: median(one["predicted"] / one["seconds"] for one in runs) for name, runs in taken.items()}
    work = {name: median(one["operations"] / one["seconds"] for one in runs) for name, runs in taken.items()}
    memory = {name: workers[name].end() for name in taken}
    workers["matmul"].end()
    figures |= {
        "tokens_per_second": rates,
        "operations_per_second": work,
        "peak": peak,
        "measured_peak": measured,
        "memory": memory,
    }
    measure.report(
        f"{title} The machine's own matrix products: {measured / 1e9:.0f} GFLOP/s.",
        ["recipe", "tokens/s", "times padded", "times concatenated", "share of the peak", "peak GB"],
        [
            [
                name,
                f"{rate:.0f}",
                f"{rate / rates['padded']:.2f}",
                f"{rate / rates['concatenated']:.2f}",
                f"{work[name] / peak:.0%}",
                f"{memory[name] / 1e9:.1f}",
            ]
            for name, rate in rates.items()
        ],
        figures,
        None,
    )


def _processes(folder: Path, args: Any, figures: dict[str, Any], title: str) -> None:
    """The same step, of so many batches that all can share them, by one process and by several."""
    counts = sorted({int(count) for count in args.processes.split(",")})
    batches = math.lcm(*counts)
    workers = {count: _Worker(folder, "this stage", str(args.batch), "", str(count), str(batches)) for count in counts}
    taken: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    for _ in range(args.runs):
        for count, worker in workers.items():
            taken[count].append(worker.turn(args.steps))
    for worker in workers.values():
        worker.end()
    rates = {count: [one["predicted"] / one["seconds"] for one in turns] for count, turns in taken.items()}
    figures["tokens_per_second"] = rates
    first = rates[counts[0]]
    ratios = {
        count: [rate / of_first for rate, of_first in zip(own, first, strict=True)] for count, own in rates.items()
    }
    measure.report(
        f"{title} A step takes {batches} of them.",
        ["processes", "tokens/s", f"times {counts[0]}", "in the turns"],
        [
            [
                count,
                f"{median(own):.0f}",
                f"{median(own) / median(first):.2f}",
                f"{min(ratios[count]):.2f} to {max(ratios[count]):.2f}",
            ]
            for count, own in rates.items()
        ],
        figures,
        None,
    )


def _memory(folder: Path, figures: dict[str, Any]) -> None:
    rows = []
    figures["memory_of_larger_batches"] = {}
    ours = product(("this stage, float32", "this stage"), (8, 16))
    for name, batch in [("concatenated", 8), *ours]:
        worker = _Worker(folder, name, str(batch))
        turn = worker.turn(1)
        memory = worker.end()
        figures["memory_of_larger_batches"][f"{name}, {batch}"] = memory
        rows.append([name, batch, f"{memory / 1e9:.1f}", f"{turn['predicted'] / turn['seconds']:.0f}"])
    measure.report("\nLarger batches.", ["recipe", "rows in a batch", "peak GB", "tokens/s"], rows, figures, None)


def _quality(folder: Path, args: Any, figures: dict[str, Any]) -> None:
    runs = {}
    for name in ("concatenated", "this stage, float32", "this stage"):
        worker = _Worker(folder, name, str(args.batch), "whole")
        runs[name] = list(worker.lines())
    figures["whole_runs"] = runs
    aim = runs["concatenated"][-1]["bits_per_byte"]
    rows = []
    for name, points in runs.items():
        reached = next((point["seconds"] for point in points if point["bits_per_byte"] <= aim), None)
        rows.append(
            [
                name,
                *(f"{point['bits_per_byte']:.4f}" for point in points),
                f"{points[-1]['seconds']:.0f}",
                "-" if reached is None else f"{reached:.0f}",
            ]
        )
    epochs = [f"after epoch {number}" for number in range(1, EPOCHS + 1)]
    header = ["recipe", *epochs, "seconds", f"seconds to {aim:.4f}"]
    measure.report(
        "\nWhole runs over the same documents at the same learning rate: validation, bits per byte.",
        header,
        rows,
        figures,
        None,
    )


class _Worker:
    """A recipe in a process of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._words = words
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.training", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(measure.HOME), os.environ.get("PYTHONPATH", "")])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def lines(self) -> Iterator[dict[str, float]]:
        """What it reports until it ends. Raises UserError when it fails."""
        for line in self._process.stdout:
            if line.startswith('{"'):  # and not what the Trainer prints
                yield json.loads(line)
        if self._process.wait():
            raise cli.UserError(f"{' '.join(self._words)} failed:\n{self._process.stderr.read()}")

    def turn(self, steps: int) -> dict[str, float]:
        """Have it take some steps; return their seconds, predicted tokens and operations."""
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return next(self.lines())

    def end(self) -> int:
        """Have it end; return the most memory it held, in bytes."""
        self._process.stdin.close()
        return int(next(self.lines())["memory"])


# What follows runs in the workers.


def _be(recipe: str, batch: str, whole: str = "", processes: str = "1", batches: str = "1") -> None:
    import torch

    from stages.lib.model import devices
    from stages.lib.processes import launch

    if recipe == "matmul":
        _matrix_products()
        return
    torch.manual_seed(0)
    if recipe == "plain loop":
        _plain_loop(int(batch))
        return
    if recipe in _STOCK:
        trainer = _STOCK[recipe](int(batch), bool(whole))
        (_follow if whole else _take_steps)(trainer)
        return
    with launch.together("bench.training", int(processes), devices.choose()) as group:
        trainer = _stage(recipe, int(batch), bool(whole), int(batches), group)
        trainer.add_callback(_in_step(group))
        if group.first:
            (_follow if whole else _take_steps)(trainer)
        else:
            trainer.train()


def _answers() -> Generator[None, tuple[float, int, float], None]:
    """Take what steps came to, one after the other; answer every number that is read with the sum of so many.

    The first step is not counted: it also sets things up. Ends the process after the last number.
    """
    yield
    for line in sys.stdin:
        taken = []
        for _ in range(int(line)):
            taken.append((yield))
        seconds, predicted, operations = map(sum, zip(*taken, strict=True))
        cli.say(json.dumps({"seconds": seconds, "predicted": predicted, "operations": operations}))
    cli.say(json.dumps({"memory": _most_memory()}))
    os._exit(0)  # the Trainer would go on


def _most_memory() -> int:
    """The most that this process held: of the GPU's memory where it used one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _now() -> float:
    """The time at which all work given out so far is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _operations(config: Any, size: int, rows: int, length: int) -> int:
    """What a training step computes; `size` is that of the model without its positions."""
    return rows * length * (6 * size + 12 * config.n_layer * config.n_embd * length)


def _matrix_products() -> None:
    """The products of one block's matrices and of the output matrix, with two rows of 512 tokens; more on a GPU."""
    import torch
    from transformers import GPT2Config

    from stages.lib.model import devices

    config = GPT2Config.from_pretrained(BASE)
    device = devices.choose()
    width, tokens = config.n_embd, 1024 if device.type == "cpu" else 32768
    kind = {"device": device, "dtype": torch.float32 if device.type == "cpu" else torch.bfloat16}
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)] * config.n_layer
    shapes.append((width, config.vocab_size))
    products = [
        (
            shapes.count((inner, outer)),
            *(torch.randn(size, **kind) for size in ((tokens, inner), (inner, outer), (tokens, outer))),
        )
        for inner, outer in dict.fromkeys(shapes)
    ]
    operations = sum(2 * tokens * inner * outer for inner, outer in shapes)
    answers = _answers()
    next(answers)
    while True:
        began, rounds = _now(), 0
        while _now() - began < 0.5:  # less would measure how threads wake up
            rounds += 1
            for count, left, right, out in products:
                for _ in range(count):
                    torch.mm(left, right, out=out)
        answers.send((_now() - began, rounds * tokens, rounds * operations))


def _take_steps(trainer: Any) -> None:
    """Have the Trainer take steps as they are asked for."""
    from transformers import TrainerCallback

    model, collate, seen = trainer.model, trainer.data_collator, []
    size = _size(model)
    answers = _answers()
    next(answers)

    def collate_and_count(rows: Any) -> dict[str, Any]:
        batch = collate(rows)
        seen.append((int((batch["labels"][:, 1:] != -100).sum()), *batch["input_ids"].shape))
        return batch

    class Steps(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = _now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds = _now() - self.began
            batches = [seen.pop(0) for _ in range(trainer.args.gradient_accumulation_steps)]
            operations = sum(_operations(model.config, size, rows, length) for _, rows, length in batches)
            answers.send((seconds, sum(predicted for predicted, _, _ in batches), operations))
            self.began = _now()  # of the next step, which begins with fetching its batches, whatever the recipe

    trainer.data_collator = collate_and_count
    trainer.add_callback(Steps())
    trainer.train()


def _in_step(group: Group) -> Any:
    """Keeps the other processes from a step that the first one has not been asked for."""
    from transformers import TrainerCallback

    class InStep(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            group.told(None)

    return InStep()


def _size(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters()) - model.transformer.wpe.weight.numel()


def _plain_loop(batch: int) -> None:
    """Random pieces of the stream, step by step."""
    import torch
    from transformers import GPT2LMHeadModel

    from stages.lib.model import devices

    device, length = devices.choose(), params.load().tokenize.max_length
    on_gpu = device.type == "cuda"
    stream = torch.tensor(_stream())
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel.from_pretrained(BASE, activation_function="gelu_pytorch_tanh", **no_dropout)
    model.to(device).train()
    step = torch.compile(model) if on_gpu else model
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    answers = _answers()
    next(answers)
    while True:
        began = _now()
        starts = torch.randint(len(stream) - length, (batch,)).tolist()
        ids = torch.stack([stream[start : start + length] for start in starts]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            loss = step(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds = _now() - began
        answers.send((seconds, batch * (length - 1), _operations(model.config, _size(model), batch, length)))


def _follow(trainer: Any) -> None:
    """Train to the end; report the validation after each epoch and the seconds of training until then."""
    from transformers import TrainerCallback

    from stages.lib.model import scoring
    from stages.lib.rows import tokens
    from stages.lib.rows.packing import documents_of

    closing = tokens.Tokenizer(BASE).closing

    class Validation(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began, self.aside = time.perf_counter(), 0.0

        def on_epoch_end(self, *_: Any, model: Any, **__: Any) -> None:
            paused = time.perf_counter()
            documents = documents_of(tokens.read_rows(TOKENS / "validation.arrow"), closing)
            total = scoring.total(scoring.score_documents(model, documents))
            cli.say(json.dumps({"bits_per_byte": total.bits_per_byte, "seconds": paused - self.began - self.aside}))
            self.aside += time.perf_counter() - paused

    trainer.add_callback(Validation())
    trainer.train()


def _stock(rows: Any, batch: int, whole: bool, **others: Any) -> Any:
    """The Trainer with its own settings but for `others`, and the model as transformers loads it."""
    import torch
    import transformers

    from stages.lib.training import plan

    tokenizer = transformers.AutoTokenizer.from_pretrained(BASE)
    tokenizer.pad_token = tokenizer.eos_token
    model = transformers.AutoModelForCausalLM.from_pretrained(BASE)
    settings = params.load().train
    like_ours = {
        "learning_rate": plan.learning_rate(settings.learning_rate, model.num_parameters()),
        "lr_scheduler_type": settings.scheduler,
        "warmup_steps": settings.warmup_fraction,
    }
    arguments = transformers.TrainingArguments(
        output_dir="recipe",
        per_device_train_batch_size=batch,
        num_train_epochs=EPOCHS if whole else 1_000_000,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        **((like_ours if whole else {}) | others),
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one card for all recipes: left alone, it would take all there are
    return transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )


def _texts() -> list[str]:
    return [text for batch in splits.read_documents(VALIDATED, "train") for text in batch["text"].to_pylist()]


def _padded(batch: int, whole: bool) -> Any:
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer, length = AutoTokenizer.from_pretrained(BASE), params.load().tokenize.max_length
    tokenizer.pad_token = tokenizer.eos_token
    encoded = tokenizer(_texts(), add_special_tokens=False, truncation=True, max_length=length, padding="max_length")
    return _stock(Dataset.from_dict(dict(encoded)), batch, whole)


def _stream() -> list[int]:
    """The tokens of all lines, one after the other."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    return list(chain.from_iterable(tokenizer(_texts(), add_special_tokens=False)["input_ids"]))


def concatenated(batch: int, whole: bool, **others: Any) -> Any:
    """The Trainer of the recipe `concatenated`, over BASE and TOKENS; `others` are settings of its own."""
    from datasets import Dataset

    stream, length = _stream(), params.load().tokenize.max_length
    blocks = [stream[at : at + length] for at in range(0, len(stream) - length + 1, length)]
    return _stock(Dataset.from_dict({"input_ids": blocks}), batch, whole, **others)


_STOCK = {"padded": _padded, "concatenated": concatenated}


def _stage(recipe: str, batch: int, whole: bool, batches: int, group: Group) -> Any:
    """The Trainer as the stage `train` sets it up, for steps of so many batches."""
    from stages.lib.model import devices, models, trainable
    from stages.lib.rows.batches import collate, open_rows
    from stages.lib.training import checkpoints
    from stages.lib.training.plan import Plan
    from stages.lib.training.record import Record
    from stages.lib.training.trainer import prepare

    devices.keep_freed_memory()
    given = params.load().train
    devices.repeat_exactly(devices.choose(), given.deterministic)
    settings = given.model_copy(
        update={
            "batch_size": batch,
            "epochs": EPOCHS if whole else 1_000_000,
            "precision": "float32" if recipe.endswith("float32") else "auto",
            "save_steps": 10**9,
            "logging_steps": 10**9,
        }
    )
    rows = open_rows(TOKENS, "train")
    plan = Plan(len(rows), batches, math.ceil(len(rows) / (batch * batches)), steps=10**9, logging_steps=10**9)
    speed = devices.choose_speed(settings, devices.choose(), plan.steps_per_epoch * EPOCHS, models.head_width(BASE))
    model = trainable.load(BASE, settings, speed.attention)
    run = checkpoints.Run("bench")
    return prepare(model, rows, settings, plan, run, Record(), collate, speed, group)


if __name__ == "__main__":
    if sys.argv[1:2] == ["base"]:
        cli.run(lambda: measure.write_base(Path(), *map(Path, sys.argv[2:])))
    else:
        cli.run(main)
