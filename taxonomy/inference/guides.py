"""What is said token by token about how rows may go on, on the host: by a constraint, or by tools that answer in between."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from taxonomy.errors import UserError
from taxonomy.inference.constraints import Constraint, Following
from taxonomy.inference.tools import Calling, Tool


class Guide(Protocol):
    """Made for as many rows as are written."""

    def allowed(self) -> np.ndarray:
        """The tokens that may come next in each row, bits from the lowest on, uint8 (B, ceil(V / 8))."""

    def follow(self, tokens: Sequence[Sequence[int]]) -> dict[int, int]:
        """Is told all new tokens of each row after every step. Answers what the last token of some rows is to be instead."""


def guide(
    tokenizer: Any, before: Sequence[Sequence[int]], constraint: Constraint | None, tools: Sequence[str | Tool], to_end: bool
) -> Guide | None:
    """The guide of rows that follow the texts of these tokens, None where there is nothing to say.

    Raises UserError for a constraint and tools at once, and for a constraint where documents do not end.
    """
    if constraint is not None and tools:
        raise UserError("tools: not with a constraint, which says nothing of what tools write")
    if constraint is not None and not to_end:
        raise UserError("constraint: only where a text ends with its document (to_document_end)")
    if tools:
        return Calling(tools, tokenizer, before)
    return None if constraint is None else Following(constraint, tokenizer, before)
