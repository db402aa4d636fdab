"""What went wrong, in words that hold nothing of a record.

Errors of libraries quote what they were given. What is logged or raised after redaction must not:
a redactor that fails would otherwise print what it was there to hide. Source: ours.
"""

from __future__ import annotations

from pydantic import ValidationError

from rwml.errors import RwmlError


def describe(error: BaseException) -> str:
    """What went wrong, for a log or a message: without texts of a record, which errors may quote.

    The messages of our own errors hold none. Of others, the type is told, and the field or place.
    """
    if isinstance(error, RwmlError):
        return str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = str(first["loc"][0]) if first["loc"] else "the whole"  # deeper keys are recorded
        return f"{error.title}: {where if where.isidentifier() else 'a field'}: {first['type']}"
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    name = type(error).__name__
    if place is None:
        return name
    file = place.tb_frame.f_code.co_filename.replace("\\", "/").rsplit("/", 1)[-1]
    return f"{name} ({file}:{place.tb_lineno})"
