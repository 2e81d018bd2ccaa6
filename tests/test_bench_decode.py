"""The benchmark of decoding: its contenders write what they are asked for, its figures are those of their seconds."""

import os
import subprocess
import sys

import pytest

from taxonomy import spec
from taxonomy.bench import decode
from taxonomy.interop import decode_peers


def test_contenders_write_as_many_tokens():
    pytest.importorskip("transformers")
    import torch

    threads = torch.get_num_threads()
    assert [len(row) for row in decode_peers.our_step("tiny", 2, 5, 4, "float32")()] == [4, 4]
    assert decode_peers.torch_step("tiny", 2, 5, 4)().shape == (2, 9)
    assert torch.get_num_threads() == len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)


def test_bytes_of_a_step():
    """Parameters but of positions once, and keys and values of 5, 6, 7 and 8 tokens: of 2 rows, 2 layers and d_model 64."""
    model = spec.model(decode_peers.our_config("tiny").model)
    layer = 4 * 64 * 64 + 2 * 64 * 256 + 4 * 64 + 256 + 64 + 4 * 64  # matrices, biases, norms
    expected = 512 * 64 + 2 * layer + 2 * 64 + 2 * 2 * 2 * 64 * 6.5
    assert decode.step_bytes(model, 2, 5, 4, "float32") == 4 * expected
    assert decode.step_bytes(model, 2, 5, 4, "bfloat16") == 2 * expected


def test_figures():
    """Ratios are of a round's own turns; memory of 100 bytes in 0.5 s at best allows 200 bytes of steps a second."""
    seconds = {"float32": [1.0, 2.0, 8.0], "bfloat16": [1.0, 1.0, 1.0], "transformers": [2.0, 6.0, 8.0], "memory": [1.0, 0.5, 2.0]}
    found = decode.figures(seconds, tokens=8, steps=4, reads={"float32": 50.0, "bfloat16": 25.0}, read=100)
    assert found["tokens_per_second"] == {"float32": 4.0, "bfloat16": 8.0, "transformers": round(8 / 6, 2)}
    assert found["ratio_to_transformers"] == {"float32": 2.0, "bfloat16": 6.0}
    # 4 steps of 2 tokens a second in float32.
    assert found["share_of_memory_bound"] == {"float32": 0.5, "bfloat16": 0.5, "transformers": 0.167}


def test_the_command_knows_its_benchmarks():
    done = subprocess.run([sys.executable, "-m", "taxonomy.bench", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2 and "expected one of train, experts, speculate, decode, got nothing" in done.stderr
