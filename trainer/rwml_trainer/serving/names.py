"""What a served model may be called."""

from __future__ import annotations

import re

NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._:-]{0,127})(?:@([0-9]{1,12}))?")
"""``NAME`` or ``NAME@STEP``: nothing that a path, a URL or LiteLLM's configuration could mean."""
