"""A real mail server that keeps the alerts it gets."""

from __future__ import annotations

import socket
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, Self

from aiosmtpd.controller import Controller

TO = "on-call@example.org"


class Mailbox:
    def __init__(self) -> None:
        self.got: list[EmailMessage] = []
        with socket.create_server(("127.0.0.1", 0)) as free:  # the controller connects to the very port it is given
            self._port: int = free.getsockname()[1]
        self._controller = Controller(self, hostname="127.0.0.1", port=self._port)

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    @property
    def url(self) -> str:
        return f"mailto://127.0.0.1:{self._port}?mode=insecure&format=text&from=xmas@example.org&to={TO}"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 (its name there)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.got.append(message)
        return "250 OK"
