# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Start here: does a language model forget, and can merging stop it?
#
# A language model learns five small tasks, one after the other, with a LoRA adapter. This notebook shows what happens to
# the first task while the later ones are learned, once with plain fine-tuning (*sequential LoRA*) and once with **SLAO**,
# from *Merge before Forget* (Qiao and Mahdavi, ICLR 2026, [arXiv 2512.23017](https://arxiv.org/abs/2512.23017)).
#
# | device | machine minutes | your minutes |
# |---|---:|---:|
# | laptop, CPU | 1 to 2 | 25 |
# | Colab, T4 | not measured | 25 |
#
# **You will be able to** say what catastrophic forgetting is, read a forgetting curve, and name the three steps of SLAO.
#
# One click does it all: *Run > Run All Cells*. Nothing is installed. The letters are explained in [symbols](symbols.md); the
# other notebooks, and which five make a short workshop, are listed in the [row of notebooks](README.md).

# %%
import mbf_utils as mbf

FAST = mbf.lessons.setup(cpu_minutes=1.5)

# %% [markdown]
# ## What is learned?
#
# Five text tasks of a small invented world: name the topic or the mood of a few sentences. They mirror the field's benchmark
# and its trap: several tasks ask the *same question* and want *different words* for an answer.

# %%
stream = mbf.load_stream("world-5", limit=200 if FAST else None)
for task in stream:
    example = task.train[0]
    print(f"{task.name:8} {example.prompt}  ->  {example.answers[0]}")

# %% [markdown]
# ## What does plain fine-tuning do?
#
# One LoRA is trained on the five tasks in turn. **Predict:** after the fifth task, how many of a hundred questions of the first
# task does it still answer right?
#
# Row *i* of the table is measured after task *i*, column *j* is task *j*: exact match in percent.

# %%
sequential = mbf.run_stream(stream, method="seqlora")
sequential.matrix.style.format("{:.0f}", na_rep="")

# %% [markdown]
# *Catch up:* this cell, run in its place, loads the same run without the training.

# %% tags=["skip-execution"]
sequential = mbf.lessons.committed("seqlora")

# %% [markdown]
# ## What does SLAO do?
#
# The same training, with three changes between two tasks. Per adapted weight a LoRA is a pair $A$, $B$ with
# $\Delta W = s\,B A$:
#
# 1. **start** the next task from the orthonormalised last $A$, and the last trained $B$;
# 2. **replace** the merged $A$ by the new one;
# 3. **merge** $B$ after task $i$: $\;B_{merge} \leftarrow B_{merge} + \frac{1}{\sqrt{i}}\,(B_{ft} - B_{merge})$, where $B_{ft}$ is what the
#    training left (*fine-tuned*).
#
# There is one adapter at the end, however many tasks there were, and no task id is needed to use it. **Predict:** which column
# gains most over the table above?

# %%
slao = mbf.run_stream(stream, method="slao")
slao.matrix.style.format("{:.0f}", na_rep="")

# %% [markdown]
# *Catch up*, without the training:

# %% tags=["skip-execution"]
slao = mbf.lessons.committed("slao")

# %% [markdown]
# ## How much of each task is left?

# %%
mbf.lessons.keep(mbf.plots.forgetting_curves({"seqlora": sequential.matrix, "slao": slao.matrix}), "00-forgetting")

# %% [markdown]
# A panel is a task; the line begins where the task is learned. What falls is forgetting. A curve may also *rise* again: a
# later task with the same answer words brings them back.
#
# ## Is the knowledge gone, or only the words?
#
# Exact match asks the model to write the right word out of its whole vocabulary. The second reading only asks which of the
# task's own labels is the likeliest. What exact match loses and this one keeps above a blind guess (7, 20, 10, 25 and 20 %, by the number
# of labels) is known, but said in another task's words.

# %%
mbf.plots.forgetting_curves({"seqlora": sequential.options, "slao": slao.options}, reading="best of the task's labels")

# %% [markdown]
# ## The same in four numbers
#
# **AA** is the mean over tasks after the last one; **BWT** is what the later tasks changed in the earlier ones (negative:
# forgetting). One run of one seed: a difference of a few points means nothing here. [06_the_field](06_the_field.ipynb) has
# several seeds, and other methods.

# %%
import pandas as pd

table = pd.DataFrame({"sequential LoRA": sequential.metrics(), "SLAO": slao.metrics()})
table.loc[["AA", "BWT", "AA_options", "BWT_options"]].style.format("{:.1f}")

# %% [markdown]
# ## Exercise 1: what do the later tasks cost the first?
#
# From `slao.matrix`: how many points did the first task lose between its own training and the end?

# %% tags=["solution"]
answer = slao.matrix.iloc[0, 0] - slao.matrix.iloc[-1, 0]

# %%
mbf.lessons.check(answer, slao.matrix.iloc[0, 0] - slao.matrix.iloc[-1, 0], "column 0, first row minus last row")

# %% [markdown]
# ## Exercise 2: how much of it is only words?
#
# From `slao.matrix` and `slao.options`: the points that the first task lost by exact match, less the points that it lost by the
# best of its labels. These are right topics under wrong words, but for one in fourteen that a blind guess would get right as well.

# %% tags=["solution"]
exact = slao.matrix.iloc[0, 0] - slao.matrix.iloc[-1, 0]
labels = slao.options.iloc[0, 0] - slao.options.iloc[-1, 0]
answer = exact - labels

# %%
lost = [R.iloc[0, 0] - R.iloc[-1, 0] for R in (slao.matrix, slao.options)]
mbf.lessons.check(answer, lost[0] - lost[1], "the same difference as in exercise 1, once in each table, then one less the other")

# %% [markdown]
# ## Summary
#
# - Fine-tuning on task after task overwrites what was learned: catastrophic forgetting.
# - Part of the loss is in the words: the model answers in the last task's vocabulary.
# - SLAO trains the same LoRA and merges it after each task. In this one run it forgot a little less, and forget it does;
#   [04_why_qr_why_sqrt](04_why_qr_why_sqrt.ipynb) has twelve seeds.
#
# Next: [02_forgetting](02_forgetting.ipynb) walks through the five tasks one at a time.
