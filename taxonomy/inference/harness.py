"""Our models as the `LM` of lm_eval, so that any of its tasks can be asked of them.

Texts are encoded as lm_eval's class for models of Hugging Face does: given and following text together, then split.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from taxonomy import registry, spec
from taxonomy.data.tokenizers import Tokenizer
from taxonomy.errors import UserError
from taxonomy.inference import decode
from taxonomy.inference.likelihood import Continuation, likelihoods, longest

_NEW_TOKENS = 256  # where a task does not say how many
_BATCH = 32  # texts to be continued
_EVERY = 16  # tokens between two looks for stop strings
_TRUNCATIONS = ("top_k", "top_p", "min_p")  # that a task may ask for; samplers of the same names do it


class Harness(TemplateLM):
    """A model with its tokenizer. `told` is told what is being computed, how much of it is done, and of how much."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        params: Mapping[str, Any],
        tokenizer: Tokenizer,
        told: Callable[[str, int, int], None] = lambda what, done, of: None,
    ):
        super().__init__()
        self._model, self._params, self._tokens, self._told = spec.model(config.model), params, tokenizer, told
        self._dtype = "float32" if jax.default_backend() == "cpu" else config.train.dtype
        self._batch_tokens = config.evaluation.batch_tokens
        self.backend = "seq2seq" if len(self._model.stacks) > 1 else "causal"

    @property
    def eot_token_id(self) -> int:
        return self._tokens.document_end

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text with nothing before it."""
        return self._tokens.document_start

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **ignored: Any) -> list[int]:
        """Ids of a text that is given; with add_special_tokens=False, of one that follows.

        An encoder's text ends with its document. Another begins with it where the tokenizer begins texts so.
        """
        ids = [int(token) for token in self._tokens.encode(string)]
        if add_special_tokens is False:
            return ids
        if self.backend == "seq2seq":
            return [*ids, self.eot_token_id]
        return [self.prefix_token_id, *ids] if self._tokens.begins and ids[:1] != [self.prefix_token_id] else ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Sequence[tuple], **ignored: Any) -> list[tuple[float, bool]]:
        return self._scored("continuations", [Continuation(given, following) for _, given, following in requests])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Of whole texts: every token is predicted once, from as many before it as its window has.

        Unlike lm_eval's own class for tokenizers that begin texts themselves, what begins the text is given and not predicted.
        """
        if self.backend == "seq2seq":
            raise UserError("--tasks: an encoder-decoder says nothing of how likely a text is by itself")
        windows, counts = [], []
        for request in requests:
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            some = utils.get_rolling_token_windows(ids, self.prefix_token_id, longest(self._model), context_len=1)
            own = [Continuation(*utils.make_disjoint_window(window)) for window in some]
            windows, counts = windows + own, [*counts, len(own)]
        found = iter(self._scored("windows", windows))
        return [sum(score for score, _ in itertools.islice(found, count)) for count in counts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """What follows each text, before the first of its stop strings.

        A text that leaves no room for as many tokens as are wanted loses its beginning; where not even an empty one would, half of
        the model's context is room.
        """
        rows = [self.tok_encode(request.args[0]) for request in requests]
        kinds: dict[str, list[int]] = {}
        for i in sorted(range(len(rows)), key=lambda i: -len(rows[i])):
            kinds.setdefault(repr(requests[i].args[1]), []).append(i)
        said: dict[int, str] = {}
        for places in kinds.values():
            how = _how(requests[places[0]].args[1])
            for first in range(0, len(places), _BATCH):
                some = places[first : first + _BATCH]
                said |= dict(zip(some, self._continued([rows[i] for i in some], **how), strict=True))
                self._told("texts", len(said), len(rows))
        return [said[i] for i in range(len(rows))]

    def _scored(self, what: str, pairs: list[Continuation]) -> list[tuple[float, bool]]:
        how = {"start": self.prefix_token_id, "dtype": self._dtype, "batch_tokens": self._batch_tokens}
        how["told"] = functools.partial(self._told, what)
        return [tuple(one) for one in likelihoods(self._model, self._params, pairs, **how)]

    def _continued(self, rows: list[list[int]], room: int, stop: tuple[str, ...], sampler: str) -> list[str]:
        two_stacks, most = self.backend == "seq2seq", longest(self._model)
        room = room if room < most else most // 2
        kept = self._model.inputs if two_stacks else most - room
        rows = [row[-kept:] or [self.prefix_token_id] for row in rows]
        options = {
            "inputs": rows if two_stacks else None,
            "max_new_tokens": room,
            "sampler": sampler,
            "stop_token": self.eot_token_id,
            "vocab_size": self._tokens.vocab_size,
            "dtype": self._dtype,
        }
        begun = [[self.prefix_token_id] for _ in rows] if two_stacks else rows
        decoding = decode.Decoding(self._model, self._params, begun, **options)
        written = [row[1:] for row in begun]
        *_, (texts, _) = decode.progress(decoding, written, self._tokens, stop, _EVERY)
        return texts


def _how(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The room, stop strings and sampler that a task asks for. Raises UserError for what we have no word for."""
    asked = dict(normalize_gen_kwargs(dict(asked), _NEW_TOKENS))
    stop = tuple(text for text in handle_stop_sequences(asked.pop("until"), eos=None) if text)
    room, temperature = asked.pop("max_gen_toks"), asked.pop("temperature", 1.0)
    drawn = asked.pop("do_sample") and temperature > 0
    before = [f"repetition({asked.pop('repetition_penalty')})"] if "repetition_penalty" in asked else []
    unknown = asked.keys() - set(_TRUNCATIONS)
    if unknown:
        allowed = ", ".join(["until", "max_gen_toks", "do_sample", "temperature", "repetition_penalty", *_TRUNCATIONS])
        raise UserError(f"--tasks: generation_kwargs: unknown '{min(unknown)}' (allowed: {allowed})")
    kept = [f"temperature({temperature})", *(f"{name}({value})" for name, value in asked.items())]
    sampler = f"chain({', '.join([*before, *(kept if drawn else ['greedy'])])})"
    registry.create("sampler", sampler, "--tasks: generation_kwargs")
    return {"room": room, "stop": stop, "sampler": sampler}
