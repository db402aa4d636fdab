"""A recipe file of the tiny model, for commands that take ``--recipe``."""

from pathlib import Path

import pytest

RECIPE = """
model = "{model}"

[data]
profile = "compact"
history = 1
max_prompt_tokens = 1500
max_target_tokens = 400
validation_share = 0.25
held_out_share = 0.0

[filter]
enabled = false

[reward]
encoder = "all-minilm-l6-v2"

[warm_start]
steps = 1
batch_size = 1
micro_batch_size = 1
learning_rate = 1e-3

[grpo]
steps = 1
group_size = 2
learning_rate = 1e-4
max_new_tokens = 8
beta = 0.0

[evaluation]
rows = 4
max_new_tokens = 8
"""


@pytest.fixture(scope="session")
def tiny_recipe_file(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's recipe, with the tiny model and next to no steps."""
    path = tmp_path_factory.mktemp("recipes") / "tiny.toml"
    path.write_text(RECIPE.format(model=tiny_model))
    return path
