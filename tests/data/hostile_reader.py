"""A process that opens shards by the resident store and the audit, and says what came of each.

    python -m tests.data.hostile_reader FOLDER GOOD_SHARD

It prints one JSON object a line for each tar in FOLDER, then its largest memory in MiB beyond what
its imports took.
"""

import contextlib
import io
import json
import resource
import sys
from pathlib import Path

from data import audit_report as audit_report  # imported now, so that it is not counted below
from data.__main__ import main
from data.errors import DataError
from data.store import open_store


def _memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _store(shard: Path, on_bad: str) -> dict[str, object]:
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            store = open_store(str(shard), on_bad=on_bad, max_bad_share=1, channels=1, size=8)
    except DataError as error:
        return {"error": str(error)}
    return {"keys": store.keys, "bad": [[bad.key, bad.reason] for bad in store.bad]}


def _audit(shard: Path, good: str, out: Path) -> dict[str, object]:
    args = ["audit", "--train", str(shard), "--test", good, "--channels", "1", "--size", "8"]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = main([*args, "--out", str(out), "--overwrite"])
    return {"status": status, "errors": errors.getvalue()}


def _read_all(folder: Path, good: str) -> None:
    before = _memory_mib()
    for shard in sorted(folder.glob("*.tar")):
        found = {on_bad: _store(shard, on_bad) for on_bad in ("fatal", "skip")}
        found["audit"] = _audit(shard, good, folder / "audit.json")
        print(json.dumps({"shard": shard.name, **found}))
    print(json.dumps({"memory_mib": _memory_mib() - before}))


if __name__ == "__main__":
    _read_all(Path(sys.argv[1]), sys.argv[2])
