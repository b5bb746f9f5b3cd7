# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # The field: what else has been tried, and how does it compare?
#
# Seventy rows, nine families, one interface. A section for each family: its idea in a line, what it costs, and how its members did
# on `world-5` beside SLAO and sequential LoRA. Nothing is trained here: the scores are those of a comparison that anyone can run
# again (`figures/make.sh`).
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
families = cards.groupby("family", sort=False).agg(methods=("title", "; ".join), constant=("memory", lambda m: f"{(m == 'constant').sum()} of {len(m)}"))
families.rename(columns={"constant": "state does not grow"}).style.set_properties(**{"text-align": "left"})

# %% [markdown]
# What is *not* free: the task's name at test time, rows of earlier tasks, a pass over the data beside the training, a router that runs
# with every prompt.

# %%
cards[["task_id", "old_data", "looks", "routes"]].sum().rename("methods that need it").to_frame()

# %% [markdown]
# ## How was it measured?
#
# `world-5`, the first order, the base `tiny`, three seeds. Each method's settings: the paper's where they carry over, otherwise the best
# of four on another world's development rows, the same number for every method. **Predict**: which family keeps most?

# %%
table = mbf.lessons.table("world-5", order="1", model="tiny", named=False)
always = table["method"].isin(["slao", "seqlora"])

def family(name, count=4):
    """Its best `count` rows by the best of the labels, with SLAO and sequential LoRA."""
    return mbf.plots.comparison(table[always | table.index.isin(table[table["family"] == name].nlargest(count, "AA_options").index)], "AA_options")

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
# carry the base (OPLoRA, OSF, CorDA).

# %%
family("subspaces")

# %% [markdown]
# ## Held near earlier tasks
#
# A penalty holds the factors where earlier tasks need them (EWC, by the Fisher information), or the answers as they were (LwF).

# %%
family("regularisation")

# %% [markdown]
# ## Magnitudes, gates and masks
#
# Directions of old tasks stay and their sizes are learned again (SD-LoRA), single ranks are switched off (CoDyRA, the rank-1 pool), or only
# the strongest outputs learn.

# %%
family("gates")

# %% [markdown]
# ## Routers
#
# Every task keeps its LoRA and a small network reads off the prompt how much of each to use: at test time too. SAPT keeps something of
# old rows for that and is not ranked with the others.

# %%
family("router")

# %% [markdown]
# ## Merging
#
# Every task is trained, then folded into one adapter by a rule: an average, a vote of signs (TIES), the largest change (MagMax), a common basis
# (KnOTS). Rules that merge tasks trained *independently* from the base stand beside those that go on from the last task.

# %%
family("merging")

# %% [markdown]
# ## Other forms of the update
#
# Not $BA$ but another product: a shared $A$ with a core a task, a square matrix (MoRA), a basis shared by all tasks (Share).

# %%
family("parametrisation")

# %% [markdown]
# ## References
#
# What bounds the rest: training on everything at once, one adapter a task with the task told, keeping old rows, and plain
# fine-tuning.

# %%
family("reference", 6)

# %% [markdown]
# ## All of them in one table
#
# `rank` is an interval: the places that the paired differences of three seeds leave open, among the methods that can be measured with one
# measure. References and reconstructed methods are not ranked with the rest.

# %%
ranked = table[table["rank_options"] != ""].sort_values("AA_options", ascending=False)
ranked = ranked.set_index("title")[["group", "AA", "rank", "AA_options", "rank_options", "memory"]]
ranked.style.format("{:.1f}", subset=["AA", "AA_options"]).background_gradient("Blues", subset=["AA", "AA_options"])

# %% [markdown]
# ## Is it the paper's order?
#
# The paper's numbers, in a table of their own (Llama-2-7B-chat; average accuracy in percent):

# %%
paper = mbf.published.published()
paper

# %% [markdown]
# How much do two orders agree? Spearman's rank correlation of the methods that both have: 1 for the same order, 0 for none, −1 for the reverse.

# %%
import pandas as pd
from scipy.stats import spearmanr

ours = table[table["setting"].eq("") | ~table["method"].duplicated()].set_index("method")[["AA", "AA_options"]]
both = paper.join(ours.rename(columns={"AA": "world-5, exact", "AA_options": "world-5, labels"}), how="inner").drop("multi_task")
agreement = pd.DataFrame({column: {other: spearmanr(both[column], both[other])[0] for other in both} for column in both})
agreement.round(2)

# %% [markdown]
# ## Exercise 1: who beats sequential LoRA with constant memory?
#
# From `table`: how many methods with `memory == "constant"` have a paired difference to sequential LoRA by the labels
# (`AA_options_minus_seqlora`) whose interval (`AA_options_minus_seqlora_half`) leaves out 0 on the good side?

# %% tags=["solution"]
above = table["AA_options_minus_seqlora"] > table["AA_options_minus_seqlora_half"]
answer = (above & (table["memory"] == "constant")).sum()

# %%
constant = table[table["memory"] == "constant"]
mbf.lessons.check(answer, (constant["AA_options_minus_seqlora"] - constant["AA_options_minus_seqlora_half"] > 0).sum(),
                  "the difference has to be larger than half of its interval")

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
# - Three seeds carry a coarse order, not a league table: most neighbours cannot be told apart.
# - This is a small generated world. What holds here need not hold on 7 billion parameters, nor the other way round.
#
# Next: [07_geometry](07_geometry.ipynb) looks inside the adapters.
