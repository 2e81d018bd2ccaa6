"""Checkpoints of models with an encoder: old names, tensors stored several times or for nothing, and both forms of T5's fields."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from taxonomy import spec
from taxonomy.errors import UserError
from taxonomy.interop import engine
from taxonomy.model import nets

PAGES = ("bart", "bert", "electra", "longformer", "roberta", "switch", "t5", "t5_1_1", "xlnet")


@pytest.fixture
def edited(tiny, tmp_path):
    """A page's tiny model written to a directory, whose tensors and config.json are then changed."""

    def edit(page, change=lambda tensors: None, **fields):
        engine.to_hf(tiny(page).config, tiny(page).params, tmp_path / page)
        values = json.loads((tmp_path / page / "config.json").read_text()) | fields
        (tmp_path / page / "config.json").write_text(json.dumps(values))
        tensors = load_file(tmp_path / page / "model.safetensors")
        change(tensors)
        save_file(tensors, tmp_path / page / "model.safetensors")
        return tmp_path / page

    return edit


def assert_comes_back(directory, page, net="model"):
    config, params = engine.from_hf(directory)
    expected, arrays = nets(page.spec, page.params)[net]
    assert engine.facts(spec.model(config.model)) == engine.facts(expected)
    jax.tree.map(np.testing.assert_array_equal, params, arrays)


def doubled(tensors, *names, of):
    tensors.update({name: tensors[of].copy() for name in names})


def renamed(tensors, *pairs):
    for name in list(tensors):
        new = name
        for old, today in pairs:
            new = new.replace(old, today)
        tensors[new] = tensors.pop(name)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_goes_out_and_comes_back(page, tiny, edited):
    assert_comes_back(edited(page), tiny(page))


def test_a_generator_goes_out_and_comes_back(tiny, tmp_path):
    one = tiny("electra")
    engine.to_hf(one.config, one.params, tmp_path / "generator", net="generator")
    assert json.loads((tmp_path / "generator" / "config.json").read_text())["architectures"] == ["ElectraForMaskedLM"]
    assert_comes_back(tmp_path / "generator", one, "generator")
    with pytest.raises(UserError, match=r"to_hf: net: cannot be 'generator' \(allowed: model\)"):
        engine.to_hf(tiny("bert").config, tiny("bert").params, tmp_path / "none", net="generator")


def test_one_table_under_all_its_names(tiny, edited):
    def change(tensors):
        doubled(tensors, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight", of="shared.weight")
        tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = np.zeros((32, 4), np.float32)

    assert_comes_back(edited("t5", change), tiny("t5"))


def test_a_table_of_its_own_for_one_stack_is_refused(edited):
    def change(tensors):
        doubled(tensors, "model.encoder.embed_tokens.weight", of="model.shared.weight")
        tensors["model.encoder.embed_tokens.weight"][0] += 1

    with pytest.raises(UserError, match=r"model.encoder.embed_tokens.weight differs from model.shared.weight"):
        engine.from_hf(edited("bart", change))


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_the_bias_of_logits_is_zero(value, tiny, edited):
    def change(tensors):
        tensors["final_logits_bias"] = np.full((1, tiny("bart").spec.vocab), value, np.float32)

    directory = edited("bart", change)
    if value:
        with pytest.raises(UserError, match="not zero: final_logits_bias"):
            engine.from_hf(directory)
    else:
        assert_comes_back(directory, tiny("bart"))


def test_only_the_base_model(tiny, edited):
    assert_comes_back(edited("bart", lambda tensors: renamed(tensors, ("model.", ""))), tiny("bart"))


def test_old_names_and_what_another_head_reads(tiny, edited):
    """As the first checkpoints have them."""

    def change(tensors):
        renamed(tensors, ("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
        doubled(tensors, "cls.predictions.decoder.weight", of="bert.embeddings.word_embeddings.weight")
        doubled(tensors, "cls.predictions.decoder.bias", of="cls.predictions.bias")
        width = tiny("bert").spec.d_model
        tensors["bert.embeddings.position_ids"] = np.arange(64)[None]
        for name, shape in (("bert.pooler.dense", (width, width)), ("cls.seq_relationship", (2, width))):
            tensors[f"{name}.weight"] = np.ones(shape, np.float32)
            tensors[f"{name}.bias"] = np.ones(shape[:1], np.float32)

    assert_comes_back(edited("bert", change, architectures=["BertForPreTraining"]), tiny("bert"))


@pytest.mark.parametrize(
    ("fields", "head"),
    [
        (dict(tie_word_embeddings=False), "untied"),
        # What the library writes today for this model: the tensors tell.
        (dict(tie_word_embeddings=True, scale_decoder_outputs=False), "untied"),
        (dict(tie_word_embeddings=False, scale_decoder_outputs=True), "untied(scale=d_model**-0.5)"),
    ],
)
def test_a_head_of_its_own(fields, head, edited):
    directory = edited("t5_1_1", **{"scale_decoder_outputs": None, **fields})
    config, _ = engine.from_hf(directory)
    assert config.model.head == head


@pytest.mark.parametrize(
    ("fields", "head"),
    [
        ({}, "tied(scale=d_model**-0.5)"),
        (dict(tie_word_embeddings=True, scale_decoder_outputs=False), "tied"),
        (dict(tie_word_embeddings=False), "untied"),
    ],
)
def test_what_the_fields_of_a_head_mean(fields, head):
    assert engine.read_config({"model_type": "t5", **fields})[1]["head"] == head


@pytest.mark.parametrize(
    ("model_type", "fields", "words"),
    [
        ("bert", {"architectures": ["BertForQuestionAnswering"]}, "architectures: cannot be 'BertForQuestionAnswering'"),
        ("bert", {"is_decoder": True}, "is_decoder=True"),
        ("bert", {"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("longformer", {"attention_window": [8] * 11 + [7]}, r"attention_window: cannot be \[8, .* \(allowed: an even"),
        ("longformer", {"attention_window": 7}, "attention_window: cannot be 7"),
        ("roberta", {"architectures": ["BertForMaskedLM"]}, "architectures"),
        ("bart", {"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ("bart", {"normalize_before": True}, "normalize_before=True"),
        ("bart", {"decoder_layerdrop": 0.1}, "decoder_layerdrop=0.1"),
        ("t5", {"is_encoder_decoder": False}, "is_encoder_decoder=False"),
        ("t5", {"feed_forward_proj": "gated-mish"}, "'gated-mish'"),
        ("xlnet", {"attn_type": "uni"}, "attn_type='uni' is not supported"),
        ("xlnet", {"clamp_len": 400}, "clamp_len=400"),
        ("xlnet", {"bi_data": True}, "bi_data=True"),
        ("xlnet", {"same_length": True}, "same_length=True"),
        ("xlnet", {"untie_r": False}, "untie_r=False"),
    ],
)
def test_fields_that_do_not_fit(model_type, fields, words):
    with pytest.raises(UserError, match=words):
        engine.read_config({"model_type": model_type, **fields})


@pytest.mark.parametrize(
    ("page", "model_type", "words"),
    [
        ("bert", "llama", "a model that is encoder where one with a stack 'decoder' is expected"),
        ("llama", "bert", "a model that is decoder where one with a stack 'encoder' is expected"),
        ("t5", "llama", r"a block of \(mha, mha, relu\) where \(attention, feedforward\) is expected"),
        ("bart", "t5", "learned has no buckets"),
        ("bert", "roberta", "positions that begin with the first row"),
        ("bert", "xlnet", "embedding.position would be 'none', not 'learned'"),
        ("vaswani", None, "no family computes this model"),
    ],
)
def test_another_family_does_not_compute_it(page, model_type, words, tiny):
    with pytest.raises(UserError, match=words):
        engine.write_config(tiny(page).spec, model_type)
