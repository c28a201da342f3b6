"""Results of text methods, in the formats of peft and transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from training.tuning.text.loading import model_folder
from training.tuning.text.models import Kind, TextModel
from training.tuning.text.scorers import how_to_make
from training.tuning.weights import whole_weights


def save_result(
    policy: TextModel, *, precision: Literal["fp32", "bf16"], merged: bool
) -> Callable[[Path], None]:
    """A writer of the result: weights, tokenizer and chat template; ``merged/`` if asked for."""
    # Of divided weights every process must bring its parts.
    whole = None if policy.whole is None or is_peft(policy.model) else whole_weights(policy.inner)

    def write(folder: Path) -> None:
        beside = policy.processor or policy.tokenizer
        save_model(policy.model, beside, folder, precision=precision, weights=whole)
        if merged and is_peft(policy.model):
            unloaded = policy.model.merge_and_unload()
            save_model(unloaded, beside, folder / "merged", precision=precision)

    return write


def save_model(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    precision: Literal["fp32", "bf16"],
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a model with its tokenizer (or processor): adapters as float32, full weights in ``precision``.

    ``weights`` are given where the model itself has parts of them only.
    """
    if is_peft(model):
        # "auto" would ask a hub about the base's vocabulary; embeddings are never trained here.
        model.save_pretrained(str(folder), save_embedding_layers=False)
    elif weights is not None:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        model.save_pretrained(
            str(folder), state_dict={name: value.to(dtype) for name, value in weights.items()}
        )
    else:
        model = model.to(torch.bfloat16) if precision == "bf16" else model
        model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def is_peft(model: Any) -> bool:
    """True if the model has an adapter that has not been merged."""
    return hasattr(model, "merge_and_unload")


def how_to_load(policy: TextModel, *, kind: Kind) -> str:
    """Python that loads the result with the public libraries alone."""
    if policy.processor is not None:
        return _how_to_load_pictured(policy, kind=kind)
    name = "CausalLM" if kind == "causal" else "SequenceClassification"
    package, cls = (
        ("peft", f"AutoPeftModelFor{name}")
        if is_peft(policy.model)
        else ("transformers", f"AutoModelFor{name}")
    )
    outputs = 1 if policy.members or kind == "causal" else policy.inner.config.num_labels
    options = f", num_labels={outputs}" if kind == "reward" else ""
    member = f"/{policy.members[0]}" if policy.members else ""
    lines = [
        f"from {package} import {cls}",
        "from transformers import AutoTokenizer",
        "",
        f'model = {cls}.from_pretrained("result{member}"{options})',
        'tokenizer = AutoTokenizer.from_pretrained("result")',
    ]
    return "\n".join([*lines, *(_reward_usage(policy, outputs) if kind == "reward" else [])])


def _how_to_load_pictured(policy: TextModel, *, kind: Kind) -> str:
    """The same of a model that reads pictures; peft's own loaders know none of these."""
    outputs = 1 if policy.members or kind == "causal" else policy.inner.config.num_labels
    options = f", num_labels={outputs}" if kind == "reward" else ""
    name, make = "Model", ["from transformers import AutoModelForImageTextToText as Model"]
    if kind == "reward":
        name, make = "Scorer", how_to_make(policy.inner.config)
    lines = ["from transformers import AutoProcessor", *make, ""]
    if is_peft(policy.model):
        member = f"/{policy.members[0]}" if policy.members else ""
        lines = ["from peft import PeftModel", *lines]
        lines.append(f'base = {name}.from_pretrained("{model_folder(policy.base)}"{options})')
        lines.append(f'model = PeftModel.from_pretrained(base, "result{member}")')
    else:
        lines.append(f'model = {name}.from_pretrained("result"{options})')
    lines.append('processor = AutoProcessor.from_pretrained("result")')
    if kind == "reward":
        found, which = ("score", "[0, 0]") if outputs == 1 else ("outputs", "[0]")
        lines += [
            "# text: prompt and answer in the chat template, up to one end token and nothing after it",
            'inputs = processor(text=[text], images=[image], add_special_tokens=False, return_tensors="pt")',
            f"{found} = model(**inputs).logits{which}",
        ]
    return "\n".join(lines)


def _reward_usage(policy: TextModel, outputs: int) -> list[str]:
    """How a text is given to a reward model, which must be as it was in training."""
    found, which = ("score", "[0, 0]") if outputs == 1 else ("outputs", "[0]")
    if policy.layout == "separate":
        return [
            'inputs = tokenizer("the prompt", "the answer", return_tensors="pt")',
            f"{found} = model(**inputs).logits{which}",
        ]
    if policy.tokenizer.chat_template is not None:
        text = [
            'turns = [{"role": "user", "content": "the prompt"},',
            '         {"role": "assistant", "content": "the answer"}]',
            "text = tokenizer.apply_chat_template(turns, tokenize=False)",
            "ids = tokenizer(text, add_special_tokens=False).input_ids",
        ]
    else:
        text = ['ids = tokenizer("the prompt" + "the answer").input_ids']
    if policy.tokenizer.pad_token_id == policy.tokenizer.eos_token_id:
        end = "# without an end token at the end"
    else:
        end = "# ids must end with exactly one end token, and with nothing after it"
    return [*text, end, f"{found} = model(input_ids=torch.tensor([ids])).logits{which}"]
