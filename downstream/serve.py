"""The server of a small local page: images are dropped on it, predictions come back.

It trusts nobody: it takes requests for its own name only (a page elsewhere whose name is made to
point here would otherwise be let in), answers POST of image bytes alone, and reads no more than a
limit.
"""

import base64
import hashlib
import ipaddress
import json
import socket
import sys
import traceback
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data.errors import DataError
from downstream.predictor import Predictor
from pages import style
from pages.html import render
from training.environment import project_version
from training.errors import InputError

MAX_BODY_BYTES = 16 * 2**20
_MOST_DIGITS = 20
_TEMPLATES = Path(__file__).with_name("templates")
_TYPES = ("image/", "application/octet-stream")


class PredictionServer(ThreadingHTTPServer):
    """Serves the page at / and predictions at /predict.

    Args:
        host: name or address to listen at; port: 0 for any that is free.
        name: of the model, for the page.
    Raises:
        InputError: it cannot listen there; one line.
    """

    daemon_threads = True

    def __init__(self, predictor: Predictor, host: str, port: int, *, name: str) -> None:
        self.predictor = predictor
        self.names = {"localhost", host.lower()}
        try:
            self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"--host, --port: cannot listen at {host} port {port} ({reason}); give another "
                "port, or 0 for any that is free"
            ) from error
        script = (_TEMPLATES / "serve.js").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        self.policy = f"script-src 'sha256-{digest}'; connect-src 'self'"
        context = {
            "light": style.LIGHT,
            "dark": style.DARK,
            "contents": (),
            "version": project_version(),
            "name": name,
            "policy": self.policy,
            "script": script,
            "max_bytes": MAX_BODY_BYTES,
        }
        self.page = render(_TEMPLATES, "serve.html.j2", context).encode()

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.server_address[:2]
        shown = f"[{host!s}]" if self.address_family == socket.AF_INET6 else str(host)
        return f"http://{shown}:{port}/"

    @property
    def on_loopback(self) -> bool:
        """Whether only this computer can reach it."""
        return ipaddress.ip_address(str(self.server_address[0])).is_loopback

    def is_own_name(self, host: str) -> bool:
        """Whether a Host header names this server: by an address, localhost or --host.

        Only a name can be made to point here by others (DNS rebinding), an address cannot.
        """
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        return name in self.names or _is_address(name)


class _Handler(BaseHTTPRequestHandler):
    server: PredictionServer
    server_version, sys_version = "Underlayer", ""
    timeout = 30

    def do_GET(self) -> None:
        if not self._is_for_us():
            return
        if self.path != "/":
            self.send_error(HTTPStatus.NOT_FOUND, "there is nothing here; the page is at /")
            return
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)

    def do_POST(self) -> None:
        # What is not read has to be said before the connection is cut.
        self.close_connection = True
        if not self._is_for_us():
            return
        if self.path != "/predict":
            self.send_error(HTTPStatus.NOT_FOUND, "images are taken at /predict")
            return
        if not (self.headers.get("Content-Type") or "").lower().startswith(_TYPES):
            self.send_error(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send an image's bytes, Content-Type image/..."
            )
            return
        length = self.headers.get("Content-Length") or ""
        if not (length.isascii() and length.isdigit()):
            self.send_error(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long it is")
            return
        if len(length) > _MOST_DIGITS or int(length) > MAX_BODY_BYTES:
            self.send_error(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the image is above the limit of {MAX_BODY_BYTES} bytes",
            )
            return
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            self.send_error(HTTPStatus.BAD_REQUEST, "the image ended early")
            return
        try:
            answer = self.server.predictor.answer(data)
        except DataError as error:
            self.send_error(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
            return
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed, see its output")
            return
        self._send(HTTPStatus.OK, "application/json", _line(answer))

    def _is_for_us(self) -> bool:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not self.server.is_own_name(hosts[0]):
            self.send_error(
                HTTPStatus.MISDIRECTED_REQUEST,
                "the Host header names another server; open the address that was printed",
            )
            return False
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{hosts[0]}":
            self.send_error(HTTPStatus.FORBIDDEN, "a page of another origin asks")
            return False
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with a line of JSON; also what the base class finds wrong with a request."""
        reason = message or HTTPStatus(code).phrase
        self._send(HTTPStatus(code), "application/json", _line({"error": reason}))

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            (
                "Content-Security-Policy",
                "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
                f"form-action 'none'; frame-ancestors 'none'; {self.server.policy}",
            ),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "same-origin"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests."""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"
