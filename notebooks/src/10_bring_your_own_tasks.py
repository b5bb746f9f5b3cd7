# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Bring your own tasks, or your own adapters
#
# First, files of your own become a stream of tasks that is learned and scored like any other. Then a folder of LoRA adapters that you
# have already trained becomes one adapter, without data and without training.
#
# | device | machine minutes | your minutes |
# |---|---:|---:|
# | laptop, CPU | 1 | 45 |
# | Colab, T4 | not measured | 45 |
#
# **You will be able to** write a file that `load_stream` takes, read what it says and what it refuses, merge saved adapters into one that
# plain PEFT loads, and tell which adapters must not be merged in this way.

# %%
import mbf_utils as mbf

FAST = mbf.lessons.setup(cpu_minutes=1)

# %% [markdown]
# All files of this notebook go to a new, empty folder.

# %%
import os
import tempfile

workplace = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
os.chdir(workplace.name)

# %% [markdown]
# ## What does a table need?
#
# Two columns: `prompt` and `answer`. Here is a CSV file of film reviews from the offline world, a task of its own that world-5 does not
# have.

# %%
import pandas as pd

reviews = mbf.load_stream("world-15", order=["imdb"], limit=200 if FAST else 300)["imdb"].train
movies = pd.DataFrame([{"prompt": row.prompt, "answer": row.answers[0]} for row in reviews])
movies.to_csv("movies.csv", index=False)
print(open("movies.csv").read(600), "...")

# %% [markdown]
# ## And one made by hand
#
# A JSON Lines file has one object a line. Who does what with a thing of which colour? The answer is the colour.

# %%
import itertools
import json

people, verbs, things = ["anna", "boris", "clara", "dmitri", "elena"], ["buys", "finds", "cleans"], ["car", "chair", "coat", "kite"]
with open("colours.jsonl", "w") as file:
    for person, verb, colour, thing in itertools.product(people, verbs, ["red", "blue", "green", "purple"], things):
        row = {"prompt": f"{person} {verb} the {colour} {thing} . what is it ? answer :", "answer": colour}
        print(json.dumps(row), file=file)
print(open("colours.jsonl").read(300), "...")

# %% [markdown]
# ## Does the base know these words?
#
# A real tokenizer spells any word in pieces. The built-in base does not: it has one token a word for the words of its world, and all
# others are one and the same to it.

# %%
known = set(mbf.world.vocabulary())
rows = [json.loads(line) for line in open("colours.jsonl")]
{word for row in rows for word in [*row["prompt"].split(), row["answer"]] if word not in known}

# %% [markdown]
# An answer that the base cannot write would be scored as if it could: every unknown word is the same token. So another colour.

# %%
text = open("colours.jsonl").read().replace("purple", "white")
with open("colours.jsonl", "w") as file:
    file.write(text)

# %% [markdown]
# ## What is found, and what is said?
#
# `load_stream` takes a file, several files, a DataFrame, or objects of the library `datasets`. What it had to decide it says in warnings;
# this shows them as lines.

# %%
import warnings

def load(given, **arguments):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        stream = mbf.load_stream(given, **arguments)
    print(*[f"- {warning.message}" for warning in said], sep="\n")
    return stream

stream = load(["movies.csv", "colours.jsonl"])

# %% [markdown]
# Each file is a task and is called as the file. No split was given, so one was drawn; few different answers, so they are the labels to
# choose from. Columns `task`, `split` and `labels` would have decided it themselves.

# %%
pd.DataFrame({task.name: {"train": len(task.train), "dev": len(task.dev), "test": len(task.test), "labels": ", ".join(task.labels)}
              for task in stream}).T

# %% [markdown]
# ## Is it learned?
#
# **Predict:** two tasks with different questions and different answer words. How much of the first is left after the second?

# %%
seqlora = mbf.run_stream(stream, method="seqlora", epochs=4)
slao = mbf.run_stream(stream, method="slao", epochs=4)

# %% [markdown]
# *Catch up*, without the training:

# %% tags=["skip-execution"]
seqlora = mbf.lessons.committed("own_seqlora")
slao = mbf.lessons.committed("own_slao")

# %%
learned = {"seqlora": seqlora, "slao": slao}
mbf.plots.forgetting_curves({method: run.matrix for method, run in learned.items()})

# %%
mbf.plots.forgetting_curves({method: run.options for method, run in learned.items()}, reading="best of the task's labels")

# %% [markdown]
# A few hundred rows are enough: both files are learned. What plain fine-tuning loses of the first by exact match it still knows by the
# labels; the words went, not the knowledge. (One run of one seed on a small test: read differences of a few points as none.)
#
# ## What is refused?
#
# Nothing is guessed in silence. Three tables that cannot be used, and the sentence for each:

# %%
def attempt(act):
    try:
        print("done:", act())
    except mbf.InputError as error:
        print("-", error)

attempt(lambda: mbf.load_stream(movies.rename(columns={"answer": "Answer"})))
attempt(lambda: mbf.load_stream({"movies": movies.replace({"answer": {"good": 1}})}))
attempt(lambda: mbf.load_stream({"movies": pd.concat([movies, movies.head(9).replace({"answer": {"good": "Good!"}})])}))

# %% [markdown]
# The last one: exact match does not see case or punctuation, so `good` and `Good!` would be two labels that no score can tell apart.
#
# And what can be used but is suspicious is told. Here every test row is a training row too:

# %%
halves = pd.concat([movies.assign(split="train"), movies.head(50).assign(split="test")])
copies = load({"movies": halves.assign(labels="good, bad")})

# %% [markdown]
# ## Exercise 1: one table with a column `task`
#
# Make one DataFrame of both files, with a column `task` that says `movies` or `colours`, and load it as `both`. The stream has the same
# tasks, and the same rows in them.

# %% tags=["solution"]
colours = pd.read_json("colours.jsonl", lines=True)
both = load(pd.concat([movies.assign(task="movies"), colours.assign(task="colours")]))

# %%
def count(stream):
    return [len(task.train) + len(task.dev) + len(task.test) for task in stream]

mbf.lessons.check(lambda: count(both) + [float(both.names == stream.names)], count(stream) + [1.0], "assign(task=...) adds the column; concat stacks")

# %% [markdown]
# ## Adapters that you already have
#
# Now without data. Five adapters, each trained on from the one before, as somebody has them who fine-tunes one adapter again and again.
# (They are what SLAO's training left after each task of world-5, from a run in the repository.)

# %%
import shutil
from pathlib import Path

run = mbf.lessons.committed("slao")
for i, name in enumerate(run.names, 1):
    shutil.copytree(run.adapter(i, "tuned"), f"adapters/{i}-{name}")
paths = sorted(Path("adapters").iterdir())
print(*paths, sep="\n")

# %% [markdown]
# ## Five into one
#
# **Predict:** can SLAO's merge be made afterwards, from the saved adapters alone? What does it need?

# %%
merged = mbf.merge_adapters(paths, "merged", method="slao")
print(*sorted(file.name for file in merged.iterdir()), sep="\n")
json.loads((merged / "merge.json").read_text())["kinship"]

# %% [markdown]
# *Kinship* is the cosine of neighbouring $B$'s: near 1 where an adapter was trained on from the one before. SLAO's merge looks at nothing
# but the fine-tuned pairs and their order, so it can be made later:

# %%
from mbf_utils.adapter_files import load_adapter

ours, result = load_adapter(merged), run.lora(5, "result")
max(float((x - y).abs().max()) for path in ours for x, y in zip(ours[path], result[path]))

# %% [markdown]
# The same to the last bit as what the run itself ended with.
#
# ## Does plain PEFT load it?

# %%
from peft import PeftModel

base, tokenizer = mbf.load_model("tiny", device="cpu")
model = PeftModel.from_pretrained(base, "merged").eval()
world = mbf.load_stream("world-5", limit=50 if FAST else None)
scores = {task.name: mbf.evaluation.evaluate(model, tokenizer, task)[:2] for task in world}
pd.DataFrame(scores, index=["exact match", "best of the labels"]).style.format("{:.0f}")

# %% [markdown]
# Nothing of this kit is needed to use it. To be rid of the adapter altogether: `model.merge_and_unload()`.
#
# ## Which adapters must not be merged so?
#
# **Predict:** five adapters that were trained apart, each from its own random start. What would an average of their $B$'s mean?

# %%
alone = mbf.lessons.committed("per_task")
for i, name in enumerate(alone.names, 1):
    shutil.copytree(alone.adapter(i, "tuned"), f"alone/{i}-{name}")
apart = sorted(Path("alone").iterdir())
attempt(lambda: mbf.merge_adapters(apart, "wrong"))

# %% [markdown]
# The other way round it is refused too: task arithmetic adds up whole updates, and in a chain each update holds the earlier ones.

# %%
attempt(lambda: mbf.merge_adapters(paths, "wrong", method="task_arithmetic"))

# %% [markdown]
# For adapters trained apart it is a right method:

# %%
attempt(lambda: mbf.merge_adapters(apart, "together", method="task_arithmetic"))
model = PeftModel.from_pretrained(mbf.load_model("tiny", device="cpu")[0], "together").eval()
scores = {task.name: mbf.evaluation.evaluate(model, tokenizer, task)[:2] for task in world}
pd.DataFrame(scores, index=["exact match", "best of the labels"]).style.format("{:.0f}")

# %% [markdown]
# Allowed is not the same as good: five updates that never met get in each other's way. Compare the two tables.
#
# ## Other bases, other ranks
#
# What a merge would get wrong is refused, and so that you see it, three adapters are spoiled here: one says that it belongs to another
# model, one that its update is scaled by $\alpha / \sqrt r$ (rsLoRA), one has half the rank.

# %%
def spoiled(name, **change):
    shutil.copytree(paths[1], name)
    config = json.loads((paths[1] / "adapter_config.json").read_text()) | change
    Path(name, "adapter_config.json").write_text(json.dumps(config))
    return name

attempt(lambda: mbf.merge_adapters([paths[0], spoiled("stranger", base_model_name_or_path="meta-llama/Llama-2-7b-hf")], "wrong"))
attempt(lambda: mbf.merge_adapters([paths[0], spoiled("rslora", use_rslora=True)], "wrong"))

# %%
from mbf_utils.adapter_files import save_adapter
from mbf_utils.lora import each, truncate

half = each(lambda pair: truncate(pair, 4)[0], run.lora(2, "tuned"))
save_adapter(half, "half", scaling=2.0, target_modules="all-linear", base_name="tiny")
attempt(lambda: mbf.merge_adapters([paths[0], "half"], "wrong"))

# %% [markdown]
# ## Exercise 2: an earlier moment
#
# Merge only the first three adapters into `"three"`. Which stored result of `run` does it equal? Put its number into `after`.

# %% tags=["solution"]
mbf.merge_adapters(paths[:3], "three")
after = 3

# %%
def compared():
    three, stored = load_adapter("three"), run.lora(after, "result")
    gap = max(float((x - y).abs().max()) for path in three for x, y in zip(three[path], stored[path]))
    return [gap, len(json.loads(Path("three/merge.json").read_text())["adapters"])]

mbf.lessons.check(compared, [0.0, 3], "paths[:3] are the first three")

# %% [markdown]
# ## Exercise 3: the order counts
#
# Merge the five in the reverse order into `"backwards"`. What does `adapters/1-dbpedia`, now the last one, weigh in the merged $B$? (The
# last of $i$ adapters weighs $1/\sqrt i$.) Put it into `weight`.

# %% tags=["solution"]
mbf.merge_adapters(paths[::-1], "backwards")
weight = 5 ** -0.5

# %%
def compared():
    backwards = load_adapter("backwards")
    return [weight, float(all((backwards[path].A == run.lora(1, "tuned")[path].A).all() for path in list(backwards)[:3]))]

mbf.lessons.check(compared, [mbf.theory.merge_weights([i ** -0.5 for i in range(1, 6)])[-1, -1], 1.0], "1 / sqrt(5); A is the last one's")

# %% [markdown]
# ## Summary
#
# - `load_stream` takes a CSV or JSON Lines file, several of them, a DataFrame or `datasets` objects: columns `prompt` and `answer`, and if
#   you like `task`, `split`, `labels`.
# - It says what it drew and found, and refuses in one sentence what it cannot use.
# - Adapters of a chain can be merged by SLAO's rule afterwards, without data; the result is a plain PEFT adapter.
# - Adapters trained apart need another rule, and merging them costs more.
#
# On the command line: `mbf run movies.csv --method slao` and `mbf merge adapters/* --out merged`.
#
# Next: [11_real_models](11_real_models.ipynb) does the same with a Llama or a Qwen.
