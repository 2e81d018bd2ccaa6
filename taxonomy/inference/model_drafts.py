"""Drafts by another model, a smaller one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from taxonomy import spec
from taxonomy.data.tokenizers import Tokenizer
from taxonomy.errors import NoCheckpoint, UserError
from taxonomy.inference import prompts as prompts_lib
from taxonomy.inference import steps
from taxonomy.inference.drafts import Asked, Draft, Proposal, Proposer, Rows, drawn
from taxonomy.inference.samplers import Sampler
from taxonomy.inference.steps import Program
from taxonomy.layers.cache import forgotten
from taxonomy.registry import component


@dataclasses.dataclass(frozen=True, eq=False)
class ModelDraft(Draft):
    """Tokens that a model draws one after another as the sampler says; it reads tokens as the model that checks does.

    `params` are in the scanned or the unrolled layout.
    """

    model: spec.Model
    params: Mapping[str, Any]

    def begin(self, asked: Asked) -> tuple[Proposer, Any, Any]:
        target, inputs = asked.program, asked.inputs
        try:
            prompts_lib.check(self.model, asked.prompts, inputs, asked.max_new_tokens, target.vocab_size)
        except UserError as error:
            raise UserError(f"speculate: its model cannot draft this: {error}") from None
        model, params = steps.ready(self.model, self.params)
        how = asked.copies, asked.room, target.vocab_size, target.dtype, asked.piece, target.cache, self.tokens
        program, _, cache, _, positions_BT = steps.read(model, params, asked.prompts, inputs, *how)
        memory = {"cache": cache, "read_B": jnp.asarray(positions_BT.max(1) + 1)}
        return _Proposer(program, self.tokens), steps.unrolled(program, params), memory


@component("draft", kind="draft", paper="Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318")
@dataclasses.dataclass(frozen=True)
class WorkdirDraft(Draft):
    """Tokens that the model of a workdir draws one after another as the sampler says; it has to have the same tokenizer."""

    workdir: str

    def ready(self, model: spec.Model, params: Mapping[str, Any]) -> Draft:
        from taxonomy.training import checkpoints

        try:
            config, params = checkpoints.restore_params(self.workdir)
        except NoCheckpoint as error:
            raise type(error)(f"speculate: {error}") from None
        return ModelDraft(spec.model(config.model), params, tokens=self.tokens)

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        from taxonomy.training import checkpoints

        if not checkpoints.has_tokenizer(self.workdir):
            return
        # Not their files, which may say the same in other words.
        own, others = checkpoints.restore_tokenizer(self.workdir).pieces(), tokenizer.pieces()
        if own and others and any(one != other for one, other in zip(own, others, strict=False)):
            raise UserError(f"speculate: {self.workdir} has another tokenizer than the model; a draft needs the same")


@dataclasses.dataclass(frozen=True)
class _Proposer:
    """Its memory: the cache, in which the first read_B tokens of each row are. The last two may be missing."""

    program: Program
    tokens: int

    def propose(self, sampler: Sampler, params: Any, memory: Any, rows: Rows) -> tuple[Proposal, Any]:
        last_B = rows.known_B - 1
        places_B2 = memory["read_B"][:, None] + jnp.arange(2)
        places_B2 = jnp.where((places_B2 <= last_B[:, None]) & (rows.left_B[:, None] > 1), places_B2, -1)
        logits_BV, cache = steps.forward(self.program, params, memory["cache"], rows.token(places_B2), places_B2)

        def draw(rows: Rows, logits_BV, number):
            token_B, chances_BV, rows = drawn(sampler, rows, number, logits_BV[:, : self.program.vocab_size])
            return rows, (token_B, chances_BV)

        def one_more(carried, number):
            rows, cache, logits_BV = carried
            rows, said = draw(rows, logits_BV, number)
            place_B = jnp.where(rows.left_B > number + 2, last_B + number + 1, -1)
            logits_BV, cache = steps.forward(self.program, params, cache, said[0][:, None], place_B[:, None])
            return (rows, cache, logits_BV), said

        (rows, cache, logits_BV), before = jax.lax.scan(one_more, (rows, cache, logits_BV), jnp.arange(self.tokens - 1))
        _, final = draw(rows, logits_BV, self.tokens - 1)
        tokens_KB, chances_KBV = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), before, final)
        count_B = jnp.full_like(last_B, self.tokens)
        return Proposal(tokens_KB.T, count_B, chances_KBV.swapaxes(0, 1)), {**memory, "cache": cache}

    def settle(self, memory: Any, rows: Rows, kept_B: jax.Array, x_BTD: jax.Array) -> Any:
        # The last proposed token was not read.
        read_B = rows.known_B + jnp.minimum(kept_B, self.tokens - 1)
        return {"cache": forgotten(memory["cache"], read_B - 1), "read_B": read_B}
