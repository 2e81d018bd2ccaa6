"""One contender of the benchmark of decoding in a process of its own: our generation or transformers', on the same shape.

    python -m taxonomy.interop.decode_peers SIZE BATCH PROMPT NEW float32 | bfloat16 | transformers | memory

A step of "decode" reads BATCH prompts of PROMPT tokens and writes NEW tokens after each, greedily, from the prompts to the tokens.
Weights are random, each contender's own. On a GPU transformers has a static cache and compiles its step. "memory" reads BYTES of
memory in a step of "read". See `peers` for what it reads and prints.
"""

import concurrent.futures
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from taxonomy.interop.peers import serve

BYTES = 1 << 29


def our_config(size: str):
    """The shape as one of our configs."""
    from taxonomy.config import load_config

    return load_config(f"gpt2:{size}")


def our_step(size: str, batch: int, prompt: int, new: int, dtype: str) -> Callable[[], list[list[int]]]:
    """A function that generates, and returns the tokens of each row."""
    import jax
    import numpy as np
    from flax.core import meta

    from taxonomy import model as model_lib
    from taxonomy import spec
    from taxonomy.inference.decode import generate_tokens

    model = spec.model(our_config(size).model)
    module = model_lib.build(model)
    params = meta.unbox(jax.jit(lambda key: module.init(key, **model_lib.blank(model)))(jax.random.key(0))["params"])
    prompts = np.random.default_rng(0).integers(0, model.vocab, (batch, prompt)).tolist()
    return lambda: generate_tokens(model, params, prompts, max_new_tokens=new, dtype=dtype)


def torch_step(size: str, batch: int, prompt: int, new: int) -> Callable[[], Any]:
    """The same by transformers' `generate`, in float32; returns prompts and tokens (batch, prompt + new)."""
    import torch
    import transformers

    from taxonomy.configs import gpt2

    model = our_config(size).model
    layers, d_model, heads = gpt2.SIZES[size]
    shape = dict(vocab_size=model.vocab, n_positions=model.context, n_embd=d_model, n_layer=layers, n_head=heads)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peer = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval().to(device)
    tokens = torch.randint(1, model.vocab, (batch, prompt), device=device)
    how = dict(attention_mask=torch.ones_like(tokens), max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
    if device == "cuda":
        how["cache_implementation"] = "static"
    return lambda: peer.generate(tokens, **how).cpu()


def memory_step() -> Callable[[], Any]:
    """Reads as much memory as BYTES says: on CPU with a thread for each core, and on a GPU its own."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    if jax.default_backend() == "gpu":
        numbers, highest = jnp.ones(BYTES // 4), jax.jit(jnp.max)
        return lambda: highest(numbers).block_until_ready()
    threads = len(os.sched_getaffinity(0))
    parts, pool = np.split(np.ones(BYTES // 4, np.float32), threads), concurrent.futures.ThreadPoolExecutor(threads)
    return lambda: list(pool.map(np.max, parts))


def main(size: str, batch: str, prompt: str, new: str, contender: str) -> None:
    started = time.perf_counter()
    if contender == "memory":
        return serve({"read": memory_step()}, started)
    shape = size, int(batch), int(prompt), int(new)
    serve({"decode": torch_step(*shape) if contender == "transformers" else our_step(*shape, contender)}, started)


if __name__ == "__main__":
    main(*sys.argv[1:6])
