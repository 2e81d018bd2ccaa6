"""Every structure on meshes of every axis, alone and by twos and threes, trains as on one device."""

import functools
import itertools

import numpy as np
import pytest
from training.common import RATE, SMOOTH, results, start, trainer_of

from taxonomy import config as config_lib
from taxonomy import sharding, spec

STEPS = 5
# A window; a shared table of relative positions, and attention across; both directions; experts.
STRUCTURES = {
    "decoder": ("gemma3:tiny", {"model.decoder": "2*local"}),
    # Not by a relu: where one is almost zero, gradients differ by what rounding makes of it.
    "encoder-decoder": ("t5:tiny", {"model.encoder": "2*reading", "model.decoder": "2*writing", "model.mlp": "gelu(d_ff=64)"}),
    "encoder": ("bert:tiny", {"model.encoder": "2*block"}),
    "experts": ("mixtral:tiny", {"model.decoder": "2*block"}),
}
ROWS, TIME, INPUTS = 8, 32, 16
AXES = ("replica", "data", "fsdp", "sequence", "tensor", "expert", "stage")
# The lines of the Fano plane: each of the 21 pairs stands in one of seven triples.
TRIPLES = [tuple(AXES[(i + k) % 7] for k in (0, 1, 3)) for i in range(7)]
PAIRS = [*zip(itertools.combinations(AXES, 2), itertools.cycle(STRUCTURES), strict=False)]
MESHES = [*itertools.product([(axis,) for axis in AXES] + TRIPLES, STRUCTURES), *PAIRS]
# Heads that an axis of four does not divide alike, and experts of a part of the axis each.
WIDER = [("sequence:4", "decoder"), ("fsdp:2,sequence:4", "experts"), ("tensor:4", "encoder-decoder"), ("expert:4", "experts")]


@functools.cache
def model_of(structure: str) -> spec.Model:
    name, overrides = STRUCTURES[structure]
    small = {"model.d_model": 32, "model.vocab": 64, "model.context": TIME, **overrides}
    if structure == "encoder-decoder":
        small["model.inputs"] = INPUTS
    return spec.model(config_lib.load_config(name, small).model.to_dict())


@functools.cache
def batch_of(structure: str) -> dict[str, np.ndarray]:
    """Two documents in every row, of other lengths in each, and some padding."""
    generator, batch = np.random.default_rng(0), {}
    for prefix, name, time in (("", "tokens", TIME), ("input_", "inputs", INPUTS)):
        if prefix and structure != "encoder-decoder":
            continue
        place, first = np.arange(time), generator.integers(3, time - 6, (ROWS, 1))
        batch[name] = generator.integers(0, 64, (ROWS, time)).astype(np.int32)
        batch[f"{prefix}positions"] = np.where(place < first, place, place - first).astype(np.int32)
        batch[f"{prefix}segments"] = np.where(place >= time - 3, 0, 1 + (place >= first)).astype(np.int32)
    batch["targets"] = generator.integers(0, 64, (ROWS, TIME)).astype(np.int32)
    batch["weights"] = ((batch["segments"] > 0) & (generator.random((ROWS, TIME)) < 0.7)).astype(np.float32)
    return batch


def trained(structure: str, mesh: str, devices: int) -> np.ndarray:
    """Loss and gradient norm of every step."""
    trainer = trainer_of(model_of(structure), SMOOTH, 1.0, mesh=mesh, devices=devices)
    state, found = start(trainer, initial(structure)), []
    for _ in range(STEPS):
        state, metrics = trainer.step(state, trainer.put(batch_of(structure)), RATE)
        found.append([float(metrics[name]) for name in ("loss", "grad_norm")])
    return np.asarray(found)


@functools.cache
def initial(structure: str):
    return trainer_of(model_of(structure), SMOOTH, 1.0).init(0).params


@functools.cache
def on_one_device(structure: str) -> np.ndarray:
    return trained(structure, "data:1", 1)


@pytest.mark.parametrize(("mesh", "structure"), [*((",".join(f"{axis}:2" for axis in axes), one) for axes, one in MESHES), *WIDER])
def test_a_structure_trains_on_a_mesh_as_on_one_device(mesh, structure):
    expected = on_one_device(structure)
    assert np.ptp(expected[:, 0]) > 0.01
    found = trained(structure, mesh, sharding.devices_of(mesh))
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=1e-5)
    # The last gradient is for no loss that is compared.
    np.testing.assert_allclose(found[:-1, 1], expected[:-1, 1], rtol=1e-5)


@pytest.mark.parametrize(("heads", "operation"), [(4, "all-to-all"), (3, "collective-permute")])
def test_no_device_reads_a_whole_sequence(heads, operation, packed):
    """A step sends parts of heads or of keys; but for the batch's own numbers nothing has the length of the context anywhere."""
    attention = f"gqa(heads={heads}, kv_heads=1, head_dim=8)"
    overrides = {"model.context": 92, "model.decoder": "block", "model.attention": attention, "model.mlp": "swiglu(d_ff=40)"}
    model = spec.model(config_lib.load_config("llama:tiny", overrides).model.to_dict())
    batch = packed(model.vocab, time=92, rows=4)._asdict()
    text = trainer_of(model, SMOOTH, 1.0, mesh="fsdp:2,sequence:4", devices=8).lower(batch).compile().as_text()
    assert results(text, operation)
    assert not [shape for shape in results(text, "all-gather") if 92 in shape or 92 // 2 in shape]
