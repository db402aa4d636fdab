"""Which transitions of a store a dataset is built from: by model, tenant and time."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from rwml.schema import Transition


class Selection(BaseModel):
    """What is taken; what is None is left open.

    Attributes:
        model: that chose the action: a name, or ``NAME`` for all of ``NAME@STEP``.
        tenant: whose traffic it is, as the recorder of a gateway names it.
        since: first moment of the action, in UTC.
        until: first moment that is not taken any more, in UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    tenant: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, transition: Transition) -> bool:
        """Whether a transition is taken; one that does not say is not."""
        if self.model is not None and not transition.is_by(self.model):
            return False
        if self.tenant is not None and transition.metadata.get("tenant") != self.tenant:
            return False
        return self._is_in_time(transition.started_at)

    def _is_in_time(self, moment: datetime | None) -> bool:
        if self.since is None and self.until is None:
            return True
        if moment is None:
            return False
        return not (
            (self.since is not None and moment < self.since)
            or (self.until is not None and moment >= self.until)
        )
