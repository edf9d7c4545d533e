"""`python -m models diagnose` as a user starts it: its page, its lines, and what it refuses."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from data.pack import pack
from models.__main__ import main
from models.diagnosis_page import DARK, LIGHT
from tests.html_pages import Page, assert_needs_no_network, contrast
from tests.processes import run_module

CONFIG = """\
name: digits
data: {{shards: {shards}}}
steps: 10
encoder: {{kind: conv, widths: [8, 16], norm: none, activation: tanh}}
"""
CLASSIC = """\
Deep dense stack
                       sigmoid    tanh       relu
  normal, std 1        saturated  saturated  exploding
  normal, std 0.01     vanishing  vanishing  vanishing
  uniform, bound 0.05  vanishing  vanishing  vanishing
  lecun_normal         vanishing  healthy    vanishing
  glorot_normal        vanishing  healthy    vanishing
  he_normal            vanishing  healthy    healthy
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits as shards, one of them also alone, and a config for all."""
    folder = tmp_path_factory.mktemp("diagnose")
    pixels = (load_digits().images[:200] * 255 / 16).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    for name, images in (("all", pixels), ("one", pixels[:1])):
        np.savez(folder / f"{name}.npz", images=images)
        pack(str(folder / f"{name}.npz"), folder / name)
    (folder / "digits.yaml").write_text(CONFIG.format(shards=folder / "all/train-*.tar"))
    return folder


Diagnose = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run_diagnose(folder: Path) -> Diagnose:
    """Run the command on the config of the digits."""

    def run(*args: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        return run_module("models", "diagnose", "digits.yaml", *args, cwd=folder, status=status)

    return run


@pytest.fixture(scope="module")
def written(folder: Path, run_diagnose: Diagnose) -> tuple[str, str, Page]:
    """What the command prints without options, and its page, as text and parsed."""
    printed = run_diagnose("--out", "pages/diagnosis.html").stdout
    text = (folder / "pages/diagnosis.html").read_text(encoding="utf-8")
    return printed, text, Page(text)


def test_the_classic_facts_are_printed_with_the_page(written: tuple[str, str, Page]) -> None:
    printed, _, _ = written
    assert printed.startswith(CLASSIC)
    assert "encoder of digits (glorot_uniform, tanh): healthy, all 2 layers\n" in printed
    assert printed.endswith("wrote pages/diagnosis.html\n")


def test_the_page_is_one_small_file_that_needs_no_network(
    written: tuple[str, str, Page],
) -> None:
    _, text, page = written
    assert len(text) < 3_000_000
    assert_needs_no_network(page, text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("href", "aria-labelledby"):
            assert attributes.get(name, f"#{ids[0]}").removeprefix("#") in ids


def test_the_page_shows_every_combination_and_every_layer(
    written: tuple[str, str, Page],
) -> None:
    _, text, page = written
    assert page.texts["h1"] == ["Signals and gradients pass through all 2 layers of the encoder"]
    summaries = page.texts["summary"]
    assert len(summaries) == 2 * 18
    assert summaries[0] == "normal, std 1 with sigmoid: ⊣ saturated, 10 of 10 layers"
    assert summaries[17] == "he_normal with relu: ✓ healthy, all 10 layers"
    matrix_cells = [attributes for attributes in page.all("a") if "class" in attributes]
    assert len(matrix_cells) == 2 * 18
    said = [words for words in page.texts["p"] if re.match(r"\S (healthy|vanishing|expl)", words)]
    assert len(said) >= 18 * 10
    assert any(re.search(r"vanishing: signal ×\S+ of the input’s", words) for words in said)
    assert len(re.findall(r'<path class="(?:forward|backward)" d="M0 30', text)) == 2 * (
        18 * 10 + 18 * 2 + 2
    )


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_verdicts_stand_out_from_the_page(theme: dict[str, str]) -> None:
    for role in ("healthy", "vanishing", "exploding", "saturated", "dead", "ink", "muted"):
        for background in ("page", "panel"):
            assert contrast(theme[role], theme[background]) >= 4.5, (role, background)


def test_what_is_asked_for_is_shown_and_an_ill_encoder_is_explained(
    folder: Path, run_diagnose: Diagnose
) -> None:
    done = run_diagnose(
        "--initializers",
        "lsuv,normal:std=0.02",
        "encoder.initializer=constant",
        "--activations=selu",
        "encoder.activation=sigmoid",
        "--data",
        "all/train-*.tar",
    )
    assert "                    selu\n  lsuv              " in done.stdout
    assert "  normal, std 0.02  vanishing\n" in done.stdout
    assert "encoder of digits (constant, value 0.01, sigmoid): vanishing, 2 of 2 layers\n" in (
        done.stdout
    )
    assert re.search(r"  stage1: vanishing, signal ×\S+ of the input’s\n", done.stdout)
    page = Page((folder / "diagnosis.html").read_text(encoding="utf-8"))
    assert page.texts["h1"] == ["Signals or gradients vanish in 2 of 2 layers of the encoder"]
    assert len(page.texts["summary"]) == 4
    assert "initializer: kind: constant value: 0.01" in " ".join(page.texts["pre"])
    assert "--activations=selu encoder.activation=sigmoid" in page.texts["pre"][0]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--initializers", "he_normal,xavier"], r"initializers: found 'xavier'; valid are .*lsuv"),
        (["--initializers", "normal:std=-1"], r"initializers: normal:std=-1: std: .*greater than"),
        (["--initializers", ","], r"initializers: found none"),
        (["--activations", "relux"], r"activations: found 'relux'; valid are relu, .*identity"),
        (["--data", "none/train-*.tar"], r"none/train-\*\.tar matches no file"),
        (["--data", "one/train-*.tar"], r"give 2 or more, got 1"),
        (["encoder.spectral_norm=true", "--initializers", "zeros"], r"zeros with sigmoid: .*scale"),
        (["encoder.widths=none"], r"encoder\.widths"),
        (["--initializers", "he_normal", "--activations", "relu", "--out", "one"], r"one: cannot"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    args: list[str],
    said: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    assert main(["diagnose", "digits.yaml", *args]) == 2
    printed = capsys.readouterr()
    assert re.fullmatch(f"error: .*{said}.*\n", printed.err)
    assert printed.out == ""
    assert sorted(folder.iterdir()) == before


def test_a_config_whose_images_are_not_there_ends_the_process_with_2(
    run_diagnose: Diagnose,
) -> None:
    done = run_diagnose("data.shards=elsewhere/x.tar", status=2)
    assert done.stderr.startswith("error: shards: elsewhere/x.tar: no such file")
