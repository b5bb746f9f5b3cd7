# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Explorers: move it yourself
#
# Every picture here has controls. Nothing is trained: the controls walk through scores and adapters that finished runs left
# behind.
#
# | device | machine minutes | your minutes |
# |---|---:|---:|
# | laptop, CPU | 1 | 40 |
# | Colab, T4 | not measured | 40 |
#
# **You will be able to** find where a method loses a task, say whether two tasks use the same directions of a weight, tell
# how many directions an update uses, follow one example through all tasks, and make an explorer of your own.
#
# Run all cells first. All controls take the keyboard: *Tab* goes to the next one, arrows move a slider, *Space* ticks a box
# or presses a button. The sentence above a picture says its numbers. Below stands a still picture of two positions, for pages
# on which nothing runs.

# %%
import mbf_utils as mbf

FAST = mbf.lessons.setup(cpu_minutes=1)

# %% [markdown]
# ## How much of each task is left?
#
# Methods on and off, six at once at most; a step through the tasks; two readings. **Predict** before you tick: is there a
# method that keeps the first task by *exact match*? And by the best of the task's labels?

# %%
which = dict(order="1", model="tiny", named=False)
readings = {"exact match": mbf.lessons.measured("world-5", "exact", **which),
            "best of the task's labels": mbf.lessons.measured("world-5", "labels", **which)}
mbf.explorers.forgetting(readings)

# %% [markdown]
# Go to the first step and forward again. From step 4 to step 5 a task comes back that had fallen. Which one, and with what
# does it share its answers? (The tasks are described in [02_forgetting](02_forgetting.ipynb).)
#
# ## Do two tasks use the same directions?
#
# A principal angle is 0° where two subspaces share a direction and 90° where they have none in common; the mean of cos² over
# the angles is their *overlap*. Random spaces overlap too, the more the larger they are in their room: the dotted line.
# **Predict**: which overlap more, the row spaces of two tasks' $A$ or the column spaces of their $B$? Then change the method:
# two of them begin every task afresh.

# %%
names = ["slao", "seqlora", "slao_random", "slao_preserve", "slao_frea_mb", "per_task"]
runs = [mbf.lessons.committed(name) for name in names]
mbf.explorers.subspaces(runs)

# %% [markdown]
# ## How many directions does an update use?
#
# The singular values of $s\,B A$, largest first. A flat line is an update that uses all its directions alike, a steep one an
# update along few. The effective rank counts them. **Predict**: does the merged update use more directions with every task,
# or fewer? Then look at *as trained*, before the merge.

# %%
mbf.explorers.spectra(runs)

# %% [markdown]
# ## Would another merge have kept more?
#
# A run's folder keeps every task's fine-tuned factors as a record. Here they are merged anew, by another schedule
# $\lambda(i)$ or with other factors, and the merged model is asked again: no training. What a task *starts from*, and what is
# frozen, changes the training itself, so that control goes to another stored run. **Predict**: does merging $A$ as well help or
# harm? Then find a schedule that beats the paper's on these rows, and read how sure the difference is.

# %%
trained = {run.method: run for run in runs if run.method not in ("seqlora", "per_task")}
mbf.explorers_tasks.merge(trained, rows=50 if FAST else 100)

# %% [markdown]
# Choosing a schedule by its score on the test rows is choosing with the answers in hand: what is best here need not be best on
# other rows. [04_why_qr_why_sqrt](04_why_qr_why_sqrt.ipynb) compares schedules over seeds.
#
# ## What does it cost that two tasks are unlike?
#
# Two made tasks ask the same question about the same texts, and a chosen share of the answer words means the same in both: their
# *likeness*. One is learned, then the other, at several ranks. **Predict**: at a likeness of 0.4, how much of the first task is
# left? Is it more with SLAO?

# %%
import pandas as pd

pairs = pd.read_csv(mbf.lessons.ROOT / "figures" / "similarity.csv")
mbf.explorers_tasks.likeness(pairs)

# %% [markdown]
# The dotted line is the share of rows on which both tasks want the same word. A first task that lies on it is answered as the
# second one would be, and nothing of its own is left. The tasks' names are in the prompts, so that one adapter could tell them
# apart; how well it does when it learns both at once is the cross. Move the rank: what changes, and what does not?
#
# ## What does the model believe of one example?
#
# One test row of one task. The base and the adapters that SLAO left after each task are asked in turn, live: what share of
# the options' probability has each option, how much do all options have together, and which answer is written? Where the
# right option leads but something else is written, the task is known and the words are gone.

# %%
stream = mbf.load_stream("world-5")
mbf.explorers.walker(runs[0], stream)

# %% [markdown]
# Walk through ten examples of the first task with *after task* at the last: how often would you call it known?
#
# ## An explorer of your own
#
# `explore` takes a function that draws and the controls it wants. The function returns a figure and a sentence. Here: what
# weighs each task's $B$ in the merged one, if $\lambda(i) = i^{-p}$? The paper has $p = 1/2$.

# %%
def draw(p, T):
    weights = mbf.theory.merge_weights([i ** -p for i in range(1, T + 1)])[-1]
    title = f"The last of {T} tasks weighs {weights[-1]:.0%}, the first {weights[0]:.0%}"
    figure = mbf.plots.canvas(8, 3, title, "Weight of each task's B in the merged one.")
    figure.subplots().bar([str(i) for i in range(1, T + 1)], weights)
    return figure, f"p = {p:.2f}: the weights are {', '.join(f'{w:.2f}' for w in weights)}."

controls = {"p": mbf.widgets.Slide("exponent p", 0, 2, 0.25, 0.5), "T": mbf.widgets.Steps("tasks", 2, 15, 5)}
mbf.widgets.explore(draw, controls, static=[{}, {"p": 2}])

# %% [markdown]
# ## Exercise 1: the exponent that treats all tasks alike
#
# Move `p`: at which exponent has every task the same weight, whatever their number?

# %% tags=["solution"]
exponent = 1

# %%
mbf.lessons.check(exponent, 1, "the bars are equal where B_merge is the plain mean of all B's so far: lambda(i) = 1/i")

# %% [markdown]
# ## Exercise 2: random spaces
#
# In the subspace explorer, the dotted line is lower for `down_proj` than for `v_proj`. Give both values for row spaces of
# $A$, from the rank $r = 8$ and the widths `d_in` of the two modules (`runs[0].lora(1)` has them), without the explorer.

# %% tags=["solution"]
lora = runs[0].lora(1)
expected = [8 / lora[f"model.layers.0.{module}"].A.shape[1] for module in ("mlp.down_proj", "self_attn.v_proj")]

# %%
mbf.lessons.check(expected, [mbf.geometry.expected_overlap(8, 8, d) for d in (160, 64)], "p / d for spaces of p dimensions in d")

# %% [markdown]
# ## Exercise 3: known, but not said
#
# `beliefs.table` gives what the walker shows, as rows. Of the first twenty test rows of `dbpedia`, after the last task: for how
# many does the right option lead although something wrong is written?

# %%
beliefs = mbf.beliefs.Beliefs(runs[0], stream)
rows = stream["dbpedia"].test[:20]
tables = [beliefs.table("dbpedia", n).query("after == 5") for n in range(1, 21)]
tables[0].sort_values("probability", ascending=False).head(3)

# %% tags=["solution"]
likeliest = [table.loc[table.probability.idxmax(), "option"] for table in tables]
known = sum(option in row.answers and not table.right.any() for option, row, table in zip(likeliest, rows, tables))
known

# %%
best = [table.set_index("option").probability.idxmax() for table in tables]
unsaid = [not table.right.iloc[0] for option, row, table in zip(best, rows, tables) if option in row.answers]
mbf.lessons.check(known, sum(unsaid), "the option with the largest probability; `right` says whether what is written is right")

# %% [markdown]
# ## Summary
#
# - Forgetting is not one number: step by step, a task falls, and may rise again with a task that shares its answers.
# - An overlap says nothing before it stands beside that of random spaces of the same size.
# - What a model believes among the options and what it writes are two things; the walker shows both.
# - A picture with controls is a function that draws and a list of controls.
#
# Next: [09_write_your_own_method](09_write_your_own_method.ipynb) puts a method of your own on all these pictures.
