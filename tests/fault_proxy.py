"""A proxy before an S3 server that spoils one request of many, or the first try of each, in every way there is."""

from __future__ import annotations

import http.client
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import urlsplit

FAULTS: Final = ("500", "503", "timeout", "reset", "slow", "lost", "412", "409")
_CODES: Final = {
    "500": "InternalError",
    "503": "SlowDown",
    "412": "PreconditionFailed",
    "409": "ConditionalRequestConflict",
}
OF_CONDITIONS: Final = ("412", "409")
"""What only a request with a condition should meet."""
GIVE_UP_SECONDS = 10.0


class FaultProxy(ThreadingHTTPServer):
    """Counts requests from 0; the one numbered `spoiled` meets `fault`. `strip` names headers that get lost.

    With `spoils_first_tries`, every request that can meet `fault` does, and the same one after it passes.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.fault = ""
        self.spoiled = -1
        self.spoils_first_tries = False
        self.num_requests = self.num_spoiled = 0
        self.tried: set[tuple[str, ...]] = set()
        self.strip: frozenset[str] = frozenset()
        self.keys_seen: list[str] = []
        self._counting = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def plan(self, fault: str, spoiled: int) -> None:
        """Count anew, and spoil that request."""
        self.fault, self.spoiled, self.num_requests = fault, spoiled, 0

    def spoil_first_tries(self, fault: str) -> None:
        """Count anew, and spoil every request that can meet the fault, until it is repeated."""
        self.plan(fault, -1)
        self.spoils_first_tries, self.num_spoiled = True, 0
        self.tried.clear()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up on purpose here; what else is wrong shows in the test."""

    def next_fault(self, request: tuple[str, ...], *, is_conditional: bool) -> str:
        with self._counting:
            is_met = self.num_requests == self.spoiled
            if self.spoils_first_tries:
                is_met = request not in self.tried and (is_conditional or self.fault not in OF_CONDITIONS)
                self.tried ^= {request}
            self.num_requests += 1
            self.num_spoiled += is_met
        return self.fault if is_met else ""


@contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    """A proxy on a free port for the server at the URL `target`."""
    with FaultProxy(target) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FaultProxy
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    upstream: http.client.HTTPConnection | None = None

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        assert "chunked" not in self.headers.get("Transfer-Encoding", "")
        request = (self.command, self.path, self.headers.get("Range", ""))
        fault = self.server.next_fault(request, is_conditional="If-None-Match" in self.headers)
        self.server.keys_seen.append(self.headers.get("Authorization", "").partition("Credential=")[2].split("/")[0])
        if fault in _CODES:
            self._refuse(fault)
        elif fault == "timeout":
            self._wait_for_the_client()
        elif fault == "reset":
            self._reset()
        else:
            head, answer = self._forward(body)
            if fault == "lost":
                self._reset()
            elif fault == "slow":  # a part of the answer, then nothing more
                self.wfile.write(head + answer[: len(answer) // 2] if answer else head[: len(head) // 2])
                self._wait_for_the_client()
            else:
                self.wfile.write(head + answer)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815 (http.server's names)

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def _forward(self, body: bytes) -> tuple[bytes, bytes]:
        if self.upstream is None:
            self.upstream = http.client.HTTPConnection(self.server.target, timeout=GIVE_UP_SECONDS)
        left_out = {"expect", "connection", *self.server.strip}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
        self.upstream.request(self.command, self.path, body, headers)
        answer = self.upstream.getresponse()
        data = answer.read()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OF_THE_HOP]
        if not any(name.lower() == "content-length" for name, _ in kept):
            kept.append(("Content-Length", str(len(data))))
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{name}: {value}" for name, value in kept)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), data

    def _refuse(self, status: str) -> None:
        code = _CODES[status]
        body = b"" if self.command == "HEAD" else f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)

    def _wait_for_the_client(self) -> None:
        self.wfile.flush()
        select.select([self.connection], [], [], GIVE_UP_SECONDS)  # readable once it has hung up
        self.close_connection = True

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def finish(self) -> None:
        if self.upstream is not None:
            self.upstream.close()
        with suppress(OSError):  # the connection was reset on purpose
            super().finish()

    def log_message(self, *_: object) -> None:
        pass


_OF_THE_HOP = {"connection", "transfer-encoding", "keep-alive"}
