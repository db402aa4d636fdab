"""Easy samples: thresholds by hand, what is kept, and a filter model that is interrupted."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rwml import open_store
from rwml.cli.output import progress
from rwml.errors import AdapterError, DatasetError, RecipeError
from rwml.prompts import format_label, parse_prediction
from rwml.testing import BagOfWordsEncoder, OpenAIServer
from rwml_trainer.calibration import calibrate, draw_curve, write_recipe
from rwml_trainer.commands.build import build as build_command
from rwml_trainer.commands.calibrate import calibrate as calibrate_command
from rwml_trainer.dataset import Row, build_dataset, read_dataset
from rwml_trainer.filtering import (
    EasySampleFilter,
    Measured,
    choose_tau_d,
    easy_share,
    make_sampler,
    measure,
    training_tau_d,
)
from rwml_trainer.filtering.attempts import Attempts, sample_key
from rwml_trainer.filtering.thresholds import critical_gap
from rwml_trainer.generation import sample
from rwml_trainer.models import cache_folder, load_model, load_tokenizer
from rwml_trainer.recipes import Recipe, load_recipe
from rwml_trainer.settling import settle


@pytest.mark.parametrize(
    ("data", "training"),
    [(0.1, 0.2), (0.15, 0.4), (0.05, 0.2), (0.04, 0.2), (0.2, 0.4), (0.25, 0.4), (0.35, 0.6)],
)
def test_the_papers_rule_rounds_ties_up(data: float, training: float) -> None:
    assert training_tau_d(data) == training


@pytest.mark.parametrize(
    ("tau_easy", "critical"), [(0.0, 0.1), (0.2, 0.1), (0.25, 0.2), (0.5, 0.3), (0.75, math.inf)]
)
def test_the_critical_gap_by_hand(tau_easy: float, critical: float) -> None:
    # of four predictions more than tau_easy must be nearer than the threshold
    assert critical_gap([0.3, math.inf, 0.1, 0.2], tau_easy=tau_easy) == critical


unit = st.floats(0, 2) | st.just(math.inf)


@given(st.lists(unit, min_size=1, max_size=12), st.floats(0, 0.99), st.floats(0.01, 2))
def test_a_row_is_easy_where_its_mean_reward_is_above(
    gaps: list[float], tau_easy: float, tau_d: float
) -> None:
    tau_easy = round(tau_easy, 2)
    rewards = [gap < tau_d for gap in gaps]
    is_easy = sum(rewards) * 100 > round(tau_easy * 100) * len(gaps)
    assert (critical_gap(gaps, tau_easy=tau_easy) < tau_d) == is_easy


def test_the_threshold_is_where_the_wanted_share_is_easy() -> None:
    criticals = [place / 10 for place in range(10)]  # 0, 0.1, ... 0.9
    assert choose_tau_d(criticals, wanted=0.3) == 0.21
    assert easy_share(criticals, 0.21) == 0.3
    assert choose_tau_d([math.inf] * 3, wanted=0.3) == 0.01


class Fixed:
    """Predicts what it is told to, for rows whose next state holds a word."""

    def __init__(self, key: str, right: str, *, breaks_after: int | None = None) -> None:
        self.key = key
        self.right = right
        self.breaks_after = breaks_after
        self.asked: list[str] = []

    def sample(self, rows: Sequence[Row], seeds: Sequence[Sequence[int]], on_row: Any) -> None:
        for place, (row, its_seeds) in enumerate(zip(rows, seeds, strict=True)):
            if self.breaks_after is not None and len(self.asked) == self.breaks_after:
                raise KeyboardInterrupt
            self.asked.append(row["id"])
            is_right = self.right in row["next_state"]
            answers = ["no tags"] * len(its_seeds)
            if is_right:
                answers[-1] = format_label(row["next_state"])
            on_row(place, answers)


@pytest.fixture
def filtering(tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe that filters, with a cache of its own."""
    monkeypatch.setenv("RWML_CACHE", str(tmp_path / "cache"))
    settings = tiny_recipe.filter.model_copy(
        update={
            "enabled": True,
            "attempts": 3,
            "tau_d": 0.15,
            "keep": 0.5,
            "max_new_tokens": 6,
            "sft_batch_size": 2,
            "micro_batch_size": 2,
            "epochs": 0.2,
        }
    )
    return tiny_recipe.model_copy(update={"filter": settings})


def build(store: str, out: Path, recipe: Recipe, sampler: Any) -> Any:
    tokenizer = load_tokenizer(recipe.model)
    easy_filter = EasySampleFilter(
        recipe,
        tokenizer=tokenizer,
        progress=progress,
        encoder=BagOfWordsEncoder(),
        sampler=sampler,
    )
    with open_store(store) as opened:
        return build_dataset(
            opened, out, recipe=recipe, tokenizer=tokenizer, easy_filter=easy_filter
        )


def test_easy_rows_are_dropped_from_training_alone(
    shop_store: str, shop_dataset: Path, filtering: Recipe, tmp_path: Path
) -> None:
    manifest = build(shop_store, tmp_path / "data", filtering, Fixed("one", "Error"))
    before, after = read_dataset(shop_dataset), read_dataset(tmp_path / "data")
    easy = [row for row in before.train if "Error" in row["next_state"]]
    hard = [row for row in before.train if "Error" not in row["next_state"]]
    kept = [row for row in after.train if "Error" in row["next_state"]]
    assert 0 < len(kept) < len(easy)
    assert [row for row in after.train if "Error" not in row["next_state"]] == hard
    assert after.validation == before.validation
    assert manifest.dropped["easy"] == len(easy) - len(kept)
    assert manifest.rows["train"] == len(after.train)
    done = manifest.filtered
    assert (done.rows, done.easy, done.kept) == (len(before.train), len(easy), len(kept))
    assert (done.tau_d, done.training_tau_d, done.is_calibrated) == (0.15, 0.4, False)
    assert done.encoder.name == filtering.reward.encoder


def test_an_interrupted_filter_goes_on_where_it_was(
    shop_store: str, filtering: Recipe, tmp_path: Path
) -> None:
    cut = Fixed("two", "Error", breaks_after=5)
    with pytest.raises(KeyboardInterrupt):
        build(shop_store, tmp_path / "data", filtering, cut)
    assert not (tmp_path / "data").exists()
    second = Fixed("two", "Error")
    manifest = build(shop_store, tmp_path / "data", filtering, second)
    assert not set(cut.asked) & set(second.asked)
    third = Fixed("two", "Error")
    assert build(shop_store, tmp_path / "data", filtering, third) == manifest
    assert third.asked == []
    other = Fixed("three", "Error")
    build(shop_store, tmp_path / "data", filtering, other)
    assert len(other.asked) == len(cut.asked) + len(second.asked)


def test_a_threshold_can_be_calibrated_while_building(
    shop_store: str, filtering: Recipe, tmp_path: Path
) -> None:
    settings = filtering.filter.model_copy(update={"tau_d": "calibrated", "easy_share": 0.25})
    reward = filtering.reward.model_copy(update={"tau_d": "calibrated"})
    recipe = filtering.model_copy(update={"filter": settings, "reward": reward})
    manifest = build(shop_store, tmp_path / "data", recipe, Fixed("four", "Error"))
    assert manifest.filtered.is_calibrated
    assert manifest.filtered.tau_d == 0.01
    assert settle(recipe, manifest).reward.tau_d == manifest.filtered.training_tau_d == 0.2
    with pytest.raises(DatasetError, match="built without a filter"):
        settle(recipe, manifest.model_copy(update={"filtered": None}))


def test_each_kind_may_have_its_own_threshold(
    shop_store: str, shop_dataset: Path, filtering: Recipe, tmp_path: Path
) -> None:
    def with_thresholds(data: dict[str, float], training: Any) -> Recipe:
        settings = filtering.filter.model_copy(update={"tau_d": data, "keep": 0.0})
        reward = filtering.reward.model_copy(update={"tau_d": training})
        return filtering.model_copy(update={"filter": settings, "reward": reward})

    class Nearly(Fixed):
        """One word too many: a gap of 0.09 for users, of at most 0.3 for tools."""

        def sample(self, rows: Any, seeds: Any, on_row: Any) -> None:
            longer: Any = [{**row, "next_state": f"{row['next_state']} more"} for row in rows]
            super().sample(longer, seeds, on_row)

    recipe = with_thresholds({"tool": 0.35, "user": 0.05}, "calibrated")
    manifest = build(shop_store, tmp_path / "data", recipe, Nearly("kinds", ""))
    before, after = read_dataset(shop_dataset), read_dataset(tmp_path / "data")
    assert {row["kind"] for row in before.train} == {"tool", "user"}
    assert {row["kind"] for row in after.train} == {"user"}
    assert manifest.filtered.tau_d == {"tool": 0.35, "user": 0.05}
    assert manifest.filtered.training_tau_d == {"tool": 0.6, "user": 0.2}
    assert settle(recipe, manifest).reward.tau_d == {"tool": 0.6, "user": 0.2}
    untouched = Fixed("kinds of another", "")
    with pytest.raises(RecipeError, match=r"filter.tau_d has no threshold for kind 'tool'"):
        build(shop_store, tmp_path / "none", with_thresholds({"user": 0.3}, 0.4), untouched)
    assert untouched.asked == []
    only_environments = with_thresholds({"user": 0.3}, {"environment": 0.2})
    with pytest.raises(RecipeError, match=r"reward.tau_d has no threshold for kind 'user'"):
        settle(only_environments, before.manifest)
    for_users = with_thresholds({}, {"user": 0.2})
    assert settle(for_users, before.manifest) == for_users, "tools are scored by ROUGE"
    by_gap = for_users.reward.model_copy(update={"type": "embedding"})
    with pytest.raises(RecipeError, match=r"reward.tau_d has no threshold for kind 'tool'"):
        settle(for_users.model_copy(update={"reward": by_gap}), before.manifest)


def test_epochs_become_steps(shop_dataset: Path) -> None:
    manifest = read_dataset(shop_dataset).manifest
    rows = manifest.rows["train"]
    recipe = load_recipe("tau2-qwen3-8b", {"grpo.prompts_per_step": 4, "warm_start.epochs": 1.0})
    settled = settle(recipe, manifest)
    assert settled.grpo.steps == math.ceil(2 * rows / 4)
    assert settled.warm_start.steps == math.ceil(rows / 32)
    assert settle(settled, manifest) == settled


def test_when_all_rows_are_easy_it_says_what_to_do(
    shop_store: str, filtering: Recipe, tmp_path: Path
) -> None:
    settings = filtering.filter.model_copy(update={"keep": 0.0})
    recipe = filtering.model_copy(update={"filter": settings})
    with pytest.raises(DatasetError, match=r"lower it, or set filter\.keep above 0"):
        build(shop_store, tmp_path / "data", recipe, Fixed("five", ""))


def test_the_tuned_filter_is_trained_once_and_is_the_same_again(
    shop_dataset: Path, filtering: Recipe
) -> None:
    tokenizer = load_tokenizer(filtering.model)
    rows = read_dataset(shop_dataset).train[:2]

    def predict() -> dict[int, list[str]]:
        sampler = make_sampler(filtering, shop_dataset, tokenizer=tokenizer, templates=None)
        found: dict[int, list[str]] = {}
        sampler.sample(rows, [[1, 2, 3], [4, 5, 6]], found.__setitem__)
        return found

    first = predict()
    assert len(list(cache_folder().glob("filters/*/lora_adapter"))) == 1
    assert {place: len(texts) for place, texts in first.items()} == {0: 3, 1: 3}
    assert len(set(first[0])) > 1, "predictions of one row differ"
    assert predict() == first


def test_what_a_seed_gives_does_not_depend_on_the_batch(
    tiny_model: Path, shop_dataset: Path
) -> None:
    model, tokenizer = load_model(str(tiny_model), dtype="float32"), load_tokenizer(str(tiny_model))
    prompts = [row["prompt"] for row in read_dataset(shop_dataset).train[:3]]
    seeds = [[10 * place + number for number in range(2)] for place in range(3)]

    def draw(places: list[int], batch_size: int) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        sample(
            model.eval(),
            tokenizer,
            [prompts[place] for place in places],
            seeds=[seeds[place] for place in places],
            temperature=1.0,
            max_new_tokens=8,
            batch_size=batch_size,
            on_prompt=lambda number, texts: found.__setitem__(places[number], texts),
        )
        return found

    together = draw([0, 1, 2], 6)
    assert together == draw([2, 0, 1], 2)
    assert together[1] == draw([1], 1)[1]


def test_a_model_behind_litellm_is_asked_as_it_is(
    shop_dataset: Path, filtering: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FILTER_KEY", "secret")
    with OpenAIServer(answer=lambda body: format_label(f"seed {body['seed']}")) as server:
        settings = filtering.filter.model_copy(
            update={
                "backend": "litellm",
                "model": "openai/world",
                "api_base": server.url,
                "api_key_env": "FILTER_KEY",
            }
        )
        recipe = filtering.model_copy(update={"filter": settings})
        sampler = make_sampler(recipe, shop_dataset, tokenizer=None, templates=None)
        rows = read_dataset(shop_dataset).train[:2]
        found: dict[int, list[str]] = {}
        sampler.sample(rows, [[1, 2], [3, 4]], found.__setitem__)
        said = [parse_prediction(text).next_state for text in found[1]]
        assert said == ["seed 3", "seed 4"]
        assert server.requests[0]["temperature"] == 1.0
        assert server.requests[0]["messages"] == rows[0]["prompt"]


MEASURES = """
import sys
from pathlib import Path
from rwml.cli.output import progress
from rwml.testing import BagOfWordsEncoder
from rwml_trainer.filtering import make_sampler, measure
from rwml_trainer.recipes import Recipe

recipe = Recipe.model_validate_json(Path(sys.argv[1]).read_text())
folder = Path(sys.argv[2])
sampler = make_sampler(recipe, folder, tokenizer=None, templates=None)
encoder = BagOfWordsEncoder()
list(measure(folder, recipe=recipe, sampler=sampler, encoder=encoder, progress=progress))
"""


def test_a_filter_whose_endpoint_hangs_ends_with_ctrl_c_and_keeps_what_it_has(
    shop_dataset: Path, filtering: Recipe, tmp_path: Path
) -> None:
    over = threading.Event()
    said = "<next_state>ok</next_state>"

    def answer(body: Mapping[str, Any]) -> str:
        if body["messages"] != rows[0]["prompt"]:
            over.wait()
        return said

    rows = read_dataset(shop_dataset).train
    with OpenAIServer(answer=answer) as server:
        update = {"backend": "litellm", "model": "openai/world", "api_base": server.url}
        settings = filtering.filter.model_copy(update=update)
        recipe = filtering.model_copy(update={"filter": settings})
        (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
        command = [sys.executable, "-c", MEASURES, str(tmp_path / "recipe.json"), str(shop_dataset)]
        environment = os.environ | {"OPENAI_API_KEY": "none"}
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as child:
            try:
                deadline = time.monotonic() + 100
                while len(server.requests) < 2 * settings.attempts:  # of the second row, too
                    assert child.poll() is None, child.communicate()[1].decode()
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                child.send_signal(signal.SIGINT)
                assert child.wait(30) == -signal.SIGINT
            finally:
                child.kill()
                over.set()
    (database,) = (tmp_path / "cache").rglob("attempts.db")
    with Attempts(database) as attempts:
        kept = attempts.find([sample_key(row["prompt"]) for row in rows[:2]])
    assert kept == {sample_key(rows[0]["prompt"]): [said] * settings.attempts}


def test_rows_without_a_prediction_are_an_error_and_the_others_are_kept(
    shop_dataset: Path, filtering: Recipe
) -> None:
    class Silent(Fixed):
        def sample(self, rows: Any, seeds: Any, on_row: Any) -> None:
            super().sample(rows[1:], seeds[1:], lambda place, texts: on_row(place + 1, texts))

    sampler = Silent("six", "Error")
    found = measure(
        shop_dataset,
        recipe=filtering,
        sampler=sampler,
        encoder=BagOfWordsEncoder(),
        progress=progress,
    )
    with pytest.raises(AdapterError, match="1 training rows got no prediction"):
        list(found)
    whole = Fixed("six", "Error")
    measured = list(
        measure(
            shop_dataset,
            recipe=filtering,
            sampler=whole,
            encoder=BagOfWordsEncoder(),
            progress=progress,
        )
    )
    assert len(whole.asked) == 1
    assert len(measured) == len(read_dataset(shop_dataset).train)


def test_a_torn_file_of_attempts_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    key = sample_key([{"role": "user", "content": "?"}])
    with Attempts(tmp_path / "a.db") as attempts:
        attempts.keep({key: ["é", "x"]})
    with Attempts(tmp_path / "a.db") as attempts:
        assert attempts.find([key, b"other"]) == {key: ["é", "x"]}


def test_calibration_shows_parts_and_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Measured(f"a{n}", "tool", "get", n / 100) for n in range(100)]
    rows += [Measured(f"b{n}", "user", None, math.inf) for n in range(10)]
    found: Any = calibrate(rows, wanted=0.3, by="kind")
    assert found["parts"]["tool"]["tau_d"] == 0.3
    assert found["parts"]["tool"]["training_tau_d"] == 0.4
    assert found["parts"]["user"]["tau_d"] is None, "too few rows"
    assert found["parts"]["user"]["never"] == 1.0
    assert found["all"]["tau_d"] == 0.33
    assert found["all"]["curve"][9] == [0.1, pytest.approx(10 / 110, abs=1e-6)]
    assert found["warnings"] == []
    assert found["recipe"] == {
        "filter": {"tau_d": {"tool": 0.3, "user": 0.33}},
        "reward": {"tau_d": {"tool": 0.4, "user": 0.4}},
    }, "users are too few for a threshold of their own"
    assert write_recipe(found, tmp_path / "calibration.toml")
    (tmp_path / "mine.toml").write_text(
        'model = "m"\n' + (tmp_path / "calibration.toml").read_text()
    )
    mine = load_recipe(str(tmp_path / "mine.toml"))
    assert mine.filter.tau_d == {"tool": 0.3, "user": 0.33}
    assert mine.reward.tau_d == {"tool": 0.4, "user": 0.4}
    assert not write_recipe(calibrate(rows, wanted=0.3, by="tool"), tmp_path / "none.toml")
    assert set(calibrate(rows, wanted=0.3, by="tool")["parts"]) == {"get"}  # type: ignore[arg-type]
    monkeypatch.setitem(matplotlib.rcParams, "backend", "pdf")
    draw_curve(found, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert matplotlib.rcParams["backend"] == "pdf", "a program that plots on its own sees nothing"
    strict: Any = calibrate([Measured("a", "tool", None, 0.001)] * 30, wanted=0.3, by="kind")
    assert any("no threshold makes 30%" in warning for warning in strict["warnings"])
    assert any("near exact match" in warning for warning in strict["warnings"])


def run(command: Any, *arguments: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_build_report_and_calibrate_from_the_command_line(
    shop_store: str, filtering: Recipe, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f"""
        model = "{filtering.model}"
        [data]
        profile = "compact"
        history = 2
        max_prompt_tokens = 600
        held_out_share = 0.0
        validation_share = 0.25
        [filter]
        attempts = 2
        max_new_tokens = 4
        epochs = 0.1
        sft_batch_size = 2
        micro_batch_size = 2
        [reward]
        encoder = "all-minilm-l6-v2"
        """
    )
    data = tmp_path / "data"
    command = ("--store", shop_store, "--out", str(data), "--recipe", str(recipe))
    built = run(build_command, *command, "--no-filter", "--report")
    assert built["filtered"] is None
    assert built["report"]["by_tool"]["get_order"]["rows"] == 36
    assert built["report"]["by_kind"]["user"]["copy_last"]["gap"] > 0
    assert json.loads((data / "report.json").read_text()) == built["report"]
    found = run(
        calibrate_command,
        str(data),
        "--recipe",
        str(recipe),
        "--out",
        str(tmp_path / "calibration"),
    )
    assert found["rows"] == built["train"]
    assert found["never"] == 1.0, "a model of random weights never keeps the format"
    assert (tmp_path / "calibration" / "calibration.png").is_file()
    filtered = run(build_command, *command)
    assert filtered["filtered"]["rows"] == built["train"] == filtered["train"]
    app = typer.Typer()
    app.command()(calibrate_command)
    arguments = [str(data), "--recipe", str(recipe), "--out", str(tmp_path)]
    refused = CliRunner().invoke(app, arguments)
    assert "has lost its easy rows" in str(refused.exception)
