"""Records without what must not be stored: every string in them, keys included.

A record is walked by the plan of its model: what is structure stays, so that the result is a record
again. What stands behind the name of a secret is hidden whole; no redactor of texts could know.
Paths say what is left as it is, and what goes whatever it holds. Source: ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, JsonValue

from rwml.content import well_formed
from rwml.redaction.names import SECRET, is_secret_name, is_secret_value
from rwml.redaction.paths import NOWHERE, Paths, States
from rwml.redaction.plans import OPEN, STRUCTURE, Part, Plan, plan_of
from rwml.schema import Step

Redactor = Callable[[str], str]
"""Takes a text and returns it without what must not be stored."""

Model = TypeVar("Model", bound=BaseModel)

DENIED = "<DENIED>"
"""Stands for a value that the user's paths deny."""


class Hider(Protocol):
    """Hides values; told the name that a text stands behind, where there is one."""

    def may_hold(self, text: str) -> bool:
        """Whether hiding could change a text that has no telling name; never wrongly False."""
        ...

    def is_telling(self, name: str) -> bool:
        """Whether a name says that what stands behind it is hidden."""
        ...

    def hide(self, text: str, *, name: str = "", allowed: bool = False) -> str:
        """A text; `allowed` where only secrets are hidden."""
        ...

    def hide_id(self, text: str, *, allowed: bool = False) -> str:
        """An id: what is hidden in it still tells it apart from others."""
        ...

    def deny(self, text: str) -> str:
        """What stands for a text that is denied; for an id, unlike that of others."""
        ...


class Spot(NamedTuple):
    """Where a walk is.

    Attributes:
        plan: what is there.
        states: how far the allowed and the denied paths have come.
        name: the key it stands behind, in open JSON.
        allowed: whether only secrets are hidden.
        denied: whether it goes, whatever it holds.
    """

    plan: Plan
    states: tuple[States, States] = (NOWHERE, NOWHERE)
    name: str = ""
    allowed: bool = False
    denied: bool = False


_NO_STATES = (NOWHERE, NOWHERE)


class Walk:
    """A walk through records that hides what must not be stored.

    Args:
        hider: what hides a text.
        allow: paths of what is left as it is, but for secrets.
        deny: paths of what goes.
        trail: keys from the root to where the walk is now; kept up to date here.
    """

    def __init__(
        self,
        hider: Hider,
        *,
        allow: Paths | None = None,
        deny: Paths | None = None,
        trail: list[str] | None = None,
    ) -> None:
        self._hider = hider
        self._allow = allow
        self._deny = deny
        self._step = plan_of(Step)
        self.trail: list[str] = [] if trail is None else trail
        self.is_changed = False
        """Whether anything was changed since it was last set to False."""

    def root(self, plan: Plan, *, step: str | None = None) -> Spot:
        """Where a walk begins.

        Args:
            step: the index of the step whose body it is; None for other records.
        """
        states = tuple(
            NOWHERE if paths is None else paths.at_root if step is None else paths.in_step(step)
            for paths in (self._allow, self._deny)
        )
        return self._marked(Spot(plan, (states[0], states[1])))

    def value(self, value: JsonValue, spot: Spot) -> JsonValue:
        """The value without what must not be stored."""
        if isinstance(value, str):
            return self.text(value, spot)
        if value is None or spot.plan.part is Part.STRUCTURE:
            return value
        if spot.denied and spot.plan.part in (Part.OPEN, Part.OPEN_OBJECT):
            return self.denied(value, spot) if value != {} else value  # nothing is in there
        if isinstance(value, dict):
            return self._object(value, spot)
        if isinstance(value, list):
            items: list[JsonValue] = []
            self.trail.append("")
            for place, item in enumerate(value):
                self.trail[-1] = str(place)
                items.append(self.value(item, self.item(spot, place)))
            self.trail.pop()
            return items
        return value

    def text(self, text: str, spot: Spot) -> str:
        """A string, hidden as its place asks for."""
        part = spot.plan.part
        if part is Part.STRUCTURE:
            return text
        if spot.denied:
            clean = self._hider.deny(text if part is Part.ID else "")
            clean = text if text.startswith(DENIED) and part is Part.ID else clean
        elif part is Part.ID:
            clean = self._hider.hide_id(text, allowed=spot.allowed)
        else:
            clean = self._hider.hide(text, name=spot.name, allowed=spot.allowed)
        if clean is not text and clean != text:
            self.is_changed = True
        return clean

    def key(self, key: str, spot: Spot, taken: dict[str, JsonValue] | set[str]) -> str:
        """A key of open JSON; `spot` is that of its value."""
        clean = self._hider.hide(key, allowed=spot.allowed)
        while clean in taken:  # two keys that look alike now: both values are kept
            clean += "_"
        if clean != key:
            self.is_changed = True
        return clean

    def denied(self, value: JsonValue, spot: Spot) -> JsonValue:
        """What stands for open JSON that is denied."""
        gone: JsonValue = self._hider.deny("")
        if spot.plan.part is Part.OPEN_OBJECT:
            gone = {"denied": gone}
        if gone != value:
            self.is_changed = True
        return gone

    def child(self, spot: Spot, key: str) -> Spot:
        """Where the value of a key is."""
        if spot.plan.part is Part.FIELDS:
            plan, name = spot.plan.fields.get(key, OPEN), ""
        else:
            plan, name = OPEN, key
        if spot.states == _NO_STATES:
            return Spot(plan, spot.states, name, spot.allowed, spot.denied)
        return self._marked(spot._replace(plan=plan, name=name, states=self._next(spot, key)))

    def item(self, spot: Spot, place: int) -> Spot:
        """Where an item of a list is: what a name says, it says of all of them."""
        plan = spot.plan.items if spot.plan.items is not None else OPEN
        is_step = plan is self._step and (self._allow is not None or self._deny is not None)
        if spot.states == _NO_STATES and not is_step:
            return spot if plan is spot.plan else spot._replace(plan=plan)
        allow, deny = self._next(spot, str(place))
        if is_step:  # paths may also begin at a step
            allow |= self._allow.at_root if self._allow else NOWHERE
            deny |= self._deny.at_root if self._deny else NOWHERE
        return self._marked(spot._replace(plan=plan, states=(allow, deny)))

    def _object(self, value: dict[str, JsonValue], spot: Spot) -> JsonValue:
        clean: dict[str, JsonValue] = {}
        known = spot.plan.fields
        is_plain = spot.states == _NO_STATES and not spot.denied
        may_hold, is_telling = self._hider.may_hold, self._hider.is_telling
        self.trail.append("")
        for key, item in value.items():
            # Nearly all of a record goes this way, so it comes before all else.
            if is_plain and (type(item) is not str or not may_hold(item)):
                is_leaf = not isinstance(item, dict | list)
                if is_leaf and (
                    key in known or not (is_telling(key) or may_hold(key) or key in clean)
                ):
                    clean[key] = item
                    continue
            below = self.child(spot, key)
            self.trail[-1] = ""  # what is found in the key itself is found here
            name = key if key in known else self.key(key, below, clean)
            self.trail[-1] = name
            clean[name] = item if below.plan is STRUCTURE else self.value(item, below)
        self.trail.pop()
        return clean

    def _next(self, spot: Spot, key: str) -> tuple[States, States]:
        allow, deny = spot.states
        return (
            self._allow.next(allow, key) if self._allow and allow else NOWHERE,
            self._deny.next(deny, key) if self._deny and deny else NOWHERE,
        )

    def _marked(self, spot: Spot) -> Spot:
        allow, deny = spot.states
        if allow and self._allow and self._allow.match(allow):
            spot = spot._replace(allowed=True)
        if deny and self._deny and self._deny.match(deny):
            spot = spot._replace(denied=True)
        return spot


class CallableHider:
    """Hides with a function of texts.

    Args:
        redact: the function; None replaces lone surrogates alone.
    """

    def __init__(self, redact: Redactor | None) -> None:
        self._redact = redact

    def may_hold(self, text: str) -> bool:
        """Nobody knows what a function changes."""
        return True

    def is_telling(self, name: str) -> bool:
        """Whether it is the name of a secret."""
        return is_secret_name(name)

    def hide(self, text: str, *, name: str = "", allowed: bool = False) -> str:
        """A text; what stands behind the name of a secret goes whole."""
        text = well_formed(text)
        if self._redact is None or allowed:
            return text
        text = self._redact(text)
        hides = name and is_secret_name(name) and is_secret_value(name, text)
        return SECRET if hides else text

    def hide_id(self, text: str, *, allowed: bool = False) -> str:
        """An id, with the end of its hash where something was hidden in it."""
        return redact_id(well_formed(text), None if allowed else self._redact)

    def deny(self, text: str) -> str:
        """Nothing asks for it: a function knows no paths."""
        return redact_id(text, lambda _: DENIED) if text else DENIED


def redact_with(model: Model, walk: Walk) -> Model:
    """A copy of a model after a walk."""
    plan = plan_of(type(model))
    clean = walk.value(model.model_dump(mode="json"), walk.root(plan))
    return type(model).model_validate_json(json.dumps(clean))  # as it is read from the store


def redact_model(model: Model, redact: Redactor | Json | None) -> Model:
    """A copy of `model` without what must not be stored: in every string, dict keys included.

    A text in a dict, or in a list there, is also hidden where its key says that it is secret: no
    redactor of texts could know. Numbers, dicts and the structure of the model (roles, statuses)
    stay, such as the schema of a parameter that is named ``password``.

    Args:
        redact: a function of texts, or a trajectory's `RedactionSession`. With None everything
            stays; lone surrogates are replaced.

    Raises:
        RedactionError: the session failed.
        Exception: whatever the function raised, or a validation error where it broke the shape.
    """
    if redact is None:
        with contextlib.suppress(ValueError):  # a lone surrogate, which the walk replaces
            return type(model).model_validate_json(model.model_dump_json())
    elif not callable(redact):
        try:
            body = model.model_dump_json()
        except ValueError:  # a lone surrogate: JSON spells it
            body = json.dumps(model.model_dump(mode="json"))
        clean = redact.json(body, model=type(model))
        return type(model).model_validate_json(clean)
    return redact_with(model, Walk(CallableHider(redact)))


class Json(Protocol):
    """What `redact_model` needs of a session."""

    def json(self, body: str, *, model: type[BaseModel] | None = None) -> str:
        """JSON of a record without what must not be stored."""
        ...

    def id(self, text: str) -> str:
        """An id without what must not be stored."""
        ...


def redact_id(id: str, redact: Redactor | Json | None) -> str:
    """An id without what must not be stored; different ids stay different.

    With a session the result is the same in every session of its key.
    """
    if redact is not None and not callable(redact):
        return redact.id(id)
    clean = redact(id) if redact else id
    return clean if clean == id else f"{clean}-{hashlib.sha256(id.encode()).hexdigest()[:12]}"
