"""An S3 server on loopback, with faults in front of it, for the tests of what lies in stores."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

Answer = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Server:
    """moto's S3 server. `fault` is asked first about every request: what it returns answers, None lets it pass."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.fault: Callable[[str, str, str], Answer | None] = lambda method, path, query: None
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()

    def pass_on(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        answer: Iterable[bytes] = self._moto(environment, start)
        return answer

    def _answer(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path, query = (environment[key] for key in ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING"))
        self.requests.append(f"{method} {path}" + (f"?{query}" if query else ""))
        return (self.fault(method, path, query) or self.pass_on)(environment, start)

    def unavailable(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        return _error(start, "503 Service Unavailable", "ServiceUnavailable", "Please reduce your request rate.")

    def refused(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        return _error(start, "403 Forbidden", "InvalidAccessKeyId", "There is no such access key.")

    def cut_off(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Half of the body, then the connection is closed."""
        body = b"".join(self.pass_on(environment, start))
        yield body[: len(body) // 2]
        raise ConnectionAbortedError

    def slow(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Ten pieces, a tenth of a second before each."""
        body = b"".join(self.pass_on(environment, start))
        for place in range(10):
            time.sleep(0.1)
            yield body[len(body) * place // 10 : len(body) * (place + 1) // 10]


class _Quiet(MotoRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None: ...

    def log_request(self, code: object = "-", size: object = "-") -> None: ...


def _error(start: Callable[..., Any], status: str, code: str, message: str) -> Iterable[bytes]:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]
