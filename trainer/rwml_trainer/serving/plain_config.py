"""A plain LiteLLM configuration of a model, for people who run a proxy of their own already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rwml.errors import UsageError
from rwml.extras import require
from rwml_trainer.runs import Stage
from rwml_trainer.serving.gateway import RECORDER
from rwml_trainer.serving.versions import find_source, read_source, split_name


def plain_config(
    sources: Sequence[Path],
    *,
    name: str | None,
    stage: Stage,
    engine_url: str,
    store: str | None,
) -> str:
    """The configuration as YAML; nothing is started or written.

    Args:
        sources: one run or model folder.
        name: of the model; by default the source's own.
        stage: of the run.
        engine_url: where the engine is, ending in ``/v1``.
        store: URL of the store to record into; None for no recording.

    Raises:
        UsageError: not exactly one source, or an impossible name.
        ModelError: it is neither a run nor a model folder.
    """
    require("serve", "yaml")
    import yaml

    if len(sources) != 1:
        raise UsageError("--print-litellm-config is for one run: name it")
    source, stage = find_source(sources[0], stage)
    alias, step = split_name(source, name, read_source(source), stage)
    model = {
        "model_name": alias,
        "litellm_params": {
            "model": f"hosted_vllm/{alias}",
            "api_base": engine_url,
        },
        "model_info": {"rwml_version": f"{alias}@{step}"},
    }
    config: dict[str, object] = {
        "model_list": [model],
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
    }
    if store is not None:
        config["litellm_settings"] = {"callbacks": RECORDER}
    of_stage = "" if stage == "trained" else f" --stage {stage}"
    lines = [
        f"# The engine serves, as {alias}, what this makes: "
        f"rwml merge {source}{of_stage} --out merged",
        "# LITELLM_MASTER_KEY: the key that clients send; without one the proxy lets everybody in.",
    ]
    if store is not None:
        lines.append(f"# RWML_STORE={store} in the proxy's environment: where it records.")
    return "\n".join([*lines, yaml.safe_dump(config, sort_keys=False)]).rstrip()
