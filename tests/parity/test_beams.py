"""Beam search against transformers: the same texts with the same scores, for decoders and encoder-decoders."""

import numpy as np
import pytest
import transformers

from taxonomy import spec
from taxonomy.inference import beams

from . import common, test_bart, test_t5
from .common import torch

GPT2 = dict(vocab_size=41, n_positions=80, n_embd=24, n_layer=1, n_head=3)
T5 = dict(vocab_size=41, d_model=24, d_kv=8, d_ff=40, num_layers=1, num_heads=3)
BART = {**test_bart.SMALL, "vocab_size": 41, "encoder_layers": 1, "decoder_layers": 1}
NEW, BEAMS = 10, 3
# Many, so that texts of several lengths are found.
STOPS = {"gpt2": [*range(2, 41, 3)], "t5": [*range(2, 41, 3)], "bart": [*range(1, 41, 3)]}


@pytest.fixture(scope="module", params=["gpt2", "t5", "bart"])
def pair(request, tmp_path_factory):
    fields, auto, change = {
        "gpt2": (GPT2, "CausalLM", None),
        "t5": (T5, "Seq2SeqLM", test_t5.change),
        "bart": (BART, "Seq2SeqLM", None),
    }[request.param]
    config = transformers.AutoConfig.for_model(request.param, **fields)
    return common.pair(config, tmp_path_factory.mktemp("theirs"), auto, change)


def theirs(pair, tokens, stops, penalty, early_stopping):
    words = common.their_words(tokens, **pair.others)
    words.setdefault("attention_mask", torch.ones(tokens.shape))
    if "decoder_input_ids" in words:
        words["decoder_start_token_id"] = int(tokens[0, 0])
    found = pair.theirs.generate(
        **words,
        num_beams=BEAMS,
        num_return_sequences=BEAMS,
        max_new_tokens=NEW,
        length_penalty=penalty,
        early_stopping=early_stopping,
        eos_token_id=stops,
        forced_eos_token_id=None,
        pad_token_id=0,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    rows = [row[tokens.shape[1] :].tolist() for row in found.sequences]
    ends = [next((i for i, token in enumerate(row) if token in stops), NEW) for row in rows]
    rows = [row[:end] for row, end in zip(rows, ends, strict=True)]
    return rows, found.sequences_scores.numpy()


@pytest.mark.parametrize(("penalty", "early_stopping"), [(1.0, False), (2.0, "never"), (0.0, True)], ids=str)
def test_beams(pair, penalty, early_stopping):
    stops, tokens = STOPS[pair.theirs.config.model_type], pair.tokens[:, :4]
    inputs = None
    if pair.others:
        tokens = np.full_like(tokens[:, :1], 3)
        inputs = [row[place >= 0].tolist() for row, place in zip(*pair.others.values(), strict=True)]
    found = beams.search(
        spec.model(pair.config.model),
        pair.params,
        tokens.tolist(),
        beams=BEAMS,
        max_new_tokens=NEW,
        length_penalty=f"power({penalty})",
        early_stopping=early_stopping,
        inputs=inputs,
        stop_token=stops,
    )
    expected, scores = theirs(pair, tokens, stops, penalty, early_stopping)
    assert len({len(row) for row in expected}) > 1
    assert [one.tokens for row in found for one in row] == expected
    np.testing.assert_allclose([one.score for row in found for one in row], scores, rtol=1e-4, atol=1e-4)
