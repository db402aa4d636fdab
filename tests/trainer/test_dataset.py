"""Building datasets: nothing is lost unseen, tasks never leak, and a torn folder is refused."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwml import Transition, open_store
from rwml.errors import DatasetError, ModelError, UsageError
from rwml.testing import make_trajectory
from rwml_trainer.dataset import build_dataset, plan_split, read_dataset
from rwml_trainer.dataset.rows import group_key
from rwml_trainer.dataset.splitting import hash_share
from rwml_trainer.models import load_tokenizer
from rwml_trainer.recipes import Recipe
from rwml_trainer.testing import make_tiny_model


def test_rows_and_counts(shop_dataset: Path) -> None:
    data = read_dataset(shop_dataset)
    manifest = data.manifest
    rows = data.train + data.validation
    assert manifest.transitions == 12 * 4 == len(rows) + sum(manifest.dropped.values())
    assert manifest.rows == {
        "train": len(data.train),
        "validation": len(data.validation),
        "held_out": 0,
    }
    assert {row["kind"] for row in rows} == {"tool", "user"}
    assert len({row["id"] for row in rows}) == len(rows)
    found = next(row for row in rows if row["id"] == "shop-3/0/0")
    assert found["tool"] == "get_order"
    assert json.loads(found["next_state"])["properties"]["total"] == {"type": "number"}
    assert [message["role"] for message in found["prompt"]] == ["system", "user"]


def test_no_task_is_on_both_sides(shop_dataset: Path) -> None:
    data = read_dataset(shop_dataset)
    train, validation = ({row["task_id"] for row in rows} for rows in (data.train, data.validation))
    assert train
    assert validation
    assert not train & validation


def test_building_twice_gives_the_same_bytes(
    shop_store: str, shop_dataset: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    with open_store(shop_store) as store:
        build_dataset(
            store, tmp_path, recipe=tiny_recipe, tokenizer=load_tokenizer(tiny_recipe.model)
        )
    for name in ("train.parquet", "validation.parquet", "manifest.json"):
        assert (tmp_path / name).read_bytes() == (shop_dataset / name).read_bytes()


def test_limits_are_kept_and_counted(shop_store: str, tiny_recipe: Recipe, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_recipe.model)
    limits = {"max_prompt_tokens": 560, "max_target_tokens": 40}
    recipe = tiny_recipe.model_copy(update={"data": tiny_recipe.data.model_copy(update=limits)})
    with open_store(shop_store) as store:
        manifest = build_dataset(store, tmp_path, recipe=recipe, tokenizer=tokenizer)
    data = read_dataset(tmp_path)
    assert manifest.dropped["too_long"] == 24  # two tool results of each task
    for row in data.train + data.validation:
        assert len(tokenizer.encode(row["next_state"])) <= 40
        text = tokenizer.apply_chat_template(
            row["prompt"], tokenize=False, add_generation_prompt=True
        )
        assert len(tokenizer.encode(str(text), add_special_tokens=False)) <= 560


def test_a_limit_that_leaves_nothing_is_an_error_and_no_dataset(
    shop_store: str, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    data = tiny_recipe.data.model_copy(update={"max_target_tokens": 1})
    recipe = tiny_recipe.model_copy(update={"data": data})
    with open_store(shop_store) as store, pytest.raises(DatasetError, match="no train row is left"):
        build_dataset(store, tmp_path, recipe=recipe, tokenizer=load_tokenizer(recipe.model))
    with pytest.raises(DatasetError, match="no whole dataset"):
        read_dataset(tmp_path)


def test_an_empty_store_or_another_source_is_an_error(
    shop_store: str, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_recipe.model)
    with open_store(f"sqlite:///{tmp_path / 'empty.db'}") as store:
        with pytest.raises(DatasetError, match="holds no transition"):
            build_dataset(store, tmp_path / "a", recipe=tiny_recipe, tokenizer=tokenizer)
        store.add(make_trajectory(1))
        with pytest.raises(DatasetError, match="leave none to train on"):
            build_dataset(store, tmp_path / "a", recipe=tiny_recipe, tokenizer=tokenizer)
    with open_store(shop_store) as store, pytest.raises(DatasetError, match="of source 'tau2'"):
        build_dataset(store, tmp_path / "a", recipe=tiny_recipe, tokenizer=tokenizer, source="tau2")


def test_a_changed_file_is_refused(shop_store: str, tiny_recipe: Recipe, tmp_path: Path) -> None:
    with open_store(shop_store) as store:
        build_dataset(
            store, tmp_path, recipe=tiny_recipe, tokenizer=load_tokenizer(tiny_recipe.model)
        )
    path = tmp_path / "train.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"train\.parquet is missing or changed"):
        read_dataset(tmp_path)
    (tmp_path / "manifest.json").write_text('{"version": 2}')
    with pytest.raises(DatasetError, match="is not a dataset manifest"):
        read_dataset(tmp_path)


def test_a_model_without_chat_template_is_refused(tmp_path: Path) -> None:
    make_tiny_model(tmp_path, chat_template=False)
    with pytest.raises(ModelError, match="no chat template"):
        load_tokenizer(str(tmp_path))


def test_a_task_that_arrives_late_waits_for_the_next_build(
    tiny_recipe: Recipe, tmp_path: Path
) -> None:
    with open_store(f"sqlite:///{tmp_path / 'rwml.db'}") as store:
        for task in range(12):
            store.add(make_trajectory(task))

        def record_more(rows: Iterable[Transition]) -> Iterator[Transition]:
            store.add(make_trajectory(99))
            yield from rows

        tokenizer = load_tokenizer(tiny_recipe.model)
        manifest = build_dataset(
            store, tmp_path / "a", recipe=tiny_recipe, tokenizer=tokenizer, watch=record_more
        )
    assert manifest.dropped["arrived_late"] == 4
    data = read_dataset(tmp_path / "a")
    assert "99" not in {row["task_id"] for row in data.train + data.validation}


def test_what_a_gateway_recorded_of_a_clients_calls_is_left_out(
    shop_store: str, shop_dataset: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    with open_store(shop_store) as store, open_store(url) as both:
        for trajectory in store.trajectories():
            both.add(trajectory)
            seen = {"id": f"gateway-{trajectory.id}", "source": "litellm", "task_id": None}
            both.add(trajectory.model_copy(update=seen))
        both.add(make_trajectory(77, source="litellm"))
        tokenizer = load_tokenizer(tiny_recipe.model)
        manifest = build_dataset(both, tmp_path / "a", recipe=tiny_recipe, tokenizer=tokenizer)
    alone = read_dataset(shop_dataset)
    data = read_dataset(tmp_path / "a")
    assert manifest.dropped["recorded_twice"] == 12 * 4
    client = [row["id"] for row in data.train + data.validation if row["source"] == "shop"]
    assert sorted(client) == sorted(row["id"] for row in alone.train + alone.validation)
    assert {r["id"] for r in data.train + data.validation} - set(client) == {
        f"litellm-77/{index}/0" for index in range(4)
    }


def test_trajectories_of_one_thread_stay_together() -> None:
    def key(**changes: Any) -> str:
        trajectory = make_trajectory(1).model_copy(update={"task_id": None, **changes})
        return group_key(next(trajectory.transitions()))

    first, second = (
        key(id="a", metadata={"thread_id": "7"}),
        key(id="b", metadata={"thread_id": "7"}),
    )
    assert first == second
    assert key(id="a") != key(id="b")


@given(st.sets(st.integers(), max_size=60), st.floats(0.01, 0.99))
def test_a_task_in_the_band_is_never_trained_on(numbers: set[int], share: float) -> None:
    names = {f"task {number}" for number in numbers}
    in_band = {name for name in names if hash_share(name) < share}
    try:
        plan = plan_split(names, validation_share=share)
    except DatasetError:
        assert len(names) <= max(len(in_band), 1)
        return
    sides, how = plan.sides, plan.held_out
    held_out = {name for name, side in sides.items() if side == "validation"}
    assert set(sides) == names
    assert held_out == in_band if in_band else len(held_out) == 1
    assert how == ("hash band" if in_band else "nearest to the band")


@given(st.sets(st.integers(), min_size=2, max_size=60), st.integers())
def test_what_was_held_out_stays_held_out(numbers: set[int], new: int) -> None:
    names = {f"task {number}" for number in numbers}
    try:
        first = plan_split(names, validation_share=0.25)
        after = plan_split(names | {f"task {new}"}, validation_share=0.25).sides
    except DatasetError:
        return
    before, how = first.sides, first.held_out
    trained = {name for name, side in before.items() if side == "train"}
    assert how != "hash band" or all(after[name] == side for name, side in before.items())
    assert not {name for name in trained if after[name] == "validation" and how == "hash band"}


def test_a_folder_of_something_else_is_left_alone(
    shop_store: str, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_recipe.model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "manifest.json").write_text("keep")
    (tmp_path / "file").write_text("keep")
    with open_store(shop_store) as store:
        for name, words in (("full", "holds no dataset"), ("file", "is a file")):
            with pytest.raises(UsageError, match=words):
                build_dataset(store, tmp_path / name, recipe=tiny_recipe, tokenizer=tokenizer)
    assert (tmp_path / "full" / "manifest.json").read_text() == "keep"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["manifest.json"]


def test_a_failed_build_leaves_the_old_dataset(
    shop_store: str, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_recipe.model)
    short = tiny_recipe.data.model_copy(update={"max_target_tokens": 1})
    with open_store(shop_store) as store:
        build_dataset(store, tmp_path / "a", recipe=tiny_recipe, tokenizer=tokenizer)
        before = read_dataset(tmp_path / "a").train
        with pytest.raises(DatasetError, match="row is left"):
            build_dataset(
                store,
                tmp_path / "a",
                recipe=tiny_recipe.model_copy(update={"data": short}),
                tokenizer=tokenizer,
            )
    assert read_dataset(tmp_path / "a").train == before
