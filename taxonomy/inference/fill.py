"""Gaps in texts, asked for as the objective fill_in_the_middle shows them to a model (Bavarian et al. 2022, arXiv:2207.14255)."""

from collections.abc import Sequence

import ml_collections

from taxonomy import registry, spec
from taxonomy.data.tokenizers import Tokenizer
from taxonomy.errors import UserError
from taxonomy.objectives.fill_in_the_middle import FillInTheMiddle
from taxonomy.objectives.mixture import Choice
from taxonomy.objectives.objective import Objective, Specials


def rows(config: ml_collections.ConfigDict, tokenizer: Tokenizer, before: Sequence[str], after: Sequence[str]) -> list[list[int]]:
    """The tokens that a middle of each gap follows, which ends with its document.

    The prefix comes first, or the suffix where a model learned nothing else. Raises UserError for a model that did not learn to
    fill gaps, alone or beside other objectives.
    """
    if len(before) != len(after):
        raise UserError(f"suffixes: needs one a prompt, {len(before)}, got {len(after)}")
    objective = registry.create("objective", config.train.objective, "config.train.objective")
    filler = _filler(objective)
    if filler is None:
        raise UserError(f"suffixes: only for a model that learned fill_in_the_middle, not {config.train.objective}")
    vocab, end = spec.model(config.model).vocab, tokenizer.document_end
    specials = Specials(tokenizer.document_start, vocab, tokenizer.vocab_size, end).reserve(objective.marks)
    halves = zip(map(tokenizer.encode, before), map(tokenizer.encode, after), strict=True)
    return [[specials.start, *filler.question(*pair, specials, suffix_first=filler.spm == 1).tolist()] for pair in halves]


def _filler(objective: Objective) -> FillInTheMiddle | None:
    choices = objective.choices if isinstance(objective, Choice) else (objective,)
    return next((one for one in choices if isinstance(one, FillInTheMiddle) and one.rate > 0), None)
