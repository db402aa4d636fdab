"""LiteLLM's `custom_auth`: tells it whom the guard let in, and what that key may do.

LiteLLM then holds the key to its models and its rate, both without its database. It needs
`custom_auth_run_common_checks` and `enable_post_custom_auth_checks` for that (see `gateway`).
The guard has checked the key itself before the body was read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwml_trainer.serving.guard import ADMISSION, Admission

if TYPE_CHECKING:
    from fastapi import Request
    from litellm.proxy._types import UserAPIKeyAuth

NONE = "no-default-models"
"""LiteLLM's own name for no model at all; an empty list would mean every model."""


async def authenticate(request: Request, api_key: str) -> UserAPIKeyAuth:
    """Who a request comes from; the key's name is its alias, so that recorded traffic tells it.

    Raises:
        HTTPException: 401; the guard let nobody in, so this is not behind it.
    """
    from fastapi import HTTPException
    from litellm.proxy._types import LitellmUserRoles, UserAPIKeyAuth

    admission = request.scope.get(ADMISSION)
    if not isinstance(admission, Admission) or admission.key is None:
        raise HTTPException(401, "no valid key")
    return UserAPIKeyAuth(
        api_key=admission.key.sha256,  # by which it counts requests
        key_alias=admission.key.name,
        user_role=LitellmUserRoles.INTERNAL_USER,
        models=list(admission.models) or [NONE],
        rpm_limit=admission.key.rpm_limit,
    )
