"""Decoding with a cache is the full forward pass, one token at a time; generation is decoding with a sampler."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taxonomy import config as config_lib
from taxonomy import model as model_lib
from taxonomy import registry, spec, stack
from taxonomy.errors import UserError
from taxonomy.inference import decode, steps
from taxonomy.inference import prompts as prompts_lib
from taxonomy.layers.params import Declared, Turned, project, turned
from taxonomy.scaling import accounting

# Ragged: from a single token to more than the window of any tiny model, read in up to four pieces.
LENGTHS = np.array([1, 9, 29], np.int32)
PIECE, STEPS = 8, 5
TOTAL = 40
ROWS = np.arange(len(LENGTHS))


class Tiny(NamedTuple):
    config: Any
    spec: spec.Model
    params: Any

    def model(self):
        return model_lib.build(self.spec)


@functools.partial(jax.jit, static_argnums=0)
def forward(model, params, *inputs):
    return model.apply({"params": params}, *inputs)


def random_tokens(one):
    return np.random.default_rng(0).integers(0, one.spec.vocab, (len(LENGTHS), TOTAL), dtype=np.int32)


def inputs_of(rows):
    """What an encoder reads of rows with -1 for padding."""
    return {"inputs": np.maximum(rows, 0), "input_positions": np.where(rows < 0, -1, np.arange(rows.shape[1]))}


def stepwise(one, tokens, cache="exact", inputs=None):
    """Logits (STEPS, B, V) by the programs of the loop: after ragged prompts in pieces, and after each token more."""
    program = steps.Program(one.spec, "float32", TOTAL, one.spec.vocab, cache)
    within = np.arange(-(-LENGTHS.max() // PIECE) * PIECE)
    positions = np.where(within < LENGTHS[:, None], within, -1)
    padded = np.where(positions < 0, 0, tokens[:, : len(within)])
    given = {} if inputs is None else inputs_of(inputs)
    logits, caches = steps.prefill(program, PIECE, one.params, padded, positions, given)
    step, params, found = jax.jit(functools.partial(steps.forward, program)), steps.unrolled(program, one.params), [logits]
    for reached in LENGTHS + np.arange(STEPS - 1)[:, None]:
        logits, caches = step(params, caches, tokens[ROWS, reached][:, None], reached[:, None])
        found.append(logits)
    return np.array(found)


def at_once(one, tokens, inputs=None):
    """The same logits by the full forward."""
    others = {"prefix": np.arange(TOTAL) < LENGTHS[:, None]} if one.spec.prefixed else {}
    if inputs is not None:
        others |= inputs_of(inputs)
    logits = jax.jit(lambda params: one.model().apply({"params": params}, tokens=tokens, **others))(one.params)
    return np.array([logits[ROWS, reached - 1] for reached in LENGTHS + np.arange(STEPS)[:, None]])


def test_cached_decoding_equals_the_full_forward(family, tiny):
    one = tiny(family)
    tokens = random_tokens(one)
    np.testing.assert_allclose(stepwise(one, tokens), at_once(one, tokens), atol=1e-4)


INPUTS = np.array([[5, 6, 7, 8, 9, 10, 11], [12, 13, 14, -1, -1, -1, -1], [15, 16, 17, 18, 19, -1, -1]])


def test_cached_decoding_beside_an_encoder_equals_the_full_forward(encoder_family, tiny):
    """Of ragged inputs, which are read once."""
    one = tiny(encoder_family)
    if "decoder" not in one.spec.stacks:
        pytest.skip("an encoder alone does not decode")
    tokens = random_tokens(one)
    np.testing.assert_allclose(stepwise(one, tokens, inputs=INPUTS), at_once(one, tokens, INPUTS), atol=1e-4)


# Every kind of cache in one model: rolling, latent, of an encoder, lent to a later layer, of tracks.
MIXED = dict(
    vocab=48,
    d_model=32,
    context=64,
    norm="rmsnorm(eps=1e-6)",
    position="rope",
    mask="causal",
    reading="mha(heads=2, mask=full)",
    near="gqa(heads=4, kv_heads=2, mask=local(window=6))",
    latent="latent(heads=2, kv_rank=12, head_dim=8, rotary_dim=8)",
    cross="mha(heads=2, source='encoder', mask=full)",
    lending="mqa(heads=4, lends=True)",
    borrowing="mqa(heads=4, source='earlier')",
    mlp="swiglu(d_ff=40)",
    blocks=dict(
        read="pre(reading, mlp)",
        first="pre(near, cross, mlp)",
        second="tracks(pre(latent, mlp), count=2)",
        third="pre(lending, mlp)",
        last="pre(borrowing, mlp)",
    ),
    encoder="read",
    decoder="first + second + third + last",
    head="untied",
    initializer="normal(std=0.1)",
)


@pytest.fixture(scope="module")
def mixed(random_params):
    model = model_lib.build(MIXED)
    return Tiny(None, model.spec, random_params(model, **model_lib.blank(model.spec, time=8)))


def test_logits_with_caches_in_int8_are_near(mixed):
    """A feature is off by at most half of a scale, evenly: by its vector's largest magnitude / (127 * sqrt(12)), which is under
    0.6% of the vector's size, for 8 to 16 features. Keys and values of four layers make eight such errors, which add as squares:
    logits are off by under 1.7% of their size."""
    tokens, inputs = random_tokens(mixed), INPUTS
    exact = stepwise(mixed, tokens, inputs=inputs)
    np.testing.assert_allclose(exact, at_once(mixed, tokens, inputs), atol=1e-4)
    error = stepwise(mixed, tokens, "int8", inputs) - exact
    print(error.std() / exact.std(), np.abs(error).max() / exact.std())
    assert 1e-4 < error.std() / exact.std() < 0.017


@pytest.mark.parametrize("cache", ["exact", "int8"])
def test_the_loops_caches_are_as_large_as_described(mixed, cache):
    inputs = [[5, 6, 7], [8]]
    how = {"max_new_tokens": 16, "inputs": inputs, "n": 2, "cache": cache}
    decoding = decode.Decoding(mixed.spec, mixed.params, [[1, 2], [3]], **how)
    decoding.advance(2)
    kept = jax.tree_util.tree_leaves_with_path(decoding._state.cache)
    assert ("int8" in {leaf.dtype.name for _, leaf in kept}) == (cache == "int8")
    costs = accounting.cache_bytes(mixed.spec, 32, prompts_lib.rounded(3), cache, "float32")
    positions = sum(leaf.nbytes for path, leaf in kept if path[-1].key.endswith("_position"))
    assert (sum(leaf.nbytes for _, leaf in kept) - positions, positions) == (4 * costs.vectors, 4 * costs.positions)


# What follows is about the loop and not the model, so one small model does; few shapes, so few programs.
PROMPTS = [[5, 6, 7], [9], list(range(12))]
FLAT = "temperature(50.0)"


@pytest.fixture(scope="module")
def rolling(random_params):
    """Two layers, one of which has a rolling cache of eight slots."""
    config = config_lib.load_config("gpt3:tiny", {"model.decoder": "dense + banded"})
    parsed = spec.model(config.model)
    return Tiny(config, parsed, random_params(model_lib.build(parsed), jnp.zeros((1, 8), jnp.int32)))


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


def test_the_loop_ends_with_its_last_row(rolling):
    free = generated(rolling)[0]
    decoding = decode.Decoding(rolling.spec, rolling.params, [PROMPTS[0]] * 3, max_new_tokens=16, stop_token=free[5])
    decoding.advance()
    first = free.index(free[5])
    assert decoding.tokens == [free[:first]] * 3 and decoding._state.step == first + 1 < 16


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


def test_each_prompt_has_its_samples(rolling):
    """A prompt is read once; its rows stand side by side and differ where they are drawn."""
    assert generated(rolling, n=3) == [row for row in generated(rolling) for _ in range(3)]
    drawn = generated(rolling, n=3, sampler=FLAT, vocab_size=37)
    assert len(drawn) == 9 and len(set(map(tuple, drawn))) == 9


@pytest.mark.parametrize(
    "how", [{}, {"sampler": "chain(frequency(2.0, prompt=True), top_k(3, temperature=5.0))", "n": 2}], ids=["", "drawn"]
)
def test_steps_at_a_time_and_prompts_in_pieces_change_nothing(rolling, how):
    whole = generated(rolling, **how)
    assert generated(rolling, piece=5, **how) == whole
    decoding = decode.Decoding(rolling.spec, rolling.params, PROMPTS, max_new_tokens=16, **how)
    for reached in (1, 4, 9, 16):
        assert not decoding.finished
        decoding.advance(reached - len(decoding.tokens[0]))
        assert decoding.tokens == [row[:reached] for row in whole]
    assert decoding.finished


def test_ended_rows_stay_as_they_are(rolling):
    whole = generated(rolling)
    decoding = decode.Decoding(rolling.spec, rolling.params, PROMPTS, max_new_tokens=16)
    decoding.advance(3)
    decoding.end([False, True, False])
    assert decoding.ended == [False, True, False]
    decoding.advance()
    assert decoding.tokens == [whole[0], whole[1][:3], whole[2]] and decoding.finished


def slowly(one, rows, choose, inputs=(), new=12):
    """Greedy continuations by the full forward over whole rows; `choose` makes one row of logits of those of all rows."""
    model, before, rows = model_lib.build(one.spec), len(rows[0]), [list(row) for row in rows]
    for _ in range(new):
        whole = [[np.array([row + [0] * (40 - len(row))])] for row in rows]
        read = [[np.array([one]), *row] for one, row in zip(inputs, whole, strict=True)] if inputs else whole
        logits = [forward(model, one.params, *arrays)[0, len(row) - 1] for row, arrays in zip(rows, read, strict=True)]
        token = int(np.argmax(choose(np.array(logits), rows)))
        rows = [[*row, token] for row in rows]
    return rows[0][before:]


def test_greedy_is_the_argmax_of_the_full_forward(rolling):
    assert generated(rolling) == [slowly(rolling, [prompt], lambda logits, rows: logits[0], new=16) for prompt in PROMPTS]


def test_parameters_may_be_unrolled(tiny):
    one = tiny("gpt3")
    unrolled = {**one.params, "decoder": stack.unstack(one.params["decoder"], one.spec.decoder)}
    assert not stack.is_stacked(unrolled["decoder"])
    jax.tree.map(np.testing.assert_array_equal, *(steps.ready(one.spec, params) for params in (unrolled, one.params)))


def test_guidance(rolling):
    """Logits are pushed away from those of the unconditional prompt."""
    others = [[8, 7, 30, 31], [9, 3], [1]]
    guided = generated(rolling, unconditional=others, guidance=1.5, max_new_tokens=12)
    for prompt, other, row in zip(PROMPTS, others, guided, strict=True):
        assert row == slowly(rolling, [prompt, other], lambda logits, rows: logits[0] + 1.5 * (logits[0] - logits[1]))
    assert guided != generated(rolling, max_new_tokens=12)
    assert generated(rolling, unconditional=others, guidance=0.0) == generated(rolling)


def test_decoding_beside_an_encoder(tiny):
    """Ragged inputs, prompts of the decoder read in pieces, several rows for each, and guidance by other inputs."""
    one = tiny("t5")
    inputs, others = [[5, 6, 7, 8, 9], [10, 11]], [[5], [12, 13, 14]]
    prompts = [[3], list(range(20, 41))]
    how = {"inputs": inputs, "piece": 8, "max_new_tokens": 12}
    assert generated(one, prompts, **how) == [
        slowly(one, [prompt], lambda logits, rows: logits[0], [read]) for prompt, read in zip(prompts, inputs, strict=True)
    ]
    guided = generated(one, prompts, **how, unconditional=others, guidance=1.5, n=2)
    for i, pair in enumerate(zip(inputs, others, strict=True)):
        expected = slowly(one, [prompts[i]] * 2, lambda logits, rows: logits[0] + 1.5 * (logits[0] - logits[1]), pair)
        assert guided[2 * i : 2 * i + 2] == [expected, expected]


def test_prompts_that_see_themselves_are_read_at_once(tiny):
    one = tiny("glm130b")
    assert one.spec.prefixed
    assert generated(one, piece=4) == generated(one)


def test_penalties_count_prompt_and_new_tokens(rolling):
    """Of ragged prompts; a token in the prompt weighs as one that was said since."""

    def penalised(logits, rows):
        logits = logits[0] - 3.0 * np.bincount(rows[0], minlength=logits.shape[1])
        return np.where(np.isin(np.arange(logits.size), rows[0]), np.where(logits < 0, 1.5 * logits, logits / 1.5), logits)

    found = generated(rolling, sampler="chain(frequency(3.0, prompt=True), repetition(1.5), greedy)", max_new_tokens=12)
    assert found == [slowly(rolling, [prompt], penalised) for prompt in PROMPTS]


def test_similar_lengths_share_their_programs(rolling):
    generated(rolling)
    before = steps.prefill._cache_size(), steps.extend._cache_size()
    assert [len(row) for row in generated(rolling, [[1] * 16, [2], [3] * 5], max_new_tokens=9)] == [9, 9, 9]
    assert (steps.prefill._cache_size(), steps.extend._cache_size()) == before


@pytest.mark.parametrize(
    ("length", "rounded"), [(1, 16), (16, 16), (17, 32), (64, 64), (65, 96), (128, 128), (1000, 1024), (1025, 1536)]
)
def test_lengths_are_rounded_up(length, rounded):
    assert prompts_lib.rounded(length) == rounded


def test_positions_end_where_their_parameters_do(family, tiny):
    one = tiny(family)
    limit = model_lib.position_limit(one.spec)
    if limit is None:
        prompts_lib.check(one.spec, [[1] * one.spec.context], None, 1000, one.spec.vocab)
    else:
        prompt = [1] * (limit - 3)
        # The last token is drawn from the last position and never read.
        prompts_lib.check(one.spec, [prompt], None, 4, one.spec.vocab)
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
        ([[1]], {"sampler": "chain(banned(600), greedy)"}, "sampler: token 600 is not below the vocabulary of 512"),
        ([[1]], {"sampler": "banned((0, 1))", "vocab_size": 2}, "sampler: all 2 tokens are banned"),
        ([[1]], {"guidance": 3.0}, "guidance: 3.0 needs `unconditional`"),
        ([[1]], {"n": 0}, "n: must be at least 1, got 0"),
        ([[1]], {"cache": "int4"}, "cache: must be one of exact, int8, got 'int4'; did you mean 'int8'"),
        ([[1]], {"unconditional": [[1], [2]]}, "unconditional: needs one row a prompt, 1, got 2"),
        ([[1]], {"unconditional": [[]]}, r"unconditional\[0\]: needs at least one token"),
        ([[1]], {"unconditional": [[512]]}, r"unconditional\[0\]: tokens 512 to 512 .* vocab=512"),
    ],
)
def test_bad_input(rolling, prompts, how, complaint):
    with pytest.raises(UserError, match=complaint):
        generated(rolling, prompts, **how)


@pytest.mark.parametrize("name", ["inputs", "unconditional"])
def test_bad_input_of_an_encoder(name, tiny):
    """What an encoder reads has to be known to it as well, whether it is the condition or stands for its lack."""
    one = tiny("bart")
    vocab, limit = one.spec.vocab, model_lib.position_limit(one.spec)
    prompts_lib.check(one.spec, [[1]], [[1] * limit], 4, vocab, [[1] * limit])
    for row, complaint in (
        ([], "needs at least one token"),
        ([-1, vocab], f"tokens -1 to {vocab} are not all below the model's vocab={vocab}"),
        ([1] * (limit + 1), f"has {limit + 1} tokens, but the model knows {limit} positions"),
    ):
        with pytest.raises(UserError, match=rf"^{name}\[1\]: {complaint}$"):
            generated(one, [[1], [2]], **{"inputs": [[1], [2]], "unconditional": [[1], [2]], name: [[1], row]})


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
    texts = decode.generate(rolling.config, rolling.params, prompts, **how, to_document_end=False)
    assert [len(text) for text in texts] == [16, 16, 16]
    assert any("<" in text for text in texts)
    stopped = decode.generate(rolling.config, rolling.params, prompts, **how)
    assert stopped == [text.partition("<")[0] for text in texts]


HOW = {"tokenizer": Letters(), "max_new_tokens": 40, "sampler": "chain(banned(0), temperature(50.0))", "seed": 1}


def test_texts_end_before_a_stop_string(rolling):
    free = decode.generate(rolling.config, rolling.params, ["", "abc", "z"], **HOW)
    stop = [free[0][20:22], free[2][17], free[0][25:]]
    found = decode.generate(rolling.config, rolling.params, ["", "abc", "z"], **HOW, stop=stop)
    cuts = [min([text.find(s) for s in stop if s in text], default=40) for text in free]
    assert found == [text[:cut] for text, cut in zip(free, cuts, strict=True)] and min(cuts) < 20


@pytest.mark.parametrize("every", [1, 7])
def test_a_stream_is_the_text_as_it_comes(rolling, every):
    prompts, how = ["", "abc"], HOW | {"n": 2}
    free = decode.generate(rolling.config, rolling.params, prompts, **how)
    # The first letter of the second one comes earlier, and is held back then.
    stop = [free[0][30:33], free[2][5] + "!"]
    pieces = list(decode.stream(rolling.config, rolling.params, prompts, **how, stop=stop, every=every))
    assert ["".join(row) for row in zip(*pieces, strict=True)] == [text.partition(stop[0])[0] for text in free]
    assert len(pieces) == -(-40 // every) and all(len(piece) <= every + 2 for row in pieces for piece in row)


def test_text_of_beams(rolling):
    how = {"tokenizer": Letters(), "max_new_tokens": 8}
    best = decode.generate(rolling.config, rolling.params, ["abc", "z"], **how, beams=3, n=2)
    assert len(best) == 4 and [best[0], best[2]] == decode.generate(rolling.config, rolling.params, ["abc", "z"], **how, beams=3)
    for wrong, complaint in (({"sampler": FLAT}, "sampler: "), ({"stop": ["a"]}, "stop: "), ({"n": 4}, "n: .*fewer than n=4")):
        with pytest.raises(UserError, match=complaint):
            decode.generate(rolling.config, rolling.params, ["abc"], **how, beams=3, **wrong)


def test_casting_ahead_changes_nothing(tiny):
    """Parameters cast before the loop compute what parameters cast at every use do; those the model does not cast stay."""
    one = tiny("llama")
    params = steps.cast(one.params, one.spec, "bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32", "bfloat16"}
    model, tokens = one.model(dtype="bfloat16"), random_tokens(one)
    np.testing.assert_array_equal(forward(model, params, tokens), forward(model, one.params, tokens))


def test_turned_kernels_project_as_they_did(tiny):
    """And those that something else than a projection reads stay as they are."""
    for family, expected in (("gpt2", {"query", "key", "value", "out", "up", "down"}), ("deepseek_v2", {"rotary_key", "out"})):
        one = tiny(family)
        params = steps.unrolled(steps.Program(one.spec, "float32", 32, 512), one.params)
        leaves = jax.tree_util.tree_leaves_with_path(params["decoder"], is_leaf=lambda leaf: isinstance(leaf, Turned))
        found = {path[-1].key for path, leaf in leaves if isinstance(leaf, Turned)}
        assert found >= expected and not found & {path[-1].key for path, leaf in leaves if not isinstance(leaf, Turned)} & expected
        assert family == "gpt2" or not found & {"key", "value"}
        logits = forward(one.model(), one.params, random_tokens(one))
        np.testing.assert_allclose(forward(one.model(scan=False), params, random_tokens(one)), logits, atol=1e-5)


@pytest.mark.parametrize(("shape", "inputs"), [((1, 4), 1), ((2, 1, 4), 2), ((2, 1, 4), 1), ((4, 1, 2), 1), ((1, 1, 4), 2)])
def test_turned_kernels_with_dimensions_of_one(shape, inputs):
    fan_in = math.prod(shape[:inputs])
    kernel = jnp.arange(3.0 * math.prod(shape)).reshape(3, *shape)
    box = Declared(kernel, ("layers", *[None] * len(shape)), role="mlp", fan_in=fan_in, fan_out=math.prod(shape[inputs:]))
    layer = jax.tree.map(lambda x: x[1], turned(box, kernel))
    x = jnp.arange(10.0 * fan_in).reshape(2, 5, *shape[:inputs])
    expected = project(x, kernel[1], inputs=inputs)
    assert expected.shape == (2, 5, *shape[inputs:])
    np.testing.assert_array_equal(project(x, layer, inputs=inputs), expected)


def test_seeds_beyond_32_bits():
    """Those of 32 are JAX's; no two of 64 are the same."""
    for seed in (0, 7, 2**32 - 1):
        assert steps.key(seed) == jax.random.key(seed)
    seeds = [7, 7 + 2**32, 7 + 2**33, 2**63 - 1, 2**32 - 1, -1, -(2**63)]
    assert len({tuple(jax.random.key_data(steps.key(seed)).tolist()) for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_caches_keep_their_buffers(rolling, dtype):
    """The loop's caches live in the buffers they came in."""
    program = steps.Program(rolling.spec, dtype, 32, 37)
    tokens = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    logits, caches = jax.eval_shape(functools.partial(steps.prefill, program, 16), rolling.params, tokens, tokens, {})
    sampler = registry.create("sampler", "chain(presence(1.0), greedy)", "sampler")
    drawing = steps.Drawing(jax.random.key(0), np.array([3], np.int32))
    state = jax.eval_shape(functools.partial(steps.begin, program, sampler, 16), caches, logits, tokens, tokens, drawing)
    params = jax.eval_shape(functools.partial(steps.unrolled, program), rolling.params)
    lowered = steps.extend.lower(program, sampler, params, state, 16, drawing)
    assert lowered.as_text().count("tf.aliasing_output") == len(jax.tree.leaves(state))
