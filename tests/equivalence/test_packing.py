"""Documents packed into a row give the logits that each gives alone."""

import numpy as np
from training.common import assert_trees_close


def test_packed_is_unpacked(family, tiny, packed):
    one = tiny(family)
    batch = packed(one.spec.vocab)
    together = np.asarray(one.logits(one.params, *batch.inputs()))
    documents = [
        (row, np.flatnonzero(batch.segments[row] == segment))
        for row in range(len(batch.tokens))
        for segment in range(1, batch.segments[row].max() + 1)
    ]
    assert len(documents) >= 6
    # Alone: one document a row, with neither positions nor segments; what stands after its end cannot be seen.
    alone = np.random.default_rng(1).integers(0, one.spec.vocab, (len(documents), one.spec.context), dtype=np.int32)
    for i, (row, columns) in enumerate(documents):
        alone[i, : len(columns)] = batch.tokens[row, columns]
    apart = np.asarray(one.logits(one.params, alone))
    for i, (row, columns) in enumerate(documents):
        assert_trees_close(together[row, columns], apart[i, : len(columns)], rtol=1e-5)
