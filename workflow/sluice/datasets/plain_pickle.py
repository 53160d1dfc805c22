"""Read a pickle of plain values (numbers, texts, lists, tuples, dictionaries) without executing anything in it.

Python's own reader imports and calls whatever a pickle names. This one only walks its opcodes and refuses those that
name anything.
"""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import Any

from sluice.errors import BadDataError

_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Any] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip


def read_plain_pickle(path: Path) -> Any:
    """The value in a pickle file.

    Raises:
        BadDataError: if it holds anything but plain values, or is damaged.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(path.read_bytes()):
            if opcode.name == "STOP":
                return stack.pop()
            _do(opcode.name, argument, stack, memo)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise BadDataError(f"{path}: not a pickle of plain values: {error}") from error
    raise BadDataError(f"{path}: not a pickle of plain values: it has no end")


def _do(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    if name in ("PROTO", "FRAME"):
        return
    if name == "MARK":
        stack.append(_MARK)
    elif name in _LITERALS:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in _EMPTY:
        stack.append(_EMPTY[name]())
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
        memo[int(argument)] = stack[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[int(argument)])
    else:
        _collect(name, stack)


def _collect(name: str, stack: list[Any]) -> None:
    """Opcodes that put values into containers."""
    if name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        size = int(name[-1])
        stack[-size:] = [tuple(stack[-size:])]
    elif name in ("TUPLE", "LIST", "DICT"):
        items = _to_mark(stack)
        stack.append(_pairs(items) if name == "DICT" else {"TUPLE": tuple, "LIST": list}[name](items))
    elif name == "APPEND":
        value = stack.pop()
        stack[-1].append(value)
    elif name == "APPENDS":
        items = _to_mark(stack)
        stack[-1].extend(items)
    elif name == "SETITEM":
        key, value = stack[-2:]
        del stack[-2:]
        stack[-1][key] = value
    elif name == "SETITEMS":
        items = _to_mark(stack)
        stack[-1].update(_pairs(items))
    else:
        raise ValueError(f"opcode {name}")


def _to_mark(stack: list[Any]) -> list[Any]:
    position = max(k for k, value in enumerate(stack) if value is _MARK)
    items = stack[position + 1 :]
    del stack[position:]
    return items


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))
