"""The training step: a pure function from (state, batch, learning rate) to (state, metrics), compiled once per batch shape."""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from taxonomy import distributed, sharding
from taxonomy.layers import routing
from taxonomy.layers.params import Declared
from taxonomy.model import Transformer, blank
from taxonomy.ops.cross_entropy import Sums
from taxonomy.ops.losses import PLAIN, Loss
from taxonomy.training.optimizers import Optimizer

Batch = dict[str, jax.Array]


@struct.dataclass
class TrainState:
    """Everything a run needs besides its config and its data. `skipped` counts updates left out in a row."""

    step: jax.Array
    skipped: jax.Array
    key: jax.Array
    params: Any
    opt_state: Any


class Trainer:
    """The compiled functions of one run on one mesh. `declared` and `abstract` describe its parameters and its state."""

    def __init__(
        self,
        model: Transformer,
        optimizer: Optimizer,
        mesh: Mesh | AbstractMesh,
        clip: float | None = 1.0,
        loss: Loss = PLAIN,
        parts: tuple[int, int] = (1, 1),
        ahead: float | None = None,
    ):
        """`parts`: how many datasets and objectives there are, see `Parts`; sums are apart for each of what `part` says.

        `ahead`: what the loss of modules that predict further ahead counts, where there are any.
        """
        self.model, self.optimizer, self.mesh, self.clip, self.loss, self.parts = model, optimizer, mesh, clip, loss, parts
        self.options = {} if ahead is None else {"ahead": ahead}
        self.declared = jax.eval_shape(lambda: model.init(jax.random.key(0), **blank(model.spec)))["params"]
        self.transform = optimizer.transform(self.declared)
        self.abstract = jax.eval_shape(self._create, jax.random.key(0))
        self.shardings = self.shardings_on(mesh)
        batch, replicated = sharding.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
        self._init = jax.jit(self._create, out_shardings=self.shardings)
        self._fresh = jax.jit(self.transform.init, out_shardings=self.shardings.opt_state)
        self._step = jax.jit(
            self._train,
            static_argnums=3,
            donate_argnums=0,
            in_shardings=(self.shardings, batch, None),
            out_shardings=(self.shardings, replicated),
        )
        self._compiled: dict[Any, Any] = {}
        self._evaluate = jax.jit(self._sums, in_shardings=(self.shardings.params, batch), out_shardings=replicated)

    def shardings_on(self, mesh: Mesh | AbstractMesh) -> TrainState:
        """Where the state stands on a mesh."""
        replicated = NamedSharding(mesh, PartitionSpec())
        params = sharding.parameter_shardings(self.declared, mesh)
        # Optimizer moments stand at their parameter's path and are sharded like it, factored ones along what they keep of its
        # dimensions; counters are replicated.
        places = dict(jax.tree_util.tree_flatten_with_path(params)[0])
        shapes = {path: leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(self.abstract.params)[0]}

        def place(path, leaf):
            own = next((path[i:] for i in range(len(path)) if path[i:] in places), None)
            return sharding.like(places[own], shapes[own], leaf.shape) if own else replicated

        opt_state = jax.tree_util.tree_map_with_path(place, self.abstract.opt_state)
        return TrainState(replicated, replicated, replicated, params, opt_state)

    def init(self, seed: int) -> TrainState:
        """A new state, each array created where it lives."""
        return self._call(self._init, jax.random.key(seed))

    def beginning(self, state: TrainState, params: Any) -> TrainState:
        """The state with other parameters, which are placed already, and a fresh optimizer."""
        return state.replace(params=params, opt_state=self._call(self._fresh, params))

    def step(self, state: TrainState, batch: Batch, learning_rate: float, microbatches: int = 1) -> tuple[TrainState, dict]:
        """One update; the state is donated. Metrics stay on the device, those of `parts` [parts] as sums."""
        return self._call(self._step, state, batch, jnp.float32(learning_rate), static=(microbatches,))

    def evaluate(self, params: Any, batch: Batch) -> Sums:
        """Sums of the plain loss over a batch, [parts] but for `loss`, without an update."""
        return self._call(self._evaluate, params, batch)

    def _call(self, function: Any, *arguments: Any, static: tuple = ()) -> Any:
        """Calls a compiled function; several processes begin with it when all have compiled it."""
        with self.scope():
            if not distributed.several():
                return function(*arguments, *static)
            key = function, static, tuple(leaf.shape for leaf in jax.tree.leaves(arguments))
            if key not in self._compiled:
                self._compiled[key] = function.lower(*arguments, *static).compile()
                distributed.wait()
            return self._compiled[key](*arguments)

    def trace(self, batch: Batch, microbatches: int = 1) -> Any:
        """The step traced for abstract arrays, on a mesh that may be abstract: for plans."""
        with self.scope():
            return self._step.trace(self.abstract, batch, jax.ShapeDtypeStruct((), jnp.float32), microbatches)

    def lower(self, batch: Batch, microbatches: int = 1, platform: str | None = None) -> Any:
        """The step lowered for abstract arrays, for tests and plans; for another platform than JAX's own where one is named."""
        traced = self.trace(batch, microbatches)
        with self.scope():
            return traced.lower(lowering_platforms=None if platform is None else (platform,))

    def scope(self) -> Any:
        """The mesh and the axis rules that logical constraints are read under."""
        stack = contextlib.ExitStack()
        abstract = isinstance(self.mesh, AbstractMesh)
        stack.enter_context(jax.sharding.use_abstract_mesh(self.mesh) if abstract else jax.set_mesh(self.mesh))
        stack.enter_context(nn.logical_axis_rules(sharding.flax_rules()))
        return stack

    def place(self, params: Any) -> Any:
        """Parameters of which every process has all, as global arrays; those that are global already stay as they are."""
        if not distributed.several():
            return jax.device_put(params, self.shardings.params)

        def one(leaf, place):
            whole = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
            return jax.make_array_from_callback(leaf.shape, place, lambda index: np.asarray(leaf)[index]) if whole else leaf

        return jax.tree.map(one, params, self.shardings.params)

    def own(self, count: int) -> Sequence[int]:
        """Which rows of a batch of so many this process reads."""
        return sharding.own_rows(self.mesh, count)

    def put(self, batch: dict[str, Any], count: int | None = None) -> Batch:
        """Rows of a batch as global arrays: `own(count)` of it where `count` is given, otherwise all."""
        place = sharding.batch_sharding(self.mesh)
        if count is None:
            count = len(next(iter(batch.values())))
            batch = {k: v[np.asarray(self.own(count))] for k, v in batch.items()} if distributed.several() else batch
        return {k: jax.make_array_from_process_local_data(place, v, (count, *v.shape[1:])) for k, v in batch.items()}

    def _create(self, key: jax.Array) -> TrainState:
        key, init_key = jax.random.split(key)
        boxes = self.model.init(init_key, **blank(self.model.spec))["params"]
        # Not flax's own unboxing: its constraint refuses the two axes of layers that a repeat in a repeat has.
        params = jax.tree.map(lambda box: box.value, boxes, is_leaf=lambda leaf: isinstance(leaf, Declared))
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, zero, key, params, self.transform.init(params))

    def _sums(self, params: Any, batch: Batch, rngs: dict[str, jax.Array] | None = None) -> Sums:
        train, loss = rngs is not None, PLAIN if rngs is None else self.loss
        read = {name: array for name, array in batch.items() if name != "part"}
        if "part" in batch:
            read["domains"] = batch["part"] // self.parts[1]
        # Layers with experts add what they report, and losses of their own.
        arguments = dict(read, **self.options, train=train, loss=loss, rngs=rngs, method="loss", mutable=["routing"])
        sums, _ = self.model.apply({"params": params}, **arguments)
        part_B = batch.get("part", jnp.zeros(sums.weight.shape, jnp.int32))
        # A comparison instead of a scatter: every device adds up its own rows first.
        of_BP = part_B[:, None] == jnp.arange(math.prod(self.parts))
        return sums.collected(lambda rows_B: jnp.where(of_BP, rows_B[:, None], 0.0).sum(0))

    def _train(self, state: TrainState, batch: Batch, learning_rate: jax.Array, microbatches: int) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(state.key, state.step)
        gradients, sums = self._gradients(state.params, batch, key, microbatches)
        weight = sums.weight.sum()
        gradients = jax.tree.map(lambda g: g / weight, gradients)
        norm = optax.tree.norm(gradients)
        if self.clip is not None:
            factor = jnp.minimum(1.0, self.clip / jnp.maximum(norm, 1e-16))
            gradients = jax.tree.map(lambda g: g * factor, gradients)
        updates, opt_state = self.transform.update(gradients, state.opt_state, state.params)
        updates = self.optimizer.scaled(updates, state.params, learning_rate, self.declared)
        params = routing.balanced(optax.apply_updates(state.params, updates), sums.routing)
        finite = jnp.isfinite(norm) & jnp.isfinite(sums.loss)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (params, opt_state), (state.params, state.opt_state)
        )
        skipped = jnp.where(finite, 0, state.skipped + 1)
        metrics = {
            "loss": sums.nll.sum() / weight,
            "objective": sums.loss / weight,
            "accuracy": sums.correct.sum() / weight,
            **sums.means_of_others(),
            **routing.figures(sums.routing, weight),
            "grad_norm": norm,
            "param_norm": optax.tree.norm(params),
            "skipped": skipped,
            "parts": (sums.nll, sums.correct, sums.weight),
        }
        return TrainState(state.step + 1, skipped, state.key, params, opt_state), metrics

    def _gradients(self, params: Any, batch: Batch, key: jax.Array, microbatches: int) -> tuple[Any, Sums]:
        """Gradients of the summed loss, and the sums; microbatches are added up one after another."""

        def loss(params, part, part_key):
            # Samples depend on their rows alone, so they are the same in any number of parts.
            sums = self._sums(params, part, {"dropout": part_key, "sample": key})
            return sums.loss, sums

        value_and_grad: Callable = jax.grad(loss, has_aux=True)
        if microbatches == 1:
            return self._placed(*value_and_grad(params, batch, key))
        # Rows are dealt out in turn, so that every device keeps its own rows.
        parts = jax.tree.map(lambda a: a.reshape(-1, microbatches, *a.shape[1:]).swapaxes(0, 1), batch)

        def add(total, indexed):
            i, part = indexed
            one = self._placed(*value_and_grad(params, part, jax.random.fold_in(key, i)))
            return jax.tree.map(jnp.add, total, one), None

        _, shapes = jax.eval_shape(loss, params, jax.tree.map(lambda a: a[0], parts), key)
        start = jax.tree.map(jnp.zeros_like, params), jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.scan(add, start, (jnp.arange(microbatches), parts))[0]

    def _placed(self, gradients: Any, sums: Sums) -> tuple[Any, Sums]:
        return jax.lax.with_sharding_constraint(gradients, self.shardings.params), sums
