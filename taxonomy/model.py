"""Embedding -> encoder and/or decoder -> head."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from taxonomy import registry, sharding, spec
from taxonomy.ahead import PREFIX, later, modules_ahead, wanted_ahead
from taxonomy.errors import UserError
from taxonomy.layers import embeddings, routing, streams
from taxonomy.layers.context import Context, Memory
from taxonomy.objectives.masked_lm import discriminate
from taxonomy.ops import cross_entropy
from taxonomy.ops.losses import PLAIN, Loss
from taxonomy.registry import Component
from taxonomy.stack import Stack


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a model is computed, which changes its speed and memory but not its function.

    dtype: of activations. scan: repeats as one scanned body. remat: see `stack.policy_of`.
    attention: an implementation of `ops.attention`. experts: one of `layers.experts`, where nothing limits what an expert takes.
    loss_chunk: tokens whose logits are alive at a time on a device. stream: one of `sharding.STREAMS`. spare: see `Context`.
    pipeline_microbatches: see `pipeline`.
    """

    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"
    attention: str = "auto"
    experts: str = "auto"
    loss_chunk: int = 1024
    stream: str = "whole"
    spare: int = 0
    pipeline_microbatches: int | None = None


class Transformer(nn.Module):
    """A decoder, an encoder, or both.

    Arrays: tokens (B, T) integers; positions, segments and prefix (B, T), see `Context`. `inputs` (B, S) and their coordinates are
    what the encoder beside a decoder reads; `tokens` are what the decoder, or the only stack, reads. `order` (B, T): a token sees
    those of its own and of lower order, and one of order above 0 is predicted from those of strictly lower order. `domains` (B,)
    see `Context`. `shared` is the embedding of the model whose generator this one is.
    """

    spec: spec.Model
    execution: Execution = Execution()
    shared: nn.Module | None = None

    def setup(self):
        own = self.spec.embedding
        self.embedding = registry.instantiate(own) if self.shared is None else embeddings.sharing(own, self.shared)
        if self.spec.ordered:
            self.query = streams.QueryVector(spec.vectors(own)["d_model"], self.spec.initializer)
        for name, layers in self.spec.stacks.items():
            how = self.execution.scan, self.execution.remat, self.execution.stream, self.execution.pipeline_microbatches
            setattr(self, name, Stack(layers, self.spec.blocks, *how))
            shared = shared_position(self.spec, name)
            if shared is not None:
                setattr(self, f"{name}_positions", registry.instantiate(shared))
        for name in ("encoder_norm", "final_norm"):
            if getattr(self.spec, name) is not None:
                setattr(self, name, registry.instantiate(getattr(self.spec, name)))
        self.head = registry.instantiate(self.spec.head)
        if self.spec.generator is not None:
            self.generator = Transformer(self.spec.generator, self.execution, self.embedding)
        for name, module in modules_ahead(self.spec, self.execution.remat).items():
            setattr(self, name, module)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
        cache_length: int | None = None,
        **others: jax.Array,
    ) -> jax.Array:
        """Float32 logits (B, T, V). With `cache_length`, keys and values are kept in the mutable collection "cache".

        `others`: prefix, types, order, domains, inputs, input_positions, input_segments. Inputs may be left out once a cache has
        what they gave. `cache` among them is the kind of cache that is made, see `layers.cache`; it stays what it is.
        """
        x_BTD, context = self._features(tokens, positions, segments, train, cache_length, **others)
        if self.is_initializing():
            list(self._ahead(x_BTD, tokens, context))
        return cross_entropy.logits(*self._projected(x_BTD))

    def loss(
        self,
        tokens: jax.Array,
        targets: jax.Array,
        positions: jax.Array | None = None,
        segments: jax.Array | None = None,
        weights: jax.Array | None = None,
        train: bool = False,
        loss: Loss = PLAIN,
        input_targets: jax.Array | None = None,
        input_weights: jax.Array | None = None,
        ahead: float = 1.0,
        **others: jax.Array,
    ) -> cross_entropy.Sums:
        """Sums of the loss of saying `targets`, as `loss` counts it; `weights` (B, T) default to one. `others` as above.

        With `input_targets` and `input_weights` (B, S) the encoder has a loss of its own on the same head, which is added. Losses
        of routers are added when the collection "routing" is mutable; they count for as much as the row's weights. `ahead`: what
        the loss of the modules that predict further ahead counts, averaged over their depths; "ahead" in the sums' `others` has it,
        added up over the depths.
        """
        x_BTD, context = self._features(tokens, positions, segments, train, None, **others)
        if weights is None:
            weights = jnp.ones(targets.shape[:2], jnp.float32)
        chunk = self.execution.loss_chunk
        sums = cross_entropy.cross_entropy(*self._projected(x_BTD), targets, weights, loss, chunk)
        if input_targets is not None:
            read = self._projected(context.memory.x_BSD)
            own = cross_entropy.cross_entropy(*read, input_targets, input_weights, loss, chunk)
            sums = jax.tree.map(jnp.add, sums, own)
        if self.spec.ahead is not None:
            depths, beyond = len(self.spec.ahead), cross_entropy.zeros(len(tokens))
            wanted = wanted_ahead(targets, weights, segments, depths)
            for read_BTD, those in zip(self._ahead(x_BTD, tokens, context), wanted, strict=True):
                found = cross_entropy.cross_entropy(*self._projected(read_BTD), *those, loss, chunk)
                beyond = jax.tree.map(jnp.add, beyond, found)
            sums = sums.replace(loss=sums.loss + ahead / depths * beyond.loss, others={"ahead": beyond})
        return routing.added(sums, self.variables.get("routing"))

    def last_logits(self, tokens: jax.Array, positions: jax.Array, cache_length: int, **others: jax.Array) -> jax.Array:
        """Float32 logits (B, V) after each row's last real token, its cache extended; padding has position -1."""
        x_BTD, _ = self._features(tokens, positions, None, False, cache_length, **others)
        return self._said_last(x_BTD, positions)

    def following(self, tokens: jax.Array, positions: jax.Array, cache_length: int) -> tuple[jax.Array, jax.Array]:
        """Float32 logits (B, T, V) after every token and what the head reads (B, T, D), the cache extended."""
        x_BTD, _ = self._features(tokens, positions, None, False, cache_length)
        return cross_entropy.logits(*self._projected(x_BTD)), x_BTD

    def following_ahead(
        self, depth: int, x_BTD: jax.Array, tokens: jax.Array, positions: jax.Array, cache_length: int, cache: str = "exact"
    ) -> tuple[jax.Array, jax.Array]:
        """What the module of a depth says after each row's last real place (B, V), and what the head reads for that (B, T, D).

        `x_BTD` is that of the depth before at these places, and `tokens` stand `depth` places after them. The module's own cache is
        extended; padding has position -1.
        """
        *_, last = self.spec.stacks
        places = jnp.where(positions < 0, -1, positions + depth)
        read = Context(places, tokens_BT=tokens, cache_length=cache_length, cache=cache, **self._execution())
        e_BTD, context = self._embedded(last, tokens, read)
        x_BTD = getattr(self, f"{PREFIX}{depth}")(x_BTD, e_BTD, context.replace(positions_BT=positions))
        return self._said_last(x_BTD, positions), x_BTD

    def _said_last(self, x_BTD: jax.Array, positions: jax.Array) -> jax.Array:
        """Logits (B, V) after each row's last real token."""
        last_B = positions.argmax(1)
        x_BD = jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)[:, 0]
        return cross_entropy.logits(*self._projected(x_BD))

    def _execution(self) -> dict[str, Any]:
        """What a context is told of how things are computed."""
        return {name: getattr(self.execution, name) for name in ("attention", "experts", "stream", "spare")}

    def features(self, tokens: jax.Array, positions=None, segments=None, train: bool = False, **others: jax.Array) -> jax.Array:
        """What the head reads, (B, T, D)."""
        return self._features(tokens, positions, segments, train, None, **others)[0]

    def _ahead(self, x_BTD: jax.Array, tokens: jax.Array, context: Context) -> Iterator[jax.Array]:
        """What the head reads (B, T, D) at each depth beyond the next token, from what it reads for that."""
        if self.spec.ahead is None:
            return
        *_, last = self.spec.stacks
        e_BTD, context = self._embedded(last, tokens, context)
        for depth in range(1, len(self.spec.ahead) + 1):
            read = context.replace(tokens_BT=later(tokens, depth))
            x_BTD = getattr(self, f"{PREFIX}{depth}")(x_BTD, later(e_BTD, depth), read)
            yield x_BTD

    def _projected(self, x: jax.Array) -> tuple[jax.Array, cross_entropy.Projection]:
        features, projection = self.head(x, self.embedding.table_VD)
        return features, projection.replace(scale=projection.scale * self.spec.output_scale(features.shape[-1]))

    def _features(
        self,
        tokens,
        positions,
        segments,
        train: bool,
        cache_length: int | None,
        prefix=None,
        inputs=None,
        input_positions=None,
        input_segments=None,
        types=None,
        order=None,
        domains=None,
        cache: str = "exact",
    ) -> tuple[jax.Array, Context]:
        """What the head reads, and the context of the tokens."""
        common = {"domains_B": domains, "train": train, **self._execution()}
        *_, last = self.spec.stacks
        memory = None
        if len(self.spec.stacks) > 1 and inputs is not None:
            context = Context(self._places(inputs, input_positions), input_segments, tokens_BT=inputs, **common)
            x_BSD = self._through("encoder", inputs, context)
            x_BSD = x_BSD if self.spec.encoder_norm is None else self.encoder_norm(x_BSD)
            memory = Memory(x_BSD, context.positions_BT, input_segments)
        elif (inputs is not None) != (len(self.spec.stacks) > 1) and not (cache_length and inputs is None):
            raise UserError(f"inputs: {'required by' if inputs is None else 'not read by'} a model that is {self.spec.structure}")
        places, caching = self._places(tokens, positions), {"cache_length": cache_length, "cache": cache}
        context = Context(places, segments, prefix, types, memory, tokens_BT=tokens, **caching, **common)
        # Asked for in any case, so that it is among the parameters whatever they are made with.
        vector_11D = self.query() if self.spec.ordered else None
        if order is None:
            x_BTD = self._through(last, tokens, context)
        elif vector_11D is None:
            raise UserError("order: not read by this model (model.mask='permutation' would)")
        else:
            x_BTD = streams.end(self._through(last, tokens, streams.begin(context, order, vector_11D)), order)
        return x_BTD if self.spec.final_norm is None else self.final_norm(x_BTD), context

    def _through(self, name: str, tokens, context: Context) -> jax.Array:
        """Token embeddings through a stack."""
        x_BTD = getattr(self, name)(*self._embedded(name, tokens, context))
        # The loss takes its tokens in parts.
        return x_BTD if self.execution.stream == "whole" else sharding.constrained(x_BTD, sharding.STREAMS["whole"])

    def _embedded(self, name: str, tokens, context: Context) -> tuple[jax.Array, Context]:
        """Token embeddings, and the context with what all layers of a stack share."""
        beside = name == "encoder" and len(self.spec.stacks) > 1
        x_BTD = self.embedding(tokens, context, jnp.dtype(self.execution.dtype), beside)
        if shared_position(self.spec, name) is not None:
            context = context.replace(relative_NH=getattr(self, f"{name}_positions").table(_heads(self.spec, name)))
        return x_BTD, context

    def _places(self, tokens, positions) -> jax.Array:
        if positions is None:
            _check_length(self.spec, tokens.shape[1])
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        return positions


class EncoderDecoder(Transformer):
    """An encoder and a decoder: called with what each of them reads."""

    def __call__(self, inputs: jax.Array | None, tokens: jax.Array, *rest: Any, **others: Any) -> jax.Array:
        """Float32 logits (B, T, V) of the decoder; see `Transformer`."""
        return Transformer.__call__(self, tokens, *rest, inputs=inputs, **others)


class WithGenerator(Transformer):
    """An encoder that tells the tokens of a text from samples of a generator, a smaller encoder trained beside it.

    Called, it says what it makes of the tokens; the generator has a part in the loss alone (Clark et al. 2020, arXiv:2003.10555,
    section 2). Both read the same vectors of tokens.
    """

    def __call__(self, tokens: jax.Array, *rest: Any, **others: Any) -> jax.Array:
        """Float32 scores (B, T, 1) of having been replaced; see `Transformer`."""
        if self.is_initializing():
            self.generator(tokens)
        return Transformer.__call__(self, tokens, *rest, **others)

    def loss(
        self,
        tokens: jax.Array,
        targets: jax.Array,
        positions: jax.Array | None = None,
        segments: jax.Array | None = None,
        weights: jax.Array | None = None,
        train: bool = False,
        loss: Loss = PLAIN,
        detection: jax.Array | None = None,
        **others: jax.Array,
    ) -> cross_entropy.Sums:
        """Sums of the generator's `loss` of saying `targets`, the original text, where `weights` (B, T) are above zero.

        `tokens` are the text with these places masked. `loss` has also the loss of telling which tokens are not the original once
        they are sampled from the generator; "detection" in `others` has its sums. The weights of both are in the same unit;
        `detection` (B, T) defaults to one for every token but padding. No gradient goes through the samples.
        """
        if weights is None:
            weights = jnp.ones(targets.shape, jnp.float32)
        if detection is None:
            detection = jnp.ones(targets.shape, jnp.float32) if segments is None else (segments > 0).astype(jnp.float32)
        features = self.generator.features(tokens, positions, segments, train, **others)
        said, chunk = self.generator._projected(features), self.execution.loss_chunk
        sums = cross_entropy.cross_entropy(*said, targets, weights, loss, chunk)
        sampled = cross_entropy.sample(*said, self._uniform(tokens), chunk)
        read, replaced = discriminate(targets, sampled, weights > 0)
        found = Transformer.loss(self, read, replaced.astype(jnp.int32), positions, segments, detection, train, **others)
        return sums.replace(loss=sums.loss + found.loss, others={"detection": found}, routing=found.routing)

    def _uniform(self, tokens_BT: jax.Array) -> jax.Array:
        """A number in [0, 1) for each token: a function of the random key, which is a fixed one without the stream, and its row.

        So a row gets the same samples in whatever batch, or part of one, it is computed.
        """
        key = self.make_rng("sample") if self.has_rng("sample") else jax.random.key(0)
        place = jnp.arange(tokens_BT.shape[1], dtype=jnp.uint32)
        # Odd numbers that differ from place to place (Knuth's multiplier): a hash of the row, modulo 2^32.
        rows_B = jnp.sum(tokens_BT.astype(jnp.uint32) * (jnp.uint32(2654435761) * place * 2 + 1), axis=1, dtype=jnp.uint32)
        draw = lambda row: jax.random.uniform(jax.random.fold_in(key, row), place.shape)  # noqa: E731
        return jax.vmap(draw)(rows_B)


def _heads(model: spec.Model, stack: str) -> int:
    """Heads of the stack's first attention."""
    block = model.block(next(iter(model.stacks[stack])))
    return next(part["heads"] for part in block.walk() if part.kind == "attention")


def shared_position(model: spec.Model, stack: str) -> Component | None:
    """The position whose table all layers of a stack share, if there is one."""
    beside = model.ahead or () if stack == "decoder" else ()
    blocks = (model.block(name) for name in dict.fromkeys((*model.stacks[stack], *beside)))
    found = dict.fromkeys(part for block in blocks for part in block.walk() if part.kind == "position" and part.get("shared"))
    if len(found) > 1:
        raise UserError(
            f"model.{stack}: its layers share one table of positions, but there are several: {', '.join(map(str, found))}"
        )
    return next(iter(found), None)


def position_limit(model: spec.Model) -> int | None:
    """Tokens a document may have, or None when there is no bound."""
    limits = [registry.instantiate(part, parent=None).longest() for part in model.components() if part.kind == "position"]
    return min((limit for limit in limits if limit is not None), default=None)


def _check_length(model: spec.Model, time: int) -> None:
    limit = position_limit(model)
    if limit is not None and time > limit:
        raise UserError(
            f"tokens: {time} in a row, but the model knows {limit} positions (rows of several documents need `positions`)"
        )


def build(section, **execution) -> Transformer:
    """The Flax module of a config's `model` section (or of a `spec.Model`), computed as `Execution(**execution)` says."""
    parsed = section if isinstance(section, spec.Model) else spec.model(section)
    kind = WithGenerator if parsed.generator is not None else EncoderDecoder if len(parsed.stacks) > 1 else Transformer
    return kind(parsed, Execution(**execution))


def nets(model: spec.Model, params: Any) -> dict[str, tuple[spec.Model, Any]]:
    """Each net with its parameters, as a model of its own: "model", as it is after training, and beside one "generator"."""
    own = {name: part for name, part in params.items() if name != "generator" and not name.startswith(PREFIX)}
    if model.generator is None:
        return {"model": (model.alone, own)}
    vectors = own["embedding"].get("vectors", own["embedding"])
    beside = params["generator"]
    embedding = {"vectors": vectors, **beside.get("embedding", {})} if model.generator.embedding.get("base") else vectors
    return {"model": (model.alone, own), "generator": (model.generator, {**beside, "embedding": embedding})}


def blank(model: spec.Model, batch: int = 1, time: int = 1) -> dict[str, jax.Array]:
    """Keyword arguments for `init` and `apply`: zeros for all that the model reads."""
    tokens = jnp.zeros((batch, time), jnp.int32)
    return {"inputs": tokens, "tokens": tokens} if len(model.stacks) > 1 else {"tokens": tokens}


def example_batch(config, batch: int = 2) -> dict[str, jax.Array]:
    """Keyword arguments of the right shapes for `model.init` and `model.apply`."""
    time = min(config.train.context or config.model.context, 128)
    return blank(spec.model(config.model), batch, time)
