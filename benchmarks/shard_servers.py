"""A server on this machine that gives few shards many names: nginx, or Python's."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# The last digits of a name choose one of the shards that there are.
_NGINX = """\
daemon off; {user} worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location ~ ^(/bucket)?/train-\\d*(\\d)\\.tar$ {{ alias {shards}/shard-$2.tar; }}
    location ~ ^(/bucket)?/dataset.json$ {{ alias {shards}/dataset.json; }}
  }}
}}
"""
_NAME = re.compile(r"/train-\d*(\d)\.tar$")


@contextmanager
def web_server(shards: Path, folder: Path) -> Iterator[str]:
    """Serve shard-0.tar to shard-9.tar as train-N.tar for any N, by its last digit; give the URL.

    To S3's clients, which ask for objects by path, with ranges, it is an endpoint whose bucket is
    called bucket.

    Args:
        shards: the folder of these and of dataset.json.
        folder: for the server's own files.
    """
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        print("nginx is not installed: Python serves the shards, which takes more of the cores")
        with _python_server(shards) as url:
            yield url
        return
    port = _free_port()
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(user=user, folder=folder, port=port, shards=shards))
    process = subprocess.Popen([nginx, "-p", str(folder), "-c", str(config)])
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _python_server(shards: Path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def translate_path(self, path: str) -> str:
            if match := _NAME.search(path):
                return str(shards / f"shard-{match[1]}.tar")
            return str(shards / Path(path).name)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise SystemExit(f"the server ended with {process.returncode}")
