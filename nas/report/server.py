"""A running search on the page, live: an HTTP server on the loopback that can only read.

It answers GET and HEAD for two paths, the page and `snapshot.json`, and nothing else; there is no way to write. It
binds to 127.0.0.1 alone, and since any web page can make a browser send requests there under a name of its own (DNS
rebinding), it refuses those whose Host header is not this machine's. The page asks again every two seconds, and is told
"not modified" until the store has changed; reading it takes a set share of a core at most, so that a reader costs a
running search little however large its run is.

The standard library serves it: two read-only paths for a reader or two need no framework, and so no dependency.
"""

import contextlib
import gzip
import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nas.report.page import embedded, render
from nas.store import StoreError

HOST = "127.0.0.1"
"""The only address that is served."""
PORT = 8765
"""Where the page is served unless told otherwise."""

SHARE = 0.05
"""Most of one core's time that reading a store that changes may take."""

_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the page's own policy says the rest; both hold
    "Cache-Control": "no-store",
}


class _Latest:
    """The snapshot of a run, made again only when its database has changed, and not too often.

    Args:
      folder: of the run.
      make: reads the run; may raise `StoreError` for a moment, while a search starts or ends.
    """

    def __init__(self, folder: Path, make: Callable[[], Mapping[str, Any]]) -> None:
        self._files = [folder / name for name in ("run.db", "run.db-wal", "run.json")]
        self._make, self._lock = make, threading.Lock()
        self._stamp: list[tuple[int, int]] | None = None
        self._again = 0.0
        self.made: tuple[str, Mapping[str, Any]] | None = None

    def get(self) -> tuple[str, Mapping[str, Any]]:
        """(Name of the state, snapshot). A name is a hash of the content, so equal states have equal names."""
        with self._lock:
            began = time.monotonic()
            stamp = [_stamp(path) for path in self._files]  # before reading: what comes meanwhile is read next time
            if self.made is None or stamp != self._stamp and began > self._again:
                snapshot = self._make()
                name = hashlib.sha256(embedded(snapshot).encode()).hexdigest()[:16]
                self.made, self._stamp = (name, snapshot), stamp
                self._again = time.monotonic() + (time.monotonic() - began) / SHARE
            return self.made


def _stamp(path: Path) -> tuple[int, int]:
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_size
    return 0, 0


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "nas", ""
    timeout = 30

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        assert isinstance(self.server, Server)
        if self.headers.get("Host", "") not in self.server.names:
            text = f"this server answers to {' and '.join(sorted(self.server.names))} only; open one of them"
            return self._send(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", text, body=body)
        path = self.path.split("?", 1)[0]
        if path not in ("/", "/snapshot.json"):
            return self._send(HTTPStatus.NOT_FOUND, "text/plain", "there is only / and /snapshot.json", body=body)
        try:
            name, snapshot = self.server.latest.get()
        except StoreError as error:
            return self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", str(error), body=body)
        if path == "/":
            return self._send(HTTPStatus.OK, "text/html", render(snapshot, live=name), body=body)
        if self.headers.get("If-None-Match") == f'"{name}"':
            return self._send(HTTPStatus.NOT_MODIFIED, "application/json", "", body=False, tag=name)
        return self._send(HTTPStatus.OK, "application/json", embedded(snapshot), body=body, tag=name)

    def _send(self, status: HTTPStatus, kind: str, text: str, *, body: bool, tag: str | None = None) -> None:
        content = text.encode()
        packed = "gzip" in self.headers.get("Accept-Encoding", "") and len(content) > 1000
        if packed:
            content = gzip.compress(content, compresslevel=1)
        self.send_response(status)
        headers = _SAFE | {"Content-Type": f"{kind}; charset=utf-8"}
        headers |= {"ETag": f'"{tag}"'} if tag else {}
        headers |= {"Content-Encoding": "gzip"} if packed else {}
        headers |= {"Content-Length": str(len(content))} if status != HTTPStatus.NOT_MODIFIED else {}
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a page that asks every two seconds would fill the terminal."""


class Server(ThreadingHTTPServer):
    """See the module's docstring.

    Args:
      folder: of the run.
      make: reads the run and makes its snapshot.
      port: where to serve; 0 takes a free one.
    Raises:
      OSError: the port is in use, or may not be used.
    """

    daemon_threads = True

    def __init__(self, folder: Path, make: Callable[[], Mapping[str, Any]], port: int = PORT) -> None:
        super().__init__((HOST, port), _Handler)
        self.latest = _Latest(folder, make)
        self.names = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}
        if self.server_port == 80:  # browsers leave it out
            self.names |= {HOST, "localhost"}

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that went away in the middle of an answer is nobody's fault."""
        import sys

        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)
