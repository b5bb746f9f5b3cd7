# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Forgetting, one task at a time
#
# Five tasks, learned in turn by one LoRA. After each we stop and look: the matrix grows by a row, and the first task goes.
#
# | device | machine minutes | your minutes |
# |---|---:|---:|
# | laptop, CPU | 1 to 2 | 35 |
# | Colab, T4 | not measured | 35 |
#
# **You will be able to** read the accuracy matrix $R$, compute AA and BWT from it by hand, and say *what* is forgotten: the
# knowledge or the words.

# %%
import mbf_utils as mbf

FAST = mbf.lessons.setup(cpu_minutes=1.5)

# %% [markdown]
# ## What are the tasks, and what do they share?
#
# `dbpedia`, `yahoo` and `agnews` ask for a topic, `amazon` and `yelp` for a mood. The instruction names the kind of task, not
# the data set, so three tasks ask the same question and want different words.

# %%
import pandas as pd

stream = mbf.load_stream("world-5", limit=200 if FAST else None)
pd.DataFrame({task.name: {"rows to train on": len(task.train), "rows to test on": len(task.test),
                          "labels": ", ".join(task.labels)} for task in stream}).T

# %% [markdown]
# One prompt of the first task, whole. The loss is on the answer only.

# %%
example = stream["dbpedia"].test[0]
print(example.prompt, "->", example.answers[0])

# %% [markdown]
# ## Task 1: can it learn at all?
#
# `walk_stream` learns one task at each `next`. Plain LoRA: $\Delta W = s\,B A$ with random $A$ and $B = 0$ at the start, trained on
# the first task.

# %%
walk = mbf.walk_stream(stream, method="seqlora")
run = next(walk)
mbf.plots.matrix_heatmap(run.matrix)

# %% [markdown]
# ## Task 2: what happens to task 1?
#
# The same LoRA goes on with `amazon`. **Predict:** how much of `dbpedia` is left? Column 1 of row 2 says it.

# %%
run = next(walk)
mbf.plots.matrix_heatmap(run.matrix)

# %% [markdown]
# ## Is it gone, or does it say it in other words?
#
# An adapter after each task lies in the run's folder in PEFT's format. We load the second one in plain PEFT and ask the first
# task's question again: the most likely next words, out of the whole vocabulary, and out of the task's labels.

# %%
from peft import PeftModel

base, tokenizer = mbf.load_model("tiny", device="cpu")
model = PeftModel.from_pretrained(base, run.adapter(2))
print(mbf.evaluation.generate(model, tokenizer, stream["dbpedia"].test[:5]))
print([row.answers[0] for row in stream["dbpedia"].test[:5]])

# %%
_, options = mbf.evaluation.label_scores(model, tokenizer, stream["dbpedia"].test[:5], stream["dbpedia"].labels)
[max(scores, key=scores.get) for scores in options]

# %% [markdown]
# The first line is what it writes, the last what it would choose among the first task's labels. Where the last is right and
# the first is not, the topic is still known, but the answer comes in the newest task's words.
#
# ## Task 3: the same question, other words
#
# `yahoo` asks the very question that `dbpedia` asked.

# %%
run = next(walk)
mbf.plots.matrix_heatmap(run.matrix)

# %% [markdown]
# ## Task 4: four topics instead of ten

# %%
run = next(walk)
mbf.plots.matrix_heatmap(run.matrix)

# %% [markdown]
# ## Task 5: an old friend
#
# `yelp` has the same labels as `amazon`. **Predict:** what does that do to `amazon`, which is not trained again? Look at its column.

# %%
run = next(walk)
mbf.plots.matrix_heatmap(run.matrix)

# %% [markdown]
# *Catch up:* this cell, run in the place of all that trained, loads the same run. `run.matrix.iloc[:2]` is its table after two tasks.

# %% tags=["skip-execution"]
run = mbf.lessons.committed("seqlora")

# %% [markdown]
# ## Watch the first task go
#
# Both readings of the same run. What lies between the two curves is what the model still prefers among the task's labels, but says in wrong
# words; guessing lies there too: of 14, 5, 10, 4 and 5 labels a blind guess is right in 7, 20, 10, 25 and 20 %.

# %%
curves = {"exact match": run.matrix, "best of the labels": run.options}
mbf.lessons.keep(mbf.plots.forgetting_curves(curves, reading="exact match and by the best of the labels; sequential LoRA"), "02-readings")

# %% [markdown]
# ## Exercise 1: average accuracy by hand
#
# AA is the mean of the last row of $R$. Compute it from `run.matrix` without `run.metrics()`.

# %% tags=["solution"]
average = run.matrix.iloc[-1].mean()

# %%
mbf.lessons.check(average, mbf.metrics.average_accuracy(run.matrix), "the last row is run.matrix.iloc[-1]")

# %% [markdown]
# ## Exercise 2: backward transfer by hand
#
# $BWT = \frac{1}{T-1}\sum_{j<T} (R_{T,j} - R_{j,j})$: what the later tasks changed in the earlier ones.

# %% tags=["solution"]
R = run.matrix.values
transfer = sum(R[-1, j] - R[j, j] for j in range(len(R) - 1)) / (len(R) - 1)

# %%
mbf.lessons.check(transfer, mbf.metrics.backward_transfer(run.matrix), "four differences: last row minus diagonal, without the last task")

# %% [markdown]
# ## Does naming the task help?
#
# The field's prompts begin with the name of the data set, so the task's identity is in the prompt. In principle a model could
# use it to keep the tasks apart. **Predict:** does it? The same walk with names:

# %%
named = mbf.run_stream(mbf.load_stream("world-5", limit=200 if FAST else None, named=True), method="seqlora")

# %% [markdown]
# *Catch up*, without the training:

# %% tags=["skip-execution"]
named = mbf.lessons.committed("seqlora_named")

# %%
mbf.plots.forgetting_curves({"prompts without names": run.matrix, "prompts with names": named.matrix}, reading="exact match of sequential LoRA")

# %% [markdown]
# One run of one seed. The committed table has three seeds, and other methods:

# %%
mbf.lessons.results("world-5-named")

# %% [markdown]
# What do the names change? The mean paired difference to the prompts without them (in points), and half of its 95 % interval: only
# a difference that is larger than that is one.

# %%
plain, with_names = (mbf.findings.run_scores(mbf.lessons.runs_of(name), "AA_options") for name in ("world-5", "world-5-named"))
gains = {method: mbf.metrics.paired_difference(with_names[method], plain.loc[with_names.index, method])
         for method in with_names.columns.intersection(plain.columns)}
pd.DataFrame(gains, index=["gain", "half"]).T.assign(told=lambda table: table["gain"].abs() > table["half"]).round(1)

# %% [markdown]
# Mostly nothing that three seeds can tell, and where they can, it is a few points, up for one method and down for two; of fourteen such
# intervals about one leaves out 0 by chance. The model could use the name, but nothing makes it: while a task is trained the name
# never changes, so who ignores it learns the task as well.
#
# ## What did it know before?
#
# Beside the tasks, the loss on general text of the same world that no task contains, after each task (nats per token). The
# base's own value comes first.

# %%
before = mbf.evaluation.general_loss(model.unload(), tokenizer, stream.general)
print(f"before the first task {before:.2f}")
run.general.round(2)

# %% [markdown]
# ## Summary
#
# - Row $i$ of $R$ is measured after task $i$; its last row gives AA, last row minus diagonal gives BWT.
# - Forgetting has two parts: knowledge lost, and answers in another task's words. Two readings tell them apart.
# - A task comes back with a later one that has the same answers. One with other answers takes its words away, whether it asks
#   the same question or not.
# - The price is paid elsewhere too: general text is far more surprising after the first task, and most after the last.
#
# Next: [03_slao_from_scratch](03_slao_from_scratch.ipynb), where SLAO is written line by line.
