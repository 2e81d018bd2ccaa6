"""How sublayers are wired to the residual stream."""

from collections.abc import Iterator

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from taxonomy import registry, sharding
from taxonomy.layers.context import Context
from taxonomy.layers.params import dropout
from taxonomy.ops.attention import Keys
from taxonomy.registry import Component, Norm, Sublayer, component, formula

# What a block is given, by the name that policies of remat know it by.
STREAM = "stream"


class Block(nn.Module, kw_only=True):
    """A wiring of sublayers. `dropout` acts on what each sublayer adds to the stream.

    Subclasses define `wire`, the stream after the block.
    """

    sublayers: tuple[Sublayer, ...]
    norm: Norm
    dropout: float = 0.0

    leaves_stream_unnormalised = True
    share = 1.0  # of the tokens, how many go through

    def check(self) -> None:
        if not self.sublayers:
            raise ValueError("needs at least one sublayer, such as pre(attention, mlp)")

    @nn.compact
    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array | tuple[jax.Array, Keys]:
        """The stream after the block and, where a sublayer lends its keys and values, these."""
        lent: list[Keys] = []
        x_BTD = checkpoint_name(x_BTD, STREAM)
        x_BTD = self.wire(x_BTD, context.replace(lend=lent.append))
        return (x_BTD, *lent) if lent else x_BTD

    def _named(self) -> Iterator[tuple[str, Component]]:
        """Each sublayer with a name of its own."""
        labels = [s.label for s in self.sublayers]
        for i, (label, sublayer) in enumerate(zip(labels, self.sublayers, strict=True)):
            earlier = labels[:i].count(label)
            yield (f"{label}_{earlier + 1}" if earlier else label), sublayer

    def _normed(self, name: str, x_BTD: jax.Array) -> jax.Array:
        return registry.instantiate(self.norm, name=name)(x_BTD)

    def _apply(self, name: str, sublayer: Component, x_BTD: jax.Array, context: Context) -> jax.Array:
        whole, parts = sharding.STREAMS["whole"], sharding.STREAMS[context.stream]
        if whole != parts:
            x_BTD = sharding.moved(x_BTD, whole, parts)
        y_BTD = registry.instantiate(sublayer, name=name)(x_BTD, context)
        if whole != parts:
            y_BTD = sharding.moved(y_BTD, parts, whole)
        return dropout(self, y_BTD, self.dropout, context.train)


@component("pre", kind="block", paper="Radford et al. 2019; Xiong et al. 2020, arXiv:2002.04745")
class PreNorm(Block):
    """x + f(norm(x)) for each sublayer f in turn."""

    def wire(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        for name, sublayer in self._named():
            x_BTD = x_BTD + self._apply(name, sublayer, self._normed(f"{name}_norm", x_BTD), context)
        return x_BTD


@component("post", kind="block", paper="Vaswani et al. 2017, arXiv:1706.03762, section 3.1")
class PostNorm(Block):
    """norm(x + f(x)) for each sublayer f in turn."""

    leaves_stream_unnormalised = False

    def wire(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        for name, sublayer in self._named():
            x_BTD = self._normed(f"{name}_norm", x_BTD + self._apply(name, sublayer, x_BTD, context))
        return x_BTD


@component("sandwich", kind="block", paper="Ding et al. 2021, arXiv:2105.13290, section 2.4")
class SandwichNorm(Block):
    """x + norm(f(norm(x))) for each sublayer f in turn."""

    def wire(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        for name, sublayer in self._named():
            y_BTD = self._apply(name, sublayer, self._normed(f"{name}_norm", x_BTD), context)
            x_BTD = x_BTD + self._normed(f"{name}_post_norm", y_BTD)
        return x_BTD


@component("parallel", kind="block", paper="Wang & Komatsuzaki 2021; Chowdhery et al. 2022, arXiv:2204.02311, section 2")
class Parallel(Block):
    """x + sum of f(norm(x)) over all sublayers, with one norm for all or (`shared_norm=False`) one for each."""

    shared_norm: bool = True

    def wire(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        shared_BTD = self._normed("norm_1", x_BTD) if self.shared_norm else None
        y_BTD = x_BTD
        for name, sublayer in self._named():
            normed_BTD = shared_BTD if self.shared_norm else self._normed(f"{name}_norm", x_BTD)
            y_BTD = y_BTD + self._apply(name, sublayer, normed_BTD, context)
        return y_BTD


@component("deepnorm", kind="block", paper="Wang et al. 2022, arXiv:2203.00555, Figure 2")
class DeepNorm(Block):
    """norm(alpha x + f(x)), with the value, feed-forward and output projections of f initialised beta times smaller."""

    alpha: float = formula("(2*layers)**0.25")
    beta: float = formula("(8*layers)**-0.25")

    leaves_stream_unnormalised = False

    def wire(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        for name, sublayer in self._named():
            y_BTD = self._apply(name, self._smaller(sublayer), x_BTD, context)
            x_BTD = self._normed(f"{name}_norm", self.alpha * x_BTD + y_BTD)
        return x_BTD

    def _smaller(self, sublayer: Component) -> Component:
        """The same with its own initialiser, and those of feed-forwards inside it, beta times smaller where that matters."""
        inside = {name: self._smaller(part) for name, part in sublayer.arguments if getattr(part, "kind", "") == "feedforward"}
        if base := sublayer.get("initializer"):
            inside["initializer"] = Component("init", "depth_scaled", (("base", base), ("gain", self.beta)))
        return sublayer.replace(**inside)
