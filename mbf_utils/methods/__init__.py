"""The literal table of methods. A row is a class, or a class with other settings; the order is the order of every table."""
import dataclasses
from functools import partial

from .c_lora import CLoRA
from .codyra import CoDyRA
from .dare import DARE
from .ema import EMA
from .inclora import IncLoRA
from .k_merge import KMerge
from .knots import KnOTS
from .lilora import LiLoRA
from .lora_lego import LoRALego
from .lorac import LoRAC
from .lori import LoRI
from .magmax import MagMax
from .mora import MoRA
from .nlora import NLoRA
from .olora import OLoRA
from .opcm import OPCM
from .orthoreg import OrthoReg
from .references import MultiTask, PerTask, SeqLoRA, ZeroShot
from .sd_lora import SDLoRA
from .share import Share
from .slao import SLAO, one_over, time_aware_scale
from .task_arithmetic import TaskArithmetic
from .ties import TIES
from .treelora import TreeLoRA
from .treelora_released import ReleasedTreeLoRA
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
    "nlora": NLoRA,
    "nlora_released": partial(NLoRA, lam=0.4, released=True),
    # designed or projected subspaces
    # magnitudes, gates, routers
    "sd_lora": SDLoRA,
    "sd_lora_keep": partial(SDLoRA, reset=False),                         # not in the paper
    "codyra": CoDyRA,
    "lorac": LoRAC,
    # merging after each task
    "task_arithmetic": TaskArithmetic,
    "orthoreg": OrthoReg,
    "ema": EMA,
    "ema_mean": partial(EMA, beta=None),
    "ema_merged": partial(EMA, begin="merged"),
    "ties": TIES,
    "ties_running": partial(TIES, running=True),
    "dare": DARE,
    "dare_ties": partial(TIES, drop=0.5, density=1.0),
    "magmax": MagMax,
    "knots": KnOTS,
    "knots_running": partial(KnOTS, running=True),
    "lora_lego": LoRALego,
    "lora_lego_running": partial(LoRALego, running=True),
    "opcm": OPCM,
    "k_merge": KMerge,
    "lori": LoRI,
    # other parametrisations
    "c_lora": CLoRA,
    "mora": MoRA,
    "mora_merged": partial(MoRA, schedule=time_aware_scale),              # not in the paper
    "lilora": LiLoRA,
    "lilora_released": partial(LiLoRA, lam=0.0, freeze=True),
    "share": Share,
    # one adapter, held near earlier tasks
    "treelora": TreeLoRA,
    "treelora_released": ReleasedTreeLoRA,
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
