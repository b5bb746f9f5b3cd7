"""What the fields of a method may be, said where they are declared:

    q: float = number(0.7, 0, 1)                    # from 0 to 1
    density: float = number(0.2, above=0, most=1)
    begin: str = choice("tuned", "merged")          # the first is the default

A method refuses other values when it is made. A field that is declared plainly may be anything.
"""
from __future__ import annotations

import math
import numbers
from dataclasses import field, fields
from typing import Any, Callable

from .errors import InputError


def number(default, least=None, most=None, above=None, below=None) -> Any:
    """A dataclass field for finite numbers, whole ones where its annotation is int, and for None where that says so; between the
    ends `least` and `most`, or strictly between `above` and `below`."""
    low = f"above {above}" if least is None else f"from {least}"
    if below is not None:
        high = f", below {below}"
    elif most is not None:
        high = f" to {most}" if above is None else f" up to {most}"
    else:
        high = " on" if above is None else ""

    def fits(value) -> bool:
        return (math.isfinite(value) and (least is None or value >= least) and (most is None or value <= most)
                and (above is None or value > above) and (below is None or value < below))
    return field(default=default, metadata={"fits": fits, "words": low + high})


def choice(*values: str) -> Any:
    """A dataclass field for one of these texts; the first is the default."""
    return field(default=values[0], metadata={"values": values})


def function(default: Callable | None) -> Any:
    """A dataclass field for a function of the task's index, and for None where the default is None."""
    return field(default=default, metadata={"callable": True})


def check(made) -> None:
    """Raises InputError where a field of the dataclass `made` is not as declared."""
    for one in fields(made):
        value, told, kind = getattr(made, one.name), one.metadata, str(one.type)
        optional, whole = "None" in kind or "Optional" in kind, "int" in kind
        if not told or value is None and optional:
            continue
        if "values" in told:
            fits, words = isinstance(value, str) and value in told["values"], f"to be one of {', '.join(map(repr, told['values']))}"
        elif "callable" in told:
            fits, words = callable(value), "to be a function of the task's index"
        else:
            a_number = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
            fits, words = a_number and told["fits"](value), f"{'to be a whole number ' * whole}{told['words']}"
        if not fits:
            raise InputError(f"expected {one.name} of {type(made).__name__} {words}{' or None' * optional}, found {value!r}")
