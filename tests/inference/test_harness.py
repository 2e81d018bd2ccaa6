"""Our models asked through lm_eval say what its own class for models of Hugging Face says of the same weights."""

import numpy as np
import pytest
import transformers
from interop.published import CORPUS, byte_pairs, write
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from parity.common import pair

from taxonomy.errors import UserError
from taxonomy.inference.harness import Harness
from taxonomy.interop import tokenizer_files

POSITIONS = 32


@pytest.fixture(scope="module", params=[None, "<s> $A"], ids=["plain", "begun"])
def both(request, tmp_path_factory):
    """Theirs and ours, with a tokenizer that begins texts or does not."""
    shape = {"vocab_size": 300, "n_positions": POSITIONS, "n_embd": 32, "n_layer": 2, "n_head": 2}
    one = pair(transformers.GPT2Config(**shape, bos_token_id=0, eos_token_id=1), tmp_path_factory.mktemp("small"))
    specials = {"bos_token": "<s>", "eos_token": "</s>"}
    library = byte_pairs(template=request.param)
    if request.param is None:
        specials["bos_token"] = "</s>"
    write(one.directory, tokenizer=library, tokenizer_config=specials)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=library, **specials, pad_token="</s>")
    theirs = HFLM(pretrained=one.theirs, tokenizer=fast, batch_size=3, device="cpu")
    return theirs, Harness(one.config, one.params, tokenizer_files.read(one.directory, 300))


def asked(kind, *arguments):
    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


def same(found, expected):
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    np.testing.assert_allclose([score for score, _ in found], [score for score, _ in expected], atol=1e-4, rtol=1e-6)


def test_continuations(both):
    """Boundaries inside of tokens, spaces on either side, nothing given, more than fits."""
    theirs, ours = both
    text = CORPUS[3] * 9
    pairs = [("def read_ro", "ws(path)"), ("def ", "read"), ("def", " read"), ("", "def read_"), (text, " open"), ("a", text[:40])]
    requests = asked("loglikelihood", *pairs)
    same(ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True))


def test_one_token_is_the_likeliest(both):
    theirs, ours = both
    given = ours.tok_encode("def read")
    requests = [(("", ""), given, [token]) for token in range(300)]
    found, expected = ours._loglikelihood_tokens(requests), theirs._loglikelihood_tokens(requests, disable_tqdm=True)
    same(found, expected)
    assert sum(greedy for _, greedy in found) == 1
    assert sum(np.exp(score) for score, _ in found) == pytest.approx(1, abs=1e-5)


def test_whole_texts(both):
    """Shorter than a window, as long as one, and of several."""
    theirs, ours = both
    if ours.tok_encode("def")[0] == 0:  # theirs would predict what begins a text after itself
        theirs.tok_encode = lambda text: ours.tok_encode(text, add_special_tokens=False)
    exact = next(text for n in range(400) if len(theirs.tok_encode(text := (CORPUS[5] * 9)[:n])) == POSITIONS)
    requests = asked("loglikelihood_rolling", ("def",), (exact,), (CORPUS[0] * 5,))
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    np.testing.assert_allclose(ours.loglikelihood_rolling(requests), expected, atol=1e-4, rtol=1e-6)


def test_texts_that_go_on(both):
    """Greedy, to a stop string in what is said, to the end of the room, after a text that is cut."""
    theirs, ours = both
    free = {"until": ["never said"], "max_gen_toks": 9, "do_sample": False}
    texts = ["def read_", "open(path)", "", CORPUS[1] * 4] if ours.tok_encode("") else ["def read_", "open(path)", CORPUS[1] * 4]
    requests = asked("generate_until", *((text, free) for text in texts))
    said = theirs.generate_until(requests, disable_tqdm=True)
    assert ours.generate_until(requests) == said and all(said)
    stop = said[0][len(said[0]) // 2 :][:2]
    stopped = asked("generate_until", *((text, {**free, "until": [stop, "open"]}) for text in texts))
    expected = theirs.generate_until(stopped, disable_tqdm=True)
    assert ours.generate_until(stopped) == expected and expected != said


def test_draws_are_those_asked_for(both):
    _, ours = both
    how = {"until": [], "max_gen_toks": 4, "do_sample": True, "temperature": 5.0}
    texts = ours.generate_until(asked("generate_until", *[("def read_", how)] * 8))
    assert len(set(texts)) > 4
    likeliest = {**how, "top_k": 1, "repetition_penalty": 1.0}
    greedy = ours.generate_until(asked("generate_until", ("def read_", {**how, "do_sample": False})))
    assert ours.generate_until(asked("generate_until", *[("def read_", likeliest)] * 3)) == greedy * 3
    with pytest.raises(UserError, match=r"generation_kwargs: unknown 'num_beams' \(allowed: until, .*min_p\)"):
        ours.generate_until(asked("generate_until", ("a", {**how, "num_beams": 2})))
