"""Loading tokenizers safely: from a folder or the hub, with no code of theirs.

They measure prompts and hold the chat template, for training and for whoever asks the trained
model. transformers is imported inside the functions.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from rwml.errors import ModelError
from rwml.extras import require
from rwml.prompts.profiles import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Loads a tokenizer that can be trained with: it has a chat template and a pad token.

    Raises:
        ModelError: the folder is missing, or it has no chat template.
        MissingExtraError: transformers is not installed.
    """
    require("train", "transformers")
    from transformers import AutoTokenizer

    quiet_libraries()
    check_model_folder(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{name} has no tokenizer that can be loaded: {error}") from error
    if not tokenizer.chat_template:
        raise ModelError(
            f"{name} has no chat template: use an instruct model, "
            f"or add chat_template.jinja to its folder"
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"{name} has neither a pad nor an end-of-sequence token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def quiet_libraries() -> None:
    """Keeps transformers' own progress bars and notices off stderr, where ours are shown."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\..*")


def render_chat(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """The text of a chat prompt, by the tokenizer's own template, ready for the answer."""
    return str(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))


def check_model_folder(name: str) -> None:
    """Refuses the name of a folder that is none, before a hub is asked for it.

    Raises:
        ModelError: there is no such folder.
    """
    looks_local = name.startswith((".", "/", "~")) or Path(name).exists()
    if looks_local and not Path(name).is_dir():
        raise ModelError(f"no model folder at {name}")
