"""Decoding with a cache is the full forward pass, one token at a time; generation is decoding with a sampler."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import config as config_lib
from taxonomy import model as model_lib
from taxonomy import registry, spec, stack
from taxonomy.errors import UserError
from taxonomy.inference import decode

# Ragged: from a single token to more than any tiny model's window.
LENGTHS = np.array([1, 7, 21], np.int32)
CHUNK, STEPS = 13, 5
TOTAL = LENGTHS.max() + CHUNK + STEPS
ROWS = np.arange(len(LENGTHS))


@functools.partial(jax.jit, static_argnums=0)
def forward(model, params, tokens):
    return model.apply({"params": params}, tokens)


@functools.partial(jax.jit, static_argnums=(0, 5))
def extend(model, params, cache, tokens, positions, cache_length):
    """All logits of a chunk and the cache after it."""
    variables = {"params": params} if cache is None else {"params": params, "cache": cache}
    logits, state = model.apply(variables, tokens, positions, cache_length=cache_length, mutable=["cache"])
    return logits, state["cache"]


def random_tokens(one):
    return np.random.default_rng(0).integers(0, one.spec.vocab, (len(LENGTHS), TOTAL), dtype=np.int32)


def test_cached_decoding_equals_the_full_forward(family, tiny):
    """Ragged prompts at once, then several tokens, by which a rolling cache wraps around, then one token after another."""
    one = tiny(family)
    model, tokens = one.model(), random_tokens(one)
    expected = np.asarray(forward(model, one.params, tokens))

    within = np.arange(LENGTHS.max())
    positions = np.where(within < LENGTHS[:, None], within, -1)
    padded = np.where(positions < 0, 0, tokens[:, : LENGTHS.max()])
    logits, cache = extend(model, one.params, None, padded, positions, TOTAL)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(logits[row, :length], expected[row, :length], atol=1e-4)

    reached = LENGTHS[:, None]
    for new in [CHUNK] + [1] * STEPS:
        positions = reached + np.arange(new)
        chosen = ROWS[:, None], positions
        logits, cache = extend(model, one.params, cache, tokens[chosen], positions, TOTAL)
        np.testing.assert_allclose(logits, expected[chosen], atol=1e-4)
        reached = reached + new


def test_greedy_is_the_argmax_of_the_full_forward(family, tiny):
    one = tiny(family)
    tokens = random_tokens(one)
    prompts = [row[:length].tolist() for row, length in zip(tokens, LENGTHS, strict=True)]
    new = decode.generate_tokens(one.spec, one.params, prompts, max_new_tokens=18)
    assert [len(row) for row in new] == [18, 18, 18]
    whole = np.zeros_like(tokens)
    for row, (prompt, more) in enumerate(zip(prompts, new, strict=True)):
        whole[row, : len(prompt) + 18] = prompt + more
    best = forward(one.model(), one.params, whole).argmax(-1)
    for row, length in enumerate(LENGTHS):
        assert best[row, length - 1 : length + 17].tolist() == new[row]
    unrolled = {**one.params, "decoder": stack.unstack(one.params["decoder"], one.spec.decoder)}
    assert decode.generate_tokens(one.spec, unrolled, prompts, max_new_tokens=18) == new


# What follows is about the loop and not the model, so one small model does; few shapes, so few programs.
PROMPTS = [[5, 6, 7], [9], list(range(12))]
FLAT = "temperature(50.0)"


class Rolling(NamedTuple):
    config: Any
    spec: spec.Model
    params: Any


@pytest.fixture(scope="module")
def rolling(random_params):
    """Two layers, one of which has a rolling cache of eight slots."""
    config = config_lib.load_config("gpt3:tiny", {"model.decoder": "dense + banded"})
    parsed = spec.model(config.model)
    return Rolling(config, parsed, random_params(model_lib.build(parsed), jnp.zeros((1, 8), jnp.int32)))


def generated(one, prompts=PROMPTS, **how):
    return decode.generate_tokens(one.spec, one.params, prompts, **{"max_new_tokens": 16, **how})


def test_a_row_does_not_depend_on_the_others(rolling):
    together = generated(rolling)
    for row, prompt in enumerate(PROMPTS):
        others = [[100, 101], [102], [103]]
        others[row] = prompt
        assert generated(rolling, others)[row] == together[row]


def test_generation_ends_before_the_stop_token(rolling):
    free = generated(rolling)
    for stop in (free[0][5], free[2][0]):
        expected = [row[: row.index(stop)] if stop in row else row for row in free]
        assert generated(rolling, stop_token=stop) == expected
    assert expected[2] == []


@pytest.mark.parametrize("sampler", ["greedy", FLAT, "top_p(0.9, temperature=50.0)"])
def test_tokens_beyond_the_tokenizer_are_never_drawn(rolling, sampler):
    new = generated(rolling, sampler=sampler, vocab_size=37)
    assert max(max(row) for row in new) < 37
    if sampler != "greedy":
        assert len({token for row in new for token in row}) > 20


def test_seeds(rolling):
    draw = functools.partial(generated, rolling, [[1], [1], [1]], sampler=FLAT, vocab_size=37)
    assert draw(seed=3) == draw(seed=3)
    assert draw(seed=3) != draw(seed=4)
    assert draw(seed=3)[0] != draw(seed=3)[1]


def test_similar_lengths_share_their_programs(rolling):
    generated(rolling)
    before = decode._prefill._cache_size(), decode._extend._cache_size()
    assert [len(row) for row in generated(rolling, [[1] * 16, [2], [3] * 5], max_new_tokens=9)] == [9, 9, 9]
    assert (decode._prefill._cache_size(), decode._extend._cache_size()) == before


@pytest.mark.parametrize(
    ("length", "rounded"), [(1, 16), (16, 16), (17, 32), (64, 64), (65, 96), (128, 128), (1000, 1024), (1025, 1536)]
)
def test_lengths_are_rounded_up(length, rounded):
    assert decode._rounded(length) == rounded


def test_positions_end_where_their_parameters_do(family, tiny):
    one = tiny(family)
    limit = model_lib.position_limit(one.spec)
    if limit is None:
        decode._check(one.spec, [[1] * one.spec.context], 1000, one.spec.vocab)
    else:
        prompt = [1] * (limit - 3)
        # The last token is drawn from the last position and never read.
        decode._check(one.spec, [prompt], 4, one.spec.vocab)
        complaint = (
            f"max_new_tokens: 5 after a prompt of {limit - 3} tokens, but the model knows {limit} positions; at most 4 allowed"
        )
        with pytest.raises(UserError, match=complaint):
            generated(one, [prompt], max_new_tokens=5)


@pytest.mark.parametrize(
    ("prompts", "how", "complaint"),
    [
        ([[1], []], {}, r"prompts\[1\]: needs at least one token"),
        ([[512]], {}, r"prompts\[0\]: tokens 512 to 512 .* vocab=512"),
        ([[-1, 3]], {}, r"prompts\[0\]: tokens -1 to 3"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens: must be at least 1, got 0"),
        ([[1]], {"vocab_size": 513}, "the tokenizer has 513 tokens, the model 512"),
        ([[1]], {"sampler": "top_z(1)"}, "sampler: unknown sampler 'top_z'"),
    ],
)
def test_bad_input(rolling, prompts, how, complaint):
    with pytest.raises(UserError, match=complaint):
        generated(rolling, prompts, **how)


def test_no_prompts(rolling):
    assert generated(rolling, []) == []


class Letters:
    """Token 0 begins a document, tokens 1 to 26 are letters, the rest is noise."""

    document_start = document_end = 0
    vocab_size = 37

    def encode(self, text):
        return np.array([ord(letter) - 96 for letter in text], np.int32)

    def decode(self, tokens):
        return "".join(chr(96 + token) if token else "<" for token in tokens)


def test_text(rolling):
    how = {"tokenizer": Letters(), "max_new_tokens": 16, "sampler": FLAT, "seed": 1}
    prompts = ["", "abc", "z"]
    texts = decode.generate(rolling.config, rolling.params, prompts, **how, stop=False)
    assert [len(text) for text in texts] == [16, 16, 16]
    assert any("<" in text for text in texts)
    stopped = decode.generate(rolling.config, rolling.params, prompts, **how)
    assert stopped == [text.partition("<")[0] for text in texts]


def test_casting_ahead_changes_nothing(tiny):
    """Parameters cast before the loop compute what parameters cast at every use do; those the model does not cast stay."""
    one = tiny("llama")
    params = decode._cast(one.params, one.spec, "bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32", "bfloat16"}
    model, tokens = one.model(dtype="bfloat16"), random_tokens(one)
    np.testing.assert_array_equal(forward(model, params, tokens), forward(model, one.params, tokens))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_caches_keep_their_buffers(rolling, dtype):
    """The loop's caches live in the buffers they came in."""
    tokens = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    logits, caches = jax.eval_shape(functools.partial(decode._prefill, rolling.spec, dtype, 32), rolling.params, tokens, tokens, {})
    greedy = registry.create("sampler", "greedy", "sampler")
    rest = (jax.ShapeDtypeStruct((2,), jnp.int32), 16, -1, jax.random.key(0))
    lowered = decode._extend.lower(rolling.spec, dtype, 32, 16, greedy, rolling.params, caches, logits, *rest)
    assert lowered.as_text().count("tf.aliasing_output") == len(jax.tree.leaves(caches))
