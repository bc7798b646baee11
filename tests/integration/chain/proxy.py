"""An HTTP proxy in front of anvil that fails on demand: the faults of real endpoints, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import httpx

Question = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """What to do with one request.

    Attributes:
        status: answer with this HTTP status, without asking the chain.
        body: answer with this text instead of the chain's answer.
        lose_answer: ask the chain, then break the connection.
        rewrite: change the chain's answer.
    """

    status: int | None = None
    body: str | None = None
    lose_answer: bool = False
    rewrite: Callable[[dict[str, Any]], dict[str, Any]] | None = None


class FaultProxy:
    """`fault(question)` decides for each JSON-RPC question; None passes it on. `asked` counts questions by method."""

    def __init__(self, upstream: str) -> None:
        self.fault: Callable[[Question], Fault | None] = lambda _: None
        self.asked: dict[str, int] = {}
        self._upstream = upstream
        self._http = httpx.Client(timeout=10)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.rpc_url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def fail_times(self, times: int, fault: Fault, method: str | None = None) -> None:
        """The next `times` questions (of `method`) meet the fault."""
        left = [times]

        def decide(question: Question) -> Fault | None:
            if left[0] == 0 or (method is not None and question["method"] != method):
                return None
            left[0] -= 1
            return fault

        self.fault = decide

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._http.close()

    def answer(self, raw: bytes) -> tuple[int, bytes] | None:
        """(HTTP status, body), or None to break the connection."""
        question = json.loads(raw)
        self.asked[question["method"]] = self.asked.get(question["method"], 0) + 1
        fault = self.fault(question) or Fault()
        if fault.status is not None:
            return fault.status, (fault.body or "no").encode()
        if fault.body is not None:
            return 200, fault.body.encode()
        answer = self._http.post(self._upstream, content=raw, headers={"content-type": "application/json"})
        if fault.lose_answer:
            return None
        if fault.rewrite is not None:
            return 200, json.dumps(fault.rewrite(answer.json())).encode()
        return answer.status_code, answer.content

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                answered = proxy.answer(self.rfile.read(int(self.headers["content-length"])))
                if answered is None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, body = answered
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        return Handler
