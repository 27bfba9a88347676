"""Starting the processes that train one model, and ending them together.

The process that DVC starts is the first, and starts the others: each runs the same stage, on a GPU of its own where
there are any. They meet on this machine's loopback address, or where other machines can join them (see machines.py).
Where a launcher starts all of them (torchrun, or another one that sets the same variables), they meet as it says.

None but the first writes a file, so any of them may be killed at any moment. When one is gone the others end.
"""

from __future__ import annotations

import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
from torch import distributed

from stages.lib.common.cli import UserError, end_at_once, printable, stop_printing
from stages.lib.processes import machines
from stages.lib.processes.followers import STARTED_BY, Followers, end_with
from stages.lib.processes.group import ALONE, Group, Lost, losses

_LOOPBACK = "127.0.0.1"
_USUAL_PATIENCE = 600  # seconds: no process waits longer for another, which may be writing a checkpoint
_STORE = timedelta(seconds=_USUAL_PATIENCE)
_LOOK_EVERY = 0.05  # seconds
# What launchers set. Hugging Face's libraries would start something of their own if they saw it.
_RANK, _SIZE, _LOCAL = "RANK", "WORLD_SIZE", "LOCAL_RANK"
_SEEN_BY_LIBRARIES = (_RANK, _SIZE, _LOCAL, "LOCAL_WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")


def follows() -> bool:
    """Whether this is one of several processes, and not the first of them."""
    return os.environ.get(_RANK, "0") != "0"


def take_gpu() -> None:
    """See no GPU but one's own, where a launcher started several processes on this machine. Before CUDA is used."""
    if place := os.environ.get(_LOCAL):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        own = [place] * (int(place) + 1) if visible is None else visible.split(",")
        if len(own) > int(place):
            os.environ["CUDA_VISIBLE_DEVICES"] = own[int(place)]


def made_for(setting: int | Literal["auto"], device: torch.device, on: int = 1) -> int:
    """How many processes a step's batches are for: `auto` is one a GPU, and one on a processor, `on` so many machines.

    The machines are alike.
    """
    if setting != "auto":
        return setting
    return _launched() or (max(1, torch.cuda.device_count()) if device.type == "cuda" else 1) * on


def at_hand(count: int, device: torch.device, on: int = 1) -> int:
    """How many processes do the work of `count`: where there are fewer GPUs, each takes more of the batches.

    Raises UserError where the machines cannot share them alike.
    """
    if launched := _launched():
        return launched
    if count % on:
        raise UserError(f"train.processes: {count} cannot be shared alike by {on} machines (MACHINES)")
    most = max(1, torch.cuda.device_count()) * on if device.type == "cuda" else count
    return max(fewer for fewer in range(on, count + 1, on) if count % fewer == 0 and fewer <= most)


def need_alike(batches: int, size: int) -> None:
    """Raise UserError where so many batches of a step cannot be shared alike."""
    if batches % size:
        raise UserError(
            f"the {batches} batches of a step (train.processes x train.gradient_accumulation_steps) cannot be shared "
            f"alike by the {size} processes that were started: change one of the three"
        )


@contextmanager
def together(
    stage: str,
    size: int,
    device: torch.device,
    offered: Callable[[], Mapping[str, Path]] | None = None,
    check: Callable[[str], None] = lambda done: None,
) -> Iterator[Group]:
    """Give this process its place among the `size` that run the module `stage`; the first one starts the others.

    With `offered`, which makes a list of the files that the stage reads, by their names in the project, other machines
    take part where the environment says so. `check` is called while processes are waited for, with how far the work
    has come, and may raise. Raises UserError when another process is gone, or does not answer within the time-out.
    """
    launched = _launched()
    if (launched or size) == 1:
        yield ALONE
        return
    try:
        with _launched_process() if launched else _first(stage, size, device, offered, check) as group:
            yield group
    except BaseException as error:
        end_at_once()
        if not isinstance(error, Lost):
            raise
        why = printable(re.sub(r"\[[^]]*\] *", "", str(error)))  # without the place in the library's source
        raise UserError(
            f"another process is gone, or did not answer for {_patience().total_seconds():.0f} s ({why}): run the same "
            "command again, training goes on from the last checkpoint"
        ) from None


def _launched() -> int | None:
    """How many processes a launcher started, this one among them."""
    return int(os.environ[_SIZE]) if _SIZE in os.environ else None


@contextmanager
def _first(
    stage: str,
    size: int,
    device: torch.device,
    offered: Callable[[], Mapping[str, Path]] | None,
    check: Callable[[str], None],
) -> Iterator[Group]:
    several = offered is not None and machines.count() > 1
    store, here = _opened(machines.port() if several else None), size // machines.count() if several else size
    if several:
        machines.gather(store, stage, size, offered(), lambda: check("before the first step"))
    before = torch.get_num_threads()
    each = before if device.type == "cuda" else max(1, before // here)
    with Followers(stage, range(1, here), size, here, (_LOOPBACK, store.port), each) as followers:
        torch.set_num_threads(each)
        try:
            _wait_for_signs(store, size, followers, check, several)
            with _joined(0, size, store):
                yield Group(0, size)
            followers.wait()
        except Lost:
            followers.check(patiently=True)
            raise
        finally:
            torch.set_num_threads(before)


def _wait_for_signs(
    store: distributed.Store, size: int, followers: Followers, check: Callable[[str], None], elsewhere: bool
) -> None:
    """Wait until all have started, which fails no sooner than a process of this machine does, however slow they are.

    How those `elsewhere` fare is not seen from here: they have the usual time.
    """
    until = time.monotonic() + (_USUAL_PATIENCE if elsewhere else math.inf)
    while not store.check(_signs(size)):
        followers.check()
        check("before the first step")
        if time.monotonic() > until:
            raise UserError(
                f"processes of another machine did not start within {_USUAL_PATIENCE} s: see what tools.join says there"
            )
        time.sleep(_LOOK_EVERY)


@contextmanager
def _launched_process() -> Iterator[Group]:
    rank, size, starter = int(os.environ[_RANK]), int(os.environ[_SIZE]), os.environ.get(STARTED_BY)
    if starter:
        end_with(int(starter))
    store = _met(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])) if starter else None
    if store:
        store.set(_signs(size)[rank - 1], "here")
        store.wait(_signs(size))
    if rank:
        stop_printing()  # the first one says it all
    if local := os.environ.get("LOCAL_WORLD_SIZE"):
        os.environ["MACHINES"] = str(size // int(local))
    with _joined(rank, size, store):
        for name in _SEEN_BY_LIBRARIES:
            os.environ.pop(name, None)
        yield Group(rank, size)


def _opened(port: int | None) -> distributed.TCPStore:
    """Where the processes meet: with a `port` one that other machines reach, and none but this one without."""
    try:
        listener = socket.create_server((_LOOPBACK, 0)) if port is None else socket.create_server(("", port))
    except OSError as error:
        raise UserError(f"port {port} cannot be had ({error.strerror}): MACHINES_PORT=29401 is another") from None
    port = listener.getsockname()[1]
    return distributed.TCPStore(
        _LOOPBACK, port, is_master=True, wait_for_workers=False, timeout=_STORE, master_listen_fd=listener.detach()
    )


def _met(host: str, port: int) -> distributed.TCPStore:
    """The store that the first process opened."""
    return distributed.TCPStore(host, port, wait_for_workers=False, timeout=_STORE)


def _signs(size: int) -> list[str]:
    """What each process but the first leaves in the store when it is there."""
    return [f"/{rank}" for rank in range(1, size)]


@contextmanager
def _joined(rank: int, size: int, store: distributed.Store | None) -> Iterator[None]:
    """Be one of the group; without a `store`, as the environment says."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with losses():
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_patience())
    with losses(among_others=True):  # in the exchange of a sharded model, which is the library's
        yield
    distributed.destroy_process_group()  # not after an error: it may wait for those that are gone


def _patience() -> timedelta:
    return timedelta(seconds=float(os.environ.get("PROCESS_TIMEOUT", _USUAL_PATIENCE)))
