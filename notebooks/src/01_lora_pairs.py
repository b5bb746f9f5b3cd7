# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # LoRA pairs: what do A and B do?
#
# A LoRA adds to a frozen weight $W_0$ the product of two thin matrices: $\Delta W = s\,B A$. All of continual learning with
# one LoRA is about these two. Here they are taken in hand: first with one row and one column, then in a trained model.
#
# | device | machine minutes | your minutes |
# |---|---:|---:|
# | laptop, CPU | 1 | 40 |
# | Colab, T4 | not measured | 40 |
#
# **You will be able to** say what $A$ reads and what $B$ writes, which of them learns first and why, why a cosine between two
# $A$'s depends on a choice, and what an orthonormal $A$ changes.

# %%
import mbf_utils as mbf

FAST = mbf.lessons.setup(cpu_minutes=1)

# %% [markdown]
# ## By hand: what is a pair?
#
# A linear layer makes $y = W_0 x$ from $x$. $W_0$ has $d_{out}$ rows and $d_{in}$ columns. A pair of rank $r$ is $A$ ($r
# \times d_{in}$) and $B$ ($d_{out} \times r$). With $r = 1$, $A$ is one row and $B$ one column.

# %%
import torch

A = torch.tensor([[1., 0., -1., 2.]])              # (r, d_in) = (1, 4)
B = torch.tensor([[2.], [0.], [-3.]])              # (d_out, r) = (3, 1)
s = 0.5                                            # alpha / r, a fixed number
mbf.plots_pairs.matrices({"B": B, "A": A, "s B A": s * B @ A},
                         title=f"{B.numel()} and {A.numel()} numbers make {(B @ A).numel()}: every row is A, times a number of B")

# %% [markdown]
# ## What does A read, and what does B write?
#
# The product is never needed: $B\,(A x)$ is two small steps. $A$ reads $r$ numbers from the input, $B$ writes them into the
# output.

# %%
x = torch.tensor([3., 5., 1., 0.])
h = A @ x
print("A reads ", h.tolist())
print("B writes", (s * B @ h).tolist())

# %% [markdown]
# **Predict:** the second entry of $x$ is 5. What comes out if it is 500? And if $x = (2, 0, 2, 0)$?

# %%
for x in ([3., 500., 1., 0.], [2., 0., 2., 0.]):
    print(x, "->", (s * B @ (A @ torch.tensor(x))).tolist())

# %% [markdown]
# The pair sees of $x$ only its part along $A$'s rows: the *row space* of $A$. It can write only into the *column space* of
# $B$. An input at right angles to $A$ passes as if there were no LoRA.
#
# ## Exercise 1: what does a pair cost?
#
# A weight of a 7-billion-parameter Llama has 4096 rows and 4096 columns. How many numbers has a pair of rank 8, and what
# share of the weight's own numbers is that?

# %% tags=["solution"]
numbers = 8 * 4096 + 4096 * 8
share = numbers / 4096 ** 2

# %%
mbf.lessons.check([numbers, share], [8 * (4096 + 4096), 8 * 2 / 4096], "r rows of length d_in and r columns of length d_out")

# %% [markdown]
# ## How does training begin?
#
# $A$ is drawn at random, $B$ is zero. So $\Delta W = 0$, and the model starts as it was. **Predict:** which factor gets a
# gradient in the first step? With $G = \partial L / \partial \Delta W$ the chain rule says
#
# $$\frac{\partial L}{\partial B} = s\,G A^T, \qquad \frac{\partial L}{\partial A} = s\,B^T G.$$
#
# A small problem: learn the matrix of the first picture from random inputs.

# %%
wanted = s * B @ A
X = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))             # 50 inputs as columns


def loss_of(dW):
    return ((dW - wanted) @ X).square().mean()


# %%
A = torch.tensor([[0.3, -0.2, 0.4, 0.1]], requires_grad=True)
B = torch.zeros(3, 1, requires_grad=True)
loss_of(s * B @ A).backward()
print("gradient by A", A.grad.tolist())
print("gradient by B", B.grad.flatten().tolist())

# %% [markdown]
# $B^T G$ is zero because $B$ is. Are the two formulas right? $G$ comes from the loss as a function of $\Delta W$ itself.

# %%
dW = torch.zeros(3, 4, requires_grad=True)
loss_of(dW).backward()
G = dW.grad
torch.allclose(B.grad, s * G @ A.T), torch.allclose(A.grad, s * B.T @ G)

# %% [markdown]
# ## And after the first step?

# %%
import pandas as pd

norms = []
optimizer = torch.optim.SGD([A, B], lr=0.6)
for step in range(1, 26):
    optimizer.zero_grad()
    loss_of(s * B @ A).backward()
    norms += [(step, "A", A.grad.norm().item()), (step, "B", B.grad.norm().item())]
    optimizer.step()
mbf.plots_pairs.gradients(pd.DataFrame(norms, columns=["step", "factor", "value"]))

# %% [markdown]
# $B$ learns first, along what $A$ happens to read. Only then can $A$ turn. (With both at zero neither would ever move.)
#
# ## The same in a model
#
# `tiny` is a Llama of three layers. Seven weights a layer carry a pair of rank 8. This one was trained on the first task,
# `dbpedia`; it comes from a run that lies in the repository.

# %%
base, tokenizer = mbf.load_model("tiny", device="cpu")
run = mbf.lessons.committed("slao")
lora = run.lora(1, "tuned")                        # module path -> Pair(A, B)
path = "model.layers.1.self_attn.q_proj"
pair, s = lora[path], 16 / 8                       # alpha 16, rank 8
len(lora), {name: tuple(factor.shape) for name, factor in pair._asdict().items()}

# %%
W0 = base.get_submodule(path).weight
numbers = sum(factor.numel() for factor in pair)
mbf.plots_pairs.matrices({"W0": W0, "s B A": s * pair.B @ pair.A},
                         title=f"{numbers:,} numbers change all {W0.numel():,} of this weight")

# %% [markdown]
# How many directions? Singular values count them; the kit finds those of $s\,B A$ from the thin factors alone.

# %%
values = torch.linalg.svdvals(s * pair.B @ pair.A)
print("dense  ", [round(value, 2) for value in values.tolist()][:12])
print("factors", [round(value, 2) for value in mbf.geometry.singular_values(pair, s).tolist()])

# %% [markdown]
# ## Which factor learns first here?
#
# The model wears a fresh pair and reads 32 rows of the first task. One backward pass:

# %%
from mbf_utils.text import collate, encode

stream = mbf.load_stream("world-5", limit=200 if FAST else None)
worn = mbf.adapters.Adapted(base, "all-linear", rank=8, alpha=16)
fresh = mbf.method.Task(1, "dbpedia", [], 8, worn.scaling, worn.sites, seed=0).fresh()
worn.wear(fresh, trains="AB")
batch = collate(encode(tokenizer, stream["dbpedia"].train[:32], 512), tokenizer.pad_token_id)

# %%
batch.loss(worn.model(input_ids=batch.ids, logits_to_keep=batch.keep).logits).backward()
{name: sum(getattr(pair, name).grad.square().sum() for pair in worn.live().values()).sqrt().item() for name in "AB"}

# %% [markdown]
# The same as by hand: in the first step only $B$ moves.
#
# ## How far does each factor go?
#
# It is often said that $A$ hardly moves. **Predict:** after a whole task, how much of $A$'s length has it travelled? Means
# over the 21 adapted weights; the fresh pair is the very one from which this run began.

# %%
ways = mbf.geometry.drift([fresh, lora]).query("task_i == 1 and task_j == 2").groupby("factor").value.mean()
length = mbf.geometry.norms([fresh, lora]).groupby(["factor", "task"]).value.mean().unstack()
pd.DataFrame({"length before": length[1], "length after": length[2], "way travelled": ways}).loc[["A", "B"]].round(2)

# %% [markdown]
# At this learning rate $A$ travels about as far as $B$. What does its way do for the update? $B A = B A_0 + B\,(A - A_0)$:
# the part that the random $A_0$ would have given, and the part that is there because $A$ turned.

# %%
parts = [(pair.B @ fresh[path].A, pair.B @ (pair.A - fresh[path].A)) for path, pair in lora.items()]
{"B A0": sum(one.norm() for one, _ in parts).item() / 21, "B (A - A0)": sum(other.norm() for _, other in parts).item() / 21}

# %% [markdown]
# Two parts of like size. So on this base $A$ is not a bystander in the first task.
#
# ## And from task to task?
#
# The paper's Fig. 1 asks how alike the tasks' $A$'s are, and their $B$'s. Here for the five tasks of the SLAO run:

# %%
tuned = mbf.anatomy.adapters(run, "tuned")
mbf.plots_geometry.asymmetry(mbf.geometry.cosines(tuned))

# %% [markdown]
# The $A$'s are more alike, as in the paper. Does $A$ then move less? Where a task of SLAO starts is known, so the way that
# each factor goes is too:

# %%
starts = mbf.theory.slao_starts(tuned)             # of tasks 2 to 5
ways = mbf.geometry.norms(mbf.geometry.changes(tuned[1:], starts)).query("factor != 'dW'")
lengths = mbf.geometry.norms(starts).query("factor != 'dW'")
found = {"length at the start": lengths, "way travelled": ways}
pd.concat({name: rows.groupby("factor").value.mean() for name, rows in found.items()}, axis=1).round(2)

# %% [markdown]
# It goes nearly as far as $B$. But it is longer, since the QR step has just given each of its 8 rows length 1 ($\sqrt 8 = 2.83$), and
# a long vector turns less by the same way.
#
# ## Can one factor carry a task alone?
#
# Train only $B$ and leave $A$ at $c\,Q$, orthonormal rows times a size $c$. Or the mirror of it: train only $A$ (from zero)
# and leave $B$ at $c$ times orthonormal columns. A method of the kit is a class; this one says only where a task starts and
# what trains.

# %%
from dataclasses import dataclass


@dataclass
class OneFactor(mbf.Method):
    trains: str = "B"
    size: float = 1.0

    def start(self, task):
        return mbf.Start(mbf.lora.each(self.begin, task.fresh(), seeded(task)), trains=self.trains)

    def begin(self, fresh, other):
        if self.trains == "A":
            return mbf.Pair(torch.zeros_like(fresh.A), self.size * mbf.subspaces.orthonormal_rows(other.B.T).T)
        return mbf.Pair(self.size * mbf.subspaces.orthonormal_rows(fresh.A), fresh.B)


def seeded(task):                                  # random B's of the right shapes
    rng = task.rng("columns")
    return {path: mbf.Pair(pair.A, torch.randn(pair.B.shape, generator=rng)) for path, pair in task.fresh().items()}


# %% [markdown]
# **Predict:** which will do better at the same size, $B$ alone or $A$ alone? And does the size matter? The hardest of the
# five tasks to learn is `yahoo`. (This cell trains six times, for 20 to 40 seconds. To go on without, run the next one: it
# reads what this cell gave with `seeds, sizes = (0, 1, 2), (0.5, 1.0, 2.0)`, which `figures/one_factor.py` makes again.)

# %%
from dataclasses import replace

seeds, sizes = (0,), (0.5, 2.0)
task = replace(stream, tasks=(stream["yahoo"],))
rows = [(trains, size, seed, mbf.run_stream(task, OneFactor(trains, size), seed=seed).matrix.iloc[0, 0])
        for trains in ("AB", "B", "A") for size in sizes for seed in seeds]
table = pd.DataFrame(rows, columns=["trains", "size", "seed", "score"])
mbf.plots_pairs.alone(table)

# %%
mbf.plots_pairs.alone(pd.read_csv(mbf.lessons.ROOT / "figures" / "01-one-factor.csv"))

# %% [markdown]
# Two things decide. On the mean of three seeds $B$ alone is the better half at every size (in a single seed it need not be).
# But the size of the *frozen* factor matters more than which one is frozen: it multiplies the gradient of the other,
# $\partial L / \partial B = s\,G A^T$, and the effect of its every step, as a learning rate would. With a large one $B$ alone
# learns the task as well as both, and $A$ alone nearly. A claim that one factor is the one that counts needs the size of the
# other beside it.
#
# ## One function, many pairs
#
# For every invertible $M$ ($r \times r$), $(M A,\; B M^{-1})$ is the same $\Delta W$: $B M^{-1} M A = B A$. With $r = 1$:
# double $A$, halve $B$.

# %%
M = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
turned = mbf.lora.each(lambda pair: mbf.Pair(M @ pair.A, pair.B @ M.inverse()), lora)
max((pair.B @ pair.A - turned[path].B @ turned[path].A).abs().max().item() for path, pair in lora.items())

# %% [markdown]
# Nothing changed but rounding. **Predict:** how alike are $A$ and $M A$?

# %%
mbf.geometry.cosines([lora, turned]).query("task_i == 1 and task_j == 2").groupby("factor").value.mean().round(3)

# %% [markdown]
# The same model, and yet its $A$'s and $B$'s look unrelated; $\Delta W$ is itself. A cosine of $A$'s (or of $B$'s) speaks of
# the pair that training happened to find, not of the model. What both pairs do share is the row space of $A$ and the column
# space of $B$:

# %%
mbf.geometry.overlap([lora, turned]).query("task_i == 1 and task_j == 2").groupby("factor")[["value", "expected"]].mean().round(3)

# %% [markdown]
# ## What does an orthonormal A change?
#
# SLAO starts a task from $A^T = Q R$: it keeps $Q^T$, whose rows have length 1 and stand at right angles, and drops $R$. $B$
# stays.

# %%
path = "model.layers.1.self_attn.q_proj"
Q_T = mbf.subspaces.orthonormal_rows(lora[path].A)     # (8, 64)
lengths = lora[path].A.norm(dim=1)
mbf.plots_pairs.matrices({"A Aᵀ": lora[path].A @ lora[path].A.T, "Qᵀ Q": Q_T @ Q_T.T}, title="Rows of length "
                         f"{lengths.min():.2f} to {lengths.max():.2f} become rows of length 1, each at right angles to the others")

# %% [markdown]
# **Predict:** does the model still answer the same? Three pairs with the same row space: as trained; $(Q^T, B)$, SLAO's
# start; and $(Q^T, B R^T)$, where $B$ takes over what $Q$ left out: $A = R^T Q^T$.

# %%
def dropped(pair):
    return mbf.Pair(mbf.subspaces.orthonormal_rows(pair.A), pair.B)


def kept(pair):
    Q = mbf.subspaces.orthonormal_rows(pair.A)     # the rows of Q^T
    return mbf.Pair(Q, pair.B @ (pair.A @ Q.T))    # A Q = R^T


starts = {"A, B": lora, "Q^T, B": mbf.lora.each(dropped, lora), "Q^T, B R^T": mbf.lora.each(kept, lora)}

# %%
rows = {}
for name, start in starts.items():
    worn.wear(start)
    same = mbf.geometry.cosines([lora, start]).query("factor == 'dW' and task_i == 1 and task_j == 2").value.mean()
    size = mbf.geometry.norms([start]).query("factor == 'dW'").value.mean()
    score = mbf.evaluation.evaluate(worn.model, tokenizer, stream["dbpedia"]).exact
    loss = batch.loss(worn.model(input_ids=batch.ids, logits_to_keep=batch.keep).logits).item()
    rows[name] = {"length of B A": size, "cosine with B A": same, "loss on 32 rows": loss, "right answers (%)": score}
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# Dropping $R$ is not function-preserving: the update is longer and points a little elsewhere, and the loss is higher; the
# answers to this task bear it. With $B R^T$ all is as it was. The paper drops $R$; the kit has the other as `slao_preserve`,
# and [04_why_qr_why_sqrt](04_why_qr_why_sqrt.ipynb) measures both.
#
# ## Exercise 2: keep the function
#
# `A` and `B` below are one weight's pair, `P` is an orthonormal basis of the row space of `A` (not the one of QR). Which `C`
# makes $C P = B A$?

# %%
A, B = lora[path]
P = mbf.lora.svd(lora[path])[2]                    # (8, 64), rows orthonormal

# %% tags=["solution"]
C = B @ (A @ P.T)

# %%
mbf.lessons.check(lambda: (C @ P - B @ A).norm().item() < 1e-5 * (B @ A).norm().item(), True, "P P^T is the identity, and A = (A P^T) P")

# %% [markdown]
# ## Exercise 3: the same function, other steps
#
# The pairs $(A, B)$ and $(2A, B/2)$ are the same model. By how much is the gradient of $B$ longer in the second pair? And
# that of $A$?

# %% tags=["solution"]
longer_B, longer_A = 2, 1 / 2

# %%
gradients = {}
for c in (1, 2):
    worn.wear(mbf.lora.each(lambda pair: mbf.Pair(c * pair.A, pair.B / c), lora), trains="AB")
    worn.model.zero_grad()
    batch.loss(worn.model(input_ids=batch.ids, logits_to_keep=batch.keep).logits).backward()
    gradients[c] = [worn.live()[path].B.grad.norm().item(), worn.live()[path].A.grad.norm().item()]
measured = [after / before for before, after in zip(gradients[1], gradients[2])]
print([round(value, 4) for value in measured])
mbf.lessons.check([longer_B, longer_A], [round(value, 4) for value in measured],
                  "dL/dB = s G A^T and dL/dA = s B^T G, with the same G")

# %% [markdown]
# ## Summary
#
# - $A$ reads $r$ numbers, $B$ writes them. The pair sees $A$'s row space and reaches $B$'s column space.
# - $B$ starts at zero, so it learns first; $A$ turns as soon as $B$ is there.
# - Which factor "carries" a task depends on the size of the one that rests. Measure it before you say it.
# - $(A, B)$ and $(M A, B M^{-1})$ are one model with other cosines and other gradients. Spaces and $\Delta W$ are the model's
# own.
# - SLAO's orthonormal start gives $A$ rows of length 1 and so lengthens the update that the model begins with.
#
# Next: [02_forgetting](02_forgetting.ipynb), what happens to one pair that learns five tasks; then
# [03_slao_from_scratch](03_slao_from_scratch.ipynb).
