"""The server, asked over HTTP by the standard client and by others."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures
from typing import Any, NamedTuple

import httpx
import openai
import pytest

from taxonomy.data import tokenizers
from taxonomy.inference import completions, decode, scheduler, server, slots

PATIENCE = 120  # seconds, on a slow machine
SLOTS, QUEUE, LENGTH = 4, 16, 2048
# Never drawn: what ends a document.
ENDLESS = {"logit_bias": {"256": -100}}
PROMPTS = ["", "def ", "class A:\n    ", "é", "one, two, three, four", *(f"{i} and {i}" for i in range(8))]


class Served(NamedTuple):
    one: Any
    url: str
    scheduler: scheduler.Scheduler
    log: list[str]

    def post(self, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/completions", json={"model": "tiny", **body}, timeout=PATIENCE)

    def health(self) -> dict[str, Any]:
        return httpx.get(f"{self.url.removesuffix('/v1')}/health", timeout=PATIENCE).json()

    def until(self, **state: int) -> None:
        """Waits for a state of health."""
        deadline = time.monotonic() + PATIENCE
        while not (found := self.health()).items() >= state.items():
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    def text(self, prompt: str, **how: Any) -> str:
        """What unbatched decoding says."""
        how = {"tokenizer": tokenizers.BytesTokenizer(), "max_new_tokens": 16, **how}
        return decode.generate(self.one.config, self.one.params, [prompt], **how)[0]

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key="any", max_retries=0, timeout=PATIENCE)


@pytest.fixture(scope="module")
def served(tiny):
    one, tokenizer, log = tiny("llama"), tokenizers.BytesTokenizer(), []
    rows = slots.Slots(one.spec, one.params, slots=SLOTS, max_length=LENGTH, vocab_size=tokenizer.vocab_size)
    desk, listener = scheduler.Scheduler(rows, tokenizer, QUEUE), server.listening("127.0.0.1", 0)
    web = server.Server(completions.Model("tiny", rows, tokenizer, SLOTS + QUEUE), desk, PATIENCE, log.append).web()
    thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]})
    thread.start()
    yield Served(one, f"http://127.0.0.1:{listener.getsockname()[1]}/v1", desk, log)
    web.should_exit = True
    thread.join(PATIENCE)
    assert not thread.is_alive() and desk.failure is None


def test_the_standard_client(served):
    client = served.client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    prompt = "def "
    tokens = list(prompt.encode())
    for asked in (prompt, tokens):
        whole = client.completions.create(model="tiny", prompt=asked, temperature=0)
        assert whole.choices[0].text == served.text(prompt) and whole.object == "text_completion"
        assert whole.usage.prompt_tokens == 5 and whole.usage.total_tokens == 5 + whole.usage.completion_tokens
    several = client.completions.create(model="tiny", prompt=["", "x"], temperature=0, echo=True)
    assert [choice.text for choice in several.choices] == [served.text(""), "x" + served.text("x")]
    options = {"include_usage": True}
    parts = list(client.completions.create(model="tiny", prompt=prompt, temperature=0, stream=True, stream_options=options))
    assert "".join(part.choices[0].text for part in parts[:-1]) == whole.choices[0].text
    assert parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason and parts[-1].usage == whole.usage
    with pytest.raises(openai.NotFoundError, match="'other' does not exist"):
        client.completions.create(model="other", prompt=prompt)
    with pytest.raises(openai.BadRequestError, match="suffix: not supported"):
        client.completions.create(model="tiny", prompt=prompt, suffix="x")


def test_many_streams_say_what_each_would_alone(served):
    expected = [served.text(prompt) for prompt in PROMPTS]

    def ask(first):
        client, found = served.client(), []
        for i in range(13):
            place = (first + i) % len(PROMPTS)
            parts = list(client.completions.create(model="tiny", prompt=PROMPTS[place], temperature=0, stream=True))
            found.append((place, "".join(part.choices[0].text for part in parts), parts[-1].choices[0].finish_reason))
        return found

    with futures.ThreadPoolExecutor(16) as clients:
        answers = [answer for found in clients.map(ask, range(16)) for answer in found]
    assert len(answers) > 200
    for place, text, reason in answers:
        assert text == expected[place] and reason in ("stop", "length")
    served.until(busy=0, waiting=0)


def test_seeds(served):
    how = {"model": "tiny", "prompt": "def ", "temperature": 1.5, "top_p": 0.8, "max_tokens": 16}
    client = served.client()
    alone = served.text("def ", sampler="top_p(0.8, temperature=1.5)", seed=7)
    both = [choice.text for choice in client.completions.create(**how, seed=7, n=2).choices]
    assert both[0] == alone and both[1] != alone
    assert client.completions.create(**how, seed=7).choices[0].text == alone
    assert client.completions.create(**how).choices[0].text != client.completions.create(**how).choices[0].text


def test_stop_strings_of_several_tokens(served):
    """What may be the beginning of one is not sent before it is certain."""
    free = served.post(prompt="x", temperature=0, max_tokens=40, **ENDLESS).json()["choices"][0]["text"]
    stop = next(free[i : i + 3] for i in range(12, 30) if free.find(free[i : i + 3]) == i)
    for never in (stop[:2] + "~", "~"):
        body = {"prompt": "x", "temperature": 0, "max_tokens": 40, "stop": [stop, never], **ENDLESS}
        choice = served.post(**body).json()["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (free.partition(stop)[0], "stop")
        lines = [line for line in served.post(**body, stream=True).text.splitlines() if line]
        assert lines[-1] == "data: [DONE]"
        assert "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines[:-1]) == choice["text"]


def test_the_queue_is_bounded_and_who_leaves_makes_room(served, monkeypatch):
    rows = served.scheduler._slots
    advance = rows.advance

    def slowly(tokens, until_free):
        time.sleep(0.2)
        return advance(1, until_free)

    monkeypatch.setattr(rows, "advance", slowly)  # no text will end by itself while the test lasts
    long = {"model": "tiny", "prompt": "x", "max_tokens": LENGTH - 8, **ENDLESS}
    with contextlib.ExitStack() as streams:
        for _ in range(SLOTS):
            request = httpx.stream("POST", f"{served.url}/completions", json={**long, "stream": True}, timeout=PATIENCE)
            lines = streams.enter_context(request).iter_lines()
            streams.callback(lines.close)  # which must not happen before
            assert next(lines).startswith("data: ")
        # One that does not stream waits, for as many texts as can.
        body = json.dumps({**long, "n": QUEUE}).encode()
        waiting = socket.create_connection(("127.0.0.1", int(served.url.split(":")[2].split("/")[0])))
        waiting.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        served.until(busy=SLOTS, waiting=QUEUE)
        refused = served.post(prompt="x")
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) > 0
        assert refused.json()["error"]["code"] == "queue_full"
        waiting.close()
        served.until(busy=SLOTS, waiting=0)
    served.until(busy=0, waiting=0)
    gone = [line for line in served.log if "client left" in line]
    assert len(gone) == SLOTS + 1 and all(" 499 " in line for line in gone)
    assert served.post(prompt="x", temperature=0).json()["choices"][0]["text"] == served.text("x")


def test_a_request_that_takes_too_long_is_given_up(served):
    told, over = [], threading.Event()
    row = slots.Row((256, 1), LENGTH - 8, drawing={"bias": {256: -100.0}})

    def tell(piece):
        told.append(piece)
        if isinstance(piece, Exception):
            over.set()

    served.scheduler.submit(scheduler.Job([row] * (SLOTS + 1), (), tell, 0.2))
    assert over.wait(PATIENCE) and isinstance(told[-1], TimeoutError)
    served.until(busy=0, waiting=0)


@pytest.mark.parametrize("where", ["place", "read"])
def test_when_the_model_fails_all_are_told(where):
    class Broken:
        size = free = 1

        def place(self, row):
            if where == "place":
                raise MemoryError("no room")
            self.free = 0
            return 0

        def read(self):
            raise MemoryError("no room")

    told, failed = [], threading.Event()
    desk = scheduler.Scheduler(Broken(), tokenizers.BytesTokenizer(), 5)
    desk.on_failure = failed.set
    for _ in range(3):
        desk.submit(scheduler.Job([slots.Row((256,), 1)] * 2, (), told.append, PATIENCE))
    with pytest.raises(scheduler.Full):
        desk.submit(scheduler.Job([slots.Row((256,), 1)], (), told.append, PATIENCE))
    desk.start()
    assert failed.wait(PATIENCE) and [type(one) for one in told] == [MemoryError] * 3
    with pytest.raises(scheduler.Closed):
        desk.submit(scheduler.Job([], (), told.append, PATIENCE))


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        ('{"model": "tiny", "prompt": ', 400, "body: not valid JSON"),
        ('["tiny"]', 400, "body: expected a JSON object"),
        ('{"model": "tiny", "top_p": NaN}', 400, "body: not valid JSON (NaN is not JSON)"),
        ("[" * 100000, 400, "body: not valid JSON"),
        (b"\xff", 400, "body: not valid JSON"),
        ({"prompt": "x", "model": None}, 400, "model: required"),
        ({"model": "\ud800\n"}, 404, "model: '\\ud800\\n' does not exist"),
        ({"prompt": {"a": 1}}, 400, "prompt: expected a text, a list of texts"),
        ({"prompt": []}, 400, "prompt: expected a text"),
        ({"prompt": "\ud800"}, 400, "prompt: has half of a surrogate pair"),
        ({"prompt": [1, 257]}, 400, "prompt: tokens 1 to 257 are not all below the vocabulary of 257"),
        ({"prompt": "x" * LENGTH}, 400, f"prompt: its {LENGTH + 1} tokens and max_tokens=1 are more than this model's context"),
        ({"prompt": "x", "max_tokens": LENGTH}, 400, f"max_tokens={LENGTH} are more than this model's context"),
        ({"max_tokens": 0}, 400, "max_tokens: expected a whole number of at least 1, got 0"),
        ({"max_tokens": 2.5}, 400, "max_tokens: expected a whole number"),
        ({"temperature": "1"}, 400, 'temperature: expected a number from 0 to 2, got "1"'),
        ({"temperature": True}, 400, "temperature: expected a number"),
        ({"temperature": 10**400}, 400, "temperature: expected a number"),
        ({"top_p": 0}, 400, "top_p: expected a number above 0 and at most 1, got 0"),
        ({"n": 21}, 400, "n: expected a whole number from 1 to 20"),
        ({"prompt": ["x"] * 7, "n": 3}, 400, "n: 7 prompts times 3 are more than the 20 texts allowed"),
        ({"stop": ["a", ""]}, 400, "stop: expected a text, or at most 16 of them, none empty"),
        ({"stream": "yes"}, 400, "stream: expected true or false"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options: only with stream=true"),
        ({"logit_bias": {"300": 1}}, 400, 'logit_bias: "300" is not a token, from 0 to 256'),
        ({"logit_bias": {"3": "a"}}, 400, "logit_bias.3: expected a number from -100 to 100"),
        ({"logprobs": 3}, 400, "logprobs: not supported"),
        ({"temprature": 1}, 400, "temprature: unknown parameter; did you mean 'temperature'?"),
    ],
)
def test_bad_requests_name_what_is_wrong(served, body, status, complaint):
    content = json.dumps({"model": "tiny", **body}) if isinstance(body, dict) else body
    answer = httpx.post(f"{served.url}/completions", content=content, timeout=PATIENCE)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")
    assert complaint in answer.json()["error"]["message"]


def test_pages_from_elsewhere_are_refused(served):
    own = served.url.removesuffix("/v1")
    body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
    for origin, status in ((own, 200), ("http://localhost:1", 403), ("null", 403), ("https://elsewhere.org", 403)):
        answer = httpx.post(f"{served.url}/completions", json=body, headers={"Origin": origin}, timeout=PATIENCE)
        assert answer.status_code == status, origin
    assert answer.json()["error"]["code"] == "origin_not_allowed"


def test_tokens_that_come_with_a_stop_string_are_not_counted():
    job, text = scheduler.Job([slots.Row((256, *b"a"), 9)], ("é", "béé"), print, PATIENCE), "aabéé"
    at_once = scheduler._Text(job, 0, tokenizers.BytesTokenizer()).add([*text.encode()], "length")
    slowly, told = scheduler._Text(job, 0, tokenizers.BytesTokenizer()), []
    for byte in text.encode():
        told.append(slowly.add([byte], None))
        if told[-1].ended:
            break
    assert "".join(piece.text for piece in told) == at_once.text == "aab"
    assert told[-1].tokens == at_once.tokens == 5 and told[-1].ended == at_once.ended == "stop"


def test_other_urls_and_large_bodies(served):
    answer = httpx.post(f"{served.url}/chat/completions", json={}, timeout=PATIENCE)
    assert answer.status_code == 404 and "POST /v1/completions" in answer.json()["error"]["message"]
    assert httpx.get(f"{served.url}/completions", timeout=PATIENCE).status_code == 405
    large = httpx.post(f"{served.url}/completions", content=b" " * (2**22 + 1), timeout=PATIENCE)
    assert large.status_code == 413


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "--workdir: required"),
        (["--workdir=x", "--slots=0"], "--slots: must be at least 1, got 0"),
        (["--workdir=x", "--port=70000"], "--port: must be at most 65535, got 70000"),
    ],
)
def test_bad_flags_are_one_line(words, complaint):
    done = subprocess.run([sys.executable, "-m", "taxonomy.serve", *words], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2 and complaint in done.stderr and done.stderr.count("\n") == 1
