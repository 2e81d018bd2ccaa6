"""Rows that share slots say what each would say alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import registry, spec
from taxonomy.errors import UserError
from taxonomy.inference import decode, mixed
from taxonomy.inference.samplers import Counts
from taxonomy.inference.slots import Row, Slots

PROMPTS = [[5, 6, 7], list(range(20, 41)), [9], list(range(50, 66)), [5, 6, 7], [11, 12]]
LENGTHS = [12, 5, 16, 9, 3, 14]


def said(slots, rows, tokens=3, until_free=True):
    """What each row says when they come one after another and each takes the first slot that is free."""
    waiting, where, texts = list(enumerate(rows)), {}, [[] for _ in rows]
    while waiting or where:
        while waiting and slots.free:
            i, row = waiting.pop(0)
            where[slots.place(row)] = i
        for slot, written in slots.advance(tokens, until_free).items():
            texts[where[slot]] += written.tokens
            if written.ended:
                del where[slot]
    return texts


def rows_of(one):
    """Greedy ones, which differ in length; of an encoder beside, the prompts are what that reads."""
    beside = len(one.spec.stacks) > 1
    inputs = [tuple(prompt) if beside else None for prompt in PROMPTS]
    prompts = [(3,) if beside else tuple(prompt) for prompt in PROMPTS]
    return [Row(*row, drawing={"temperature": 0.0}) for row in zip(prompts, LENGTHS, inputs, strict=True)]


def alone(one, rows):
    inputs = None if rows[0].inputs is None else [row.inputs for row in rows]
    found = decode.generate_tokens(one.spec, one.params, [row.tokens for row in rows], inputs=inputs, max_new_tokens=16)
    return [tokens[: row.max_new_tokens] for tokens, row in zip(found, rows, strict=True)]


# Caches that are full, that roll, of latents, of an encoder beside, of tracks side by side.
@pytest.mark.parametrize("name", ["mistral", "deepseek_v3", "t5", "afm_server"])
def test_greedy_rows_are_those_of_unbatched_decoding(name, tiny):
    """Ragged prompts, one longer than a window, more rows than slots."""
    one = tiny(name)
    slots, rows = Slots(one.spec, one.params, slots=3, max_length=48, piece=16), rows_of(one)
    assert said(slots, rows) == alone(one, rows)
    assert slots.free == 3
