"""An adapter written into its base: one plain model, for whoever serves models without adapters.

    W' = round(W + s B A)        the sum in float32, rounded once to the type that is served

Rounding changes what the model says a little. How much is measured, not assumed: the base that wears the adapter and the model
that was written read the same tokens, and the largest difference of a logit is told, with how often the likeliest next token
changed.
"""
from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn

from .adapter_files import load_adapter, load_config, scaling_of, unusual
from .disk import new_folder
from .errors import InputError
from .models import BUILT_IN, DTYPES, load_model, no_bars
from .text import token_ids

PLACES = 8, 64                                      # rows and tokens that are read where no texts are given


class Merged(NamedTuple):
    """What merge_into_base wrote, and how far it is from the adapter on its base."""
    folder: Path
    difference: float                               # the largest of a logit
    spread: float                                   # standard deviation of the logits
    changed: int                                    # places where another next token is the likeliest
    places: int

    def __str__(self) -> str:
        return (f"{self.folder}: largest difference of a logit {self.difference:.3g} (the logits' standard deviation is "
                f"{self.spread:.3g}), another likeliest token at {self.changed} of {self.places} places")


@torch.no_grad()
def merge_into_base(adapter, out, model="tiny", device: str = "auto", dtype: str = "bfloat16", texts=None) -> Merged:
    """Writes base and adapter as one model to the new folder `out`, in `dtype`, and measures the largest difference.

    adapter: the folder of a plain PEFT LoRA adapter. model: its base, a name or a folder, loaded in float32. texts: what both read
    (their first 64 tokens each); None: 8 rows of 64 random tokens, seeded. Raises InputError for what it would get wrong;
    warns where the adapter names another base, or none.
    """
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"expected a new or empty folder to write to, found {out} in use")
    if dtype not in DTYPES:
        raise InputError(f"expected dtype among {', '.join(DTYPES)}, found {dtype!r}")
    config, lora = load_config(adapter), load_adapter(adapter)
    if odd := unusual(config):
        raise InputError(f"expected plain LoRA in {adapter}, found {', '.join(odd)}: merging B and A would get it wrong")
    base, tokenizer = load_model(model, device, "float32")
    _check_base(config.get("base_model_name_or_path") or "", base.name_or_path, adapter)
    rows = _rows(tokenizer, texts, base.config.vocab_size, base.device)
    for path, (A, B) in lora.items():
        module = _module(base, path, adapter)
        delta = scaling_of(config, path, A.shape[0]) * (B.float() @ A.float()).to(base.device)      # (d_out, d_in)
        delta = delta if isinstance(module, nn.Linear) else delta.T                               # GPT-2's layers lie the other way
        if delta.shape != module.weight.shape:
            raise InputError(f"expected an adapter of this base, found an update of shape {tuple(delta.shape)} for the weight "
                             f"{tuple(module.weight.shape)} of {path}")
        if module.weight is base.get_input_embeddings().weight:
            raise InputError(f"expected an adapter that leaves the embeddings alone, found {path}, whose weight this base shares "
                             "with them: serve the adapter beside its base")
        module.weight.data += delta                 # type: ignore[operator]
    before = _logits(base, rows)                    # in float32, adapter and base apart or together are the same to rounding
    try:
        with new_folder(out) as temporary:
            with no_bars():
                base.to(DTYPES[dtype]).save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            del base
            after = _logits(load_model(temporary, device, dtype)[0], rows)       # what was written, as whoever serves it loads it
    except (OSError, SafetensorError) as error:                      # safetensors reports a full disk in its own way
        raise InputError(f"expected to write {out}, found: {getattr(error, 'strerror', None) or error}") from error
    differences = [(one - other).abs().max() for one, other in zip(before, after)]
    changed = sum(int((one.argmax(-1) != other.argmax(-1)).sum()) for one, other in zip(before, after))
    return Merged(out, float(max(differences)), float(torch.cat(before).std()), changed, sum(len(one) for one in before))


def _check_base(theirs: str, mine: str, adapter) -> None:
    """Refuses a built-in base for an adapter that names another; a folder may hold the base that the adapter names."""
    if theirs and theirs != mine and mine in BUILT_IN:
        raise InputError(f"expected the base {theirs!r}, which the adapter {adapter} names, found {mine!r}: "
                         "give it as model (--model)")
    if theirs != mine:
        warnings.warn(f"the adapter {adapter} names the base {theirs!r}, the model is {mine!r}: whether they fit was not checked",
                      stacklevel=4)                 # no_grad lies between


def _module(base: nn.Module, path: str, adapter) -> nn.Module:
    try:
        return base.get_submodule(path)
    except AttributeError:
        raise InputError(f"expected the base of {adapter}, found a model without the module {path}") from None


def _rows(tokenizer, texts, vocabulary: int, device) -> list[torch.Tensor]:
    """Rows of token ids, (1, T) each."""
    count, length = PLACES
    if texts is None:
        drawn = torch.randint(vocabulary, (count, length), generator=torch.Generator().manual_seed(0))
        return [row[None].to(device) for row in drawn]
    rows = [torch.tensor([ids[:length]], device=device) for ids in token_ids(tokenizer, list(texts)) if ids]
    if not rows:
        raise InputError("expected texts with tokens to compare on, found none")
    return rows


def _logits(model: nn.Module, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """(T, V) a row, in float32."""
    return [model(input_ids=row, use_cache=False).logits[0].float() for row in rows]
