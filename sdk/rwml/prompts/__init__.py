"""What a world model is asked, and how its answer is read: templates and tag parsing."""

from rwml.prompts.parsing import Prediction, format_label, parse_prediction
from rwml.prompts.profiles import PROFILES, Profile, render_next_state, render_prompt

__all__ = [
    "PROFILES",
    "Prediction",
    "Profile",
    "format_label",
    "parse_prediction",
    "render_next_state",
    "render_prompt",
]
