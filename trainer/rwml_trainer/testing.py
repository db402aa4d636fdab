"""A tiny model and a run of it for tests: random weights, made in a second, never for a claim."""

from __future__ import annotations

from pathlib import Path

from rwml.extras import require
from rwml.prompts import PromptSettings
from rwml_trainer.models import load_model, load_tokenizer, template_sha256
from rwml_trainer.runs import FOLDERS, Run, write_run

PAD, START, END = SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] or '' }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = (
    "the quick brown fox jumps over the lazy dog",
    "You are a customer service agent. Predict the next state after the action.",
    '<think> </think> <next_state> {"type":"object","properties":{"order_id":{"type":"string"}}}'
    " </next_state> Error: user not found. Yes, please go ahead.",
)


def make_tiny_model(
    folder: Path, *, seed: int = 0, chat_template: bool = True, heads: int = 4
) -> Path:
    """Writes a 2-layer Llama of random weights with a byte-level BPE tokenizer.

    Args:
        folder: made if missing; receives config, safetensors and tokenizer.
        seed: of the weights.
        chat_template: False for a model that cannot chat.
        heads: of attention, which share 64 numbers; vLLM on a CPU needs 32 for each.

    Returns:
        The folder.
    """
    require("train", "torch", "transformers", "tokenizers")
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=PAD)
    if chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=SPECIAL_TOKENS.index(END),
        pad_token_id=SPECIAL_TOKENS.index(PAD),
        tie_word_embeddings=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    LlamaForCausalLM(config).save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_run(
    folder: Path, base: Path, *, name: str = "world", seed: int = 1, template: str | None = None
) -> Path:
    """Writes a finished run whose LoRA adapters are random and far from zero.

    Args:
        folder: of the run; made if missing.
        base: folder of the model, as `make_tiny_model` makes it.
        name: of the run.
        seed: of the LoRA weights.
        template: hash of the chat template to claim; by default the true one.

    Returns:
        The folder.
    """
    require("train", "torch", "peft")
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    for stage in FOLDERS["lora"].values():
        config = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(load_model(str(base)), config)
        for parameter, weight in model.named_parameters():
            if "lora_B" in parameter:
                torch.nn.init.normal_(weight, std=0.2)
        model.save_pretrained(str(folder / stage))
    run = Run(
        name=name,
        base_model=str(base),
        steps=3,
        rewards=(0.1, 0.2, 0.3),
        warm_start=True,
        template_sha256=template or template_sha256(load_tokenizer(str(base))),
        dataset="dataset",
        validation_share=0.25,
        seconds=1.0,
        prompts=PromptSettings(),
    )
    write_run(folder, run)
    return folder
