"""The lines that say which test images were learned from."""

import sys
from collections.abc import Mapping
from typing import Any


def say_copies(summary: Mapping[str, Any], *, of: str = "") -> None:
    """Print a study's warnings on stderr, if it has any.

    Args:
        of: the study's name, where there are several.
    """
    for sentence in summary["warnings"]:
        print(f"warning: {f'{of}: ' if of else ''}{sentence}", file=sys.stderr)
