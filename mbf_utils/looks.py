"""What figures have in common, in words and colours: a look for every method, names of metrics, titles that give the answer.

A title speaks of the methods that can be measured with one measure: what is told the task or keeps old rows, references and
reconstructed methods are drawn, and the title says when it passes over them.
"""
from __future__ import annotations

import colorsys
import hashlib
import re
from types import MappingProxyType
from typing import Mapping, Sequence

import numpy as np
import pandas as pd

from .errors import InputError
from .titles import MARK, MARKED, RECONSTRUCTED, REFERENCE, card_of, group_of, title_of

METRICS = MappingProxyType({
    "AA": "average accuracy (%)", "BWT": "backward transfer (%)", "FWT": "forward transfer (%)", "forgetting": "forgetting (%)",
    "learning_accuracy": "learning accuracy (%)", "average_incremental_accuracy": "average incremental accuracy (%)",
    "general_loss": "loss on general text (nats per token)",
})
LOWER_IS_BETTER = ("forgetting", "general_loss")
# Okabe and Ito's palette, which all kinds of colour vision tell apart
LOOKS = MappingProxyType({                              # name: colour, marker, line (dashed: a bound, or a variant of SLAO)
    "slao": ("#0072B2", "o", "-"), "seqlora": ("#D55E00", "s", "-"), "inclora": ("#E69F00", "^", "-"),
    "olora": ("#009E73", "D", "-"), "per_task": ("#222222", "*", "--"), "multi_task": ("#CC79A7", "P", "--"),
    "zero_shot": ("#8A8A8A", "X", ":"), "task_arithmetic": ("#7A4B2A", "h", "-"),
    "slao_random": ("#12B5CB", "v", "--"), "slao_last_merged": ("#0B2A6F", "^", "-."), "slao_preserve": ("#7D6BE0", "D", ":"),
    "slao_mean": ("#4FB0E8", "<", "--"), "slao_half": ("#1D1D5C", ">", "-."), "slao_no_merge": ("#8E5BD0", "p", ":"),
    "exact match": ("#D55E00", "s", "-"), "best of the labels": ("#56B4E9", "o", "--"),        # two readings of one run
    "prompts without names": ("#D55E00", "s", "-"), "prompts with names": ("#56B4E9", "o", "--"),
})                                                      # a method without a row here gets its look from its name
MARKERS = ("v", "<", ">", "p", "h", "d", "8")
# and another marker, where one of a colour that some eyes see as the same has it too
APART = MappingProxyType(dict(
    oplora="v", corda_ipm="<", osf="p", am_lora="8", gainlora_olora="v", ema_mean="s", ties="v", ties_running="h", magmax="p", knots="d",
    opcm="d", p_and_m="^", lori="v", c_lora=">", mora="h", mora_merged="D", lilora="s", lilora_released="p", share="8",
    treelora_released="P", slao_ftba_mba="h", orthoreg_released="8"))


def colour(method: str) -> str:
    """The colour of a method, as #rrggbb: the same in all figures; a variant of SLAO (`slao_...`) is a shade of its blue."""
    if method in LOOKS:
        return LOOKS[method][0]
    hue, lightness, saturation = (byte / 255 for byte in hashlib.sha3_256(method.encode()).digest()[:3])
    if method.startswith("slao_"):
        hue, lightness, saturation = 0.5 + 0.17 * hue, 0.22 + 0.45 * lightness, 0.5 + 0.5 * saturation
    else:                                               # around the blues, not too light for white paper
        hue, lightness, saturation = 0.72 + 0.75 * hue, 0.25 + 0.3 * lightness, 0.4 + 0.5 * saturation
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue % 1, lightness, saturation))


def look(method: str) -> tuple[str, str]:
    """(marker, line)."""
    if method in LOOKS:
        return LOOKS[method][1:]
    return APART.get(method, MARKERS[hashlib.sha3_256(method.encode()).digest()[3] % len(MARKERS)]), "-"


def told(method: str) -> bool:
    """Whether it is told the task at test time or keeps rows of earlier tasks."""
    card = card_of(method)
    return bool(card and (card.task_id or card.old_data))


def contenders(methods: Sequence[str], references: bool) -> tuple[list[int], str]:
    """(the places of those of whom a title speaks, the words for those that it passes over). Without `references` these are
    passed over too, unless fewer than two would be left; where everything would be passed over, nothing is."""
    def chosen(references: bool) -> list[int]:
        return [place for place, method in enumerate(methods) if not told(method) and group_of(method) != RECONSTRUCTED
                and (references or group_of(method) != REFERENCE)]
    left = chosen(references)
    left = left if len(left) > 1 else chosen(True) or list(range(len(methods)))
    over = [method for place, method in enumerate(methods) if place not in left]
    kinds = {"references": any(group_of(method) == REFERENCE and not told(method) for method in over),
             "methods told the task or keeping old rows": any(map(told, over)),
             f"reconstructed methods ({MARK})": any(group_of(method) == RECONSTRUCTED and not told(method) for method in over)}
    words = " and ".join(kind for kind, there in kinds.items() if there)
    return left, words[:1].upper() + words[1:] + " aside, " if words else ""


def marked(methods: Sequence[str]) -> str:
    """What a figure's subtitle adds where a method is reconstructed."""
    return f" {MARKED}." if any(MARK in title_of(method) for method in methods) else ""


def what_is_kept(so_far: dict[str, np.ndarray]) -> str:
    """so_far: method -> (seeds, T) means over the tasks learned so far."""
    count = next(iter(so_far.values())).shape[1]
    after = f"After {count} task{'s' * (count > 1)}"
    kept = {method: values[:, -1].mean() for method, values in so_far.items() if np.isfinite(values[:, -1]).all()}
    if not kept:
        return f"{after}: not every task was measured"
    places, aside = contenders(list(kept), references=True)
    kept = {in_sentence(title_of(method)): kept[method] for place, method in enumerate(kept) if place in places}
    after = aside + after.lower() if aside else after
    if len(kept) > 2:
        best, worst = max(kept, key=kept.get), min(kept, key=kept.get)
        return f"{after} {best} has the highest mean, {kept[best]:.0f} %, and {worst} the lowest, {kept[worst]:.0f} %"
    first, *others = kept
    return f"{after} the mean is {kept[first]:.0f} % with {first}" + "".join(
        f", {kept[other]:.0f} % with {other}" for other in others)


def what_is_left(R: np.ndarray, tasks: Sequence[str]) -> str:
    earlier = len(tasks) - 1
    learned, left = R.diagonal()[:earlier], R[-1, :earlier]
    if earlier == 0:
        return f"After the one task {R[0, 0]:.0f} % of the answers are right"
    if not (np.isfinite(learned).all() and np.isfinite(left).all()):
        return f"After {len(tasks)} tasks: not every task was measured"
    then, now, after = f"{learned.mean():.0f} %", f"{left.mean():.0f} %", f"after {len(tasks)} tasks"
    if left.mean() >= learned.mean():
        return f"The earlier tasks kept what was learned: {then} when learned, {now} {after}"
    worst = int(np.argmin(left - learned))
    return (f"The earlier tasks fell from {then} when learned to {now} {after}; "
            f"{short(tasks[worst], 24)} most, from {learned[worst]:.0f} % to {left[worst]:.0f} %")


def who_leads(value: str, name: str, methods: Sequence[str], titles: Sequence[str], values: np.ndarray, spread: np.ndarray,
              ranks: Sequence[str] | None = None) -> str:
    """ranks: as reports.summarise gives them ("1–3"), for scores where higher is better; else the spread decides."""
    lower = value.removesuffix("_options") in LOWER_IS_BETTER
    measured = [row for row in range(len(values)) if np.isfinite(values[row])]
    found, aside = contenders([methods[row] for row in measured], references=False)
    ranked = sorted((measured[place] for place in found), key=lambda row: values[row] if lower else -values[row])
    if len(ranked) < 2:
        return "Only one method was measured" if ranked else "No method was measured"
    first, second = ranked[:2]
    words, unit = name.split(" (")[0], " %" if "%" in name else ""
    sentence = (f"{titles[first]} has the {'lowest' if lower else 'highest'} {words}, "
                f"{number(values[first], name)}{unit}; next {in_sentence(titles[second])}, {number(values[second], name)}{unit}")
    if ranks is not None and ranks[first]:
        if (last := int(ranks[first].split("–")[-1])) > 1:
            sentence += f"; of all that were compared the seeds do not tell {last - 1} from it"
    elif abs(values[first] - values[second]) < np.nan_to_num(spread[[first, second]]).max():
        sentence += ": a difference within the spread"
    return aside + sentence


def read_scores(matrices: Mapping) -> tuple[list[str], dict[str, np.ndarray]]:
    """Task names, and for each method the scores as (seeds, T, T), T the tasks learned so far; the input stays as it is."""
    if not isinstance(matrices, Mapping) or not matrices:
        raise InputError("expected accuracy matrices by method name, found none; give {'slao': run.matrix}.")
    lists = {method: [given] if isinstance(given, pd.DataFrame) else list(given or ()) for method, given in matrices.items()}
    frames = [frame for given in lists.values() for frame in given]
    if not all(lists.values()) or not all(isinstance(f, pd.DataFrame) and f.notna().to_numpy().any() for f in frames):
        raise InputError("expected for every method a DataFrame with a measured cell, or several, found other things or none.")
    tasks = [str(task) for task in frames[0].columns]
    if any([str(task) for task in frame.columns] != tasks for frame in frames):
        raise InputError("expected matrices of the same tasks in the same order, found others; give each stream its own figure.")
    if any(len(frame) > len(tasks) for frame in frames):
        raise InputError("expected a row after each task and a column for each task, found more rows than columns.")
    measured = {id(frame): int(np.flatnonzero(frame.notna().any(axis=1))[-1]) + 1 for frame in frames}
    count = max(measured.values())
    scores = {method: np.full((len(given), count, count), np.nan) for method, given in lists.items()}
    for method, given in lists.items():
        for seed, frame in enumerate(given):
            rows = measured[id(frame)]
            scores[method][seed, :rows] = frame.to_numpy(dtype=float)[:rows, :count]
    return tasks[:count], scores


def in_sentence(title: str) -> str:
    """A title inside a sentence: "sequential LoRA", but "IncLoRA"."""
    return title[0].lower() + title[1:] if re.match(r"[A-Z][a-z]+\b", title) else title


def ticks(count: int) -> list[int]:
    step = 1 if count <= 8 else 5 if count <= 30 else 10 * -(-count // 50)
    return sorted({1, *range(step, count + 1, step)})


def short(text: str, width: int) -> str:
    return text if len(text) <= width else text[:width - 1] + "…"


def number(value: float, name: str) -> str:
    """One digit for percentages, two for what is measured otherwise."""
    return f"{value:.{1 if '%' in name else 2}f}".replace("-", "−")
