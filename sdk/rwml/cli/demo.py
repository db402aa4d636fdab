"""`rwml demo`: the main job, on the embedded default."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, emit
from rwml.demo.stages import Result
from rwml.demo.story import Demo, DemoOptions
from rwml.errors import UsageError
from rwml.extras import require


def demo(
    out: Annotated[Path, typer.Option(help="Folder of everything the demo makes.")] = Path(
        "rwml-demo"
    ),
    steps: Annotated[int | None, typer.Option(help="GRPO steps (default 8).", min=1)] = None,
    tasks: Annotated[int | None, typer.Option(help="tau2 tasks (default all 74).", min=2)] = None,
    recipe: Annotated[str, typer.Option(help="Recipe of the trainer.")] = "demo",
    model: Annotated[
        str | None,
        typer.Option(help="LiteLLM model for the agent, instead of the scripted policy."),
    ] = None,
    api_base: Annotated[str | None, typer.Option(help="Endpoint of --model.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the key of --model.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Run the whole loop: record, build, evaluate, train, serve, evaluate again.

    Needs no network and no keys. A stage that is whole is not run again.

    Example: rwml demo --out rwml-demo
    """
    require("demo", "tau2", "torch", "trl", "litellm", "psutil", "matplotlib", "gguf")
    if out.is_dir() and any(out.iterdir()) and not (out / "stages").is_dir():
        raise UsageError(f"{out} is not empty and holds no demo: choose another --out")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what runs is stopped
    agent = [
        part
        for flag, value in (
            ("--model", model),
            ("--api-base", api_base),
            ("--api-key-env", api_key_env),
        )
        if value is not None
        for part in (flag, value)
    ]
    options = DemoOptions(out=out, recipe=recipe, steps=steps, tasks=tasks, agent=tuple(agent))
    report = Demo(options).play()
    emit(report, as_json=json, text=_summary(report, out))


def _summary(report: Result, out: Path) -> str:
    results = report["eval"]
    if not isinstance(results, dict):
        return str(results)
    lines = [f"{'predictor':>12} {'reward':>7} {'tool':>7} {'user':>7} {'skill':>7} {'format':>7}"]
    for name in ("constant", "copy_last", "base", "warm_start", "trained"):
        figures = results[name]
        if isinstance(figures, dict):
            kinds = figures["by_kind"] if isinstance(figures["by_kind"], dict) else {}
            by_kind = [kinds.get(kind) for kind in ("tool", "user")]
            rewards = [each["reward"] if isinstance(each, dict) else None for each in by_kind]
            values = [figures["reward"], *rewards, figures["skill"], figures["format_rate"]]
            shown = ["-" if v is None else f"{float(str(v)):.3f}" for v in values]
            lines.append(f"{name:>12} " + " ".join(f"{text:>7}" for text in shown))
    lines.append(
        f"on {results['rows']} held-out rows of {results['tasks']} tasks; reward also by who "
        "answered; skill: what is added to the better of constant and copy_last, 1 is perfect; "
        "format: share of answers with the tags, without which the reward is 0"
    )
    compared = results["compared"]
    minus = " minus ".join(map(str, compared)) if isinstance(compared, list) else ""
    low, high = results["ci95"] if isinstance(results["ci95"], list) else (None, None)
    lines.append(
        f"{minus}: {results['difference']:+.3f}, "
        f"95% interval [{low:+.3f}, {high:+.3f}]: {results['verdict']}"
    )
    lines.append(f"{report['seconds']} s, at most {report['peak_rss_mib']} MiB")
    lines.append(f"see {out / 'report.json'} and {out / 'report.png'}")
    return "\n".join(lines)
