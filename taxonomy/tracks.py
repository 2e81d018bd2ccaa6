"""Parallel tracks: small transformers side by side that read the same stream and meet at the end of a block."""

import flax.linen as nn
import jax

from taxonomy import registry, sharding
from taxonomy.layers.context import Context
from taxonomy.registry import Annotated, Component, component

_Block = Annotated[Component, ("block",)]


class _Track(nn.Module):
    """Blocks one after another."""

    blocks: tuple[_Block, ...]

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        for i, block in enumerate(self.blocks):
            x_BTD = registry.instantiate(block, name=f"{i}_{block.name}")(x_BTD, context)
        return x_BTD


@component("tracks", kind="block", paper="Apple 2025, arXiv:2507.13575, section 2.2")
class Tracks(nn.Module):
    """x plus what each of `count` tracks adds to it; a track is these blocks in turn, with parameters of its own.

    Tracks that stood on devices of their own would exchange nothing but the sum, once for all the blocks.
    """

    blocks: tuple[_Block, ...]
    count: int

    leaves_stream_unnormalised = True
    share = 1.0

    def check(self) -> None:
        if self.count < 1 or not self.blocks:
            raise ValueError(f"count={self.count} must be at least 1, and a track has at least one block")

    def copies(self) -> int:
        """How often each part of this component is there."""
        return self.count

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        side_by_side = nn.vmap(
            _Track,
            variable_axes={"params": 0, "cache": 1, "routing": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=None,
            axis_size=self.count,
            metadata_params={nn.PARTITION_NAME: "tracks"},
        )
        with sharding.in_copies():
            y_NBTD = side_by_side(self.blocks, name="tracks")(x_BTD, context)
        return x_BTD + (y_NBTD - x_BTD).sum(0)
