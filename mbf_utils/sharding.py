r"""A base too big for one card: its frozen weights lie in shards on all of them, by PyTorch's FSDP2 and Accelerate's configuration.

    accelerate launch --use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP \
        --fsdp_cpu_ram_efficient_loading false -m mbf_utils run ...

Only the base is sharded. The factors of LoRA and a method's `extra` stay whole on every card, as FSDP's ignored parameters, so
that hooks, merging and saving see what they see on one card. FSDP leaves their gradients alone too: `average` brings them together.
The base is read to the CPU by every process, sharded once a run and stays so: a second run takes a base that is loaded anew.
Tested: two processes on the CPU, where PyTorch's part works; Accelerate's launcher on CUDA by a test that only runs there.
"""
from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from .errors import InputError

if TYPE_CHECKING:
    from .adapters import Adapted


def wanted() -> bool:
    """Whether this process was launched to shard its base."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and torch.cuda.is_available()


def shards(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.FSDP


def place(model: nn.Module, accelerator: Accelerator) -> None:
    """Before a run: the whole base on this process's own card, or, to be sharded, left where it is."""
    if not shards(accelerator):
        if accelerator.num_processes > 1:
            model.to(accelerator.device)
        return
    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2 or plugin.cpu_ram_efficient_loading:
        raise InputError(f"expected FSDP in version 2 without cpu_ram_efficient_loading, found version {plugin.fsdp_version} and "
                         f"{plugin.cpu_ram_efficient_loading}: set fsdp_version and fsdp_cpu_ram_efficient_loading so in "
                         "Accelerate's configuration")
    from torch.distributed.fsdp import FSDPModule
    if any(isinstance(module, FSDPModule) for module in model.modules()):
        raise InputError("expected a whole base, found one that an earlier run sharded: load it anew")


def shard(adapted: Adapted, accelerator: Accelerator) -> None:
    """Shards the base under the adapters, where the run is launched so."""
    if not shards(accelerator):
        return
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model
    from torch.distributed.fsdp import register_fsdp_forward_method
    whole = [part for layer in adapted.layers.values() for part in (layer.lora_A, layer.lora_B)]
    for part in whole:
        part.to(accelerator.device)
    adapted.device, adapted.sharded = next(iter(adapted.live().values())).A.device, True
    accelerator.state.fsdp_plugin.ignored_modules = whole
    fsdp2_prepare_model(accelerator, adapted.model)
    register_fsdp_forward_method(adapted.model, "generate")
    with torch.no_grad():                           # the first forward decides that all of it is one: parts are called alone later
        adapted.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=accelerator.device), use_cache=False)


def prepare(adapted: Adapted, optimizer, accelerator: Accelerator):
    """(the model to train, its optimizer) of one task; the base is sharded already where it is to be. Accelerate wraps the model
    where DDP has to, and only there: of its autocast it would wrap a model once, so a run's first task alone (training.py does it).
    A scaler begins anew with each task, as it does in a run that is resumed."""
    if isinstance(accelerator.scaler, torch.amp.GradScaler):
        accelerator.scaler = torch.amp.GradScaler(accelerator.device.type)
    if shards(accelerator) or accelerator.num_processes == 1:
        return adapted.model, accelerator.prepare_optimizer(optimizer)
    return accelerator.prepare(adapted.model, optimizer)


def average(trained: list[nn.Parameter], accelerator: Accelerator) -> None:
    """The mean over the processes of gradients that FSDP does not see. DDP has done it by itself."""
    for parameter in trained if shards(accelerator) else ():
        if parameter.grad is not None:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= accelerator.num_processes
