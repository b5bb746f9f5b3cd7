# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Why QR, why the square root? Every ingredient of SLAO, taken out
#
# SLAO is four decisions: where a task starts, that $A$ is orthonormalised there, which factors are merged, and by how much. Each
# can be changed alone and the rest kept. This notebook takes them out one by one and shows what many seeds say, also where
# they say that an ingredient does nothing here.
#
# | device | machine minutes | your minutes |
# |---|---:|---:|
# | laptop, CPU | 1 | 40 |
# | Colab, T4 | not measured | 40 |
#
# **You will be able to** read a paired difference with its interval, say which of SLAO's decisions matter on this stream, and try
# one of your own.

# %%
import mbf_utils as mbf

FAST = mbf.lessons.setup(cpu_minutes=1)

# %% [markdown]
# ## Which rows are there?
#
# Every row is the class `SLAO` with other fields: `begin` (the pair that a task starts from), `qr`, `merge` (which factors are
# merged, the others are replaced), `freeze`, `schedule` ($\lambda(i)$), `preserve`.

# %%
import pandas as pd

rows = [name for name in mbf.METHODS if name.startswith("slao")]
fields = pd.DataFrame({name: vars(mbf.METHODS[name]()) for name in rows}).T.drop(columns=["memory", "extra"])
fields.assign(schedule=[f"{schedule(4):.2f} at task 4" for schedule in fields["schedule"]])

# %% [markdown]
# ## How do we compare?
#
# All rows learned `world-5` in its first order with the same seeds: same data, same order of batches. So two rows of one seed are a
# *pair*, and the difference of a pair has less noise than either score. Below: average accuracy after the last task, a row a seed.

# %%
name = mbf.lessons.first_measured("world-5-ablations", "world-5")
which = dict(order="1", model="tiny", named=False)
exact, labels = (mbf.lessons.scores(name, "AA", reading, **which)[["seqlora", *rows]] for reading in ("exact", "labels"))
exact[["slao", "slao_random", "seqlora"]].round(1)

# %% [markdown]
# **Predict** before the next cell: of the start, the QR step, the merged factor and the schedule, which one costs most when it is
# changed?
#
# ## What does each change cost, by exact match?
#
# One change of each kind: another start, no QR, both factors merged or none, two other schedules. The other rows, which freeze a factor
# or change two things at once, are folded away.

# %%
changes = ["slao_random", "slao_ftba_mb", "slao_merge_both", "slao_no_merge", "slao_mean", "slao_half"]
mbf.lessons.keep(mbf.plots_results.differences(exact[["slao", *changes]], "slao", reading="exact match"), "04-ingredients-exact")

# %%
others = mbf.findings.against(exact.drop(columns=changes), "slao")
mbf.lessons.folded(others[["title", "mean", "half", "verdict"]].round(1), f"{len(others)} more rows")

# %% [markdown]
# A filled point is carried by the runs: its 95 % interval leaves out 0. A hollow one is not: these runs cannot tell that row from
# SLAO. If no change made any difference, about one point in twenty would still be filled, by chance.
#
# ## And by the best of the task's labels?
#
# The same runs, asked only which of the task's own labels is likeliest: what is *known*, in whatever words.

# %%
mbf.lessons.keep(mbf.plots_results.differences(labels[["slao", *changes]], "slao", reading="the best of the labels"), "04-ingredients-labels")

# %% [markdown]
# ## Where should a task start?
#
# From fresh random factors, from the last *merged* pair, from the last *fine-tuned* pair (SLAO), or from the fine-tuned pair with the
# function kept (`slao_preserve`: dropping $R$ changes $BA$; $B R^\top$ with $Q^\top$ does not).

# %%
starts = ["slao", "slao_random", "slao_last_merged", "slao_preserve"]
found = mbf.lessons.measured(name, "exact", **which)
mbf.plots.forgetting_curves({start: found[start] for start in starts})

# %% [markdown]
# The curves are means. What do the pairs say?

# %%
for start in starts[1:]:
    print(mbf.findings.told(exact, "slao", start, "exact match"))
    print(mbf.findings.told(labels, "slao", start, "best of the labels"))

# %% [markdown]
# ## Is it learned at all, or learned and forgotten?
#
# *Learning accuracy* is the mean of each task right after it was merged; *BWT* is what came after. A row can be low because it does
# not let a new task in, or because it lets it overwrite the old ones.

# %%
parts = pd.DataFrame({metric: mbf.lessons.scores(name, metric, "exact", **which)[exact.columns].mean()
                      for metric in ("learning_accuracy", "BWT", "AA")}).rename(index=mbf.findings.title)
parts.sort_values("AA", ascending=False).style.format("{:.1f}").background_gradient("Blues", subset=["learning_accuracy", "AA"])

# %% [markdown]
# ## Does the QR step matter?
#
# SLAO against the same without QR (`slao_ftba_mb`); then the same two with both factors merged.

# %%
for scores, reading in ((exact, "exact match"), (labels, "best of the labels")):
    print(mbf.findings.told(scores, "slao", "slao_ftba_mb", reading))
    print(mbf.findings.told(scores, "slao_merge_both", "slao_ftba_mba", reading))

# %% [markdown]
# ## Which schedule?
#
# $\lambda(i)$ is the weight of task $i$ when it is merged. What is left of each task's factor in the merged one after five tasks, by the
# closed form:

# %%
schedules = {row: [mbf.METHODS[row]().schedule(i) for i in range(1, 6)] for row in ("slao", "slao_mean", "slao_half")}
weights = pd.DataFrame({row: mbf.theory.merge_weights(values)[-1] for row, values in schedules.items()},
                       index=[f"task {i}" for i in range(1, 6)])
weights.round(2)

# %%
mbf.plots_results.differences(exact[["slao", "slao_mean", "slao_half", "slao_no_merge"]], "slao", reading="exact match")

# %% [markdown]
# `slao_no_merge` replaces both factors: sequential LoRA with the QR start. The newest task has weight 1 there.
#
# ## What does the paper report?
#
# Its ablations on Llama-2-7B-chat, in a table of their own: other models, other data, other scale.

# %%
pd.concat([mbf.published.published("start"), mbf.published.published("merging")]).drop_duplicates()

# %% [markdown]
# ## Try one yourself
#
# Any field can be changed. A schedule is a function of the task's number; this one takes less of every newer task than the paper's.

# %%
from mbf_utils.methods.slao import SLAO

stream = mbf.load_stream("world-5", limit=200 if FAST else None)
mine = mbf.run_stream(stream, SLAO(schedule=lambda i: i ** -0.75))
mine.matrix.style.format("{:.0f}", na_rep="")

# %% [markdown]
# *Catch up:* this cell needs no training at all. SLAO starts every task from the last *fine-tuned* pair, so what was merged never
# reaches the training: any schedule can be tried on the factors that the committed run has stored. `value` is the last row of the
# table above (not in the quick pass, which trains on fewer rows), `own` that of the paper's schedule.

# %%
bench = mbf.remerge.Remerge({"slao": mbf.lessons.committed("slao")}, rows=None)
again = bench.table("slao", "B", mbf.remerge.power(0.75), after=5)
again.loc[again["reading"] == "exact match", ["task", "value", "own", "difference", "half"]].round(1)

# %% [markdown]
# `half` is half of the 95 % interval over the *rows* of this one run. It says nothing of other seeds.
#
# ## Exercise 1: the interval by hand
#
# For `slao_random` and `slao`: the mean of the paired differences, and half of the 95 % interval, $t_{0.975,\,n-1}\; s / \sqrt n$, where
# $s$ is the sample standard deviation of the differences. `scipy.stats.t.ppf` gives $t$.

# %% tags=["solution"]
from scipy.stats import t

pairs = (exact["slao_random"] - exact["slao"]).dropna()
answer = [pairs.mean(), t.ppf(0.975, len(pairs) - 1) * pairs.std(ddof=1) / len(pairs) ** 0.5]

# %%
from scipy.stats import t

right = mbf.metrics.paired_difference(*exact[["slao_random", "slao"]].dropna().values.T)
mbf.lessons.check(answer, right, "std(ddof=1) of the differences, n the number of seeds that both have")

# %% [markdown]
# ## Exercise 2: how many seeds for three points?
#
# With the spread of the differences between `slao_ftba_mb` and `slao`: the smallest number of seeds for which half of the interval is at most 3
# points, if the sample standard deviation stayed what it is. (Try $n = 2, 3, \dots$)

# %% tags=["solution"]
spread = (exact["slao_ftba_mb"] - exact["slao"]).std(ddof=1)
needed = next(n for n in range(2, 1000) if t.ppf(0.975, n - 1) * spread / n ** 0.5 <= 3)

# %%
spread_of_pairs = (exact["slao_ftba_mb"] - exact["slao"]).std(ddof=1)
enough = [n for n in range(2, 1000) if t.ppf(0.975, n - 1) * spread_of_pairs / n ** 0.5 <= 3]
mbf.lessons.check(needed, enough[0], "t depends on n too: it is large for few seeds")

# %% [markdown]
# ## So what matters here?
#
# Every change with what it costs or gains against SLAO, by both readings, and what the interval carries.

# %%
verdicts = {reading: mbf.findings.against(scores[rows], "slao").set_index("title")
            for reading, scores in (("exact match", exact), ("best of the labels", labels))}
pd.concat({reading: table[["mean", "half", "verdict"]].round(1) for reading, table in verdicts.items()}, axis=1)

# %% [markdown]
# ## Summary
#
# - Two runs of one seed are a pair; the interval of the paired difference says what the runs carry and what not.
# - The table above says what matters *here*: a small generated world and a model of 0.2 million parameters. The paper's table is
#   from another scale, and where the two disagree neither refutes the other.
# - Five tasks do not show everything: over a hundred, the QR step matters for how well a new task is still learned (*A hundred tasks* in
#   [12_results](12_results.ipynb)).
#
# Next: [05_theory_measured](05_theory_measured.ipynb) holds the paper's bounds against what was measured.
