"""A web server of a folder's files, with ranges and ETags, that fails when it is told to."""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Fault = str | None
"""What goes wrong with a request: "500", "stall" or "cut" in the middle of its body."""


@dataclass
class ShardServer:
    """What is served, what was asked for, and what is to go wrong."""

    folder: Path
    url: str = ""
    faults: Callable[[str, int], Fault] = lambda name, number: None
    """Given a file's name and how often it was asked for before."""
    ranges: bool = True
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(name, range) of every request for more than a file's first byte."""
    counts: Counter[str] = field(default_factory=Counter)
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


def random_faults(share: float, *kinds: str) -> Callable[[str, int], Fault]:
    """About a share of all requests fails, the same ones each time."""

    def fault(name: str, number: int) -> Fault:
        digest = hashlib.sha256(f"{name} {number}".encode()).digest()
        fails = int.from_bytes(digest[:8], "big") < share * 2**64
        return kinds[digest[8] % len(kinds)] if fails else None

    return fault


@contextmanager
def serving(folder: Path) -> Iterator[ShardServer]:
    """Serve a folder on a free port of this machine."""
    server = ShardServer(folder)
    with _Server(("127.0.0.1", 0), _handler(server)) as httpd:
        server.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            httpd.shutdown()
            thread.join()


def _mark(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are killed."""


def _handler(server: ShardServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_HEAD(self) -> None:
            """As of an object in a bucket."""
            path = server.folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", _mark(data))
            self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
            self.end_headers()

        def do_GET(self) -> None:
            name = self.path.partition("?")[0].lstrip("/")
            path = server.folder / name
            with server.lock:
                number = server.counts[name]
                server.counts[name] += 1
            if not path.is_file():
                self.send_error(404)
                return
            fault = server.faults(name, number)
            if fault == "500":
                self.send_error(500)
                return
            self._send(name, path.read_bytes(), fault)

        def _send(self, name: str, data: bytes, fault: Fault) -> None:
            mark = _mark(data)
            asked = self.headers.get("Range", "")
            condition = self.headers.get("If-Range")
            first, last = 0, len(data) - 1
            partial = server.ranges and asked and condition in (None, mark)
            if partial:
                begin, _, end = asked.removeprefix("bytes=").partition("-")
                first, last = int(begin), int(end) if end else last
            if asked != "bytes=0-0":
                server.asked.append((name, asked))
            self.send_response(206 if partial else 200)
            body = data[first : last + 1]
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", mark)
            if partial:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.end_headers()
            if fault is None:
                self.wfile.write(body)
                return
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "stall":
                server.closing.wait()
            self.close_connection = True

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler
