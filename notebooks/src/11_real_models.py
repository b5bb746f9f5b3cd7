# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Real models: the same lines with Llama or Qwen
#
# Everything so far ran on a model of 0.2 million parameters. The same commands take a Llama or a Qwen of the Hugging Face Hub and
# a benchmark. In a GPU session the cells below load a small open model; without a card or without network they take a local
# checkpoint, and go on with the same lines. The cells marked *GPU only* are for a card alone.
#
# | device | machine minutes | your minutes |
# |---|---:|---:|
# | laptop, CPU (without the GPU cells) | 1 | 30 |
# | Colab, T4 (with them) | not measured | 30 |
#
# **You will be able to** tell what a 7-billion model needs in memory, load a checkpoint, choose where LoRA sits, run with the
# paper's settings, go on after an interruption, train in a loop of your own, and hand out the result as a plain PEFT adapter or as
# whole weights.

# %%
import mbf_utils as mbf

FAST = mbf.lessons.setup(cpu_minutes=1)

# %% [markdown]
# ## How much memory is in a model, and how much in its adapter?
#
# Shapes alone tell it; no weights are loaded (`meta` tensors have none). Sizes of Llama-2-7B, and of the small open model that
# a GPU session loads below, whose first and last matrix are one:

# %%
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

configs = {"Llama-2-7B": LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
                                     vocab_size=32000),
           "Qwen2.5-0.5B": Qwen2Config(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
                                       num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True)}
with torch.device("meta"):
    shapes = {name: AutoModelForCausalLM.from_config(config) for name, config in configs.items()}
parameters = {name: sum(p.numel() for p in model.parameters()) for name, model in shapes.items()}
for name, count in parameters.items():
    print(f"{name}: {count / 1e9:.2f} billion parameters: {count * 2 / 1e9:.1f} GB in bfloat16, {count / 2 / 1e9:.1f} GB in 4 bits")

# %% [markdown]
# LoRA of rank 8 on `q_proj` and `v_proj`, the paper's choice: $r\,(d_{in} + d_{out})$ numbers a module, kept in float32.

# %%
pairs = {}
for name, model in shapes.items():
    sites = [module for path, module in model.named_modules() if path.endswith(("q_proj", "v_proj"))]
    pairs[name] = sum(8 * (site.in_features + site.out_features) for site in sites)
    print(f"{name}: {len(sites)} modules, {pairs[name] / 1e6:.2f} million numbers: {pairs[name] * 4 / 1e6:.1f} MB a pair")

# %% [markdown]
# Training adds, for every number of the pair, its gradient and AdamW's two averages, and the layers' inputs, which
# `checkpointing=True` keeps alone (without it a layer's inner activations come on top). For 8 rows of 1024 tokens at once, in GB
# (a T4 has 16, an L4 24, an A100 40 or 80); arithmetic from shapes, *not measured*:

# %%
def memory(name, bits, tokens=8 * 1024, GB=1e9):
    config = configs[name]
    return {"base": parameters[name] * bits / 8 / GB, "pair, gradient, AdamW": pairs[name] * 16 / GB,
            "layers' inputs": config.num_hidden_layers * tokens * config.hidden_size * 2 / GB}


table = pd.DataFrame({f"{name}, {bits} bits": memory(name, bits)
                      for name, bits in [*(("Llama-2-7B", bits) for bits in (16, 8, 4)), ("Qwen2.5-0.5B", 16)]}).T
fits = ["A100" if gb > 22 else "L4, A100" if gb > 14 else "T4, L4, A100" for gb in table.sum(axis=1)]
table.assign(whole=table.sum(axis=1), fits=fits).round(2)

# %% [markdown]
# **Predict**: what does SLAO carry from task to task, and how does it grow with the number of tasks?
#
# It carries $A$ (of the last pair, which is also the merged one), the last $B$ and the merged $B$: one pair and a half, after 2
# tasks as after 200. A method that stacks carries a pair for every task.

# %%
tasks, pair = [2, 15, 100], pairs["Llama-2-7B"]
pd.DataFrame({"SLAO (MB)": [1.5 * pair * 4 / 1e6] * 3, "a stack (MB)": [t * pair * 4 / 1e6 for t in tasks]}, index=tasks).round(0)

# %% [markdown]
# ## How is a checkpoint loaded?
#
# A folder or a name on the Hub. Qwen2.5-0.5B-Instruct has half a billion parameters and an open licence, and needs no log-in.
# Where that is not to be had we take the little base, saved as a checkpoint of our own as `save_pretrained` writes it.

# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
for part in mbf.load_model("tiny"):
    part.save_pretrained(folder / "checkpoint")

# %%
name = "Qwen/Qwen2.5-0.5B-Instruct" if torch.cuda.is_available() else folder / "checkpoint"
try:
    model, tokenizer = mbf.load_model(name)
except mbf.InputError as reason:                                    # no network
    print(reason)
    model, tokenizer = mbf.load_model(folder / "checkpoint")
large = model.num_parameters() > 1e8
print(f"{type(model).__name__}, {model.num_parameters() / 1e6:.1f} million parameters, {model.dtype}, {model.device}")

# %% [markdown]
# Two tasks: DBpedia and AG News from the Hub, put into the model's chat template; for the little base the same two of the offline
# world.

# %%
rows, order = 100 if FAST else 400, ["dbpedia", "agnews"]
if large:
    stream = mbf.load_stream("standard", order=order, limit=rows, prompts="chat")
else:
    stream = mbf.load_stream("world-5", order=order, limit=rows)
print(stream.names, stream[0].train[0].prompt[:80], stream[0].train[0].answers)

# %% [markdown]
# ## Where does LoRA sit?
#
# `targets` names modules. A name that the model does not have is refused with those that it has:

# %%
try:
    mbf.run_stream(stream[:1], model=(model, tokenizer), targets=("query_key_value",))
except mbf.InputError as error:
    print(error)

# %% [markdown]
# ## What are the papers' settings?
#
# Presets, each with its source and with what the source leaves open. `mbf run superni --preset slao-superni` takes one on the
# command line.

# %%
preset = mbf.presets.PRESETS["slao-superni"]
print(f"{preset.source}\nleft open: {preset.left_open}")
some = ["rank", "alpha", "lr", "epochs", "accumulation"]
pd.DataFrame({name: found.settings for name, found in mbf.presets.PRESETS.items()}).T[some]

# %% [markdown]
# They are made for large models; a little one wants fewer and larger steps. LoRA sits where the paper has it in both.
# `walk_stream` learns one task at each `next`.

# %%
settings = mbf.presets.settings("slao-standard") | dict(batch_size=8, accumulation=1)           # the same windows in fewer passes
if not large:
    settings |= dict(alpha=16, dropout=0.0, lr=2e-2, epochs=2, batch_size=16, accumulation=2)
walk = mbf.walk_stream(stream, "slao", (model, tokenizer), out=folder / "run", **settings)
run = next(walk)
run.matrix

# %% [markdown]
# ## What if the session ends here?
#
# The walk is thrown away after the first task. The same call finds its folder and goes on with the second; a task's result is
# written whole or not at all.

# %%
del walk
run = mbf.run_stream(stream, "slao", (model, tokenizer), out=folder / "run", **settings)
mbf.plots.matrix_heatmap(run.matrix)

# %% [markdown]
# ## Who can use the result?
#
# The adapter after each task is a PEFT folder. It loads without this package, and can be folded into the weights.

# %%
from peft import PeftModel

base = AutoModelForCausalLM.from_pretrained(model.name_or_path, dtype=model.dtype).to(model.device)
whole = PeftModel.from_pretrained(base, run.adapter(2)).merge_and_unload()
example = mbf.text.in_chat(stream, tokenizer)[1].test[0] if stream.chat else stream[1].test[0]
print(example.prompt, "->", example.answers)

# %% [markdown]
# The folded model writes, with nothing but transformers:

# %%
def say(model, tokenizer, prompt):
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=not stream.chat).to(model.device)
    written = model.generate(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], max_new_tokens=12, do_sample=False)
    return tokenizer.decode(written[0, ids["input_ids"].shape[1]:], skip_special_tokens=True).strip()

say(whole, tokenizer, example.prompt)

# %% [markdown]
# Saved as whole weights, it comes back as any checkpoint does; the adapter alone is a few kilobytes to megabytes and needs its
# base. The largest difference between the two in the logits is rounding:

# %%
whole.save_pretrained(folder / "whole")
tokenizer.save_pretrained(folder / "whole")
again = AutoModelForCausalLM.from_pretrained(folder / "whole", dtype=model.dtype).to(model.device)
worn = PeftModel.from_pretrained(base.from_pretrained(model.name_or_path, dtype=model.dtype).to(model.device), run.adapter(2))
ids = tokenizer(example.prompt, return_tensors="pt").to(model.device)["input_ids"]
with torch.no_grad():
    print(say(again, tokenizer, example.prompt), (again(input_ids=ids).logits - worn(input_ids=ids).logits).abs().max().item())

# %% [markdown]
# And it scores as the run did:

# %%
tasks = mbf.text.in_chat(stream, tokenizer) if stream.chat else stream
score = mbf.evaluation.evaluate(again, tokenizer, tasks[1])
pd.Series({"folded": score.exact, "in the run": run.matrix.iloc[1, 1]}, name="exact match")

# %% [markdown]
# To share it, log in and push; this cell is yours to run, with a name of your own:

# %% tags=["skip-execution"]
worn.push_to_hub("YOUR-NAME/my-slao-adapter")            # the adapter; whole.push_to_hub(...) pushes the weights

# %% [markdown]
# ## What if the training loop is not ours?
#
# Then `Continual` wears one adapter on a model and puts the method's steps into whatever loop trains it. Rows are
# transformers': numbers of tokens, and labels of -100 where no loss is wanted.

# %%
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

first, second = (mbf.checks.rows_of(tokenizer, task.train[:96]) for task in tasks)
held_out = {task.name: mbf.checks.rows_of(tokenizer, task.test[:48]) for task in tasks}
collate = DataCollatorForSeq2Seq(tokenizer)
collate(first[:2])["labels"]

# %% [markdown]
# ### How does transformers' Trainer learn a task?
#
# One callback more. The task begins with the Trainer and ends with its `train()`; then the model wears the method's result.

# %%
continual, rate = mbf.Continual(model, method="slao"), 1e-4 if large else 1e-2
arguments = TrainingArguments(folder / "trainer", learning_rate=rate, num_train_epochs=2, per_device_train_batch_size=16,
                              save_strategy="no", report_to=[], disable_tqdm=True)
trainer = Trainer(continual.model, arguments, train_dataset=first, data_collator=collate,
                  callbacks=[continual.callback("january", first)])
trainer.remove_callback(PrinterCallback)                            # it prints times
trainer.train()
continual

# %% [markdown]
# ### And a plain PyTorch loop the next one?
#
# One optimizer over `continual.parameters()`, made anew for every task, and the loss that the model returns:

# %%
batches = [collate(second[k:k + 16]).to(model.device) for k in range(0, len(second), 16)]
with continual.task("february", batches):
    optimizer = torch.optim.AdamW(continual.parameters(), lr=rate)
    for batch in batches * 2:
        continual.model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
continual

# %% [markdown]
# ### Is the newest adapter good enough to publish?
#
# The folder is a plain PEFT adapter, with the method's memory and earlier versions beside it; a later process goes on from it, on
# the same base. `check` scores held-out rows under each version: minus the loss, in nats a token.

# %%
adapter = continual.save(folder / "adapter")
continual = mbf.Continual.load(adapter, mbf.load_model(model.name_or_path, dtype=model.dtype)[0])
continual.check(held_out, max_drop=10)

# %% [markdown]
# A new task costs an old one something. Above `max_drop` the check is an error, so that a script stops before it publishes; here
# we go back instead.

# %%
try:
    continual.check(held_out, max_drop=0.2)
except mbf.errors.Worse as worse:
    print(worse)
    continual.rollback()
continual

# %% [markdown]
# ## GPU only: a Llama on the benchmark
#
# 4 bits for a small card: the base is read, never written, so merging does not touch it. These cells are skipped when the
# notebook is built; no number of them is claimed here.

# %% tags=["skip-execution"]
model = mbf.load_model("meta-llama/Llama-2-7b-chat-hf", quantize=4)             # asks for Meta's licence and a log-in
settings = mbf.presets.settings("slao-standard") | dict(checkpointing=True)
run = mbf.run_stream("standard:1", "slao", model, out="runs/llama-order-1", **settings)

# %% [markdown]
# What would the paper's table take? `mbf reproduce` lists its cells with an estimate of GPU hours each, runs those you name,
# resumably, and sets the result beside the paper's value and an independent replication's. The estimate scales the replication's
# one measured run by rows:

# %%
hours = mbf.reproduce.listed()
hours[hours["cell"].str.contains("/slao") & hours["cell"].str.startswith(("main", "orders"))].round(1)

# %% [markdown]
# And the two tasks above? By the same rule, and the peak speeds that NVIDIA states for half precision (T4 65, L4 121, A100 312
# teraflops). A small model does not reach them, so these minutes are a lower bound, *not measured*:

# %%
work = sum(3 * len(task.train) for task in stream) + len(stream[0].test) * 2 + len(stream[1].test)          # in scored rows
share = work / mbf.reproduce.work("superni", "O1", "slao") * mbf.reproduce.HOURS["Llama-2-7B-chat"] * 60
speeds = {"T4": 65, "L4": 121, "A100": 312}
pd.DataFrame({size: {card: share * billions / 6.74 * 312 / speed for card, speed in speeds.items()}
              for size, billions in {"0.5 billion": 0.49, "7 billion": 6.74}.items()}).round(1).rename_axis("minutes")

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
# - `Continual` brings the method into a loop of your own, and checks an adapter before it is published.
# - A run goes on where it stopped, and what it gives is a plain PEFT adapter, or whole weights.
# - The papers' settings have names; so have the cells of the paper's tables, with what each would cost.
# - What a small model shows is the machinery, not the level of a large one.
#
# Next: [12_results](12_results.ipynb) has every number that was measured.
