r"""What nobody reads is not computed: of a model's last layer only the columns are read whose logits are asked for.

Keys and values are looked up from there, so they need every token; what stands behind them, token by token, does not:

    y = f(x)      becomes      y[:, keep] = f(x[:, keep]),  0 elsewhere,      f: queries, attention's way out, the MLP

where keep are the columns that a forward pass names in logits_to_keep; what it returns is the same, up to rounding. A question with a
number of columns or none, most columns, hidden states, checkpointing, and every module that somebody listens to or has changed (a
hook, a forward of its own) are computed whole.
"""
from __future__ import annotations

from contextlib import contextmanager

from torch import Tensor, nn

TRIED = frozenset("llama mistral qwen2 qwen3 gemma2 gemma3_text phi3 gpt2".split())      # tests/test_layouts.py holds each to plain rows
PARTS = "self_attn.q_proj", "self_attn.o_proj", "attn.c_proj", "mlp"                     # those that a layer has


@contextmanager
def shortened(model):
    """While open, `model` computes of its last layer what is read."""
    config = model.config.get_text_config()
    if config.model_type not in TRIED:
        yield
        return
    layers, = (child for child in model.get_decoder().children() if isinstance(child, nn.ModuleList))
    parts = [module for name, module in layers[-1].named_modules() if name in PARTS]
    asked: list = [None, 0]                         # the columns of this pass, where parts are computed at them alone; its length

    def before(model, args, kwargs) -> None:
        keep, ids = kwargs.get("logits_to_keep"), kwargs.get("input_ids")
        short = (isinstance(keep, Tensor) and ids is not None and 2 * len(keep) <= ids.shape[1]
                 and not (kwargs.get("output_hidden_states") or config.output_hidden_states)
                 and not (layers[-1].training and getattr(layers[-1], "gradient_checkpointing", False))
                 and all(map(_alone, parts)))
        asked[:] = (keep, ids.shape[1]) if short else (None, 0)

    def less(part, args):
        return args if asked[0] is None else (args[0][:, asked[0]], *args[1:])

    def whole(part, args, y):
        return y if asked[0] is None else y.new_zeros(len(y), asked[1], y.shape[-1]).index_copy(1, asked[0], y)

    def after(model, args, output) -> None:
        asked[:] = None, 0

    hooks: list = []
    try:
        hooks += [model.register_forward_pre_hook(before, with_kwargs=True), model.register_forward_hook(after, always_call=True)]
        for part in parts:
            hooks += part.register_forward_pre_hook(less), part.register_forward_hook(whole)
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _alone(part: nn.Module) -> bool:
    """Whether nobody else listens in it, and it computes as its class does."""
    inner = part.modules()
    next(inner)
    return (len(part._forward_hooks) == len(part._forward_pre_hooks) == 1 and "forward" not in vars(part)
            and not any(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in inner))
