"""Reports of real studies in a real browser: quiet, whole at 360 pixels, dark, and printed."""

import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image, ImageColor

from downstream.__main__ import main
from downstream.report_style import DARK, LIGHT
from tests.chromium import CHROMIUM, Tab, browser_tab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the path"),
]
PAGES = ("one encoder", "several encoders", "studies compared")


@pytest.fixture(scope="module")
def pages(digits, encoders, tmp_path_factory) -> dict[str, Path]:
    """Every kind of report, of studies with all arms, pictures of pretraining and prices."""
    root = tmp_path_factory.mktemp("pages")
    pretraining = {
        "name": "tiny",
        "data": {"shards": f"{digits}/train-*.tar", "held_out": 0.1},
        "steps": 60,
        "batch_size": 32,
        "encoder": {"kind": "conv", "widths": [4, 8]},
        "objective": {"kind": "autoencoder"},
    }
    (root / "tiny.yaml").write_text(json.dumps(pretraining))
    config = {
        "name": "study",
        "runs_dir": str(root),
        "encoders": {"tiny": {"pretrain": str(root / "tiny.yaml")}, "given": str(encoders[0])},
        "data": {"train": f"{digits}/train-*.tar", "test": f"{digits}/test-*.tar"},
        "budgets": [20, 60, 100, 200],
        "draws": 3,
        "features": {"grid": 2},
        "head": {"kind": "softmax", "steps": 40},
        "scratch": {"recipe": {"steps": 10}},
        "finetune": {"recipe": {"steps": 10, "head_steps": 5}},
        "targets": [0.8, 0.9],
        "prices": {"label": 0.05, "hour": 1.2},
    }
    (root / "study.yaml").write_text(json.dumps(config))
    assert main(["study", str(root / "study.yaml")]) == 0
    curves = [str(root / "study/curves" / name) for name in ("tiny", "given")]
    assert main(["report", *curves, "--out", str(root / "compared")]) == 0
    found = (Path(curves[0]), root / "study", root / "compared")
    return {name: folder / "report.html" for name, folder in zip(PAGES, found, strict=True)}


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser_tab(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_quiet_and_asks_for_nothing(pages, tab, name):
    said, asked = len(tab.messages), len(tab.requests)
    tab.open(pages[name], width=1100)
    assert tab.value("document.querySelectorAll('svg').length") >= 4
    assert tab.value("[...document.images].every(image => image.naturalWidth > 0)")
    assert tab.messages[said:] == []
    first, *others = tab.requests[asked:]
    assert first == pages[name].as_uri()
    assert all(address.startswith("data:image/png;base64,") for address in others)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [360, 768, 1400])
def test_a_page_fits_its_window(pages, tab, name, width):
    tab.open(pages[name], width=width)
    assert tab.value("innerWidth") == width
    assert tab.value("document.scrollingElement.scrollWidth") <= width
    shown = tab.value("[...document.querySelectorAll('svg')].filter(s => s.clientWidth > 0).length")
    assert shown == tab.value("document.querySelectorAll('svg').length") / 2  # wide, or narrow


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("scheme", "theme"), [("light", LIGHT), ("dark", DARK)])
def test_a_page_follows_the_colour_scheme(pages, tab, name, scheme, theme):
    tab.open(pages[name], width=1100, scheme=scheme)
    with Image.open(io.BytesIO(tab.picture())) as picture:
        for corner in ((2, 2), (2, picture.height - 3)):
            assert picture.getpixel(corner)[:3] == ImageColor.getrgb(theme["page"])
    ink = tab.value("getComputedStyle(document.querySelector('svg text')).fill")
    assert tuple(map(int, re.findall(r"\d+", ink)[:3])) == ImageColor.getrgb(theme["ink"])


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_printed_in_dark_ink_on_light_paper(pages, tab, name):
    tab.open(pages[name], width=1100, scheme="dark")
    pdf = tab.pdf()
    assert pdf.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf)) >= 1
    tab.call("Emulation.setEmulatedMedia", media="print")
    background = tab.value("getComputedStyle(document.body).backgroundColor")
    tab.call("Emulation.setEmulatedMedia", media="")
    assert tuple(map(int, re.findall(r"\d+", background))) == ImageColor.getrgb(LIGHT["page"])


def test_what_a_page_says_and_asks_for_is_seen(tab: Tab, tmp_path):
    """The tests above would see it."""
    page = tmp_path / "page.html"
    page.write_text("<img src=missing.png><script>console.warn('oh')</script>")
    tab.open(page, width=1100)
    assert any("oh" in message for message in tab.messages)
    assert (tmp_path / "missing.png").as_uri() in tab.requests
