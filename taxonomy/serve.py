"""Serves the newest good checkpoint of a run as OpenAI's completions endpoint.

python -m taxonomy.serve --workdir=runs/x --port=8000

The standard client works: openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any"). A model with an encoder reads the
prompt with that. It is plain HTTP without keys; to let others in, put a proxy before it. SIGTERM ends it once what runs is written.
"""

import importlib.util
import os

from absl import flags

from taxonomy import cli
from taxonomy.errors import UserError


def define_flags() -> None:
    """Declares this command's flags."""
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 for all.")
    flags.DEFINE_integer("port", 8000, "Port to listen on; 0 takes a free one, which is printed.")
    flags.DEFINE_integer("slots", 8, "Texts written at a time.")
    flags.DEFINE_integer("queue", 256, "Texts that may wait for a slot; more are refused.")
    flags.DEFINE_integer("max_length", None, "Tokens of a prompt with what follows it at most; the model's context by default.")
    flags.DEFINE_string(
        "cache", "exact", "What is kept of keys and values: exact, or int8, which takes about half of bfloat16's memory."
    )
    flags.DEFINE_float("timeout", 300.0, "Seconds after which a request is given up.")


def main(argv: list[str]) -> None:
    given = flags.FLAGS
    if len(argv) > 1:
        raise UserError(f"serve: unexpected argument '{argv[1]}'")
    workdir = cli.workdir()
    for name, least in (("slots", 1), ("queue", 0), ("port", 0), ("max_length", 2)):
        if given[name].value is not None and given[name].value < least:
            raise UserError(f"--{name}: must be at least {least}, got {given[name].value}")
    if given.port > 65535:
        raise UserError(f"--port: must be at most 65535, got {given.port}")
    if not given.timeout > 0:
        raise UserError(f"--timeout: must be above 0, got {given.timeout}")
    from taxonomy.layers.cache import check_kind

    check_kind(given.cache, "--cache")
    for library in ("starlette", "uvicorn"):
        if importlib.util.find_spec(library) is None:
            raise UserError(f"serve: needs {library}, which is not installed: pip install -e '.[serve]'")

    import jax

    from taxonomy import spec
    from taxonomy.inference import completions, scheduler, server, slots
    from taxonomy.training import checkpoints

    listener = server.listening(given.host, given.port)
    config, params = checkpoints.restore_params(workdir)
    tokenizer = checkpoints.restore_tokenizer(workdir)
    model_spec = spec.model(config.model)
    rows = slots.Slots(
        model_spec,
        params,
        slots=given.slots,
        max_length=given.max_length or model_spec.context,
        vocab_size=tokenizer.vocab_size,
        dtype="float32" if jax.default_backend() == "cpu" else config.train.dtype,
        cache=given.cache,
    )
    del params
    model = completions.Model(os.path.basename(os.path.abspath(workdir)), rows, tokenizer, given.queue + given.slots)
    model.warm()
    desk = scheduler.Scheduler(rows, tokenizer, given.queue)
    host, port = listener.getsockname()[:2]
    print(f"Serving model '{model.name}' at http://{f'[{host}]' if ':' in host else host}:{port}/v1")
    inputs = f" beside {rows.max_inputs} that the encoder reads" if rows.beside_encoder else ""
    room = f"{rows.size} slots of {rows.max_length} tokens{inputs}, {rows.cache_bytes / 1e6:.1f} MB of cache"
    print(f"{room}; {given.queue} texts may wait; {given.timeout:g} s for each request", flush=True)
    web = server.Server(model, desk, given.timeout, lambda line: print(line, flush=True)).web()
    desk.on_failure = lambda: setattr(web, "should_exit", True)
    server.run(web, listener)
    desk.close()  # which is not done yet where one was in a hurry
    if desk.failure:
        raise desk.failure
    print("ended")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
