"""`python -m downstream suggest`: images to label next, none of which has a label."""

import csv
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from data.store import open_store
from downstream.__main__ import main
from downstream.clusters import cluster
from downstream.typicality import most_typical
from downstream.uncertainty import most_uncertain
from models.classifier_file import load_classifier


def suggested(tmp_path: Path, *arguments: object, count: int = 20) -> list[dict[str, str]]:
    out = tmp_path / "suggestions.csv"
    given = [*map(str, arguments), "--count", str(count), "--out", str(out), "--overwrite"]
    assert main(["suggest", *given]) == 0
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == [str(rank + 1) for rank in range(len(rows))]
    return rows


def test_suggestions_cover_the_classes_better_than_chance(encoders, digits, tmp_path):
    """Twenty images of ten classes: at random they miss one or two of these."""
    shards = f"{digits}/train-*.tar"
    store = open_store(shards)
    label_of = dict(zip(store.keys, store.labels.tolist(), strict=True))
    covered = []
    for seed in range(3):
        rows = suggested(tmp_path, encoders[0], shards, "--seed", seed)
        assert len({row["key"] for row in rows}) == 20
        assert all(Path(row["shard"]).is_file() for row in rows)
        covered.append(len({label_of[row["key"]] for row in rows}))
    assert np.mean(covered) > 9.3  # 10 * (1 - 0.9 ** 20) = 8.8 at random


def test_what_has_a_label_is_left_out_and_counts(encoders, digits, tmp_path, capsys):
    shards = f"{digits}/train-*.tar"
    first = suggested(tmp_path, encoders[0], shards)
    done = tmp_path / "done.csv"
    (tmp_path / "suggestions.csv").rename(done)
    second = suggested(tmp_path, encoders[0], shards, "--labelled", done)
    assert not {row["key"] for row in first} & {row["key"] for row in second}
    assert "20 have one" in capsys.readouterr().out


def test_labels_in_the_shards_are_known_where_asked(encoders, digits, tmp_path, capsys):
    """All of a set but twenty images have a label: these twenty are suggested, and no more."""
    path = tmp_path / "partly.tar"
    bare = set()
    with tarfile.open(digits / "test-000000.tar") as source, tarfile.open(path, "w") as target:
        for member in source.getmembers():
            key = member.name.partition(".")[0]
            if member.name.endswith(".cls") and (key in bare or len(bare) < 20):
                bare.add(key)
                continue
            target.addfile(member, source.extractfile(member))
        info = tarfile.TarInfo("broken.png")
        target.addfile(info, BytesIO(b""))
    rows = suggested(tmp_path, encoders[0], path, "--labelled", "cls", count=50)
    assert {row["key"] for row in rows} == bare
    assert "1 of" in capsys.readouterr().err  # the broken one


def test_a_model_with_labels_enough_is_asked_what_it_is_unsure_of(fitted, digits, tmp_path, capsys):
    shards = f"{digits}/test-*.tar"
    rows = suggested(tmp_path, fitted, shards)
    assert "by uncertainty" in capsys.readouterr().out
    store = open_store(shards)
    top = load_classifier(fitted).probabilities(store.images).topk(2, dim=1)
    margin = (top.values[:, 0] - top.values[:, 1]).numpy()
    place = {key: row for row, key in enumerate(store.keys)}
    found = margin[[place[row["key"]] for row in rows]]
    assert found.max() <= np.sort(margin)[200] and (np.diff(found) >= 0).all()
    first = top.indices[place[rows[0]["key"]]].tolist()
    assert all(f"digit {label}" in rows[0]["why"] for label in first)


def test_clusters_are_found_and_each_gives_its_densest_row():
    generator = np.random.default_rng(0)
    centres = np.eye(4, 8, dtype=np.float32)
    noise = generator.normal(0, 0.05, (200, 8)).astype(np.float32)
    rows = np.repeat(centres, 50, axis=0) + noise
    rows[0] = centres[0]  # nobody is nearer to all others
    places, _ = cluster(rows, 4, generator)
    assert all(len(set(places[start : start + 50])) == 1 for start in range(0, 200, 50))
    found = [
        one.row for one in most_typical(rows, 4, labelled=np.array([], int), generator=generator)
    ]
    assert {row // 50 for row in found} == {0, 1, 2, 3} and 0 in found
    # A cluster with a label comes after those without.
    later = most_typical(rows, 3, labelled=np.array([7]), generator=generator)
    assert {one.row // 50 for one in later} == {1, 2, 3}


def test_rows_that_are_all_the_same_do_not_stop_it():
    rows = np.ones((30, 4), np.float32)
    none = np.array([], int)
    generator = np.random.default_rng(0)
    assert len({s.row for s in most_typical(rows, 30, labelled=none, generator=generator)}) == 30
    unsure = np.full((30, 2), 0.5, np.float32)
    found = most_uncertain(
        rows, unsure, 7, labelled=np.array([3]), classes="ab", generator=generator
    )
    assert len({one.row for one in found} - {3}) == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--count", "0"], ["--count", "0"]),
        (["--by", "uncertainty"], ["--by", "3.safetensors", "model of classes"]),
        (["--labelled", "nowhere.csv"], ["--labelled", "nowhere.csv"]),
        (["--labelled", "odd.csv"], ["odd.csv line 3", "'no-such-key'"]),
        (["--labelled", "columns.csv"], ["columns.csv", "column key"]),
        (["--labelled", "cls"], ["all 597 images have a label"]),
    ],
)
def test_bad_input_is_told_in_one_line(
    encoders, digits, tmp_path, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(tmp_path)
    key = open_store(f"{digits}/test-*.tar").keys[0]
    (tmp_path / "odd.csv").write_text(f"key\n{key}\nno-such-key\n")
    (tmp_path / "columns.csv").write_text("name\nx\n")
    given = [
        "suggest",
        str(encoders[0]),
        f"{digits}/test-*.tar",
        "--out",
        "out.csv",
        "--count",
        "5",
    ]
    assert main([*given, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line
    assert not (tmp_path / "out.csv").exists()
