r"""Tells in microseconds that a text holds nothing to hide, so that most texts stay untouched.

Each hint is a pattern of Rust's regex engine, which pydantic-core brings: it reads a text once, in
time in proportion to its length. It must find more than the slow patterns do, never less, and that
both in a text and in JSON that spells it: there a tab is ``\t``, a quote ``\"``, and any character
may be ``\u0040``. A property test holds it. Source: ours.
"""

from __future__ import annotations

import functools

from pydantic_core import SchemaValidator, core_schema

from rwml.redaction.names import NAME
from rwml.redaction.personal import IBAN_COUNTRIES, LABEL

_START = r"(?:^|[^0-9A-Za-z_]|\\[bfnrtv]|\\u[0-9a-fA-F]{4}|%[0-9a-fA-F]{2})"
_LOOSE_START = _START.replace("A-Za-z_", "A-Za-z")
_CARD_START = _LOOSE_START.replace("[^0-9A-Za-z]", r"[^0-9A-Za-z.]|(?:^|[^0-9])\.")  # no decimals
_SPACE = r"(?:[\t\n\r ]|\\t)"
_QUOTE = r"(?:\\*[\"'])?"

_SPELLED = r"\\u(?:00[2-9A-Fa-f]|0[1-9A-Fa-f]|[1-9A-Fa-f])|\\/"
"""What JSON may spell otherwise; control characters are no part of a match."""
_FOLDED = (
    r"[\p{Nd}--0-9]|[\x{FF20}-\x{FF3A}\x{FF41}-\x{FF5A}]|\x{FF0B}|\x{FF0E}[0-9A-Za-z]"
    r"|[0-9A-Za-z@._\-][\x{AD}\x{200B}-\x{200F}\x{2060}\x{FEFF}]"
    r"|[0-9)][\x{A0}\x{2000}-\x{200A}\x{202F}\x{2010}-\x{2015}\x{2212}][0-9(]"
)
r"""Digits and letters of other alphabets that look like ours, and what cannot be seen."""

_TOKENS = "|".join(
    (
        r"(?:sk|pk|rk)-[A-Za-z0-9_\-]{16}",
        r"(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{8}",
        r"(?:whsec|gh[pousr]|github_pat|hf|npm|dckr_pat|gsk|r8|pcsk|ntn|lin_api)_[A-Za-z0-9+/_\-]{20}",
        r"gl[a-z]{2,5}-[A-Za-z0-9_\-]{12}",
        r"xox[a-z][\-.]|xapp-[0-9]|pypi-[A-Za-z0-9_\-]{16}|rubygems_[0-9a-f]{32}",
        r"AIza[0-9A-Za-z_\-]{35}|ya29\.|GOCSPX-|1//0|xai-[A-Za-z0-9]{20}|pplx-[A-Za-z0-9]{20}",
        r"nvapi-|tvly-|lsv2_|dapi[0-9a-f]{32}|SG\.[A-Za-z0-9_\-]{16}|SK[0-9a-f]{32}",
        r"shp[a-z]{2}_[A-Fa-f0-9]{32}|sq0[a-z]{3}-|do[opr]_v1_|hv[sb]\.[A-Za-z0-9_\-]{20}",
        r"ATATT3[A-Za-z0-9_\-=]{20}|AGE-SECRET-KEY|[0-9]{8,10}:AA[A-Za-z0-9_\-]{33}",
        r"A(?:KI|SI|BI|CC)A[0-9A-Z]{16}|ABSK[A-Za-z0-9+/]{60}|eyJ[A-Za-z0-9_\-]{8}",
        r"LS0tLS1CRUdJTi[A-Za-z0-9+/]{20}",
        rf"(?i:bearer){_SPACE}+[A-Za-z0-9._~+/\-]{{12}}",
        rf"(?i:basic){_SPACE}+[a-z]*[A-Z0-9+/=]",
        rf"(?i:cookie)[\"'\\]*{_SPACE}*:{_SPACE}*[\"'\\]*(?:[0-9A-Za-z_.\-]|[^\x00-\x7F])+=",
    )
)
GROUPS = {
    "shapes": "|".join(
        (
            r"-----BEGIN[ A-Z]*PRIVATE KEY",
            r"://[^\s/:@\"']*:[^\s/\"']*@|@(?:tcp|unix|udp)\(",
            rf"{_START}(?:{_TOKENS})|8Q~[A-Za-z0-9_~.\-]{{31}}",
            r"(?i:sig|x-(?:amz|goog)-signature)=[A-Za-z0-9%+/_\-]{20}",
            r"(?i:authorization)[\"'\\]*(?:[\t ]|\\t)*[:=]",
            r"hooks\.slack\.com|/api/webhooks|webhook\.office\.com|outlook\.office\.com",
        )
    ),
    "names": rf"(?i:{NAME}){_QUOTE}\]?{_SPACE}*(?:=>|:=|[:=]){_SPACE}*[^\s{{]",
    "email": (
        r"(?:[0-9A-Za-z_.+\-%&~!\#$*^]|[^\x00-\x7F])(?:@|%40)(?:[0-9A-Za-z\-_]|[^\x00-\x7F])+"
        r"\.(?:[0-9A-Za-z]|[^\x00-\x7F])"
    ),
    "iban": rf"{_LOOSE_START}(?i:{IBAN_COUNTRIES})[0-9]{{2}}(?:[ \-]?[0-9A-Za-z]){{11}}",
    "card": (
        rf"{_CARD_START}[2-9][0-9]{{12,18}}(?:[^0-9A-Za-z]|$)"
        r"|[0-9]{4}[ \-][0-9]{4,6}[ \-][0-9]{4}"
    ),
    "phone": "|".join(
        (
            r"(?:\+|%2[bB])[1-9](?:[ .\-/()]{0,2}[0-9]){7}",
            r"[2-9][0-9]{2}(?:\)[ ]?|[ .\-])[0-9]{3}[ .\-][0-9]{4}",
            r"00[1-9][0-9]{0,2}[ .\-/()]{1,2}[0-9]{2}",
            r"0[1-9](?:[ .\-][0-9]{2}){4}|0[1-9][0-9]{0,3}\)?[ \-/][0-9]{3,8}[0-9 \-]",
            rf"(?i:{LABEL}){_QUOTE}{_SPACE}*[:=]{_SPACE}*{_QUOTE}\+?[0-9(]",
        )
    ),
    "folded": _FOLDED,
}
"""What each group of patterns needs in a text to find anything."""
SECRETS = ("shapes", "names")
NUMBERS = ("iban", "card", "phone")


class Hint:
    """Whether a text may hold what some patterns find.

    Args:
        groups: names of `GROUPS`.
    """

    def __init__(self, *groups: str) -> None:
        pattern = "|".join([_SPELLED, *(GROUPS[group] for group in groups)])
        schema = core_schema.str_schema(pattern=pattern, regex_engine="rust-regex", strict=True)
        self.matches = SchemaValidator(schema).isinstance_python
        """True when the text may hold something. It must be well-formed: no lone surrogate."""


@functools.cache
def hint(*groups: str) -> Hint:
    """The hint for these groups, made once."""
    return Hint(*groups)
