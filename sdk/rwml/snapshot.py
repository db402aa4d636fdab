"""Any value a caller may hand over, as plain JSON values made at that moment.

The result shares nothing that can change, and is strict JSON: finite numbers, string keys, bounded
depth. What JSON has no word for becomes an object with ``$type``, so that nothing is taken for what
it is not (forms: ours):

    NaN, infinities       {"$type": "float", "value": "NaN"}
    very large integers   {"$type": "int", "hex": "0x1f..."}
    bytes, memory views   {"$type": "bytes", "size": 12, "sha256": "..."}   never the bytes
    other keys than text  {"$type": "dict", "items": [[key, value], ...]}   as if a key is "$type"
    sets                  {"$type": "set", "items": [...]}
    dates, decimals, ...  {"$type": "datetime", "value": "2026-01-02T03:04:05"}
    enums                 {"$type": "shop.Color", "name": "RED", "value": 1}
    dataclasses, models   {"$type": "shop.Order", "fields": {...}}
    exceptions            {"$type": "ValueError", "args": [...]}
    numpy arrays          {"$type": "numpy.ndarray", "dtype": "float64", "shape": [2], "items": ...}
    a container in itself {"$type": "cycle", "up": 2}        the one so many levels above
    what is too deep      {"$type": "list", "omitted": 3}    or beyond the bound in number
    everything else       {"$type": "shop.Client"}

Nothing of the value's own is called, as it may raise, hang, lie or have effects: no ``repr``, no
``str``, no property, no iterator. Containers are read as the C types below them are. Halves of
surrogate pairs stay in a text; what writes it replaces each by U+FFFD.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import decimal
import enum
import fractions
import gc
import hashlib
import json
import math
import pathlib
import sys
import types
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, JsonValue

MAX_DEPTH = 100
"""Levels of a value that are kept: a reader of JSON takes 200, and a record needs some (ours)."""
MAX_ITEMS = 100_000
"""Values within one value that are kept: ten lists can hold each other a billion times (ours)."""
MAX_BITS = 4096
"""Larger integers are tagged: Python itself refuses to print and read very large ones (ours)."""
MAX_ARRAY = 1024
"""Elements of an array that are kept; of larger ones size and hash (ours)."""
_TYPE = "$type"

_Text = Callable[[Any], str]
_AS_TEXT: tuple[tuple[type, _Text], ...] = (  # of exactly these types: their own code is Python's
    (datetime.datetime, datetime.datetime.isoformat),
    (datetime.date, datetime.date.isoformat),
    (datetime.time, datetime.time.isoformat),
    (datetime.timedelta, str),
    (decimal.Decimal, str),
    (fractions.Fraction, str),
    (complex, str),
    (uuid.UUID, str),
    (range, str),
    (pathlib.PosixPath, str),
    (pathlib.WindowsPath, str),
    (pathlib.PurePosixPath, str),
    (pathlib.PureWindowsPath, str),
)
_CONTAINERS: tuple[type, ...] = (dict, list, tuple, collections.deque, set, frozenset)
_BYTES: tuple[type, ...] = (bytes, bytearray, memoryview)
# As the interpreter has them, whatever a metaclass says.
_mro = type.__dict__["__mro__"].__get__
_namespace = type.__dict__["__dict__"].__get__
_qualname = type.__dict__["__qualname__"].__get__
_module = type.__dict__["__module__"].__get__
_arguments = BaseException.__dict__["args"].__get__


def to_json(value: object) -> JsonValue:
    """The value as it is now, as plain JSON values; see the module for the forms.

    Raises:
        RecursionError: the caller has almost used up the stack.
    """
    return _Snapshot().take(value)


def as_text(value: object) -> str:
    """The value as a text: a text itself, everything else as its JSON."""
    plain = to_json(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def as_content(value: object) -> Any:
    """A message's content as it is now: None, text, or parts whose bytes are kept for hashing.

    A list is taken for parts where each is a text or a dict with a ``type``, as providers have
    them; any other value is its JSON as text.
    """
    kept = _Snapshot(keeps_bytes=True).take(value)
    if kept is None or isinstance(kept, str):
        return kept
    parts: Any = [kept] if isinstance(kept, dict) else kept
    if isinstance(parts, list) and all(_is_part(part) for part in parts):
        return parts
    return as_text(value)


def _is_part(value: object) -> bool:
    if isinstance(value, dict):
        return isinstance(value.get("type"), str)
    return isinstance(value, str)


class _Snapshot:
    """One taking of a value.

    Args:
        keeps_bytes: bytes stay as they are, copied.
    """

    def __init__(self, *, keeps_bytes: bool = False) -> None:
        self._keeps_bytes = keeps_bytes
        self._left = MAX_ITEMS
        self._depth = 0
        self._above: list[int] = []

    def take(self, value: Any) -> Any:
        kind = type(value)  # what it really is: `value.__class__` may say something else
        if value is None or kind is str or kind is bool:
            return value
        mro = _mro(kind)
        if int in mro:
            return _integer(int.__int__(value))
        if str in mro:
            return str.__str__(value)
        if float in mro:
            return _number(float.__float__(value))
        for base in mro:
            if base in _CONTAINERS:
                return self._container(value, kind, base)
        if any(base in _BYTES for base in mro):
            return self._bytes(value)
        return self._object(value, kind, mro)

    def _container(self, value: Any, kind: type, base: Any) -> Any:
        if base is dict:
            items = list(dict.items(value))  # `dict.copy` asks a subclass for its keys
            names = [_exact(key) for key, _ in items]
            is_plain = None not in names and _TYPE not in names
            if is_plain and len(set(names)) == len(names):  # two keys may hold the same text
                held = [below for _, below in items]
                return self._inside(value, "dict", 1, self._dict, names, held)
            return self._inside(value, "dict", 2, self._pairs, items)
        items = list(base.__iter__(value))
        fields = _fields_of_tuple(kind) if base is tuple else None
        if fields is not None and len(fields) == len(items):
            found = dict(zip(fields, items, strict=True))
            return self._inside(value, "dict", 2, self._fields, kind, found)
        if base is list or base is tuple:
            return self._inside(value, "list", 1, self._each, items)
        if base is collections.deque:
            return self._inside(value, "deque", 2, self._tagged, "deque", items)
        return self._inside(value, "set", 2, self._set, items)

    def _inside(
        self, value: object, name: str, levels: int, read: Callable[..., Any], *arguments: Any
    ) -> Any:
        """Reads a container, unless it is in itself, too deep, or one too many.

        Args:
            value: the container.
            name: what it is called where it is left out.
            levels: how many it adds to the JSON.
            read: what reads it; its last argument is what the container holds.
        """
        if id(value) in self._above:
            return {_TYPE: "cycle", "up": len(self._above) - self._above.index(id(value))}
        if self._depth + levels > MAX_DEPTH or self._left <= 0:
            return {_TYPE: name, "omitted": len(arguments[-1])}
        self._above.append(id(value))
        self._depth += levels
        try:
            return read(*arguments)
        finally:
            self._depth -= levels
            self._above.pop()

    def _each(self, items: list[Any]) -> list[Any]:
        """The items, as many as there is room for; the last says how many are missing."""
        room = max(0, self._left)
        self._left -= min(room, len(items))
        taken = [self.take(item) for item in items[:room]]
        if len(items) > room:
            taken.append({_TYPE: "list", "omitted": len(items) - room})
        return taken

    def _tagged(self, name: str, items: list[Any]) -> Any:
        return {_TYPE: name, "items": self._each(items)}

    def _set(self, items: list[Any]) -> Any:
        taken = self._each(items)
        if not self._keeps_bytes:  # in an order that does not change from run to run
            taken.sort(key=json.dumps)
        return {_TYPE: "set", "items": taken}

    def _dict(self, names: list[str], items: list[Any]) -> Any:
        room = self._left
        taken = self._each(items)
        if len(items) > room:
            kept = dict(zip(names, taken[:-1], strict=False))
            return kept | {_TYPE: "dict", "omitted": len(items) - room}
        return dict(zip(names, taken, strict=True))

    def _pairs(self, items: list[tuple[Any, Any]]) -> Any:
        return {_TYPE: "dict", "items": self._each(items)}

    def _bytes(self, value: Any) -> Any:
        with memoryview(value) as view:
            if self._keeps_bytes:
                return view.tobytes()
            whole = view if view.c_contiguous else view.tobytes()
            return {
                _TYPE: "bytes",
                "size": view.nbytes,
                "sha256": hashlib.sha256(whole).hexdigest(),
            }

    def _object(self, value: Any, kind: type, mro: tuple[type, ...]) -> Any:
        try:
            return self._known(value, kind, mro)
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - a time zone, say, runs code of its own
            return {_TYPE: _name(kind)}

    def _known(self, value: Any, kind: type, mro: tuple[type, ...]) -> Any:
        for known, text in _AS_TEXT:
            if kind is known:
                return {_TYPE: kind.__name__, "value": text(value)}
        if kind is types.MappingProxyType:
            return self._inside(value, "dict", 0, self.take, gc.get_referents(value)[0])
        if kind is collections.UserDict:
            return self._inside(value, "dict", 0, self.take, value.data)
        if enum.Enum in mro:
            inside = _attributes(value)
            name, plain = str(inside["_name_"]), self.take(inside["_value_"])
            return {_TYPE: _name(kind), "name": name, "value": plain}
        if BaseException in mro:
            items = list(_arguments(value))
            return self._inside(value, _name(kind), 2, self._error, _name(kind), items)
        if BaseModel in mro or _in_class(kind, "__dataclass_fields__") is not None:
            return self._inside(value, "dict", 2, self._fields, kind, dict(_shown(value, kind)))
        if type in mro:
            return {_TYPE: _name(kind), "name": str(_qualname(value))}
        if kind is types.FunctionType or kind is types.BuiltinFunctionType:
            return {_TYPE: _name(kind), "name": str(value.__qualname__)}
        return self._numpy(value, kind, mro) or {_TYPE: _name(kind)}

    def _error(self, name: str, items: list[Any]) -> Any:
        return {_TYPE: name, "args": self._each(items)}

    def _fields(self, kind: type, fields: dict[str, Any]) -> Any:
        return {_TYPE: _name(kind), "fields": self._dict(list(fields), list(fields.values()))}

    def _numpy(self, value: Any, kind: type, mro: tuple[type, ...]) -> Any:
        numpy: Any = sys.modules.get("numpy")
        if numpy is None or not (numpy.generic in mro or numpy.ndarray in mro):
            return None
        if numpy.generic in mro:
            plain = numpy.generic.item(value)
            # a type that Python has no like of gives itself back
            return {_TYPE: _name(kind)} if type(plain) is kind else self.take(plain)
        array = numpy.asarray(value)
        about = {_TYPE: "numpy.ndarray", "dtype": str(array.dtype), "shape": list(array.shape)}
        if array.size <= MAX_ARRAY:
            items = numpy.ndarray.tolist(array)
            return about | {"items": self.take(items)}
        if array.dtype.hasobject:
            return about | {"omitted": int(array.size)}
        data = numpy.ascontiguousarray(array).view(numpy.uint8).data
        return about | {"size": array.nbytes, "sha256": hashlib.sha256(data).hexdigest()}


def _attributes(value: object) -> dict[str, Any]:
    """What is in an object's own dict, read past whatever its class says."""
    for base in _mro(type(value)):
        descriptor = _namespace(base).get("__dict__")
        if type(descriptor) is types.GetSetDescriptorType:
            found = descriptor.__get__(value)
            return dict.copy(found) if type(found) is dict else {}
    return {}


def _shown(value: object, kind: type) -> Iterable[tuple[str, Any]]:
    """The fields of a dataclass or pydantic model, but for those its class does not show."""
    inside = _attributes(value)
    if BaseModel in _mro(kind):
        known = _in_class(kind, "__pydantic_fields__") or {}
        hidden = {name for name, field in known.items() if field.exclude or field.repr is False}
        names = [*known, *(name for name in inside if name not in known)]
        extra = _in_class(kind, "__pydantic_extra__")
        more = extra.__get__(value) if type(extra) is types.MemberDescriptorType else None
        inside |= more if type(more) is dict else {}
        names += [name for name in inside if name not in names]
    else:
        known = _in_class(kind, "__dataclass_fields__") or {}
        hidden = {name for name, field in known.items() if field.repr is False}
        names = list(known)
    for name in names:
        slot = _in_class(kind, name)
        if name in hidden:
            continue
        if name in inside:
            yield name, inside[name]
        elif type(slot) is types.MemberDescriptorType:
            with contextlib.suppress(AttributeError):  # never set
                yield name, slot.__get__(value)


def _in_class(kind: type, name: str) -> Any:
    """What a class or one above it has under a name, as it stands there."""
    spaces = map(_namespace, _mro(kind))
    return next((space[name] for space in spaces if name in space), None)


def _fields_of_tuple(kind: type) -> tuple[str, ...] | None:
    """The names of a named tuple's fields; None for any other tuple."""
    fields = None if kind is tuple else _in_class(kind, "_fields")
    if type(fields) is not tuple or not all(type(field) is str for field in fields):
        return None
    return fields


def _exact(key: object) -> str | None:
    """A key that is a text, as a plain one; None for any other."""
    if type(key) is str:
        return key
    return str.__str__(key) if str in _mro(type(key)) else None  # type: ignore[arg-type]


def _integer(value: int) -> JsonValue:
    if value.bit_length() <= MAX_BITS:
        return value
    return {_TYPE: "int", "hex": hex(value)}


def _number(value: float) -> JsonValue:
    if math.isfinite(value):
        return value
    name = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return {_TYPE: "float", "value": name}


def _name(kind: type) -> str:
    module, name = _module(kind), _qualname(kind)
    plain = type(module) is str and module not in ("builtins", "__main__")
    return f"{module}.{name}" if plain else str(name)
