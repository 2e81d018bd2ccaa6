"""Rows that share slots say what each would say alone."""

import dataclasses
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import config as config_lib
from taxonomy import model as model_lib
from taxonomy import registry, spec
from taxonomy.data.tokenizers import BytesTokenizer
from taxonomy.errors import UserError
from taxonomy.inference import completions, decode, mixed
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
        slots.read()
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


def alone(one, rows, **how):
    inputs = None if rows[0].inputs is None else [row.inputs for row in rows]
    found = decode.generate_tokens(one.spec, one.params, [row.tokens for row in rows], inputs=inputs, max_new_tokens=16, **how)
    return [tokens[: row.max_new_tokens] for tokens, row in zip(found, rows, strict=True)]


class Small(NamedTuple):
    spec: spec.Model
    params: Any


# Caches that roll, of latents, of an encoder beside, of tracks side by side (which also are full); one layer of each is enough.
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mistral", {"decoder": "block"}),
        ("deepseek_v3", {"decoder": "dense"}),
        ("t5", {"encoder": "reading", "decoder": "writing"}),
        ("afm_server", {"blocks.block": "tracks(pre(attention, dense), pre(full_attention, dense), count=2)", "moe": None}),
    ],
)
def test_greedy_rows_are_those_of_unbatched_decoding(name, changes, random_params):
    """Ragged prompts, one read in pieces, windows that are passed, more rows than slots."""
    parsed = spec.model(config_lib.load_config(f"{name}:tiny", {f"model.{key}": value for key, value in changes.items()}).model)
    one = Small(parsed, random_params(model_lib.build(parsed), **model_lib.blank(parsed, time=8)))
    slots, rows = Slots(one.spec, one.params, slots=3, max_length=48, piece=16), rows_of(one)
    assert said(slots, rows) == alone(one, rows)
    assert slots.free == 3


# What follows is about rows and not the model, so one small model does.
ASKED = [
    ("greedy", {"temperature": 0.0}),
    ("chain(frequency(1.5), presence(0.5), top_k(40, temperature=5.0))", {"frequency": 1.5, "presence": 0.5, "top_k": 40}),
    ("chain(logit_bias((7, 8), (4.0, -3.0)), top_p(0.9, temperature=5.0))", {"bias": {7: 4.0, 8: -3.0}, "top_p": 0.9}),
]


def test_drawn_rows_are_those_of_unbatched_decoding(tiny):
    """Each with its own numbers and seed, whoever its neighbours are; stop tokens are its own too."""
    one = tiny("llama")
    how = {"max_new_tokens": 16, "vocab_size": 200}
    expected, rows = [], []
    for seed, (sampler, drawing) in enumerate(ASKED):
        stop = (int(seed * 31 + 5), 60 + seed)
        expected += decode.generate_tokens(
            one.spec, one.params, [PROMPTS[0]], sampler=sampler, seed=seed, stop_token=np.array([*stop, -1, -1]), **how
        )
        rows.append(Row(tuple(PROMPTS[0]), 16, stop_tokens=stop, seed=seed, drawing={"temperature": 5.0, **drawing}))
    slots = Slots(one.spec, one.params, slots=2, max_length=40, vocab_size=200)
    assert said(slots, rows) == expected
    assert said(slots, rows[::-1], tokens=8, until_free=False) == expected[::-1]
    copies = said(slots, [dataclasses.replace(rows[1], copy=copy) for copy in (0, 1, 2)])
    assert copies[0] == expected[1] and len(set(map(tuple, copies))) == 3


def test_a_slot_is_free_at_once_when_its_row_is_ended(tiny):
    one = tiny("llama")
    slots, rows = Slots(one.spec, one.params, slots=2, max_length=40, vocab_size=200), rows_of(one)
    first, second = slots.place(rows[0]), slots.place(rows[1])
    slots.read()
    before = slots.advance(2)[second].tokens
    slots.end(first)
    assert slots.free == 1
    assert slots.place(rows[2]) == first
    slots.read()
    found = slots.advance(8)
    expected = alone(one, rows[1:3], vocab_size=200)
    assert [before + found[second].tokens, found[first].tokens] == [expected[0], expected[1][:8]]
    assert found[second].ended == "length" and found[first].ended is None and slots.free == 1


def test_numbers_of_rows_are_those_of_samplers():
    """Logits with ties, and some ruled out; the neighbours of a row ask for something else."""
    generator = np.random.default_rng(0)
    logits = np.round(generator.normal(size=(4, 50)) * 3, 1).astype(np.float32)
    logits[1, ::3] = -np.inf
    logits[2, :20] = 1.5
    counts = generator.integers(0, 3, (4, 50)).astype(np.int32)
    asked = [
        ("chain(frequency(0.7), temperature(0.6))", {"frequency": 0.7, "temperature": 0.6}),
        ("chain(logit_bias((3, 4), (5.0, 2.0)), top_k(7))", {"bias": {3: 5.0, 4: 2.0}, "top_k": 7}),
        ("chain(presence(-1.0), top_k(33), top_p(0.8), min_p(0.05))", {"presence": -1.0, "top_k": 33, "top_p": 0.8, "min_p": 0.05}),
        ("greedy", {"temperature": 0.0, "top_p": 0.1}),
    ]
    each = [mixed.numbers(50, **drawing) for _, drawing in asked]
    together = mixed.Mixed(jax.tree.map(lambda *rows: np.concatenate(rows), *each))
    found = together.filter(jnp.asarray(logits), Counts(None, counts))
    for row, (sampler, _) in enumerate(asked):
        one = registry.create("sampler", sampler, "sampler")
        expected = one.filter(jnp.asarray(logits[row : row + 1]), Counts(None, counts[row : row + 1]))
        np.testing.assert_array_equal(found[row], expected[0], err_msg=sampler)


@pytest.mark.parametrize(
    ("name", "how", "complaint"),
    [
        ("bert", {}, "the model is an encoder"),
        ("llama", {"slots": 0}, "slots: must be at least 1, got 0"),
        ("gpt2", {"max_length": 10000}, "max_length: 10000 is not allowed; 2 to 64, the positions that the model knows"),
    ],
)
def test_impossible_slots(name, how, complaint, tiny):
    with pytest.raises(UserError, match=complaint):
        Slots(tiny(name).spec, tiny(name).params, **{"slots": 1, "max_length": 16, **how})


def test_slots_with_caches_in_int8(tiny):
    """Prompts read at once and in pieces."""
    one, row = tiny("llama"), Row(tuple(range(20, 41)), 8, drawing={"temperature": 0.0})
    expected = alone(one, [row], cache="int8")
    assert [said(Slots(one.spec, one.params, slots=1, max_length=48, cache="int8", piece=32), [row])] == [expected]


def test_encoders_read_what_they_are_made_for(tiny):
    """However little a slot has room for, unless it is said."""
    one = tiny("t5")
    row = Row((3,), 4, tuple(range(20, 20 + one.spec.inputs)), drawing={"temperature": 0.0})
    assert said(Slots(one.spec, one.params, slots=1, max_length=8), [row]) == alone(one, [row])
    slots = Slots(one.spec, one.params, slots=1, max_length=8, max_inputs=10)
    with pytest.raises(UserError, match=r"inputs: [0-9]+ tokens are more than there is room for, 10"):
        slots.check(row)
    model = completions.Model("t5", slots, BytesTokenizer(), 1)
    for body, param in (({"prompt": "x" * 10}, "prompt"), ({"prompt": "x", "max_tokens": 9}, "max_tokens")):
        with pytest.raises(completions.Refused) as refused:
            model.asked(json.dumps({"model": "t5", **body}).encode())
        assert (refused.value.param, refused.value.code) == (param, "context_length_exceeded")


def test_impossible_rows(tiny):
    slots = Slots(tiny("llama").spec, tiny("llama").params, slots=1, max_length=20)
    for row, complaint in (
        (Row((), 1), "needs at least one token"),
        (Row((1,) * 20, 2), "max_new_tokens: 2 after a prompt of 20 tokens is more than there is room for, 20"),
        (Row((1,), 1, stop_tokens=(1, 2, 3, 4, 5)), "stop_tokens: at most 4 allowed, got 5"),
    ):
        with pytest.raises(UserError, match=complaint):
            slots.place(row)
