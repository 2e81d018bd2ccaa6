"""Decoding with a draft and without: python -m taxonomy.bench speculate --workdir=runs/quickstart"""

import inspect
import json
import statistics
import textwrap
import time

from absl import flags

from taxonomy import cli, spec
from taxonomy.bench.contenders import BATCHES, NEW_TOKENS, ROUNDS, say
from taxonomy.errors import UserError

_DRAFTS = flags.DEFINE_multi_string("speculate", ["prompt_lookup(tokens=4)"], "Drafts to compare with none.")
_SAMPLERS = flags.DEFINE_multi_string("sampler", ["greedy", "temperature(0.8)"], "How tokens are drawn.")
_PROMPT = 64  # tokens


def benchmark() -> dict:
    """Tokens per second after the first one, the prompt read, by sampler, batch and draft; contenders take turns in one process."""
    from taxonomy.inference.decode import Decoding
    from taxonomy.training import checkpoints

    config, params = checkpoints.restore_params(cli.workdir())
    tokenizer, model = checkpoints.restore_tokenizer(cli.workdir()), spec.model(config.model)
    text = tokenizer.encode(textwrap.dedent(inspect.getsource(json.decoder))).tolist()
    sizes = [int(size) if size.isdigit() else 0 for size in BATCHES.value]
    if min(sizes) < 1 or max(sizes) * _PROMPT > len(text):
        raise UserError(f"--batches: each must be from 1 to {len(text) // _PROMPT}, got {','.join(BATCHES.value)}")
    prompts = [[tokenizer.document_start, *text[i * _PROMPT : (i + 1) * _PROMPT]] for i in range(max(sizes))]

    def once(size: int, sampler: str, draft: str | None, seed: int):
        """Seconds, and how much of the draft was kept."""
        how = {"max_new_tokens": NEW_TOKENS.value, "sampler": sampler, "seed": seed, "vocab_size": tokenizer.vocab_size}
        decoding = Decoding(model, params, prompts[:size], **how, speculate=draft)
        decoding.advance(1)
        start = time.perf_counter()
        decoding.advance()
        return time.perf_counter() - start, decoding.tally

    result = {"rounds": ROUNDS.value, "max_new_tokens": NEW_TOKENS.value}
    for sampler in _SAMPLERS.value:
        for size in sizes:
            say(f"{sampler}, {size} at once")
            turns = {draft: [] for draft in (None, *_DRAFTS.value)}
            for draft in turns:
                once(size, sampler, draft, 0)  # compiles
            for seed in range(ROUNDS.value):
                for draft, found in turns.items():
                    found.append(once(size, sampler, draft, seed))
            tokens = size * (NEW_TOKENS.value - 1)
            speed = {draft: tokens / statistics.median(seconds for seconds, _ in found) for draft, found in turns.items()}
            result[f"{sampler}, {size} at once"] = {"without": {"tokens_per_second": round(speed[None], 1)}} | {
                draft: {
                    "tokens_per_second": round(speed[draft], 1),
                    "ratio": round(speed[draft] / speed[None], 2),
                    "share_kept": round(statistics.mean(tally.share for _, tally in turns[draft]), 3),
                    "tokens_per_step": round(statistics.mean(tally.tokens_per_check for _, tally in turns[draft]), 2),
                }
                for draft in _DRAFTS.value
            }
    return result
