"""Tiny models of the real text architectures, with random weights, and a small byte-level tokenizer."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Please write a short answer to the question below.",
    "How do I reset my password? Open the settings, choose security, and press the button.",
    "A good answer is short, kind and correct; a bad one is long, rude or wrong: 1 2 3 4 5.",
]
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer(*, template: str | None = TEMPLATE, vocabulary: int = 330) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with merges, trained on three sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=["<unk>", "<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = template
    return fast


def config_of(architecture: str, tokenizer: Any, **changes: Any) -> Any:
    """A config of some 50,000 parameters."""
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    if architecture == "gpt2":
        options = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, **ends}
        return GPT2Config(vocab_size=len(tokenizer), **(options | changes))
    options = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": architecture == "qwen2",
        **ends,
    }
    cls = {"llama": LlamaConfig, "qwen2": Qwen2Config}[architecture]
    return cls(vocab_size=len(tokenizer), **(options | changes))


def save_causal(
    folder: Path,
    architecture: str = "llama",
    *,
    tokenizer: Any = None,
    seed: int = 0,
    sharp: bool = True,
    **changes: Any,
) -> Path:
    """A causal model with its tokenizer: ``sharp`` to compare numbers, else to learn."""
    tokenizer = tokenizer or tiny_tokenizer()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(architecture, tokenizer, **changes))
    if sharp:
        sharpen(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sharpen(model: torch.nn.Module) -> None:
    """Weights of unit scale, so that attention and positions matter, as they do in trained models."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "emb" not in name:
                parameter.mul_(6)


def save_encoder(folder: Path, *, seed: int = 0) -> Path:
    """A BERT encoder with its tokenizer."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz.,?!0123456789"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    from transformers import BertTokenizerFast

    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    model = BertModel(config)
    sharpen(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
