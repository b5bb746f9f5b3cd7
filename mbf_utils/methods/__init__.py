"""The literal table of methods. A row is a class, or a class with other settings; the order is the order of every table."""
import dataclasses
import math
from functools import partial
from typing import Callable

from .am_lora import AMLoRA
from .c_lora import CLoRA
from .codyra import CoDyRA
from .corda import CorDA
from .dare import DARE
from .ema import EMA
from .ewc import EWC
from .gainlora import GainLoRA
from .gainlora_inflora import GainInfLoRA
from .inclora import IncLoRA
from .inflora import InfLoRA
from .k_merge import KMerge
from .keeplora import KeepLoRA
from .knots import KnOTS
from .lb_cl import LBCL
from .lilora import LiLoRA
from .loda import LoDA
from .lora_lego import LoRALego
from .lorac import LoRAC
from .lori import LoRI
from .lwf import LwF
from .magmax import MagMax
from .migu import MIGU
from .mora import MoRA
from .nlora import NLoRA
from .olora import OLoRA
from .opcm import OPCM
from .oplora import OPLoRA
from .orthoreg import OrthoReg
from .osf import OSF
from .p_and_m import PAndM
from .rank1_pool import Rank1Pool
from .references import MultiTask, PerTask, SeqLoRA, ZeroShot
from .replay import Replay
from .sapt import SAPT
from .sd_lora import SDLoRA
from .share import Share
from .slao import SLAO, one_over, time_aware_scale
from .slora import SLoRA
from .task_arithmetic import TaskArithmetic
from .ties import TIES
from .treelora import TreeLoRA
from .treelora_released import ReleasedTreeLoRA
from ..errors import InputError
from ..fields import check
from ..method import Method

METHODS: dict[str, Callable[..., Method]] = {
    "slao": SLAO,
    # references: what a stream looks like with little, or with everything
    "seqlora": SeqLoRA,
    "zero_shot": ZeroShot,
    "per_task": PerTask,
    "multi_task": MultiTask,
    "replay": Replay,
    "ewc": EWC,
    "lwf": LwF,
    # a new adapter a task, all of them active
    "inclora": IncLoRA,
    "olora": OLoRA,
    "nlora": NLoRA,
    "nlora_released": partial(NLoRA, lam=0.4, released=True),
    # designed or projected subspaces
    "inflora": InfLoRA,
    "inflora_projected": partial(InfLoRA, design="projected", eps_start=0.995),     # the authors' version for language models
    "keeplora": KeepLoRA,
    "loda": LoDA,
    "lb_cl": LBCL,
    "oplora": OPLoRA,
    "corda": CorDA,
    "corda_ipm": partial(CorDA, mode="ipm"),
    "osf": OSF,
    "slora": SLoRA,
    # magnitudes, gates, routers
    "sd_lora": SDLoRA,
    "sd_lora_keep": partial(SDLoRA, reset=False),                         # not in the paper
    "codyra": CoDyRA,
    "lorac": LoRAC,
    "migu": MIGU,
    "rank1_pool": Rank1Pool,
    "sapt": SAPT,
    "am_lora": AMLoRA,
    "gainlora": GainLoRA,
    "gainlora_olora": partial(GainLoRA, lambda1=0.5),
    "gainlora_inflora": GainInfLoRA,
    # merging after each task
    "task_arithmetic": TaskArithmetic,
    "orthoreg": OrthoReg,
    "orthoreg_released": partial(OrthoReg, squared=False),
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
    "p_and_m": PAndM,
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
    made = METHODS[method](**fields)
    check(made)                                     # also where its class has a __post_init__ of its own
    return made


def read_fields(pairs: list[str], method: str) -> dict:
    """The fields of `method` from texts FIELD=VALUE; a value is a number, true, false or text: a whole number only where the
    method's own is one. Raises InputError for what is no such text, given twice, or of another kind than the method's own."""
    usual, found = METHODS[method]() if method in METHODS else None, {}
    whole = [field.name for field in dataclasses.fields(usual) if "int" in str(field.type)] if usual else []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"expected --set FIELD=VALUE, found {pair!r}")
        if name in found:
            raise InputError(f"expected every setting once, found {name} given twice: leave one out")
        try:
            number = float(text)
            found[name] = int(number) if name in whole and number.is_integer() else number
        except ValueError:
            found[name] = {"true": True, "false": False}.get(text.lower(), text)
        _check_kind(name, found[name], getattr(usual, name, None))
    return found


def _check_kind(name: str, value, usual) -> None:
    """That a setting which is a number is given as one: its method would find out in the middle of a task."""
    kind = {bool: "true or false", int: "a whole number", float: "a number"}.get(type(usual))
    if isinstance(value, float) and not math.isfinite(value) or kind and type(value) is not type(usual) and not (
            type(usual) is float and type(value) is int):
        raise InputError(f"expected {name} to be {kind or 'finite'}, found {value!r}")
