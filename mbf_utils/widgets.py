"""Controls that move a picture: the one helper behind every explorer, and the only file that imports ipywidgets.

Core controls only, and the picture is a PNG in an Image: it does not flicker, works alike under ipywidgets 7.7 (Colab) and 8.1,
and needs nothing from the network. Beside the controls stands a sentence with the numbers that the picture shows, below them a
still picture of chosen positions for wherever no kernel runs (GitHub, print, a page that was not executed).

All controls take the keyboard: Tab goes to the next, arrows move sliders, Space ticks a box or presses a button. There is no
drop-down list, for JupyterLab takes its arrow keys for itself and goes to another cell.
"""
from __future__ import annotations

import base64
import html
from functools import lru_cache
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import ipywidgets
import traitlets
from IPython.display import display

from .errors import InputError
from .plots import Picture, quick_png, sheet

WHOLE = {"description_width": "initial"}            # labels are never cut
KEPT = 64                                           # positions of which the picture is remembered
Draw = Callable[..., tuple[Picture, str]]


class Steps(NamedTuple):
    """A slider over the whole numbers from low to high."""
    label: str
    low: int
    high: int
    value: int

    def make(self):
        return ipywidgets.IntSlider(self.value, self.low, self.high, description=self.label, style=WHOLE, layout=_width("26em"))


class Slide(NamedTuple):
    """A slider from low to high in steps."""
    label: str
    low: float
    high: float
    step: float
    value: float

    def make(self):
        return ipywidgets.FloatSlider(self.value, min=self.low, max=self.high, step=self.step, description=self.label,
                                      style=WHOLE, readout_format=".2f", layout=_width("26em"))


class Choice(NamedTuple):
    """One of a list, on a slider: of values, or of (what the reader sees, value)."""
    label: str
    options: Sequence
    value: Any

    def make(self):
        return ipywidgets.SelectionSlider(options=list(self.options), value=self.value, description=self.label, style=WHOLE,
                                          readout=False, layout=_width("26em"))


class Buttons(NamedTuple):
    """One of a few (eight fit in a row), each a button; options as in Choice."""
    label: str
    options: Sequence
    value: Any

    def make(self):
        return ipywidgets.ToggleButtons(options=list(self.options), value=self.value, style={"button_width": "max-content"},
                                        layout=ipywidgets.Layout(width="max-content", max_width="100%"))


class Several(NamedTuple):
    """Boxes to tick, at most `most` at once; value: the tuple of what is ticked, in the order of the options. Those that are not
    `shown` (by default: not ticked at first, where there are more than 12) are folded away behind a button."""
    label: str
    options: Sequence
    value: tuple
    most: int = 6
    shown: tuple | None = None

    def make(self):
        return Checks(self)


class Checks(ipywidgets.VBox):
    """The widget of `Several`."""
    value = traitlets.Tuple()

    def __init__(self, spec: Several):
        pairs = [option if isinstance(option, tuple) else (option, option) for option in spec.options]
        self.most = spec.most
        self.boxes = {value: ipywidgets.Checkbox(description=label, indent=False, layout=_width("max-content"))
                      for label, value in pairs}
        shown = spec.shown or (self.boxes if len(pairs) <= 12 else spec.value)
        first, rest = ([box for value, box in self.boxes.items() if (value in shown) == there] for there in (True, False))
        self.more = ipywidgets.ToggleButton(description=f"{len(rest)} more", layout=_width("max-content"))
        self.rest = _row(rest)
        head = ipywidgets.Label(f"{spec.label} ({spec.most} at most)" if len(pairs) > spec.most else spec.label)
        super().__init__([_row([head, *first] + [self.more] * bool(rest)), self.rest])
        self.more.observe(self._fold, "value")
        self._fold()
        self.observe(self._tick, "value")
        self.value = tuple(spec.value)
        for box in self.boxes.values():
            box.observe(self._ticked, "value")

    def _fold(self, _=None):
        self.rest.layout.display = "flex" if self.more.value else "none"

    @traitlets.validate("value")
    def _ordered(self, proposal) -> tuple:
        given = proposal["value"]
        if set(given) - self.boxes.keys() or len(given) > self.most:
            raise InputError(f"expected at most {self.most} of {', '.join(map(str, self.boxes))}, "
                             f"found {', '.join(map(str, given))}")
        return tuple(value for value in self.boxes if value in given)

    def _tick(self, _=None):
        """The boxes say what `value` says."""
        self.settling = True
        for value, box in self.boxes.items():
            box.value = value in self.value
            box.disabled = len(self.value) == self.most and not box.value
        self.settling = False

    def _ticked(self, change):
        if self.settling:
            return
        on = tuple(value for value, box in self.boxes.items() if box.value)
        if len(on) > self.most:                     # ticked before the page knew that it was one too many
            change.owner.value = False
        else:
            self.value = on


class Explorer:
    """What `explore` returns: shows itself in a notebook. `controls[name].value` reads and sets a position; `picture.value` is
    the PNG, `sentence` what the read-out says, `still` the PNG of the chosen positions, `words` the same in sentences, `failed`
    whether the last draw was refused."""

    def __init__(self, draw: Draw, controls: Mapping[str, Any], static: Sequence[Mapping[str, Any]]):
        self.controls = {name: spec.make() for name, spec in controls.items()}
        self.picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%", align_self="flex-start"))
        self.readout = ipywidgets.HTML()
        self._drawn = lru_cache(KEPT)(lambda values: _bytes(*draw(**dict(values))))
        start = self.values
        for chosen in static:
            if odd := sorted(chosen.keys() - start.keys()):
                raise InputError(f"expected chosen positions of {', '.join(start)}, found one of {odd[0]}")
        stills = [draw(**{**start, **chosen}) for chosen in static]
        words = [", ".join(f"{spec.label}: {_said(spec, chosen.get(name, start[name]))}" for name, spec in controls.items())
                 for chosen in static]
        self.still = sheet([(word, figure) for word, (figure, _) in zip(words, stills)])
        self.words = " | ".join(f"{word}. {sentence}" for word, (_, sentence) in zip(words, stills))
        self.redraw()
        for control in self.controls.values():
            control.observe(self._moved, "value")
            control.add_class("mbf-control")
        labelled = [_labelled(spec, self.controls[name]) for name, spec in controls.items()]
        self.box = ipywidgets.VBox([_row(labelled), self.readout, self.picture])
        self.box.add_class("mbf-explorer")

    @property
    def values(self) -> dict[str, Any]:
        return {name: control.value for name, control in self.controls.items()}

    def redraw(self) -> None:
        """Draws the position that the controls show. What is raised here is raised to the caller."""
        self.picture.value, self.sentence = self._drawn(tuple(self.values.items()))
        self._say(self.sentence, failed=False)

    def _moved(self, _) -> None:
        """A refused position is told in the read-out, its picture hidden; an error that nobody foresaw is told there too, and
        raised, so that the kernel's log has its trace."""
        try:
            self.redraw()
        except InputError as error:
            self._say(str(error), failed=True)
        except Exception as error:
            self._say(f"this position failed with {type(error).__name__}: {error}", failed=True)
            raise

    def _say(self, sentence: str, failed: bool) -> None:
        self.sentence, self.failed = sentence, failed
        self.picture.layout.visibility = "hidden" if failed else "visible"
        kind = "mbf-readout mbf-failed" if failed else "mbf-readout"
        style = "font-size:1.1em;line-height:1.5;margin:.3em 0;max-width:70em;white-space:normal" + ";color:#B00020" * failed
        words = html.escape(sentence).replace(" %", "&nbsp;%")
        self.readout.value = f'<p class="{kind}" style="{style}">{words}</p>'

    def _ipython_display_(self) -> None:
        display(self.box)
        display({"image/png": base64.b64encode(self.still).decode(), "text/plain": self.words}, raw=True,
                metadata={"image/png": {"alt": self.words}})


def explore(draw: Draw, controls: Mapping[str, Any], static: Sequence[Mapping[str, Any]]) -> Explorer:
    """Controls above, below them a sentence and the picture, last a still picture of chosen positions.

    draw: takes a value for every control by name and returns (figure, one sentence with the numbers that it shows); equal
    values have to give an equal picture, for the last ones are remembered. Keep it well under half a second: compute outside,
    draw inside. Raise InputError where there is nothing to draw; its sentence is shown.
    controls: name -> Steps, Slide, Choice, Buttons or Several, in their order. static: chosen positions, each a dict of the
    controls that differ from where they start: [{}, {"task": 5}].
    """
    if not controls or not static:
        raise InputError("expected at least one control and one chosen position for the still picture, found none")
    return Explorer(draw, controls, static)


def _bytes(figure: Picture, sentence: str) -> tuple[bytes, str]:
    return quick_png(figure), sentence


def _said(spec, value) -> str:
    """A value in the words that the control shows."""
    pairs = {option[1]: option[0] for option in getattr(spec, "options", ()) if isinstance(option, tuple)}
    return ", ".join(str(pairs.get(item, item)) for item in (value if isinstance(spec, Several) else [value]))


def _labelled(spec, control) -> ipywidgets.Widget:
    """Buttons get their label beside them, where ipywidgets would put it above; a choice gets its words whole, not cut."""
    if isinstance(spec, Buttons):
        children = [ipywidgets.Label(spec.label), control]
    elif isinstance(spec, Choice):
        children = [control, ipywidgets.Label()]
        traitlets.dlink((control, "value"), (children[1], "value"), lambda value: _said(spec, value))
    else:
        return control
    return ipywidgets.HBox(children, layout=ipywidgets.Layout(max_width="100%"))


def _row(children) -> ipywidgets.Box:
    return ipywidgets.Box(list(children), layout=ipywidgets.Layout(display="flex", flex_flow="row wrap", align_items="center",
                                                                   grid_gap="0 1.5em"))


def _width(width: str) -> ipywidgets.Layout:
    return ipywidgets.Layout(width=width)
