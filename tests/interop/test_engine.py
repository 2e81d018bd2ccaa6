"""Directories that are read, refused, and written. What the numbers mean is tested in tests/parity."""

import dataclasses
import json
import shutil
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from taxonomy import config as config_lib
from taxonomy import spec, stack
from taxonomy.errors import UserError
from taxonomy.interop import engine
from taxonomy.interop.rows import Row
from taxonomy.model import build

FAMILIES = ("gpt2", "gptj", "llama")
LLAMA_EMBEDDING = "model.embed_tokens.weight"


def flat(params):
    return traverse_util.flatten_dict(params, sep="/")


def assert_same(ours, expected):
    ours, expected = flat(ours), flat(expected)
    assert ours.keys() == expected.keys()
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


@pytest.fixture(scope="module")
def checkpoints(tiny, tmp_path_factory):
    """A directory of each family's tiny model."""
    root = tmp_path_factory.mktemp("checkpoints")
    for family in FAMILIES:
        engine.to_hf(tiny(family).config, tiny(family).params, root / family)
    return root


@pytest.fixture
def edited(checkpoints, tmp_path):
    """A copy of a family's directory with its config.json and its tensors changed."""

    def edit(family="llama", config=None, tensors=None):
        directory = tmp_path / family
        shutil.copytree(checkpoints / family, directory)
        if config is not None:
            values = json.loads((directory / "config.json").read_text()) | config
            (directory / "config.json").write_text(json.dumps(values))
        if tensors is not None:
            values = load_file(directory / "model.safetensors")
            tensors(values)
            save_file(values, directory / "model.safetensors")
        return directory

    return edit


def refused(directory, *words):
    with pytest.raises(UserError) as e:
        engine.from_hf(directory)
    message = str(e.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("family", FAMILIES)
def test_a_page_goes_out_and_comes_back(family, tiny, checkpoints):
    config, params = engine.from_hf(checkpoints / family)
    assert config.name == family
    assert config.is_locked
    assert_same(params, tiny(family).params)
    theirs, ours = engine.facts(spec.model(config.model)), engine.facts(tiny(family).spec)
    assert theirs == ours
    tokens = np.arange(12).reshape(2, 6)
    logits = [build(c.model).apply({"params": params}, tokens) for c in (config, tiny(family).config)]
    np.testing.assert_array_equal(*logits)
    assert config_lib.from_json(config_lib.to_json(config)).model.to_dict() == config.model.to_dict()


def test_several_files(tiny, tmp_path):
    page = tiny("llama")
    engine.to_hf(page.config, page.params, tmp_path, shard_bytes=100_000)
    files = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    stored = {name: file for file in files for name in load_file(tmp_path / file)}
    assert index["weight_map"] == stored
    sizes = [sum(a.nbytes for a in load_file(tmp_path / file).values()) for file in files]
    assert index["metadata"]["total_size"] == sum(sizes)
    # Only a tensor that is larger by itself may exceed the limit.
    assert all(size <= 100_000 or len(load_file(tmp_path / file)) == 1 for size, file in zip(sizes, files, strict=True))
    assert_same(engine.from_hf(tmp_path)[1], page.params)
    (tmp_path / files[1]).unlink()
    refused(tmp_path, files[1])


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "a/b.safetensors", "..", "a\\b.safetensors", 7])
def test_an_index_may_only_name_files_beside_it(checkpoints, tmp_path, name):
    inside = tmp_path / "inside"
    shutil.copytree(checkpoints / "llama", inside)
    shutil.move(inside / "model.safetensors", tmp_path / "outside.safetensors")
    (inside / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {LLAMA_EMBEDDING: name}}))
    refused(inside, "weight_map", repr(name))


def test_tensors_that_do_not_fit_are_listed(edited):
    def change(tensors):
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.2.mlp.up_proj.weight"] = np.zeros((2, 2), np.float32)
        tensors["model.norm.weight"] = np.zeros(3, np.float32)

    refused(
        edited(tensors=change),
        "missing: model.layers.1.mlp.up_proj.weight;",
        "unexpected: model.layers.2.mlp.up_proj.weight;",
        "wrong shape: model.norm.weight is [3], not [64]",
    )


def test_long_lists_are_cut(edited):
    refused(edited(tensors=lambda tensors: tensors.clear() or tensors.update(x=np.zeros(1))), "missing: ", " and 13 more")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "model.pt"])
def test_pickles_are_not_read(checkpoints, tmp_path, name):
    shutil.copy(checkpoints / "llama" / "config.json", tmp_path)
    (tmp_path / name).write_bytes(b"")
    refused(tmp_path, "pickles", "save_pretrained")


def test_what_is_no_checkpoint(checkpoints, tmp_path):
    refused(tmp_path / "absent", "absent is not a directory")
    refused(tmp_path, "no file", "config.json")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "config.json cannot be read")
    (tmp_path / "config.json").write_text("[]")
    refused(tmp_path, "config.json: expected an object")
    shutil.copy(checkpoints / "llama" / "config.json", tmp_path)
    refused(tmp_path, "has no model.safetensors")
    (tmp_path / "model.safetensors").write_bytes((checkpoints / "llama" / "model.safetensors").read_bytes()[:-100])
    refused(tmp_path, "model.safetensors cannot be read")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    refused(tmp_path, "weight_map")


def test_bfloat16(tiny, tmp_path):
    page = tiny("gptj")
    engine.to_hf(page.config, page.params, tmp_path, dtype="bfloat16")
    stored = load_file(tmp_path / "model.safetensors")
    assert {a.dtype for a in stored.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    _, params = engine.from_hf(tmp_path)
    rounded = jax.tree.map(lambda a: np.asarray(a).astype(ml_dtypes.bfloat16).astype(np.float32), page.params)
    assert_same(params, rounded)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


def test_numbers_that_are_no_weights(edited):
    directory = edited(tensors=lambda tensors: tensors.update({"model.norm.weight": np.zeros(64, np.int8)}))
    refused(directory, "model.norm.weight", "I8", "BF16")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lama", ["model_type", "'lama'", "did you mean 'llama'?", "gpt2, gpt_bigcode"]),
        (None, ["model_type", "None", "gpt2, gpt_bigcode"]),
        (["llama"], ["model_type"]),
    ],
)
def test_unknown_model_type(edited, name, words):
    refused(edited(config={"model_type": name}), *words)


@pytest.mark.parametrize(
    ("family", "fields", "words"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, ["scale_attn_by_inverse_layer_idx=True", "False"]),
        ("gpt2", {"add_cross_attention": True}, ["add_cross_attention=True"]),
        ("gpt2", {"activation_function": "gelu_neu"}, ["activation_function", "did you mean 'gelu_new'?"]),
        ("gpt2", {"activation_function": ["gelu"]}, ["activation_function"]),
        ("gpt2", {"pruned_heads": {"0": [1]}}, ["pruned_heads"]),
        ("gpt2", {"n_head": "4"}, ["n_head", "expected int", "'4'"]),
        ("gpt2", {"n_head": 5}, ["model.attention", "heads"]),
        ("gptj", {"rotary": False}, ["rotary=False"]),
        ("gptj", {"rotary_dim": None}, ["rotary_dim", "required"]),
        ("gptj", {"rotary_dim": 3}, ["dims=3"]),
        ("llama", {"rope_parameters": {"rope_type": "longrope"}}, ["rope_type", "'longrope'", "linear, llama3, yarn"]),
        ("llama", {"rope_scaling": {"type": "su", "factor": 2.0}}, ["rope_scaling", "'su'"]),
        ("llama", {"rope_scaling": {"type": "linear"}}, ["factor", "required"]),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, ["low_freq_factor", "required"]),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, ["partial_rotary_factor=0.5"]),
        ("llama", {"rope_parameters": {"truncate": True}}, ["truncate=True"]),
        ("llama", {"rope_parameters": 7}, ["rope_parameters", "expected an object"]),
        ("llama", {"quantization_config": {"bits": 4}}, ["quantization_config"]),
        ("llama", {"sliding_window": 4}, ["sliding_window=4", "remove it"]),
        ("llama", {"hidden_act": "mish"}, ["hidden_act", "'mish'"]),
        ("llama", {"auto_map": {"AutoModelForCausalLM": "x.Y"}}, ["auto_map"]),
    ],
)
def test_what_cannot_be_expressed_is_named(edited, family, fields, words):
    refused(edited(family, config=fields), *words)


def test_fields_that_mean_nothing_here(edited, tiny):
    fields = {"torch_dtype": "bfloat16", "eos_token_id": [1, 2], "sliding_window": None, "pretraining_tp": 2, "_name_or_path": "x"}
    assert_same(engine.from_hf(edited(config=fields))[1], tiny("llama").params)


def test_earlier_names_of_rope(edited):
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    old = {"rope_parameters": None, "rope_theta": 500000, "rope_scaling": {"rope_type": "llama3", **scaling}}
    config, _ = engine.from_hf(edited(config=old))
    assert config.model.position == "rope(theta=500000.0, scaling=by_parts(factor=8.0, low=1.0, high=4.0, original_context=8192))"


def test_only_the_base_model_and_its_buffers(edited, tiny):
    def change(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = np.ones((1, 1, 64, 64), np.uint8)
        tensors["h.1.attn.masked_bias"] = np.ones((), np.float32)

    assert_same(engine.from_hf(edited("gpt2", tensors=change))[1], tiny("gpt2").params)


def test_tied_tensors_stored_twice_or_under_the_other_name(edited, tiny, tmp_path):
    def twice(tensors):
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].copy()

    def different(tensors):
        tensors["lm_head.weight"][0, 0] += 1

    def renamed(tensors):
        tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")

    for change, fits in ((twice, True), (different, False), (renamed, True)):
        directory = edited("gpt2", tensors=lambda tensors, change=change: (twice(tensors), change(tensors)))
        if fits:
            assert_same(engine.from_hf(directory)[1], tiny("gpt2").params)
        else:
            refused(directory, "lm_head.weight differs from transformer.wte.weight", "tie_word_embeddings")
        shutil.rmtree(directory)


SAME_MODEL = {
    "attention": ["mqa(heads=4)", "gqa(heads=4, kv_heads=1)", "gqa(heads=4, kv_heads=1, head_dim=16, bias=False, out_bias=False)"],
    "position": ["rope(theta=10000)", "rope(dims=16)", "rope(theta=1e4, interleaved=False)"],
    "decoder": ["4*block", "2*(2*block)", "block + 3*block", "block + 2*(block) + block"],
}


def test_one_model_in_many_spellings(tmp_path):
    """Files do not depend on how the layers are grouped or which of several equal expressions is used."""
    expected = None
    for key, sentences in SAME_MODEL.items():
        for i, sentence in enumerate(sentences):
            base = {f"model.{k}": v[0] for k, v in SAME_MODEL.items()}
            config = config_lib.load_config("llama:tiny", {**base, f"model.{key}": sentence})
            engine.to_hf(config, numbered(config), tmp_path / f"{key}{i}")
            files = [(tmp_path / f"{key}{i}" / name).read_bytes() for name in ("config.json", "model.safetensors")]
            expected = expected or files
            assert files == expected, sentence


def numbered(config):
    """Parameters that depend on the names of the tensors they come from, not on how layers are grouped."""
    links, shapes = engine.link(engine.FAMILIES["llama"], spec.model(config.model), {})
    shape_of = {name: one.shape for one in links for name in one.names}
    return engine.fill(links, shapes, lambda name: np.random.default_rng(list(name.encode())).random(shape_of[name], np.float32))


def test_blocks_of_two_kinds_and_unrolled_parameters(tmp_path, random_params):
    """Two names for one block, in a repeat; and parameters that are not stacked."""
    page = config_lib.load_config("gpt2:tiny")
    with page.unlocked():
        page.model.blocks.other = "pre(attention, mlp)"
        page.model.decoder = "2*(block + other)"
    module = build(page.model)
    params = random_params(module, np.zeros((1, 4), np.int32))
    unrolled = {**params, "decoder": stack.unstack(params["decoder"], module.spec.decoder)}
    for i, given in enumerate((params, unrolled)):
        engine.to_hf(page, given, tmp_path / str(i))
    contents = [(tmp_path / str(i) / "model.safetensors").read_bytes() for i in range(2)]
    assert contents[0] == contents[1]
    config, imported = engine.from_hf(tmp_path / "0")
    assert config.model.decoder == "4*block"
    tokens = np.arange(10)[None]
    logits = [build(c.model).apply({"params": p}, tokens) for c, p in ((config, imported), (page, params))]
    np.testing.assert_allclose(*logits, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("palm:tiny", {}, ["no family computes this model"]),
        ("llama:tiny", {"model.attention": "mha(heads=4, softcap=30.0)"}, ["llama", "softcap would be None, not 30.0"]),
        ("llama:tiny", {"model.position": "alibi"}, ["no family computes this model"]),
        ("llama:tiny", {"model.mask": "full"}, ["decoder[0].sublayers[0].mask would be 'causal', not 'full'"]),
        ("llama:tiny", {"model.position": "rope(scaling=ntk(factor=2))"}, ["no family computes this model"]),
        ("llama:tiny", {"model.mask": "local(window=8)"}, "mistral"),
        ("llama:tiny", {"model.d_model": 66, "model.attention": "mha(heads=4, head_dim=16)"}, "mistral"),
        ("gpt2:tiny", {"model.head": "tied(bias=True)"}, ["gpt2", "head.bias would be False, not True"]),
        ("gpt2:tiny", {"model.final_norm": None}, ["no family computes this model"]),
        ("gpt2:tiny", {"model.decoder": "block"}, "gpt2"),
        ("gptj:tiny", {"model.blocks.block": "parallel(attention, mlp, shared_norm=False)"}, ["gptj", "shared_norm"]),
    ],
)
def test_which_family_computes_it(name, overrides, words):
    model = spec.model(config_lib.load_config(name, overrides).model)
    if isinstance(words, str):
        assert engine.write_config(model)[0].model_type == words
        return
    with pytest.raises(UserError) as e:
        engine.write_config(model)
    for word in words:
        assert word in str(e.value), str(e.value)


def test_the_family_may_be_given(tiny):
    model = tiny("llama").spec
    assert engine.write_config(model)[0].model_type == "llama"
    assert engine.write_config(model, "mistral")[0].model_type == "mistral"
    with pytest.raises(UserError, match="no family computes this model; nearest gpt2: "):
        engine.write_config(model, "gpt2")
    with pytest.raises(UserError, match=r"unknown family 'mistrel'; did you mean 'mistral'"):
        engine.write_config(model, "mistrel")


def test_sublayers_may_have_any_name(tmp_path):
    page = config_lib.load_config("llama:tiny")
    with page.unlocked():
        page.model.mixer = page.model.attention
        del page.model["attention"]
        page.model.blocks.block = "pre(mixer, mlp)"
    for name, config in (("mixer", page), ("attention", config_lib.load_config("llama:tiny"))):
        engine.to_hf(config, numbered(config), tmp_path / name)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("mixer", "attention"))
    assert first == second


def test_other_parameters_are_refused(tiny, tmp_path):
    page = tiny("llama")
    with pytest.raises(UserError, match="not this model's: embedding/table"):
        engine.to_hf(page.config, {**page.params, "embedding": {"table": np.zeros((2, 2))}}, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=r"unknown dtype 'float'.*did you mean"):
        engine.to_hf(page.config, page.params, tmp_path / "new", dtype="float")


def test_nothing_is_overwritten(tiny, checkpoints):
    page = tiny("llama")
    before = (checkpoints / "llama" / "config.json").read_bytes()
    with pytest.raises(UserError, match="already holds a checkpoint"):
        engine.to_hf(page.config, page.params, checkpoints / "llama")
    assert (checkpoints / "llama" / "config.json").read_bytes() == before


def test_reading_keeps_little_besides_the_parameters(tmp_path):
    """Sixteen layers of 1 MB: while they are read, the parameters and about one tensor more are in memory."""
    config = config_lib.load_config(
        "llama:tiny", {"model.d_model": 192, "model.decoder": "16*block", "model.mlp": "swiglu(d_ff=256)"}
    )
    engine.to_hf(config, numbered(config), tmp_path)
    engine.from_hf(tmp_path)
    tracemalloc.start()
    _, params = engine.from_hf(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert size > 16e6
    assert peak < size + 3e6


def test_a_row_for_what_config_says(tiny):
    """Two rows for one parameter, of which a field chooses one; without a choice, and without a row, there is an error."""
    llama, model = engine.FAMILIES["llama"], tiny("llama").spec
    first, *rest = llama.rows
    other = dataclasses.replace(first, theirs="other.weight", when=lambda values: values.get("other", False))
    usual = dataclasses.replace(first, when=lambda values: not values.get("other", False))
    family = dataclasses.replace(llama, rows=(usual, other, *rest))
    for values, name in (({}, LLAMA_EMBEDDING), ({"other": True}, "other.weight")):
        links, _ = engine.link(family, model, values)
        assert [one.names for one in links if one.ours[0][0] == "embedding/table"] == [(name,)]
    with pytest.raises(UserError, match="more than one row for embedding/table"):
        engine.link(dataclasses.replace(llama, rows=(first, dataclasses.replace(other, when=None), *rest)), model, {})
    with pytest.raises(UserError, match="no row for the parameter embedding/table"):
        engine.link(dataclasses.replace(llama, rows=tuple(rest)), model, {})


def test_one_parameter_in_many_tensors():
    """Experts that are stored one by one, for both layers of a stack."""
    row = Row("h.{layer}.experts.{e}.w1", "decoder/{layer}/moe/gate", "e f d -> e d f")
    shapes = {"decoder/0_repeat/moe/gate": (2, 3, 4, 5)}
    links = [
        engine.Link(row, tuple(row.names(i, (3,))), (5, 4), (("decoder/0_repeat/moe/gate", (i,)),), ((3, 4, 5),), {})
        for i in (0, 1)
    ]
    leaves = {path: np.random.default_rng(0).random(shape, np.float32) for path, shape in shapes.items()}
    tensors = {name: (shape, get()) for name, shape, get in engine.empty(links, leaves)}
    assert sorted(tensors) == [f"h.{i}.experts.{e}.w1" for i in range(2) for e in range(3)]
    for name, (shape, array) in tensors.items():
        _, layer, _, expert, _ = name.split(".")
        assert array.shape == shape
        np.testing.assert_array_equal(array, leaves["decoder/0_repeat/moe/gate"][int(layer), int(expert)].T)
    assert_same(engine.fill(links, shapes, lambda name: tensors[name][1]), traverse_util.unflatten_dict(leaves, sep="/"))
