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
# All rows learned `world-5` with the same seeds: same data, same order of batches. So two rows of one seed are a *pair*, and the
# difference of a pair has less noise than either score. Below: average accuracy after the last task, a row a seed.

# %%
labels = mbf.lessons.scores("world-5-ablations", "AA", "labels")
exact = mbf.lessons.scores("world-5-ablations", "AA", "exact")
exact[["slao", "slao_random", "seqlora"]].round(1)

# %% [markdown]
# **Predict** before the next cell: of the start, the QR step, the merged factor and the schedule, which one costs most when it is
# changed?
#
# ## What does each change cost, by exact match?

# %%
mbf.plots_results.differences(exact, "slao")

# %% [markdown]
# A filled point is carried by the seeds: its 95 % interval leaves out 0. A hollow one is not: these seeds cannot tell that row from
# SLAO. With a dozen rows one filled point in twenty is chance.
#
# ## And by the best of the task's labels?
#
# The same runs, asked only which of the task's own labels is likeliest: what is *known*, in whatever words.

# %%
mbf.plots_results.differences(labels, "slao")

# %% [markdown]
# ## Where should a task start?
#
# From fresh random factors, from the last *merged* pair, from the last *fine-tuned* pair (SLAO), or from the fine-tuned pair with the
# function kept (`slao_preserve`: dropping $R$ changes $BA$; $B R^\top$ with $Q^\top$ does not).

# %%
starts = ["slao", "slao_random", "slao_last_merged", "slao_preserve"]
found = mbf.lessons.measured("world-5-ablations", "exact")
mbf.plots.forgetting_curves({name: found[name] for name in starts})

# %% [markdown]
# ## Is it learned at all, or learned and forgotten?
#
# *Learning accuracy* is the mean of each task right after it was merged; *BWT* is what came after. A row can be low because it does
# not let a new task in, or because it lets it overwrite the old ones.

# %%
parts = pd.DataFrame({metric: mbf.lessons.scores("world-5-ablations", metric, "exact").mean()
                      for metric in ("learning_accuracy", "BWT", "AA")})
parts.sort_values("AA", ascending=False).style.format("{:.1f}").background_gradient("Blues", subset=["learning_accuracy", "AA"])

# %% [markdown]
# ## Does the QR step matter?
#
# SLAO against the same without QR (`slao_ftba_mb`), and both with the merge of both factors.

# %%
qr = exact[["slao", "slao_ftba_mb", "slao_merge_both", "slao_ftba_mba"]]
mbf.plots_results.differences(qr, "slao_ftba_mb")

# %% [markdown]
# ## Which schedule?
#
# $\lambda(i)$ is the weight of task $i$ when it is merged. What is left of each task's factor in the merged one after five tasks, by the
# closed form:

# %%
schedules = {name: [mbf.METHODS[name]().schedule(i) for i in range(1, 6)] for name in ("slao", "slao_mean", "slao_half")}
weights = pd.DataFrame({name: mbf.theory.merge_weights(values)[-1] for name, values in schedules.items()},
                       index=[f"task {i}" for i in range(1, 6)])
weights.round(2)

# %%
mbf.plots_results.differences(exact[["slao", "slao_mean", "slao_half", "slao_no_merge"]], "slao")

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
# Any field can be changed. A schedule is a function of the task's number; this one forgets the newest task faster.

# %%
from mbf_utils.methods.slao import SLAO

stream = mbf.load_stream("world-5", limit=200 if FAST else None)
mine = mbf.run_stream(stream, SLAO(schedule=lambda i: i ** -0.75))
mine.matrix.style.format("{:.0f}", na_rep="")

# %% [markdown]
# To catch up without training: `mine = mbf.lessons.committed("slao")` is the run of the paper's schedule.
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
# ## Summary
#
# - Two runs of one seed are a pair; the interval of the paired difference says what the seeds carry and what not.
# - Read the two figures of differences for what matters *here*: a small generated world and a model of 0.2 million parameters. The
#   paper's table is from another scale, and where the two disagree neither refutes the other.
#
# Next: [05_theory_measured](05_theory_measured.ipynb) holds the paper's bounds against what was measured.
