"""Drafts by the modules that predict further ahead, which a model was trained with."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import meta

from taxonomy import model as model_lib
from taxonomy import spec
from taxonomy.ahead import PREFIX, later
from taxonomy.errors import UserError
from taxonomy.inference import steps
from taxonomy.inference.drafts import Asked, Draft, Proposal, Proposer, Rows, drawn
from taxonomy.inference.samplers import Sampler
from taxonomy.inference.steps import Program
from taxonomy.layers.cache import forgotten
from taxonomy.registry import component


@component("ahead", kind="draft", paper="DeepSeek-AI 2024, arXiv:2412.19437, sections 2.2 and 5.4.3")
@dataclasses.dataclass(frozen=True)
class AheadDraft(Draft):
    """Tokens that the modules of `model.ahead` draw one after another as the sampler says, each module one; by default all do.

    The module of depth m reads what the module before it read, and the token m places on, where tokens are draft ones at the end.
    """

    tokens: int | None = None

    def check(self) -> None:
        if self.tokens is not None:
            super().check()

    def ready(self, model: spec.Model, params: Mapping[str, Any]) -> Draft:
        if model.ahead is None or f"{PREFIX}1" not in params:
            raise UserError("speculate: ahead needs a model trained with modules that predict further ahead (model.ahead)")
        tokens = len(model.ahead) if self.tokens is None else self.tokens
        if tokens > len(model.ahead):
            raise UserError(f"speculate: ahead(tokens={tokens}), but the model has {len(model.ahead)} modules for a token each")
        return dataclasses.replace(self, tokens=tokens)

    def begin(self, asked: Asked) -> tuple[Proposer, Any, Any]:
        (model, params), target = asked.given, asked.program
        own = {name: value for name, value in meta.unbox(params).items() if name.startswith(PREFIX)}
        whole = dataclasses.replace(target.model, ahead=model.ahead, ahead_norm=model.ahead_norm)
        program = dataclasses.replace(target, model=whole, spare=2 * self.tokens)
        proposer = _Proposer(program, self.tokens)
        x_BTD = _features(target, asked.params, asked.tokens_BT[:: asked.copies], asked.positions_BT[:: asked.copies])
        params = {**asked.unrolled, **steps.cast(own, whole, target.dtype)}
        memory = _remembered(proposer, params, jnp.repeat(x_BTD, asked.copies, axis=0), asked.tokens_BT, asked.positions_BT)
        return proposer, params, memory


@functools.partial(jax.jit, static_argnums=0)
def _features(program: Program, params, tokens_BT, positions_BT):
    """What the head reads after every token of the prompts."""
    model = model_lib.build(program.model, dtype=program.dtype)
    return model.apply({"params": params}, tokens_BT, positions_BT, method="features")


@functools.partial(jax.jit, static_argnums=0)
def _remembered(proposer: "_Proposer", params, x_BTD, tokens_BT, positions_BT):
    """The memory after prompts."""
    lengths_B, window, cache, read_BTD = positions_BT.max(1) + 1, proposer.window, {}, x_BTD
    for depth in range(1, proposer.tokens + 1):
        # Places whose token so many places on is known.
        places_BT = jnp.where(positions_BT + depth < lengths_B[:, None], positions_BT, -1)
        (_, read_BTD), cache = proposer.read(params, cache, depth, read_BTD, later(tokens_BT, depth), places_BT)
    x_BWD = _taken(jnp.pad(x_BTD, ((0, 0), (window, 0), (0, 0))), lengths_B[:, None] + jnp.arange(window))
    return {"cache": cache, "x_BWD": x_BWD}


@dataclasses.dataclass(frozen=True)
class _Proposer:
    """Its memory: caches of the modules, and what the head read at the places before the last token, `window` of them.

    What a module says at a place is final when all tokens that it knows of are. At every proposal the last `window` places are read
    again: those are more than the ones that were not final at the last one.
    """

    program: Program
    tokens: int

    @property
    def window(self) -> int:
        return 2 * self.tokens

    def propose(self, sampler: Sampler, params: Any, memory: Any, rows: Rows) -> tuple[Proposal, Any]:
        before_BW = rows.known_B[:, None] - 1 - self.window + jnp.arange(self.window)
        cache, x_BWD = forgotten(memory["cache"], before_BW[:, 0] - 1), memory["x_BWD"]
        text_BT, said = rows.token(before_BW + 1), []
        for depth in range(1, self.tokens + 1):
            places_BW = jnp.where((before_BW >= 0) & (rows.left_B[:, None] > depth), before_BW, -1)
            read_BW = text_BT[:, depth - 1 :]
            (logits_BV, x_BWD), cache = self.read(params, cache, depth, x_BWD, read_BW, places_BW)
            token_B, chances_BV, rows = drawn(sampler, rows, depth - 1, logits_BV[:, : self.program.vocab_size])
            text_BT = jnp.concatenate([text_BT, token_B[:, None]], axis=1)
            said.append((token_B, chances_BV))
        tokens_BK, chances_BKV = (jnp.stack(one, axis=1) for one in zip(*said, strict=True))
        count_B = jnp.full_like(rows.known_B, self.tokens)
        return Proposal(tokens_BK, count_B, chances_BKV), {**memory, "cache": cache}

    def settle(self, memory: Any, rows: Rows, kept_B: jax.Array, x_BTD: jax.Array) -> Any:
        both_BTD = jnp.concatenate([memory["x_BWD"], x_BTD], axis=1)
        return {**memory, "x_BWD": _taken(both_BTD, kept_B[:, None] + 1 + jnp.arange(self.window))}

    def read(self, params, cache, depth: int, x_BTD, tokens_BT, places_BT):
        """What the module of a depth says and what the head read for that, see `Transformer.following_ahead`, and the caches."""
        program = self.program
        model = model_lib.build(program.model, dtype=program.dtype, spare=program.spare, scan=False)
        options = {"method": "following_ahead", "mutable": ["cache"], "cache": program.cache}
        variables = {"params": params, "cache": cache}
        said, new = model.apply(variables, depth, x_BTD, tokens_BT, places_BT, program.cache_length, **options)
        return said, {**cache, **new["cache"]}


def _taken(x_BTD: jax.Array, places_BW: jax.Array) -> jax.Array:
    """What stands at these places of each row, (B, W, D)."""
    return jnp.take_along_axis(x_BTD, places_BW[:, :, None], axis=1)
