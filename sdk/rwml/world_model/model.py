"""`WorldModel`: asks an endpoint what will come back of an action, as the model was trained to say.

Prompts are those of `rwml.prompts`, made by the same code as the training data. One small pool of
threads asks, for callers of every kind: so the endpoint never sees more requests at once than it
was meant to, and an `await` works in every event loop.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

from rwml import forking
from rwml.encoders import CachedEncoder, Encoder, as_encoder, gaps
from rwml.errors import RewardError, UsageError
from rwml.prompts import PromptMaker, PromptSettings, render_next_state
from rwml.prompts.profiles import Prompt, join_results, result_text
from rwml.prompts.tokenizers import load_tokenizer
from rwml.schema import Kind, Message, Trajectory, Transition
from rwml.trajectory_recorder import MessageLike, read_message
from rwml.workers import Workers, results, wait_for_all
from rwml.world_model.cache import PredictionCache
from rwml.world_model.endpoint import ATTEMPTS, TIMEOUT_S, Endpoint, read_target
from rwml.world_model.predictions import Prediction, Scored
from rwml.world_model.runs import RunFacts, read_run

MAX_TOKENS = 1_024
"""Longest answer, reasoning included, where no run says more (ours)."""
CONCURRENCY = 8
"""Requests at once (ours)."""
CACHED = 10_000
"""Predictions that are kept, of some kilobytes each (ours)."""
CACHED_S = 600.0
"""How long: another model may be served under the same name by then (ours)."""


class WorldModel:
    """A world model behind an OpenAI-compatible endpoint.

    >>> world = WorldModel("http://127.0.0.1:4000/v1", model="retail", run="runs/retail")
    >>> world.predict(trajectory, {"role": "assistant", "tool_calls": [...]}).text
    '{"type":"object","properties":{"order_id":{"type":"string"}}}'

    It may be used from several threads, event loops, and after a fork. Each method has an
    asynchronous twin that begins with an ``a``.

    Args:
        endpoint_or_model: base URL of the API; or the name of a model at OpenAI, or at what
            ``OPENAI_BASE_URL`` says.
        model: name of the model at the URL; by default the run's.
        api_key: of the endpoint; None sends none to an URL.
        run: folder of the run, or its ``run.json`` alone: how its prompts were made, and with which
            encoder it was rewarded.
        prompts: how prompts are made, in place of what the run says; by default as a recipe that
            says nothing of it has them.
        tokenizer: folder or hub name, in place of the run's base model; the compact profile
            measures its prompts with it.
        encoder: measures gaps, in place of the run's: a sentence-transformers folder or name, or an
            `Encoder`. Predicting needs none.
        max_tokens: longest answer, reasoning included.
        concurrency: requests at once.
        timeout_s: of one request.
        attempts: of each request, while the endpoint is busy or out of reach.
        cached: predictions that are kept; 0 for none.
        cached_s: how long; so long a model that was replaced under its name may still be heard.

    Raises:
        UsageError: there is no name of a model, or one beside what is no URL; or a number is out
            of range.
        ModelError: the run is none, or does not say how its prompts were made.
    """

    def __init__(
        self,
        endpoint_or_model: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        run: str | Path | None = None,
        prompts: PromptSettings | None = None,
        tokenizer: str | None = None,
        encoder: str | Encoder | None = None,
        max_tokens: int | None = None,
        concurrency: int = CONCURRENCY,
        timeout_s: float = TIMEOUT_S,
        attempts: int = ATTEMPTS,
        cached: int = CACHED,
        cached_s: float = CACHED_S,
    ) -> None:
        facts = None if run is None else read_run(Path(run))
        url, named = read_target(endpoint_or_model, model)
        name = named or (facts and facts.name)
        if not name:
            raise UsageError(f"name the model at {endpoint_or_model}: pass model or run")
        longest = 1 if max_tokens is None else max_tokens
        if min(concurrency, attempts, longest) < 1 or not min(timeout_s, cached_s) > 0:
            raise UsageError(
                "concurrency, attempts, max_tokens, timeout_s and cached_s must be more than 0"
            )
        if cached < 0:
            raise UsageError("cached must be 0 or more than 0")
        self._endpoint = Endpoint(
            url,
            model=name,
            api_key=api_key,
            timeout_s=timeout_s,
            attempts=attempts,
        )
        self.prompts = prompts or (facts.prompts if facts else PromptSettings())
        self._tokenizer = tokenizer or (facts.base_model if facts else None)
        self._max_tokens = max_tokens or (facts and facts.max_tokens) or MAX_TOKENS
        self._encoder_choice = encoder
        self._facts: RunFacts | None = facts
        self._concurrency = concurrency
        self._cached = cached
        self._cached_s = cached_s
        self._start()
        forking.register(self, child=WorldModel._in_child)

    @property
    def name(self) -> str:
        """Name of the model at its endpoint."""
        return self._endpoint.model

    @property
    def history(self) -> int:
        """H, the earlier turns that a transition's context may hold."""
        return self.prompts.history

    @property
    def encoder(self) -> CachedEncoder:
        """What measures gaps, made at first use.

        Raises:
            RewardError: there is none.
            MissingExtraError: the package that ships its weights is not installed.
        """
        with self._lock:
            if self._made_encoder is None:
                chosen = self._encoder_choice
                if chosen is None and self._facts is not None:
                    chosen = self._facts.make_encoder()
                if chosen is None:
                    raise RewardError("a gap is measured by an encoder: pass encoder, or run")
                self._made_encoder = as_encoder(chosen)
            return self._made_encoder

    def predict(
        self, trajectory: Trajectory, action: MessageLike, *, kind: Kind | None = None
    ) -> Prediction:
        """What will come back of an action.

        Args:
            trajectory: what was so far. Where its last step is this action, still pending, what
                came before that counts.
            action: assistant message, as an OpenAI-style dict or a `Message`.
            kind: who will answer; by default a tool that is called, else the environment in whose
                trajectory this is, else the user.

        Raises:
            SchemaError: the action is no message.
            WorldModelUnavailableError: the endpoint is busy or out of reach.
            WorldModelError: it refuses the key, or the model.
            UsageError: prompts must be measured, and there is no tokenizer to do it.
            ModelError: the tokenizer cannot be loaded.
        """
        return self.submit(trajectory, action, kind=kind).result()

    async def apredict(
        self, trajectory: Trajectory, action: MessageLike, *, kind: Kind | None = None
    ) -> Prediction:
        """As `predict`."""
        return await asyncio.wrap_future(self.submit(trajectory, action, kind=kind))

    def submit(
        self,
        trajectory: Trajectory,
        action: MessageLike,
        *,
        kind: Kind | None = None,
        timeout_s: float | None = None,
    ) -> Future[Prediction]:
        """As `predict`, but does not wait: a future, which can be given up.

        Args:
            timeout_s: of a single request, for who does not wait any longer; None for as often and
                as long as the world model was made for.
        """
        return self._submit(self._transition(trajectory, action, kind), timeout_s)

    def predict_many(
        self, situations: Iterable[tuple[Trajectory, MessageLike]]
    ) -> list[Prediction]:
        """Predictions of n trajectories with an action each, in their order, asked at once."""
        asked = [self.submit(trajectory, action) for trajectory, action in situations]
        return results(asked)

    async def apredict_many(
        self, situations: Iterable[tuple[Trajectory, MessageLike]]
    ) -> list[Prediction]:
        """As `predict_many`."""
        asked = [self.submit(trajectory, action) for trajectory, action in situations]
        return await wait_for_all(asked)

    def gap(
        self, prediction: Prediction | str, next_state: str | Sequence[Message]
    ) -> float | None:
        """The sim-to-real gap ``d = 1 - cos(E(prediction), E(next state))`` (RWML sec. 2.2).

        Args:
            prediction: of this model, or any text.
            next_state: what came back; messages are put into the form that the model was trained
                on, a text is taken as it is.

        Returns:
            From 0 (the same) to 2; None where there is no prediction or nothing came back.

        Raises:
            RewardError: there is no encoder, or it fails.
        """
        said = prediction if isinstance(prediction, str) else prediction.text
        return self._gaps([said], [self._target(next_state)])[0]

    async def agap(
        self, prediction: Prediction | str, next_state: str | Sequence[Message]
    ) -> float | None:
        """As `gap`."""
        return await asyncio.wrap_future(self._workers.submit(self.gap, prediction, next_state))

    def surprise(self, transition: Transition) -> float | None:
        """The gap between what the model expects of a transition and what really came back.

        Args:
            transition: of ``store.transitions(history=world.history)``.

        Returns:
            From 0 to 2; None where there is none, never 0 for a missing one. `score_many` says why.

        Raises:
            WorldModelError, ModelError, RewardError: as `predict` and `gap`.
        """
        return self.score_many([transition])[0].surprise

    async def asurprise(self, transition: Transition) -> float | None:
        """As `surprise`."""
        return (await self.ascore_many([transition]))[0].surprise

    def surprise_many(self, transitions: Iterable[Transition]) -> list[float | None]:
        """`surprise` of n transitions, in their order, asked at once."""
        return [scored.surprise for scored in self.score_many(transitions)]

    async def asurprise_many(self, transitions: Iterable[Transition]) -> list[float | None]:
        """As `surprise_many`."""
        return [scored.surprise for scored in await self.ascore_many(transitions)]

    def score_many(self, transitions: Iterable[Transition]) -> list[Scored]:
        """Predictions of n transitions beside what came back, and how far apart they are."""
        given = list(transitions)
        predictions = results([self._submit(transition) for transition in given])
        return self._score(given, predictions)

    async def ascore_many(self, transitions: Iterable[Transition]) -> list[Scored]:
        """As `score_many`."""
        given = list(transitions)
        predictions = await wait_for_all([self._submit(transition) for transition in given])
        return await asyncio.wrap_future(self._workers.submit(self._score, given, predictions))

    def close(self) -> None:
        """Stops asking; what has not begun is given up, what is being asked is waited for."""
        self._workers.close()
        self._endpoint.close()

    def __enter__(self) -> WorldModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        self._lock = threading.Lock()  # of what is made at first use
        self._encoding = threading.Lock()
        self._prompting = threading.Lock()
        self._maker: PromptMaker | None = None
        self._made_encoder: CachedEncoder | None = None
        self._cache = PredictionCache(self._cached, kept_s=self._cached_s)
        self._workers = Workers(self._concurrency, name="rwml-world-model")

    def _in_child(self) -> None:
        """Threads, and who held the locks, stayed in the parent."""
        self._endpoint.in_child()
        self._start()

    def _submit(self, transition: Transition, timeout_s: float | None = None) -> Future[Prediction]:
        try:
            return self._workers.submit(self._predict, transition, timeout_s)
        except RuntimeError as error:
            raise UsageError("this world model was closed: make another one") from error

    def _predict(self, transition: Transition, timeout_s: float | None) -> Prediction:
        prompt = self._prompt(transition)
        if prompt is None:
            return Prediction(None, problem="too_long")
        # Who waits longer must not share the failure of who did not.
        content = json.dumps([self._endpoint.name, self._max_tokens, timeout_s, prompt])
        key = hashlib.sha256(content.encode()).digest()
        ask = functools.partial(
            self._endpoint.ask, prompt, max_tokens=self._max_tokens, timeout_s=timeout_s
        )
        return self._cache.get(key, ask)

    def _prompt(self, transition: Transition) -> Prompt | None:
        with self._prompting:
            if self._maker is None:
                self._maker = PromptMaker(self.prompts, self._load_tokenizer())
            return self._maker(transition)

    def _load_tokenizer(self) -> Any:
        """What measures prompts; None where their form does not depend on it."""
        if not self.prompts.needs_tokenizer:
            return None
        if self._tokenizer is None:
            raise UsageError(
                "prompts of the compact profile are shortened until they fit: pass run, or "
                "tokenizer=FOLDER of the model that is asked"
            )
        return load_tokenizer(self._tokenizer)

    def _transition(
        self, trajectory: Trajectory, action: MessageLike, kind: Kind | None
    ) -> Transition:
        message = read_message(action)
        place = len(trajectory.steps)
        if place and trajectory.steps[-1].status == "pending":
            place -= trajectory.steps[-1].action == message
        return Transition(
            id=f"{trajectory.id}/{place}/0",
            trajectory_id=trajectory.id,
            index=place,
            source=trajectory.source,
            task_id=trajectory.task_id,
            split=trajectory.split,
            context=trajectory.context(place, history=self.history),
            action=message,
            next_state=(),
            kind=kind or _kind(trajectory, message),
            status="pending",
            tools=trajectory.tools,
            metadata=trajectory.metadata,
        )

    def _target(self, next_state: str | Sequence[Message]) -> str:
        if isinstance(next_state, str):
            return next_state.strip()
        masked = self.prompts.mask_tools
        return join_results([result_text(message, masked=masked) for message in next_state])

    def _score(self, given: list[Transition], predictions: list[Prediction]) -> list[Scored]:
        targets = [render_next_state(each, mask=self.prompts.mask_tools) for each in given]
        found = self._gaps([prediction.text for prediction in predictions], targets)
        return [Scored(*each) for each in zip(predictions, targets, found, strict=True)]

    def _gaps(self, predictions: list[str | None], targets: list[str]) -> list[float | None]:
        pairs = list(zip(predictions, targets, strict=True))
        found = [(said, target) for said, target in pairs if said and target]
        if not found:
            return [None] * len(pairs)
        encoder = self.encoder
        with self._encoding:
            measured = iter(gaps(encoder, *map(list, zip(*found, strict=True))))
        return [max(0.0, next(measured)) if said and target else None for said, target in pairs]


def _kind(trajectory: Trajectory, action: Message) -> Kind:
    """Who will answer an action, as far as it and what came before say."""
    if action.tool_calls:
        return "tool"
    known = [step.kind for step in trajectory.steps if step.kind is not None]
    return "environment" if "environment" in known else "user"
