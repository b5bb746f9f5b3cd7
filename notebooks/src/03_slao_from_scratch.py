# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # SLAO from scratch: Algorithm 1, line by line
#
# SLAO fits on ten lines. Here you derive and write them, with plain `torch` on pairs, train the five tasks in a loop of your
# own, and check the outcome against the package, number by number.
#
# | device | machine minutes | your minutes |
# |---|---:|---:|
# | laptop, CPU | 1 to 2 | 60 |
# | Colab, T4 | not measured | 60 |
#
# **You will be able to** write SLAO from memory, say what each line is for, and say how much each task weighs in the merged
# model.
#
# The letters are the paper's, for one adapted weight; $i$ counts tasks from 1.
#
# | letter | what it is | shape |
# |---|---|---|
# | $A_{ft,i},\ B_{ft,i}$ | the pair that training left after task $i$ (*fine-tuned*) | $r \times d_{in}$, $d_{out} \times r$ |
# | $A_{init},\ B_{init}$ | the pair that the next task starts from | the same |
# | $A_{merge},\ B_{merge}$ | the merged pair: the model that is used and scored | the same |
# | $\lambda(i)$ | how much the newest $B$ counts in the merge, $1/\sqrt{i}$ | a number |

# %%
import mbf_utils as mbf

FAST = mbf.lessons.setup(cpu_minutes=1.5)

# %% [markdown]
# ## Step 1: where does a task start?
#
# From the last *fine-tuned* pair, with $A$ made orthonormal: $A^T = Q R$, where $Q$ ($d_{in} \times r$) has orthonormal
# columns and $R$ ($r \times r$) is upper triangular. $Q^T$ spans the same row space as $A$. A small one by hand:

# %%
import torch

A = torch.tensor([[0., -2., 0.], [3., 1., 0.]])    # (r, d_in) = (2, 3)
Q, R = torch.linalg.qr(A.T)                        # (3, 2), (2, 2)
print("Q^T", Q.T.tolist())
print("R  ", R.tolist())

# %% [markdown]
# Rows of length 1, at right angles, and $Q R = A^T$. But the decomposition is unique only up to signs: flip a column of $Q$
# and the row of $R$ with it, and the product is the same. **Predict:** does it matter which sign we get, when only $Q^T$ is
# kept and $R$ is dropped? A trained pair from a stored run says:

# %%
run = mbf.lessons.committed("slao")
A, B = run.lora(1, "tuned")["model.layers.1.self_attn.q_proj"]
Q, R = torch.linalg.qr(A.T)
torch.cosine_similarity((B @ A).flatten(), (B @ Q.T).flatten(), dim=0).item()

# %% [markdown]
# Hardly alike: where a sign came out the other way, its part of the update starts turned against itself. So the signs are
# fixed by asking for a positive diagonal of $R$: $Q \leftarrow Q\,\mathrm{sign}(\mathrm{diag} R)$. A zero counts as $+1$;
# else its row would vanish.

# %%
signs = torch.where(R.diagonal() < 0, -1.0, 1.0)
torch.cosine_similarity((B @ A).flatten(), (B @ (Q * signs).T).flatten(), dim=0).item()

# %% [markdown]
# Not 1: dropping $R$ changes lengths and angles a little, so the start is *not* the function that the last task ended with
# ([01_lora_pairs](01_lora_pairs.ipynb) looks into that). The two lines of the paper:
#
# $$A_{init} = Q^T, \qquad B_{init} = B_{ft,i-1}$$

# %%
def start_of(last):
    """The pair that a task starts from. last: the fine-tuned pair of the task before."""
    Q, R = torch.linalg.qr(last.A.T)
    signs = torch.where(R.diagonal() < 0, -1.0, 1.0)
    return mbf.Pair((Q * signs).T.contiguous(), last.B)


# %% [markdown]
# Does it give what the package gives, for all 21 weights of the model? `each` applies a function weight by weight.

# %%
mine, package = mbf.lora.each(start_of, run.lora(1, "tuned")), mbf.METHODS["slao"]().turned
all(torch.equal(mine[path].A, package(pair).A) and torch.equal(mine[path].B, package(pair).B)
    for path, pair in run.lora(1, "tuned").items())

# %% [markdown]
# ## Step 2: how is a task learned?
#
# As always: both factors, AdamW, the loss on the answer. The kit lends the reading of text and the order of the rows; the
# loop is yours.

# %%
from mbf_utils.text import collate, encode

stream = mbf.load_stream("world-5", limit=200 if FAST else None)
model, tokenizer = mbf.load_model("tiny", device="cpu")            # the same arithmetic on every kind of machine
settings = mbf.settings.Settings(**mbf.models.suggested(model))
worn = mbf.adapters.Adapted(model, settings.targets, settings.rank, settings.alpha)         # the model, wearing pairs
settings

# %%
@mbf.last_layer.shortened(model)                   # saves what nobody reads of the last layer, as the package does
def train(start, i, examples):
    """The fine-tuned pairs of task i, from the pairs `start`."""
    worn.wear(start, trains="AB")
    factors = [factor for pair in worn.live().values() for factor in pair]
    optimizer = torch.optim.AdamW(factors, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    rows = encode(tokenizer, examples, settings.max_length)
    windows = mbf.training.window_plan(len(rows), settings, 1, mbf.method.seed_of(0, i, "order"))   # seed 0
    for step, window in enumerate(windows):
        optimizer.param_groups[0]["lr"] = settings.lr * settings.rate(step, len(windows))
        batch = collate([rows[k] for k in window], tokenizer.pad_token_id)
        batch.loss(worn.model(input_ids=batch.ids, logits_to_keep=batch.keep, use_cache=False).logits).backward()
        torch.nn.utils.clip_grad_norm_(factors, settings.clip)
        optimizer.step()
        optimizer.zero_grad()
    return mbf.lora.copied(worn.live())


# %% [markdown]
# Five tasks, each from the last one's fine-tuned pairs. Task 1 has none before it: plain LoRA, $A$ random and $B$ zero. This
# trains for 15 to 30 seconds.

# %%
fresh = mbf.method.Task(1, stream.names[0], [], settings.rank, worn.scaling, worn.sites, seed=0).fresh()
tuned = []                                         # the fine-tuned pairs of tasks 1, 2, ...
for i, task in enumerate(stream, 1):
    start = mbf.lora.each(start_of, tuned[-1]) if tuned else fresh
    tuned.append(train(start, i, task.train))
len(tuned), "tasks learned"

# %% [markdown]
# *Catch up:* this cell, run in its place, loads what training left in the stored run.

# %% tags=["skip-execution"]
tuned = mbf.anatomy.adapters(mbf.lessons.committed("slao"), "tuned")

# %% [markdown]
# ## Step 3: how are the B's merged?
#
# A mean of $B$'s would need them all. A *running* mean needs only itself and the newest: from the mean of $i-1$ things to
# that of $i$ is a step of $1/i$ towards the new one. SLAO takes larger steps, $\lambda(i) = 1/\sqrt{i}$:
#
# $$B_{merge} \leftarrow B_{merge} + \lambda(i)\,(B_{ft,i} - B_{merge}).$$
#
# **Predict:** after five tasks, which task weighs most, and how little does the first weigh? A trick shows it: let task $k$'s
# "$B$" be the $k$-th unit vector. What is merged *is* the list of weights.

# %%
def weights(schedule, T):
    merged = torch.eye(T)[0]
    for i in range(2, T + 1):
        merged = merged + schedule(i) * (torch.eye(T)[i - 1] - merged)
    return merged


print("1/i       ", [round(w, 3) for w in weights(lambda i: 1 / i, 5).tolist()])
print("1/sqrt(i) ", [round(w, 3) for w in weights(lambda i: i ** -0.5, 5).tolist()])

# %% [markdown]
# $1/i$ is the plain mean. With $1/\sqrt{i}$ the newest counts most. By hand: task $k$ enters with $\lambda(k)$, and each
# later task $j$ leaves $1 - \lambda(j)$ of it:
#
# $$w_k = \lambda(k) \prod_{j > k} (1 - \lambda(j)), \qquad \sum_k w_k = 1 .$$

# %%
import math

T = 5
closed = [k ** -0.5 * math.prod(1 - j ** -0.5 for j in range(k + 1, T + 1)) for k in range(1, T + 1)]
print([round(w, 3) for w in closed], "sum", round(sum(closed), 3))

# %% [markdown]
# The first task's $B$ seems lost. It is not, for no $B$ is trained from nothing: $B_{ft,k} = B_{ft,k-1} + \Delta B_k$, so
# what task 1 added is in all later $B$'s as well. The weight of the *increment* $\Delta B_k$ is the sum of the weights from
# $k$ on:

# %%
print([round(sum(closed[k:]), 3) for k in range(T)])

# %% [markdown]
# Old increments are kept almost whole, the newest are damped: with this start the merge slows down what has just been
# learned.
#
# $A$ is not merged, it is replaced by the newest:

# %%
def merge(merged, tuned, i):
    """The merged pair after task i. merged: the one after task i - 1."""
    return mbf.Pair(tuned.A, merged.B + i ** -0.5 * (tuned.B - merged.B))


# %% [markdown]
# The merge never goes back into the training: task $i+1$ starts from the fine-tuned pair, not from the merged one. So here it
# may come after all the training.

# %%
merged = [tuned[0]]
for i in range(2, len(tuned) + 1):
    merged.append(mbf.lora.each(lambda last, new: merge(last, new, i), merged[-1], tuned[i - 1]))

# %% [markdown]
# ## What does the merged model know?
#
# After each task the model wears the merged pairs and answers the test rows of all tasks so far.

# %%
import pandas as pd

R = pd.DataFrame(index=stream.names, columns=stream.names, dtype=float)
for i, lora in enumerate(merged, 1):
    worn.wear(lora)
    for task in stream[:i]:
        R.loc[stream.names[i - 1], task.name] = mbf.evaluation.evaluate(worn.model, tokenizer, task).exact
mbf.plots.matrix_heatmap(R)

# %% [markdown]
# ## Is it the package's SLAO?
#
# The package learns the same five tasks with its own loop, its own start and its own merge. **Predict:** how many of the
# factors will be equal to the last bit? (15 to 30 seconds.)

# %%
package = mbf.run_stream(stream, method="slao", model=mbf.load_model("tiny", device="cpu"))

# %% [markdown]
# *Catch up*, only for those who took the first one too. Against a training of your own it may differ in the last bits, for it
# comes from another processor.

# %% tags=["skip-execution"]
package = mbf.lessons.committed("slao")


# %%
def gap(ours, theirs):
    """The largest difference of any two numbers in two lists of adapters."""
    return max((x - y).abs().max().item() for one, other in zip(ours, theirs, strict=True)
               for path in one for x, y in zip(one[path], other[path]))


gaps = {"fine-tuned": gap(tuned, mbf.anatomy.adapters(package, "tuned")), "merged": gap(merged, mbf.anatomy.adapters(package))}
gaps

# %% [markdown]
# Zero means bit for bit, over all tasks, weights and factors. The accuracies then are the same too:

# %%
assert gaps == {"fine-tuned": 0, "merged": 0}, "not bit for bit: were both made on this machine, of the same rows?"
pd.testing.assert_frame_equal(R, package.matrix, check_names=False)
package.matrix.round(1)

# %% [markdown]
# And the run that the repository holds? Another processor may round differently, and hundreds of steps amplify that: there
# this number is not zero. Where it is zero, the runs were made as they are here.

# %%
gap(tuned, mbf.anatomy.adapters(run, "tuned"))

# %% [markdown]
# ## Are the weights in the stored factors what the formula says?
#
# The kit finds them by least squares from the stored adapters, without knowing the schedule.

# %%
mbf.plots_geometry.merge_weights(mbf.anatomy.merge(package))

# %% [markdown]
# ## The same as a method of the kit
#
# Two hooks: `start` and `finish`. All that survives a task lies in `memory`; the package's own `SLAO` has the same two and a
# field for each ablation. Two tasks will do for a check.

# %%
class MySLAO(mbf.Method):
    def start(self, task):
        return mbf.Start(mbf.lora.each(start_of, self.memory["tuned"]) if task.index > 1 else task.fresh())

    def finish(self, tuned, task):
        before = self.memory.get("merged", tuned)
        merged = mbf.lora.each(lambda last, new: merge(last, new, task.index), before, tuned)
        self.memory.update(tuned=tuned, merged=merged)
        return merged


# %%
walk = mbf.walk_stream(stream, MySLAO(), mbf.load_model("tiny", device="cpu"))
next(walk)
gap([next(walk).lora(2)], [package.lora(2)])

# %% [markdown]
# ## Exercise 1: fifteen tasks
#
# The field's long benchmark has 15 tasks. What do the first and the last $B_{ft}$ weigh at its end?

# %% tags=["solution"]
long = weights(lambda i: i ** -0.5, 15)
first, last = long[0].item(), long[-1].item()

# %%
right = mbf.theory.merge_weights([i ** -0.5 for i in range(1, 16)])[-1]
mbf.lessons.check([first, last], [right[0], right[-1]], "weights(schedule, 15)", within=1e-5)

# %% [markdown]
# ## Exercise 2: start from the merged B
#
# One of the paper's ablations starts from the last *merged* pair: $B_{ft,k} = B_{merge,k-1} + \Delta B_k$. How much does the
# increment $\Delta B_k$ of each of five tasks then weigh in the end? Let $\Delta B_k$ be the $k$-th unit vector and run the
# merge.

# %% tags=["solution"]
merged_B = torch.eye(5)[0]
for i in range(2, 6):
    tuned_B = merged_B + torch.eye(5)[i - 1]
    merged_B = merged_B + i ** -0.5 * (tuned_B - merged_B)
increments = merged_B.tolist()

# %%
mbf.lessons.check(increments, [k ** -0.5 for k in range(1, 6)],
                  "tuned = merged + unit vector, then merge: what is left of task k's unit vector, and does it change again?", within=1e-5)

# %% [markdown]
# There every task's increment keeps the weight that it got when it was new.
#
# ## Exercise 3: what has to be kept?
#
# To learn task 6 and merge it, SLAO needs some of the six matrices $A_{ft}, B_{ft}, A_{merge}, B_{merge}, A_{init}, B_{init}$
# of each weight. How many numbers does it keep for the whole model?

# %% tags=["solution"]
kept = sum(pair.A.numel() + 2 * pair.B.numel() for pair in tuned[-1].values())

# %%
mbf.lessons.check(kept, sum(pair.A.numel() + 2 * pair.B.numel() for pair in run.lora(5).values()),
                  "A_merge is A_ft, and the start is made from the fine-tuned pair")

# %% [markdown]
# ## Summary
#
# - Start: $A_{init} = Q^T$ with fixed signs, $B_{init} = B_{ft,i-1}$. Train both. Replace $A$, merge $B$ with $1/\sqrt{i}$.
# - The state is three matrices a weight, however many tasks there were.
# - The newest $B$ weighs most; but what earlier tasks added is in every later $B$, so it is kept almost whole.
# - Your loop and the package agree to the last bit.
#
# Whether each of these choices helps is another question: [04_why_qr_why_sqrt](04_why_qr_why_sqrt.ipynb) takes them out one
# by one, and [05_theory_measured](05_theory_measured.ipynb) holds the paper's reasons against what happens.
