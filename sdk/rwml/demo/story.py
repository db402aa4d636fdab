"""The demo's stages: record, build, evaluate, train, serve, evaluate again, report.

Each is a real command on real input; only the sizes are small.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from rwml.cli.output import say
from rwml.demo.served import ask, model_name, play_one_task, running_server
from rwml.demo.stages import Result, Stages, run_json
from rwml.files import write_json

PLOT_MODULE = "rwml_trainer.plots"
"""Draws the report; named by string, since the sdk imports no trainer."""
RECIPES = "rwml_trainer.recipes"
"""Package that holds the shipped recipes, read as files only."""


@dataclass(frozen=True)
class DemoOptions:
    """What `rwml demo` was told.

    Attributes:
        out: folder of everything the demo makes.
        recipe: trainer's recipe.
        steps: GRPO steps; None for the recipe's.
        tasks: tau2 tasks; None for all.
        agent: flags for the recorded agent's model; empty for the scripted policy.
    """

    out: Path
    recipe: str
    steps: int | None
    tasks: int | None
    agent: tuple[str, ...] = ()


class Demo:
    """Runs the stages of one demo folder."""

    def __init__(self, options: DemoOptions) -> None:
        self._options = options
        self._out = options.out.resolve()
        self._stages = Stages(self._out)
        self._store = f"sqlite:///{self._out / 'rwml.db'}"
        self._data = self._out / "dataset"
        self._run = self._out / "rwml-demo"
        self._recipe = ["--recipe", options.recipe]
        self._recipe_text = _recipe_text(options.recipe)

    def play(self) -> Result:
        """Runs what is not done yet, and returns the report (design: the demo's JSON)."""
        counts = self._record()
        dataset = self._build()
        before = self._evaluate("before", ["base"])
        train = self._train()
        served = self._serve()
        stages = ["warm_start", "trained"] if train.pop("warm_start") else ["trained"]
        after = self._evaluate("after", stages)
        report: Result = {
            **{name: counts[name] for name in ("trajectories", "transitions", "errors")},
            "dataset": dataset,
            "train": train,
            "serve": served["serve"],
            "agent_on_served_model": served["agent"],
            "eval": {
                **{name: before[name] for name in ("constant", "copy_last", "base")},
                **{name: after.get(name) for name in ("warm_start", "trained")},
                **{name: after[name] for name in ("difference", "ci95", "verdict")},
                "compared": after["compared"],
                "rows": after["rows"],
                "tasks": after["tasks"],
            },
            "seconds": round(self._stages.seconds, 1),
            "peak_rss_mib": self._stages.peak_rss_mib,
        }
        path = self._out / "report.json"
        write_json(path, report)
        drawn = subprocess.run(  # noqa: S603 - our own module, no shell
            [sys.executable, "-m", PLOT_MODULE, str(path), str(self._out / "report.png")],
            check=False,
        )
        if drawn.returncode:
            say(f"the report is whole, its plot could not be drawn: {path}")
        return report

    def _record(self) -> Result:
        arguments = ["record", "tau2", "--domain", "retail", "--split", "train"]
        arguments += ["--store", self._store, "--seed", "0", *self._options.agent]
        if self._options.tasks is not None:
            arguments += ["--tasks", str(self._options.tasks)]

        def work() -> Result:
            run_json(arguments)
            return run_json(["doctor", "--store", self._store])

        return self._stages.run(
            "record",
            "1/6 Record a LangGraph agent on tau2-bench retail",
            work,
            told=[*arguments, version("rwml")],
            reset=self._forget_recordings,
        )

    def _forget_recordings(self) -> None:
        for path in self._out.glob("rwml.db*"):
            path.unlink()

    def _build(self) -> Result:
        arguments = ["build", "--store", self._store, "--out", str(self._data)]
        arguments += self._recipe

        def work() -> Result:
            built = run_json(arguments)
            dropped = built["dropped"]
            too_long = dropped["too_long"] if isinstance(dropped, dict) else None
            return {
                "train": built["train"],
                "validation": built["validation"],
                "too_long": too_long,
                "kinds": built["kinds"],
            }

        return self._stages.run(
            "build", "2/6 Build GRPO examples", work, told=[*arguments, self._recipe_text]
        )

    def _evaluate(self, name: str, models: list[str]) -> Result:
        """Evaluates models beside the trivial predictors; trained ones beside their start."""
        run = [] if name == "before" else ["--run", str(self._run)]
        base = ["base"] if models == ["trained"] else []  # no warm start: compare with the base
        predictors = ",".join([*base, *models])
        arguments = ["eval", "world", str(self._data), *self._recipe, *run]
        arguments += ["--predictors", predictors, "--out", str(self._out / "eval" / name)]
        number = "3/6" if name == "before" else "6/6"
        return self._stages.run(
            f"eval-{name}",
            f"{number} Evaluate on held-out rows: {predictors.replace(',', ', ')}",
            lambda: run_json(arguments),
            told=[*arguments, self._recipe_text],
        )

    def _train(self) -> Result:
        arguments = ["train", str(self._data), "--out", str(self._run)]
        arguments += [*self._recipe, "--resume"]
        if self._options.steps is not None:
            arguments += ["--steps", str(self._options.steps)]

        def work() -> Result:
            done = run_json(arguments)
            return {name: done[name] for name in ("steps", "reward", "lora_adapter", "warm_start")}

        return self._stages.run(
            "train",
            "4/6 Train: warm start, then GRPO",
            work,
            told=arguments,
            reset=lambda: shutil.rmtree(self._run, ignore_errors=True),
        )

    def _serve(self) -> Result:
        arguments = [str(self._run), "--out", str(self._out / "serving")]

        def work() -> Result:
            with running_server(arguments) as ready:
                completion = ask(ready)
                agent = play_one_task(ready, f"sqlite:///{self._out / 'served.db'}")
            model = f"openai/{model_name(ready)}"
            return {
                "serve": {"engine": ready["engine"], "model": model, "completion": completion},
                "agent": agent,
            }

        return self._stages.run(
            "serve",
            "5/6 Serve the trained model, and let the agent play with it",
            work,
            told=arguments,
            reset=lambda: shutil.rmtree(self._out / "serving", ignore_errors=True),
        )


def _recipe_text(name: str) -> str:
    """Text of a recipe file or of a shipped recipe: a changed recipe reruns what follows."""
    path = Path(name)
    if path.is_file():
        return path.read_text(encoding="utf-8")
    shipped = files(RECIPES) / f"{name}.toml"
    return shipped.read_text(encoding="utf-8") if shipped.is_file() else ""
