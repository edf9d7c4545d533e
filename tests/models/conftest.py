"""What tests of networks have in common."""

import sys
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _forget_compiled_code() -> Iterator[None]:
    """Compiled versions of one function add up in a process, and after eight torch gives up."""
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
