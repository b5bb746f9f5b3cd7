"""What lies between two tasks: orthogonal start, merge, save; against the speed of memory and the loop of one module at a time."""
from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch

from ..adapters import installed
from ..lora import Pair, Start, copied
from ..method import Task
from ..methods import make_method
from ..store import Store, save_value
from ..subspaces import orthonormal_rows
from .shape import Device, Size, task_of
from .steps import settings_for
from .table import Table, in_turns, ratio, seconds

NEW = "new copy that moves the same bytes"
PARTS = ("start", "wear", "merge", "save and sync")


def boundary(case: str, table: Table, device: Device, size: Size, model, row: float | None = None) -> None:
    """All between two tasks of SLAO, part by part; with `row`, the seconds that training takes a row, also as a share of a task of
    250 rows (CB, the shortest of the field's long stream) and of 1000 (most of them), one epoch."""
    settings, parts = settings_for(case, size), {part: [] for part in PARTS}
    with tempfile.TemporaryDirectory(prefix="mbf-bench-") as folder, \
            installed(model, settings.targets, settings.rank, settings.alpha) as adapted, \
            Store(Path(folder) / "run", {"settings": {"keep": "last"}}) as store:
        method, found = make_method("slao"), {}

        def begin(task):
            found["start"] = method.start(task)

        def finish(task):
            found["tuned"] = copied(adapted.live())
            found["result"] = method.finish(found["tuned"], task)

        def write(folder: Path) -> None:
            adapted.save(found["result"], folder / "result")
            adapted.save(found["tuned"], folder / "tuned")
            save_value(method.memory, folder / "memory")

        for index in range(1, 3 + 2 * size.rounds):
            task = task_of(adapted, index)
            spent = [seconds(lambda: begin(task), device.sync), seconds(lambda: adapted.wear(*found["start"]), device.sync)]
            with torch.no_grad():
                for pair in adapted.live().values():                 # stands for training
                    pair.B.normal_()
            spent += [seconds(lambda: finish(task), device.sync),
                      seconds(lambda: store.commit_task(index, task.name, write, "last"), device.sync)]
            for part, each in zip(PARTS, spent):
                parts[part] += [each] if index > 2 else []           # at the first there is nothing to merge, the second warms up
    parts["whole"] = [sum(spent) for spent in zip(*parts.values())]
    for part, spent in parts.items():
        table.add("boundary", f"{case}, {part}", "time", [1e3 * each for each in spent], "ms")
    for count in (250, 1000) if row else ():
        table.add("boundary", f"{case}, whole", f"share of one epoch of {count} rows of {size.length} tokens",
                  [100 * each / (count * row) for each in parts["whole"]], "%")


def factors(rank: int, table: Table, device: Device, size: Size) -> None:
    """Start and merge of all modules' factors, float32, against copies that move the same bytes. The factors rotate over more sets
    than a cache holds."""
    modules = 2 * size.layers
    one = modules * rank * size.hidden * 4                           # bytes of all A, and of all B
    sets = max(2, math.ceil(size.cold / one))

    def make(*shape):
        return [torch.randn(*shape, device=device.name) for _ in range(sets)]

    A, tuned, merged = make(modules, rank, size.hidden), make(modules, size.hidden, rank), make(modules, size.hidden, rank)
    starts, merges = start_rivals(A, tuned), merge_rivals(A, merged, tuned, make(3 * one // 8), make(3 * one // 8))
    for item, rivals in (("start", starts), ("merge", merges)):
        times = by_events(rivals, sets, size.repeats, device)
        floor = next(iter(rivals))
        for name in rivals:
            table.add(item, f"r {rank}, {name}", "time", [1e3 * each for each in times[name]], "ms")
            table.add(item, f"r {rank}, {name}", f"time over {floor}", ratio(times, name, floor))
    truth = torch.stack([orthonormal_rows(a) for a in A[0].double().cpu()[:4]])
    for name in list(starts)[1:]:
        found = starts[name](0)
        found = [pair.A for pair in found.lora.values()] if isinstance(found, Start) else list(found)
        found = torch.stack(found[:4]).double().cpu()
        table.add("start", f"r {rank}, {name}", "largest difference from float64", float((found - truth).abs().max()))
        table.add("start", f"r {rank}, {name}", "largest entry of Q Q^T - I",
                  float((found @ found.mT - torch.eye(rank)).abs().max()))


def slao_with(A: list, tuned: list, merged: list):
    """name -> SLAO that has learned two tasks, with set k as its state; and the Lora that the third task would leave."""
    pairs = [[{str(m): Pair(a, b) for m, (a, b) in enumerate(zip(*factors))} for factors in zip(A, B)] for B in (tuned, merged)]

    def method(k):
        slao.memory = {"tuned": pairs[0][k], "merged": pairs[1][k]}
        return slao, pairs[0][k]

    slao = make_method("slao")
    return method


def start_rivals(A: list, tuned: list) -> dict:
    """name -> act(k): orthonormal rows of set k, a stack (m, r, d_in). The first is the floor."""
    method, third = slao_with(A, tuned, tuned), Task(3, "t", [], 8, 1.0, {}, 0)
    return {"copy of the same bytes": lambda k: A[k].clone(), "SLAO's own": lambda k: method(k)[0].start(third),
            "one QR a module": lambda k: [orthonormal_rows(a) for a in A[k]],
            "one batched QR": lambda k: batched_rows(A[k]), "Cholesky twice, batched": lambda k: cholesky_rows(A[k])}


def merge_rivals(A: list, merged: list, tuned: list, source: list, target: list) -> dict:
    """name -> act(k): the merge of set k, stacks (m, d_out, r); two factors read and one written. source and target: buffers of
    half of these bytes each. The first is the floor of what leaves the old state whole, as `finish` has to."""
    method, third = slao_with(A, tuned, merged), Task(3, "t", [], 8, 1.0, {}, 0)

    def own(k):
        slao, lora = method(k)
        return slao.finish(lora, third)

    apart = [(list(m), list(t)) for m, t in zip(merged, tuned)]

    def one_by_one(k):
        for m, t in zip(*apart[k]):
            m.lerp_(t, 0.5)

    return {NEW: lambda k: source[k].clone(), "copy into old memory": lambda k: target[k].copy_(source[k]), "SLAO's own": own,
            "one new tensor a module": lambda k: [m + 0.5 * (t - m) for m, t in zip(*apart[k])],
            "one new tensor a module by lerp": lambda k: [torch.lerp(m, t, 0.5) for m, t in zip(*apart[k])],
            "in place, a module": one_by_one,
            "in place, all at once": lambda k: torch._foreach_lerp_(*apart[k], 0.5),
            "in place, one flat tensor": lambda k: merged[k].lerp_(tuned[k], 0.5)}


def by_events(rivals: dict, sets: int, repeats: int, device: Device) -> dict[str, list[float]]:
    """Seconds of act(k), k going round the sets, rivals in turns: by the card's own events, or by the host's clock without one."""
    k, kept = 0, None
    times = {name: [] for name in rivals}
    for n in range(3 + repeats):
        for name, act in rivals.items():
            k = (k + 1) % sets
            if device.cuda:
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                kept = act(k)                                        # freed while the next one runs, as in a run
                end.record()
                end.synchronize()
                spent = begin.elapsed_time(end) / 1e3
            else:
                spent = in_turns({name: lambda: act(k)}, 1, warm=0)[name][0]
            if n >= 3:
                times[name].append(spent)
    del kept
    return times


def batched_rows(A: torch.Tensor) -> torch.Tensor:
    """subspaces.orthonormal_rows of (m, r, d_in), all modules in one call."""
    Q, R = torch.linalg.qr(A.mT)
    signs = torch.where(R.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(Q.dtype)
    return (Q * signs[:, None]).mT.contiguous() + 0.0


def cholesky_rows(A: torch.Tensor) -> torch.Tensor:
    """The same by two passes of A <- L^-1 A with A A^T = L L^T: L's diagonal is positive, which is the rule for the signs. It fails
    where A is singular or nearly so, and is here to be compared."""
    for _ in range(2):
        A = torch.linalg.solve_triangular(torch.linalg.cholesky(A @ A.mT), A, upper=False)
    return A
