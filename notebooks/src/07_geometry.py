# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Geometry: what do the adapters of five tasks have in common?
#
# An adapter is two thin matrices a layer. This notebook looks at them with rulers: angles between their spaces, cosines, singular
# values, norms. Nothing is trained here; the adapters of five tasks lie in the repository.
#
# | device | machine minutes | your minutes |
# |---|---:|---:|
# | laptop, CPU | 1 | 45 |
# | Colab, T4 | not measured | 45 |
#
# **You will be able to** measure how much two subspaces share and say whether that is more than chance, take a cosine between two $A$'s
# with the right pinch of salt, read a spectrum, and say what each task weighs in the merge.

# %%
import mbf_utils as mbf

FAST = mbf.lessons.setup(cpu_minutes=1)

# %% [markdown]
# ## Which adapters?
#
# Three runs of the same five tasks. `slao` and `seqlora` are *chains*: each task goes on from the pair that the last one left.
# `per_task` trains every task alone, each from its own random $A$ and $B = 0$.

# %%
runs = {name: mbf.lessons.committed(name) for name in ("slao", "seqlora", "per_task")}
tuned = {name: mbf.anatomy.adapters(run, "tuned") for name, run in runs.items()}       # what training left, task by task
names = runs["slao"].names
for path, pair in list(tuned["slao"][0].items())[:3]:
    print(path, "A", tuple(pair.A.shape), "B", tuple(pair.B.shape))

# %% [markdown]
# ## By hand: how much do two planes share?
#
# Two planes in space, each given by two rows. They have two *principal angles*: the smallest angle between a direction of the one and
# a direction of the other, then the smallest at right angles to those.
#
# **Predict:** both of these planes hold the first axis. What are the two angles?

# %%
import torch

P = torch.tensor([[1., 0., 0.], [0., 1., 0.]])
Q = torch.tensor([[1., 0., 0.], [0., 1., 1.]])
angles = mbf.subspaces.principal_angles(P, Q)
print([f"{angle:.0f} degrees" for angle in angles.rad2deg()])
print("mean squared cosine:", f"{angles.cos().square().mean():.2f}")

# %% [markdown]
# The *overlap* is the mean squared cosine of these angles: 1 where the smaller space lies in the larger, 0 where they are at right
# angles.
#
# ## How much do random spaces share?
#
# More than nothing. Two random spaces of 8 directions among 64 overlap by 8/64 on average: that is the value to beat.

# %%
torch.manual_seed(0)
draws = [mbf.subspaces.principal_angles(torch.randn(8, 64), torch.randn(8, 64)).cos().square().mean() for _ in range(300)]
print(f"measured {torch.stack(draws).mean():.3f}, expected {mbf.geometry.expected_overlap(8, 8, 64):.3f}")

# %% [markdown]
# ## Do tasks trained alone use the same directions?
#
# $A$'s row space is what an adapter reads, $B$'s column space is what it writes.
#
# **Predict:** three tasks ask for topics, two for moods, and each starts from an $A$ of its own. Do their $A$'s share more than chance?
# Do their $B$'s?

# %%
mbf.plots_geometry.overlap(mbf.geometry.overlap(tuned["per_task"]), names=names)

# %% [markdown]
# The $A$'s lie just above chance: each still points mostly where its random start did. The $B$'s began at zero, so all they hold was
# learned, and they share more than chance: the tasks write into some of the same directions. The two mood tasks, `amazon` and `yelp`,
# share most; then come the three of topics. How near is an $A$ to its start? The starts can be drawn again from what a run stores:

# %%
starts = {name: mbf.anatomy.starts(run) for name, run in runs.items()}
near = [torch.cosine_similarity(now[path].A.flatten(), then[path].A.flatten(), dim=0)
        for now, then in zip(tuned["per_task"], starts["per_task"]) for path in now]
print(f"cosine of A with its start, mean over tasks and modules: {torch.stack(near).mean():.2f}")

# %% [markdown]
# ## And in a chain?

# %%
overlap = mbf.geometry.overlap(tuned["slao"])
mbf.lessons.keep(mbf.plots_geometry.overlap(overlap, names=names), "07-overlap")

# %% [markdown]
# In SLAO's chain both spaces are far above chance and fade with distance, $B$'s faster than $A$'s. A mean of squared cosines hides the
# single angles: here they are for the first and the last task, in degrees, means over the modules.

# %%
first_last = mbf.geometry.angles(tuned["slao"][0], tuned["slao"][-1])
first_last = first_last[first_last.factor.isin(["A", "B"])].groupby(["factor", "k"]).value.mean().unstack()
(first_last * 180 / torch.pi).style.format("{:.0f}")

# %% [markdown]
# ## Are A's more alike than B's? The shape of the paper's Fig. 1
#
# The paper compares the tasks' factors as they are, each read as one long vector, and finds the $A$'s far more alike than the $B$'s.

# %%
cosines = mbf.geometry.cosines(tuned["slao"])
mbf.lessons.keep(mbf.plots_geometry.asymmetry(cosines), "07-cosines", cosines)

# %% [markdown]
# The same shape. But **predict:** what does this figure look like for tasks that were trained alone?

# %%
mbf.plots_geometry.asymmetry(mbf.geometry.cosines(tuned["per_task"]))

# %% [markdown]
# Nothing is left of it, neither of $A$ nor of $B$. Yet $\Delta W = B A$ still has something in common. The factors of one $\Delta W$ are not
# unique: $(B M)(M^{-1} A)$ is the same update for any invertible $M$, and each random start picks its own $M$. Cosines of $\Delta W$
# and overlaps of spaces do not depend on $M$; cosines of factors do.
#
# ## Is it learned, or inherited?
#
# In a chain each task begins with the last one's factors. What training *added* to them, $A_i - A_i^{start}$ and $B_i - B_i^{start}$:

# %%
added = {name: mbf.geometry.changes(tuned[name][1:], starts[name][1:]) for name in runs}

def apart(table):
    return table[(table.task_i < table.task_j) & table.factor.isin(["A", "B"])].groupby("factor").value.mean()

# %%
import pandas as pd

rows = {("factors", name): apart(mbf.geometry.cosines(tuned[name][1:])) for name in runs}
rows |= {("what was added", name): apart(mbf.geometry.cosines(added[name])) for name in runs}
(pd.DataFrame(rows).T.rename_axis(["mean cosine of", "run"]).round(2) + 0.0).style.format("{:.2f}")

# %% [markdown]
# What the tasks add has no common direction to speak of, in $A$ as in $B$, also in the chains. So the likeness above is inherited, and
# $A$ inherits more of it for a plain reason: it changes less, compared with what it starts from.

# %%
def length(loras):
    norms = mbf.geometry.norms(loras)
    return norms[norms.factor.isin(["A", "B"])].groupby("factor").value.mean()

sizes = pd.concat({name: pd.DataFrame({"norm of the start": length(starts[name][1:]), "norm of what is added": length(added[name])})
                   for name in ("slao", "seqlora")})
sizes.assign(share=sizes.iloc[:, 1] / sizes.iloc[:, 0]).style.format("{:.2f}")

# %% [markdown]
# ## How many directions does an update use?
#
# $\Delta W$ has at most 8 singular values. *Effective rank* counts how many of them carry weight (the exponential of their entropy);
# *stable rank* is stricter, $\|\sigma\|^2 / \sigma_1^2$.
#
# **Predict:** SLAO starts every task with an orthonormal $A$, whose rows all have length 1. Does its update use more directions than
# plain fine-tuning's?

# %%
mbf.plots_geometry.spectra(mbf.geometry.spectra(tuned["slao"], scaling=2))

# %%
effective = {name: mbf.geometry.ranks(mbf.geometry.spectra(loras)).groupby("task").effective.mean() for name, loras in tuned.items()}
pd.DataFrame(effective).T.style.format("{:.1f}")

# %% [markdown]
# SLAO's updates spread over more directions from the second task on; plain fine-tuning's hardly do. An orthonormal $A$ has eight
# equal singular values at each start, so none of its rows is weak.
#
# ## How far does the model move?
#
# The model after task $i$ is the *result*: for SLAO the merged pair. How far is it from where task 1 had left it?

# %%
results = {name: mbf.anatomy.adapters(runs[name]) for name in ("slao", "seqlora")}
drift = {name: mbf.geometry.drift(loras).query("task_i == 1").groupby(["factor", "task_j"]).value.mean() for name, loras in results.items()}
pd.DataFrame(drift).T.stack("factor", future_stack=True).style.format("{:.2f}")

# %% [markdown]
# Look at the rows of `dW`: merging keeps the model nearer to the first task's than plain fine-tuning does. In `A` it is the other way
# round, for making $A$ orthonormal moves it too. What the model does depends on the product alone.
#
# ## Does an update bring directions that the base did not have?
#
# An *intruder dimension* is a strong left singular vector of $W_0 + s B A$ that resembles none of $W_0$'s (largest cosine below one half;
# Shuttleworth et al. 2024, [arXiv 2410.21228](https://arxiv.org/abs/2410.21228)). This needs the base's weights.

# %%
base, _ = mbf.load_model("tiny", device="cpu")
weights = {path: base.get_submodule(path).weight for path in tuned["slao"][0]}
models = {"slao, tuned": tuned["slao"], "slao, merged": results["slao"], "seqlora": tuned["seqlora"], "per_task": tuned["per_task"]}
found = {name: mbf.geometry.intruders(weights, loras, scaling=2).groupby("task").intruder.mean() for name, loras in models.items()}
(100 * pd.DataFrame(found).T).style.format("{:.0f} %")

# %% [markdown]
# The share of intruders among the ten strongest directions of every module. Both chains have more of them after five tasks than after
# one, by far the most in what SLAO fine-tunes. Its merged model has about as many as plain fine-tuning. Tasks trained alone have the
# fewest.
#
# ## What does each task weigh in the merge?
#
# SLAO's $B_{merge}$ is a weighted sum of all fine-tuned $B$'s. The schedule says how much each should weigh; least squares on the stored
# adapters says how much it does.

# %%
weighed = mbf.anatomy.merge(runs["slao"])
mbf.plots_geometry.merge_weights(weighed)

# %% [markdown]
# Left, the first task's $B$ seems nearly gone. Right, the same sum written in *increments*: since every $B$ goes on from the last one,
# the first task's part is in all of them and counts in full. The newer an increment, the more it is damped.
#
# ## Which layers and modules learn, and which drift?
#
# What task $i$ changed is $D_i = B_i A_i - B_i^{start} A_i^{start}$. Its norm says how much a module learned. The *drift* says how far the
# model at the end is from the one that task $i$ had left. Both are divided by the norm of the base's weight, else larger matrices would
# win. **Predict:** attention or MLP? Early layers or late ones?

# %%
mbf.explorers_views.placement([*runs.values()], weights)

# %% [markdown]
# SLAO, mean of its tasks: the left and the middle map look alike, where much is learned, much moves on afterwards. Queries and keys
# change least, in every layer. (All controls take the keyboard, as in [08_explorers](08_explorers.ipynb).) Step through the tasks:
# does every one of them learn in the same places?
#
# ## How much of an update is shared with earlier tasks, and how much is its own?
#
# The earlier tasks' updates $D_1 \dots D_{i-1}$ span a space of rows (what they read) and one of columns (what they write). Each later
# update is cut in four: what lies in both, in the rows alone, in the columns alone, and in neither: its own. Pale beside it: what an
# update turned at random would have; it shrinks too, for the spaces fill up.
#
# **Predict:** who has more of its own, a chain or tasks trained alone?

# %%
mbf.explorers_views.shares([*runs.values()])

# %% [markdown]
# With all directions counted, both share more with the past than chance, the tasks trained alone too, which know nothing of each other.
# In the chain hardly anything is a task's own at the end; tick the other one, sequential LoRA: is it SLAO's doing, or the chain's? That is
# room for help, as between the two mood tasks, and room for harm. Then count fewer of each earlier update's directions: is what is shared
# in the strongest ones?
#
# ## Exercise 1: overlap by hand
#
# For the first module, the overlap of the row spaces of $A$ of tasks 1 and 5 in `tuned["slao"]`. `orthonormal_rows(A)` gives an
# orthonormal basis as rows; with two of them, $\|P Q^T\|_F^2 / 8$.

# %% tags=["solution"]
path = next(iter(tuned["slao"][0]))
P, Q = (mbf.subspaces.orthonormal_rows(tuned["slao"][task - 1][path].A) for task in (1, 5))
by_hand = (P @ Q.T).square().sum() / 8

# %%
table = overlap[(overlap.task_i == 1) & (overlap.task_j == 5) & (overlap.factor == "A")]
mbf.lessons.check(by_hand, table.value.iloc[0], "the sum of the squares of P @ Q.T, divided by 8", within=1e-4)

# %% [markdown]
# ## Exercise 2: what would the first task weigh after 15 tasks?
#
# $w_1 = \prod_{j=2}^{15} (1 - 1/\sqrt{j})$.

# %% tags=["solution"]
weight = 1.0
for j in range(2, 16):
    weight *= 1 - j ** -0.5

# %%
mbf.lessons.check(weight, mbf.theory.merge_weights([i ** -0.5 for i in range(1, 16)])[-1, 0], "a product of 14 numbers, the first 1 - 1/sqrt(2)")

# %% [markdown]
# ## Exercise 3: another gauge
#
# Take the first module of `tuned["slao"][0]`, and the same update as $(B M)(M^{-1} A)$ with $M = 2 I$. What is the cosine of its $B A$ with
# the old $B A$, and the norm of the new $A$ divided by that of the old one?

# %% tags=["solution"]
pair = next(iter(tuned["slao"][0].values()))
A, B = pair.A / 2, pair.B * 2
cosine = ((B @ A) * (pair.B @ pair.A)).sum() / ((B @ A).norm() * (pair.B @ pair.A).norm())
both = [round(float(cosine), 4), round(float(A.norm() / pair.A.norm()), 4)]

# %%
mbf.lessons.check(both, [1.0, 0.5], "the product does not change; the inverse of 2 I halves A")

# %% [markdown]
# ## Summary
#
# - Overlap is to be read against chance: random spaces of 8 directions among 64 share an eighth.
# - In a chain the $A$'s are more alike than the $B$'s, as in the paper's figure. They inherit it from the start that they share; what the
#   tasks add has no common direction.
# - Cosines of factors depend on the gauge; $\Delta W$, its spectrum and its spaces do not.
# - With an orthonormal start the update spreads over more directions; what is fine-tuned from it holds more that the base did not have.
# - In the merge, old increments count nearly in full although old $B$'s weigh little.
# - In a chain, most of what a later task changes lies where earlier tasks had been already, far more than chance would have it.
#
# Five tasks, one seed, a model of 0.19 million parameters: measure your own runs with the same calls, `mbf.anatomy.adapters(run)`.
#
# Next: [08_explorers](08_explorers.ipynb) moves these pictures by hand; [05_theory_measured](05_theory_measured.ipynb) puts the bounds
# beside the forgetting.
