"""What tables and figures call a method, what its card says, and with whom it is compared: one place for all of them."""
from __future__ import annotations

from types import MappingProxyType

import pandas as pd

from .method import Card, Method
from .methods import METHODS

MARK = "†"                                              # after the title of a method that is reconstructed
MARKED = f"{MARK} reconstructed: no public code, or a rule of which the paper leaves parts open"
RIVAL, RECONSTRUCTED, REFERENCE = "rival", "reconstructed", "not ranked"
VARIANTS = MappingProxyType({                           # rows that are a class with other settings; other rows: the card's title
    "slao_random": "SLAO, random start", "slao_last_merged": "SLAO, from the last merged pair",
    "slao_preserve": "SLAO, start keeps the function", "slao_ftba_mb": "SLAO, no QR, B merged",
    "slao_ftba_ma": "SLAO, no QR, A merged", "slao_ftba_mba": "SLAO, no QR, both merged",
    "slao_frea_mb": "SLAO, no QR, A frozen", "slao_freb_ma": "SLAO, no QR, B frozen",
    "slao_no_merge": "SLAO, nothing merged", "slao_merge_both": "SLAO, both merged",
    "slao_mean": "SLAO, λ(i) = 1/i", "slao_half": "SLAO, λ(i) = 1/2",
    "nlora_released": "N-LoRA, as released", "inflora_projected": "InfLoRA, projected", "corda_ipm": "CorDA, first components",
    "sd_lora_keep": "SD-LoRA, directions keep their length", "gainlora_olora": "GainLoRA on O-LoRA",
    "gainlora_inflora": "GainLoRA on InfLoRA", "ema_mean": "EMA, plain mean",
    "ema_merged": "EMA, from the merged pair", "ties_running": "TIES, running", "dare_ties": "DARE with TIES",
    "knots_running": "KnOTS, running", "lora_lego_running": "LoRA-LEGO, running", "mora_merged": "MoRA, merged at 1/√i",
    "lilora_released": "LiLoRA, as released", "orthoreg_released": "OrthoReg, as released",
})
OWN = MappingProxyType({                                # of a variant: fidelity, what differs (and its paper), where not its class's
    "nlora_released": ("adapted", "as three programs built on the released code have it; its own file was not seen"),
    "inflora_projected": ("adapted", "as the authors' program for language models, but with the kit's s = alpha/r"),
    "sd_lora_keep": ("adapted", "not in the paper: directions keep their length and magnitudes their value"),
    "dare_ties": ("adapted", "drops before TIES elects, each module by itself, and is cut to rank r", "Yu et al., ICML 2024, arXiv 2311.03099"),
    "gainlora_olora": ("adapted", "the cosine in the gate follows a report of the released code, rows are not rescaled, and the same energy "
                       "is kept in all tasks"),
    "orthoreg_released": ("adapted", "the norm is not squared, as in the released code; a weaker penalty, and the sum is cut back to rank r"),
    "mora_merged": ("adapted", "not in the paper: M is merged over the tasks as SLAO merges B"),
    "lilora_released": ("adapted", "as released, but at the kit's rank, on its modules and with its optimiser"),
    "slao_preserve": ("adapted", "not in the paper: B R^T goes with Q^T, so that the start keeps the function"),
    "slao_freb_ma": ("adapted", "B is frozen from task 2 on; the paper does not say how a frozen B comes to be other than 0"),
    "slao_no_merge": ("adapted", "not among the paper's ablations: the QR start alone"),
    "slao_merge_both": ("adapted", "not among the paper's ablations: the QR start, and both factors merged"),
    "slao_mean": ("adapted", "not in the paper: lambda(i) = 1/i"), "slao_half": ("adapted", "not in the paper: lambda(i) = 1/2"),
})


def card_of(name: str) -> Card | None:
    """The card of a METHODS row; None for a method of one's own."""
    if name not in METHODS:
        return None
    card = METHODS[name]().card
    return card._replace(**dict(zip(("fidelity", "differs", "paper"), OWN.get(name, ()))))


def cards() -> pd.DataFrame:
    """What every card says, a row a METHODS row: title, authors, venue, year, id (of the paper), family, fidelity, differs, memory,
    and what the method needs: the task's name at test time, old rows, a pass over the rows beside the training, a router."""
    found = {}
    for name in METHODS:
        card = card_of(name)
        authors, where, identifier = card.paper.split(", ", 2) if card.paper else ("", "", "")
        venue, _, year = where.rpartition(" ")
        found[name] = {"title": "", "authors": authors, "venue": venue, "year": int(year) if year else pd.NA,
                       "id": identifier, **(card._asdict() | {"title": title_of(name)})}
    table = pd.DataFrame.from_dict(found, orient="index").drop(columns=["paper", "merges", "trains"])
    return table.astype({"year": "Int64"})


def title_of(name: str, setting: str = "") -> str:
    """"O-LoRA", "SLAO, random start", "O-LoRA (lambda1=0.1)"; with a dagger where the method is reconstructed."""
    card = card_of(name)
    title = VARIANTS.get(name) or (card.title + _changes(name) if card else name)
    return title + (MARK if card and card.fidelity == RECONSTRUCTED else "") + (f" ({setting})" if setting else "")


def _changes(name: str) -> str:
    """Of a variant without a title of its own: what it sets."""
    fields = getattr(METHODS[name], "keywords", {})
    return "".join(f", {key} {getattr(value, '__name__', value)}" for key, value in fields.items())


def group_of(name: str) -> str:
    """Who is ranked with whom: references and what needs more than the others (the task's name at test time, old rows) are
    not ranked, reconstructed methods only among themselves."""
    card = card_of(name)
    if card and (card.family == "reference" or card.task_id or card.old_data):
        return REFERENCE
    return RECONSTRUCTED if card and card.fidelity == RECONSTRUCTED else RIVAL


def place_of(name: str) -> int:
    """The row in METHODS; methods of one's own come last."""
    return list(METHODS).index(name) if name in METHODS else len(METHODS)


def name_of(method: Method) -> str:
    """The METHODS name of an instance: the row with its settings, else its class's first row, else the class's name."""
    rows = {name: make() for name, make in METHODS.items()}
    return next((name for name, row in rows.items() if row == method),
                next((name for name, row in rows.items() if type(row) is type(method)), type(method).__name__))


def setting_of(name: str, values: dict) -> str:
    """What the fields `values` change of the row `name`: "lambda1=0.02"; all of them for a method of one's own."""
    usual, found = METHODS[name]() if name in METHODS else None, []
    for key, value in values.items():
        expected = getattr(usual, key, None)
        if callable(expected):                                       # a schedule is stored as its values
            expected = [expected(i) for i in range(1, len(value) + 1)]
        if value != (list(expected) if isinstance(expected, tuple) else expected):
            found.append(f"{key}={value}" if len(str(value)) < 40 else f"{key}={str(value)[:38]}…")
    return ", ".join(found)
