"""The tree of tasks that both TreeLoRAs search. Not a method of its own.

The modules, in their order, are its levels: at each the tasks of a node are split in two.
"""
import torch
from torch import Tensor


def changes(G: list[dict[str, Tensor]], tasks: list[int], path: str) -> Tensor:
    """What each of `tasks` changed in the G (r, d_in) of one module: (tasks, r d_in)."""
    return torch.stack([G[k][path] - G[k - 1][path] if k else G[k][path] for k in tasks]).flatten(1)


def split(rows: Tensor, tasks: list[int]) -> tuple[list[int], list[int], float]:
    """The tasks whose row (tasks, r d_in) lies along the mean row at least as far as the median one, the others, the median."""
    like = rows @ rows.mean(0)
    middle = float(like.median())
    left = [k for k, value in zip(tasks, like.tolist()) if value >= middle]
    if len(left) == len(tasks):
        left = tasks[:len(tasks) // 2]
    return left, [k for k in tasks if k not in left], middle
