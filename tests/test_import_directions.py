"""The rooms import one another only in the directions that docs/architecture.md allows."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "pages": set(),
    "training": {"pages"},
    "data": {"pages"},
    "models": {"pages"},
    "pretrain": {"training", "data", "models", "pages"},
    "downstream": {"training", "data", "models", "pages"},
}


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute, so that this test sees them"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_room_imports_only_what_it_may(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room}
    for path in sorted((ROOT / room).rglob("*.py")):
        modules = imported_modules(path)
        rooms = {module.split(".")[0] for module in modules} & MAY_IMPORT.keys()
        if path.name != "__main__.py":  # a command line may assemble any rooms
            assert rooms <= allowed, f"{path} imports {sorted(rooms - allowed)}"
        assert not any("__main__" in module for module in modules), f"{path} imports a __main__"
