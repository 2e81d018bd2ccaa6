"""Layer algebra -> modules. The only file that knows about scan of layers; with stages on the mesh, `pipeline` has its part in it.

Parameters follow the algebra: item i of a sequence is "{i}_{block}" or "{i}_repeat". A scanned repeat holds one body whose arrays
have a leading axis of the repeat's length; an unrolled one holds "{i}_repeat_{r}" for each turn r. `unstack` and `restack`
convert between the two.

Where the mesh has stages, every repeat of the stack itself whose count they divide passes through them; other layers, whatever is
in them, and all that is cached, are computed as without.
"""

import functools
import re
from collections.abc import Collection, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy import pipeline, registry, sharding
from taxonomy.blocks import STREAM
from taxonomy.errors import UserError, nearest
from taxonomy.layers.context import Context
from taxonomy.notation import Layers, Repeat
from taxonomy.registry import Component

# What a block keeps for its backward pass; the rest is computed again.
REMAT_POLICIES = {
    "none": "everything",
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,  # the projections, not the attention scores
    "full": jax.checkpoint_policies.nothing_saveable,  # only the block's input
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(  # the same, in the memory of the host meanwhile
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[STREAM],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


def policy_of(remat: str, block: str) -> str:
    """The name of a block's policy: "dots" says it of all blocks, "dots,wide:full" another one of the block `wide`."""
    named = _named(remat)
    return named.get(block, named.get("", "none"))


def check_remat(remat: str, blocks: Collection[str] | None = None, field: str = "remat") -> None:
    """Raises UserError on a policy that there is not, or a block that is not among those given."""
    for block, policy in _named(remat).items():
        if policy not in REMAT_POLICIES:
            raise UserError(f"{field}: unknown policy '{policy}'{nearest(policy, REMAT_POLICIES)}")
        if block and blocks is not None and block not in blocks:
            raise UserError(f"{field}: unknown block '{block}'{nearest(block, blocks)}")


def _named(remat: str) -> dict[str, str]:
    return dict(part.rpartition(":")[::2] for part in remat.split(","))


class Stack(nn.Module):
    """Blocks in the order of the layer algebra, repeats scanned or unrolled. microbatches: see `pipeline`."""

    layers: Layers
    blocks: tuple[tuple[str, Component], ...]
    scan: bool = True
    remat: str = "none"
    stream: str = "whole"
    microbatches: int | None = None

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        for i, item in enumerate(self.layers.items):
            if isinstance(item, str):
                found = self._block(item, f"{i}_{item}")(self._constrained(x_BTD), context)
                if isinstance(found, tuple):
                    # What a turn's blocks lend is for the rest of its turn.
                    found, lent = found
                    context = context.replace(lent=lent)
                x_BTD = self._constrained(found)
            elif self.scan and (parts := self._parts(item, context)):
                x_BTD = self._constrained(self._in_stages(item.body, f"{i}_repeat", parts, x_BTD, context))
            elif self.scan:
                scanned = nn.scan(
                    _Turn,
                    variable_axes={"params": 0, "cache": 0, "routing": 0},
                    split_rngs={"params": True, "dropout": True},
                    in_axes=nn.broadcast,
                    length=item.count,
                    metadata_params={nn.PARTITION_NAME: "layers"},
                )
                x_BTD, _ = scanned(**self._inner(item.body), name=f"{i}_repeat")(x_BTD, context)
            else:
                for turn in range(item.count):
                    x_BTD = Stack(**self._inner(item.body), name=f"{i}_repeat_{turn}")(x_BTD, context)
        return x_BTD

    def _inner(self, body: Layers) -> dict[str, Any]:
        return {"layers": body, "blocks": self.blocks, "scan": self.scan, "remat": self.remat, "stream": self.stream}

    def _parts(self, repeat: Repeat, context: Context) -> int:
        """The microbatches in which the rows pass through stages of this repeat, or 0 where it has none."""
        if (
            isinstance(self, _Turn)
            or self.is_initializing()
            or context.cache_length is not None
            or repeat.count % sharding.stages()
        ):
            return 0
        return pipeline.microbatches(context, self.microbatches)

    def _in_stages(self, body: Layers, name: str, parts: int, x_BTD: jax.Array, context: Context) -> jax.Array:
        """A scanned repeat of this name, whose parameters and reports are where they are without stages."""
        module = _Turn(**self._inner(body), parent=None)

        def turn(params, x_BTD, context, key):
            rngs = None if key is None else {"dropout": key}
            (x_BTD, _), sown = module.apply({"params": params}, x_BTD, context, rngs=rngs, mutable=["routing"])
            return x_BTD, sown.get("routing", {})

        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        x_BTD, reports = pipeline.through(turn, self.get_variable("params", name), x_BTD, context, parts, key)
        if reports and self.is_mutable_collection("routing"):
            self.put_variable("routing", name, reports)
        return x_BTD

    def _block(self, block: str, name: str) -> nn.Module:
        check_remat(self.remat)
        transform, kept = None, policy_of(self.remat, block)
        if kept != "none":
            policy = pipeline.projections if kept == "dots" and sharding.staged() else REMAT_POLICIES[kept]
            # A scan's body is compiled apart from its backward pass; elsewhere the two could be merged again.
            transform = functools.partial(nn.remat, policy=policy, prevent_cse=not isinstance(self, _Turn))
        return registry.instantiate(dict(self.blocks)[block], transform, name=name)

    def _constrained(self, x_BTD: jax.Array) -> jax.Array:
        """The residual stream, kept in its sharding."""
        return sharding.constrained(x_BTD, sharding.STREAMS[self.stream])


class _Turn(Stack):
    """One turn of a scanned repeat."""

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> tuple[jax.Array, None]:
        return Stack.__call__(self, x_BTD, context), None


def locations(layers: Layers) -> Iterator[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    """For each layer in order: its block's name, its path in the scanned parameters, and its index on their leading axes."""
    for i, item in enumerate(layers.items):
        if isinstance(item, str):
            yield item, (f"{i}_{item}",), ()
        else:
            for turn in range(item.count):
                for block, path, index in locations(item.body):
                    yield block, (f"{i}_repeat", *path), (turn, *index)


def unstack(tree: dict[str, Any], layers: Layers) -> dict[str, Any]:
    """From the scanned layout of a stack's variables to the unrolled one. Layers without such variables are in neither."""
    result = {}
    for i, item in enumerate(layers.items):
        if isinstance(item, str):
            result |= {name: tree[name] for name in (f"{i}_{item}",) if name in tree}
        elif f"{i}_repeat" in tree:
            for turn in range(item.count):
                one = jax.tree.map(lambda a, turn=turn: a[turn], tree[f"{i}_repeat"])
                result[f"{i}_repeat_{turn}"] = unstack(one, item.body)
    return result


def restack(tree: dict[str, Any], layers: Layers) -> dict[str, Any]:
    """From the unrolled layout of a stack's variables to the scanned one."""
    result = {}
    for i, item in enumerate(layers.items):
        if isinstance(item, str):
            result[f"{i}_{item}"] = tree[f"{i}_{item}"]
            continue
        turns = [restack(tree[f"{i}_repeat_{turn}"], item.body) for turn in range(item.count)]
        result[f"{i}_repeat"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *turns)
    return result


def is_stacked(tree: dict[str, Any]) -> bool:
    """Whether a stack's variables are in the scanned layout."""
    return not any(re.fullmatch(r"\d+_repeat_\d+", name) for name in tree)
