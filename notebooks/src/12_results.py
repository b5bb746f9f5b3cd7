# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Results: every table, every number with its run
#
# All that this kit has measured, in one place. Scores are in percent, ± is the sample standard deviation over the seeds, and every
# mean can be opened into its runs. The paper's numbers stand at the end, in tables of their own.
#
# | device | machine minutes | your minutes |
# |---|---:|---:|
# | laptop, CPU | 1 | 20 |
# | Colab, T4 | not measured | 20 |
#
# **You will be able to** find any number of the README, the runs behind it and the command that makes it again, and say what it does
# not show.

# %%
import mbf_utils as mbf

FAST = mbf.lessons.setup(cpu_minutes=0.5)

# %% [markdown]
# ## What has been measured?
#
# A comparison is four files in `figures/`: `NAME.csv` (a row a method), `NAME-runs.csv` (a row a run), `NAME-matrices.csv` (every matrix $R$) and its
# pictures. `figures/make.sh` makes them all again.

# %%
import pandas as pd

names = sorted(file.name.removesuffix("-runs.csv") for file in (mbf.lessons.ROOT / "figures").glob("*-runs.csv"))
runs = {name: pd.read_csv(mbf.lessons.ROOT / "figures" / f"{name}-runs.csv", dtype={"order": str}) for name in names}
pd.DataFrame({name: {"runs": len(each), "methods": each["method"].nunique(), "orders": each["order"].nunique(),
                     "seeds": each["seed"].nunique(), "base": ", ".join(each["model"].unique())} for name, each in runs.items()}).T

# %% [markdown]
# ## How does a table read?
#
# *Exact*: the generated answer is right. *Labels*: of the task's labels the right one is likeliest. *less seqlora*: mean paired difference
# to sequential LoRA over the seeds, with half of its 95 % interval. **Predict**: is SLAO above sequential LoRA on every stream?

# %%
def shown(name, methods=None, **which):
    table = mbf.lessons.table(name, **which)
    text = mbf.reports.printed(table if methods is None else table[table["method"].isin(methods)])
    return text[[column for column in text if column not in ("seconds", "state kB")]].style.hide()

few = ["slao", "seqlora", "inclora", "olora", "ewc", "inflora", "keeplora", "replay", "per_task", "multi_task"]
shown("world-5", few, order="1")

# %% [markdown]
# The other rows are in `figures/world-5.csv`; [06_the_field](06_the_field.ipynb) walks through them.
#
# ## SLAO's ingredients

# %%
shown("world-5-ablations")

# %% [markdown]
# ## On the larger base

# %%
shown("world-5-small")

# %% [markdown]
# ## With prompts that name the data set

# %%
shown("world-5-named")

# %% [markdown]
# ## On real rows
#
# The benchmark's order 1 with a base of 0.9 million parameters made of its training texts: input is real, the level is not the
# benchmark's.

# %%
shown("real-order-1")

# %% [markdown]
# ## Which runs are behind a number?
#
# The mean of SLAO on `world-5`, opened:

# %%
each = runs["world-5"]
each[(each["method"] == "slao") & (each["order"] == "1")][["method", "seed", "AA", "BWT", "AA_options", "run"]].round(1)

# %% [markdown]
# One of them again: `mbf run world-5 --method slao --seed 0`. On another machine the last digits of a float may differ, and with them
# now and then an answer.
#
# ## A picture of one run

# %%
mbf.plots.matrix_heatmap(mbf.lessons.committed("slao").matrix)

# %% [markdown]
# ## What does the paper report?
#
# Llama-2-7B-chat, average accuracy in percent. Other models, other data; no number of ours stands in this table.

# %%
mbf.published.published("main")

# %%
pd.concat([mbf.published.published("start"), mbf.published.published("merging")]).drop_duplicates()

# %% [markdown]
# ## What does it cost?
#
# `mbf bench` measures the kit against the script that one would write with PEFT and transformers: rivals in turns in one process,
# medians with quartiles, so that a busy machine moves both. Not every goal is reached:

# %%
benches = [mbf.goals.read_bench(file) for file in sorted((mbf.lessons.ROOT / "figures").glob("bench*.csv"))]
judged = pd.concat([mbf.goals.goals(bench) for bench in benches], ignore_index=True)
judged[["goal", "wanted", "value", "low", "high", "holds", "machine"]].round(3)

# %%
mbf.plots_bench.goals(mbf.goals.goals(benches[0]))

# %% [markdown]
# And does anything grow faster than it should?

# %%
mbf.plots_bench.growth(benches[0])

# %% [markdown]
# ## Exercise 1: from runs to a row
#
# From `runs["world-5"]`: the mean and the sample standard deviation of sequential LoRA's `AA` over the seeds of order 1.

# %% tags=["solution"]
mine = each[(each["method"] == "seqlora") & (each["order"] == "1")]["AA"]
answer = [mine.mean(), mine.std(ddof=1)]

# %%
row = mbf.lessons.table("world-5", order="1").set_index("method").loc["seqlora"]
mbf.lessons.check([round(value, 3) for value in answer], [round(row["AA"], 3), round(row["AA_sd"], 3)], "ddof=1, and one order only")

# %% [markdown]
# ## Exercise 2: from a matrix to a number
#
# `mbf.lessons.measured("world-5", "exact", order="1")["slao"][0]` is the matrix of one seed. Its backward transfer?

# %% tags=["solution"]
R = mbf.lessons.measured("world-5", "exact", order="1")["slao"][0].values
transfer = sum(R[-1, j] - R[j, j] for j in range(len(R) - 1)) / (len(R) - 1)

# %%
matrix = mbf.lessons.measured("world-5", "exact", order="1")["slao"][0]
mbf.lessons.check(transfer, mbf.metrics.backward_transfer(matrix), "last row minus diagonal, without the last task")

# %% [markdown]
# ## Summary
#
# - A number here is a mean over runs that are named; a row without an interval carries no difference.
# - Everything was measured on small models, most of it on a generated world.
#
# Next: back to [00_start_here](00_start_here.ipynb), or write a method of your own.
