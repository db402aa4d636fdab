"""What a world model is asked, and how its answer is read: templates and tag parsing."""

from rwml.prompts.parsing import Prediction, format_label, parse_prediction
from rwml.prompts.profiles import PROFILES, Profile, as_sft, render_next_state, render_prompt
from rwml.prompts.settings import PromptMaker, PromptSettings
from rwml.prompts.states import last_state
from rwml.prompts.templates import Template, Templates, load_templates

__all__ = [
    "PROFILES",
    "Prediction",
    "Profile",
    "PromptMaker",
    "PromptSettings",
    "Template",
    "Templates",
    "as_sft",
    "format_label",
    "last_state",
    "load_templates",
    "parse_prediction",
    "render_next_state",
    "render_prompt",
]
