"""Shared prefixes against stock TRL: same loss, same gradients, fewer tokens, or a fallback."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    TrainerCallback,
)
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from rwml_trainer.grpo import packing
from rwml_trainer.grpo.trainer import SharedPrefixTrainer, shuffle_groups
from rwml_trainer.models import load_tokenizer

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "bos_token_id": None,
}
WINDOW = 8
SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, Callable[[int], Any]] = {
    "llama": lambda v: LlamaForCausalLM(LlamaConfig(vocab_size=v, **SHAPE)),
    "qwen2": lambda v: Qwen2ForCausalLM(Qwen2Config(vocab_size=v, **SHAPE)),
    "qwen3": lambda v: Qwen3ForCausalLM(Qwen3Config(vocab_size=v, head_dim=8, **SHAPE)),
    "gemma3": lambda v: Gemma3ForCausalLM(
        Gemma3TextConfig(vocab_size=v, head_dim=8, **SLIDING, **SHAPE)
    ),
}
GROUP = 4
LENGTH = 10
ROWS = [
    {"prompt": [{"role": "user", "content": "the quick brown fox jumps over " * (place + 8)}]}
    for place in range(6)
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Gradients(TrainerCallback):
    """What each optimiser step is about to apply."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **told: Any) -> None:
        parameters = told["model"].named_parameters()
        self.steps.append({n: p.grad.clone() for n, p in parameters if p.grad is not None})


class FixedCompletions:
    """Completions of many lengths that depend on nothing but their place."""

    def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> Any:
        noise = torch.Generator().manual_seed(7)
        lengths = [1 + (place * 3) % LENGTH for place in range(len(prompt_ids))]
        return [torch.randint(3, 200, (n,), generator=noise).tolist() for n in lengths], None


class Stock(FixedCompletions, GRPOTrainer):
    pass


class Ours(FixedCompletions, SharedPrefixTrainer):
    pass


def length_reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float((sum(ids) + len(ids)) % 5) for ids in completion_ids]


def settings(folder: Path, **changed: Any) -> GRPOConfig:
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 4,
        "num_generations": GROUP,
        "per_device_train_batch_size": 2 * GROUP,
        "gradient_accumulation_steps": 2,
        "num_iterations": 2,
        "max_completion_length": LENGTH,
        "beta": 0.1,
        "loss_type": "grpo",
        "optim": "sgd",
        "learning_rate": 0.1,
        "max_grad_norm": 0.0,
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": False,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    return GRPOConfig(**(values | changed))


@pytest.fixture(scope="module")
def saved(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Any]]:
    """Folder of a tiny model of a family, and a tokenizer."""
    tokenizer = load_tokenizer(str(tiny_model))
    root = tmp_path_factory.mktemp("families")

    def save(family: str) -> tuple[Path, Any]:
        folder = root / family
        if not folder.is_dir():
            torch.manual_seed(0)
            FAMILIES[family](len(tokenizer)).save_pretrained(folder)
        return folder, tokenizer

    return save


def load(folder: Path, *, lora: bool) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if not lora:
        return model
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model


def inner(model: Any) -> Any:
    """The backbone inside LoRA and head."""
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).model


def run(kind: Any, model: Any, tokenizer: Any, args: GRPOConfig, **more: Any) -> Any:
    """A finished training, the gradients of its steps, and the tokens that its layers saw."""
    gradients = Gradients()
    trainer = kind(
        model=model,
        reward_funcs=length_reward,
        args=args,
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
        callbacks=[gradients],
        **more,
    )
    tokens: list[int] = []
    inner(model).embed_tokens.register_forward_hook(lambda _m, a, _o: tokens.append(a[0].numel()))
    trainer.train()
    return trainer, gradients.steps, sum(tokens)


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_stock_trl(
    family: str,
    lora: bool,
    saved: Callable[[str], tuple[Path, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, tokenizer = saved(family)
    said: list[str] = []
    ours, ours_steps, ours_tokens = run(
        Ours, load(folder, lora=lora), tokenizer, settings(tmp_path), report=said.append
    )
    monkeypatch.setattr("trl.trainer.grpo_trainer.shuffle_sequence_dict", shuffle_groups)
    stock, stock_steps, stock_tokens = run(
        Stock, load(folder, lora=lora), tokenizer, settings(tmp_path)
    )
    assert ours.shares_prefix
    assert said == []
    assert len(ours_steps) == len(stock_steps) == 4
    for mine, theirs in zip(ours_steps, stock_steps, strict=True):
        assert mine.keys() == theirs.keys()
        for name, gradient in theirs.items():
            off = (mine[name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
            assert off < 1e-4, f"{name}: {off:.1e}"
    for mine, theirs in zip(ours.state.log_history, stock.state.log_history, strict=True):
        for key in ("loss", "kl", "entropy", "reward", "clip_ratio/region_mean"):
            if key in theirs:
                assert mine[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-6), key
    assert ours_tokens < 0.6 * stock_tokens


@pytest.mark.parametrize(
    ("family", "lora"), [*((name, False) for name in FAMILIES), ("llama", True)]
)
def test_generation_samples_what_stock_samples(
    family: str, lora: bool, saved: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    folder, tokenizer = saved(family)
    args = settings(tmp_path, max_steps=1, num_iterations=1)
    seen: dict[str, list[list[int]]] = {"stock": [], "ours": []}
    tokens: dict[str, int] = {}
    kinds: dict[str, Any] = {"stock": GRPOTrainer, "ours": SharedPrefixTrainer}
    for key, kind in kinds.items():

        def reward(completion_ids: list[list[int]], key: str = key, **_: Any) -> list[float]:
            seen[key] += completion_ids
            return length_reward(completion_ids)

        model = load(folder, lora=lora)
        more: dict[str, Any] = {"report": str} if key == "ours" else {}
        trainer = kind(
            model=model,
            reward_funcs=reward,
            args=args,
            train_dataset=Dataset.from_list(ROWS),
            processing_class=tokenizer,
            **more,
        )
        counted: list[int] = []
        inner(model).embed_tokens.register_forward_hook(
            lambda _m, a, _o, counted=counted: counted.append(a[0].numel())
        )
        trainer.train()
        tokens[key] = sum(counted)
    assert seen["ours"] == seen["stock"]
    assert len(seen["ours"]) == 4 * GROUP
    assert tokens["ours"] < 0.6 * tokens["stock"]


@pytest.mark.parametrize("fault", ["eager", "wrong", "raises", "window"])
def test_a_model_that_cannot_falls_back_with_one_line(
    fault: str,
    saved: Callable[[str], tuple[Path, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, tokenizer = saved("gemma3" if fault == "window" else "llama")
    model, plain = load(folder, lora=True), load(folder, lora=True)
    attend: Any = packing.attend

    def wrong(*args: Any, shared_prefix: Any = None, **kwargs: Any) -> Any:
        if shared_prefix is not None and fault == "raises":
            raise RuntimeError("no such kernel")
        if fault == "window":
            kwargs.pop("sliding_window")
            return attend(*args, shared_prefix=shared_prefix, **kwargs)
        return attend(*args[:4], None if shared_prefix else args[4], **kwargs)

    if fault == "eager":
        model.get_base_model().set_attn_implementation("eager")
    else:
        monkeypatch.setattr(packing, "attend", wrong)
    said: list[str] = []
    args = settings(tmp_path, max_steps=2)
    ours, steps, _ = run(Ours, model, tokenizer, args, report=said.append)
    assert ours.shares_prefix is False
    assert len(said) == 1
    assert said[0].startswith("each completion runs its own prompt")
    _, expected, _ = run(Stock, plain, tokenizer, args)
    for mine, theirs in zip(steps, expected, strict=True):
        for name, gradient in theirs.items():
            assert torch.allclose(mine[name], gradient, rtol=1e-3, atol=1e-6)


def test_switched_off_it_is_stock_trl(
    saved: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    folder, tokenizer = saved("llama")
    args = settings(tmp_path, max_steps=2)
    said: list[str] = []
    _, ours, ours_tokens = run(
        Ours,
        load(folder, lora=True),
        tokenizer,
        args,
        report=said.append,
        shared_prefix=False,
    )
    _, stock, stock_tokens = run(Stock, load(folder, lora=True), tokenizer, args)
    assert said == []
    assert ours_tokens == stock_tokens
    assert all(torch.equal(a[n], b[n]) for a, b in zip(ours, stock, strict=True) for n in b)


def test_packing_leaves_empty_completions_at_zero() -> None:
    ids = torch.tensor([[0, 5, 6, 7, 8], [0, 5, 6, 9, 0], [0, 5, 6, 0, 0]])
    mask = torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 1, 1, 0, 0]])
    packed = packing.pack(ids, mask, 2)
    assert packed is not None
    assert packed.input_ids.tolist() == [[5, 6, 7, 6]]
    assert packed.labels.tolist() == [[7, 8, 9]]
    assert packed.layout.positions.tolist() == [0, 1, 2, 1]
    assert [places.tolist() for places in packed.places] == [[0, 0, 1], [0, 1, 0]]
    assert packed.layout.mask(0, None)[0, 0].int().tolist() == [
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 0, 0, 1],
    ]
    assert packing.pack(ids[:1], mask[:1], 2) is None
    assert packing.pack(ids[2:], mask[2:], 2) is None


def test_shuffled_groups_stay_whole() -> None:
    torch.manual_seed(0)
    prompts = torch.arange(5).repeat_interleave(3)[:, None]
    batch = {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": torch.arange(15)[:, None],
        "num_items_in_batch": torch.tensor(15),
    }
    shuffled = shuffle_groups(batch)
    assert shuffled["prompt_ids"].tolist() != prompts.tolist()
    groups = shuffled["prompt_ids"].view(5, 3)
    assert (groups == groups[:, :1]).all()
    assert (shuffled["completion_ids"] // 3).tolist() == shuffled["prompt_ids"].tolist()
    assert shuffled["num_items_in_batch"] == 15
