"""A result is kept for the very arrays it was made of, and no longer than they live."""

import gc
import weakref

import jax.numpy as jnp
import numpy as np

from taxonomy.inference import kept


def test_a_result_is_kept_for_the_same_living_arrays():
    calls = []

    @kept.while_alive
    def doubled(key, tree):
        calls.append(key)
        return {name: 2 * value for name, value in tree.items()}

    tree = {"a": jnp.ones(3), "b": jnp.zeros(2)}
    first = doubled("x", tree)
    assert doubled("x", dict(tree))["a"] is first["a"] and calls == ["x"]
    assert doubled("y", tree)["a"] is not first["a"]
    second = doubled("x", {**tree, "a": jnp.full(3, 5.0)})
    assert calls == ["x", "y", "x"]
    np.testing.assert_array_equal(second["a"], np.full(3, 10.0))
    assert doubled("x", {"b": tree["a"], "a": tree["b"]})["a"].shape == (2,)

    held = {"a": np.ones(3)}  # may change in place
    doubled("z", held)
    held["a"][:] = 4
    np.testing.assert_array_equal(doubled("z", held)["a"], np.full(3, 8.0))


def test_a_result_goes_with_its_arrays():
    @kept.while_alive
    def same(key, tree):
        return {"made": tree["a"] + 1, "as it was": tree["a"]}

    tree = {"a": jnp.ones(3)}
    assert same("x", tree)["as it was"] is same("x", tree)["as it was"] is tree["a"]
    made = weakref.ref(same("x", tree)["made"])
    gc.collect()
    assert made() is not None
    del tree
    gc.collect()
    assert made() is None
