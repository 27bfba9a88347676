"""Sharded training: each process holds a part of the blocks, and together they train what one does."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
from conftest import ONE_THREAD, Project, many_texts
from processes.several import run_on
from processes.test_launch import (
    STEPS_OF_FOUR,
    TRAINED,
    assert_a_kill_is_one_line,
    assert_no_answer_is_one_line,
    on,
)
from processes.test_launch import trained as outputs
from safetensors.torch import load_file
from tiny_training import train
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from stages.lib.model import generation, loss, models, scoring
from stages.lib.processes import sharding
from stages.lib.processes.group import ALONE
from stages.lib.rows import batches, packing, tokens
from stages.lib.rows.encoder import Encoder

pytestmark = pytest.mark.slow  # a minute, in processes of their own

# Steps of four batches, five an epoch; the last of them has fewer.
STEPS = {"batch_size": 1, "epochs": 1, "save_steps": 3, "save_total_limit": 1}
# bfloat16 makes 1e-4 of the last bit of a norm: so without clipping.
KINDS = {
    "plain": {"epochs": 2},
    "bfloat16": {"precision": "bfloat16", "max_grad_norm": 0.0},
    "dropout": {"dropout": 0.1, "gradient_checkpointing": True, "label_smoothing": 0.1, "keep": "last"},
    "frozen": {"freeze_layers": 1},
    "lora": {"lora_rank": 4, "dropout": 0.1},
    "lora in bfloat16": {"lora_rank": 4, "precision": "bfloat16", "max_grad_norm": 0.0},
}


class Killed(Exception):
    pass


class Held(TrainerCallback):
    """How many numbers of the blocks' matrices a process has before and after a step, and how many there are."""

    def __init__(self):
        self.shares = set()

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        self._note(blocks(model))
        self._note([parameter.grad for parameter in blocks(model) if parameter.requires_grad])

    def on_step_end(self, args, state, control, model, optimizer, **_):
        for name in ("exp_avg", "exp_avg_sq"):
            self._note([optimizer.state[parameter][name] for parameter in blocks(model) if parameter.requires_grad])

    def _note(self, tensors):
        own = sum(tensor.to_local().numel() if isinstance(tensor, DTensor) else tensor.numel() for tensor in tensors)
        self.shares.add(own / sum(tensor.numel() for tensor in tensors))


def blocks(model):
    return [parameter for name, parameter in model.named_parameters() if ".attn." in name or ".mlp." in name]


def trained(group, given):
    """The runs of `given`, one after the other: what a process has to say of each, None where it died."""
    base, found = Path(given["base"]), []
    tokenizer = tokens.Tokenizer(base)
    encoded = Encoder(base).encode(many_texts(9))
    documents = [packing.Document(line, ids, 10 * line) for line, ids in enumerate(encoded, 1)]

    def validate(model, check):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return scoring.total(scoring.score_documents(model, documents, batch_tokens=64, group=group))

    def write_samples(model, check):
        texts = generation.by_itself(model, tokenizer, 2, generation.Sampling(8), check)
        written.append([one.text for one in texts])
        return texts

    for folder, until, changes in given["runs"]:
        written, held, precision = [], Held(), changes.get("precision")
        rows = batches.open_rows(given["rows"], "train")

        def on_point(point, until=until):
            if point["step"] == until:
                raise Killed

        try:
            done = train(base, rows, Path(folder), validate, write_samples, None, held, on_point, group, **changes)
        except Killed:
            found.append(None)
            continue
        found.append({key: getattr(done.record, key) for key in ("curve", "validation", "best_step")})
        found[-1] |= {"began_at": done.began_at, "samples": written, "shares": list(held.shares)}
    return found


def trained_and_saved(group, given):
    """What `trained` says, and what `kept_for_backward` in either precision."""
    return trained(group, given), [kept_for_backward(group, given["base"], precise) for precise in (False, True)]


def kept_for_backward(group, base, bfloat16):
    """How many bytes of matrices as large as those of the blocks are there after a forward pass."""
    model = models.load(base)
    shapes = {shape for matrix in blocks(model) if matrix.ndim == 2 for shape in (matrix.shape, matrix.T.shape)}
    if group.size > 1:
        sharding.shard(model, torch.device("cpu"), group, bfloat16)
    kept = []
    ids = torch.arange(24)[None]  # 24 rows: no activation has the shape of a matrix
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
    ):
        result = loss.summed_nats(model, ids, ids, ids)
    del result
    return sum(tensor.untyped_storage().nbytes() for tensor in kept if tensor.shape in shapes)


def runs(folder, size, *named):
    """The runs of these names, each with the step it dies at and its settings, in folders of these names."""
    settings = {**STEPS, "gradient_accumulation_steps": 4, "sharding": "none" if size == 1 else "full"}
    return [(str(folder / name), until, settings | changes) for name, until, changes in named]


KINDS_RUN = [(name, None, changes) for name, changes in KINDS.items()]
KILLED = ["lora", "dropout"]  # the kinds of which one more run is killed


@pytest.fixture(scope="module")
def given(tiny_base, rows):
    return {"base": str(tiny_base), "rows": str(Path(rows.cache_files[0]["filename"]).parent)}


@pytest.fixture(scope="module")
def alone(given, tmp_path_factory):
    """What one process says of each kind, and where its checkpoints are; one more run it leaves after seven steps."""
    folder = tmp_path_factory.mktemp("alone")
    said = trained(ALONE, given | {"runs": runs(folder, 1, *KINDS_RUN, ("left", 7, KINDS["plain"]))})
    return dict(zip(KINDS, said, strict=False)), folder


@pytest.fixture(scope="module")
def two(given, alone, tmp_path_factory):
    """What each of two processes says of each kind, of runs that are gone on with, and of what is kept; the folder."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(alone[1] / "left", folder / "begun by one")
    killed = [(f"killed, {kind}", at, KINDS[kind]) for kind in KILLED for at in (4, None)]
    named = [*KINDS_RUN, *killed, ("begun by one", None, KINDS["plain"]), ("left", 7, KINDS["plain"])]
    given = given | {"runs": runs(folder, 2, *named)}
    names = [name for name, _, _ in named]
    said = run_on(2, "processes.test_sharding:trained_and_saved", given, folder)
    return [(dict(zip(names, found, strict=True)), kept) for found, kept in said], folder


def assert_same_course(one, other, tolerance=1e-5):
    """Curves, validations and what was written after them agree."""
    for key in ("curve", "validation"):
        assert len(one[key]) == len(other[key])
        for point, truth in zip(one[key], other[key], strict=True):
            assert point == pytest.approx(truth, rel=tolerance)
    assert one["best_step"] == other["best_step"]
    assert one["samples"] == other["samples"][-len(one["samples"]) :]


def assert_same_files(folder, other, **tolerance):
    """The last checkpoints, and the best weights, have the same files, with the same tensors in them."""
    for name in {path.name for path in other.iterdir()}:
        files = {path.name for path in (other / name).iterdir()}
        assert {path.name for path in (folder / name).iterdir()} == files
        for file in files:
            if file.endswith(".safetensors"):
                one, two = (load_file(path / name / file) for path in (folder, other))
                if tolerance["rtol"]:  # softmax takes no notice of the keys' bias, whose gradient is but noise
                    one, two = ({key: one[key] for key in one if "c_attn.bias" not in key} for one in (one, two))
                torch.testing.assert_close(one, two, **tolerance)
            elif file == "optimizer.pt":
                one, two = (torch.load(path / name / file) for path in (folder, other))
                torch.testing.assert_close(one["state"], two["state"], **tolerance)
                assert one["param_groups"] == two["param_groups"]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_what_one_does(alone, two, kind):
    (first, _), (second, _) = two[0]
    assert first[kind] == second[kind]
    # With LoRA in bfloat16 two gradients meet at a layer's input, in that precision.
    near = kind == "lora in bfloat16"
    assert_same_course(first[kind], alone[0][kind], 1e-3 if near else 1e-5)
    assert_same_files(two[1] / kind, alone[1] / kind, rtol=1e-3, atol=5e-3 if near else 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_holds_its_part_of_weights_gradients_and_optimizer(alone, two, kind):
    for said, _ in two[0]:
        assert said[kind]["shares"] == [0.5]
    assert alone[0][kind]["shares"] == [1.0]


@pytest.mark.parametrize("bfloat16", [False, True])
def test_no_layer_is_whole_after_it_has_computed(given, two, bfloat16):
    assert kept_for_backward(ALONE, given["base"], bfloat16) > 0
    for _, kept in two[0]:
        assert kept[bfloat16] == 0


@pytest.mark.parametrize("kind", KILLED)
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(two, kind):
    run, said = f"killed, {kind}", two[0][0][0]
    assert said[run]["began_at"] == 3
    assert (said[run]["curve"], said[run]["validation"]) == (said[kind]["curve"], said[kind]["validation"])
    assert_same_files(two[1] / run, two[1] / kind, rtol=0, atol=0)


def test_a_run_of_one_process_goes_on_with_two_that_shard(alone, two):
    said = two[0][0][0]["begun by one"]
    assert said["began_at"] == 6
    assert_same_course(said, alone[0]["plain"])


def test_a_sharded_run_goes_on_with_one_process(given, alone, two, tmp_path):
    shutil.copytree(two[1] / "left", tmp_path / "left")
    (said,) = trained(ALONE, given | {"runs": runs(tmp_path, 1, ("left", None, KINDS["plain"]))})
    assert said["began_at"] == 6
    assert_same_course(said, alone[0]["plain"])


def test_four_processes_train_what_one_does_also_from_where_two_were(given, alone, two, tmp_path):
    shutil.copytree(two[1] / "left", tmp_path / "left")
    of_four = given | {"runs": runs(tmp_path, 4, ("plain", None, KINDS["plain"]), ("left", None, KINDS["plain"]))}
    for plain, left in run_on(4, "processes.test_sharding:trained", of_four, tmp_path):
        assert_same_course(plain, alone[0]["plain"])
        assert plain["shares"] == [0.25]
        assert left["began_at"] == 6
        assert_same_course(left, alone[0]["plain"])


@pytest.fixture(scope="module")
def sharded(reproduced, tmp_path_factory):
    """A project in which a sharded training is due."""
    folder = tmp_path_factory.mktemp("sharded") / "project"
    shutil.copytree(reproduced.folder, folder, symlinks=True)
    made = Project(folder, **ONE_THREAD)
    made.set(**STEPS_OF_FOUR, train__save_steps="5", train__sharding="full")
    return made


@pytest.fixture
def due(sharded, tmp_path):
    shutil.copytree(sharded.folder, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project", **ONE_THREAD)


@pytest.fixture(scope="module")
def whole(sharded, tmp_path_factory):
    """What comes of it uninterrupted."""
    folder = tmp_path_factory.mktemp("whole") / "project"
    shutil.copytree(sharded.folder, folder, symlinks=True)
    return outputs(on(Project(folder, **ONE_THREAD), 2))


def test_a_killed_training_goes_on_to_the_same_bytes_whichever_process_it_was(due, whole):
    assert_a_kill_is_one_line(due)
    for place in ("checkpoint optimizer written:2", "step taken:9"):
        assert due.start("python", "-m", "stages.train", FAILPOINT=place).wait() == -signal.SIGKILL
    assert outputs(due) == whole


def test_a_process_that_does_not_answer_is_one_line(due, whole):
    assert_no_answer_is_one_line(due)
    assert outputs(due) == whole


def test_one_process_has_nothing_to_shard_and_says_so(due):
    on(due, 1).set(train__max_steps="6")
    assert "  one process: nothing to shard\n" in due.ok("python", "-m", "stages.train")
    made = {name: due.path(name).read_bytes() for name in TRAINED}
    due.set(train__sharding="none")
    assert outputs(due) == made
