"""One contender of the benchmark of experts in a process of its own: our layer or transformers', on the same shape.

    python -m taxonomy.interop.expert_peers TOKENS EXPERTS blocks | ragged | CAPACITY | eager

A step is "forward", or "train": forward and backward. See `peers` for what it reads and prints.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from taxonomy.interop.peers import serve

D_MODEL, D_FF, TOP_K, TIME = 256, 512, 2, 256


def our_steps(tokens: int, experts: int, how: str) -> dict[str, Callable[[], Any]]:
    """Steps of our layer, by an implementation without a capacity, or with that capacity."""
    import jax
    import jax.numpy as jnp

    from taxonomy import registry, spec
    from taxonomy.layers.context import Context
    from taxonomy.layers.params import Declared
    from taxonomy.training.process import tune_allocator

    tune_allocator()
    capacity = None if how in ("blocks", "ragged") else float(how)
    sentence = (
        f"moe(experts={experts}, top_k={TOP_K}, router=softmax(renormalize=True), expert=swiglu(d_ff={D_FF}), capacity={capacity})"
    )
    scope = spec.Scope("bench", {"d_model": D_MODEL}, {"initializer": "normal(std=0.02)"})
    module = registry.instantiate(spec.resolve(sentence, ("feedforward",), scope))
    x_BTD = jax.random.normal(jax.random.key(0), (tokens // TIME, TIME, D_MODEL))
    context = Context(jnp.tile(jnp.arange(TIME), (tokens // TIME, 1)), experts=how if capacity is None else "auto")
    boxes = module.init(jax.random.key(1), x_BTD, context)["params"]
    params = jax.tree.map(lambda box: box.value, boxes, is_leaf=lambda leaf: isinstance(leaf, Declared))

    def forward(params, x_BTD):
        return module.apply({"params": params}, x_BTD, context)

    once, gradients = jax.jit(forward), jax.jit(jax.grad(lambda *inputs: jnp.sum(forward(*inputs) ** 2), argnums=(0, 1)))
    return {
        "forward": lambda: jax.block_until_ready(once(params, x_BTD)),
        "train": lambda: jax.block_until_ready(gradients(params, x_BTD)),
    }


def torch_steps(tokens: int, experts: int) -> dict[str, Callable[[], Any]]:
    """Steps of transformers' eager layer."""
    import torch
    from transformers.models.mixtral import modeling_mixtral

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sizes = dict(hidden_size=D_MODEL, intermediate_size=D_FF, num_local_experts=experts, num_experts_per_tok=TOP_K)
    config = modeling_mixtral.MixtralConfig(**sizes)
    config._experts_implementation = "eager"
    layer = modeling_mixtral.MixtralSparseMoeBlock(config)
    for value in layer.parameters():
        torch.nn.init.normal_(value, std=0.02)
    x = torch.randn(tokens // TIME, TIME, D_MODEL, requires_grad=True)

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    def train() -> None:
        layer(x).square().sum().backward()
        layer.zero_grad(set_to_none=True)
        x.grad = None

    return {"forward": forward, "train": train}


def main(tokens: str, experts: str, how: str) -> None:
    started = time.perf_counter()
    sizes = int(tokens), int(experts)
    serve(torch_steps(*sizes) if how == "eager" else our_steps(*sizes, how), started)


if __name__ == "__main__":
    main(*sys.argv[1:4])
