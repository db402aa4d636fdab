"""Redaction at the one boundary before disk: no secret reaches a store.

This version knows secrets: by their shape (keys, tokens, private keys, passwords in connection
strings) and by the name they stand behind (``password=...``, ``"api_key": "..."``). It works on the
JSON of a record, so it reaches every string in it: arguments, results, errors, schemas, metadata
and dict keys. It fails closed: what cannot be redacted is not written, and counted.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import hashlib
import json
import re
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from rwml.errors import RwmlError

Redactor = Callable[[str], str]
"""Takes a text and returns it without what must not be stored."""

Model = TypeVar("Model", bound=BaseModel)

SECRET = "<SECRET>"  # noqa: S105 - what stands in a secret's place
"""Stands for a value that is secret by its name."""

_PRIVATE_KEY = re.compile(
    r"-----BEGIN[ A-Z]*PRIVATE KEY-----.*?(?:-----END[ A-Z]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_SHAPES = re.compile(
    r"""
      (?<=://)(?P<credentials>[^\s/:@"']{0,256}:[^\s/"']{0,1024})(?=@)
    | (?P<aws_key>\b(?:AKIA|ASIA)[0-9A-Z]{16}\b)
    | (?P<api_key>\b(?:sk|pk|rk)-[A-Za-z0-9_\-]{16,}|\b(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{8,}
        |\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[A-Za-z0-9_\-]{12,}
        |\bhf_[A-Za-z0-9]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[0-9A-Za-z_\-]{35})
    | (?P<jwt>\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]+)
    | \b(?i:authorization)["'\\]{0,8}[ \t]{0,4}[:=][ \t]{0,4}["'\\]{0,8}
        (?P<scheme>(?i:basic|bearer|token|digest|api-?key))[ \t]{1,4}
        (?P<authorization>[^\s"'\\,;<>]{6,})
    | \b(?i:bearer)[ \t]{1,4}(?!(?i:authenti|authori[sz]|credential)[a-z]{0,12}(?![\w~+/=\-]))
        (?P<bearer>[A-Za-z0-9._~+/\-]{12,}=*)
    | \b(?i:basic)[ \t]{1,4}(?P<basic>[A-Za-z0-9+/]{4,}+={0,2}+(?![\w.\-<]))
    """,
    re.VERBOSE,
)

_NAME = (
    r"(?:passw(?:or)?d|passphrase|secret|token|authorization|credentials?"
    r"|(?:api|access|secret|private|signing|encryption|master)[_\- ]?key)"
)
_NAME_HINTS = ("passw", "passphrase", "secret", "token", "authorization", "credential", "key")
_NAME_AT_THE_END = re.compile(_NAME + r"\Z", re.IGNORECASE)
_HARMLESS_NAME = re.compile(  # places in a list, and a tokenizer's special tokens
    r"(?:\A|[_-])(?:next|page|cursor|continuation|sync|resume"
    r"|pad|eos|bos|unk|sep|cls|mask|stop|start|end|special|max|min|first|last)[_-]?token\Z",
    re.IGNORECASE,
)
_ASSIGNMENT = re.compile(
    rf"""(?P<name>{_NAME})(?:\\{{0,7}}["'])?\]?
         [ \t]{{0,4}}(?P<sign>=>|:=|[:=])(?!=|(?<=:)//)[ \t]{{0,4}}""",
    re.VERBOSE | re.IGNORECASE,
)
_VALUE = re.compile(
    r"""
      [bfru]{0,2}"(?P<double>(?:[^"\\\n]|\\.){1,4096}+)
    | [bfru]{0,2}'(?P<single>(?:[^'\\\n]|\\.){1,4096}+)
    | (?P<quote>\\{1,7}["'])(?P<escaped>(?:(?!(?<!\\)(?P=quote)).){1,4096}+)
    | (?P<bare>(?:[^\s"'`&,;<>\\]|\\(?![nrtu"'\\])){1,4096}+)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NO_SECRET = re.compile(  # redacted before, JSON and Python words, types, and mere punctuation
    r"(?:\w{1,20}[ ])?<\w{1,40}>|[\W_]*"
    r"|none|null|true|false|undefined|str|string|required|optional",
    re.IGNORECASE,
)
_CODE = re.compile(  # a call, a variable, a template
    r"[A-Za-z_][\w.]{0,80}+[(\[]|\$[({]|\$[A-Z][A-Z0-9_]{0,80}+(?!\w)|\{|%[sr(]"
)


def redact_secrets(text: str) -> str:
    """Replaces each secret by its kind, such as ``<API_KEY>`` (kinds and patterns: ours)."""
    text = _PRIVATE_KEY.sub("<PRIVATE_KEY>", text)  # alone has spaces: others would see its parts
    return _hide_named(_SHAPES.sub(_hide_shape, text))


def is_secret_name(name: str) -> bool:
    """Whether what stands behind a name is secret: ``password``, ``X-Api-Key``, ``accessToken``.

    Names of places in a list (``next_page_token``) and counts (``total_tokens``) are not.
    """
    return _is_secret_ending(name[-80:])


@functools.lru_cache(maxsize=4096)  # the same few names come with every record
def _is_secret_ending(ending: str) -> bool:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", ending)
    return bool(_NAME_AT_THE_END.search(words)) and not _HARMLESS_NAME.search(words)


def redact_model(model: Model, redact: Redactor | None) -> Model:
    """A copy of `model` in which `redact` was applied to every string, dict keys included.

    A text in a dict, or in a list there, is also hidden where its key says that it is secret: no
    redactor of texts could know. Numbers and dicts stay, such as the schema of a parameter that
    is named ``password``. With None everything stays.

    Raises:
        Exception: whatever `redact` raised, or a validation error where it broke the shape.
    """
    if redact is None:
        with contextlib.suppress(ValueError):  # a lone surrogate, which the walk replaces
            return type(model).model_validate_json(model.model_dump_json())
    clean = _walk(model.model_dump(mode="json"), redact)
    return type(model).model_validate_json(json.dumps(clean))  # as it is read from the store


def redact_id(id: str, redact: Redactor | None) -> str:
    """An id without what must not be stored; different ids stay different."""
    clean = redact(id) if redact else id
    return clean if clean == id else f"{clean}-{hashlib.sha256(id.encode()).hexdigest()[:12]}"


def describe(error: BaseException) -> str:
    """What went wrong, for a log or a message: without texts of a record, which errors may quote.

    The messages of our own errors hold none. Of others, the type is told, and the field or place.
    """
    if isinstance(error, RwmlError):
        return str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = str(first["loc"][0]) if first["loc"] else "the whole"  # deeper keys are recorded
        return f"{error.title}: {where if where.isidentifier() else 'a field'}: {first['type']}"
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    name = type(error).__name__
    if place is None:
        return name
    file = place.tb_frame.f_code.co_filename.replace("\\", "/").rsplit("/", 1)[-1]
    return f"{name} ({file}:{place.tb_lineno})"


def _hide_shape(match: re.Match[str]) -> str:
    kind = match.lastgroup or "secret"
    secret, start = match[kind], match.start(kind) - match.start()
    hidden = f"<{match['scheme'] if kind == 'authorization' else kind}>".upper().replace("-", "_")
    if kind == "basic" and not _is_user_and_password(secret):
        hidden = _SHAPES.sub(_hide_shape, secret)  # 'basic' was a word; what follows may be a key
    return match[0][:start] + hidden + match[0][start + len(secret) :]


def _is_user_and_password(text: str) -> bool:
    """Whether it is what HTTP's Basic scheme sends; most words after 'basic' are not."""
    bare = text.rstrip("=")
    try:
        return b":" in base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except binascii.Error:
        return False


def _hide_named(text: str) -> str:
    lower = text.lower()
    if not any(hint in lower for hint in _NAME_HINTS):  # much faster than the pattern
        return text
    pieces: list[str] = []
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
        if not _NO_SECRET.fullmatch(secret):
            start = value.start(kind)
            pieces += [text[done:start], SECRET]
            done = start + len(secret)
    return "".join([*pieces, text[done:]])


def _is_bare_secret(secret: str, *, name: str, sign: str) -> bool:
    """Whether a value without quotes is a secret, and not ``password=self.password`` or prose."""
    if secret.lower().rsplit(".", 1)[-1] == name.lower():
        return False
    if sign != ":":
        return len(secret) > 3
    mixed = re.search(r"\d", secret) and re.search(r"[A-Za-z]", secret)
    return not re.match(r"\w{1,20}://", secret) and len(secret) >= (6 if mixed else 16)


def _walk(value: JsonValue, redact: Redactor | None, *, is_secret: bool = False) -> JsonValue:
    if isinstance(value, str):
        text = _well_formed(value)
        if redact is None:
            return text
        text = redact(text)
        return SECRET if is_secret and not _NO_SECRET.fullmatch(text) else text
    if isinstance(value, list):
        return [_walk(item, redact, is_secret=is_secret) for item in value]
    if isinstance(value, dict):
        clean: dict[str, JsonValue] = {}
        for key, item in value.items():
            name = _well_formed(key)
            name = redact(name) if redact else name
            while name in clean:  # two keys that look alike now: both values are kept
                name += "_"
            clean[name] = _walk(item, redact, is_secret=is_secret_name(key))
        return clean
    return value


def _well_formed(text: str) -> str:
    """The text with halves of surrogate pairs replaced, which no database stores."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
