"""Train the demo's text model from nothing: a byte-level tokenizer and a small Llama.

1. Sample the corpus (`text_world.corpus`) and train a byte-level BPE tokenizer on it.
2. Train a `LlamaForCausalLM` on the answers, given their prompts, with AdamW and a cosine schedule.
3. Sample answers to held-out prompts at temperature 1 and count how many the grammar could have made.
4. Write everything in transformers format, weights in float16, with `MANIFEST.json`.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from webapp.demo import text_world

VOCABULARY = 1024
SAMPLES = 60_000
STEPS = 5_000
BATCH = 24
LEARNING_RATE = 5e-3
WARMUP = 100
LOG_EVERY = 100
PROBE_SAMPLES = 500
PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
# A system message is part of the user's turn: the model has seen one question and one answer only.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|assistant|>' if message['role'] == 'assistant' else '<|user|>' }}{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

Progress = Callable[[str], None]


def build(
    out: Path, *, seed: int, progress: Progress, steps: int = STEPS, samples: int = SAMPLES
) -> dict[str, object]:
    """Train tokenizer and model, write them with their manifest to `out`, and return the manifest."""
    started = time.monotonic()
    pairs = list(text_world.corpus(samples, seed))
    tokenizer = train_tokenizer(pairs)
    progress(f"text: {len(pairs):,} samples, {len(tokenizer):,} tokens")
    torch.manual_seed(seed)
    model = LlamaForCausalLM(model_config(tokenizer))
    progress(f"text: {model.num_parameters():,} parameters, {steps:,} steps of {BATCH}")
    train(model, tokenize(tokenizer, pairs), steps=steps, seed=seed, progress=progress)
    measured = probe(model, tokenizer, n=PROBE_SAMPLES, seed=seed)
    progress(f"text: {measured}")
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    model.half().save_pretrained(out, safe_serialization=True)
    _load_as_float32(out / "config.json")
    manifest: dict[str, object] = {
        "command": "python manage.py build_demo_models text",
        "seed": seed,
        "steps": steps,
        "sha256": {name: _sha256(out / name) for name in ("model.safetensors", "tokenizer.json")},
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "measured": measured,
        "seconds": round(time.monotonic() - started),
    }
    (out / "MANIFEST.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def train_tokenizer(pairs: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every digit is a token of its own, so that order numbers can be copied."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((text for pair in pairs for text in pair), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def model_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """A Llama of three layers; two are the least that can copy a detail from the prompt."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=336,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> list[tuple[list[int], int]]:
    """Per sample its token ids in the chat format and how many of them are prompt."""
    user, assistant, end = tokenizer.convert_tokens_to_ids([USER, ASSISTANT, END])
    questions = tokenizer([prompt for prompt, _ in pairs], add_special_tokens=False)["input_ids"]
    answers = tokenizer([answer for _, answer in pairs], add_special_tokens=False)["input_ids"]
    return [
        ([user, *question, end, assistant, *answer, end], len(question) + 3)
        for question, answer in zip(questions, answers, strict=True)
    ]


def train(
    model: LlamaForCausalLM, data: list[tuple[list[int], int]], *, steps: int, seed: int, progress: Progress
) -> None:
    """Next-token cross-entropy on the answers; a cosine from LEARNING_RATE to a hundredth of it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    started, loss_sum = time.monotonic(), 0.0
    for step, (ids, labels) in enumerate(_batches(data, steps=steps, seed=seed), start=1):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_factor(step, steps)
        # The batch is padded on the right, where a causal model needs no mask.
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        wanted = labels[:, 1:] != -100
        loss = cross_entropy(model.lm_head(hidden[wanted]), labels[:, 1:][wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss_sum += loss.item()
        if step % LOG_EVERY == 0 or step == steps:
            seconds = time.monotonic() - started
            mean = loss_sum / ((step - 1) % LOG_EVERY + 1)
            left = seconds / step * (steps - step)
            progress(f"text: step {step:,} of {steps:,}, loss {mean:.4f}, {seconds:.0f} s, {left:.0f} s left")
            loss_sum = 0.0
    model.eval()


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to 0.01."""
    warmup = min(WARMUP, steps // 10 + 1)
    if step < warmup:
        return step / warmup
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


@torch.no_grad()
def probe(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, n: int, seed: int
) -> dict[str, float]:
    """Samples at temperature 1 on held-out prompts: shares that the grammar allows, with right details."""
    torch.manual_seed(seed)
    prompts = text_world.prompts("held_out", n, seed)
    answers = sample(model, tokenizer, prompts)
    return {
        "samples": n,
        "well_formed": round(sum(map(text_world.well_formed, answers)) / n, 4),
        "details_right": round(sum(map(text_world.details_right, prompts, answers)) / n, 4),
        "utility": round(sum(map(text_world.utility, prompts, answers)) / n, 4),
    }


@torch.no_grad()
def sample(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str]) -> list[str]:
    """One answer per prompt at temperature 1."""
    tokenizer.padding_side = "left"
    answers: list[str] = []
    for start in range(0, len(prompts), 128):
        messages = [[{"role": "user", "content": prompt}] for prompt in prompts[start : start + 128]]
        batch = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**batch, do_sample=True, top_k=0, max_new_tokens=120)
        new = output[:, batch["input_ids"].shape[1] :]
        answers += [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
    return answers


def _batches(
    data: list[tuple[list[int], int]], *, steps: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and labels, both (BATCH, T): samples of like length together, in an order of their own."""
    generator = torch.Generator().manual_seed(seed)
    order: list[list[int]] = []
    for _ in range(steps):
        if not order:
            shuffled = torch.randperm(len(data), generator=generator).tolist()
            chunks = [shuffled[at : at + BATCH * 20] for at in range(0, len(shuffled), BATCH * 20)]
            by_length = [row for chunk in chunks for row in sorted(chunk, key=lambda row: len(data[row][0]))]
            batches = [by_length[at : at + BATCH] for at in range(0, len(by_length), BATCH)]
            order = [batches[at] for at in torch.randperm(len(batches), generator=generator).tolist()]
        rows = [data[row] for row in order.pop()]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
        labels = torch.tensor(
            [[-100] * prompt + ids[prompt:] + [-100] * (width - len(ids)) for ids, prompt in rows]
        )
        yield ids, labels


def _load_as_float32(config: Path) -> None:
    """Let `from_pretrained` widen the stored float16 weights, which only keep the folder small."""
    content = json.loads(config.read_text())
    content["dtype"] = "float32"
    config.write_text(json.dumps(content, indent=2) + "\n")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
