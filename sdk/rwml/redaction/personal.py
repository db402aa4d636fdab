"""Personal data by its form: e-mail addresses, phone numbers, payment cards, IBANs.

Cards and IBANs carry check digits, so few other numbers pass. Phones do not: what looks like an
order number, a date, a float, an address of a network or a UUID must stay, so only numbers with a
country code, with a national form and its separators, or behind a word such as ``phone:`` count.
Sources: RFC 5321 (lengths), ISO/IEC 7812 (Luhn), ISO 13616 and its registry (IBAN), E.164.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from rwml.redaction.secrets import START


class Found(NamedTuple):
    """A value in a text.

    Attributes:
        start: first character.
        end: the one after the last.
        kind: what it is, such as ``EMAIL``.
        value: its normal form: two spellings of one value are one.
    """

    start: int
    end: int
    kind: str
    value: str


Finder = Callable[[str], Iterable[Found]]

_LOCAL = r"\w.+\-%&~!#$*^"
_NOT_LOCAL = re.compile(rf"[^{_LOCAL}]")
_LOCAL_CHARS = 256
"""Characters before the sign that may belong to an address; RFC 5321 allows 64."""
_AT = re.compile(r"@|%40")
_DOMAIN = re.compile(r"(?:[^\W_][\w\-]{0,62}+\.){1,9}(?:[xX][nN]--[\w\-]{2,59}|[^\W\d_]{2,63})")
_SCALED_IMAGE = re.compile(r"\dx\.(?:png|jpe?g|gif|webp|svg|avif)\Z", re.IGNORECASE)
_ESCAPES_BEFORE = re.compile(r"\\{0,8}(?:u[0-9a-fA-F]{4}|[bfnrtv])")
_ENCODED_BEFORE = re.compile(r"%(?:0[AD]|2[027CF]|3[A-F]|5[BD]|7[BD])", re.IGNORECASE)

_LOOSE_START = START.replace("A-Za-z0-9_", "A-Za-z0-9")  # card_4111111111111111 holds a card
_IBANS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 "
    "DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 "
    "IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 "
    "MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 "
    "SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30 "
)
_IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _IBANS.split()}
IBAN_COUNTRIES = "|".join(_IBAN_LENGTHS)
"""Country codes that have IBANs."""
_IBAN = re.compile(  # the first look is quick
    rf"(?=[A-Z]{{2}}[0-9]{{2}}){_LOOSE_START}(?:{IBAN_COUNTRIES})[0-9]{{2}}", re.IGNORECASE
)

_CARD = re.compile(
    rf"""(?=[0-9]){_LOOSE_START}(?<![0-9]\.)(?:
          (?P<run>[2-9][0-9]{{12,18}})
        | (?P<groups>[0-9]{{4}}(?:[ \-][0-9]{{4,6}}){{2}}(?:[ \-][0-9]{{1,7}}){{0,2}})
        )(?![0-9A-Za-z]|\.[0-9])""",
    re.VERBOSE,
)
_CARD_DIGITS = (16, 15, 14, 19, 18, 17, 13)
"""Lengths of a card in groups, the usual ones first: what follows may be a year or a CVC."""

LABEL = (
    r"(?:tele?phone|phone|mobile|cell[_\- ]?phone|fax|whatsapp|tel)"
    r"(?:[_\- ]?(?:number|num|no|nr))?\.?"
)
_PHONE_NAME = re.compile(rf"(?:\A|[^A-Za-z]){LABEL}\Z", re.IGNORECASE)
_PHONE_VALUE = re.compile(r"\+?[0-9(][0-9 .\-/()]{5,28}")
_PHONES = {
    "international": re.compile(
        r"""(?:\+|\\u002[bB]|%2[bB])(?<![0-9+]\+)(?P<number>
              1[ .\-]?\(?[2-9][0-9]{2}\)?[ .\-]?[0-9]{3}[ .\-]?[0-9]{4}
            | [2-9](?:[ .\-/()]{0,2}[0-9]){7,14}
            )(?![0-9A-Za-z_])""",
        re.VERBOSE,
    ),
    "national": re.compile(
        rf"""(?=[0-9(]){START}(?<![.\-/#+])(?P<number>
              00[1-9][0-9]{{0,2}}(?:[ .\-/()]{{1,2}}[0-9]{{2,8}}){{2,5}}
            | (?:1[ .\-])?(?:\([2-9][0-9]{{2}}\)[ ]?|[2-9][0-9]{{2}}[ .\-])
                [0-9]{{3}}[ .\-][0-9]{{4}}
            | 0[1-9](?P<gap>[ .\-])[0-9]{{2}}(?:(?P=gap)[0-9]{{2}}){{3}}
            | \(?0[1-9][0-9]{{0,3}}\)?[ \-/][0-9]{{3,8}}(?:[ \-][0-9]{{2,5}}){{0,2}}
            )(?![0-9A-Za-z_]|[.\-/][0-9])""",
        re.VERBOSE,
    ),
    "labelled": re.compile(
        rf"""(?=[cfmptw])(?:(?<![A-Za-z])|(?<=\\[bfnrtv])){LABEL}
            (?:\\{{0,7}}["'])?[ \t]{{0,4}}[:=][ \t]{{0,4}}(?:\\{{0,7}}["'])?
            (?P<number>\+?(?:[0-9]{{7,15}}(?![0-9A-Za-z_])
              |[0-9(](?:[ .\-/()]{{0,2}}[0-9]){{6,14}}(?![0-9A-Za-z_])))""",
        re.VERBOSE | re.IGNORECASE,
    ),
}
_LEAST_DIGITS = {"international": 8, "national": 9, "labelled": 7}
"""Fewer digits are no phone number, or one that nobody could tell from others (ours)."""
_FLOAT = re.compile(r"[0-9]+\.[0-9]+")


def find_emails(text: str) -> Iterator[Found]:
    """E-mail addresses, also with ``%40`` for the sign; same in any case of letters."""
    done = 0
    for at in _AT.finditer(text):
        if at.start() < done:
            continue
        window = text[max(done, at.start() - _LOCAL_CHARS) : at.start()]
        other = _NOT_LOCAL.search(window[::-1])
        local = window[len(window) - other.start() :] if other else window
        local = _without_escapes(local, before=window[: len(window) - len(local)][-1:])
        domain = _DOMAIN.match(text, at.end())
        if not local.strip(".-%&~!#$*^") or domain is None:
            continue
        name = domain[0]
        if _SCALED_IMAGE.match(name):
            continue
        if local == "git" and text[domain.end() : domain.end() + 1] == ":":
            continue  # how repositories are addressed
        done = domain.end()
        yield Found(at.start() - len(local), done, "EMAIL", f"{local}@{name}".lower())


def find_ibans(text: str) -> Iterator[Found]:
    """International bank account numbers: country, its length, and check digits."""
    done = 0
    for match in _IBAN.finditer(text):
        if match.start() < done:
            continue
        country = match[0][:2].upper()
        whole = _iban_rest(country).match(text, match.end())
        if whole is None:
            continue
        value = re.sub(r"[ \-]", "", match[0] + whole[0]).upper()
        if _mod_97(value) == 1:
            done = whole.end()
            yield Found(match.start(), done, "IBAN", value)


def find_cards(text: str) -> Iterator[Found]:
    """Payment cards: 13 to 19 digits, in one run or in groups, that pass Luhn's check.

    A run that begins with 0 or 1 is none: so begin times in milliseconds, and ids made of them.
    """
    place = 0
    while match := _CARD.search(text, place):
        run = match["run"]
        if run is not None:
            place = match.end()
            if luhn(run):
                yield Found(match.start(), match.end(), "CARD", run)
            continue
        digits = re.sub(r"[^0-9]", "", match["groups"])
        lengths = _prefix_lengths(match["groups"])
        fitting = next((n for n in _CARD_DIGITS if n in lengths and luhn(digits[:n])), None)
        if fitting is None:
            place = match.start() + 5  # the next group may begin one
            continue
        place = match.start() + lengths[fitting]
        yield Found(match.start(), place, "CARD", digits[:fitting])


def find_phones(text: str) -> Iterator[Found]:
    """Phone numbers: with a country code, in a national form, or behind their name."""
    found: list[Found] = []
    for form, pattern in _PHONES.items():
        for match in pattern.finditer(text):
            value = re.sub(r"[^0-9]", "", match["number"])
            if _LEAST_DIGITS[form] <= len(value) <= 15 and not _FLOAT.fullmatch(match["number"]):
                start = match.start() if form == "international" else match.start("number")
                found.append(Found(start, match.end("number"), "PHONE", value))
    done = 0
    for phone in sorted(found):
        if phone.start >= done:
            done = phone.end
            yield phone


@functools.lru_cache(maxsize=4096)  # the same few names come with every record
def is_phone_name(name: str) -> bool:
    """Whether what stands behind a name is a phone number: ``phone``, ``contact_phone_number``."""
    return _PHONE_NAME.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name[-80:])) is not None


def named_phone(text: str) -> Found | None:
    """The phone number that a text as a whole is, where its name said so."""
    value = re.sub(r"[^0-9]", "", text)
    if _PHONE_VALUE.fullmatch(text) and 7 <= len(value) <= 15:
        return Found(0, len(text), "PHONE", value)
    return None


def luhn(digits: str) -> bool:
    """Whether the last digit is right (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (1 + place % 2)
        total += number - 9 if number > 9 else number
    return total % 10 == 0 and digits.strip("0") != ""


def _without_escapes(local: str, *, before: str) -> str:
    r"""What is left of ``nann`` behind a backslash: JSON in a text spells a line feed ``\n``."""
    if before == "\\":
        escape = _ESCAPES_BEFORE.match(local)
        local = local[escape.end() :] if escape else local
    encoded = list(_ENCODED_BEFORE.finditer(local)) if "%" in local else []
    return local[encoded[-1].end() :] if encoded else local


@functools.lru_cache(maxsize=256)
def _iban_rest(country: str) -> re.Pattern[str]:
    return re.compile(rf"(?:[ \-]?[A-Za-z0-9]){{{_IBAN_LENGTHS[country] - 4}}}(?![A-Za-z0-9])")


def _mod_97(iban: str) -> int:
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97


def _prefix_lengths(groups: str) -> dict[int, int]:
    """Digits in the first groups, and where these groups end; at least three groups."""
    ends = [*[match.start() for match in re.finditer(r"[ \-]", groups)][2:], len(groups)]
    return {sum(char.isdigit() for char in groups[:end]): end for end in ends}
