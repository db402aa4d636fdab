"""Secrets by the name they stand behind: ``password=...``, ``"api_key": "..."``.

In a text the name and the sign after it say where the value begins; in JSON the key says it. Code,
templates, types and prose that only mention such a name stay as they are. Source: ours.
"""

from __future__ import annotations

import functools
import re

from rwml.redaction.edits import Edit

SECRET = "<SECRET>"  # noqa: S105 - what stands in a secret's place
"""Stands for a value that is secret by its name."""

NAME = (
    r"(?:passw(?:or)?d|passphrase|passcode|pwd|secret|token|authorization|credentials?"
    r"|(?:api|access|secret|private|signing|encryption|master|account|shared|auth|ssh"
    r"|subscription)[_\- ]?key|private[_\- ]?key[_\- ]?id)"
)
"""Endings of the names of secrets, in any case."""
_NAME_HINTS = ("pass", "pwd", "secret", "token", "authorization", "credential", "key")
_NAME_AT_THE_END = re.compile(NAME + r"\Z", re.IGNORECASE)
_HARMLESS_NAME = re.compile(  # places in a list, and a tokenizer's special tokens
    r"(?:\A|[_-])(?:next|page|cursor|continuation|sync|resume"
    r"|pad|eos|bos|unk|sep|cls|mask|stop|start|end|special|max|min|first|last)[_-]?token\Z",
    re.IGNORECASE,
)
_ASSIGNMENT = re.compile(
    rf"""(?=[acempst])(?P<name>{NAME})(?:\\{{0,7}}["'])?\]?
         [ \t]{{0,4}}(?P<sign>=>|:=|[:=])(?!=|(?<=:)//)[ \t]{{0,4}}""",
    re.VERBOSE | re.IGNORECASE,
)
_BOUND = 4096
"""Characters of a quoted value that are looked at to tell whether it is a secret (ours)."""
_BARE_BOUND = 256
"""As `_BOUND`, without quotes (ours)."""
_DOUBLE = rf'(?:[^"\\\n]|\\.){{1,{_BOUND}}}+'
_SINGLE = rf"(?:[^'\\\n]|\\.){{1,{_BOUND}}}+"
_BARE = rf"""(?:[^\s"'`&,;<>\\]|\\(?![nrtu"'\\])){{1,{_BARE_BOUND}}}+"""
_VALUE = re.compile(
    rf"""
      [bfru]{{0,2}}"(?P<double>{_DOUBLE})
    | [bfru]{{0,2}}'(?P<single>{_SINGLE})
    | (?P<quote>\\{{1,7}}["'])(?P<escaped>(?:(?!(?<!\\)(?P=quote)).){{1,{_BOUND}}}+)
    | (?P<bare>{_BARE})
    """,
    re.VERBOSE | re.IGNORECASE,
)
_REST = {"double": re.compile(_DOUBLE), "single": re.compile(_SINGLE), "bare": re.compile(_BARE)}
_NO_SECRET = re.compile(  # redacted before, JSON and Python words, types, and mere punctuation
    r"(?:\w{1,20}[ ])?<\w{1,40}>|[\W_]*"
    r"|none|null|true|false|undefined|str|string|required|optional",
    re.IGNORECASE,
)
_CODE = re.compile(  # a call, a variable, a template
    r"[A-Za-z_][\w.]{0,80}+[(\[]|\$[({]|\$[A-Z][A-Z0-9_]{0,80}+(?!\w)|\{|%[sr(]"
)
_DIRECTORY = re.compile(r"[/~.]|[A-Za-z]:[\\/]")


def is_secret_name(name: str) -> bool:
    """Whether what stands behind a name is secret: ``password``, ``X-Api-Key``, ``accessToken``.

    Names of places in a list (``next_page_token``) and counts (``total_tokens``) are not.
    """
    return _is_secret_ending(name[-80:])


def is_secret_value(name: str, value: str) -> bool:
    """Whether a text behind the name of a secret is one: not a placeholder, a word or a folder."""
    return not _NO_SECRET.fullmatch(value) and not _is_directory(name, value)


def named_edits(text: str) -> list[Edit]:
    """Edits of the values that stand behind the name of a secret in a text."""
    lower = text.lower()
    if not any(hint in lower for hint in _NAME_HINTS):  # much faster than the pattern
        return []
    edits: list[Edit] = []
    done = 0
    for match in _ASSIGNMENT.finditer(text):
        before = re.split(r"[^\w\-]", text[max(0, match.start() - 40) : match.start()])[-1]
        if match.start() < done or not is_secret_name(before + match["name"]):
            continue
        value = None if _CODE.match(text, match.end()) else _VALUE.match(text, match.end())
        if value is None:
            continue
        kind = value.lastgroup or "bare"
        secret = value[kind]
        if kind == "bare":
            secret = secret.rstrip(")]}.!?:")
            if not _is_bare_secret(secret, name=match["name"], sign=match["sign"]):
                continue
        if is_secret_value(match["name"], secret):
            start = value.start(kind)
            done = _end_of_value(text, value, kind) if _is_cut(value, kind) else start + len(secret)
            edits.append(Edit(start, done, SECRET, "SECRET"))
    return edits


@functools.lru_cache(maxsize=4096)  # the same few names come with every record
def _is_secret_ending(ending: str) -> bool:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", ending)
    return bool(_NAME_AT_THE_END.search(ending)) and not _HARMLESS_NAME.search(words)


def _is_cut(value: re.Match[str], kind: str) -> bool:
    """Whether the pattern stopped at its bound: an escape counts once and has two characters."""
    return len(value[kind]) >= (_BARE_BOUND if kind == "bare" else _BOUND)


def _end_of_value(text: str, value: re.Match[str], kind: str) -> int:
    """Where a value ends that is longer than what was looked at: all of it is hidden."""
    rest = _REST.get(kind)
    if rest is None:
        quote = re.escape(value["quote"])
        rest = re.compile(rf"(?:(?!(?<!\\){quote}).){{1,{_BOUND}}}+")
    end = value.end(kind)
    while more := rest.match(text, end):
        end = more.end()
    return end


def _is_directory(name: str, value: str) -> bool:
    """Whether it is the working directory of a shell: ``PWD=/home/ann``."""
    return name[-3:].lower() == "pwd" and _DIRECTORY.match(value) is not None


def _is_bare_secret(secret: str, *, name: str, sign: str) -> bool:
    """Whether a value without quotes is a secret, and not ``password=self.password`` or prose."""
    if secret.lower().rsplit(".", 1)[-1] == name.lower():
        return False
    if sign != ":":
        return len(secret) > 3
    mixed = re.search(r"\d", secret) and re.search(r"[A-Za-z]", secret)
    return not re.match(r"\w{1,20}://", secret) and len(secret) >= (6 if mixed else 16)
