"""What routers share: one vector for each prompt, and one gate for each row and task. Not a method of its own.

A router may see the prompt alone, through the base's input embeddings: it is asked before the model runs, and what it says
holds through all steps of decoding.
"""
import torch
from torch import Tensor

from ..lora import Site
from ..method import Task


def prompt_mean(batch, task: Task) -> Tensor:
    """The mean embedding of each row's prompt tokens: (b, d)."""
    inside = batch.prompt[..., None]                                 # (b, T, 1)
    return (task.probe.embeddings(batch.ids) * inside).sum(1) / inside.sum(1)


def prompt_max(batch, task: Task) -> Tensor:
    """The largest value of each dimension among the embeddings of each row's prompt tokens: (b, d)."""
    return task.probe.embeddings(batch.ids).masked_fill(~batch.prompt[..., None], -torch.inf).amax(1)


def uniform(shape: tuple[int, ...], bound: float, task: Task, purpose: str) -> Tensor:
    """U(-bound, bound) from the task's own chance, on its device."""
    return ((torch.rand(shape, generator=task.rng(purpose)) * 2 - 1) * bound).to(task.device)


def gated(h: Tensor, gates: Tensor, site: Site) -> Tensor:
    """h (b, length, k r), the blocks of k tasks, each times its task's gate; gates: (b, tasks)."""
    chosen = gates[:, site.blocks]                                   # (b, k)
    return h * chosen.repeat_interleave(h.shape[-1] // chosen.shape[1], 1)[:, None].to(h.dtype)
