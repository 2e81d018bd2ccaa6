"""Speculative decoding: the rule by itself, that it changes nothing but speed, what each draft proposes, and what is refused."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from taxonomy import config as config_lib
from taxonomy import model as model_lib
from taxonomy import registry, spec
from taxonomy.errors import NoCheckpoint, UserError
from taxonomy.inference import decode, speculation
from taxonomy.inference.drafts import Draft, PromptLookup, Proposal, Rows, each
from taxonomy.inference.model_drafts import ModelDraft
from taxonomy.inference.samplers import Counts
from taxonomy.model import build
from taxonomy.ops import cross_entropy
from taxonomy.training import checkpoints

PROMPTS = [[5, 6, 7, 5, 6, 7, 5], [9], list(range(12))]
# So few tokens that drafts of another model are often right; keys that have to be found again at the edge of a window.
SECTION = dict(
    vocab=5,
    d_model=16,
    context=64,
    norm="rmsnorm(eps=1e-6)",
    position="rope",
    mask="local(window=6)",
    attention="gqa(heads=4, kv_heads=2)",
    mlp="swiglu(d_ff=24)",
    blocks=dict(block="pre(attention, mlp)", full="pre(gqa(heads=4, kv_heads=2, mask=causal), mlp)"),
    decoder="block + full",
    ahead="block + block",
    head="untied",
    initializer="normal(std=0.2)",
)


class Small(NamedTuple):
    spec: spec.Model
    params: Any


FEW = [[1, 2, 3], [4], [0, 1, 2, 3, 4, 3, 2, 1, 0, 1]]


def randomly(random_params, section, seed=0):
    """A model with random parameters."""
    model = build(section)
    return model.spec, random_params(model, **model_lib.blank(model.spec, time=8), seed=seed)


@pytest.fixture(scope="module")
def few(random_params):
    return randomly(random_params, SECTION, seed=5)  # whose texts do not go round in circles


@pytest.fixture(scope="module")
def other(random_params):
    """A draft model that is often wrong."""
    model, params = randomly(random_params, {**SECTION, "ahead": None, "decoder": "block"}, seed=2)
    return functools.partial(ModelDraft, model, params)


def plausible(found, chances):
    """Whether counts may be of draws with these chances, by a chi-square test."""
    chances = np.asarray(chances, np.float64) / np.sum(chances)
    return stats.chisquare(found, np.sum(found) * chances).pvalue > 0.01


def continued(model, params, prompts, speculate, **how):
    decoding = decode.Decoding(model, params, prompts, **{"max_new_tokens": 30, **how}, speculate=speculate)
    decoding.advance()
    return decoding.tokens, decoding.tally


# The rule. Two proposed tokens of a vocabulary of three, and of one the chances are the same as the model's.
MODELS = np.array([[0.5, 0.2, 0.3], [0.1, 0.0, 0.9], [0.6, 0.3, 0.1]])
DRAWN = np.array([[0.2, 0.5, 0.3], [0.1, 0.0, 0.9]])


@pytest.mark.parametrize("count", [2, 1, 0])
@pytest.mark.parametrize("certain", [False, True], ids=["drawn", "certain"])
def test_the_rule_gives_the_models_distribution(count, certain):
    """The first tokens have the model's chances, whatever was proposed; how many are kept is what the rule says."""
    rows = 20_000
    generator = np.random.default_rng(0)
    drawn = np.stack([generator.choice(3, rows, p=chances) for chances in DRAWN], 1) if not certain else np.array([[0, 2]] * rows)
    chances = None if certain else jnp.broadcast_to(DRAWN, (rows, 2, 3))
    proposal = Proposal(jnp.asarray(drawn), jnp.full(rows, count), chances)
    keys = each(jnp.broadcast_to(jax.random.key(1), rows), jnp.arange(rows))
    kept, token = jax.jit(speculation.judged)(keys, jnp.broadcast_to(MODELS, (rows, 3, 3)), proposal)
    kept, token = np.asarray(kept), np.asarray(token)
    first = np.where(kept > 0, drawn[:, 0], token)
    assert plausible(np.bincount(first, minlength=3), MODELS[0])
    second = np.where(kept > 1, drawn[:, 1], token)[kept > 0]
    if count:
        assert plausible(np.bincount(second, minlength=3)[[0, 2]], MODELS[1][[0, 2]]) and 1 not in second
        # The sum of min(p, q), of which Leviathan et al. 2023 say in corollary 3.6 that it is the chance to be kept.
        likely = 0.5 if certain else np.minimum(MODELS[0], DRAWN[0]).sum()
        assert stats.binomtest(int((kept > 0).sum()), rows, float(likely)).pvalue > 0.01
    assert kept.max() == count
    if count == 2:
        third = token[kept == 2]
        assert plausible(np.bincount(third, minlength=3), MODELS[2])
        if not certain:
            assert np.all(kept[kept > 0] == 2)


def test_certain_models_leave_nothing_to_chance():
    """Where p is one token, that is what is said; a draft of equal chances is always kept."""
    chances = jnp.eye(4)[jnp.array([[2, 0, 1], [2, 0, 1], [2, 0, 1]])]
    tokens = jnp.array([[2, 0], [2, 3], [1, 0]])
    keys = jax.random.split(jax.random.key(0), 3)
    for drawn in (None, jnp.full((3, 2, 4), 0.25), jnp.eye(4)[tokens]):
        kept, token = speculation.judged(keys, chances, Proposal(tokens, jnp.full(3, 2), drawn))
        assert kept.tolist() == [2, 1, 0] and token.tolist() == [1, 0, 2]


# The whole loop.
SAMPLERS = {
    "penalised": "chain(repetition(1.3), frequency(0.5, prompt=True), top_k(4), temperature(0.9))",
    "truncated": "top_p(0.8, temperature=1.3)",
}


def distribution(model, params, prompt, sampler, length):
    """Of all continuations, by the model's own probabilities: {text: chance}."""
    sampler, module = registry.create("sampler", sampler, "sampler"), build(model.alone)
    texts = {(): 1.0}
    for _ in range(length):
        rows = np.array([[*prompt, *text] for text in texts])
        logits = module.apply({"params": params}, rows)[:, -1]
        said = jnp.array([np.bincount(row[len(prompt) :], minlength=5) for row in rows])
        counts = Counts(jnp.tile(np.bincount(prompt, minlength=5), (len(rows), 1)), said)
        chances = np.asarray(jax.nn.softmax(sampler.filter(logits, counts)), np.float64)
        texts = {(*t, token): p * row[token] for (t, p), row in zip(texts.items(), chances, strict=True) for token in range(5)}
    return texts


@pytest.mark.parametrize(("kind", "sampler"), [("model", "penalised"), ("ahead", "truncated"), ("lookup", "truncated")])
def test_the_distribution_of_texts_is_the_samplers(few, other, kind, sampler):
    """Of texts of three tokens after a prompt, enumerated; all drafts are often wrong."""
    (model, params), length, prompt = few, 3, [1, 2, 3, 1, 2, 0, 1]
    draft = {"model": other(tokens=2), "ahead": "ahead", "lookup": "prompt_lookup(tokens=2, ngram=2)"}[kind]
    how = {"n": 3000, "max_new_tokens": length, "sampler": SAMPLERS[sampler], "seed": 3}
    texts, tally = continued(model, params, [prompt], draft, **how)
    expected = distribution(model, params, prompt, SAMPLERS[sampler], length)
    found = {text: 0 for text in expected}
    for text in texts:
        found[tuple(text)] += 1
    assert not any(found[text] for text, chance in expected.items() if chance == 0)
    # Texts that are rare are counted together, as the test wants.
    common = [text for text, chance in expected.items() if chance * len(texts) >= 10]
    observed, wanted = ([one[text] for text in common] for one in (found, expected))
    if (1 - sum(wanted)) * len(texts) >= 10:
        observed, wanted = [*observed, len(texts) - sum(observed)], [*wanted, 1 - sum(wanted)]
    assert len(common) > 8 and plausible(observed, wanted)
    assert 0.05 < tally.share < 0.95


def test_a_draft_by_the_model_itself_is_kept(few):
    """Every token of it, whatever the sampler: in windows, after ragged prompts, with tokens that it had not read yet."""
    model, params = few
    tokens, tally = continued(model, params, FEW, ModelDraft(model, params, tokens=3), sampler=SAMPLERS["penalised"], n=2)
    assert tally.share == 1 and tally.proposed > 100 and [len(row) for row in tokens] == [30] * 6
    # The first token comes with the prompt, 28 four at a time, and the last one alone.
    assert tally == (6 * 8, 6 * 21, 6 * 21)


@pytest.mark.parametrize("draft", ["model", "ahead", "ahead(1)", "prompt_lookup(tokens=7)"])
def test_greedy_is_greedy(few, other, draft):
    """In windows shorter than a draft, and without a trace of what was not kept."""
    model, params = few
    draft = other(tokens=5) if draft == "model" else draft
    found, tally = continued(model, params, FEW, draft)
    assert found == decode.generate_tokens(model, params, FEW, max_new_tokens=30)
    assert 0 < tally.share < 0.9 and tally.checks + tally.kept == 3 * 29, tally


class Told(Draft):
    """Proposes the text that it is told, but for every fifth token, which is another one."""

    def __init__(self, texts):
        super().__init__(tokens=7)
        object.__setattr__(self, "texts", texts)

    def begin(self, asked):
        whole = np.zeros((len(asked.tokens_BT), asked.tokens_BT.shape[1] + asked.room + 8), np.int32)
        for row, text, new in zip(whole, asked.prompts, self.texts, strict=True):
            row[: len(text) + len(new)] = [*text, *new]
        return self, jnp.asarray(whole), None

    def propose(self, sampler, params, memory, rows):
        places = rows.known_B[:, None] + jnp.arange(7)
        tokens = jnp.take_along_axis(params, places, axis=1)
        return Proposal(jnp.where(places % 5 == 0, (tokens + 1) % 50, tokens), jnp.full(len(params), 7)), None

    def settle(self, memory, rows, kept_B, x_BTD):
        return None


# Windows, latents, layers that some tokens pass by, chunks, an encoder beside, tracks.
@pytest.mark.parametrize("name", ["mistral", "deepseek_v2", "mixture_of_depths", "llama4", "t5", "tracks"])
def test_greedy_is_greedy_in_all_kinds_of_caches(tiny, random_params, name):
    """Every fifth token is drafted wrongly, so that what came after it was read in vain."""
    tracks = {"blocks": {"block": "tracks(pre(attention, mlp), count=2)"}, "decoder": "2*block", "vocab": 64, "ahead": None}
    one = Small(*randomly(random_params, {**SECTION, **tracks})) if name == "tracks" else tiny(name)
    how = {"max_new_tokens": 24} | ({"inputs": [[5, 6, 7], [8], [9, 10]]} if len(one.spec.stacks) > 1 else {})
    expected = decode.generate_tokens(one.spec, one.params, PROMPTS, **how)
    found, tally = continued(one.spec, one.params, PROMPTS, Told(expected), **how)
    assert found == expected and 0.4 < tally.share < 0.8, tally
    jax.clear_caches()


def test_what_is_looked_up():
    """The last place after which the longest of the row's last tokens stood; said over again where it ends with the row."""
    rows = [
        [1, 2, 3, 9, 7, 2, 3, 8, 1, 2, 3],  # as many as three: at the beginning, though two stand again later
        [4, 3, 5, 3, 6, 3],  # the last place of one
        [1, 2, 3, 4, 5],
        [7, 1, 2, 1, 2],  # begins anew
        [3],
        [6, 6],
    ]
    text = np.zeros((len(rows), 16), np.int32)  # what stands behind a row is not a part of it
    for i, row in enumerate(rows):
        text[i, : len(row)] = row
    known = jnp.array([len(row) for row in rows])
    proposal, _ = PromptLookup(tokens=4, ngram=3).propose(None, None, None, Rows(jnp.asarray(text), known, known, None, None))
    assert proposal.count_B.tolist() == [4, 4, 0, 4, 0, 4] and proposal.chances_BKV is None
    found = proposal.tokens_BK.tolist()
    assert [found[i] for i in (0, 1, 3, 5)] == [[9, 7, 2, 3], [6, 3, 6, 3], [1, 2, 1, 2], [6, 6, 6, 6]]


def test_modules_say_what_they_do_in_training(few):
    """Their drafts are those of whole rows, read anew for every draft, with the tokens drafted before at the end."""
    model, params = few

    @jax.jit
    def best_ahead(tokens):
        def read(module, tokens):
            x_BTD, context = module._features(tokens, None, None, False, None)
            return [cross_entropy.logits(*module._projected(x)) for x in module._ahead(x_BTD, tokens, context)]

        return [logits[0].argmax(-1) for logits in build(model).apply({"params": params}, tokens, method=read)]

    for depths in (1, 2):
        texts, tally = continued(model, params, FEW, f"ahead({depths})")
        checks = proposed = kept = 0
        for prompt, new in zip(FEW, texts, strict=True):
            text, known = prompt + new, len(prompt) + 1
            while known < len(text):
                drafted = text[:known]
                for depth in range(depths):
                    padded = np.pad(drafted, (0, 48 - len(drafted)))[None]
                    drafted = [*drafted, int(best_ahead(padded)[depth][known - 2])]
                count = min(depths, len(text) - known - 1)
                right = np.equal(drafted[known : known + count], text[known : known + count])
                found = int(np.cumprod(right).sum())
                checks, proposed, kept, known = checks + 1, proposed + count, kept + found, known + found + 1
        assert tally == (checks, proposed, kept)


def test_modules_keep_what_caches_are_asked_for(few):
    decoding = decode.Decoding(*few, FEW, max_new_tokens=4, speculate="ahead", cache="int8")
    kept = {leaf.dtype.name for leaf in jax.tree.leaves(decoding._state.memory["cache"])}
    assert kept == {"int8", "float32", "int32"}


def test_steps_at_a_time_and_other_rows_change_nothing(few, other):
    model, params = few
    how = {"sampler": SAMPLERS["penalised"], "seed": 5}
    whole, _ = continued(model, params, FEW, other(tokens=3), **how)
    decoding = decode.Decoding(model, params, FEW, max_new_tokens=30, speculate=other(tokens=3), **how)
    while not decoding.finished:
        before = decoding.tokens
        decoding.advance(4)
        for row, start, now in zip(whole, before, decoding.tokens, strict=True):
            assert now == row[: len(now)] and len(now) >= min(len(start) + 1, 30)
    assert decoding.tokens == whole
    greedy = decode.generate_tokens(model, params, FEW, max_new_tokens=30)
    decoding = decode.Decoding(model, params, FEW, max_new_tokens=30, speculate=other(tokens=3))
    decoding.advance(3)
    decoding.end([False, True, False])
    ended = decoding.tokens[1]
    decoding.advance()
    assert decoding.tokens == [greedy[0], ended, greedy[2]] and decoding.finished


def test_stop_tokens_and_guidance(few, other):
    """A row ends before a stop token amid kept ones; guidance reads twice as many rows."""
    model, params = few
    for draft in (other(tokens=3), "ahead"):
        for how in ({"stop_token": 2}, {"unconditional": [[3], [1, 2], [3]], "guidance": 1.5, "n": 2}):
            expected = decode.generate_tokens(model, params, FEW, max_new_tokens=30, **how)
            found, _ = continued(model, params, FEW, draft, **how)
            assert found == expected
        assert continued(model, params, FEW, draft, max_new_tokens=1)[0] == [row[:1] for row in generated(model, params)]


def generated(model, params):
    return decode.generate_tokens(model, params, FEW, max_new_tokens=30)


class Letters:
    """Token 0 begins a document, the others are letters."""

    document_start = document_end = 0
    vocab_size = 5

    def encode(self, text):
        return np.array(["<abcd".index(letter) for letter in text], np.int32)

    def decode(self, tokens):
        return "".join("<abcd"[token] for token in tokens)


def test_texts_and_streams(few):
    """Stop strings end texts; the pieces of a stream are the text; the tally is reported."""
    config, (_, params) = config_lib.load_config("llama:tiny", {"model.vocab": 5}), few
    config.model = SECTION
    how = {"tokenizer": Letters(), "max_new_tokens": 40, "to_document_end": False}
    free = decode.generate(config, params, ["", "abc"], **how)
    how |= {"stop": [free[0][21:24], free[1][9:14]]}
    expected, reported = decode.generate(config, params, ["", "abc"], **how), []
    how |= {"speculate": "prompt_lookup(tokens=6, ngram=2)", "report": reported.append}
    assert decode.generate(config, params, ["", "abc"], **how) == expected
    pieces = list(decode.stream(config, params, ["", "abc"], **how))
    assert ["".join(row) for row in zip(*pieces, strict=True)] == expected
    assert len(reported) == 2 and reported[0].kept > 5 and "tokens a step of the model" in str(reported[0])


REFUSED = [
    ("prompt_lookup(tokens=0)", {}, r"speculate: prompt_lookup: tokens=0 must be at least 1"),
    ("prompt_lookup(ngram=0)", {}, r"speculate: prompt_lookup: ngram=0 must be at least 1"),
    ("lookup", {}, "speculate: unknown draft 'lookup'"),
    ("ahead(3)", {}, r"speculate: ahead\(tokens=3\), but the model has 2 modules"),
    ("ahead", {"ahead": None}, r"speculate: ahead needs a model trained with modules"),
    ("ahead(0)", {}, "speculate: ahead: tokens=0 must be at least 1"),
]


@pytest.mark.parametrize(("draft", "changes", "complaint"), REFUSED, ids=[draft for draft, _, _ in REFUSED])
def test_bad_drafts(random_params, draft, changes, complaint):
    model, params = randomly(random_params, {**SECTION, **changes})
    with pytest.raises(UserError, match=complaint):
        decode.Decoding(model, params, FEW, max_new_tokens=4, speculate=draft)


ROUTED = "moe(experts=4, top_k=2, router={}, expert=swiglu(d_ff=8){})"


@pytest.mark.parametrize(
    ("router", "rest", "complaint"),
    [
        ("softmax", ", capacity=1.25", r"moe\(capacity=1.25\) may drop tokens where it reads 4 at once"),
        ("softmax", ", capacity=4.0, evaluation_capacity=1.5", r"evaluation_capacity=1.5\) may drop"),
        ("softmax", ", slots=3", r"moe\(slots=3\) may drop"),
        ("expert_choice", "", "the router 'expert_choice' looks at later tokens"),
        ("softmax", "", None),
        ("softmax", ", capacity=1.0, evaluation_capacity=2.0", None),
        ("softmax", ", slots=4", None),
    ],
)
def test_models_that_read_several_tokens_otherwise_are_refused(router, rest, complaint):
    model = build({**SECTION, "ahead": None, "mlp": ROUTED.format(router, rest)}).spec
    if complaint is None:
        return speculation.check(model, 3)
    with pytest.raises(UserError, match=f"^speculate: .*{complaint}"):
        speculation.check(model, 3)


def test_draft_models_that_do_not_fit(few, random_params, tmp_path):
    model, params = few
    short, own = randomly(random_params, {**SECTION, "ahead": None, "position": "learned(length=8)"})
    small = config_lib.load_config("llama:tiny")
    with pytest.raises(UserError, match="speculate: its model cannot draft this: max_new_tokens: 9 after a prompt of 3 tokens"):
        decode.Decoding(model, params, FEW[:1], max_new_tokens=9, speculate=ModelDraft(short, own))
    with pytest.raises(NoCheckpoint, match=r"^speculate: .*no directory"):
        decode.Decoding(model, params, FEW, max_new_tokens=9, speculate=f"draft('{tmp_path / 'nowhere'}')")
    own = random_params(build(small.model), jnp.zeros((1, 8), jnp.int32))
    checkpoints.save_params(tmp_path / "run", small, own)
    found, tally = continued(model, params, FEW, f"draft('{tmp_path / 'run'}', tokens=2)")
    assert found == generated(model, params) and tally.proposed > 0
