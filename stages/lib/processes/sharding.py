"""The blocks of a GPT-2 divided over the processes, for one that does not fit a device whole.

Of every matrix in a block each process keeps a part, with the gradient and the optimizer's state of that part. It has
all of a layer only while it computes with it: PyTorch's FSDP2, which puts the layers together when all processes come
to them. So all have to make the same forward and backward passes. What stands outside the blocks' attention and
feed-forward layers (embeddings, layer norms) every process has whole.

Files hold whole tensors, in the places in which they are without sharding.
"""

from __future__ import annotations

import warnings
from itertools import chain
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from stages.lib.processes.group import Group

_GROUPS = 2  # of the Trainer's optimizer: those with weight decay, and those without


def shard(model: torch.nn.Module, device: torch.device, group: Group, bfloat16: bool) -> None:
    """Divide the blocks of `model`, a GPT-2 with or without adapters, in place, each process keeping its part.

    The model comes on the CPU; never is more than a layer of it whole on `device`. Gradients are summed over the
    processes. With `bfloat16` layers are put together in it, as autocast would cast their matrices anyway: the copy
    that it makes would stay until the backward pass.
    """
    # About changes in place to what a layer returns. GPT-2 makes none, and the tests compare the gradients.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    how = {
        "mesh": init_device_mesh(device.type, (group.size,)),
        "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bfloat16 else MixedPrecisionPolicy(),
    }
    for layer in chain.from_iterable((block.attn, block.mlp) for block in model.transformer.h):
        divided = fully_shard(layer, reshard_after_forward=True, **how)
        divided.set_gradient_divide_factor(1.0)
        divided.set_force_sum_reduction_for_comms(True)
    # With nothing to divide, for the layers to share their streams, and fetch the next one while one computes.
    fully_shard(model.transformer, ignored_params=set(undivided(model)), **how)
    for module in model.modules():
        if hasattr(module, "generate"):
            module._is_fsdp_managed_module = True  # transformers then has none stop writing before the others do


def undivided(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that every process has whole."""
    return [parameter for parameter in model.parameters() if not isinstance(parameter, DTensor)]


def sharded(model: torch.nn.Module) -> bool:
    """Whether the blocks of `model` are divided."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def weights(model: torch.nn.Module, group: Group) -> dict[str, torch.Tensor] | None:
    """What the first process is to save of a sharded model, whole and on the CPU; with adapters, they alone.

    None for the other processes, all of which take part, and for a model that is not sharded: it can be saved as it is.
    """
    if not sharded(model):
        return None
    state = model.state_dict()
    adapters = {name: tensor for name, tensor in state.items() if "lora_" in name}
    return _gathered(adapters or state, group)


def optimizer_state(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module, weight_decay: float, decayed: list[str], group: Group
) -> dict[str, Any] | None:
    """The state that the Trainer's optimizer of `model` would have without sharding; None but for the first process.

    `decayed`: the names of the parameters with `weight_decay`. All processes take part; of one parameter at a time the
    state is whole on a device.
    """
    state: dict[int, Any] = {}
    groups = []
    for decay, parameters in zip((weight_decay, 0.0), _trained(model, decayed), strict=True):
        numbers = range(len(state), len(state) + len(parameters))
        for number, parameter in zip(numbers, parameters, strict=True):
            state[number] = _gathered(optimizer.state[parameter], group)
        groups.append({**optimizer.param_groups[0], "weight_decay": decay, "params": list(numbers)})
    return {"state": state, "param_groups": groups} if group.first else None


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module, decayed: list[str], saved: dict[str, Any]
) -> None:
    """Give this process its parts of what `optimizer_state` made, or an optimizer of a model that is not sharded."""
    for number, parameter in enumerate(chain.from_iterable(_trained(model, decayed))):
        whole = saved["state"][number]
        optimizer.state[parameter] = {name: _part(value, parameter) for name, value in whole.items()}
    for own in optimizer.param_groups:
        own["lr"] = saved["param_groups"][0]["lr"]


def scheduler_state(state: dict[str, Any], groups: int = _GROUPS) -> dict[str, Any]:
    """The state of a schedule for an optimizer of so many groups, all of which have the same learning rate."""
    return {name: value[:1] * groups if isinstance(value, list) else value for name, value in state.items()}


def _trained(model: torch.nn.Module, decayed: list[str]) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """The groups of the Trainer's optimizer, which it divides further where only some parameters are sharded."""
    trained = [named for named in model.named_parameters() if named[1].requires_grad]
    with_decay = [parameter for name, parameter in trained if name in decayed]
    return with_decay, [parameter for name, parameter in trained if name not in decayed]


def _gathered(tensors: dict[str, torch.Tensor], group: Group) -> dict[str, torch.Tensor] | None:
    found = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if group.first:
            found[name] = whole.cpu()
    return found if group.first else None


def _part(value: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor:
    """What a process keeps of `value`, which belongs to `parameter` and is as large, or is a number of steps."""
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return value.to(parameter.device, copy=True)  # not in the file, which may be deleted
