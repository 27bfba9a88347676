"""Checkpoints: which of them count, who may write them, and how long they stay."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from tiny_training import train

from stages.lib.common import files
from stages.lib.common.cli import UserError
from stages.lib.model import scoring
from stages.lib.processes.interruption import Interruption
from stages.lib.training import checkpoints, environment


def test_only_the_newest_checkpoints_are_kept_and_all_of_them_count(tiny_base, rows, tmp_path):
    done = train(tiny_base, rows, tmp_path, epochs=5, save_steps=1)
    last = done.trainer.state.max_steps
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == sorted(
        f"checkpoint-{step}" for step in (last - 1, last)
    )
    run = checkpoints.Run("test")
    run.folder = tmp_path
    assert run.latest() == tmp_path / f"checkpoint-{last}"


def test_a_checkpoint_is_on_the_disk_by_name_before_an_older_one_goes(tiny_base, rows, tmp_path, monkeypatch):
    """What a power cut leaves is what was synced: contents, and the names in each folder above them."""
    done, sync, remove = [], files.sync, shutil.rmtree

    def synced(path):
        # The names that are in a folder at this moment are safe from now on.
        done.append(("synced", path, {entry.name for entry in path.iterdir()} if path.is_dir() else set()))
        sync(path)

    def removed(path, **more):
        done.append(("removed", path, set()))
        remove(path, **more)

    monkeypatch.setattr(files, "sync", synced)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", removed)
    run = tmp_path / "checkpoints" / "run"
    train(tiny_base, rows, run, save_steps=1, save_total_limit=1)
    gone = [(at, path) for at, (what, path, _) in enumerate(done) if what == "removed" and path.parent == run]
    assert len(gone) >= 10
    for at, path in gone:
        newer = f"checkpoint-{checkpoints.step_of(path) + 1}"
        safe = {}
        for _, folder, names in done[:at]:
            safe.setdefault(folder, set()).update(names)
        assert "manifest.json" in safe[run / newer]
        assert newer in safe[run]
        assert "run" in safe[run.parent]
        assert "checkpoints" in safe[tmp_path]
        assert {run / newer / name for name in safe[run / newer] if not name.startswith(".")} <= set(safe) | {
            run / newer / "manifest.json"
        }


def test_a_new_folder_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    names, sync = {}, files.sync
    monkeypatch.setattr(
        files, "sync", lambda path: (names.update({path.name: set(os.listdir(path.parent))}), sync(path))
    )
    with files.new_folder(tmp_path / "made") as folder:
        (folder / "inside").write_text("text")
    assert set(names) == {"inside", ".made.partial", tmp_path.name}
    assert "made" not in names[".made.partial"]


def improving(model, check):
    """A validation that finds each model better than the one before."""
    improving.nats -= 1
    return scoring.Total(documents=1, size=1000, tokens=10, nats=improving.nats, end_of_text_nats=0.0)


@pytest.fixture(scope="module")
def two_checkpoints(tiny_base, rows, tmp_path_factory):
    """A run that died in its last validation: two checkpoints, each relying on best weights of its own."""
    folder = tmp_path_factory.mktemp("two") / "run"
    improving.nats = 1e6
    train(tiny_base, rows, folder, improving, eval_steps=2, save_steps=1000)
    # The last weights are in no checkpoint's manifest yet.
    newest, before = checkpoints_of(folder)
    for step in (newest, before):
        manifest = files.read_json(folder / f"checkpoint-{step}" / "manifest.json")
        assert (folder / f"best-{manifest['best_step']}").exists()
        assert manifest["best_step"] < step
    return folder


def checkpoints_of(folder):
    return sorted((checkpoints.step_of(path) for path in folder.glob("checkpoint-*")), reverse=True)


@pytest.mark.parametrize("harm", ["truncated", "emptied", "missing", "flipped"])
def test_a_checkpoint_with_any_file_damaged_is_passed_over_for_the_one_before(two_checkpoints, tmp_path, harm, capsys):
    newest, before = checkpoints_of(two_checkpoints)
    best = files.read_json(two_checkpoints / f"checkpoint-{newest}" / "manifest.json")["best_step"]
    names = [
        path.relative_to(two_checkpoints).as_posix()
        for folder in (f"checkpoint-{newest}", f"best-{best}")
        for path in (two_checkpoints / folder).iterdir()
    ]
    written = {name.rpartition("/")[2] for name in names}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= written
    assert {"trainer_state.json", "record.json", "manifest.json"} <= written
    for name in names:
        run = checkpoints.Run("test")
        run.folder = tmp_path / name.replace("/", "-")
        shutil.copytree(two_checkpoints, run.folder)
        assert checkpoints.step_of(run.latest()) == newest
        path = run.folder / name
        content = path.read_bytes()
        middle = len(content) // 2
        if harm == "truncated":
            path.write_bytes(content[:-1])
        elif harm == "emptied":
            path.write_bytes(b"")
        elif harm == "flipped":
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        else:
            path.unlink()
        assert checkpoints.step_of(run.latest()) == before, name
        assert f"warning: checkpoint-{newest} is damaged" in capsys.readouterr().out


def test_every_flipped_bit_of_a_manifest_is_noticed(two_checkpoints, tmp_path):
    newest, before = checkpoints_of(two_checkpoints)
    run = checkpoints.Run("test")
    run.folder = tmp_path / "run"
    shutil.copytree(two_checkpoints, run.folder)
    manifest = run.folder / f"checkpoint-{newest}" / "manifest.json"
    content = manifest.read_bytes()
    saved = tmp_path / "saved"
    shutil.copytree(manifest.parent, saved)
    for at in range(len(content)):
        manifest.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
        assert checkpoints.step_of(run.latest()) == before
        shutil.copytree(saved, manifest.parent)


def test_best_weights_stay_as_long_as_a_checkpoint_relies_on_them(two_checkpoints):
    relied_on = {
        f"best-{files.read_json(two_checkpoints / f'checkpoint-{step}' / 'manifest.json')['best_step']}"
        for step in checkpoints_of(two_checkpoints)
    }
    assert len(relied_on) == 2
    last = f"best-{checkpoints_of(two_checkpoints)[0]}"  # found after the last checkpoint
    assert {path.name for path in two_checkpoints.glob("best-*")} == relied_on | {last}


def test_a_finished_run_is_not_resumed(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    run = checkpoints.Run("f" * 64)
    with run.started(Interruption()):
        (run.folder / "checkpoint-1").mkdir()
        run.finish(figures(tmp_path))
    with run.started(Interruption()):
        assert run.latest() is None
        assert not run.has_unfinished_others()


def figures(folder):
    """What a run that is finished says of itself."""
    (folder / "train.json").write_text('{"steps": 1}')
    return folder / "train.json"


@pytest.mark.parametrize("recorded", [False, True])
def test_a_finished_run_that_dvc_did_not_record_goes_on_from_its_end(tmp_path, monkeypatch, recorded):
    """Its cache was full, or it was killed: the next `dvc repro` runs the stage once more."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.chdir(tmp_path)
    run = checkpoints.Run("f" * 64)
    with run.started(Interruption()):
        (run.folder / "checkpoint-1").mkdir()
        (run.folder / "checkpoint-1/model.safetensors").write_bytes(b"weights")
        run.seal(run.folder / "checkpoint-1", None)
        run.finish(figures(tmp_path))
    md5 = hashlib.md5((tmp_path / "train.json").read_bytes()).hexdigest()
    (tmp_path / "dvc.lock").write_text(f"    - path: logs/train.json\n      md5: {md5 if recorded else 'a' * 32}\n")
    with run.started(Interruption()):
        assert (run.latest() is None) == recorded


def test_trainers_that_make_room_at_once_do_not_mind(tmp_path, monkeypatch):
    """Each is about to delete what the other has just deleted, and has its own folder deleted while it is empty."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert not checkpoints._remove_unless_held(tmp_path / "gone")
    true, refusals = Path.mkdir, [FileExistsError(), FileNotFoundError()]

    def mkdir(path, *given, **how):
        if refusals and path.name == "a" * 64:
            raise refusals.pop()
        true(path, *given, **how)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with checkpoints.Run("a" * 64).started(Interruption()):
        assert not refusals


def test_a_finished_run_makes_room_and_of_unfinished_ones_the_latest_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    unfinished = [checkpoints.Run(f"{number}" * 64) for number in range(checkpoints.ABANDONED + 2)]
    for number, run in enumerate(unfinished):
        with run.started(Interruption()):
            (run.folder / "checkpoint-1").mkdir()
        os.utime(run.folder, (number, number))
    assert all(run.folder.exists() for run in unfinished[1:])
    finished, new = checkpoints.Run("f" * 64), checkpoints.Run("a" * 64)
    with finished.started(Interruption()):
        finished.finish(figures(tmp_path))
    with new.started(Interruption()):
        assert not finished.folder.exists()
        assert [run.folder.exists() for run in unfinished] == [False] * 2 + [True] * checkpoints.ABANDONED
        assert new.has_unfinished_others()
    assert "warning: deleted" in capsys.readouterr().out


def test_an_unfinished_run_that_somebody_is_at_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    at_work = checkpoints.Run("0" * 64)
    with at_work.started(Interruption()):
        os.utime(at_work.folder, (0, 0))
        for number in range(1, checkpoints.ABANDONED + 3):
            with checkpoints.Run(f"{number}" * 64).started(Interruption()):
                pass
        assert at_work.folder.exists()


def test_a_finished_run_that_is_trained_again_keeps_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    again, new = checkpoints.Run("a" * 64), checkpoints.Run("n" * 64)
    with again.started(Interruption()):
        again.finish(figures(tmp_path))
    with again.started(Interruption()), new.started(Interruption()):
        assert again.folder.exists()


def test_two_trainers_never_share_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with (
        checkpoints.Run("a" * 64).started(Interruption()),
        pytest.raises(UserError, match=r"pid \d+"),
        checkpoints.Run("a" * 64).started(Interruption()),
    ):
        pass


def test_compiled_modules_are_no_part_of_what_a_run_is(tmp_path, monkeypatch):
    """They differ from copy to copy, and another version of Python adds its own: a run would not be found again."""
    monkeypatch.chdir(tmp_path)
    code = tmp_path / "code"
    (code / "__pycache__").mkdir(parents=True)
    (code / "module.py").write_text("VALUE = 1\n")
    (tmp_path / "dvc.yaml").write_text("stages:\n  train:\n    deps: [code]\n")
    before = environment.fingerprint("train")
    (code / "__pycache__/module.cpython-311.pyc").write_bytes(b"compiled")
    assert environment.fingerprint("train") == before
    (code / "module.py").write_text("VALUE = 2\n")
    assert environment.fingerprint("train") != before


def test_best_weights_are_those_of_the_checkpoint_by_a_second_name(two_checkpoints):
    steps = checkpoints_of(two_checkpoints)
    for step in steps:
        kept, written = (two_checkpoints / f"{name}-{step}/model.safetensors" for name in ("best", "checkpoint"))
        assert kept.samefile(written)


def copy_of(folder, place):
    run = checkpoints.Run("test")
    run.folder = shutil.copytree(folder, place / "run")
    return run


def test_where_files_have_one_name_best_weights_are_copied(two_checkpoints, tmp_path, monkeypatch):
    def refuse(source, name):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    run = copy_of(two_checkpoints, tmp_path)
    newest, _ = checkpoints_of(run.folder)
    run.keep_best(newest)
    kept, written = run.best(newest), run.folder / f"checkpoint-{newest}"
    assert not (kept / "model.safetensors").samefile(written / "model.safetensors")
    hashes = files.sha256_of_tree(kept)
    assert hashes.keys() == {"config.json", "generation_config.json", "model.safetensors"}
    assert hashes.items() <= files.sha256_of_tree(written).items()


def test_best_weights_that_are_as_they_were_are_not_hashed_with_each_checkpoint(two_checkpoints, tmp_path, monkeypatch):
    run = copy_of(two_checkpoints, tmp_path)
    newest, older = checkpoints_of(run.folder)
    run.keep_best(older)
    hashed, sha256 = [], files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: hashed.append(path) or sha256(path))
    checkpoint = run.folder / f"checkpoint-{newest}"
    run.seal(checkpoint, older)
    assert hashed
    assert all(path.is_relative_to(checkpoint) for path in hashed)
    monkeypatch.undo()
    assert files.read_json(checkpoint / "manifest.json")["best"] == files.sha256_of_tree(run.best(older))
    assert run.latest() == checkpoint
    # What was damaged meanwhile is found, as the hashes are of what was written.
    damaged = run.best(older) / "config.json"
    damaged.unlink()  # not by both names
    damaged.write_text("{}")
    run.seal(checkpoint, older)
    assert run.latest() != checkpoint
