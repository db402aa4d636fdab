"""Personal data: what is found, what stays, and that a value keeps its pseudonym."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwml.redaction import Redaction
from rwml.redaction.personal import luhn

KEY = b"k" * 32


def clean(text: str, **policy: object) -> str:
    return Redaction(**policy).session(key=KEY).text(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail ann@example.com.", "mail <EMAIL_1>."),
        ("Ann.B+x@Mail.Example.co.uk, ok", "<EMAIL_1>, ok"),
        ("mailto:ann@example.com?subject=x", "mailto:<EMAIL_1>?subject=x"),
        ("to=ann@example.com&n=1", "to=<EMAIL_1>&n=1"),
        ("https://x.org/?u=ann%40example.com", "https://x.org/?u=<EMAIL_1>"),
        ("'jörg@müller.example'", "'<EMAIL_1>'"),
        (r'{"a": "\nann@example.com\n"}', r'{"a": "\n<EMAIL_1>\n"}'),
        (r"\u003cann@example.com\u003e", r"\u003c<EMAIL_1>\u003e"),
        ("ann@example.com-2024 ann@example.com.5", "<EMAIL_1>-2024 <EMAIL_1>.5"),
        ("+1 (415) 555-2671 or +14155552671", "<PHONE_1> or <PHONE_1>"),
        ("+49 30 12345678, +44 20 7946 0958", "<PHONE_1>, <PHONE_2>"),
        ("0049 30 1234567", "<PHONE_1>"),
        ("(415) 555-2671; 415-555-2671; 415.555.2671", "<PHONE_1>; <PHONE_1>; <PHONE_1>"),
        ("1-415-555-2671", "<PHONE_1>"),
        ("030 12345678, 06 12 34 56 78, 020 7946 0958", "<PHONE_1>, <PHONE_2>, <PHONE_3>"),
        ("phone: 5551234567, fax=555-0199", "phone: <PHONE_1>, fax=<PHONE_2>"),
        (r"{\"phone_number\": \"5551234567\"}", r"{\"phone_number\": \"<PHONE_1>\"}"),
        (r"line\n415-555-2671", r"line\n<PHONE_1>"),
        (r"call \u002B14155552671", "call <PHONE_1>"),
        ("4111 1111 1111 1111 = 4111-1111-1111-1111", "<CARD_1> = <CARD_1>"),
        ("card 378282246310005 exp 12/27", "card <CARD_1> exp 12/27"),
        ("3782 822463 10005, 30569309025904", "<CARD_1>, <CARD_2>"),
        ("4111 1111 1111 1111 2027 123", "<CARD_1> 2027 123"),
        ("12,4111111111111111,123", "12,<CARD_1>,123"),
        ("card_4111111111111111", "card_<CARD_1>"),
        ("IBAN DE89 3704 0044 0532 0130 00 is", "IBAN <IBAN_1> is"),
        ("de89370400440532013000 GB29NWBK60161331926819", "<IBAN_1> <IBAN_2>"),
        ("ann\u200b@example.com", "<EMAIL_1>"),
        ("\u200d \uff14" + "\uff11" * 15 + " ok", "\u200d <CARD_1> ok"),
        (
            "\u0660 +\u0661\u0664\u0661\u0665\u0665\u0665\u0665\u0662\u0666\u0667\u0661",
            "\u0660 <PHONE_1>",
        ),
        ("415\u2011555\u20112671 \u2013 10\u201312", "<PHONE_1> \u2013 10\u201312"),
        ("a\x00ann@example.com\x00", "a\x00<EMAIL_1>\x00"),
    ],
)
def test_what_is_found(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "order W1234567, #W2378156, item 9523456873, product_id: 9612064064",
        '{"item_id": "9612064064", "order_id": "#W2378156", "zip": "19122", "price": 1234.56}',
        "gift_card_5634230 credit_card_4421486 paypal_3024827",
        "2024-05-15T15:00:00.123456+00:00, 2024-05-15 15:00:00, 05/15/2024, 15.05.2024 10:30",
        "2024-05-15 10:00:00+02:00 to 01-02-2024 03:04",
        "0191d0c5-7e9e-7aaa-8bbb-123456789012 0af7651916cd43dd8448eb211c80319c",
        "192.168.100.200 10.0.0.1:8080 2001:db8::1 255.255.255.255",
        "v1.2.3-rc.4, 1.2.3.4, python==3.11.10, react@18.2.0, @scope/package, x@2x.png",
        "0.7843137254901961 -12.345678901234567 +3.14159265 1e-10 1,234,567.89 $1,319.43",
        "1700000000000 1700000000000000000 0123456789012345",
        "user@localhost, @property, git@github.com:owner/repo.git, a@b",
        "tokens 1234 of 8192; 100 200 3000; [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]",
        "1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6",
        "hotel: 12345678, microphone: 1234567",
        "4111 1111 1111 1112, DE88370400440532013000, XX89370400440532013000",
        "flight HAT123, reservation 4WQ150, seat 12A, gate B22",
        "SKU 12345-678-90, ISBN 978-3-16-148410-0, 123-45-6789",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ],
)
def test_what_is_no_personal_data_stays(text: str) -> None:
    assert clean(text) == text


def test_a_value_has_one_pseudonym_in_a_trajectory() -> None:
    session = Redaction().session(key=KEY)
    first = session.text("ann@example.com and bob@example.com, +1 415 555 2671")
    assert first == "<EMAIL_1> and <EMAIL_2>, <PHONE_1>"
    assert session.text("BOB@example.com") == "<EMAIL_2>"
    assert Redaction().session(key=KEY).text("bob@example.com") == "<EMAIL_1>"


def test_another_process_goes_on_with_the_names() -> None:
    one = Redaction().session(key=KEY)
    one.text("ann@example.com")
    stored = one.used_names()
    assert list(stored.values()) == ["<EMAIL_1>"]
    assert all(len(digest) == 16 for digest in stored)
    assert one.used_names() == {}
    for known in (stored, lambda: stored):
        other = Redaction().session(key=KEY, known=known)
        assert other.text("bob@example.com, ann@example.com") == "<EMAIL_2>, <EMAIL_1>"
        assert other.used_names() == {**stored, **_names(KEY, "bob@example.com", "<EMAIL_2>")}
        other.text("no name")
        assert other.used_names() == {}
        other.text("again: ann@example.com")  # its row may have been forgotten meanwhile
        assert other.used_names() == stored
    assert stored.keys().isdisjoint(_names(b"another key", "ann@example.com", "<EMAIL_1>"))


def _names(key: bytes, value: str, name: str) -> dict[bytes, str]:
    session = Redaction().session(key=key)
    session.text(value)
    return dict.fromkeys(session.used_names(), name)


def test_names_that_a_text_brought_are_not_given_again() -> None:
    body = '{"index":0,"action":{"role":"user","content":"<EMAIL_3> or ann@example.com"}}'
    assert "<EMAIL_3> or <EMAIL_4>" in Redaction().session(key=KEY).json(body)


def test_custom_patterns_are_numbered_and_come_first() -> None:
    custom = {"ORDER": r"\b\d{3}-\d{3}-\d{4}\b", "ANY": r"x*"}
    session = Redaction(custom=custom).session(key=KEY)
    assert session.text("415-555-2671, 415-555-2672, 415-555-2671") == (
        "<ORDER_1>, <ORDER_2>, <ORDER_1>"
    )
    assert session.text(session.text("axxb 415-555-2671")) == "a<ANY_1>b <ORDER_1>"
    digits = Redaction(custom={"NUMBER": r"\d+"}).session(key=KEY)
    assert digits.text(digits.text("1 ann@example.com")) == "<NUMBER_1> <EMAIL_1>"


def test_switches() -> None:
    text = "ann@example.com sk-proj-Zq8vR2xLw9TnB4mKd7Yc"
    assert clean(text, personal_data=False) == "ann@example.com <API_KEY>"
    assert clean(text, secrets=False) == "<EMAIL_1> sk-proj-Zq8vR2xLw9TnB4mKd7Yc"
    assert clean(text, secrets=False, personal_data=False) == text


@pytest.mark.parametrize("source", ["tau2:retail", "tau2", "alfworld", "alfworld:valid_seen"])
def test_benchmarks_keep_their_people_unless_asked(source: str) -> None:
    text = "ann@example.com sk-proj-Zq8vR2xLw9TnB4mKd7Yc"
    by_default = Redaction().for_source(source).session(key=KEY)
    assert by_default.text(text) == "ann@example.com <API_KEY>"
    asked = Redaction(personal_data=True).for_source(source).session(key=KEY)
    assert asked.text(text) == "<EMAIL_1> <API_KEY>"
    assert Redaction().for_source("langgraph").session(key=KEY).text(text) == "<EMAIL_1> <API_KEY>"
    assert Redaction().for_source("alfworld2").session(key=KEY).text(text) == "<EMAIL_1> <API_KEY>"


@pytest.mark.parametrize("domain", ["retail", "airline"])
def test_order_numbers_of_a_benchmark_are_no_phones(domain: str) -> None:
    tau2 = find_spec("tau2")
    if tau2 is None or not tau2.submodule_search_locations:
        pytest.skip("tau2 is not installed")
    folder = Path(tau2.submodule_search_locations[0]) / "data" / "tau2" / "domains" / domain
    files = [file for file in folder.rglob("*") if file.suffix in (".json", ".md")]
    kinds: set[str] = set()
    session = Redaction().session(key=KEY, report=lambda found: kinds.add(found.kind))
    for file in files:
        session.text(file.read_text(encoding="utf-8"))
    assert kinds == {"EMAIL"}


@given(st.integers(min_value=2, max_value=9), st.text("0123456789", min_size=11, max_size=17))
def test_any_card_is_found_in_any_form(first: int, rest: str) -> None:
    body = f"{first}{rest}"
    number = next(f"{body}{check}" for check in range(10) if luhn(f"{body}{check}"))
    assert clean(f"card {number} ok") == "card <CARD_1> ok"
    if len(number) == 16:
        for sign in " -":
            grouped = sign.join(number[i : i + 4] for i in range(0, 16, 4))
            assert clean(f"card {grouped}, ok") == "card <CARD_1>, ok"
