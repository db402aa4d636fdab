"""The page of predictions: hostile texts are harmless in it, and the right rows are shown."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rwml.testing import BagOfWordsEncoder
from rwml_trainer.dataset import Row
from rwml_trainer.rewards import NextStateReward
from rwml_trainer.world_eval import Scored, compare, score, summarise
from rwml_trainer.world_page import LONGEST, SHOWN, write_page

KNOWN_TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "pre"}
KNOWN_TAGS |= {"table", "thead", "tbody", "tr", "th", "td"}
KNOWN_TAGS |= {"section", "article", "div", "span", "details", "summary"}


class Page(HTMLParser):
    """What a browser would see: tags, attributes, texts."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def row(number: int, state: str, tool: str | None = "get", prompt: str = "?") -> Row:
    return Row(
        prompt=[{"role": "user", "content": prompt}],
        next_state=state,
        kind="user" if tool is None else "tool",
        id=f"t{number}/0/0",
        source="shop",
        task_id=str(number),
        tool=tool,
    )


def make_page(path: Path, rows: list[Row], **completions: list[str]) -> Page:
    reward = NextStateReward(encoder=BagOfWordsEncoder(), tau_d=0.4)
    scored = [
        score(name, rows, [[text] for text in texts], reward) for name, texts in completions.items()
    ]
    trivial = scored[:1]
    report: dict[str, Any] = {each.name: summarise(each, trivial, seed=0) for each in scored}
    report |= {"rows": len(rows), "tasks": len(rows), "split": "held_out"}
    report |= {"best_trivial": trivial[0].name, "comparisons": []}
    if len(scored) > 2:
        report["comparisons"] = [compare(scored[-1], scored[-2], seed=0)]
        report["compared"] = report["comparisons"][0]["compared"]
    write_page(path, scored, report)
    return Page(path)


def tagged(text: str) -> str:
    return f"<next_state>{text}</next_state>"


HOSTILE = (
    "<script>alert(1)</script>",
    "</pre></article><img src=x onerror=alert(1)>",
    "'\"><svg onload=alert(1)>{{ 7 * 7 }}{% raw %}",
    "nul \0 bell \a escape \x1b[2J right-to-left \u202e",
    "surrogate \ud800 pair \udfff",
    "</style><style>body{background:url(http://127.0.0.1/x)}",
)


def test_hostile_texts_are_harmless(tmp_path: Path) -> None:
    rows = [row(n, text, tool=text, prompt=text) for n, text in enumerate(HOSTILE)]
    rows.append(row(99, "<b>" + "x" * 1_000_000, prompt="<i>" + "y" * 1_000_000))
    answers = [tagged(text) for text in HOSTILE] + [tagged("z" * 1_000_000)]
    raw = [*HOSTILE, "w" * 1_000_000]
    page = make_page(tmp_path / "page.html", rows, constant=raw, base=raw, trained=answers)
    assert set(page.tags) <= KNOWN_TAGS
    assert page.tags.count("style") == page.tags.count("title") == 1
    named = {name for name, _ in page.attributes}
    assert named <= {"lang", "charset", "http-equiv", "content", "name", "class"}
    assert "alert(1)" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "nul \\x00 bell \\x07 escape \\x1b[2J right-to-left \\u202e" in page.text
    assert "surrogate \\ud800 pair \\udfff" in page.text
    assert not re.search("[\0\x1b\u202e]", page.source)
    assert len(page.source) < 400_000
    assert f"{1_000_003 - LONGEST} characters more" in page.text
    assert f"{1_000_003 - LONGEST} characters before" in page.text


def test_nothing_may_run_or_load(tmp_path: Path) -> None:
    page = make_page(tmp_path / "page.html", [row(0, "a")], constant=[tagged("a")])
    style = page.source.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policies = [value for name, value in page.attributes if name == "content"]
    assert (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        in policies
    )
    assert "//" not in page.source.replace("<!DOCTYPE html>", "")


def sections(page: Page) -> dict[str, list[str]]:
    parts = re.split(r"<h2>(.*?)</h2>", page.source)[1:]
    return {
        title: re.findall(r'class="note">(t\d+)/', body)
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    }


def test_the_best_the_worst_and_the_most_changed_are_shown(tmp_path: Path) -> None:
    rows = [row(n, f"word{n} again", tool=None) for n in range(2 * SHOWN)]
    right = [tagged(r["next_state"]) for r in rows]
    after = [*right[:-1], "no tags"]
    before = [tagged("other text"), "no tags", *right[2:-1], "no tags"]
    page = make_page(tmp_path / "page.html", rows, constant=before, base=before, trained=after)
    shown = sections(page)
    assert [len(ids) for ids in shown.values()] == [SHOWN, SHOWN, 2]
    assert shown["Worst of trained"][0] == f"t{2 * SHOWN - 1}"
    assert f"t{2 * SHOWN - 1}" not in shown["Best of trained"]
    assert shown["Most changed from base to trained"] == ["t1", "t0"], "from no next state at all"
    assert "base: reward 0.00, no next state" in page.text
    assert "trained: reward 1.00, gap 0.000" in page.text


def test_without_a_run_nothing_has_changed(tmp_path: Path) -> None:
    page = make_page(tmp_path / "page.html", [row(0, "a")], constant=[""], base=[tagged("a")])
    assert list(sections(page)) == ["Best of base", "Worst of base"]


def test_a_page_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("former")
    broken = Scored("base", [row(0, "a")], [[]])
    with pytest.raises((KeyError, ZeroDivisionError, IndexError)):
        write_page(path, [broken], {})
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]
