# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Results: every table, every number with its run
#
# All comparisons that this kit has made, in one place. Scores are in percent, ± is the sample standard deviation over the seeds, and every
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
# A comparison is a few files in `figures/`: `NAME.csv` (a row a method and order), `NAME-runs.csv` (a row a run), `NAME-matrices.csv` (every
# matrix $R$), `NAME-costs.csv` (times and memory) and pictures. `figures/make.sh` makes them all again. What has not been made is said
# below, not shown. Elsewhere: settings that were tried before a comparison (`figures/choice-METHOD.csv`, `figures/search.sh`), two tasks
# alike to a chosen degree ([08_explorers](08_explorers.ipynb)), one factor alone ([01_lora_pairs](01_lora_pairs.ipynb)).

# %%
import pandas as pd

names = sorted(file.name.removesuffix("-runs.csv") for file in (mbf.lessons.ROOT / "figures").glob("*-runs.csv"))
runs = {name: mbf.lessons.runs_of(name) for name in names if not name.startswith("choice")}
pd.DataFrame({name: {"runs": len(each), "methods": each["method"].nunique(), "orders": ", ".join(each["order"].unique()),
                     "seeds": each["seed"].nunique(), "base": ", ".join(each["model"].unique())} for name, each in runs.items()}).T

# %% [markdown]
# ## How does a table read?
#
# *Exact*: the generated answer is right. *Labels*: of the task's labels the right one is likeliest. *less seqlora*: mean paired difference
# to sequential LoRA over the runs that both have, with half of its 95 % interval: only where the difference is larger than that do the
# runs tell the two apart. *rank*: the places that the intervals leave open among all methods of the comparison; the reconstructed
# ones (†) are ranked among themselves, references and what is told the task or keeps old rows not at all. **Predict**: is SLAO above
# sequential LoRA on every stream?

# %%
few = ["slao", "seqlora", "inclora", "olora", "inflora", "keeplora", "loda", "ewc", "magmax", "knots", "lilora", "share", "per_task", "multi_task", "replay"]
mbf.lessons.results("world-5-three", few)

# %% [markdown]
# The other rows are in `figures/world-5-three-runs.csv`; [06_the_field](06_the_field.ipynb) walks through them.
#
# ## Does the order of the tasks matter?
#
# All methods learned the same tasks in three orders. *MOPD* and *AOPD*: the largest and the mean spread of a task's final score over
# the orders. Computed for every seed, then averaged.

# %%
matrices = mbf.lessons.matrices_of("world-5-three")
matrices = matrices[(matrices["model"] == "tiny") & ~matrices["named"]]
disparity = mbf.findings.disparity(matrices, "labels")
small = disparity[disparity["method"].str.partition(" (")[0].isin(few)] if len(disparity) else disparity
small.drop(columns="method").set_index("title").round(1) if len(small) else print("There is one order only: nothing to compare.")

# %%
six = ["slao", "seqlora", "olora", "inflora", "keeplora", "ewc"]
shown = runs["world-5-three"].query("model == 'tiny' and not named and method in @six")
picture = mbf.plots_results.orders(shown, "AA_options") if shown["order"].nunique() > 1 else None
mbf.lessons.keep(picture, "12-orders") if picture else print("There is one order only: no picture.")

# %% [markdown]
# ## The best, with twelve seeds
#
# Three seeds leave wide intervals. The best ten of a first comparison, by either reading, beside SLAO and sequential LoRA in the first order:

# %%
mbf.lessons.results("world-5-best")

# %% [markdown]
# ## SLAO's ingredients
#
# [04_why_qr_why_sqrt](04_why_qr_why_sqrt.ipynb) has the differences to SLAO itself.

# %%
mbf.lessons.results("world-5-ablations")

# %% [markdown]
# ## Fifteen tasks
#
# All methods in the order of the field's long benchmark, three seeds. A setting that leaves this base no free direction before the last task
# is replaced by one that lasts (`figures/make.sh`). **Predict**: does a method keep the place that it has with five tasks?

# %%
mbf.lessons.results("world-15", few)

# %% [markdown]
# How many of the methods that SLAO is ranked with are above it, below it, or not told apart from it?

# %%
fifteen = mbf.lessons.runs_of("world-15")
ranked = fifteen[fifteen["method"].map(mbf.titles.group_of).eq(mbf.titles.RIVAL)]
pd.DataFrame({name: mbf.findings.against(mbf.findings.run_scores(ranked, column), "slao")["verdict"].value_counts()
              for name, column in (("labels", "AA_options"), ("exact", "AA"))})

# %% [markdown]
# The order of the methods with five tasks and with fifteen, as Spearman's rank correlation of their means (1: the same order):

# %%
means = [mbf.findings.methods(mbf.lessons.runs_of(name)).drop_duplicates("method").set_index("method")[["AA", "AA_options"]]
         for name in ("world-5-three", "world-15")]
means[0].corrwith(means[1], method="spearman").set_axis(["exact", "labels"]).round(2)

# %% [markdown]
# How firm is a single run? Nine of them once more, side by side, so that the same numbers add up in another order and the last digit is
# another. The largest difference between the two runs of one seed, in points:

# %%
again = mbf.lessons.runs_of("world-15-again")
twice = fifteen.merge(again, on=["method", "seed"], suffixes=("", "_again")).set_index("method")
apart = pd.DataFrame({name: (twice[column] - twice[f"{column}_again"]).abs()
                      for name, column in (("exact", "AA"), ("labels", "AA_options"))})
apart.groupby(level=0, sort=False).max().round(1)

# %% [markdown]
# ## A hundred tasks

# %%
mbf.lessons.results("world-100")

# %% [markdown]
# Two things can be lost over many tasks: what was learned, and the ability to learn anything new (*plasticity*). And $\lambda(i) = 1/\sqrt i$
# shrinks: of the hundredth task's $B$ the merge takes a tenth. Is a late task still learned? Its score just after it was learned, against
# its number. One adapter a task shows how hard the tasks themselves are. **Predict**: which lines fall, that of the shrinking merge or that
# of plain fine-tuning?

# %%
hundred = mbf.lessons.matrices_of("world-100")
newest = {} if hundred is None else mbf.findings.newest(hundred, "labels")
shown = ("slao", "slao_ftba_mb", "slao_no_merge", "slao_mean", "seqlora", "per_task")
lines = {name: newest[name] for name in shown if name in newest}
picture = mbf.plots_results.newest(lines) if len(lines) > 1 and "seqlora" in lines else None
mbf.lessons.keep(picture, "12-newest") if picture else print("No picture of the newest task.")

# %% [markdown]
# Over the last tenth of the tasks, in pairs: SLAO beside plain fine-tuning, and beside itself without the QR step, without the merge, and
# with a merge that shrinks faster.

# %%
if newest:
    first, last = mbf.findings.ends(newest)
    for other in [name for name in ("seqlora", "slao_ftba_mb", "slao_no_merge", "slao_mean") if name in last]:
        print(mbf.findings.told(last, "slao", other, "newest task, mean over the last tenth of the tasks,"))

# %% [markdown]
# What does the training leave after so many tasks? The norms of the last fine-tuned pair (over all modules), and how many directions the
# update uses, of 8. What is merged never reaches the training: sequential LoRA trains as SLAO without its QR step.

# %%
file = mbf.lessons.ROOT / "figures" / "world-100-sizes.csv"
sizes = pd.read_csv(file).query("method in ('slao', 'seqlora')") if file.is_file() else None
sizes.pivot_table(index="method", columns="factor", values=["norm", "effective"]).round(1) if sizes is not None else print("Not measured.")

# %% [markdown]
# The QR step gives $A$'s rows length 1 again before each task, and right angles. Without it both factors grow, and their product faster still,
# along fewer directions.

# %% [markdown]
# ### What becomes of a task that comes again?
#
# Ten of the hundred are an earlier task once more, row for row; ten others have an earlier one's prompts with every answer moved on to the
# next. The first of each kind is left out here, for it comes again before anything was scored anew. **Predict**: is what comes again
# learned as well as the first time, and does it stay?

# %%
back = mbf.findings.returns(hundred) if hundred is not None else pd.DataFrame(columns=["method"])
shown = ("slao", "seqlora", "slao_last_merged", "ewc (lam=0.1)", "replay", "per_task", "multi_task", "zero_shot")
back = back[back["method"].isin(shown)]
mbf.lessons.keep(mbf.plots_results.returns(back), "12-returns") if len(back) else print("No picture of what comes again.")

# %% [markdown]
# *Zero-shot* is the untrained base, at chance. Most methods have lost a task by the time it comes again and learn it almost as well as
# the first time; the very next task takes a part of that (*first score after* is one task later on the left). A contradicted task
# cannot be kept: without the task's name one prompt has one answer, and the newest is the right one. Below chance on the right means
# that a method follows the new answers, as it should; multi-task training has both answers among its rows, and gives one or the other.

# %% [markdown]
# ## On the larger base

# %%
mbf.lessons.results("world-5-small")

# %% [markdown]
# ## With prompts that name the data set

# %%
mbf.lessons.results("world-5-named")

# %% [markdown]
# And both, the larger base and prompts with names:

# %%
mbf.lessons.results("world-5-small-named")

# %% [markdown]
# ## Do the base and the prompts change the order of the methods?
#
# Rank correlations of the methods' means, over the rows that all four tables have with one setting (1: the same order). `tiny` without
# names has twelve seeds, the others three.

# %%
forms = {"tiny": "world-5-best", "tiny, names": "world-5-named", "small": "world-5-small", "small, names": "world-5-small-named"}
tables = {form: mbf.findings.methods(mbf.lessons.runs_of(name)).set_index(["method", "setting"]) for form, name in forms.items()}
means = {reading: pd.DataFrame({form: table[column] for form, table in tables.items()}).dropna()
         for reading, column in (("labels", "AA_options"), ("exact", "AA"))}
pd.concat({f"{reading}, {len(rows)} rows": rows.corr("spearman") for reading, rows in means.items()}).round(2)

# %% [markdown]
# ## On real rows
#
# The benchmark's order 1 with a base made of its training texts: input is real, the level is not the benchmark's.

# %%
mbf.lessons.results("real-order-1")

# %% [markdown]
# ## Is SLAO above sequential LoRA?
#
# The question of the beginning, on everything that was measured.

# %%
found = []
for name, each in runs.items():
    for (stream, named, model), block in each.groupby(mbf.findings.SURROUNDINGS):
        for value, reading in (("AA", "exact"), ("AA_options", "labels")):
            scores = mbf.findings.run_scores(block, value)
            if {"slao", "seqlora"} <= set(scores):
                difference = mbf.findings.against(scores[["slao", "seqlora"]], "seqlora").iloc[0]
                found.append({"comparison": name, "base": model, "prompts name the data set": named, "reading": reading} | dict(difference))
pd.DataFrame(found).drop(columns=["method", "title"]).rename(columns={"verdict": "SLAO is"}).round(1)

# %% [markdown]
# ## Which runs are behind a number?
#
# The mean of SLAO on `world-5`, opened:

# %%
each = runs["world-5"].query("model == 'tiny' and not named")
each[(each["method"] == "slao") & (each["order"] == "1")][["method", "seed", "AA", "BWT", "AA_options", "run"]].round(1)

# %% [markdown]
# `run` stands for all settings but the seed: with the seed it names a run. One of them again: `mbf run world-5 --method slao --seed 0`. On
# another machine the last digits of a float may differ, and with them now and then an answer.
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
benches = {file.stem: mbf.goals.read_bench(file) for file in sorted((mbf.lessons.ROOT / "figures").glob("bench*.csv"))}
judged = pd.concat([mbf.goals.goals(bench) for bench in benches.values()], ignore_index=True)
judged[["goal", "wanted", "value", "low", "high", "holds", "machine"]].round(3)

# %% [markdown]
# Those of a CPU in a picture:

# %%
mbf.plots_bench.goals(mbf.goals.goals(benches["bench"]))

# %% [markdown]
# And those of one GPU, with random weights in the shape of a model of seven billion parameters. They were taken before a fault was mended
# that made every task after a process's first train without autocast, and not again since.

# %%
mbf.plots_bench.goals(mbf.goals.goals(benches["bench-gpu"]))

# %% [markdown]
# And does anything grow faster than it should?

# %%
mbf.plots_bench.growth(benches["bench"])

# %% [markdown]
# ## Exercise 1: from runs to a row
#
# From `each`: the mean and the sample standard deviation of sequential LoRA's `AA` over the seeds of order 1.

# %% tags=["solution"]
mine = each[(each["method"] == "seqlora") & (each["order"] == "1")]["AA"]
answer = [mine.mean(), mine.std(ddof=1)]

# %%
row = mbf.lessons.table("world-5", order="1", model="tiny", named=False).set_index("method").loc["seqlora"]
mbf.lessons.check(answer, [row["AA"], row["AA_sd"]], "ddof=1, and one order only", within=1e-3)

# %% [markdown]
# ## Exercise 2: from a matrix to a number
#
# `mbf.lessons.measured("world-5", "exact", order="1", model="tiny", named=False)["slao"][0]` is the matrix of one seed. Its backward transfer?

# %% tags=["solution"]
R = mbf.lessons.measured("world-5", "exact", order="1", model="tiny", named=False)["slao"][0].values
transfer = sum(R[-1, j] - R[j, j] for j in range(len(R) - 1)) / (len(R) - 1)

# %%
matrix = mbf.lessons.measured("world-5", "exact", order="1", model="tiny", named=False)["slao"][0]
mbf.lessons.check(transfer, mbf.metrics.backward_transfer(matrix), "last row minus diagonal, without the last task")

# %% [markdown]
# ## Summary
#
# - A number here is a mean over runs that are named; a row without an interval carries no difference.
# - Everything was measured on small models, most of it on a generated world.
#
# Next: back to [00_start_here](00_start_here.ipynb), or write a method of your own.
