"""The pseudonyms of one trajectory, and what hides values behind them.

A value has the same pseudonym wherever it stands in its trajectory, so that what comes next stays
predictable from what was. What is kept of a value is a keyed digest, never the value. An id must be
the same in every trajectory, so in ids a digest stands where a number would. Source: ours.
"""

from __future__ import annotations

import json as json_text
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from rwml.content import well_formed
from rwml.errors import RedactionError, UsageError
from rwml.redaction.edits import Edit, apply_edits
from rwml.redaction.failures import describe
from rwml.redaction.literals import LargeJson
from rwml.redaction.names import SECRET, is_secret_name, is_secret_value
from rwml.redaction.personal import is_phone_name, named_phone
from rwml.redaction.plans import OPEN, Plan, plan_of
from rwml.redaction.pseudonyms import Pseudonyms
from rwml.redaction.records import DENIED, Walk
from rwml.redaction.texts import Namer, TextCleaner
from rwml.schema import Step, Trajectory

if TYPE_CHECKING:
    from rwml.redaction.policy import Rules

LARGE_CHARS = 256 * 1024
"""Longer JSON is not parsed as a whole: that takes 5 ms here, and nobody else may run (ours)."""
SHOWN_CHARS = 40
"""Characters around a value that a finding shows (ours)."""
KEY_BYTES = 64
"""The longest key that BLAKE2b takes."""

_FIRST_KEY = re.compile(r'\s*\{\s*"([a-z_]+)"\s*:\s*([0-9]*)')
_HIDDEN_ID = re.compile(r"(.*<[A-Z][A-Z0-9_]{0,60}>.*)-[0-9a-f]{12}", re.DOTALL)
_Result = TypeVar("_Result")


class Finding(NamedTuple):
    """Something that is hidden, for a preview: nothing of it but its outline.

    Attributes:
        path: keys from the root of the record, with a dot between them.
        kind: ``EMAIL``, ``API_KEY``, ...
        pseudonym: what stands for it.
        masked: its first character and its length.
        before: the redacted text before it.
        after: the redacted text after it.
    """

    path: str
    kind: str
    pseudonym: str
    masked: str
    before: str
    after: str


class RedactionSession:
    """Hides what a policy says, with the pseudonyms of one trajectory; not thread-safe.

    Make one with `Redaction.session`.
    """

    def __init__(
        self,
        *,
        rules: Rules,
        key: bytes,
        known: Mapping[bytes, str] | Callable[[], Mapping[bytes, str]],
        report: Callable[[Finding], None] | None = None,
    ) -> None:
        if not isinstance(key, bytes) or not 1 <= len(key) <= KEY_BYTES:
            raise UsageError(f"the key of pseudonyms is 1 to {KEY_BYTES} bytes")
        self._rules = rules
        self._pseudonyms = Pseudonyms(key, known)
        self._report = report
        self._trail: list[str] = []
        # Neither knows the session: many are made and dropped, and must go without a collector.
        self._cleaner = _make_cleaner(rules, self._pseudonyms.name)
        self._id_cleaner = _make_cleaner(rules, _only_kind)

    def text(self, text: str) -> str:
        """A text without what must not be stored.

        Raises:
            RedactionError: it failed; the message holds nothing of the text.
        """
        return self._safely(lambda: self.hide(text))

    def id(self, text: str) -> str:
        """An id without what must not be stored, alike in every session of this key.

        Raises:
            RedactionError: it failed; the message holds nothing of the id.
        """
        return self._safely(lambda: self.hide_id(text))

    def json(self, body: str, *, model: type[BaseModel] | None = None) -> str:
        """JSON of a record without what must not be stored: the same object if nothing changed.

        Args:
            body: of a `Step` or a `Trajectory`, with or without its defaults.
            model: whose JSON it is, if another's.

        Raises:
            RedactionError: it failed; the message holds nothing of the record.
        """
        if not self._rules.may_change(body):
            return body
        return self._safely(lambda: self._json(body, model))

    def used_names(self) -> dict[bytes, str]:
        """Digests and pseudonyms that were used since this was called last, to be stored.

        All of them, not only new ones: those of before may have been forgotten with what they
        stood in. Digests are those of `Pseudonyms.digest`.
        """
        return self._pseudonyms.take_used()

    def may_hold(self, text: str) -> bool:
        """See `rwml.redaction.records.Hider`."""
        return self._cleaner.may_hold(text)

    def is_telling(self, name: str) -> bool:
        """See `rwml.redaction.records.Hider`."""
        return is_secret_name(name) or is_phone_name(name)

    def hide(self, text: str, *, name: str = "", allowed: bool = False) -> str:
        """See `rwml.redaction.records.Hider`."""
        if name and self._rules.secrets and is_secret_name(name) and is_secret_value(name, text):
            clean = self._cleaner.clean(text, allowed=True)
            return self._told(SECRET, text) if is_secret_value(name, clean) else clean
        if self._report is None:
            clean = self._cleaner.clean(text, allowed=allowed)
        else:
            clean = self._reported(text, allowed)
        if name and self._rules.personal and not allowed and is_phone_name(name):
            phone = named_phone(clean)
            return (
                clean
                if phone is None
                else self._told(self._pseudonyms.name("PHONE", phone.value), clean)
            )
        return clean

    def hide_id(self, text: str, *, allowed: bool = False) -> str:
        """See `rwml.redaction.records.Hider`."""
        text = well_formed(text)
        hidden = _HIDDEN_ID.fullmatch(text)
        own = hidden[1] if hidden else text  # what was hidden before stays as it is
        clean = self._id_cleaner.clean(own, allowed=allowed)
        if clean == own:
            return text
        return self._told(
            f"{clean}-{self._pseudonyms.digest('ID', text).hex()[:12]}", text, kind="ID"
        )

    def deny(self, text: str) -> str:
        """See `rwml.redaction.records.Hider`."""
        gone = f"{DENIED}-{self._pseudonyms.digest('ID', text).hex()[:12]}" if text else DENIED
        return self._told(gone, "", kind="DENIED")

    def _json(self, body: str, model: type[BaseModel] | None) -> str:
        self._pseudonyms.reserve(body)
        plan, step = _what(body, model)
        self._trail.clear()
        walk = Walk(self, allow=self._rules.allow, deny=self._rules.deny, trail=self._trail)
        root = walk.root(plan, step=step)
        if len(body) > LARGE_CHARS:
            return LargeJson(body, walk).clean(root)
        try:
            value = from_json(body)
        except ValueError:  # lone surrogates are spelled in it
            value = json_text.loads(body)
        clean = walk.value(value, root)
        return to_json(clean, inf_nan_mode="constants").decode() if walk.is_changed else body

    def _safely(self, work: Callable[[], _Result]) -> _Result:
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - whatever it quotes must not get further
            reason = describe(error)
        raise RedactionError(f"a record could not be redacted: {reason}")

    def _reported(self, text: str, allowed: bool) -> str:
        """As `TextCleaner.clean`, and tells of every value that is hidden."""
        edits = self._cleaner.edits(text, allowed=allowed)
        clean = apply_edits(text, edits)
        shift = 0
        for edit in edits:
            start = edit.start + shift
            shift += len(edit.replacement) - (edit.end - edit.start)
            end = edit.end + shift
            before = clean[max(0, start - SHOWN_CHARS) : start]
            self._tell(edit, text[edit.start : edit.end], before, clean[end : end + SHOWN_CHARS])
        return clean

    def _told(self, replacement: str, text: str, *, kind: str = "SECRET") -> str:
        if self._report is not None:
            kind = "PHONE" if replacement.startswith("<PHONE_") else kind
            self._tell(Edit(0, len(text), replacement, kind), text, "", "")
        return replacement

    def _tell(self, edit: Edit, value: str, before: str, after: str) -> None:
        if self._report is not None:
            masked = f"{value[:1]}... ({len(value)} characters)" if value else ""
            path = ".".join(part for part in self._trail if part)
            self._report(Finding(path, edit.kind, edit.replacement, masked, before, after))


def _make_cleaner(rules: Rules, name: Namer) -> TextCleaner:
    return TextCleaner(
        secrets=rules.secrets,
        personal=rules.personal,
        custom=rules.custom,
        detectors=rules.detectors,
        name=name,
    )


def _only_kind(kind: str, _: str) -> str:
    return f"<{kind}>"


def _what(body: str, model: type[BaseModel] | None) -> tuple[Plan, str | None]:
    """The plan of a body, and the index of a step; stored bodies begin with a key of their own."""
    first = _FIRST_KEY.match(body)
    key, number = first.groups() if first else ("", "")
    steps, trajectories = plan_of(Step), plan_of(Trajectory)
    if model is Step or (model is None and key in steps.fields.keys() - trajectories.fields.keys()):
        return steps, number if key == "index" else ""
    if model is not None:
        return plan_of(model), None
    return trajectories if key in trajectories.fields else OPEN, None
