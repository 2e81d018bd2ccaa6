# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Taxonomy in ten minutes
#
# Build two published systems, compare them, swap an idea, train a small model for a minute, and read what it writes. Nothing is
# downloaded: the text is the Python standard library of this machine.

# %% [markdown]
# ## Install
# On Colab, clone the repository first (`!git clone ...`, `%cd taxonomy`). Where the package is already installed this does nothing.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("taxonomy") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", "."], check=True)

# %% [markdown]
# ## What is this machine?

# %%
import jax

from taxonomy.training import metrics, process

process.tune_allocator()
print(f"jax {jax.__version__}, {jax.device_count()} x {jax.devices()[0].device_kind}, {metrics.short(metrics.peak_flops())}FLOP/s")

# %% [markdown]
# ## An architecture is a sentence
# A system is a page of data. Here are two of them, without a line of code of their own.

# %%
import taxonomy

gptj, llama = taxonomy.load_config("gptj:6b"), taxonomy.load_config("llama:3-8b")
for key in ("norm", "position", "attention", "mlp", "decoder", "head"):
    print(f"{key:10} {gptj.model[key]:42} {llama.model[key]}")
for config in (gptj, llama):
    cost = taxonomy.count(config.model)
    print(f"{config.name:12} {cost.parameters:>14,} parameters   {metrics.short(cost.flops_per_token)} FLOPs per token   ", end="")
    print(f"{cost.kv_cache_bytes_per_token:,} bytes of cache per token")

# %% [markdown]
# ## Build both, small
# Every page has a size `tiny`, with the same components. The model is a Flax module; parameters are a plain tree.

# %%
for name in ("gptj:tiny", "llama:tiny"):
    config = taxonomy.load_config(name)
    model = taxonomy.build(config.model)
    batch = taxonomy.example_batch(config)
    params = model.init(jax.random.key(0), **batch)["params"]
    logits = model.apply({"params": params}, **batch)
    print(f"{name:12} logits {logits.shape}")
    print(f"             {model.spec.block('block')}"[:130])

# %% [markdown]
# ## Swap one idea
# One key changes it everywhere.

# %%
alibi = taxonomy.load_config("llama:tiny", overrides={"model.position": "alibi"})
print(taxonomy.build(alibi.model).spec.block("block")["sublayers"][0]["position"])

# %% [markdown]
# ## Train for a minute
# Two runs that differ in one sentence. `TAXONOMY_MAX_STEPS` shortens them.

# %%
import os
import pathlib
import tempfile

steps = int(os.environ.get("TAXONOMY_MAX_STEPS", 150))
folder = pathlib.Path(tempfile.mkdtemp())
runs = {}
for position in ("rope", "alibi"):
    config = taxonomy.load_config(
        "llama:tiny",
        overrides={
            "model.position": position,
            "model.d_model": 128,
            "model.vocab": 1024,
            "train.steps": steps,
            "train.log_every": 5,
        },
    )
    runs[position] = taxonomy.train(config, folder / position)

# %% [markdown]
# ## Look

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for position in runs:
    lines = metrics.read(folder / position)
    axes.plot([line["tokens_seen"] for line in lines], [line["loss"] for line in lines], label=position)
axes.set(xlabel="tokens", ylabel="loss (nats per token)")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Sample

# %%
config, params = taxonomy.restore(folder / "rope")
tokenizer, prompts = taxonomy.tokenizer(folder / "rope"), ["def read_", "import "]
texts = taxonomy.generate(config, params, prompts, tokenizer=tokenizer, max_new_tokens=32, sampler="top_p(0.9)")
for prompt, text in zip(prompts, texts):
    print(prompt + text, "\n---")

# %% [markdown]
# Next: `python -m taxonomy.describe --list` shows every system and every component; `configs/quickstart.py` is a model that beats
# gzip in minutes.
