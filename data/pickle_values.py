"""Reading the values of a simple pickle without unpickling: nothing is imported, no code runs.

Only what Python 2 wrote for a dict of texts, integers, lists and one uint8 array is understood,
opcode by opcode; every other opcode is refused by name. An array's values are not read: where they
lie in the file is told instead.
"""

import math
import mmap
import pickletools
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from data.errors import DataError, cause

_MAX_FILE_BYTES = 2**28
_MAX_OPCODES = 2**21  # CIFAR's largest file has a tenth of it
_MAX_DIMENSIONS = 4
_BINSTRING_HEADER_BYTES = 5
_RECONSTRUCT = "numpy.core.multiarray _reconstruct"
_NDARRAY = "numpy ndarray"
_DTYPE = "numpy dtype"
_UINT8_STATE = (3, "|", None, None, None, -1, -1, 0)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLE_LENGTHS = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, slots=True)
class RawBytes:
    """A long string: where in the file its bytes begin, and how many they are."""

    offset: int
    size: int


@dataclass(slots=True)
class PickledArray:
    """A uint8 array in C order of which `data` are the values, as many as `shape` says."""

    shape: tuple[int, ...] = ()
    data: RawBytes | None = None


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


@dataclass(slots=True)
class _DType:
    built: bool = False


class _Mark:
    pass


class _Refused(Exception):
    """What the pickle does is not what such files do."""


@dataclass(slots=True)
class _Machine:
    """The stack and memo of a pickle that is being read."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def step(self, name: str, arg: Any, offset: int) -> None:
        """Do what one opcode says.

        Raises:
            _Refused: it is none of those that are understood, or does not fit what is there.
        """
        if name == "PROTO":
            if arg != 2:
                raise _Refused(f"pickle protocol {arg}; 2 is read")
        elif name in ("BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINUNICODE"):
            self.stack.append(arg)
        elif name == "BINSTRING":
            self.stack.append(RawBytes(offset + _BINSTRING_HEADER_BYTES, len(arg)))
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name == "EMPTY_DICT":
            self.stack.append({})
        elif name == "EMPTY_LIST":
            self.stack.append([])
        elif name == "MARK":
            self.stack.append(_Mark())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[arg] = self._top(object)
        elif name in ("BINGET", "LONG_BINGET"):
            if arg not in self.memo:
                raise _Refused(f"nothing was put at {arg}")
            self.stack.append(self.memo[arg])
        elif name in _TUPLE_LENGTHS:
            length = _TUPLE_LENGTHS[name]
            items = [self._pop() for _ in range(length)]
            self.stack.append(tuple(reversed(items)))
        elif name == "TUPLE":
            self.stack.append(tuple(self._pop_to_mark()))
        elif name == "APPEND":
            item = self._pop()
            self._top(list).append(item)
        elif name == "APPENDS":
            items = self._pop_to_mark()
            self._top(list).extend(items)
        elif name == "SETITEM":
            value, key = self._pop(), self._pop()
            self._set_items([key, value])
        elif name == "SETITEMS":
            self._set_items(self._pop_to_mark())
        elif name == "GLOBAL":
            if arg not in (_RECONSTRUCT, _NDARRAY, _DTYPE):
                raise _Refused(f"it names {arg[:60]!r}; only numpy's uint8 arrays are read")
            self.stack.append(_Global(arg))
        elif name == "REDUCE":
            arguments, function = self._pop(), self._pop()
            self.stack.append(_reduced(function, arguments))
        elif name == "BUILD":
            state = self._pop()
            _build(self._top(object), state)
        else:
            raise _Refused("such files have no such opcode")

    def _pop(self) -> Any:
        value = self._top(object)
        self.stack.pop()
        return value

    def _top(self, kind: type) -> Any:
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise _Refused("there is no value for it")
        if not isinstance(self.stack[-1], kind):
            raise _Refused(f"what it is for is no {kind.__name__}")
        return self.stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while self.stack:
            item = self.stack.pop()
            if isinstance(item, _Mark):
                return items[::-1]
            items.append(item)
        raise _Refused("there is no mark for it")

    def _set_items(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values) or not all(isinstance(key, str) for key in keys):
            raise _Refused("its keys are no texts")
        self._top(dict).update(zip(keys, values, strict=True))


def read_pickled_dict(path: Path) -> dict[str, Any]:
    """Read the dict that a pickle of Python 2 holds.

    Returns:
        Its values by key: int, str, None, bool, lists, tuples and dicts of them; RawBytes for texts
        of 256 bytes and more, PickledArray for arrays.
    Raises:
        DataError: the file is no pickle, is above 256 MiB, or does anything else; it names the
            opcode and its offset.
    """
    size = path.stat().st_size
    if not 0 < size <= _MAX_FILE_BYTES:
        raise DataError(f"{path}: {size} bytes; a pickle of 1 to {_MAX_FILE_BYTES} bytes is read")
    machine = _Machine()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pickle:
        opcodes = pickletools.genops(cast(IO[bytes], pickle))
        for _ in range(_MAX_OPCODES):
            try:
                opcode, arg, offset = next(opcodes)
            except ValueError as error:
                raise DataError(
                    f"{path}: no whole pickle: {cause(error)}; get the file again"
                ) from error
            if opcode.name == "STOP":
                end = pickle.tell()
                break
            try:
                machine.step(opcode.name, arg, offset or 0)
            except _Refused as error:
                raise DataError(
                    f"{path} offset {offset}: the pickle's opcode {opcode.name} is refused: "
                    f"{cause(error)}; save the images as an .npz or use the binary files"
                ) from None
        else:
            raise DataError(f"{path}: more than {_MAX_OPCODES} opcodes; it is no file of images")
    if end != size:
        raise DataError(f"{path} offset {end}: there is data after the end of the pickle")
    if len(machine.stack) != 1 or not isinstance(machine.stack[0], dict):
        raise DataError(f"{path}: the pickle holds no dict, so it is no batch of images")
    return machine.stack[0]


def _reduced(function: Any, arguments: Any) -> PickledArray | _DType:
    name = function.name if isinstance(function, _Global) else None
    if name == _RECONSTRUCT and arguments == (_Global(_NDARRAY), (0,), "b"):
        return PickledArray()
    if name == _DTYPE and arguments == ("u1", 0, 1):
        return _DType()
    raise _Refused("it makes something else than a uint8 array")


def _build(value: Any, state: Any) -> None:
    if isinstance(value, _DType) and not value.built and state == _UINT8_STATE:
        value.built = True
        return
    if isinstance(value, PickledArray) and value.data is None and isinstance(state, tuple):
        match state:
            case (1, tuple() as shape, _DType(built=True), False, RawBytes() as data):
                sizes = len(shape) <= _MAX_DIMENSIONS and all(type(n) is int for n in shape)
                if sizes and min(shape, default=-1) >= 0 and math.prod(shape) == data.size:
                    value.shape, value.data = shape, data
                    return
                raise _Refused(f"an array of shape {list(shape)[:8]} with {data.size} bytes")
    raise _Refused("its state is not that of a uint8 array in C order")
