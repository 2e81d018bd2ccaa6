"""What layers that choose report: losses of their own, and figures people watch."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from taxonomy.ops.cross_entropy import Sums

_NAME = "sums"


@struct.dataclass
class Routing:
    """Of one layer, or on leading axes of those of a repeat; all but the bias rate float32.

    loss_B: losses of its own by row, per token. load_E: assignments to each expert, `dropped` those of them without a slot.
    entropy: of the router's probabilities in nats, summed over `tokens`. bias_rate: see `routers.TopK`.
    """

    loss_B: jax.Array
    load_E: jax.Array
    dropped: jax.Array
    entropy: jax.Array
    tokens: jax.Array
    bias_rate: float | None = struct.field(pytree_node=False, default=None)


@struct.dataclass
class Predicted:
    """Of a layer that some tokens go through and a predictor of which: its loss by row, per token, and how often it is `right`."""

    loss_B: jax.Array
    right: jax.Array
    tokens: jax.Array


Report = Routing | Predicted


def sow(module: nn.Module, routing: Report) -> None:
    """Puts what a layer reports into the variable collection "routing", when that is mutable and there are parameters."""
    if not module.is_initializing():
        module.sow("routing", _NAME, routing, reduce_fn=lambda _, new: new, init_fn=lambda: None)


def added(sums: Sums, collection: Any) -> Sums:
    """Sums with the losses of all layers, each row's as often as it has weight, and with what they report summed over rows."""
    if not collection:
        return sums
    weight_B = jax.lax.stop_gradient(sums.weight)

    def weighed(one: Report) -> Report:
        # Where two streams pass the layers, a row of the batch is several neighbours.
        loss_B = one.loss_B.reshape(*one.loss_B.shape[:-1], weight_B.size, -1).mean(-1)
        return one.replace(loss_B=jnp.sum(loss_B * weight_B, -1))

    found = jax.tree.map(weighed, collection, is_leaf=_is_report)
    return sums.replace(loss=sums.loss + sum(one.loss_B.sum() for _, one in layers(found)), routing=jax.lax.stop_gradient(found))


def layers(tree: Any, kind: Any = Report) -> Iterator[tuple[tuple[str, ...], Report]]:
    """Every report of a kind with the path of its layer."""
    for path, one in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_report)[0]:
        if isinstance(one, kind):
            yield tuple(entry.key for entry in path[:-1]), one


def figures(tree: Any, weight: jax.Array) -> dict[str, jax.Array]:
    """What to watch, over all layers.

    router_loss: per token that counts. router_entropy: in nats. dropped_fraction: of assignments. expert_load: mean shares of
    assignments times the number of experts. expert_load_max, expert_load_min: the extremes of any layer. depth_loss,
    depth_accuracy: of predicting which tokens go through a layer.
    """
    predicted, routed = ([one for _, one in layers(tree, kind)] for kind in (Predicted, Routing))
    return (_of_depths(predicted, weight) if predicted else {}) | (_of_experts(routed, weight) if routed else {})


def _of_depths(found: list[Predicted], weight: jax.Array) -> dict[str, jax.Array]:
    return {
        "depth_loss": _total(found, "loss_B") / weight,
        "depth_accuracy": _total(found, "right") / _total(found, "tokens"),
    }


def _of_experts(found: list[Routing], weight: jax.Array) -> dict[str, jax.Array]:
    share = [one.load_E / jnp.maximum(one.load_E.mean(-1, keepdims=True), 1e-9) for one in found]
    result = {
        "router_loss": _total(found, "loss_B") / weight,
        "router_entropy": _total(found, "entropy") / _total(found, "tokens"),
        "dropped_fraction": _total(found, "dropped") / _total(found, "load_E"),
        "expert_load_max": jnp.stack([one.max() for one in share]).max(),
        "expert_load_min": jnp.stack([one.min() for one in share]).min(),
    }
    if len({one.shape[-1] for one in share}) == 1:
        flat = jnp.concatenate([one.reshape(-1, one.shape[-1]) for one in share])
        result["expert_load"] = flat.mean(0)
    return result


def _total(found: list[Report], name: str) -> jax.Array:
    return sum(getattr(one, name).sum() for one in found)


def balanced(params: Any, tree: Any) -> Any:
    """Parameters with the selection biases moved towards experts with less than the mean load (arXiv:2408.15664, Algorithm 1)."""
    for path, one in layers(tree, Routing):
        if one.bias_rate is not None:
            step = one.bias_rate * jnp.sign(one.load_E.mean(-1, keepdims=True) - one.load_E)
            params = _moved(params, (*path, "router", "selection_bias"), step)
    return params


def _moved(tree: Any, path: tuple[str, ...], step: jax.Array) -> Any:
    if not path:
        return tree + step
    return {**tree, path[0]: _moved(tree[path[0]], path[1:], step)}


def _is_report(leaf: Any) -> bool:
    return isinstance(leaf, Report)
