"""OpenAI's completions endpoint over a scheduler: HTTP in, streams or whole answers out.

A client that goes away ends its job, whether it reads a stream or waits; one that asks while all is full is told to come again.
"""

import asyncio
import contextlib
import json
import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from taxonomy.errors import UserError
from taxonomy.inference import completions
from taxonomy.inference.completions import Asked, Model, Refused
from taxonomy.inference.scheduler import Closed, Full, Job, Piece, Scheduler

_LARGEST_BODY = 2**22  # bytes
_SECONDS_TO_SEND = 30.0  # that a client has for its request
_SECONDS_TO_END, _SECONDS_TO_TELL = 30, 10  # that requests have when the server is to end, and to say that time is up
_GONE = 499  # in the log, for a client that did not wait; nobody is told


class Server:
    """The endpoints of one model."""

    def __init__(self, model: Model, scheduler: Scheduler, timeout: float, log: Callable[[str], None]):
        self._model, self._scheduler, self._timeout, self._log = model, scheduler, timeout, log
        self._created = int(time.time())

    def web(self) -> uvicorn.Server:
        """What serves: `.run(sockets=[...])`, until its `should_exit` is true."""
        seconds = _SECONDS_TO_END + _SECONDS_TO_TELL
        config = uvicorn.Config(self.app(), log_level="error", access_log=False, timeout_graceful_shutdown=seconds)
        return _Web(config, self._scheduler)

    def app(self) -> Starlette:
        """The ASGI application, whose lifespan is the scheduler's."""

        @contextlib.asynccontextmanager
        async def lifespan(_):
            self._scheduler.start()
            yield
            await asyncio.to_thread(self._scheduler.close)

        routes = [
            Route("/v1/completions", self._completions, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._one_model),
            Route("/health", self._health),
        ]
        handlers = {Refused: _refused, HTTPException: _no_route, Exception: _broken}
        own = [Middleware(_OwnPages)]
        return Starlette(routes=routes, middleware=own, lifespan=lifespan, exception_handlers=handlers)

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._entry()]})

    async def _one_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self._model.name:
            raise Refused(404, f"model: '{name}' does not exist", "model", "model_not_found")
        return JSONResponse(self._entry())

    def _entry(self) -> dict[str, Any]:
        return {"id": self._model.name, "object": "model", "created": self._created, "owned_by": "taxonomy"}

    async def _health(self, request: Request) -> Response:
        failed, slots = self._scheduler.failure is not None, self._model.slots.size
        state = {"status": "failed" if failed else "ok", "slots": slots, "busy": self._scheduler.busy}
        return JSONResponse(state | {"waiting": self._scheduler.waiting}, 503 if failed else 200)

    async def _completions(self, request: Request) -> Response:
        arrived, note = time.monotonic(), _Note(request)
        try:
            body = await asyncio.wait_for(_body(request), _SECONDS_TO_SEND)
            # Tokenizing a long text takes a while, which others do not wait for.
            asked = await asyncio.to_thread(self._model.asked, body)
            told = self._submitted(asked, note)
        except (TimeoutError, Refused) as error:
            refused = error if isinstance(error, Refused) else Refused(408, f"body: not there after {_SECONDS_TO_SEND:g} seconds")
            self._log(note.line(refused.status, arrived, refused.message))
            raise refused from None
        except ClientDisconnect:
            self._log(note.line(_GONE, arrived, "left while asking"))
            return Response(status_code=400)
        return _Answer(self, asked, told, note, arrived)

    def _submitted(self, asked: Asked, note: "_Note") -> asyncio.Queue:
        """What is told of a request, once it waits. Raises Refused."""
        loop, told = asyncio.get_running_loop(), asyncio.Queue()

        def tell(piece: Piece | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # nobody listens once the loop is closed
                loop.call_soon_threadsafe(told.put_nowait, piece)

        note.job, note.asked = Job(asked.rows, asked.stop, tell, self._timeout), asked
        try:
            self._scheduler.submit(note.job)
        except Full:
            message = f"all slots are busy and {self._scheduler.waiting} texts wait; try again later"
            raise Refused(429, message, code="queue_full") from None
        except Closed:
            raise Refused(503, "the server is ending", code="closing") from None
        return told


def listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections; port 0 is a free one. Raises UserError."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise UserError(f"--port: cannot listen on {host}:{port} ({error.strerror})") from None


class _Web(uvicorn.Server):
    """Waits for requests that run when it is to end, but not for long: then their clients are told."""

    def __init__(self, config: uvicorn.Config, scheduler: Scheduler):
        super().__init__(config)
        self._scheduler = scheduler

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        async def end():
            await asyncio.sleep(_SECONDS_TO_END)
            await asyncio.to_thread(self._scheduler.close)

        ending = asyncio.create_task(end())
        await super().shutdown(sockets)
        ending.cancel()


def run(server: uvicorn.Server, listener: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT, then finishes what runs, or ends it when that takes long; a second SIGINT does at once."""
    # Once it has ended, uvicorn raises the signal again for whoever handled it before.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])


class _Note:
    """What the log says of a request."""

    def __init__(self, request: Request):
        client = request.client
        self._who = f"{client.host}:{client.port}" if client else "-"
        self.job: Job | None = None
        self.asked: Asked | None = None
        self.tokens: dict[int, int] = {}
        self.ended: dict[int, str] = {}
        self.first: float | None = None

    def hear(self, piece: Piece) -> None:
        self.first = self.first or time.monotonic()
        self.tokens[piece.index] = piece.tokens
        if piece.ended:
            self.ended[piece.index] = piece.ended

    def line(self, status: int, arrived: float, why: str = "") -> str:
        now = time.monotonic()
        words = [time.strftime("%H:%M:%S"), self._who, str(status)]
        if self.asked is not None:
            texts, new = len(self.asked.rows), sum(self.tokens.values())
            words.append(f"{self.asked.prompt_tokens} tokens read, {new} written" + (f" in {texts} texts" if texts > 1 else ""))
            waited = (self.job.begun or now) - arrived
            first = f", first after {self.first - arrived:.2f} s" if self.first else ""
            words.append(f"(waited {waited:.2f} s{first}, {now - arrived:.2f} s in all)")
        words.append(why or ", ".join(dict.fromkeys(self.ended.values())))
        return " ".join(words)


class _Answer(Response):
    """The answer to a request while it is written: whole at its end, or as a stream of events. It ends when its client does."""

    def __init__(self, server: Server, asked: Asked, told: asyncio.Queue, note: _Note, arrived: float):
        self.background = None
        self._server, self._asked, self._told, self._note, self._arrived = server, asked, told, note, arrived
        name = server._model.name
        made = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time()), "model": name}
        self._made, self._status, self._why = made, 200, ""

    async def __call__(self, scope, receive, send) -> None:
        answer = asyncio.create_task(self._stream(send) if self._asked.stream else self._whole(scope, receive, send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                answer.result()
            else:
                self._status, self._why = _GONE, "client left"
        except OSError:
            self._status, self._why = _GONE, "client left"
        except asyncio.CancelledError:
            self._status, self._why = 503, "ended with the server"
            raise
        finally:
            for task in (answer, gone):
                task.cancel()
            self._server._scheduler.cancel(self._note.job)
            self._server._log(self._note.line(self._status, self._arrived, self._why))

    async def _pieces(self) -> AsyncIterator[Piece]:
        """What is told until all texts have ended. Raises Refused."""
        while len(self._note.ended) < len(self._asked.rows):
            piece = await self._told.get()
            if isinstance(piece, Exception):
                refused = _failed(piece, self._server._timeout)
                self._status, self._why = refused.status, refused.message
                raise refused
            self._note.hear(piece)
            yield piece

    async def _whole(self, scope, receive, send) -> None:
        texts = list(self._asked.prompts) if self._asked.echo else [""] * len(self._asked.rows)
        try:
            async for piece in self._pieces():
                texts[piece.index] += piece.text
        except Refused as refused:
            response = _refusal(refused)
        else:
            ended = [self._note.ended[i] for i in range(len(texts))]
            response = JSONResponse(completions.answer(self._made, texts, ended, self._usage()))
        await response(scope, receive, send)

    async def _stream(self, send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def event(content: Any, more: bool = True) -> None:
            text = content if isinstance(content, str) else json.dumps(content)
            await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": more})

        for index, prompt in enumerate(self._asked.prompts if self._asked.echo else ()):
            await event(completions.part(self._made, index, prompt, None, self._asked))
        try:
            async for piece in self._pieces():
                if piece.text or piece.ended:
                    await event(completions.part(self._made, piece.index, piece.text, piece.ended, self._asked))
        except Refused as refused:
            await event(refused.json())
        else:
            if self._asked.include_usage:
                await event({**self._made, "choices": [], "usage": self._usage()})
        await event("[DONE]", more=False)

    def _usage(self) -> dict[str, int]:
        return completions.usage(self._asked.prompt_tokens, sum(self._note.tokens.values()))


class _OwnPages:
    """Refuses what a web page from elsewhere asks, of which a browser says where it is from; other clients say nothing."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        origin = headers.get("origin")
        if origin is None or origin.partition("://")[2] == headers.get("host"):
            return await self._app(scope, receive, send)
        refused = Refused(403, f"origin: pages of {origin} may not ask this server", "origin", "origin_not_allowed")
        await _refusal(refused)(scope, receive, send)


def _failed(error: Exception, timeout: float) -> Refused:
    if isinstance(error, TimeoutError):
        return Refused(504, f"not all was written in {timeout:g} seconds", code="timeout")
    if isinstance(error, Closed):
        return Refused(503, "the server is ending", code="closing")
    return Refused(500, f"the model failed: {type(error).__name__}", code="failed")


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_BODY:
            raise Refused(413, f"body: more than {_LARGEST_BODY} bytes")
    return bytes(body)


async def _gone(receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _refusal(refused: Refused) -> JSONResponse:
    again = {"Retry-After": "1"} if refused.status in (429, 503) else {}
    return JSONResponse(refused.json(), refused.status, again)


def _refused(request: Request, refused: Refused) -> JSONResponse:
    return _refusal(refused)


def _broken(request: Request, error: Exception) -> JSONResponse:
    return _refusal(Refused(500, f"the server failed: {type(error).__name__}", code="failed"))


def _no_route(request: Request, error: HTTPException) -> JSONResponse:
    what = f"{request.method} {request.url.path}"
    message = f"{what}: not served here; POST /v1/completions, GET /v1/models and GET /health are"
    response = _refusal(Refused(error.status_code, message, code="unknown_url"))
    response.headers.update(error.headers or {})
    return response
