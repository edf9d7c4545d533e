"""The report's page, from the files of studies whose numbers are known."""

import csv
import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from downstream.arms import USUAL_ARMS
from downstream.config import CurveConfig
from downstream.report import write_report
from downstream.report_curve import spread_apart
from downstream.report_style import CLASS_ROLES, DARK, LIGHT
from downstream.results import ResultsFile, Row
from downstream.summary import write_summary
from models.artifact import artifact_hash, save_encoder
from models.encoders import ConvEncoderConfig, InputContract, build_encoder
from tests.html_pages import Page, assert_needs_no_network, contrast
from training.config import dump_config
from training.errors import InputError
from training.previews import grid_of, save_png

BUDGETS = (50, 100, 250, 500, 1000, 3000)
ACCURACY = {
    "frozen": (0.635, 0.726, 0.786, 0.817, 0.836, 0.862),
    "finetuned": (0.628, 0.725, 0.790, 0.826, 0.849, 0.873),
    "random_frozen": (0.610, 0.705, 0.760, 0.791, 0.810, 0.837),
    "scratch": (0.605, 0.702, 0.770, 0.812, 0.841, 0.866),
    "raw_logistic": (0.620, 0.701, 0.750, 0.776, 0.792, 0.812),
}
SPREAD = (0.018, 0.012, 0.007, 0.005, 0.0035, 0.002)


def make_encoder(folder: Path, *, seed: int = 0, run: bool = True) -> Path:
    """An artifact, with the log and the previews of a run around it where `run` says so."""
    folder.mkdir(parents=True)
    contract = InputContract(channels=1, height=28, width=28, mean=(0.28,), std=(0.35,))
    encoder = build_encoder(ConvEncoderConfig(widths=(8, 16, 32)), contract, seed=seed)
    path = folder / "encoder.safetensors"
    save_encoder(
        path,
        encoder,
        trained_on={"fingerprint": "f" * 64, "images": 60000, "dataset": "fashion-mnist"},
        config={"name": folder.name, "seed": seed, "objective": {"kind": "autoencoder"}},
        metrics={"steps": 4000, "images_seen": 1024000},
    )
    if run:
        (folder / "environment.json").write_text(json.dumps(environment()))
        lines = [
            {
                "step": s,
                "images": 256 * s,
                "seconds": s / 16,
                "lr": 1e-3,
                "loss": 0.015 + 0.09 * float(np.exp(-s / 300)),
            }
            for s in [1, *range(50, 4001, 50)]
        ]
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "config.yaml").write_text("steps: 4000\n")
        (folder / "previews").mkdir()
        yy, xx = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
        blob = torch.stack([torch.exp(-((xx * k) ** 2 + yy**2) * 4) for k in range(1, 9)])
        pictures = torch.cat([blob, blob * 0.6, blob * 0.9]).unsqueeze(1)
        for step in (2000, 4000):
            save_png(folder / f"previews/reconstructions-{step:08d}.png", grid_of(pictures))
            save_png(folder / f"previews/filters-{step:08d}.png", grid_of(torch.rand(32, 1, 3, 3)))
    return path


def environment() -> dict:
    return {
        "underlayer": "0.1.0",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "python": "3.11.7",
        "torch": "2.13.0+cpu",
        "accelerate": "1.15.0",
        "platform": "Linux-6.1-x86_64-with-glibc2.36",
        "device": "cpu",
        "device_name": "Example CPU",
        "ranks": 1,
        "threads": 2,
    }


def make_study(
    folder: Path,
    encoders: list[Path],
    *,
    arms=USUAL_ARMS,
    budgets=BUDGETS,
    draws=5,
    dataset="fashion-mnist",
    missing=(),
    targets=(),
) -> Path:
    """A study's folder as `curve` leaves it before the report; `missing` rows are left out."""
    config = CurveConfig(
        name=folder.name,
        runs_dir=str(folder.parent),
        encoder=tuple(map(str, encoders)) if len(encoders) > 1 else str(encoders[0]),
        data={"train": "datasets/x/train-*.tar", "test": "datasets/x/test-*.tar"},
        budgets=budgets,
        draws=draws,
        arms=arms,
        targets=targets,
    )
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config))
    split = {"fingerprint": "a" * 64, "images": 60000, "dataset": dataset}
    (folder / "environment.json").write_text(
        json.dumps(
            {
                **environment(),
                "seed": 0,
                "classes": ["T-shirt/top", "Trouser", "Pullover"],
                "data": {"train": split, "test": {**split, "images": 10000}},
                "encoders": [
                    {
                        "sha256": artifact_hash(path),
                        "seed": seed,
                        "trained_on": {"fingerprint": "f" * 64, "images": 60000},
                    }
                    for seed, path in enumerate(encoders)
                ],
                "leaks": {"checked": 10000, "train": 0, "pretraining": None, "within_test": 2},
                "flops_per_image": 2_500_000,
            }
        )
    )
    rng = np.random.default_rng(0)
    easy = rng.normal(0, 1, (draws, len(BUDGETS)))
    rows = []
    for arm in USUAL_ARMS:
        for budget in budgets:
            at = BUDGETS.index(budget)
            for draw in range(draws):
                seeds = {"scratch": [draw], "raw_logistic": [0]}.get(arm, range(len(encoders)))
                for seed in seeds:
                    noise = 0.7 * SPREAD[at] * easy[draw, at] + rng.normal(0, 0.3 * SPREAD[at])
                    trained = arm in ("scratch", "finetuned")
                    rows.append(
                        Row(
                            arm=arm,
                            budget=budget,
                            labels_used=budget,
                            draw=draw,
                            seed=seed,
                            accuracy=ACCURACY[arm][at] + noise,
                            macro_f1=0.7,
                            nll=0.8,
                            seconds=6.5 if trained else 0.12,
                            choices={"images": 25600 + 40 * budget} if trained else {"l2": 0.01},
                        )
                    )
    file = ResultsFile(folder / "results.jsonl")
    file.append([row for row in rows if row.arm in arms and row.key not in missing])
    file.close()
    write_summary(folder)
    return folder


def report(folder: Path) -> tuple[Page, str]:
    text = write_report(folder).read_text(encoding="utf-8")
    return Page(text), text


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Folder, parsed page, its text and summary of a study with everything that a page can show."""
    root = tmp_path_factory.mktemp("report")
    folder = make_study(
        root / "runs/study", [make_encoder(root / "runs/encoder")], targets=(0.8, 0.95)
    )
    page, text = report(folder)
    return folder, page, text, json.loads((folder / "summary.json").read_text())


def test_page_needs_nothing_from_elsewhere(full):
    _, page, text, _ = full
    assert_needs_no_network(page, text)


def test_page_says_verdict_figures_and_provenance(full):
    folder, page, _, summary = full
    (headline,) = page.texts["h1"]
    assert summary["verdict"].startswith(plain(headline).removesuffix("."))
    described = next(a["content"] for a in page.all("meta") if a.get("name") == "description")
    assert described == summary["verdict"]
    shown = plain(page.texts["html"][0])
    cells = page.texts["td"]
    for arm in USUAL_ARMS:
        assert arm in page.texts["code"]
        for budget in BUDGETS:
            found = {name: 100 * v for name, v in summary["arms"][arm][str(budget)].items()}
            cell = f"{found['mean']:.1f}{found['low']:.1f} to {found['high']:.1f}"
            assert cell in cells
    for budget in BUDGETS:
        assert f"{budget:,} labels" in page.texts["th"]
    for note in (*summary["notes"], *summary["arm_notes"]["scratch"]):
        assert note in shown
    assert summary["provenance"]["data"]["train"]["fingerprint"] in shown
    assert summary["provenance"]["encoders"][0]["sha256"] in shown
    assert " ".join((folder / "config.yaml").read_text().split()) in page.texts["pre"]
    assert f"python -m downstream curve {folder}/config.yaml name=study-again" in shown
    assert "4 min 10 s" in shown  # of pretraining, from its log
    assert "not checked" in shown  # the leak check of pretraining


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_page_can_be_used_without_seeing_it(full):
    _, page, _, _ = full
    assert page.all("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for landmark in ("header", "nav", "main", "footer"):
        assert len(page.all(landmark)) == 1
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "href", "xlink:href"):
            for target in attributes.get(name, "").split():
                if not target.startswith("data:"):
                    assert target.removeprefix("#") in ids
    assert len(page.all("img")) == 2
    assert all(len(image["alt"]) > 10 for image in page.all("img"))
    for figure in page.all("svg"):
        assert figure["role"] == "img" and figure["aria-labelledby"]
    for scrolling in (a for _, a in page.elements if "tabindex" in a):
        assert scrolling["role"] == "region"
        assert scrolling.get("aria-label") or scrolling.get("aria-labelledby")


def test_every_cell_of_a_table_has_headers(full):
    _, page, text, _ = full
    tables = re.findall(r"<table.*?</table>", text, re.DOTALL)
    assert len(tables) == len(page.all("table")) >= 5
    for table in tables:
        head, body = table.split("<tbody>")
        columns = head.count('<th scope="col">')
        for row in re.findall(r"<tr>.*?</tr>", body, re.DOTALL):
            assert row.count('<th scope="row">') == 1
            assert row.count("<td") == columns - 1


def test_bold_marks_only_clear_winners(full):
    _, _, text, summary = full
    table = re.search(r'<table[^>]*aria-labelledby="accuracy-table">.*?</table>', text, re.DOTALL)
    bold = {
        re.search(r"<code[^>]*>(\w+)<", row)[1]: [
            "best" in cell for cell in re.findall(r"<td[^>]*>", row)
        ]
        for row in table[0].split("</tr>")
        if "<code" in row
    }
    differences = {(d["arm"], d["control"], d["budget"]): d["low"] for d in summary["differences"]}
    wins = [
        all(differences["finetuned", other, budget] > 0 for other in ("frozen", "scratch"))
        for budget in BUDGETS
    ]
    assert bold.pop("finetuned") == wins and True in wins and False in wins
    assert not any(any(row) for row in bold.values())


def test_differences_are_shown_with_corrected_p_values(full):
    _, page, _, summary = full
    found = next(d for d in summary["differences"] if d["p_holm"] > 0.1)
    assert found["p"] < found["p_holm"] <= 1
    said = f"; p {found['p']:.3f}, Holm {found['p_holm']:.2f}"
    assert said.replace("p 0.000", "p < 0.001") in page.texts["html"][0]
    assert "Corrected for all" in plain(page.texts["html"][0])


def test_whole_curves_are_shown(full):
    _, page, _, summary = full
    cells = page.texts["td"]
    area = {name: 100 * v for name, v in summary["curves"]["frozen"]["area"].items()}
    assert f"{area['value']:.1f}{area['low']:.1f} to {area['high']:.1f}" in cells
    found = {(e["arm"], e["target"]): e for e in summary["labels_to_target"]}
    labels = found["frozen", 0.8]
    ends = f"{labels['interval']['low']:,.0f} to {labels['interval']['high']:,.0f}"
    assert f"{labels['labels']:,.0f}{ends}" in cells
    assert found["scratch", 0.95]["interval"] == {"low": 3000.0, "high": None}
    assert "> 3,0003,000 or more" in cells
    bits = 50 * np.log2(3) + 2950 * 0.8 / np.log(2)
    assert summary["code_lengths"]["frozen"]["bits"]["value"] == pytest.approx(bits)
    assert any(cell.startswith(f"{bits:,.0f}") for cell in cells)
    law = summary["power_laws"]["finetuned"]["held_out"]
    assert f"measured {100 * law['measured']:.1f}" in page.texts["html"][0]
    assert {e["target"] for e in summary["extrapolated"]} == {0.95}
    assert any(cell.startswith("no answer") for cell in cells)
    gain = next(
        e
        for e in summary["curve_differences"]
        if (e["arm"], e["control"], e["measure"]) == ("finetuned", "scratch", "area")
    )
    assert gain["low"] > 0
    saved = next(e for e in summary["labels_saved"] if e["arm"] == "finetuned")
    assert saved["interval"]["low"] < saved["saved"] < saved["interval"]["high"]


def test_the_spread_of_crossed_seeds_is_split(tmp_path):
    encoders = [make_encoder(tmp_path / f"runs/{seed}", seed=seed, run=False) for seed in range(3)]
    folder = make_study(tmp_path / "runs/study", encoders, budgets=(50, 100))
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["variances"]["frozen"]) == {"50", "100"}
    assert summary["variances"]["scratch"] == {}
    found = summary["variances"]["frozen"]["50"]
    # The study's draws move all seeds alike by 0.7 of the spread; each fit by 0.3.
    assert found["draw"] ** 0.5 == pytest.approx(0.7 * SPREAD[0], rel=0.7)
    assert found["residual"] ** 0.5 == pytest.approx(0.3 * SPREAD[0], rel=0.5)
    page, _ = report(folder)
    draw, seed, rest = (100 * found[part] ** 0.5 for part in ("draw", "seed", "residual"))
    assert f"draw {draw:.1f}seed {seed:.1f}, rest {rest:.1f}" in page.texts["td"]


def test_curves_are_a_table_too(full):
    folder, _, _, summary = full
    with (folder / "curves.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(USUAL_ARMS) * len(BUDGETS)
    columns = "arm budget mean low high macro_f1 nll n seeds"
    assert list(lines[0])[:9] == columns.split()
    for line in lines:
        found = summary["arms"][line["arm"]][line["budget"]]
        for name in ("mean", "low", "high", "n", "seeds"):
            assert float(line[name]) == found[name]
        assert (float(line["macro_f1"]), float(line["nll"])) == pytest.approx((0.7, 0.8))


def test_a_summary_of_an_older_study_has_a_page(tmp_path):
    folder = make_study(
        tmp_path / "runs/study", [make_encoder(tmp_path / "runs/encoder")], budgets=(50, 100)
    )
    summary = json.loads((folder / "summary.json").read_text())
    for entry in summary["differences"]:
        del entry["p"], entry["p_holm"]
    for entry in summary["labels_saved"]:
        del entry["interval"]
    for key in (
        "curves",
        "curve_differences",
        "labels_to_target",
        "power_laws",
        "extrapolated",
        "code_lengths",
        "measures",
        "class_accuracies",
        "class_differences",
        "break_even",
    ):
        del summary[key]
    (folder / "summary.json").write_text(json.dumps(summary))
    page, _ = report(folder)
    assert "Holm " not in " ".join(page.texts["td"])
    assert "Whole curves" not in page.texts["h2"]


def test_figures_follow_the_theme(full):
    _, _, text, _ = full
    figures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(figures) == 8  # curve, labels saved, differences, loss; each wide and narrow
    for figure in figures:
        assert not re.search(r"#[0-9a-f]{6}\b", figure)
        assert set(re.findall(r"var\(--([\w-]+)\)", figure)) <= LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)


def test_points_say_their_figures_and_arms_can_be_switched_off(full):
    folder, page, text, _ = full
    summary = json.loads((folder / "summary.json").read_text())
    found = summary["arms"]["frozen"]["100"]
    words = f"pretrained, frozen, 100 labels: {100 * found['mean']:.1f} % (95 % interval "
    assert text.count(f"<title>{words}") == 2  # wide and narrow
    boxes = [a["id"] for a in page.all("input") if a["type"] == "checkbox"]
    assert len(boxes) == len(summary["arms"])
    for box in boxes:
        part = f"-series-{box.rsplit('-', 1)[1]}-"
        assert f'#{box}:not(:checked) ~ figure [id*="{part}"] {{ display: none; }}' in text
        hidden = [a["id"] for tag, a in page.elements if tag == "g" and part in a.get("id", "")]
        kinds = {name.split(part)[1].split("-")[0] for name in hidden}
        assert kinds == {"rows", "line", "whisker", "tip", "name"}


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_and_points_stand_out_from_their_background(theme):
    for role in theme.keys() - {"page", "panel", "rule"}:
        least = 3.0 if role in CLASS_ROLES else 4.5
        for background in ("page", "panel"):
            assert contrast(theme[role], theme[background]) >= least, (role, background)


def test_same_study_same_bytes_and_nothing_else_written(full):
    folder, _, _, _ = full
    names = ("report.html", "curve.svg", "curve.png")
    before = {name: (folder / name).read_bytes() for name in names}
    listing = sorted(path.name for path in folder.iterdir())
    write_report(folder)
    assert {name: (folder / name).read_bytes() for name in names} == before
    assert sorted(path.name for path in folder.iterdir()) == listing


def test_curve_is_a_picture_of_its_own(full):
    folder, _, _, _ = full
    with Image.open(folder / "curve.png") as picture:
        assert picture.width > 1000 and picture.getpixel((1, 1))[:3] == (255, 255, 255)
    svg = (folder / "curve.svg").read_text()
    assert "var(--" not in svg
    for name in ("pretrained, frozen", "from scratch", "3,000"):
        assert f">{name}<" in svg


def test_every_figure_of_the_page_is_a_file(full):
    folder, page, _, _ = full
    names = {a["id"].removesuffix("-title") for tag, a in page.elements if tag == "title" and a}
    drawn = {name.removesuffix("-wide") for name in names if name.endswith("-wide")}
    assert drawn == {"curve", "saved", "differences", "losses-0"}
    files = {path.name for path in (folder / "figures").iterdir()}
    for name in drawn - {"curve"}:
        assert {f"{name}.png", f"{name}.svg"} <= files
    # The two pictures of pretraining are files as the run left them.
    assert files >= {"filters-0.png", "reconstructions-0.png"}


def test_hostile_names_stay_text(tmp_path):
    hostile = '</title><script>alert("x")</script><img src=x onerror=alert(1)> $\\frac{1}{0}$'
    folder = make_study(
        tmp_path / "runs/study",
        [make_encoder(tmp_path / "runs/encoder")],
        dataset=hostile,
        budgets=(50, 100),
    )
    summary = json.loads((folder / "summary.json").read_text())
    summary["classes"] = [hostile]
    summary["verdict"] = hostile
    summary["notes"] = [hostile]
    (folder / "summary.json").write_text(json.dumps(summary))
    page, _ = report(folder)
    assert not page.all("script") and len(page.all("img")) == 2
    assert page.texts["h1"] == [hostile]
    assert page.texts["html"][0].count(hostile) >= 4


def test_an_arm_without_a_style_is_drawn_and_named(tmp_path):
    folder = make_study(
        tmp_path / "runs/study", [make_encoder(tmp_path / "runs/encoder")], budgets=(50, 100)
    )
    summary = json.loads((folder / "summary.json").read_text())
    for key in ("arms", "arm_notes", "inference"):
        summary[key]["<b>$x_1$"] = summary[key]["scratch"]
    summary["costs"]["arms"]["<b>$x_1$"] = summary["costs"]["arms"]["scratch"]
    (folder / "summary.json").write_text(json.dumps(summary))
    page, _ = report(folder)
    assert not page.all("b")
    assert "<b>$x 1$" in page.texts["text"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": ("scratch",)}, "There is nothing to compare"),
        ({"arms": ("frozen",)}, "There is nothing to compare"),
        ({"budgets": (100,)}, "100 labels"),
        ({"draws": 1}, "no interval"),
        ({"draws": 1, "budgets": (50,), "arms": ("frozen", "scratch")}, "single draw"),
        ({"budgets": (50, 100), "missing": {("scratch", 100, d, d) for d in range(5)}}, "not run"),
        ({"budgets": (50, 100), "missing": {("finetuned", 50, 0, 0)}}, "49 of 50"),
    ],
)
def test_a_smaller_study_has_a_page_too(tmp_path, changes, said):
    encoder = make_encoder(tmp_path / "runs/encoder", run=False)
    page, _ = report(make_study(tmp_path / "runs/study", [encoder], **changes))
    assert said in plain(page.texts["html"][0])
    assert "nan" not in page.texts["html"][0].split()


def test_missing_parts_of_pretraining_are_named(tmp_path):
    bare = make_encoder(tmp_path / "runs/bare", run=False)
    gone = make_encoder(tmp_path / "runs/gone", seed=1)
    other = make_encoder(tmp_path / "runs/other", seed=2)
    broken = make_encoder(tmp_path / "runs/broken", seed=3)
    with (broken.parent / "log.jsonl").open("a") as log:
        log.write('{"step": 40')
    folder = make_study(tmp_path / "runs/study", [bare, gone, other, broken], budgets=(50, 100))
    gone.unlink()
    other.write_bytes(bare.read_bytes())
    page, _ = report(folder)
    shown = page.texts["html"][0]
    assert f"no previews folder beside {bare}" in shown
    assert f"no log.jsonl with losses beside {bare}" in shown
    assert f"{gone} is no longer there" in shown
    assert f"{other} has been replaced since the study was run" in shown
    assert len(page.all("img")) == 2  # those of the last encoder only
    paths = [str(path) for path in (bare, gone, other, broken)]
    assert [heading for heading in page.texts["h3"] if heading in paths] == paths


def test_losses_of_phases_in_turn_are_all_shown(tmp_path):
    encoder = make_encoder(tmp_path / "runs/stacked")
    lines = [{"step": s, "stage1/loss": 0.5 / s, "held_out/stage1/loss": 0.6} for s in (1, 2)]
    lines += [{"step": s, "stage2/loss": 0.7 / s} for s in (3, 4)]
    (encoder.parent / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page, _ = report(make_study(tmp_path / "runs/study", [encoder], budgets=(50, 100)))
    (told,) = {text for text in page.texts["desc"] if "loss:" in text}
    assert "stage1/loss: 0.5 at step 1, 0.25 at step 2" in told
    assert "stage2/loss: 0.2333 at step 3, 0.175 at step 4" in told


def test_how_pretraining_went_is_told(tmp_path):
    encoder = make_encoder(tmp_path / "runs/gan")
    values = [
        {"loss": 2.0, "held_out/loss": 2.5, "probe_accuracy": 0.5, "health/dead/stage1": 0.0},
        {"loss": 1.0, "held_out/loss": 1.5, "probe_accuracy": 0.7, "health/dead/stage1": 0.9},
        {"loss": 0.5, "held_out/loss": 1.75, "probe_accuracy": 0.6, "health/dead/stage1": 0.95},
    ]
    lines = [
        {"step": 100 * n, "images": 800 * n, "seconds": n, **found}
        for n, found in enumerate(values, start=1)
    ]
    log = encoder.with_name("log.jsonl")
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    verdict = {"verdict": "mode collapse", "reason": "coverage 12%", "step": 300}
    encoder.with_name("health.json").write_text(json.dumps(verdict))
    study = make_study(tmp_path / "runs/study", [encoder], budgets=(50, 100))
    told = dict(pairs_of(study, "How the run went"))
    assert told["Steps"] == "300 of 4,000, unfinished"
    assert told["Loss"] == "2 at first, 0.5 at last"
    assert told["Held-out loss"] == "2.5 at first, 1.75 at last; least 1.5 at step 200"
    assert plain(told["Probe accuracy"]) == "50.0 % at first, 60.0 % at last"
    # The first time that it was out of range, and once.
    assert told["Gradients and activations"].count("stage1: 90% of its units are 0") == 1
    assert told["Gradients and activations"].endswith("(step 200)")
    assert told["Verdict on the GAN"] == "mode collapse: coverage 12%"
    encoder.with_name("diverged.txt").write_text("the loss is nan at step 301\n")
    told = dict(pairs_of(study, "How the run went"))
    assert told["Steps"] == "300 of 4,000; diverged: the loss is nan at step 301"
    encoder.with_name("config.yaml").unlink()
    page, _ = report(study)
    assert (
        f"How pretraining went is not known: there is no run of it in {encoder.parent}."
        in page.texts["html"][0]
    )


def pairs_of(study: Path, heading: str) -> list[tuple[str, str]]:
    """The terms that stand under a heading of a study's report, and what is said of each."""
    _, text = report(study)
    part = re.search(rf"<h3>{heading}</h3>\s*(<dl.*?</dl>)", text, re.DOTALL)[1]
    found = Page(part)
    return list(zip(found.texts["dt"], found.texts["dd"], strict=True))


def test_encoder_is_found_from_another_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_study(Path("runs/study"), [make_encoder(Path("runs/encoder"))], budgets=(50, 100))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    page, _ = report(tmp_path / folder)
    assert len(page.all("img")) == 2


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no summary\.json"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_labels_move_apart_and_no_further_than_needed():
    targets = [1.0, 1.1, 1.2, 5.0]
    places = spread_apart(targets, gap=1.0, low=0.0, high=6.0)
    assert places == pytest.approx([0.1, 1.1, 2.1, 5.0])
    crowded = spread_apart([5.9, 6.0, 6.0], gap=1.0, low=0.0, high=6.0)
    assert crowded == pytest.approx([4.0, 5.0, 6.0])
