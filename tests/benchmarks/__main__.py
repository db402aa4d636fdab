"""Runs every benchmark and writes ``build/bench.json``: name, value, unit, baseline, ratio."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.alfworld import alfworld_speed
from tests.benchmarks.assembling import assemble_vs_naive
from tests.benchmarks.building import build_rows_per_s_vs_map, build_stream_mib
from tests.benchmarks.ingesting import ingest_log_vs_naive
from tests.benchmarks.measure import Result
from tests.benchmarks.monitoring import monitor_rows_per_s_vs_naive
from tests.benchmarks.overhead import recorder_overhead
from tests.benchmarks.pooling import alfworld_pool_2proc_vs_1
from tests.benchmarks.reading import read_stream_mib
from tests.benchmarks.recording import ingest_redacted_vs_sqlite3, ingest_rows_vs_sqlite3
from tests.benchmarks.rewarding import reward_vs_encode, reward_vs_naive
from tests.benchmarks.serving import gateway_added_ms_vs_plain_litellm, promote_dropped
from tests.benchmarks.tau2 import record_overhead_share, tau2_task_vs_stock
from tests.benchmarks.training import grpo_full_step_vs_trl, grpo_step_vs_trl, train_peak_mib

from rwml.cli.output import say
from rwml.files import write_json

BENCHMARKS = (
    ingest_rows_vs_sqlite3,
    ingest_redacted_vs_sqlite3,
    read_stream_mib,
    recorder_overhead,
    assemble_vs_naive,
    ingest_log_vs_naive,
    reward_vs_naive,
    reward_vs_encode,
    monitor_rows_per_s_vs_naive,
    build_rows_per_s_vs_map,
    build_stream_mib,
    alfworld_speed,
    alfworld_pool_2proc_vs_1,
    tau2_task_vs_stock,
    record_overhead_share,
    gateway_added_ms_vs_plain_litellm,
    promote_dropped,
    grpo_step_vs_trl,
    grpo_full_step_vs_trl,
    train_peak_mib,
)


def main() -> None:
    results: list[Result] = []
    for benchmark in BENCHMARKS:
        made = benchmark()
        for result in made if isinstance(made, list) else [made]:
            results.append(result)
            say(
                f"{result.name}: {result.value:.1f} {result.unit}, "
                f"baseline {result.baseline:.1f}, ratio {result.ratio:.2f}"
            )
    write_json(Path("build/bench.json"), {"results": [asdict(result) for result in results]})


if __name__ == "__main__":
    main()
