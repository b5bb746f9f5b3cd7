"""The settings of the papers by name, with their source and with what the source leaves open.

    mbf run superni --preset slao-superni
    mbf.run_stream("superni", "slao", model, **mbf.presets.settings("slao-superni"))

Batches are those of one process: where a paper had several GPUs, `accumulation` makes up for them, and n processes want an n-th of
it. max_length is prompt and answer together, the papers' two limits added. What a preset says of a method (`methods`) are its
hyper-parameters.
"""
from __future__ import annotations

from typing import NamedTuple

from .errors import InputError


class Preset(NamedTuple):
    settings: dict                                  # fields of Settings
    methods: dict[str, dict]                        # method -> its fields, where they are not its defaults
    source: str
    left_open: str                                  # what the source does not say, and what stands here instead


_QV = dict(targets=("q_proj", "v_proj"), schedule="constant", warmup=0.0, weight_decay=0.0, clip=1.0, max_new_tokens=50)
_SLAO = dict(rank=8, alpha=32.0, dropout=0.1, max_length=1074, **_QV)
_OPEN = ("alpha and dropout (the replication's 32 and 0.1, from O-LoRA's Llama code), constant rate, no weight decay, clip 1, "
         "1024 + 50 tokens (the replication's, from SAPT)")
_ONE_EPOCH = dict(lr=1e-4, epochs=1, batch_size=1, accumulation=8)
_REPLICATED = dict(lr=5e-5, epochs=5, batch_size=2, accumulation=4)
_OLORA = dict(rank=8, alpha=32.0, dropout=0.1, max_length=562, epochs=1, batch_size=1, accumulation=64, **_QV)
_SAPT = dict(rank=4, alpha=32.0, dropout=0.0, max_length=1074, lr=5e-5, batch_size=2, accumulation=16, **_QV)

_SAPT_T5 = dict(max_length=562, lr=3e-4)
_T5 = "they train an encoder-decoder, which this kit does not: take the rates to a model of yours"
_LAST = "best checkpoint on dev, which is the test file there: here the last weights"
PRESETS = {
    "slao-superni": Preset(
        _SLAO | _REPLICATED, {},
        "SLAO, arXiv 2512.23017, SuperNI with Llama (rank 8 on q and v, lr 5e-5, 5 epochs, batch 2 x 4), as its readers report",
        f"{_OPEN}; whether Qwen has the same"),
    "slao-standard": Preset(
        _SLAO | _ONE_EPOCH, {},
        "SLAO, arXiv 2512.23017, standard benchmark (rank 8 on q and v, lr 1e-4, 1 epoch, batch 1 x 8), by one reading note; "
        "O-LoRA's Llama scripts, its lineage, have lr 1e-3", _OPEN),
    "slao-long": Preset(
        _SLAO | _ONE_EPOCH, {}, "SLAO, arXiv 2512.23017, long benchmark, by the same note", _OPEN),
    "slao-replication": Preset(
        _SLAO | _REPLICATED, {},
        "sontungkieu/merge-before-forget, SuperNI with Llama-2-7B-chat and Qwen2.5-3B: AdamW anew for each task, greedy answers, "
        "seeds 42, 43, 44", "nothing"),
    "olora": Preset(
        _OLORA | dict(lr=1e-4), {"olora": {"lambda1": 0.5, "lambda2": 0.0}},
        "cmnfriend/O-LoRA, LLaMA scripts of orders 1 to 3 (8 GPUs x 1 x 8, 512 + 50 tokens)",
        "the scripts have lr 1e-3 for the first task and 1e-4 after it; one rate stands here, the later one, which the author "
        "advises for all; clip 1 is the Trainer's default"),
    "olora-t5": Preset(
        _OLORA | dict(lr=1e-3), {"olora": {"lambda1": 0.5, "lambda2": 0.0}},
        "cmnfriend/O-LoRA, T5-large scripts of orders 1 to 3 (batch 64)",
        _T5),
    "sapt-superni": Preset(
        _SAPT | dict(epochs=50), {"sapt": {"lam": 1.0}}, "circle-hit/SAPT, LLaMA scripts for SuperNI (4 GPUs x 2 x 4, KL weight 1)",
        _LAST),
    "sapt-long": Preset(
        _SAPT | dict(epochs=20), {"sapt": {"lam": 2.0}},
        "circle-hit/SAPT, LLaMA scripts for the long benchmark (4 GPUs x 2 x 4, KL weight 2)", _LAST),
    "sapt-superni-t5": Preset(
        _SAPT | _SAPT_T5 | dict(epochs=100, batch_size=8, accumulation=4), {"sapt": {"lam": 0.5}},
        "circle-hit/SAPT, T5-large scripts for SuperNI (1 GPU x 8 x 4, 512 + 50 tokens, KL weight 0.5)", f"{_T5}; {_LAST}"),
    "sapt-long-t5": Preset(
        _SAPT | _SAPT_T5 | dict(rank=8, epochs=10, batch_size=16, accumulation=2), {"sapt": {"lam": 0.1}},
        "circle-hit/SAPT, T5-large scripts for the long benchmark (rank 8, 1 GPU x 16 x 2, 512 + 50 tokens, KL weight 0.1)",
        f"{_T5}; {_LAST}"),
}
UNFIT = {                                           # settings of the papers that no preset holds, and why
    "O-LoRA, order 6": "lambda1 (0, 0.5, 5) and lambda2 (0 to 0.3) change from task to task and MNLI has 2 epochs where the others "
                       "have 1; a run has one value of each",
    "O-LoRA, orders 4 and 5": "its repository has no script of them",
    "N-LoRA": "batches are stated a device, without the number of devices, and its lambda (0.4 to 1.8, in order 4 two values in "
              "one run) weighs a smaller product than the paper's (mbf methods nlora)",
    "TRACE, and TreeLoRA on O-LoRA's orders": "the rate falls as a cosine; here it is constant or linear",
}


def preset(name: str) -> Preset:
    """One of PRESETS; InputError for another name."""
    if name not in PRESETS:
        raise InputError(f"expected a preset among {', '.join(PRESETS)}, found {name!r}")
    return PRESETS[name]


def told(name: str | None = None) -> str:
    """All of them with their sources and what is none of them, or one with its fields and what it leaves open, as text."""
    if name is None:
        return "\n".join([*(f"{name}: {found.source}" for name, found in PRESETS.items()), "", "no preset holds",
                          *(f"{which}: {why}" for which, why in UNFIT.items())])
    found = preset(name)
    return "\n".join([f"{name}: {found.source}", *(f"  {field} = {value!r}" for field, value in found.settings.items()),
                      *(f"  {method}: {fields}" for method, fields in found.methods.items()), f"left open: {found.left_open}"])


def settings(name: str) -> dict:
    """Its settings, as run_stream takes them."""
    return dict(preset(name).settings)


def fields(name: str | None, method: str) -> dict:
    """What it says of a method's hyper-parameters; {} where it says nothing, and for no preset."""
    return dict(preset(name).methods.get(method, {})) if name else {}
