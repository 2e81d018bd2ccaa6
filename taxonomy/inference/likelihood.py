"""How likely a model finds tokens that follow others, many of different lengths at once."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from taxonomy import model as model_lib
from taxonomy import spec
from taxonomy.errors import UserError
from taxonomy.inference import steps
from taxonomy.inference.prompts import padded, rounded


class Continuation(NamedTuple):
    """Tokens that are given, at least one, and those that follow. An encoder reads the former, the decoder beside it the latter."""

    given: Sequence[int]
    following: Sequence[int]


class Likelihood(NamedTuple):
    """The logarithm of the probability of all tokens that follow, in nats, and whether each is the likeliest at its place."""

    logarithm: float
    greedy: bool


class _Row(NamedTuple):
    """What the decoder reads and what it should say, of which the last `counted` tokens count; `inputs` are the encoder's."""

    read: list[int]
    targets: list[int]
    counted: int
    inputs: list[int]


def longest(model_spec: spec.Model) -> int:
    """Tokens that a model reads at once: its context, or the positions it knows where these are fewer."""
    return min(limit for limit in (model_spec.context, model_lib.position_limit(model_spec)) if limit is not None)


def likelihoods(
    model_spec: spec.Model,
    params: Mapping[str, Any],
    pairs: Sequence[Continuation],
    *,
    start: int,
    dtype: str = "float32",
    batch_tokens: int = 16384,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> list[Likelihood]:
    """The likelihood of each continuation. What is too long loses the beginning of what is given, never what follows.

    `start` begins what a decoder beside an encoder writes. Texts of like lengths are computed together, some `batch_tokens` at a
    time; `told` is told how many are done, and of how many. Raises UserError for an encoder, and where what follows is too long.
    """
    if "decoder" not in model_spec.stacks:
        raise UserError("--tasks: the model is an encoder; it says nothing of how likely a text is")
    model_spec, params = steps.ready(model_spec, params)
    params = jax.device_put(params)
    rows = [_row(model_spec, pair, start) for pair in pairs]
    found: dict[int, Likelihood] = {}
    for places, size in _batches([len(row.read) + len(row.inputs) for row in rows], batch_tokens):
        full = [rows[i] for i in places] + [rows[places[-1]]] * (size - len(places))
        sums = jax.device_get(_sums(model_spec, dtype, params, _arrays(model_spec, full)))
        for place, nll, correct, weight in zip(places, sums.nll, sums.correct, sums.weight, strict=False):
            found[place] = Likelihood(-float(nll), bool(correct == weight))
        told(len(found), len(rows))
    return [found[place] for place in range(len(rows))]


def _row(model_spec: spec.Model, pair: Continuation, start: int) -> _Row:
    given, following = ([int(token) for token in tokens] for tokens in pair)
    most = longest(model_spec)
    if not given or not 0 < len(following) <= most:
        raise UserError(f"--tasks: {len(following)} tokens follow {len(given)}; allowed are 1 to {most} after at least one")
    if len(model_spec.stacks) > 1:
        return _Row([start, *following[:-1]], following, len(following), given[-model_spec.inputs :])
    whole = [*given, *following][-most - 1 :]
    return _Row(whole[:-1], whole[1:], len(following), [])


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[tuple[list[int], int]]:
    """The places of the rows of each batch, the longest first, and how many rows it is computed with: few different shapes."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        most = max(1, batch_tokens // rounded(lengths[order[0]]))
        batch, order = order[:most], order[most:]
        yield batch, min(most, 2 ** (len(batch) - 1).bit_length())


def _arrays(model_spec: spec.Model, rows: Sequence[_Row]) -> dict[str, np.ndarray]:
    """What `Transformer.loss` reads."""
    tokens_BT, places_BT = padded([row.read for row in rows])
    targets_BT, _ = padded([row.targets for row in rows])
    lengths_B1 = np.array([[len(row.read)] for row in rows])
    first_B1 = lengths_B1 - np.array([[row.counted] for row in rows])
    found = _placed(tokens_BT, places_BT) | {"targets": targets_BT, "weights": (places_BT >= first_B1).astype(np.float32)}
    if model_spec.prefixed:
        found["prefix"] = (places_BT >= 0) & (places_BT <= first_B1)
    if len(model_spec.stacks) > 1:
        beside = _placed(*padded([row.inputs for row in rows]))
        found |= {"inputs": beside["tokens"], "input_positions": beside["positions"], "input_segments": beside["segments"]}
    return found


def _placed(tokens_BT: np.ndarray, places_BT: np.ndarray) -> dict[str, np.ndarray]:
    """Tokens with their positions, those of padding zero, and the segment 1, that of padding 0."""
    return {"tokens": tokens_BT, "positions": np.maximum(places_BT, 0), "segments": (places_BT >= 0).astype(np.int32)}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sums(model_spec: spec.Model, dtype: str, params: Any, arrays: dict[str, jax.Array]):
    model = model_lib.build(model_spec, dtype=dtype)
    return model.apply({"params": params}, **{name: jnp.asarray(array) for name, array in arrays.items()}, method="loss")
