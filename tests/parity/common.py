"""A tiny random model of another library and our import of it, side by side, and what has to be equal."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import traverse_util
from safetensors.numpy import load_file

import taxonomy.model
from taxonomy import spec
from taxonomy.inference import decode
from taxonomy.interop import engine
from taxonomy.layers import routing

BATCH, TIME, PROMPT, INPUTS = 2, 72, 8, 40
torch.set_num_threads(1)


@dataclasses.dataclass
class Pair:
    """The same model twice: `theirs` as built, `ours` as imported from the directory it was saved to.

    others: what it reads besides tokens, in our words. auto: the class that builds it is AutoModelFor...
    """

    theirs: Any
    directory: pathlib.Path
    config: Any
    params: dict
    forward: Any
    tokens: np.ndarray
    others: dict[str, np.ndarray]
    auto: str

    @property
    def model(self):
        return taxonomy.model.build(self.config.model.to_dict())

    @property
    def counted(self) -> np.ndarray | slice:
        """Which logits both of us define, bools (B, T): with an order those of the tokens that are predicted."""
        return self.others["order"] > 0 if "order" in self.others else np.s_[:]


def pair(
    config, directory: pathlib.Path, auto: str = "CausalLM", change=None, seed: int = 0, attention: str = "eager", prefix: float = 0
) -> Pair:
    """Builds, randomises, saves and imports a model. Every parameter matters: none is left at zero or one.

    `change` is done to a model before it is saved. `attention` is their implementation. `prefix`: the share of tokens all see.
    """
    torch.manual_seed(seed)
    theirs = of_kind(auto).from_config(config, attn_implementation=attention).eval().float()
    with torch.no_grad():
        for value in theirs.parameters():
            noise = torch.randn_like(value)
            if value.dim() > 1:
                # Large enough that attention is far from uniform.
                value.copy_(1.5 * noise * value.shape[-1] ** -0.5)
            else:
                # Around one for most gains, and around zero for biases and gains that are offsets from one.
                value.add_(0.3 * noise)
        if change is not None:
            change(theirs)
    theirs.save_pretrained(directory)
    ours, params = engine.from_hf(directory)
    model = taxonomy.model.build(ours.model.to_dict())
    forward = jax.jit(lambda p, tokens, others: model.apply({"params": p}, tokens=tokens, **others))
    generator = np.random.default_rng(seed)
    # The table of a padding token has no gradient, and some count positions without it.
    first = 0 if config.pad_token_id is None else config.pad_token_id + 1
    tokens = generator.integers(first, config.vocab_size, (BATCH, TIME))
    others = {}
    if len(model.spec.stacks) > 1:
        lengths = np.array([INPUTS, INPUTS - 7])
        place = np.broadcast_to(np.arange(INPUTS), (BATCH, INPUTS))
        others["inputs"] = generator.integers(first, config.vocab_size, (BATCH, INPUTS))
        others["input_positions"] = np.where(place < lengths[:, None], place, -1)
    kinds = [3 if part.get("parts") else part.get("types", 0) for part in model.spec.components()]
    if max(kinds) > 1:
        others["types"] = generator.integers(0, max(kinds), (BATCH, TIME))
    if prefix:
        others["prefix"] = generator.random((BATCH, TIME)) < prefix
    return Pair(theirs, directory, ours, params, functools.partial(forward, params), tokens, others, auto)


def of_kind(auto: str):
    """The class that builds models of a kind, such as CausalLM."""
    return getattr(transformers, f"AutoModelFor{auto}")


def pairs(model_type: str, cases: dict[str, dict], auto: str = "CausalLM", change=None):
    """The fixture `pair` of a family's tests: one for every case: fields of its config, maybe `auto`, `attention` and `prefix`."""

    @pytest.fixture(scope="module", params=cases)
    def pair_of_case(request, tmp_path_factory):
        fields = {"auto": auto, **cases[request.param]}
        kind, attention, prefix = fields.pop("auto"), fields.pop("attention", "eager"), fields.pop("prefix", 0)
        config = transformers.AutoConfig.for_model(model_type, **fields)
        return pair(config, tmp_path_factory.mktemp("theirs"), kind, change, attention=attention, prefix=prefix)

    return pair_of_case


class EncoderParity:
    """What the tests of every family check, each with the fixture `pair` of its file."""

    def test_logits(self, pair):
        check_logits(pair)

    def test_loss_and_gradients(self, pair):
        check_loss_and_gradients(pair)

    def test_round_trip(self, pair, tmp_path):
        check_round_trip(pair, tmp_path / "ours")


class Parity(EncoderParity):
    """And of those that generate."""

    def test_greedy(self, pair):
        check_greedy(pair)


class SparseParity(Parity):
    """And of those with experts, which must have many tokens and few for that to mean something."""

    def test_loads(self, pair):
        assert figures(pair)["expert_load_max"] > 1.5


def figures(pair: Pair) -> dict[str, Any]:
    """What our layers with experts report."""
    read = dict(tokens=pair.tokens, **pair.others)
    _, found = jax.jit(lambda params: pair.model.apply({"params": params}, **read, mutable=["routing"]))(pair.params)
    return routing.figures(found["routing"], 1.0)


def their_words(
    tokens: np.ndarray, inputs=None, input_positions=None, types=None, prefix=None, order=None
) -> dict[str, torch.Tensor]:
    """What we read, as what they read."""
    if inputs is None:
        found = dict(input_ids=tokens, token_type_ids=types, global_attention_mask=None if prefix is None else prefix.astype(int))
        if order is not None:
            found |= hidden(order)
    else:
        mask = None if input_positions is None else (input_positions >= 0).astype(int)
        found = dict(input_ids=inputs, attention_mask=mask, decoder_input_ids=tokens)
    return {name: torch.tensor(array) for name, array in found.items() if array is not None}


def hidden(order: np.ndarray) -> dict[str, np.ndarray]:
    """Which token j is hidden from i, (B, T, T): those of higher order, and those of its own unless it is only read."""
    i, j = order[:, :, None], order[:, None, :]
    every_place = np.broadcast_to(np.eye(order.shape[1], dtype=np.float32), i.shape[:2] + j.shape[2:])
    return dict(perm_mask=((j > i) | ((j == i) & (i > 0))).astype(np.float32), target_mapping=every_place)


def logits_of(theirs, tokens: np.ndarray, **others: np.ndarray) -> torch.Tensor:
    """Their logits, (B, T, V), (B, T, 1), or as one token (B, 1, C)."""
    logits = theirs(**their_words(tokens, **others)).logits
    if logits.shape == tokens.shape:
        return logits[..., None]
    return logits if logits.dim() == 3 else logits[:, None]


def their_logits(theirs, tokens: np.ndarray, **others: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return logits_of(theirs, tokens, **others).numpy()


def check_logits(pair: Pair) -> None:
    """Logits are equal to 1e-4."""
    expected = their_logits(pair.theirs, pair.tokens, **pair.others)[pair.counted]
    assert expected.std() > 0.1
    found = np.asarray(pair.forward(pair.tokens, pair.others))[pair.counted]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def check_loss_and_gradients(pair: Pair) -> None:
    """The mean loss of saying the next token, and its gradient for every parameter, are equal to 1e-3 of their size.

    Of a head for real numbers, the loss that they make of labels.
    """
    model, batch = pair.model, {"tokens": pair.tokens, **pair.others}
    logits = logits_of(pair.theirs, pair.tokens, **pair.others)
    if model.spec.head.name == "regression":
        targets = np.random.default_rng(1).standard_normal(logits.shape).astype(np.float32)
        labels = torch.tensor(targets[:, 0])
        their_loss = pair.theirs(**their_words(pair.tokens, **pair.others), labels=labels).loss
    else:
        detects = pair.auto == "PreTraining"
        targets = np.roll(pair.tokens, -1, 1)[:, : logits.shape[1]] % (2 if detects else logits.shape[2])
        flat, said = logits[pair.counted].flatten(0, -2), torch.tensor(targets[pair.counted]).flatten()
        if detects:
            their_loss = torch.nn.functional.binary_cross_entropy_with_logits(flat[:, 0], said.float())
        else:
            their_loss = torch.nn.functional.cross_entropy(flat, said)
    their_loss.backward()
    gradients = stored_gradients(pair.theirs, pair.directory / "gradients")
    family, _ = engine.read_config(pair.theirs.config.to_dict())
    links, shapes = engine.link(family, spec.model(pair.config.model.to_dict()), pair.theirs.config.to_dict())
    assert set(gradients) >= {name for link in links for name in link.names}
    expected = traverse_util.flatten_dict(engine.fill(links, shapes, gradients.__getitem__), sep="/")

    batch["targets"], batch["weights"] = targets, np.zeros(targets.shape[:2], np.float32)
    batch["weights"][pair.counted] = 1.0

    def loss(params):
        sums = model.apply({"params": params}, **batch, method="loss")
        return sums.loss / sums.weight.sum()

    our_loss, ours = jax.jit(jax.value_and_grad(loss))(pair.params)
    np.testing.assert_allclose(our_loss, their_loss.item(), rtol=1e-3)
    ours = traverse_util.flatten_dict(ours, sep="/")
    assert set(ours) == set(expected)
    for path, gradient in ours.items():
        np.testing.assert_allclose(gradient, expected[path], rtol=0, atol=1e-3 * np.abs(expected[path]).max() + 1e-6, err_msg=path)


def stored_gradients(theirs, directory: pathlib.Path) -> dict[str, np.ndarray]:
    """Gradients by the names of tensors in files, where some are older than in the code, or split: written in place of the weights.

    Zero where the loss did not need the weight, and for what is no weight.
    """
    kept = {name: value.detach().clone() for name, value in theirs.state_dict().items()}
    gradients = {name: value.grad for name, value in theirs.named_parameters(remove_duplicate=False)}
    with torch.no_grad():
        for name, value in theirs.state_dict().items():
            value.copy_(torch.zeros_like(value) if gradients.get(name) is None else gradients[name])
        theirs.save_pretrained(directory)
    theirs.load_state_dict(kept)
    theirs.zero_grad()
    return load_file(directory / "model.safetensors")


def check_greedy(pair: Pair) -> None:
    """The most likely continuation of 64 tokens is the same, each model decoding with its own cache."""
    prompt = pair.tokens[:, :PROMPT]
    options = dict(max_new_tokens=TIME - PROMPT, do_sample=False, eos_token_id=None, pad_token_id=0)
    words = {"attention_mask": torch.ones(prompt.shape), **their_words(prompt, **pair.others)}
    if "decoder_input_ids" in words:
        # They put a token to start with before any other.
        options["decoder_start_token_id"] = int(prompt[0, 0])
    expected = pair.theirs.generate(**words, **options).numpy()

    inputs = None
    if "inputs" in pair.others:
        rows = zip(pair.others["inputs"], pair.others["input_positions"], strict=True)
        inputs = [tokens[positions >= 0].tolist() for tokens, positions in rows]
    how = dict(max_new_tokens=TIME - PROMPT, inputs=inputs)
    found = decode.generate_tokens(pair.model.spec, pair.params, prompt.tolist(), **how)
    np.testing.assert_array_equal(found, expected[:, -(TIME - PROMPT) :])


def check_round_trip(pair: Pair, directory: pathlib.Path) -> None:
    """What we write is the same model to them, without a missing or unexpected tensor, and the same bits to us."""
    engine.to_hf(pair.config, pair.params, directory, model_type=pair.theirs.config.model_type)
    options = dict(attn_implementation=pair.theirs.config._attn_implementation, output_loading_info=True)
    again, report = of_kind(pair.auto).from_pretrained(directory, **options)
    assert type(again) is type(pair.theirs)
    assert not any(report.values()), report
    expected = their_logits(pair.theirs, pair.tokens, **pair.others)
    np.testing.assert_allclose(their_logits(again.eval(), pair.tokens, **pair.others), expected, rtol=0, atol=1e-5)

    config, params = engine.from_hf(directory)
    assert config.model.to_dict() == pair.config.model.to_dict()
    leaves, expected = (traverse_util.flatten_dict(p, sep="/") for p in (params, pair.params))
    assert set(leaves) == set(expected)
    for path, leaf in leaves.items():
        assert leaf.dtype == expected[path].dtype == np.float32
        assert leaf.tobytes() == expected[path].tobytes(), path
