"""Gate 4: values that raise, lie, hang or cannot be JSON, made anew each time."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import re
import threading
import types
import uuid
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn
from unittest.mock import MagicMock, Mock

from pydantic import BaseModel, Field, SecretStr


class ForbiddenError(Exception):
    """Code of a value was run."""


def _refuse(*_: object, **__: object) -> NoReturn:
    raise ForbiddenError


_NAMES = (  # noqa: SIM905 - easier to read
    "__repr__ __str__ __eq__ __bool__ __len__ __iter__ __getitem__ __contains__ __format__ __int__ "
    "__float__ __index__ __reduce_ex__ __copy__ __deepcopy__ __getattr__ __fspath__ __call__ keys "
    "items values get copy isoformat model_dump dict json tolist item"
).split()
_METHODS: dict[str, Any] = {**dict.fromkeys(_NAMES, _refuse), "__hash__": object.__hash__}


class Rude:
    """Whatever is asked of it, it raises; even what class it is."""

    __class__ = property(_refuse)  # type: ignore[assignment]


for _name, _method in _METHODS.items():
    setattr(Rude, _name, _method)


def _lying(base: type, *arguments: Any) -> Any:
    return type(f"Lying{base.__name__}", (base,), dict(_METHODS))(*arguments)


class Hangs:
    """Iterates, prints and compares without an end."""

    def __iter__(self) -> Iterator[int]:
        while True:
            yield 1

    def __repr__(self) -> str:
        threading.Event().wait()
        return ""

    __str__ = __repr__


class Color(enum.Enum):
    """An enum."""

    RED = 1


class Size(str, enum.Enum):  # noqa: UP042 - the mixture is the point
    """An enum whose members are texts."""

    LARGE = "large"


@dataclasses.dataclass(slots=True)
class Order:
    """A dataclass."""

    number: int
    inner: object = None
    hidden: str = dataclasses.field(default="never", repr=False)


class Account(BaseModel):
    """A pydantic model."""

    name: str
    password: SecretStr = SecretStr("never")
    hidden: str = Field(default="never", exclude=True)


Point = collections.namedtuple("Point", "x y")


class Raises:
    """A property that raises."""

    value = property(_refuse)


def _cycle() -> list[Any]:
    value: list[Any] = [1]
    value.append({"again": value})
    return value


def _deep(make: Callable[[Any], Any]) -> Any:
    value: Any = "end"
    for _ in range(10_000):
        value = make(value)
    return value


def _bomb() -> list[Any]:
    value: list[Any] = []
    for _ in range(40):
        value = [value] * 10
    return value


async def _coroutine() -> None:
    """Never awaited."""


def _closed(value: Any) -> Any:
    value.close()  # no warning at the end, and still what it is
    return value


def _raised() -> Exception:
    try:
        raise ValueError("bad", b"bytes") from KeyError(Rude())
    except ValueError as error:
        return error


def _filled(array: Any, value: object) -> Any:
    array[0] = value
    return array


def _numpy(make: Callable[[Any], Any]) -> Any:
    import numpy

    return make(numpy)


HOSTILE: dict[str, Callable[[], Any]] = {
    "nan": lambda: float("nan"),
    "inf": lambda: [float("inf"), -float("inf")],
    "bytes": lambda: b"\x00\xff bytes",
    "bytearray": lambda: bytearray(b"abc"),
    "memoryview": lambda: memoryview(b"abcdef")[::2],
    "lone surrogates": lambda: "a\ud800b\udfff",
    "nul": lambda: "a\x00b",
    "cycle": _cycle,
    "deep list": lambda: _deep(lambda below: [below]),
    "deep dict": lambda: _deep(lambda below: {"a": below}),
    "deep tagged": lambda: _deep(lambda below: {1: (below,)}),
    "bomb": _bomb,
    "rude": Rude,
    "hangs": Hangs,
    "lying dict": lambda: _lying(dict, {"a": 1}),
    "lying list": lambda: _lying(list, [1, 2]),
    "lying str": lambda: _lying(str, "text"),
    "lying int": lambda: _lying(int, 7),
    "lying float": lambda: _lying(float, 1.5),
    "lying tuple": lambda: _lying(tuple, (1, 2)),
    "huge int": lambda: 10**5000,
    "large int": lambda: -(2**200),
    "generator": lambda: (n for n in range(3)),
    "endless": lambda: iter(int, 1),
    "mixed keys": lambda: {1: "a", None: "b", (1, 2): "c", "d": 1.0, True and 2: "e"},
    "colliding keys": lambda: {1: "int", "1": "str"},
    "key $type": lambda: {"$type": "bytes"},
    "rude key": lambda: {Rude(): 1},
    "10 MB": lambda: "0123456789" * 1_000_000,
    "set": lambda: {1, "a", (2, 3)},
    "frozenset": lambda: frozenset([b"x"]),
    "dataclass": lambda: Order(1, Order(2, Rude())),
    "model": lambda: Account(name="a"),
    "model unset": lambda: Account.model_construct(),
    "enum": lambda: [Color.RED, Size.LARGE],
    "decimal": lambda: [decimal.Decimal("1.10"), decimal.Decimal("sNaN"), fractions.Fraction(1, 3)],
    "datetime": lambda: [datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)],
    "path": lambda: pathlib.Path("/tmp/x"),
    "uuid": uuid.uuid4,
    "exception": _raised,
    "exception group": lambda: ExceptionGroup("two", [_raised(), _raised()]),
    "numpy scalar": lambda: _numpy(lambda np: [np.float32(1.5), np.int64(3), np.bool_(True)]),
    "numpy nan": lambda: _numpy(lambda np: np.float64("nan")),
    "numpy array": lambda: _numpy(lambda np: np.arange(6).reshape(2, 3)),
    "numpy large": lambda: _numpy(lambda np: np.zeros((500, 500))),
    "numpy objects": lambda: _numpy(lambda np: _filled(np.empty(1, dtype=object), Rude())),
    "weakref": lambda: weakref.ref(Color),
    "coroutine": lambda: _closed(_coroutine()),
    "property": Raises,
    "mock": Mock,
    "magic mock": MagicMock,
    "class": lambda: Order,
    "function": lambda: _refuse,
    "module": lambda: re,
    "lock": threading.Lock,
    "match": lambda: re.match("a", "a"),
    "mapping proxy": lambda: types.MappingProxyType({"a": b"x"}),
    "deque": lambda: collections.deque([1, 2]),
    "defaultdict": lambda: collections.defaultdict(_refuse, a=1),
    "namedtuple": lambda: Point(1, b"x"),
    "complex": lambda: 1 + 2j,
    "range": lambda: range(10**9),
    "ellipsis": lambda: ...,
}
"""More than forty of them, by name."""
