# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Real models: the same lines with Llama or Qwen
#
# Everything so far ran on a model of 0.2 million parameters. The same commands take a Llama or a Qwen of the Hugging Face Hub and a
# benchmark's folder. Here they run on a local checkpoint on the CPU; the cells marked *GPU only* are for a card.
#
# | device | machine minutes | your minutes |
# |---|---:|---:|
# | laptop, CPU (without the GPU cells) | 1 | 30 |
# | Colab, T4 (with them) | not measured | 30 |
#
# **You will be able to** tell what a 7-billion model needs in memory, load a checkpoint, choose where LoRA sits, run with the paper's
# settings, go on after an interruption, and hand out the result as a plain PEFT adapter or as whole weights.

# %%
import mbf_utils as mbf

FAST = mbf.lessons.setup(cpu_minutes=1)

# %% [markdown]
# ## How much memory is in a model, and how much in its adapter?
#
# Shapes alone tell it; no weights are loaded (`meta` tensors have none). Sizes of Llama-2-7B:

# %%
import torch
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, vocab_size=32000)
with torch.device("meta"):
    llama = LlamaForCausalLM(config)
parameters = sum(p.numel() for p in llama.parameters())
print(f"{parameters / 1e9:.2f} billion parameters: {parameters * 2 / 1e9:.1f} GB in bfloat16, {parameters / 2 / 1e9:.1f} GB in 4 bits")

# %% [markdown]
# LoRA of rank 8 on `q_proj` and `v_proj`, the paper's choice: $r\,(d_{in} + d_{out})$ numbers a module, kept in float32.

# %%
sites = [module for name, module in llama.named_modules() if name.endswith(("q_proj", "v_proj"))]
pair = sum(8 * (site.in_features + site.out_features) for site in sites)
print(f"{len(sites)} modules, {pair / 1e6:.2f} million numbers: {pair * 4 / 1e6:.0f} MB a pair")

# %% [markdown]
# **Predict**: what does SLAO carry from task to task, and how does it grow with the number of tasks?
#
# It carries $A$ (of the last pair, which is also the merged one), the last $B$ and the merged $B$: one pair and a half, after 2 tasks as after
# 200. A method that stacks carries a pair for every task.

# %%
import pandas as pd

tasks = [2, 15, 100]
pd.DataFrame({"SLAO (MB)": [1.5 * pair * 4 / 1e6] * 3, "a stack (MB)": [t * pair * 4 / 1e6 for t in tasks]}, index=tasks).round(0)

# %% [markdown]
# ## How is a checkpoint loaded?
#
# A folder or a name on the Hub. We save the little base as a checkpoint of our own, as `save_pretrained` writes it, and load it from there.

# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
for part in mbf.load_model("tiny"):
    part.save_pretrained(folder / "checkpoint")
model, tokenizer = mbf.load_model(folder / "checkpoint")
print(type(model).__name__, model.dtype, model.device, sorted(path.name for path in (folder / "checkpoint").iterdir()))

# %% [markdown]
# ## Where does LoRA sit?
#
# `targets` names modules. A name that the model does not have is refused with those that it has:

# %%
stream = mbf.load_stream("world-5", limit=100 if FAST else 400)
try:
    mbf.run_stream(stream[:1], model=(model, tokenizer), targets=("query_key_value",))
except mbf.InputError as error:
    print(error)

# %% [markdown]
# ## What are the paper's settings?
#
# The defaults for a model that brings none of its own: rank 8 on `q_proj` and `v_proj`, learning rate 5e-5, 5 epochs, batches of 2 x 4; $\alpha$ and the
# dropout are not in the paper and follow its replication.

# %%
pd.Series(vars(mbf.settings.Settings()), name="default").to_frame()

# %% [markdown]
# They are made for billions of parameters; a little model wants fewer and larger steps. So here other steps, and LoRA where the paper
# has it. Two tasks, `walk_stream` learns one at each `next`.

# %%
settings = dict(targets=("q_proj", "v_proj"), rank=8, alpha=16, dropout=0.0, lr=2e-2, epochs=2, batch_size=16, accumulation=2)
walk = mbf.walk_stream(stream[:2], "slao", (model, tokenizer), out=folder / "run", **settings)
run = next(walk)
run.matrix

# %% [markdown]
# ## What if the session ends here?
#
# The walk is thrown away after the first task. The same call finds its folder and goes on with the second; a task's result is written
# whole or not at all.

# %%
del walk
run = mbf.run_stream(stream[:2], "slao", (model, tokenizer), out=folder / "run", **settings)
run.matrix

# %% [markdown]
# ## Who can use the result?
#
# The adapter after each task is a PEFT folder. It loads without this package, and can be folded into the weights.

# %%
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained(folder / "checkpoint")
whole = PeftModel.from_pretrained(base, run.adapter(2)).merge_and_unload()
mbf.evaluation.evaluate(whole, tokenizer, stream[1])

# %% [markdown]
# `exact` of the second task: the same number as in the matrix above, from plain PEFT and folded weights.
#
# ## GPU only: a Llama on the benchmark
#
# The folder is O-LoRA's `CL_Benchmark`; order 1 has four tasks. 4 bits for a small card: the base is read, never written, so merging does not
# touch it. These cells are skipped when the notebook is built; no number of them is claimed here.

# %% tags=["skip-execution"]
model = mbf.load_model("meta-llama/Llama-2-7b-chat-hf", quantize=4)
stream = mbf.load_stream("CL_Benchmark", order=1)
run = mbf.run_stream(stream, "slao", model, out="runs/llama-order-1", batch_size=1, accumulation=8, lr=1e-4, epochs=1)

# %% [markdown]
# ## Exercise 1: how large is the state of a 13-billion model?
#
# 40 layers, $d = 5120$, rank 8 on q and v, float32: how many MB does SLAO carry?

# %% tags=["solution"]
answer = 1.5 * 40 * 2 * 8 * (5120 + 5120) * 4 / 1e6

# %%
mbf.lessons.check(answer, 1.5 * 80 * 8 * 10240 * 4 / 1e6, "a pair and a half; two modules a layer; 8 (5120 + 5120) numbers a module, 4 bytes each")

# %% [markdown]
# ## Exercise 2: how many steps is a task?
#
# 1600 training rows, batches of 2 with accumulation 4, 5 epochs, one card. And on two cards?

# %% tags=["solution"]
one = 5 * 1600 / (2 * 4)
steps = [one, one / 2]

# %%
mbf.lessons.check(steps, [1000, 500], "rows x epochs / (batch x accumulation x cards)")

# %% [markdown]
# ## Summary
#
# - The state that SLAO carries is small and does not grow; the base is the cost.
# - A run goes on where it stopped, and what it gives is a plain PEFT adapter.
# - What a small model shows is the machinery, not the level of a large one.
#
# Next: [12_results](12_results.ipynb) has every number that was measured.
