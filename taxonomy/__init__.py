"""The transformer literature as one JAX/Flax codebase: the public interface.

config = taxonomy.load_config("llama:3-8b", overrides={"model.position": "alibi"})
model = taxonomy.build(config.model)                                   # a Flax module
params = model.init(jax.random.key(0), **taxonomy.example_batch(config))["params"]
logits = model.apply({"params": params}, tokens)                       # (batch, time, vocab)
config, params = taxonomy.restore("runs/quickstart")                   # the newest good checkpoint of a workdir
config, params = taxonomy.from_hf("path/to/checkpoint")                # a directory in Hugging Face layout
texts = taxonomy.generate(config, params, ["def read_"], tokenizer=taxonomy.tokenizer("runs/quickstart"))
"""

import importlib

_PUBLIC = {
    "load_config": ("taxonomy.config", "load_config"),
    "families": ("taxonomy.config", "families"),
    "build": ("taxonomy.model", "build"),
    "example_batch": ("taxonomy.model", "example_batch"),
    "count": ("taxonomy.scaling.accounting", "count"),
    "train": ("taxonomy.training.loop", "train"),
    "restore": ("taxonomy.training.checkpoints", "restore_params"),
    "tokenizer": ("taxonomy.training.checkpoints", "restore_tokenizer"),
    "generate": ("taxonomy.inference.decode", "generate"),
    "from_hf": ("taxonomy.interop.engine", "from_hf"),
    "to_hf": ("taxonomy.interop.engine", "to_hf"),
}
__all__ = list(_PUBLIC)


def __getattr__(name: str):
    # Imported on first use: `import taxonomy` and `--help` stay quick.
    if name not in _PUBLIC:
        raise AttributeError(f"module 'taxonomy' has no attribute '{name}'")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
