# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # The field: what else has been tried, and how does it compare?
#
# Many methods, one interface. A section for each family: its idea in a line, what it costs, and how its members did on `world-5`
# against SLAO, with sequential LoRA beside them. The scores are those of a comparison that anyone can run again (`figures/make.sh`);
# none of it is trained here.
#
# | device | machine minutes | your minutes |
# |---|---:|---:|
# | laptop, CPU | 1 | 45 |
# | Colab, T4 | not measured | 45 |
#
# **You will be able to** name the families and their price, read a rank that says no more than the seeds carry, and say where the
# order of the methods agrees with the paper's and where it does not.

# %%
import mbf_utils as mbf

FAST = mbf.lessons.setup(cpu_minutes=0.5)

# %% [markdown]
# ## Who is there, and what does each need?
#
# `fidelity`: *exact* follows the published rule, *adapted* changes something to fit text, LoRA or this interface, *reconstructed* (†)
# fills gaps of a source that leaves parts open. `memory`: how the state grows with the number of tasks.

# %%
cards = mbf.titles.cards()
families = cards.groupby("family", sort=False).agg(
    methods=("title", "; ".join), exact=("fidelity", lambda f: (f == "exact").sum()), reconstructed=("fidelity", lambda f: (f == "reconstructed").sum()),
    constant=("memory", lambda m: f"{(m == 'constant').sum()} of {len(m)}"))
families.rename(columns={"constant": "state does not grow"}).style.set_properties(**{"text-align": "left"})

# %% [markdown]
# What is *not* free: the task's name at test time, rows of earlier tasks, a pass over the data beside the training, a router that runs
# with every prompt.

# %%
cards[["task_id", "old_data", "looks", "routes"]].sum().rename("methods that need it").to_frame()

# %% [markdown]
# A state that grows, beside one that does not: what three runs carried from task to task, measured in their folders.

# %%
import pandas as pd

walks = [mbf.walk_stream(mbf.load_stream("world-5", limit=16), method, mbf.load_model("tiny", device="cpu"), epochs=1)
         for method in ("slao", "per_task", "olora")]
table = pd.concat([mbf.anatomy.memory([run]) for walk in walks for run in walk])           # measured after each task
mbf.plots_geometry.memory(table)

# %% [markdown]
# ## How was it measured?
#
# `world-5` with the base `tiny`, every method over the same seeds and orders of the tasks. Each method's settings: the paper's where
# they carry over, otherwise the best of four on another world's development rows, the same number for every method.

# %%
each = mbf.lessons.runs_of("world-5-three", model="tiny", named=False)
table = mbf.findings.methods(each)
table["family"] = table["method"].map(cards["family"])
print(f"{len(table)} methods, orders {', '.join(each['order'].unique())}, {each['seed'].nunique()} seeds: {len(each)} runs")

# %% [markdown]
# A picture shows the best of a family, at most six methods with SLAO and sequential LoRA; the rest is folded away below it. What is drawn is
# the mean *paired* difference to SLAO over all runs with its 95 % interval, by the best of the task's labels: only a filled point
# is above or below. With so many methods some filled points are chance. **Predict**: which family keeps most?

# %%
scores = mbf.findings.run_scores(each, "AA_options")
columns = table.assign(column=scores.columns[scores.columns.get_indexer(
    list(map(mbf.findings.named, table["method"], table["setting"])))]).sort_values("AA_options", ascending=False)

def family(name, count=4):
    """Its best `count` members and sequential LoRA against SLAO; the other members folded away."""
    members = columns[(columns["family"] == name) & ~columns["method"].isin(["slao", "seqlora"])]
    shown = scores[["slao", "seqlora", *members["column"][:count]]]
    display(mbf.plots_results.differences(shown, "slao", reading="the best of the labels"))
    return mbf.lessons.folded(mbf.findings.readable(members[count:]), f"{len(members[count:])} more of this family")

# %% [markdown]
# ## An adapter a task, stacked
#
# Old adapters are frozen and stay active, a new one is trained beside them: $\Delta W = s\sum_t B_t A_t$. O-LoRA pushes the new $A$ away from the
# old ones, N-LoRA makes all sparse so that they collide less. The state grows with every task.

# %%
family("stack")

# %% [markdown]
# ## Designed and projected subspaces
#
# $A$ is chosen before the task, orthogonal to what earlier tasks' inputs use (InfLoRA, KeepLoRA), or the update is kept off the directions that
# carry the base (OPLoRA, OSF, CorDA). The price: most make a pass over the task's rows beside the training, their state grows (not
# OSF's), and the room that is left shrinks with every task.

# %%
family("subspaces")

# %% [markdown]
# ## Held near earlier tasks
#
# A penalty holds the factors where earlier tasks need them (EWC, by the Fisher information), or the answers as they were (LwF).
# The price: EWC makes a pass over each task's rows; LwF runs the last model beside the new one in every step; TreeLoRA keeps something of
# every task.

# %%
family("regularisation")

# %% [markdown]
# ## Magnitudes, gates and masks
#
# Directions of old tasks stay and their sizes are learned again (SD-LoRA), or single ranks are switched off (CoDyRA, the rank-1
# pool). The price: the parts of all tasks stay, so the state grows.

# %%
family("gates")

# %% [markdown]
# ## Routers
#
# Every task keeps its LoRA and a small network reads off the prompt how much of each to use: at test time too. So the state grows, and
# what is left is no plain adapter that any server could load. SAPT keeps something of
# old rows for that: it stands on the picture, and is not ranked with the others.

# %%
family("router")

# %% [markdown]
# ## Merging
#
# Every task is trained, then folded into one adapter by a rule: an average, a vote of signs (TIES), the largest change (MagMax), a common basis
# (KnOTS). Rules that merge tasks trained *independently* from the base stand beside those that go on from the last task. The price is
# paid in the scores: most need no rows and keep one adapter; those that need all tasks' adapters at once (TIES, KnOTS, LoRA-LEGO) keep them.

# %%
family("merging")

# %% [markdown]
# ## Other forms of the update
#
# Not $BA$ but another product: a shared $A$ with a core a task, a square matrix (MoRA), a basis shared by all tasks (Share).
# The price: Share and LiLoRA have to be told the task at test time and keep a core for each.

# %%
family("parametrisation")

# %% [markdown]
# ## One adapter
#
# SLAO with other ingredients ([04_why_qr_why_sqrt](04_why_qr_why_sqrt.ipynb) takes them out one by one), and MIGU, which updates only
# the outputs that answer loudest. A state that does not grow, and nothing asked for but the rows of the task at hand.

# %%
family("single adapter")

# %% [markdown]
# ## References
#
# What the rest is measured by: training on everything at once, one adapter a task with the task told, keeping old rows, and plain
# fine-tuning. Here the levels themselves.

# %%
levels = table[table["family"].eq("reference") | table["method"].eq("slao")].set_index("method", drop=False)
level = levels["AA_options"].round().astype(int)
title = f"SLAO ends at {level['slao']} %, sequential LoRA at {level['seqlora']} %, all tasks at once at {level['multi_task']} %"
levels = levels.assign(scores=[scores[name].dropna().tolist() for name in levels["method"]])
mbf.lessons.keep(mbf.plots.comparison(levels, "AA_options", title=title, over="the runs"), "06-references")

# %% [markdown]
# ## What do the runs carry, family by family?
#
# How many members have an interval above SLAO's 0, how many below, and how many cannot be told from it: by the labels, then by exact
# match.

# %%
exact = mbf.findings.run_scores(each, "AA")
found = {reading: mbf.findings.against(values, "slao") for reading, values in (("labels", scores), ("exact", exact))}
pd.concat({reading: pd.crosstab(rows["method"].str.split(" ").str[0].map(cards["family"]), rows["verdict"])
           for reading, rows in found.items()}, axis=1).fillna(0).astype(int)

# %%
for values, reading in ((scores, "best of the labels"), (exact, "exact match")):
    print(mbf.findings.told(values, "slao", "seqlora", reading))

# %% [markdown]
# ## All of them in one table
#
# `rank` is an interval: the places that the paired differences leave open, among the methods that can be measured with one measure.
# First those that follow a published rule (*exact* or *adapted*), ranked among themselves; then the reconstructed ones (†), ranked among
# themselves; then, without a rank, references and what is told the task or keeps old rows.

# %%
pd.set_option("display.max_rows", 200)
mbf.findings.readable(table).set_index("method")

# %% [markdown]
# ## Is it the paper's order?
#
# The paper's numbers, in a table of their own (Llama-2-7B-chat; average accuracy in percent):

# %%
paper = mbf.published.published()
paper

# %% [markdown]
# How much do two orders agree? Spearman's rank correlation of the methods that both have: 1 for the same order, 0 for none, −1 for the
# reverse; beside it how often chance alone would give one as far from 0 (*p*). `world-15` has the order of tasks of the long benchmark.

# %%
from scipy.stats import spearmanr

def agreement(table):
    ours = table.drop_duplicates("method").set_index("method")[["AA", "AA_options"]].set_axis(["exact", "labels"], axis=1)
    both = paper.join(ours, how="inner").drop("multi_task", errors="ignore")
    pairs = {(bench, reading): both[[bench, reading]].dropna() for bench in paper for reading in ours}
    return pd.DataFrame({pair: {"methods": len(rows), "rho": spearmanr(*rows.values.T)[0], "p": spearmanr(*rows.values.T)[1]}
                         for pair, rows in pairs.items()}).T

# %%
fifteen = mbf.findings.methods(mbf.lessons.runs_of("world-15"))
pd.concat({"world-5": agreement(table), "world-15": agreement(fifteen)}, axis=1).rename_axis(["the paper's", "ours by"]).round(2)

# %% [markdown]
# ## Exercise 1: who beats sequential LoRA with constant memory?
#
# `cards["memory"]` says how the state grows. How many methods with *constant* memory, references aside, have a paired difference to sequential LoRA by
# the labels (`AA_options_minus_seqlora`) that is larger than half of its interval (`AA_options_minus_seqlora_half`)?

# %% tags=["solution"]
above = table["AA_options_minus_seqlora"] > table["AA_options_minus_seqlora_half"]
answer = (above & (table["method"].map(cards["memory"]) == "constant") & (table["family"] != "reference")).sum()

# %%
constant = table[table["method"].map(cards["memory"]).eq("constant") & table["family"].ne("reference")]
mbf.lessons.check(answer, (constant["AA_options_minus_seqlora"] - constant["AA_options_minus_seqlora_half"] > 0).sum(),
                  "the difference has to be larger than half of its interval, and the family another than reference")

# %% [markdown]
# ## Exercise 2: knowledge or words?
#
# `AA_options - AA` is what a method knows but says in other words. Which method (a key, as `"slao"`) has the largest gap?

# %% tags=["solution"]
gap = (table["AA_options"] - table["AA"]).set_axis(table["method"])
widest = gap.idxmax()

# %%
gaps = table["AA_options"] - table["AA"]
mbf.lessons.check(float(widest == table.loc[gaps.idxmax(), "method"]), 1.0, "the row of the largest difference of the two columns")

# %% [markdown]
# ## Summary
#
# - Families differ in price more than in name: state that grows, old rows, the task's name, a router at test time.
# - A rank is an interval: the runs carry a coarse order, not a league table.
# - This is a small generated world. What holds here need not hold on 7 billion parameters, nor the other way round.
#
# Next: [07_geometry](07_geometry.ipynb) looks inside the adapters.
