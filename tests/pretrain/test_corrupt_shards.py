"""Training goes on past corrupt shards, and loses exactly the samples that are bad."""

import re
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.__main__ import main
from data.store import open_store
from models.artifact import read_artifact
from tests.data.tars import write_tar
from tests.pretrain.conftest import Command


def members_of(shard: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(shard) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]


@pytest.fixture
def corrupt(shards: Path, tmp_path: Path) -> tuple[Path, set[str]]:
    """Three shards of 100 digits, one with bad samples and one cut off; and the keys that are lost.

    In the second shard, which comes in the middle of every epoch, three samples are bad in three
    ways. The third ends within its 81st image.
    """
    members = [m for shard in sorted(shards.glob("train-*.tar")) for m in members_of(shard)]
    keys = [name.split(".")[0] for name, _ in members[::2]]
    broken = {
        f"{keys[110]}.png": b"no image",
        f"{keys[150]}.cls": b"seven",
        f"{keys[199]}.png": b"",
    }
    folder = tmp_path / "corrupt"
    folder.mkdir()
    for number in range(3):
        part = members[200 * number : 200 * (number + 1)]
        write_tar(folder / f"{number}.tar", [(n, broken.get(n, content)) for n, content in part])
    with tarfile.open(folder / "2.tar") as tar:
        cut = next(member for member in tar if member.name == f"{keys[280]}.png").offset_data + 20
    content = (folder / "2.tar").read_bytes()
    (folder / "2.tar").write_bytes(content[:cut])
    return folder, {keys[number] for number in (110, 150, 199, *range(280, 300))}


@pytest.mark.slow
def test_a_run_past_corrupt_shards_loses_exactly_the_bad_samples(
    corrupt: tuple[Path, set[str]], shards: Path, run_pretrain: Command, tmp_path: Path
) -> None:
    """Its weights are those of a run on the same images without anything corrupt."""
    folder, lost = corrupt
    skip = ("data.on_bad=skip", "data.max_bad_share=0.1")
    done = run_pretrain(f"data.shards={folder}/*.tar", *skip, "name=corrupt")
    warning = next(line for line in done.stderr.splitlines() if line.startswith("warning: "))
    assert re.search(r"\b4 of 281 samples cannot be used, the first: .*/1.tar offset", warning)
    assert "Traceback" not in done.stderr

    whole = [m for shard in sorted(shards.glob("train-*.tar")) for m in members_of(shard)]
    (tmp_path / "clean").mkdir()
    good = [(name, content) for name, content in whole if name.split(".")[0] not in lost]
    write_tar(tmp_path / "clean" / "all.tar", good)
    run_pretrain(f"data.shards={tmp_path}/clean/*.tar", "name=clean")

    artifacts = [tmp_path / "runs" / name / "encoder.safetensors" for name in ("corrupt", "clean")]
    for artifact in artifacts:
        assert read_artifact(artifact).trained_on.images == 300 - len(lost)
    one, other = map(load_file, artifacts)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_repaired_set_needs_no_skipping(corrupt: tuple[Path, set[str]], tmp_path: Path) -> None:
    folder, lost = corrupt
    out = tmp_path / "repaired"
    assert main(["verify", f"{folder}/*.tar", "--repair", str(out)]) == 0
    store = open_store(f"{out}/*.tar")
    assert len(store) == 300 - len(lost)
    assert not lost & set(store.keys)
