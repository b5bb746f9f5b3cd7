"""What the fields of a method may be: refused in one sentence when it is made, or learned to finite factors."""
import dataclasses
import json
import re
from functools import partial
from pathlib import Path
from typing import Callable

import pytest
import torch
from toy import FAST, toy_model, toy_stream

from mbf_utils.errors import InputError
from mbf_utils.fields import choice, function, number
from mbf_utils.method import Method
from mbf_utils.methods import METHODS, make_method, read_fields
from mbf_utils.presets import PRESETS
from mbf_utils.runs import run_stream
from mbf_utils.search import CHOSEN
from mbf_utils.streams import Stream

SEARCH = Path(__file__).parent.parent / "figures" / "search.sh"
CASES = []
for name in METHODS:
    for one in dataclasses.fields(METHODS[name]()):
        kind = str(one.type)
        if one.init and "bool" not in kind:
            values = ("zzz",) if "str" in kind else (-1, 0, 10 ** 6) if "int" in kind else (-1.0, 0.0, 1e6)
            CASES += [(name, one.name, value) for value in values]


@pytest.fixture(scope="module")
def learned():
    """Whether two tasks of the toy stream end in finite factors."""
    stream, model = toy_stream(), toy_model()
    stream = Stream("toy", "1", tuple(stream)[:2])

    def finite(method: Method) -> bool:
        run = run_stream(stream, method, model, **FAST | {"dropout": 0.0})
        return all(torch.isfinite(factor).all() for pair in run.lora(2).values() for factor in pair)
    return finite


@pytest.mark.parametrize("name, field, value", CASES)
def test_an_extreme_field_is_refused_at_once_or_learned(name, field, value, learned):
    try:
        method = make_method(name, **{field: value})
    except InputError as error:
        assert str(error).startswith(f"expected {field} of ") and str(error).endswith(f"found {value!r}")
    else:
        assert not isinstance(value, str) and (value >= 0 or field in ("threshold", "rho"))
        assert not isinstance(METHODS[name], type) or learned(method)            # once a class


@dataclasses.dataclass
class Own(Method):
    """A contributor's."""
    plain: float = 3.0
    q: float = number(0.5, above=0, below=1)
    n: "int | None" = number(None, 2)
    mode: str = choice("one", "two")
    schedule: Callable[[int], float] = function(float)


@pytest.mark.parametrize("fields, sentence", [
    (dict(q=0), "expected q of Own above 0, below 1, found 0"), (dict(q=float("nan")), "above 0, below 1, found nan"),
    (dict(q="1"), "found '1'"), (dict(q=True), "found True"), (dict(q=None), "found None"),
    (dict(n=1), "expected n of Own to be a whole number from 2 on or None, found 1"), (dict(n=2.5), "found 2.5"),
    (dict(mode="zzz"), "expected mode of Own to be one of 'one', 'two', found 'zzz'"),
    (dict(schedule=2), "expected schedule of Own to be a function of the task's index, found 2")])
def test_a_method_of_one_s_own_refuses_what_it_did_not_declare(fields, sentence, monkeypatch):
    for make in (Own, partial(make_method, "own"), partial(dataclasses.replace, Own())):
        monkeypatch.setitem(METHODS, "own", Own)
        with pytest.raises(InputError, match=re.escape(sentence)):
            make(**fields)


def test_a_declaration_changes_nothing_but_what_is_refused():
    """The configuration, as plain fields have it; and a field that is declared plainly takes anything."""
    assert repr(METHODS["ema"](beta=None)) == "EMA(beta=None, begin='tuned')"
    own = Own(plain="anything", n=2)
    assert (own.plain, own.q, own.n, own.mode, own.schedule) == ("anything", 0.5, 2, "one", float) and Own.q == 0.5


def test_a_post_init_of_one_s_own_does_not_hide_the_ranges(monkeypatch):
    class Silent(Own):
        def __post_init__(self):
            pass
    monkeypatch.setitem(METHODS, "silent", Silent)
    with pytest.raises(InputError, match="expected q of Silent"):
        make_method("silent", q=7)


def test_what_the_kit_itself_uses_is_allowed():
    """The chosen settings, the papers' and those that figures/search.sh tries."""
    used = [(name, fields) for base in json.loads(CHOSEN.read_text()).values() for name, fields in base.items()]
    used += [pair for preset in PRESETS.values() for pair in preset.methods.items()]
    for name, field, values in re.findall(r"^(?:try|last) (\w+) .*?(\w+)=([\d.,]+)", SEARCH.read_text(), re.M):
        used += [(name, read_fields([f"{field}={value}"], name)) for value in values.split(",")]
    assert len(used) > 150
    for name, fields in used:
        make_method(name, **fields)
