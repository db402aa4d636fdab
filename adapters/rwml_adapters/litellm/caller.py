"""Who made a call that LiteLLM tells of: conversation, tenant, user, and what its client said.

What LiteLLM's proxy found out from the key counts more than what the request says of itself. Keys,
their hashes and headers must never be read into what is stored. Pure functions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from rwml.correlation import ClientCall, read_headers

_TENANTS = (
    "user_api_key_team_alias",
    "user_api_key_team_id",
    "user_api_key_org_alias",
    "user_api_key_alias",
    "tenant",
)
"""Where a tenant's name may stand, the proxy's own findings first."""
_HEALTH_CHECK = "litellm-internal-health-check"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who made a call; None where nobody said.

    Attributes:
        session: the conversation's id, as the caller gave it.
        tenant: team, organisation or name of the key.
        user: the end user, as the request names them.
        trace_id: of the caller's trace.
        client_call: what an rwml client recorded of this call itself.
    """

    session: str | None = None
    tenant: str | None = None
    user: str | None = None
    trace_id: str | None = None
    client_call: ClientCall | None = None

    @property
    def scope(self) -> str | None:
        """What keeps conversations apart that begin alike; None for one scope of all."""
        if self.tenant is None and self.user is None:
            return self.session
        return json.dumps([self.tenant, self.user, self.session])

    @property
    def metadata(self) -> dict[str, JsonValue]:
        """What is kept with a trajectory; None for what is not known."""
        return {"thread_id": self.session, "tenant": self.tenant, "user": self.user}


def read_caller(kwargs: Mapping[str, Any]) -> Caller:
    """Who made the call, from the details that LiteLLM gives to a `CustomLogger`."""
    about = list(call_metadata(kwargs))
    parameters = _mapping(kwargs.get("litellm_params"))
    session = parameters.get("litellm_session_id") or _first(about, "session_id", "thread_id")
    user = _first(about, "user_api_key_end_user_id") or kwargs.get("user")
    request = _mapping(parameters.get("proxy_server_request"))
    return Caller(
        session=text(session),
        tenant=text(_first(about, *_TENANTS)),
        user=text(user),
        trace_id=text(_first(about, "trace_id")),
        client_call=read_headers(_mapping(request.get("headers"))),
    )


def call_metadata(kwargs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The call's metadata: some routes of the proxy keep theirs under another name."""
    parameters = _mapping(kwargs.get("litellm_params"))
    for name in ("metadata", "litellm_metadata"):
        if isinstance(parameters.get(name), Mapping):
            yield parameters[name]


def is_health_check(kwargs: Mapping[str, Any]) -> bool:
    """Whether the proxy itself made the call, to see if a model answers."""
    tags = (about.get("tags") for about in call_metadata(kwargs))
    return any(isinstance(each, list | tuple) and _HEALTH_CHECK in each for each in tags)


def served_version(kwargs: Mapping[str, Any]) -> str | None:
    """What `rwml serve` calls the model, ``NAME@STEP``: its engine knows it by another name."""
    known = (_mapping(about.get("model_info")) for about in call_metadata(kwargs))
    return next((text(each["rwml_version"]) for each in known if "rwml_version" in each), None)


def text(value: object) -> str | None:
    """A value as text; None for nothing."""
    return None if value is None or value == "" else str(value)


def _first(places: list[Mapping[str, Any]], *names: str) -> object:
    found = (place[name] for name in names for place in places if place.get(name))
    return next(found, None)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
