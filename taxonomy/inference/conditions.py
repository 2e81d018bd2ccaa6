"""Samples of a model under varied conditions: temperatures, words before the prompt, and the token that says "good"."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from taxonomy import registry
from taxonomy.data import examples
from taxonomy.inference import answers
from taxonomy.inference.decode import Tokenizer
from taxonomy.inference.solve import Sampler
from taxonomy.inference.texts import text_after


@dataclasses.dataclass(frozen=True)
class Condition:
    """How a text is drawn, and what is said before the prompt, such as tags of the problem."""

    sampler: str
    prefix: str = ""


def conditions(samplers: Sequence[str], prefixes: Sequence[str] = ("",)) -> list[Condition]:
    """Every sampler with every prefix. Raises UserError for a sampler that there is not."""
    for sampler in samplers:
        registry.create("sampler", sampler, "--sampler")
    return [Condition(sampler, prefix) for prefix, sampler in itertools.product(prefixes, samplers)]


def model_sampler(
    plan: Any,
    params: Mapping[str, Any],
    tokenizer: Tokenizer,
    given: Sequence[Condition],
    *,
    max_new_tokens: int,
    seed: int = 0,
) -> Sampler:
    """What the plan's model says to prompts, the conditions one after the other: as to a pair's input where it learned pairs.

    A model that learned from tokens for good and bad text is told "good". Texts end where a function ends.
    """
    pairs = plan.objective.unit == "document" and "prefix" in plan.objective.gives
    separator = tokenizer.vocab_size if pairs else None
    own = examples.specials(tokenizer, plan.model.vocab, end=tokenizer.document_end, separator=separator)
    good = [own.reserve(plan.objective.marks).mark("good")] if "good" in plan.objective.marks else []
    lengths = plan.lengths
    room = min(max_new_tokens, lengths.context // 2 if lengths.inputs is None else lengths.context)

    def sample(prompts: Sequence[str]) -> list[str]:
        said: dict[int, str] = {}
        for turn, condition in enumerate(given):
            places = range(turn, len(prompts), len(given))
            asked = [[int(token) for token in tokenizer.encode(condition.prefix + prompts[place])] for place in places]
            rows = [answers.question(lengths, tokens, tokenizer, separator, room, good) for tokens in asked]
            key = jax.random.fold_in(jax.random.key(seed), turn)
            new = answers.written(plan, params, rows, tokenizer, room, condition.sampler, key)
            for place, row, tokens in zip(places, rows, new, strict=True):
                known = [token for token in row.begun[1:] if token < tokenizer.vocab_size]
                said[place] = body(text_after(tokenizer, known, tokens))
        return [said[place] for place in range(len(prompts))]

    return sample


def body(text: str) -> str:
    """The lines of a function's body: up to the first that is neither empty nor indented."""
    lines = text.splitlines(keepends=True)
    return "".join(itertools.takewhile(lambda line: not line.strip() or line[0].isspace(), lines))
