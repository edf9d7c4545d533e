"""`python -m downstream serve`: a real process, asked as a browser and as others would ask."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from data.store import open_store
from downstream.__main__ import main
from models.classifier_file import load_classifier
from tests.processes import ROOT, environment

PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def server(fitted, digits) -> Iterator[subprocess.Popen]:
    """A server on a free port; it has to end well at SIGTERM."""
    arguments = ["serve", str(fitted), "--port", "0", "--neighbours", f"{digits}/train-*.tar"]
    process = subprocess.Popen(
        [sys.executable, "-m", "downstream", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    match = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
    assert match, said + process.communicate()[1]
    process.port = int(match[1])
    yield process
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and out == "stopped\n" and "Traceback" not in err


def ask(server, method, path, body=None, headers=None) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path, body, headers or {})
    reply = connection.getresponse()
    content = reply.read().decode()
    connection.close()
    return reply.status, reply.headers, content


def refused(server, *request: object) -> tuple[int, str]:
    status, _, content = ask(server, *request)
    assert content.count("\n") == 1
    return status, json.loads(content)["error"]


def digit(digits, split="test") -> bytes:
    with tarfile.open(digits / f"{split}-000000.tar") as source:
        name = next(name for name in source.getnames() if name.endswith(".png"))
        return source.extractfile(name).read()


def test_an_image_gets_the_model_s_prediction_and_its_nearest_neighbours(server, fitted, digits):
    status, _, content = ask(server, "POST", "/predict", digit(digits), PNG)
    assert status == 200
    answer = json.loads(content)
    store = open_store(f"{digits}/test-*.tar")
    (wanted,) = load_classifier(fitted).probabilities(store.images[:1])
    assert answer["prediction"] == f"digit {int(wanted.argmax())}"
    assert answer["confidence"] == pytest.approx(float(wanted.max()), abs=1e-5)
    cosines = [one["cosine"] for one in answer["neighbours"]]
    assert len(cosines) == 8 and cosines == sorted(cosines, reverse=True)
    labels = [one["label"] for one in answer["neighbours"]]
    assert labels.count(answer["prediction"].removeprefix("digit ")) >= 6

    # A training image is its own nearest neighbour.
    _, _, content = ask(server, "POST", "/predict", digit(digits, "train"), PNG)
    first = json.loads(content)["neighbours"][0]
    assert first["cosine"] == pytest.approx(1, abs=1e-4)
    assert first["key"] == open_store(f"{digits}/train-*.tar").keys[0]


def test_photos_of_any_size_and_colour_are_taken(server):
    file = BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (120, 90, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    status, _, content = ask(
        server, "POST", "/predict", file.getvalue(), {"Content-Type": "image/jpeg"}
    )
    assert status == 200 and json.loads(content)["seen"].startswith("data:image/png;base64,")


def test_the_page_is_whole_and_runs_its_own_script_alone(server):
    status, headers, page = ask(server, "GET", "/")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "connect-src 'self'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert not re.findall(r"(?:src|href)=", page) and "http" not in page.replace("http-equiv", "")


def test_only_requests_for_this_server_are_answered(server, digits):
    """A name that others make to point here (DNS rebinding), and pages of other origins."""
    for host in ("evil.example", f"evil.example:{server.port}", "", "127.0.0.1.evil.example"):
        assert refused(server, "GET", "/", None, {"Host": host})[0] == 421
        assert refused(server, "POST", "/predict", digit(digits), {**PNG, "Host": host})[0] == 421
    elsewhere = {**PNG, "Origin": "http://evil.example"}
    assert refused(server, "POST", "/predict", digit(digits), elsewhere)[0] == 403
    own = {**PNG, "Host": f"localhost:{server.port}", "Origin": f"http://localhost:{server.port}"}
    assert ask(server, "POST", "/predict", digit(digits), own)[0] == 200


def test_what_is_not_an_image_is_refused_in_one_line(server, digits):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert refused(server, "POST", "/predict", b"a=b", form)[0] == 415
    assert refused(server, "POST", "/elsewhere", digit(digits), PNG)[0] == 404
    assert refused(server, "GET", "/../model.safetensors")[0] == 404
    assert refused(server, "DELETE", "/")[0] == 501
    status, error = refused(server, "POST", "/predict", digit(digits)[:60], PNG)
    assert status == 422 and "does not decode" in error
    assert refused(server, "POST", "/predict", b"", PNG)[0] == 422


def test_large_bodies_and_large_images_are_refused_before_they_are_read(server):
    for length in ("99999999", 5000 * "9"):
        headers = {**PNG, "Content-Length": length}
        status, error = refused(server, "POST", "/predict", b"", headers)
        assert status == 413 and "limit" in error
    assert refused(server, "POST", "/predict", b"", {**PNG, "Content-Length": "-1"})[0] == 411
    with socket.create_connection(("127.0.0.1", server.port)) as chunked:
        chunked.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        assert b" 411 " in chunked.recv(1000)
    file = BytesIO()
    Image.new("1", (7000, 6000)).save(file, "PNG")
    status, error = refused(server, "POST", "/predict", file.getvalue(), PNG)
    assert status == 422 and "7000 x 6000 pixels" in error


def test_bad_input_is_told_in_one_line(fitted, encoders, server, capsys):
    def said(*arguments: object) -> str:
        assert main(["serve", *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "not a trained classifier" in said(encoders[0])
    assert "nowhere" in said(fitted, "--neighbours", "nowhere/*.tar")
    assert str(server.port) in said(fitted, "--port", server.port)
    assert "99999" in said(fitted, "--port", 99999)
