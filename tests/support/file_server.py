"""A web server on the loopback that serves one file, with ranges, and misbehaves on request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """What is served, how, and what was asked for.

    break_after: bytes of a body after which the connection is cut, once per entry, in order.
    redirect_sha256: send a redirect first, with this hash as a model hub announces it.
    redirect_to: send every request there. length: what is said of a body in place of its length.
    """

    content: bytes
    tag: str = '"v1"'
    ranges: bool = True
    status: int = 200
    break_after: list[int] = field(default_factory=list)
    redirect_sha256: str | None = None
    redirect_to: str | None = None
    length: str | None = None
    asked: list[dict[str, str]] = field(default_factory=list)
    address: str = ""


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    """Serve until left; `served.address` is filled in."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append({"path": self.path, **dict(self.headers)})
            if served.redirect_sha256 is not None and not self.path.startswith("/store/"):
                self.send_response(302)
                self.send_header("X-Linked-Etag", f'"{served.redirect_sha256}"')
                self.send_header("Location", f"/store{self.path}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if served.redirect_to is not None:
                self.send_response(302)
                self.send_header("Location", served.redirect_to)
                self.end_headers()
                return
            if served.status != 200:
                self.send_error(served.status)
                return
            start = self._start()
            body = served.content[start:]
            self.send_response(206 if start else 200)
            if start:
                total = len(served.content)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.send_header("ETag", served.tag)
            length = str(len(body)) if served.length is None else served.length
            self.send_header("Content-Length", length)
            self.end_headers()
            cut = served.break_after.pop(0) if served.break_after else len(body)
            self.wfile.write(body[:cut])
            self.close_connection = True

        def _start(self) -> int:
            wanted = self.headers.get("Range")
            if not served.ranges or wanted is None or self.headers.get("If-Range") != served.tag:
                return 0
            return int(wanted.removeprefix("bytes=").rstrip("-"))

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    served.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
