"""Our own pages, written out: transformers computes the same logits; and what it assumes of absent fields is what we assume."""

import jax
import numpy as np
import pytest

import taxonomy.model
from taxonomy import config as config_lib
from taxonomy.interop import engine

from . import common

# Pages, and the family they are written as.
PAGES = {
    "bart": "bart",
    "bert": "bert",
    "biogpt": "biogpt",
    "bloom": "bloom",
    "command_a": "cohere2",
    "command_r": "cohere",
    "deepseek_v2": "deepseek_v2",
    "deepseek_v3": "deepseek_v3",
    "electra": "electra",
    "falcon": "falcon",
    "galactica": "opt",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "gpt1": "openai-gpt",
    "gpt2": "gpt2",
    "gpt_neo": "gpt_neo",
    "gpt_neox": "gpt_neox",
    "gptj": "gptj",
    "helium": "helium",
    "kimi_k2": "deepseek_v3",
    "llama": "llama",
    "longformer": "longformer",
    "mistral": "mistral",
    "nemotron4": "nemotron",
    "opt": "opt",
    "persimmon": "persimmon",
    "phi": "phi",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "roberta": "roberta",
    "smollm3": "smollm3",
    "starcoder": "gpt_bigcode",
    "starcoder2": "starcoder2",
    "t5": "t5",
    "t5_1_1": "t5",
    "ul2": "t5",
    "xlnet": "xlnet",
}
# Families that are no CausalLM.
KINDS = {
    "bart": "Seq2SeqLM",
    "bert": "MaskedLM",
    "electra": "PreTraining",
    "longformer": "MaskedLM",
    "roberta": "MaskedLM",
    "t5": "Seq2SeqLM",
}


@pytest.mark.parametrize("page", [page for page in PAGES if page in config_lib.families()])
def test_a_page_in_several_files(page, tiny, tmp_path):
    ours = tiny(page)
    engine.to_hf(ours.config, ours.params, tmp_path, shard_bytes=100_000, model_type=PAGES[page])
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    kind = common.of_kind(KINDS.get(PAGES[page], "CausalLM"))
    theirs = kind.from_pretrained(tmp_path, attn_implementation="eager").eval()
    generator = np.random.default_rng(0)
    batch = {name: generator.integers(2, ours.spec.vocab, (2, 24)) for name in taxonomy.model.blank(ours.spec)}
    logits = jax.jit(ours.model().apply)({"params": ours.params}, **batch)
    np.testing.assert_allclose(logits, common.their_logits(theirs, **batch), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", sorted(engine.FAMILIES))
def test_absent_fields(family):
    # They have no default of ours, because null is no number.
    required = {"gptj": {"rotary_dim": 64}, "deepseek_v2": {"num_experts_per_tok": 6}}.get(family, {})
    full = common.transformers.AutoConfig.for_model(family, **required).to_dict()
    _, expected = engine.read_config({"model_type": family, **full})
    _, section = engine.read_config({"model_type": family, **required})
    assert section == expected
