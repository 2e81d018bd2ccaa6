"""What is made of parameters, kept while they live: laying them out for decoding costs as much as a few tokens, at every call."""

import functools
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax


def while_alive(function: Callable[[Hashable, Any], Any]) -> Callable[[Hashable, Any], Any]:
    """`function` of something hashable and a tree of arrays, whose last result is kept until one of these arrays is gone.

    Arrays are told apart by identity: JAX never changes one. A tree that holds anything else is computed anew.
    """
    last: list[tuple] = []

    @functools.wraps(function)
    def call(key: Hashable, tree: Any) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        if not all(isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return function(key, tree)
        for made_for, alive, made, made_structure in last:
            if made_for == (key, structure) and all(ref() is leaf for ref, leaf in zip(alive, leaves, strict=True)):
                return made_structure.unflatten([leaves[one] if isinstance(one, int) else one for one in made])
        last.clear()  # before the next is made: never two
        result = function(key, tree)
        made, made_structure = jax.tree.flatten(result)
        # Arrays that went through as they were are kept by number, or they would keep themselves alive.
        numbers = {id(leaf): number for number, leaf in enumerate(leaves)}
        made = [numbers.get(id(one), one) for one in made]

        def forget(gone: weakref.ref) -> None:
            if any(gone is reference for _, alive, _, _ in last for reference in alive):
                last.clear()

        last.append(((key, structure), [weakref.ref(leaf, forget) for leaf in leaves], made, made_structure))
        return result

    return call
