"""Copies of a domain's database that cost what an episode looks at, not what the database holds.

A record of a table is copied when it is first asked for, so a tool changes its own copy and never
the original, which all episodes of the process share. The hash is tau2's own, to the letter; text
of records that nobody asked for is kept from the first time. Nothing here changes tau2's classes.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from enum import Enum
from typing import Any, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)
_SCALARS = frozenset({str, int, float, bool, type(None)})
_set = object.__setattr__  # pydantic's own checks each assignment
_MISSING = object()


class Table(dict[str, Any]):
    """The records of one table; those that were asked for are this table's own copies.

    It is a dict in every way: what reads it from C without asking (pydantic's serializer, ``==``)
    sees the shared records and cannot change them.

    Args:
        records: shared by all copies of the database; never changed.

    Attributes:
        own: keys of the records that are this table's own.
        is_complete: no key of the original was removed.
    """

    def __init__(self, records: Mapping[str, Any]) -> None:
        super().__init__(records)
        self.own: set[str] = set()
        self.is_complete = True

    def __getitem__(self, key: str) -> Any:
        record = super().__getitem__(key)
        if key not in self.own:
            record = copy_value(record)
            self[key] = record
        return record

    def __setitem__(self, key: str, record: Any) -> None:
        super().__setitem__(key, record)
        self.own.add(key)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self.own.discard(key)
        self.is_complete = False

    def __iter__(self) -> Iterator[str]:
        # Being defined is what matters: dict(table) and {**table} then ask for each record.
        return super().__iter__()

    def __or__(self, other: Any) -> dict[str, Any]:
        return dict(self) | other

    def __ior__(self, other: Any) -> Table:  # type: ignore[override,misc]  # dict's is overloaded
        self.update(other)
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def get(self, key: str, default: Any = None) -> Any:  # type: ignore[override]
        """As a dict's."""
        return self[key] if key in self else default  # noqa: SIM401 - that is this method

    def values(self) -> ValuesView[Any]:  # type: ignore[override]  # a view that asks
        """As a dict's."""
        return ValuesView(self)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]  # a view that asks
        """As a dict's."""
        return ItemsView(self)

    def copy(self) -> dict[str, Any]:
        """As a dict's."""
        return dict(self)

    def pop(self, key: str, default: Any = _MISSING) -> Any:  # type: ignore[override]
        """As a dict's."""
        if key not in self and default is not _MISSING:
            return default
        record = self[key]
        del self[key]
        return record

    def popitem(self) -> tuple[str, Any]:
        """As a dict's."""
        if not self:
            raise KeyError("popitem(): dictionary is empty")
        key = next(reversed(self))
        return key, self.pop(key)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """As a dict's."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *others: Any, **records: Any) -> None:
        """As a dict's."""
        for key, record in dict(*others, **records).items():
            self[key] = record

    def clear(self) -> None:
        """As a dict's."""
        super().clear()
        self.own.clear()
        self.is_complete = False


class Original:
    """A database as the domain comes with it, of which copies are made.

    Args:
        database: kept, never changed.
    """

    def __init__(self, database: BaseModel) -> None:
        self._database = database
        fields = vars(database)
        self._tables = {name: value for name, value in fields.items() if _is_table(value)}
        self._texts: dict[str, dict[str, str]] = {}

    def copy(self) -> BaseModel:
        """A database that looks the same and may be changed."""
        made = _shell(self._database)
        for name, value in vars(self._database).items():
            is_table = name in self._tables
            vars(made)[name] = Table(value) if is_table else copy_value(value)
        return made

    def hash(self, database: BaseModel) -> str | None:
        """What tau2's `get_hash` gives for a copy; None for a database that is no copy."""
        tables = {name: vars(database).get(name) for name in self._tables}
        if type(database) is not type(self._database) or not all(
            isinstance(table, Table) for table in tables.values()
        ):
            return None
        rest = _shell(database)
        for name, value in vars(database).items():
            vars(rest)[name] = _own_records(value) if isinstance(value, Table) else value
        dumped = rest.model_dump()
        parts = []
        for name in sorted(dumped):
            table = tables.get(name)
            text = (
                _dumped(dumped[name])
                if table is None
                else self._table_text(name, table, dumped[name])
            )
            parts.append(f"{json.dumps(name)}: {text}")
        return hashlib.sha256(f"{{{', '.join(parts)}}}".encode()).hexdigest()

    def _table_text(self, name: str, table: Table, own: dict[str, Any]) -> str:
        known = self._texts.get(name)
        if known is None:  # two threads may both do it; the result is the same
            known = self._texts[name] = self._record_texts(name)
        changed = {key: f"{json.dumps(key)}: {_dumped(record)}" for key, record in own.items()}
        if table.is_complete and changed.keys() <= known.keys():
            texts = {**known, **changed}  # in the order of `known`, which is sorted
        else:
            merged = {key: known[key] for key in table.keys() & known.keys()} | changed
            texts = {key: merged[key] for key in sorted(merged)}
        return f"{{{', '.join(texts.values())}}}"

    def _record_texts(self, name: str) -> dict[str, str]:
        only = _shell(self._database)
        vars(only).update(vars(self._database))
        records = only.model_dump(include={name})[name]
        return {key: f"{json.dumps(key)}: {_dumped(records[key])}" for key in sorted(records)}


def copy_value(value: Any) -> Any:
    """A deep copy of what databases hold: models, lists, dicts and scalars; many times faster.

    Nothing in a database is referred to twice, so no memo is kept.
    """
    kind = type(value)
    if kind in _SCALARS or isinstance(value, Enum):
        return value
    if kind is list:
        return [item if type(item) in _SCALARS else copy_value(item) for item in value]
    if kind is dict:
        return {
            key: item if type(item) in _SCALARS else copy_value(item) for key, item in value.items()
        }
    if isinstance(value, BaseModel):
        made = _shell(value)
        fields = vars(made)
        for name, item in vars(value).items():
            fields[name] = item if type(item) in _SCALARS else copy_value(item)
        return made
    return copy.deepcopy(value)


def _shell(model: Model) -> Model:
    """A model of the same class without its fields, made without validation."""
    made = type(model).__new__(type(model))
    _set(made, "__dict__", {})
    _set(made, "__pydantic_fields_set__", set(model.__pydantic_fields_set__))
    _set(made, "__pydantic_extra__", copy_value(model.__pydantic_extra__))
    _set(made, "__pydantic_private__", copy_value(model.__pydantic_private__))
    return made


def _own_records(table: Table) -> dict[str, Any]:
    return {key: dict.__getitem__(table, key) for key in table.own}


def _is_table(value: Any) -> bool:
    return (
        type(value) is dict
        and all(isinstance(key, str) for key in value)
        and all(isinstance(record, BaseModel) for record in value.values())
    )


def _dumped(value: Any) -> str:
    # As tau2.utils.get_dict_hash does it.
    return json.dumps(value, sort_keys=True, default=str)
