"""Functions of the tests run in several processes that form a group, over gloo on this machine."""

import subprocess
import sys

import torch
from conftest import HOME, environment
from torch import distributed

PROGRAM = """
import importlib, sys
import torch
from torch import distributed
from stages.lib.processes.group import Group

rank, size, port, function, given, result = sys.argv[1:]
module, name = function.split(":")
store = distributed.TCPStore("127.0.0.1", int(port), int(size), is_master=False)
distributed.init_process_group("gloo", store=store, rank=int(rank), world_size=int(size))
torch.save(getattr(importlib.import_module(module), name)(Group(int(rank), int(size)), torch.load(given)), result)
distributed.destroy_process_group()
"""


def run_on(size, function, given, folder):
    """What `function(group, given)`, named `module:function`, returns in each of so many processes."""
    torch.save(given, folder / "given")
    store = distributed.TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False)
    results = [folder / f"result-{rank}" for rank in range(size)]
    settings = environment(PYTHONPATH=f"{HOME}:{HOME / 'tests'}", OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, (rank, size, store.port, function, folder / "given", result))],
            cwd=HOME,
            env=settings,
        )
        for rank, result in enumerate(results)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0] * size
    return [torch.load(result) for result in results]
