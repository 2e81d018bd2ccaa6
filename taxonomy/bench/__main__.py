"""Benchmarks: python -m taxonomy.bench train | experts | speculate | decode. Prints JSON."""

import json

from taxonomy import cli
from taxonomy.bench import decode, experts, speculate, train
from taxonomy.errors import UserError

_BENCHMARKS = {"train": train.benchmark, "experts": experts.benchmark, "speculate": speculate.benchmark, "decode": decode.benchmark}


def main(argv: list[str]) -> None:
    if len(argv) != 2 or argv[1] not in _BENCHMARKS:
        raise UserError(f"bench: expected one of {', '.join(_BENCHMARKS)}, got {' '.join(argv[1:]) or 'nothing'}")
    print(json.dumps(_BENCHMARKS[argv[1]](), indent=2))


if __name__ == "__main__":
    cli.run(main)
