"""One contender of the benchmark of experts in a process of its own: our layer or transformers', on the same shape.

    python -m taxonomy.interop.expert_peers TOKENS EXPERTS blocks | ragged | CAPACITY | einsum | eager

A step is "forward", or "train": forward and backward. See `peers` for what it reads and prints.
"""

import math
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

    return _jitted(forward, params, x_BTD)


def einsum_steps(tokens: int, experts: int, capacity: float = 1.25) -> dict[str, Callable[[], Any]]:
    """Steps of the same layer, dispatched by products with one-hot tensors: Lepikhin et al. 2020, arXiv:2006.16668, algorithm 1."""
    import jax
    import jax.numpy as jnp

    slots = math.ceil(TIME * TOP_K * capacity / experts)
    keys = jax.random.split(jax.random.key(0), 5)
    x_BTD = jax.random.normal(keys[0], (tokens // TIME, TIME, D_MODEL))
    shapes = (D_MODEL, experts), (experts, D_MODEL, D_FF), (experts, D_MODEL, D_FF), (experts, D_FF, D_MODEL)
    params = [0.02 * jax.random.normal(key, shape) for key, shape in zip(keys[1:], shapes, strict=True)]

    def forward(params, x_BTD):
        router_DE, gate_EDF, up_EDF, down_EFD = params
        weights_BTC, experts_BTC = jax.lax.top_k(jax.nn.softmax(x_BTD @ router_DE), TOP_K)
        weights_BTC = weights_BTC / weights_BTC.sum(-1, keepdims=True)
        chosen_BTCE = jax.nn.one_hot(experts_BTC, experts)
        flat = chosen_BTCE.reshape(x_BTD.shape[0], -1, experts)
        place_BTC = jnp.sum((jnp.cumsum(flat, 1) - flat) * flat, -1).reshape(weights_BTC.shape)
        one_hot_BTCS = jax.nn.one_hot(place_BTC, slots)  # zeros beyond the last slot
        combine_BTES = jnp.einsum("btc,btce,btcs->btes", weights_BTC, chosen_BTCE, one_hot_BTCS)
        rows = jnp.einsum("btes,btd->ebsd", (combine_BTES > 0).astype(x_BTD.dtype), x_BTD).reshape(experts, -1, D_MODEL)
        y = (jax.nn.silu(rows @ gate_EDF) * (rows @ up_EDF)) @ down_EFD
        return jnp.einsum("btes,ebsd->btd", combine_BTES, y.reshape(experts, -1, slots, D_MODEL))

    return _jitted(forward, params, x_BTD)


def _jitted(forward: Callable, params: Any, x_BTD: Any) -> dict[str, Callable[[], Any]]:
    import jax
    import jax.numpy as jnp

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
    others = {"eager": torch_steps, "einsum": einsum_steps}
    serve(others[how](*sizes) if how in others else our_steps(*sizes, how), started)


if __name__ == "__main__":
    main(*sys.argv[1:4])
