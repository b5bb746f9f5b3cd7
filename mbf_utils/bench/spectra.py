"""Geometry of a 7B model's adapters from their factors, and the same from dense matrices on a size where that can be done."""
from __future__ import annotations

import torch

from .. import geometry
from ..lora import Pair
from ..subspaces import principal_angles
from .table import Table, in_turns, ratio, seconds


def random_pair(rank: int, hidden: int, rng: torch.Generator) -> Pair:
    return Pair(torch.randn(rank, hidden, generator=rng), torch.randn(hidden, rank, generator=rng))


def spectra(table: Table, modules: int, hidden: int, tasks: int, rank: int = 8) -> None:
    """Spectra, overlaps and drift of `tasks` adapters with `modules` modules of hidden x hidden."""
    rng = torch.Generator().manual_seed(0)
    loras = [{f"layer{k}": random_pair(rank, hidden, rng) for k in range(modules)} for _ in range(tasks)]
    case = f"{modules} modules of {hidden} x {hidden}, r {rank}, {tasks} tasks"
    for name, look in {"spectra": geometry.spectra, "overlap of all pairs of tasks": geometry.overlap,
                       "cosines of all pairs of tasks": geometry.cosines, "drift": geometry.drift}.items():
        table.add("geometry", case, name, seconds(lambda: look(loras)), "s")


def against_dense(table: Table, hidden: int, rounds: int, rank: int = 8) -> None:
    """The singular values of one B A, and how far two A's row spaces lie apart: from factors and from hidden x hidden matrices."""
    rng = torch.Generator().manual_seed(1)
    one, other = (random_pair(rank, hidden, rng) for _ in range(2))
    found = {}

    def keep(name, act):
        return lambda: found.update({name: act()})

    times = in_turns({"factors": keep("factors", lambda: geometry.singular_values(one)),
                      "dense": keep("dense", lambda: torch.linalg.svdvals(one.B @ one.A)[:rank])}, rounds)
    truth = torch.linalg.svdvals(one.B.double() @ one.A.double())[:rank]
    case = f"one module of {hidden} x {hidden}, r {rank}, singular values"
    table.add("geometry", case, "dense over factors", ratio(times, "dense", "factors"))
    for name in times:
        table.add("geometry", case, f"largest relative error, {name}", float(((found[name] - truth) / truth).abs().max()))
    times = in_turns({"factors": keep("angles", lambda: principal_angles(one.A, other.A)),
                      "dense": keep("dense angles", lambda: dense_angles(one, other, rank))}, rounds)
    case = f"one module of {hidden} x {hidden}, r {rank}, angles of row spaces"
    table.add("geometry", case, "dense over factors", ratio(times, "dense", "factors"))
    table.add("geometry", case, "largest difference", float((found["angles"] - found["dense angles"]).abs().max()), "rad")


def dense_angles(one: Pair, other: Pair, rank: int) -> torch.Tensor:
    """Angles between the row spaces of two B A's by a full SVD of each."""
    V, W = (torch.linalg.svd(pair.B @ pair.A, full_matrices=False).Vh[:rank] for pair in (one, other))
    return torch.linalg.svdvals(V @ W.T).clamp(max=1).arccos()
