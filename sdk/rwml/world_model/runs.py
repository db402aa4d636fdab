"""What a run says of itself to whoever asks its model; the trainer is not needed to read it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rwml.encoders import Encoder, HttpEncoder, SentenceTransformerEncoder, resolve_encoder
from rwml.errors import ModelError
from rwml.lineage import RUN
from rwml.prompts import PromptSettings


@dataclass(frozen=True)
class RunFacts:
    """What `rwml train` noted of a run.

    Attributes:
        name: of the run; it is served under this name.
        base_model: folder or hub name of the model whose tokenizer measured its prompts.
        prompts: what decided over them.
        max_tokens: longest prediction of its evaluation; None where nothing says so.
        encoder: of its reward, as recipes call it; None where nothing says so.
        encoder_url: of an encoder that is served.
        encoder_key_env: variable with the key of that.
    """

    name: str
    base_model: str
    prompts: PromptSettings
    max_tokens: int | None = None
    encoder: str | None = None
    encoder_url: str | None = None
    encoder_key_env: str | None = None

    def make_encoder(self) -> Encoder | None:
        """The encoder of its reward, with nothing loaded or asked yet; None where unknown.

        Raises:
            RewardError: the key of its endpoint is missing.
            MissingExtraError: the package that ships its weights is not installed.
        """
        if self.encoder is None:
            return None
        if self.encoder_url is not None:
            return HttpEncoder(self.encoder_url, model=self.encoder, key_env=self.encoder_key_env)
        return SentenceTransformerEncoder(resolve_encoder(self.encoder))


def read_run(run: Path) -> RunFacts:
    """Reads a run's manifest.

    Args:
        run: its folder, or the manifest alone, copied to where the model is asked.

    Raises:
        ModelError: there is none, or it does not say how its prompts were made.
    """
    path = run / RUN if run.is_dir() else run
    if not path.is_file():
        raise ModelError(f"{run} is no finished run (it has no {RUN}): name one of 'rwml train'")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        told = values["prompts"]
        if told is None:
            raise KeyError("prompts")
        return RunFacts(
            name=str(values["name"]),
            base_model=str(values["base_model"]),
            prompts=PromptSettings.model_validate(told),
            max_tokens=_within(values, "evaluation").get("max_new_tokens"),
            encoder=_within(values, "reward").get("encoder"),
            encoder_url=_within(values, "reward").get("encoder_url"),
            encoder_key_env=_within(values, "reward").get("encoder_key_env"),
        )
    except KeyError as error:
        raise ModelError(
            f"{path} does not say how its prompts were made ({error}): train it again, or pass "
            f"prompts=PromptSettings(...) in place of the run"
        ) from error
    except (OSError, ValueError, TypeError, ValidationError) as error:
        raise ModelError(f"{path} is no run manifest: {error}") from error


def _within(values: dict[str, Any], section: str) -> dict[str, Any]:
    found = (values.get("recipe") or {}).get(section)
    return found if isinstance(found, dict) else {}
