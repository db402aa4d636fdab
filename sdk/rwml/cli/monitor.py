"""`rwml monitor`: whether recorded traffic has come to surprise a world model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rwml.cli.endpoints import (
    DEFAULT_KEY_VARIABLE,
    NO_KEY,
    ApiBaseOption,
    KeyFileOption,
    KeyVariableOption,
    read_api_key,
)
from rwml.cli.output import (
    JsonFlag,
    StoreOption,
    emit,
    printable,
    render,
    say,
    stdout_to_stderr,
    track,
)
from rwml.cli.periods import SinceOption, UntilOption, read_time
from rwml.cli.shares import read_share
from rwml.encoders import Encoder, HttpEncoder
from rwml.errors import UsageError
from rwml.extras import require
from rwml.store import open_store
from rwml.world_model import WorldModel
from rwml.world_model.baseline import Baseline, read_baseline, write_baseline
from rwml.world_model.drift import FALSE_ALARMS, MIN_SHIFT
from rwml.world_model.endpoint import check_url
from rwml.world_model.metrics import show
from rwml.world_model.model import CONCURRENCY
from rwml.world_model.monitoring import (
    Monitor,
    ToolReport,
    check_baseline,
    describe,
    look,
)
from rwml.world_model.selection import Selection


def monitor(
    store: StoreOption,
    model: Annotated[
        str | None, typer.Option("--model", help="Name of the world model; default the run's.")
    ] = None,
    api_base: ApiBaseOption = None,
    api_key_env: KeyVariableOption = DEFAULT_KEY_VARIABLE,
    api_key_file: KeyFileOption = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Run folder, or its run.json: how the model is asked, and its encoder."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder of the gaps; default the run's.")
    ] = None,
    encoder_url: Annotated[str | None, typer.Option(help="Endpoint that serves it.")] = None,
    encoder_key_env: Annotated[str | None, typer.Option(help="Variable with its key.")] = None,
    sample: Annotated[str, typer.Option(help="Share of the transitions, such as 5%.")] = "100%",
    source: Annotated[str | None, typer.Option(help="Only this source (tau2:retail).")] = None,
    from_model: Annotated[
        str | None, typer.Option(help="Only actions of this model: NAME or NAME@STEP.")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Reference period, made with --write-baseline.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write-baseline", help="Write this period as the reference.")
    ] = None,
    false_alarms: Annotated[
        str, typer.Option(help="Share of looks at unchanged traffic that may raise an alarm.")
    ] = f"{FALSE_ALARMS:.0%}",
    min_shift: Annotated[
        float, typer.Option(help="Smallest rise of mean surprise worth an alarm.", min=0)
    ] = MIN_SHIFT,
    concurrency: Annotated[int, typer.Option(help="Requests at once.", min=1)] = CONCURRENCY,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Also as OpenTelemetry gauges of this process.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Score recorded transitions by how much they surprise a world model, tool by tool.

    With a baseline, what began after it is looked at, and tools that have become more surprising
    raise an alarm: exit code 1. Those that were never predictable are listed apart, and raise none.

    Example: rwml monitor --store sqlite:///rwml.db --model retail --api-base
    http://127.0.0.1:4000/v1 --run runs/retail --baseline baseline.json --sample 5%
    """
    require("world", "openai", "numpy", "scipy")
    name = model or ""
    if not name and (run is None or api_base is None):
        raise UsageError("name the world model: --model NAME, or --run and --api-base")
    if api_base is not None:
        check_url(api_base)
    selection = Selection(
        source=source,
        from_model=from_model,
        since=read_time(since),
        until=read_time(until),
        sample=read_share(sample, "--sample"),
    )
    rate = read_share(false_alarms, "--false-alarms")
    reference = None if baseline is None else read_baseline(baseline)
    if reference is not None:
        selection = _after(reference, selection)
    with (
        stdout_to_stderr(),
        WorldModel(
            api_base or name,
            model=model,
            api_key=_key(api_key_env, api_key_file, api_base),
            run=run,
            encoder=_encoder(encoder, encoder_url, encoder_key_env),
            concurrency=concurrency,
        ) as world,
        open_store(store, create=False) as opened,
    ):
        if reference is not None:
            check_baseline(reference, world)
        taken = look(world, opened, selection, track=lambda seen: track(seen, label="monitor"))
        reports = taken.compare(
            None if reference is None else reference.tools,
            false_alarms=rate,
            min_shift=min_shift,
        )
        if write is not None:
            write_baseline(write, describe(world, opened, selection, taken))
            say(f"wrote {write}: {taken.scored} surprises as the reference period")
        if metrics:
            show(reports)
    alarms = [report.name for report in reports if report.status == "drift"]
    emit(
        _result(taken, reports, alarms, reference, rate),
        as_json=json,
        text=_describe(taken, reports, alarms, reference, rate),
    )
    if alarms:
        raise typer.Exit(1)


def _after(reference: Baseline, selection: Selection) -> Selection:
    """The selection, by default from where the reference period ends; says what is not apart."""
    chosen = selection.after(reference)
    if chosen.since != selection.since:
        say(f"from {chosen.since:%Y-%m-%dT%H:%M:%S} UTC on, where the baseline ends; or --since")
    if chosen.overlaps(reference):
        ends = reference.latest
        said = f"which ends {ends.isoformat()}" if ends else "whose trajectories say no time"
        say(f"warning: this period overlaps with that of the baseline, {said}: what is in both")
        say("is compared with itself, and raises no alarm")
    return chosen


def _key(variable: str, file: Path | None, api_base: str | None) -> str | None:
    """The key, as it is meant for this endpoint; None for the client's own choice, or none."""
    is_default = file is None and variable == DEFAULT_KEY_VARIABLE
    key = read_api_key(variable=variable, key_file=file, api_base=api_base)
    return None if is_default and key == NO_KEY else key


def _encoder(name: str | None, url: str | None, key_env: str | None) -> str | Encoder | None:
    if url is None:
        if key_env is not None:
            raise UsageError("--encoder-key-env is of a served encoder: add --encoder-url")
        return name
    if name is None:
        raise UsageError("name the encoder that --encoder-url serves: add --encoder")
    return HttpEncoder(url, model=name, key_env=key_env)


def _result(
    taken: Monitor,
    reports: Sequence[ToolReport],
    alarms: Sequence[str],
    reference: Baseline | None,
    rate: float,
) -> dict[str, object]:
    return {
        "scored": taken.scored,
        "missing": dict(taken.missing),
        "alarms": list(alarms),
        "false_alarm_rate": rate if reference is not None else None,
        "tools": [asdict(report) for report in reports],
    }


def _describe(
    taken: Monitor,
    reports: Sequence[ToolReport],
    alarms: Sequence[str],
    reference: Baseline | None,
    rate: float,
) -> str:
    apart = [report for report in reports if report.status == "unpredictable"]
    others = [report for report in reports if report not in apart]
    parts: list[object] = [_table(others)] if others else []
    if apart:
        parts += ["", "never predictable, so surprise says nothing here:", _table(apart)]
    missing = ", ".join(f"{number} {reason}" for reason, number in taken.missing.items())
    parts += ["", f"{taken.scored} transitions scored; without a prediction: {missing or 'none'}"]
    if reference is None:
        parts.append("nothing to compare with: make a reference period with --write-baseline")
    else:
        said = f"surprise has risen: {', '.join(map(printable, alarms))}" if alarms else "no alarm"
        parts.append(f"{said} (at most {rate:.3g} of looks at unchanged traffic raise one)")
    return render(*parts)


def _table(reports: Sequence[ToolReport]) -> Table:
    table = Table("tool", "status", box=None)
    for heading in ("transitions", "surprise", "baseline", "shift", "p", "trivial"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in reports:
        figures = (each.surprise, each.baseline, each.shift, each.p_value, each.trivial_gap)
        shown = ["-" if figure is None else f"{figure:.3f}" for figure in figures]
        table.add_row(printable(each.name), each.status, str(each.transitions), *shown)
    return table
