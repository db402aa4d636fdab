"""What tests of several packages share: a tiny model, and no hub."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models; two tests run at once
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised two-layer Llama with a chat template."""
    pytest.importorskip("torch")
    from rwml_trainer.testing import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "llama")
