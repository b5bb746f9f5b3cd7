"""LoRA-LEGO: cluster the rank-1 units of all adapters. Zhao et al., "Merging LoRAs like Playing LEGO", ICLR 2025,
arXiv 2409.16167.

    units u = [a; b]: row i of A_k with column i of B_k, for all i and k;   B_k A_k = sum_i b_i a_i
    k-means of the units into k clusters, a and b of unit length each
    mu_c = mean of the units of cluster c,  times  (mean of their norms) / ||mu_c||      the norm that averaging loses
    delta W = s sqrt(r / k) sum_c b_c a_c,   [a_c; b_c] = mu_c;   k = r, so nothing has to be cut

Ours: (a, b), (-a, -b) and (2 a, b / 2) are the same unit, but plain k-means sees three; so |a| = |b| is set first, and a unit
is compared with either sign and joins its cluster with the better one. Seeded by k-means++ from the task's own generator. The
published rule was known to us through a re-implementation; it takes the largest entry for the norm, we take Euclid's.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..fields import number
from ..lora import Pair
from ..method import Card, Task
from .pool import Pool


def kmeans(z: Tensor, n: Tensor, k: int, rng: torch.Generator, rounds: int) -> tuple[Tensor, Tensor]:
    """Lloyd's k-means of the points z (m, d) with weights n (m,), where z and -z are one point: labels and signs (m,)."""
    length = z.square().sum(1)

    def distance(c: Tensor) -> Tensor:                               # (m, k)
        return (length[:, None] + c.square().sum(1) - 2 * (z @ c.T).abs()).clamp_min(0)

    seeds = torch.multinomial(n.cpu(), 1, generator=rng)
    while len(seeds) < k:                                            # k-means++: far points are likelier
        chance = n * distance(z[seeds]).min(1).values + 1e-30
        seeds = torch.cat([seeds, torch.multinomial(chance.cpu(), 1, generator=rng)])
    c = z[seeds]
    for _ in range(rounds):
        label = distance(c).argmin(1)
        sign = torch.where((z * c[label]).sum(1) < 0, -1.0, 1.0).to(z)
        member = n * (label == torch.arange(k, device=z.device)[:, None])        # (k, m)
        count = member.sum(1, keepdim=True)
        c = torch.where(count > 0, member @ (sign[:, None] * z) / count.clamp_min(1), c)
    return label, sign


@dataclass
class LoRALego(Pool):
    k: int | None = number(None, 1)                 # clusters; None: the task's rank
    rounds: int = number(10, 1, 1000)               # of k-means

    about: ClassVar[Card] = Card("LoRA-LEGO", "Zhao et al., ICLR 2025, arXiv 2409.16167", "merging", "adapted",
                                 "units are balanced and matched up to sign before they are clustered, and the norm is Euclid's",
                                 memory="linear", merges="independent")

    def merge(self, pairs: list[Pair], counts: list[int], task: Task, path: str) -> Pair:
        a, b = torch.cat([pair.A for pair in pairs]), torch.cat([pair.B.T for pair in pairs])     # (m, d_in), (m, d_out)
        n = torch.cat([torch.full((len(pair.A),), float(count)) for pair, count in zip(pairs, counts)]).to(a)
        size_a, size_b = (x.norm(dim=1, keepdim=True).clamp_min(1e-12) for x in (a, b))
        z, balance = torch.cat([a / size_a, b / size_b], 1), (size_b / size_a).sqrt()
        u = torch.cat([a * balance, b / balance], 1)                 # (m, d_in + d_out)
        k = min(self.k or task.rank, len(u))
        label, sign = kmeans(z, n, k, task.rng(f"k-means {path}"), self.rounds)
        member = n * (label == torch.arange(k, device=u.device)[:, None])
        member = member / member.sum(1, keepdim=True).clamp_min(1e-12)           # (k, m); an empty cluster is a zero unit
        mu = member @ (sign[:, None] * u)
        mu = mu * (member @ u.norm(dim=1, keepdim=True)) / mu.norm(dim=1, keepdim=True).clamp_min(1e-12)
        d_in = a.shape[1]
        return Pair(mu[:, :d_in], (task.rank / k) ** 0.5 * mu[:, d_in:].T)
