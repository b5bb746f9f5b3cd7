"""The literal table of methods. A row is a class, or a class with other settings; the order is the order of every table."""
import dataclasses
from functools import partial

from .inclora import IncLoRA
from .olora import OLoRA
from .references import MultiTask, PerTask, SeqLoRA, ZeroShot
from .slao import SLAO, one_over
from .task_arithmetic import TaskArithmetic
from ..errors import InputError
from ..method import Method

METHODS = {
    "slao": SLAO,
    # references: what a stream looks like with little, or with everything
    "seqlora": SeqLoRA,
    "zero_shot": ZeroShot,
    "per_task": PerTask,
    "multi_task": MultiTask,
    # a new adapter a task, all of them active
    "inclora": IncLoRA,
    "olora": OLoRA,
    # designed or projected subspaces
    # magnitudes, gates, routers
    # merging after each task
    "task_arithmetic": TaskArithmetic,
    # other parametrisations
    # SLAO's ablations: where a task starts
    "slao_random": partial(SLAO, begin="random"),
    "slao_last_merged": partial(SLAO, begin="merged"),
    "slao_preserve": partial(SLAO, preserve=True),                        # not in the paper
    # what is merged; the paper's names, all without the QR start: FT fine-tune, FR freeze, M merge
    "slao_ftba_mb": partial(SLAO, qr=False),
    "slao_ftba_ma": partial(SLAO, qr=False, merge="A"),
    "slao_ftba_mba": partial(SLAO, qr=False, merge="AB"),
    "slao_frea_mb": partial(SLAO, qr=False, freeze="A"),
    "slao_freb_ma": partial(SLAO, qr=False, freeze="B", merge="A"),
    "slao_no_merge": partial(SLAO, merge=""),                             # sequential LoRA with the QR start
    "slao_merge_both": partial(SLAO, merge="AB"),                         # with the QR start
    # how fast: lambda(i)
    "slao_mean": partial(SLAO, schedule=one_over),
    "slao_half": partial(SLAO, schedule=lambda i: 0.5),
}


def make_method(method: str | Method, **fields) -> Method:
    """A fresh method from its name in METHODS, with other values for some of its `fields`. A Method passes through if it
    has not learned anything yet."""
    if isinstance(method, Method):
        if method.memory or fields:
            raise InputError(f"expected a method that has not learned yet and no further settings, found {method}: make a new one")
        return method
    if method not in METHODS:
        raise InputError(f"expected a method among {', '.join(METHODS)}, found {method!r}")
    known = [field.name for field in dataclasses.fields(METHODS[method]()) if field.init]
    if odd := sorted(fields.keys() - set(known)):
        raise InputError(f"expected for {method} settings among {', '.join(known) or 'none'}, found {', '.join(odd)}")
    return METHODS[method](**fields)
