"""Generation: text from text, tokens from tokens, at once or as it comes."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from taxonomy import registry, spec
from taxonomy.errors import UserError
from taxonomy.inference import domains, fill, guides, speculation, steps, stops
from taxonomy.inference import prompts as prompts_lib
from taxonomy.inference.drafts import Draft
from taxonomy.inference.guides import Guide
from taxonomy.inference.samplers import Sampler
from taxonomy.inference.texts import text_after

_EVERY = 16  # tokens between two looks for stop strings


class Tokenizer(Protocol):
    """What generation needs of a tokenizer. `document_start` begins every document; a model predicts `document_end` at its end."""

    document_start: int
    document_end: int
    vocab_size: int

    def encode(self, text: str) -> np.ndarray: ...

    def decode(self, tokens: Sequence[int]) -> str: ...


def generate(
    config: ml_collections.ConfigDict,
    params: Mapping[str, Any],
    prompts: Sequence[str],
    *,
    tokenizer: Tokenizer,
    max_new_tokens: int = 64,
    stop: Sequence[str] = (),
    to_document_end: bool = True,
    beams: int | None = None,
    n: int = 1,
    domain: int | str | None = None,
    **how: Any,
) -> list[str]:
    """The text that follows each prompt, without the prompt; `n` of them for each, side by side.

    With an encoder, the prompts are what it reads, and the text is the decoder's. A text ends with its document (when
    `to_document_end`) or before the first of the strings `stop` in it, whatever tokens that is made of; what the model computes
    beyond is dropped. `domain`: whose text it is to a model with an expert for every dataset, by the dataset's number or name.
    `how`: cache, sampler, seed, unconditional (texts), guidance and speculate of `Decoding`, beside which
    `report` is called with the `speculation.Tally` at the end; or with `beams`, where the `n` best texts of a beam search are
    given, cache, length_penalty and early_stopping of `beams.search`. With `suffixes`, one a prompt, the text is what stands
    between prompt and suffix, for a model that learned to fill gaps.

    With a `constraint` (`constraints.Constraint`) a text matches it as a whole, unless `max_new_tokens` or a stop string ends it
    before. With `tools` (names, or `tools.Tool`s) calls that the model writes are answered in the text, as tokens of it.
    Computed in the config's `train.dtype`, on CPU in float32 (XLA widens bfloat16 there, which costs time and saves none).
    Raises UserError on an impossible sampler or length.
    """
    how |= {"max_new_tokens": max_new_tokens, "to_document_end": to_document_end, "domain": domain}
    if beams is not None:
        return _searched(config, params, prompts, tokenizer, stop, beams, n, how)
    every = _EVERY if stop else max_new_tokens
    *_, (texts, _) = [([], []), *_progress(config, params, prompts, tokenizer, stops.check(stop), every, how | {"n": n})]
    return texts


def stream(
    config: ml_collections.ConfigDict,
    params: Mapping[str, Any],
    prompts: Sequence[str],
    *,
    tokenizer: Tokenizer,
    max_new_tokens: int = 64,
    stop: Sequence[str] = (),
    to_document_end: bool = True,
    every: int = 1,
    domain: int | str | None = None,
    **how: Any,
) -> Iterator[list[str]]:
    """What `generate` says, as it comes: after every `every` tokens the next piece of each text.

    The pieces of a text, joined, are the text. What may yet change is held back: an incomplete character, and what may be the
    beginning of a stop string.
    """
    how |= {"max_new_tokens": max_new_tokens, "to_document_end": to_document_end, "domain": domain}
    stop, shown = stops.check(stop), None
    for texts, over in _progress(config, params, prompts, tokenizer, stop, every, how):
        ready = [text if ended else stops.settled(text, stop) for text, ended in zip(texts, over, strict=True)]
        shown = [""] * len(ready) if shown is None else shown
        yield [text[len(before) :] for text, before in zip(ready, shown, strict=True)]
        shown = [max(pair, key=len) for pair in zip(ready, shown, strict=True)]


def _progress(config, params, prompts, tokenizer, stop, every: int, how) -> Iterator[tuple[list[str], list[bool]]]:
    """All texts so far and which of them are complete, after every `every` tokens."""
    if every < 1:
        raise UserError(f"every: must be at least 1, got {every}")
    model_spec, rows, before, options = _tokens(config, prompts, tokenizer, how)
    report = options.pop("report", None)
    written = [row for row in before for _ in range(options.get("n", 1))]
    rules = {"constraint": options.pop("constraint", None), "tools": options.pop("tools", ())}
    options["guide"] = guides.guide(tokenizer, written, **rules, to_end=options["stop_token"] is not None)
    decoding = Decoding(model_spec, params, rows, **options)
    yield from progress(decoding, written, tokenizer, stop, every)
    if report is not None:
        report(decoding.tally)


def progress(
    decoding: "Decoding", written: Sequence[Sequence[int]], tokenizer: Tokenizer, stop: Sequence[str], every: int
) -> Iterator[tuple[list[str], list[bool]]]:
    """All texts so far up to the first of the strings `stop`, and which of them are complete, after every `every` tokens.

    `written`: the tokens of text that stand before each new text.
    """
    while not decoding.finished:
        decoding.advance(every)
        pairs = zip(written, decoding.tokens, strict=True)
        cuts = [stops.cut(text_after(tokenizer, row, tokens), stop) for row, tokens in pairs]
        decoding.end([found for _, found in cuts])
        yield [text for text, _ in cuts], decoding.ended


def _searched(config, params, prompts, tokenizer, stop, beams: int, n: int, how) -> list[str]:
    """The `n` best texts of a beam search for each prompt."""
    from taxonomy.inference.beams import search

    for name in ("sampler", "seed", "unconditional", "guidance", "speculate", "constraint", "tools"):
        if name in how:
            raise UserError(f"{name}: a beam search draws nothing; give beams or {name}")
    if stop:
        raise UserError("stop: texts of a beam search end with their document; give beams or stop")
    if n > beams:
        raise UserError(f"n: a search with {beams} beams finds as many texts, fewer than n={n}")
    model_spec, rows, before, options = _tokens(config, prompts, tokenizer, how)
    found = search(model_spec, params, rows, beams=beams, **options)
    return [text_after(tokenizer, row, one.tokens) for row, best in zip(before, found, strict=True) for one in best[:n]]


def _tokens(config, prompts: Sequence[str], tokenizer: Tokenizer, how: Mapping[str, Any]):
    """The model, the rows its decoder continues, the tokens of text before each new text, and the other arguments in tokens."""
    options = dict(how)
    model_spec = domains.model(config, options.pop("domain"))
    two_stacks, start = len(model_spec.stacks) > 1, tokenizer.document_start

    def encoded(texts: Sequence[str]) -> list[list[int]]:
        texts = [[int(token) for token in tokenizer.encode(text)] for text in texts]
        return [[*text, tokenizer.document_end] if two_stacks else [start, *text] for text in texts]

    given = encoded(prompts)
    # A decoder beside an encoder begins its own text; what it is asked is the encoder's.
    rows = [[start] for _ in prompts] if two_stacks else given
    before = [row[1:] for row in rows]
    if (suffixes := options.pop("suffixes", None)) is not None:
        # A middle was encoded alone, as what stands before it was.
        rows, before = fill.rows(config, tokenizer, prompts, suffixes), [[] for _ in prompts]
    options["inputs"] = given if two_stacks else None
    if options.get("unconditional") is not None:
        options["unconditional"] = encoded(options["unconditional"])
    options["stop_token"] = tokenizer.document_end if options.pop("to_document_end") else None
    options["dtype"] = "float32" if jax.default_backend() == "cpu" else config.train.dtype
    return model_spec, rows, before, options | {"vocab_size": tokenizer.vocab_size}


def generate_tokens(
    model_spec: spec.Model, params: Mapping[str, Any], prompts: Sequence[Sequence[int]], **how: Any
) -> list[list[int]]:
    """The tokens that follow each prompt: those of `Decoding` when it has finished, whose arguments it takes."""
    decoding = Decoding(model_spec, params, prompts, **how)
    decoding.advance()
    return decoding.tokens


class Decoding:
    """Prompts on their way: `advance` writes on, `tokens` has what is written."""

    def __init__(
        self,
        model_spec: spec.Model,
        params: Mapping[str, Any],
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        inputs: Sequence[Sequence[int]] | None = None,
        sampler: str | Sampler = "greedy",
        seed: int | jax.Array = 0,
        n: int = 1,
        stop_token: int | Sequence[int] | None = None,
        vocab_size: int | None = None,
        unconditional: Sequence[Sequence[int]] | None = None,
        guidance: float = 1.0,
        guide: Guide | None = None,
        dtype: str = "float32",
        piece: int = 1024,
        cache: str = "exact",
        speculate: str | Draft | None = None,
    ):
        """Reads the prompts.

        Each is followed by `n` rows of at most `max_new_tokens`, which end before a `stop_token`; the rows of a prompt stand side
        by side. `params` are in the scanned or the unrolled layout. Tokens of `vocab_size` and above are never drawn. Prompts may
        differ in length; what a prompt's greedy continuation is does not depend on the others. `inputs` are read by the encoder
        beside the decoder, one row for each prompt. Prompts are read in pieces of at most `piece` tokens. `seed` may be a key.
        `cache`: what is kept of keys and values, "exact" or "int8" (`layers.cache`), where less memory moves the logits a little.

        With `unconditional`, one row for each prompt (or, with an encoder, for each row of inputs) that lacks its condition, logits
        are conditional + guidance * (conditional - unconditional): classifier-free guidance (Ho & Salimans 2022,
        arXiv:2207.12598; of text Sanchez et al. 2023, arXiv:2306.17806, whose weight is guidance + 1). With a `guide`, samplers see
        the tokens alone that it allows. With `speculate`, a draft such as "prompt_lookup(tokens=4)" is checked by the model at
        every step, see `speculation`: that changes the speed and which text a seed stands for, but not how likely a text is.
        Raises UserError.
        """
        if isinstance(sampler, str):
            sampler = registry.create("sampler", sampler, "sampler")
        vocab_size = model_spec.vocab if vocab_size is None else vocab_size
        prompts_lib.check(model_spec, prompts, inputs, max_new_tokens, vocab_size, unconditional)
        _check_sampler(sampler, vocab_size)
        if n < 1:
            raise UserError(f"n: must be at least 1, got {n}")
        if guidance != 1.0 and unconditional is None:
            raise UserError(f"guidance: {guidance} needs `unconditional`, the rows to be guided away from")
        if guide is not None and speculate is not None:
            raise UserError("speculate: a draft knows nothing of a constraint or of tools; give one or the other")
        self._limit, self._guide = max_new_tokens, guide
        self.tokens: list[list[int]] = [[] for _ in range(n * len(prompts))]
        self.ended = [False] * len(self.tokens)
        self._until, self._state = 0, None
        if not prompts:
            return
        guided = unconditional is not None
        if guided:
            prompts, inputs = _with_unconditional(prompts, inputs, unconditional)
        weight = np.float32(guidance) if guided else None
        allowed = None if guide is None else guide.allowed()
        self._drawing = steps.Drawing(steps.key(seed), steps.stops(stop_token), weight, allowed)
        if speculate is not None:
            options = {"max_new_tokens": max_new_tokens, "vocab_size": vocab_size, "dtype": dtype, "piece": piece, "cache": cache}
            rows = len(self.tokens) // n
            options |= {"copies": n, "sampler": sampler, "drawing": self._drawing}
            how = speculation.Speculation((model_spec, params), speculate, prompts, inputs, rows, **options)
            self._extend, self._state = how.extend, how.state
            return
        model_spec, params = steps.ready(model_spec, params)
        room = prompts_lib.rounded(max_new_tokens)
        how = n, room, vocab_size, dtype, piece, cache
        program, logits, caches, *read = steps.read(model_spec, params, prompts, inputs, *how)
        self._state = steps.begin(program, sampler, room, caches, logits, *read, self._drawing)
        self._extend = functools.partial(steps.extend, program, sampler, steps.unrolled(program, params))

    @property
    def finished(self) -> bool:
        """Whether all rows have ended."""
        return all(self.ended)

    def advance(self, tokens: int | None = None) -> None:
        """Writes on in all rows that have not ended: so many tokens (or more, with a draft), or all there is room for."""
        if self.finished:
            return
        reached = min(len(row) for row, over in zip(self.tokens, self.ended, strict=True) if not over)
        until = self._limit if tokens is None else min(self._limit, reached + tokens)
        while not self.finished and self._until < until:
            self._write(until if self._guide is None else self._until + 1)
            if self._guide is not None:
                self._follow(self._guide)

    def _write(self, until: int) -> None:
        self._until = until
        self._state = self._extend(self._state, until, self._drawing)
        new_BN, taken_B, done_B = jax.device_get((self._state.new_BN, self._state.taken_B, self._state.done_B))
        self.tokens = [row[:count].tolist() for row, count in zip(new_BN, taken_B, strict=True)]
        self.ended = [bool(done) or self._until == self._limit for done in done_B]

    @property
    def tally(self) -> speculation.Tally | None:
        """What speculation came to so far; None without."""
        found = getattr(self._state, "tally_3", None)
        return None if found is None else speculation.Tally(*found.tolist())

    def _follow(self, guide: Guide) -> None:
        """Tells the guide what was drawn, and asks what may come next."""
        for row, token in guide.follow(self.tokens).items():
            self.tokens[row][-1] = token
            self._state = steps.redrawn(self._state, row, token)
        self._drawing = self._drawing.replace(allowed_BW=guide.allowed())

    def end(self, rows: Sequence[bool]) -> None:
        """Ends some rows."""
        self.ended = [before or now for before, now in zip(self.ended, rows, strict=True)]
        if any(rows):
            self._state = self._state.replace(done_B=self._state.done_B | np.array(rows))


def _with_unconditional(prompts, inputs, unconditional):
    """Prompts and inputs, followed by those without their condition."""
    if inputs is None:
        return [*prompts, *unconditional], None
    return [*prompts, *prompts], [*inputs, *unconditional]


def _check_sampler(sampler: Sampler, vocab_size: int) -> None:
    for token in sampler.named:
        if token >= vocab_size:
            raise UserError(f"sampler: token {token} is not below the vocabulary of {vocab_size}")
    if sampler.bans and set(range(vocab_size)) <= set(sampler.named):
        raise UserError(f"sampler: all {vocab_size} tokens are banned")
