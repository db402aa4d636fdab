"""Copied databases against tau2's own: the same contents, hashes and scores, and no leaks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tau2.registry")

from pydantic import BaseModel
from tau2.data_model.message import ToolCall
from tau2.evaluator.evaluator import EvaluationType, evaluate_simulation
from tau2.orchestrator.orchestrator import Orchestrator
from tau2.registry import registry

from rwml_adapters.tau2.agent import GraphAgent
from rwml_adapters.tau2.databases import Original, Table, copy_value
from rwml_adapters.tau2.domains import evaluate, get_domain
from rwml_adapters.tau2.graphs import policy_graph
from rwml_adapters.tau2.package import DOMAINS, ensure_tau2, load_tasks
from rwml_adapters.tau2.scripted import scripted_policy
from rwml_adapters.tau2.user import ScriptedUser

ensure_tau2()


class Item(BaseModel):
    name: str
    tags: list[str] = []


class Shop(BaseModel):
    items: dict[str, Item]
    others: dict[str, Item]
    opened: bool = True


def stock_hash(database: BaseModel) -> str:
    from tau2.utils.utils import get_dict_hash

    return get_dict_hash(database.model_dump())


def gold_calls(domain: str, *, first: int) -> list[list[ToolCall]]:
    found = []
    for task in load_tasks(domain, "base")[:first]:
        criteria = task.evaluation_criteria
        actions = (criteria.actions or ()) if criteria else ()
        found.append(
            [
                ToolCall(id="c", name=a.name, arguments=a.arguments, requestor=a.requestor)
                for a in actions
            ]
        )
    return found


@pytest.mark.parametrize("domain", DOMAINS)
def test_an_environment_is_like_tau2s_own_whatever_is_done_in_it(domain: str) -> None:
    stock = registry.get_env_constructor(domain)
    ours = get_domain(domain).environment
    untouched = stock().get_db_hash(), stock().get_user_db_hash()
    assert (ours().get_db_hash(), ours().get_user_db_hash()) == untouched
    changed = 0
    for calls in gold_calls(domain, first=5):
        one, other = stock(), ours()
        for call in calls:
            expected, got = one.get_response(call), other.get_response(call)
            assert (got.content, got.error) == (expected.content, expected.error)
        hashes = other.get_db_hash(), other.get_user_db_hash()
        assert hashes == (one.get_db_hash(), one.get_user_db_hash())
        assert other.tools.db.model_dump() == one.tools.db.model_dump()  # type: ignore[union-attr]
        changed += hashes != untouched
    assert changed
    assert (ours().get_db_hash(), ours().get_user_db_hash()) == untouched


@pytest.mark.parametrize(("domain", "first"), [("retail", 4), ("airline", 2), ("telecom", 4)])
@pytest.mark.parametrize("error_rate", [0.0, 1.0])
def test_scores_are_those_of_tau2s_evaluator(domain: str, first: int, error_rate: float) -> None:
    ours = get_domain(domain)
    rewards = set()
    for place, task in enumerate(load_tasks(domain, "test")[:first]):
        policy = scripted_policy(task, ours, error_rate=error_rate, seed=3)
        if place % 2:
            policy.plan = policy.plan[:1]  # an agent that does nothing
        simulation = Orchestrator(
            domain=domain,
            agent=GraphAgent([], ours.policy, graph=policy_graph(policy)),
            user=ScriptedUser(
                instructions=task.user_scenario.instructions,
                actions=task.evaluation_criteria.actions or (),  # type: ignore[union-attr]
            ),
            environment=ours.environment(),
            task=task,
        ).run()
        arguments: dict[str, Any] = {
            "simulation": simulation,
            "task": task,
            "evaluation_type": EvaluationType.ALL,
            "solo_mode": False,
            "domain": domain,
        }
        score = evaluate(**arguments)
        assert score == evaluate_simulation(**arguments)
        rewards.add(score.reward)
    assert 1.0 in rewards
    assert rewards == {0.0, 1.0} or domain == "airline"  # where doing nothing is often right


def test_tau2s_registry_and_evaluator_stay_as_they_are() -> None:
    from tau2.evaluator import evaluator

    assert evaluator.evaluate_simulation.__globals__["registry"] is registry
    assert registry.get_env_constructor("retail")().get_db_hash.__self__ is not None  # type: ignore[attr-defined]


keys = st.sampled_from("abcd")
operations = st.lists(
    st.one_of(
        st.tuples(st.just("tag"), keys),
        st.tuples(st.just("set"), keys),
        st.tuples(st.just("del"), keys),
        st.tuples(st.just("get"), keys),
        st.tuples(st.just("pop"), keys),
        st.tuples(st.just("setdefault"), keys),
        st.tuples(st.just("update"), keys),
        st.tuples(st.just("tag all"), st.just("")),
        st.tuples(st.just("popitem"), st.just("")),
        st.tuples(st.just("clear"), st.just("")),
    ),
    max_size=12,
)


def shop() -> Shop:
    return Shop(
        items={key: Item(name=key, tags=["ö"]) for key in "bca"},
        others={"x": Item(name="x")},
    )


def do(records: dict[str, Item], operation: str, key: str) -> object:
    actions: dict[str, Callable[[], object]] = {
        "tag": lambda: records[key].tags.append("new") if key in records else None,
        "set": lambda: records.__setitem__(key, Item(name="set")),
        "del": lambda: records.__delitem__(key) if key in records else None,
        "get": lambda: records.get(key),
        "pop": lambda: records.pop(key, None),
        "setdefault": lambda: records.setdefault(key, Item(name="default")),
        "update": lambda: records.update({key: Item(name="updated")}),
        "tag all": lambda: [record.tags.append(name) for name, record in records.items()],
        "popitem": lambda: records.popitem() if records else None,
        "clear": lambda: records.clear(),
    }
    return actions[operation]()


@given(operations)
def test_a_table_does_what_a_dict_does_and_keeps_the_original(done: list[tuple[str, str]]) -> None:
    stock, shared = shop(), shop()
    original = Original(shared)
    ours: Any = original.copy()
    for operation, key in done:
        assert do(ours.items, operation, key) == do(stock.items, operation, key)
        assert list(ours.items) == list(stock.items)
        assert ours.items == stock.items
    assert original.hash(ours) == stock_hash(stock) == stock_hash(ours)
    assert shared == shop()
    assert original.hash(original.copy()) == stock_hash(shop())


def test_records_are_copies_however_they_are_reached() -> None:
    shared = shop()
    table: Any = Original(shared).copy()
    ways: list[Callable[[Table], Any]] = [
        lambda t: t["a"],
        lambda t: t.get("a"),
        lambda t: list(t.values())[2],
        lambda t: dict(t)["a"],
        lambda t: {**t}["a"],
        lambda t: t.copy()["a"],
        lambda t: (t | {})["a"],
        lambda t: copy.copy(t)["a"],
        lambda t: copy.deepcopy(t)["a"],
        lambda t: t.setdefault("a"),
        lambda t: t.pop("a"),
    ]
    for way in ways:
        way(Table(shared.items)).tags.append("leak")
    table.items["a"].tags.append("leak")
    assert shared == shop()


def test_a_replaced_database_is_hashed_as_tau2_does() -> None:
    environment = get_domain("telecom").environment()
    environment.tools.update_db({})  # type: ignore[union-attr]
    assert environment.get_db_hash() == registry.get_env_constructor("telecom")().get_db_hash()


def test_a_copied_model_is_equal_and_shares_nothing_that_can_change() -> None:
    database: Any = get_domain("retail").environment().tools.db  # type: ignore[union-attr]
    record = database.orders["#W2378156"]
    made = copy_value(record)
    assert made == record
    assert made.model_dump() == record.model_dump()
    made.items[0].options["color"] = "none"
    assert made != record
    assert json.loads(record.model_dump_json()) == record.model_dump(mode="json")
