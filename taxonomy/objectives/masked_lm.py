"""Hidden tokens of a text, each predicted in its place."""

import dataclasses

import numpy as np

from taxonomy.errors import UserError
from taxonomy.objectives.objective import Example, Lengths, Objective, Specials, ints
from taxonomy.registry import component


@component("masked_lm", kind="objective", paper="Devlin et al. 2018, arXiv:1810.04805, section 3.1 and appendix A.1")
@dataclasses.dataclass(frozen=True)
class MaskedLM(Objective):
    """Choose a share `rate` of the tokens and predict them in place from all others.

    A chosen token is hidden behind one mask token at the rate `mask`, replaced by any token of the tokenizer at the rate `random`,
    and else left as it is. `whole_words` chooses words instead of tokens, as many as do not exceed the rate. Tokens that begin a
    document or end a sequence are not chosen. Documents of a window are one text.
    """

    rate: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    whole_words: bool = False

    structures = frozenset({"encoder"})
    marks = ("mask",)

    def check(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate={self.rate} must be between 0 and 1")
        if not (self.mask >= 0 and self.random >= 0 and self.mask + self.random <= 1):
            raise ValueError(f"mask={self.mask} and random={self.random} must be shares that sum to at most 1")

    def needs(self, lengths: Lengths) -> int:
        return lengths.context

    def _example(self, tokens_N, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example:
        read_N, chosen_N = self.hide(tokens_N, generator, specials)
        return Example(read_N, tokens_N, chosen_N.astype(np.float32))

    def hide(self, tokens_N: np.ndarray, generator: np.random.Generator, specials: Specials) -> tuple[np.ndarray, np.ndarray]:
        """The text with the chosen tokens hidden, int32 [N], and which those are, bool [N]."""
        text_N = ~np.isin(tokens_N, (specials.start, specials.ending))
        count = max(1, round(self.rate * text_N.sum()))
        chosen_N = np.zeros(len(tokens_N), bool)
        for unit in _shuffled_units(tokens_N, text_N, generator, specials, self.whole_words):
            if len(unit) <= count:
                chosen_N[unit] = True
                count -= len(unit)
            if not count:
                break
        draw_N = generator.random(len(tokens_N))
        other_N = generator.integers(specials.used, size=len(tokens_N))
        masked_N = np.where(draw_N < self.mask + self.random, other_N, tokens_N)
        masked_N[draw_N < self.mask] = specials.mark("mask")
        return ints(np.where(chosen_N, masked_N, tokens_N)), chosen_N


def _shuffled_units(tokens_N, text_N, generator, specials: Specials, whole_words: bool) -> list[np.ndarray]:
    """Places of the tokens or words that may be chosen, in random order."""
    places = np.flatnonzero(text_N)
    if not whole_words:
        return list(generator.permutation(places)[:, None])
    if specials.word_starts is None:
        raise UserError("objective: whole_words needs a tokenizer that knows which tokens begin a word")
    # What stands behind a token that is no text begins a word, whatever it looks like.
    begins = specials.word_starts[tokens_N[places]] | np.append(True, np.diff(places) > 1)[: len(places)]
    words = np.split(places, np.flatnonzero(begins)[1:])
    return [words[i] for i in generator.permutation(len(words))]


@component("replaced_tokens", kind="objective", paper="Clark et al. 2020, arXiv:2003.10555, section 2")
@dataclasses.dataclass(frozen=True)
class ReplacedTokens(MaskedLM):
    """The masked text for a small generator, whose samples a discriminator then tells from the original: see `discriminate`.

    `weight` is that of the discriminator's loss, a mean over all tokens, beside the generator's, a mean over the masked ones.
    """

    mask: float = 1.0
    random: float = 0.0
    weight: float = 50.0

    gives = frozenset({"detection"})

    def _example(self, tokens_N, generator: np.random.Generator, specials: Specials, lengths: Lengths) -> Example:
        made = super()._example(tokens_N, generator, specials, lengths)
        # Sums over a batch are divided by its masked tokens, whichever rows they are in.
        share = made.weights.sum() / len(tokens_N)
        return dataclasses.replace(made, detection=np.full(len(tokens_N), self.weight * share, np.float32))


def discriminate(tokens, sampled, masked):
    """What a discriminator reads and is to say, from the original `tokens`, a generator's samples and which places were masked.

    Integer or bool arrays of one shape, NumPy's or JAX's. Returns the text with the masked tokens sampled anew, and bools: true
    where a token is not the original. A sample that happens to be right counts as original (Clark et al. 2020, arXiv:2003.10555,
    section 2).
    """
    # Arithmetic instead of `where`, which serves NumPy and JAX alike.
    read = tokens + masked * (sampled - tokens)
    return read, read != tokens
