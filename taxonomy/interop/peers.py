"""One contender of a benchmark in a process of its own: our training step or transformers', on the same shape.

    python -m taxonomy.interop.peers gpt2 ours | eager | compiled

It prints one JSON line when it is warm, then for every line "train N" that it reads, the seconds that N steps took.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

BATCH, CONTEXT, VOCAB, LAYERS, D_MODEL, HEADS = 8, 256, 8192, 6, 384, 6
KV_HEADS, D_FF = 2, 1024  # of the llama shape
SHAPES = {
    "gpt2": {"model.attention": f"mha(heads={HEADS}, bias=True)"},
    "llama": {"model.attention": f"gqa(heads={HEADS}, kv_heads={KV_HEADS})", "model.mlp": f"swiglu(d_ff={D_FF})"},
}
CONTENDERS = ("ours", "eager", "compiled")


def our_config(family: str, layers: int = LAYERS):
    """The shape as one of our configs."""
    from taxonomy.config import load_config

    scalars = {"model.vocab": VOCAB, "model.d_model": D_MODEL, "model.context": CONTEXT, "model.decoder": f"{layers}*block"}
    return load_config(f"{family}:tiny", {**scalars, **SHAPES[family], "train.batch_tokens": BATCH * CONTEXT})


def our_step(family: str, layers: int = LAYERS, scan: bool = False) -> Callable[[], float]:
    """A function that takes one training step and returns its loss."""
    import jax
    import numpy as np

    from taxonomy import registry, sharding
    from taxonomy.model import build
    from taxonomy.training.process import tune_allocator
    from taxonomy.training.step import Trainer

    tune_allocator()
    optimizer = registry.create("optimizer", "adamw(weight_decay=0.1)", "bench")
    mesh = sharding.make_mesh("data:1", jax.devices()[:1])
    trainer = Trainer(build(our_config(family, layers).model, scan=scan), optimizer, mesh)
    tokens = np.random.default_rng(0).integers(0, VOCAB, (BATCH, CONTEXT)).astype(np.int32)
    place = np.tile(np.arange(CONTEXT, dtype=np.int32), (BATCH, 1))
    batch = {"tokens": tokens, "targets": np.roll(tokens, -1, 1), "positions": place, "segments": np.ones_like(tokens)}
    batch, state = trainer.put(batch), trainer.init(0)

    def step() -> float:
        nonlocal state
        state, metrics = trainer.step(state, batch, 1e-3)
        return float(metrics["loss"])

    return step


def torch_step(family: str, compiled: bool) -> Callable[[], float]:
    """The same step of transformers' model: cross-entropy, clipping, AdamW (fused where PEER_FUSED is set)."""
    import torch
    import transformers

    shape = dict(vocab_size=VOCAB, use_cache=False, bos_token_id=0, eos_token_id=0)
    if family == "gpt2":
        drop = dict(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
        config = transformers.GPT2Config(n_positions=CONTEXT, n_embd=D_MODEL, n_layer=LAYERS, n_head=HEADS, **drop, **shape)
        model = transformers.GPT2LMHeadModel(config)
    else:
        sizes = dict(hidden_size=D_MODEL, intermediate_size=D_FF, num_hidden_layers=LAYERS)
        heads = dict(num_attention_heads=HEADS, num_key_value_heads=KV_HEADS)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, **shape))
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model.train()
    forward = torch.compile(model) if compiled else model
    fused = {"fused": True} if os.environ.get("PEER_FUSED") else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, **fused)
    tokens = torch.randint(0, VOCAB, (BATCH, CONTEXT))
    targets = tokens.roll(-1, 1).view(-1)

    def step() -> float:
        logits = forward(input_ids=tokens).logits
        loss = torch.nn.functional.cross_entropy(logits.view(-1, VOCAB), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def serve(steps: dict[str, Callable[[], Any]], started: float) -> None:
    """Takes every kind of step twice, then as many as the lines read say, each "KIND NUMBER"; prints as said above."""
    for step in steps.values():
        step()
    ready = time.perf_counter() - started
    for step in steps.values():
        step()
    print(json.dumps({"ready": ready}), flush=True)
    for line in sys.stdin:
        kind, number = line.split()
        before = time.perf_counter()
        for _ in range(int(number)):
            steps[kind]()
        print(time.perf_counter() - before, flush=True)


def main(family: str, contender: str) -> None:
    started = time.perf_counter()
    step = our_step(family) if contender == "ours" else torch_step(family, contender == "compiled")
    serve({"train": step}, started)


if __name__ == "__main__":
    main(*sys.argv[1:3])
