"""Decoding from one cache of a group's prompt: the tokens of plain decoding, or a fallback."""

from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rwml_trainer.grpo import packing, prefill
from rwml_trainer.grpo.prefill import shared_prefill
from rwml_trainer.grpo.shared_cache import DECODING, SharedCache

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "bos_token_id": None,
}
FAMILIES: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(head_dim=8, **SHAPE)),
}
NEW = 12


def gemma() -> Any:
    layers = ["sliding_attention", "full_attention", "full_attention"]
    config = Gemma3TextConfig(head_dim=8, sliding_window=4, layer_types=layers, **SHAPE)
    return Gemma3ForCausalLM(config)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> list[SharedCache]:
    """Every shared cache that is made."""
    made: list[SharedCache] = []

    class Noted(SharedCache):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(prefill, "SharedCache", Noted)
    return made


def prompts(*counts: int) -> dict[str, torch.Tensor]:
    """Left-padded prompts of several lengths, each as often as it is counted, in a row."""
    rows, masks = [], []
    for place, count in enumerate(counts):
        length = 9 + 4 * place
        ids = torch.randint(3, 90, (length,))
        gap = 24 - length
        rows += [torch.cat([torch.zeros(gap, dtype=torch.long), ids])] * count
        masks += [torch.cat([torch.zeros(gap), torch.ones(length)]).long()] * count
    return {"input_ids": torch.stack(rows), "attention_mask": torch.stack(masks)}


def prompts_in(cache: SharedCache) -> list[int]:
    """Prompts that each layer keeps."""
    layers: Any = cache.layers
    return [layer.prompt_keys.shape[0] for layer in layers]


def generate(model: Any, batch: dict[str, torch.Tensor], **options: Any) -> Any:
    return model.generate(
        **batch, max_new_tokens=NEW, do_sample=False, output_logits=True,
        return_dict_in_generate=True, **options,
    )  # fmt: skip


def check(model: Any, batch: dict[str, torch.Tensor]) -> None:
    plain = generate(model, batch)
    with shared_prefill(model):
        ours = generate(model, batch)
    assert torch.equal(ours.sequences, plain.sequences)
    for mine, theirs in zip(ours.logits, plain.logits, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_plain_decoding(family: str, caches: list[SharedCache]) -> None:
    model = FAMILIES[family]().eval()
    check(model, prompts(4, 4, 4))
    assert prompts_in(caches[-1]) == [3] * 3, "each prompt once, in all layers"
    assert model.config._attn_implementation == "sdpa", "given back"


def test_groups_of_unequal_size_share_what_divides_them(caches: list[SharedCache]) -> None:
    model = FAMILIES["llama"]().eval()
    check(model, prompts(4, 2, 6))
    assert prompts_in(caches[-1]) == [6] * 3


def test_single_rows_share_nothing_and_are_not_copied(caches: list[SharedCache]) -> None:
    check(FAMILIES["llama"]().eval(), prompts(1, 2, 1))
    assert prompts_in(caches[-1]) == [4] * 3
    seen = len(caches)
    check(gemma().eval(), prompts(1, 1))
    assert len(caches) == seen


def test_a_model_that_packs_rows_keeps_its_attention(caches: list[SharedCache]) -> None:
    model = FAMILIES["qwen3"]().eval()
    assert packing.install(model) is None
    check(model, prompts(2, 2))
    assert caches
    assert model.config._attn_implementation == packing.ATTENTION


def test_bfloat16_differs_by_rounding_only() -> None:
    model = FAMILIES["llama"]().to(torch.bfloat16).eval()
    batch = prompts(4, 4)
    plain = generate(model, batch)
    with shared_prefill(model):
        ours = generate(model, batch)
    first = (ours.logits[0] - plain.logits[0]).abs().mean() / plain.logits[0].abs().mean()
    assert prefill._PROVEN[model]
    assert first < 0.02


def test_sliding_layers_get_copies(caches: list[SharedCache]) -> None:
    check(gemma().eval(), prompts(3, 3))
    assert not caches


def test_layers_without_keys_and_values_go_the_plain_way(caches: list[SharedCache]) -> None:
    config = Lfm2Config(**SHAPE, layer_types=["conv", "full_attention", "conv"])
    check(Lfm2ForCausalLM(config).eval(), prompts(3, 3))
    assert not caches


@pytest.mark.parametrize("fault", ["another answer", "an error"])
def test_a_model_that_cannot_gets_copies(
    fault: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = FAMILIES["llama"]().eval()
    actual = prefill.SharedCache

    def wrong(*args: Any) -> SharedCache:
        if fault == "an error":
            raise TypeError("no such layer")
        cache = actual(*args)
        for layer in cache.layers:
            layer.prompt_values = layer.prompt_values.flip(-2)  # type: ignore[attr-defined]
        return cache

    monkeypatch.setattr(prefill, "SharedCache", wrong)
    batch = prompts(3, 3)
    check(model, batch)
    check(model, batch)
    told = capfd.readouterr().err
    assert told.count("copies its prompt's cache") == 1, "once for a model"


def test_an_error_gives_the_attention_back(caches: list[SharedCache]) -> None:
    model = FAMILIES["llama"]().eval()

    def stop(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        assert model.config._attn_implementation == DECODING
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), shared_prefill(model):
        generate(model, prompts(3), logits_processor=[stop])
    assert model.config._attn_implementation == "sdpa"
    assert "generate" not in vars(model)
