"""A LoRA adapter in one pass (`training.tuning.fused_lora`) against peft's own layers, in turns.

Two models alike compute a forward pass, and one with its backward pass, one with peft's layers and one with
ours, ``--rounds`` times each; told is the ratio of the medians. One thread, CPU seconds, float32.

    python -m benchmarks.fused_lora [--rounds 10] [--write FILE]
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import peft
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.ddpo_vs_loop import PIXELS, RANK, TARGETS
from benchmarks.diffusion_dpo_vs_script import save_model
from training.tuning.fused_lora import fuse_adapters

TOKENS, ROWS = 1024, 16
Subject = tuple[nn.Module, Callable[[], Tensor]]  # a model, and a forward pass of it


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    options = parser.parse_args()
    torch.set_num_threads(1)
    makers: dict[str, Callable[[], Subject]] = {
        f"Llama, width {width}, six layers, all linear, rank 16": partial(llama, width)
        for width in (256, 768)
    }
    makers[f"U-Net of Stable Diffusion 1, widths / 5, {PIXELS} pixels, rank {RANK}"] = unet
    lines = []
    for name, make in makers.items():
        (_, theirs), (model, ours) = make(), make()
        fuse_adapters(model)
        trained, read = (ratio(theirs, ours, train=train, rounds=options.rounds) for train in (True, False))
        lines.append(f"| {name} | {trained:.2f} | {read:.2f} |")
    report = "\n".join(
        [
            "# LoRA layers in one pass",
            "",
            f"`python -m benchmarks.fused_lora --rounds {options.rounds}`: as fast as peft's, times.",
            "",
            f"{os.cpu_count()} CPU cores ({platform.machine()}), one thread, torch {version('torch')}, "
            f"peft {version('peft')}.",
            "",
            "| model | forward and backward | forward |",
            "| --- | --- | --- |",
            *lines,
        ]
    )
    print(report)
    if options.write:
        options.write.write_text(report + "\n", encoding="utf-8")
    return 0


def llama(width: int) -> Subject:
    """A small one with an adapter on every layer, and a pass over random tokens."""
    config = LlamaConfig(
        hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=6, num_attention_heads=8,
        vocab_size=2000,
    )  # fmt: skip
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    model = peft.get_peft_model(LlamaForCausalLM(config), lora)
    ids = torch.randint(config.vocab_size, (1, TOKENS))
    return model, lambda: model(input_ids=ids, logits_to_keep=TOKENS // 10).logits


def unet() -> Subject:
    """That of the DDPO benchmark, with its adapter on attention."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", PIXELS)
        model = UNet2DConditionModel.from_pretrained(Path(folder) / "model" / "unet")
    model.requires_grad_(False)
    model.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    latents = torch.randn(ROWS, 4, PIXELS // 8, PIXELS // 8)
    words = torch.randn(ROWS, 77, model.config.cross_attention_dim)
    times = torch.full((ROWS,), 500)
    return model, lambda: model(latents, times, words).sample


def ratio(before: Callable[[], Tensor], after: Callable[[], Tensor], *, train: bool, rounds: int) -> float:
    """Median CPU seconds of a pass before over those of one after, taken in turns."""
    seconds = [(_timed(before, train=train), _timed(after, train=train)) for _ in range(rounds + 2)]
    first, second = zip(*seconds[2:], strict=True)  # the first two warm up
    return statistics.median(first) / statistics.median(second)


def _timed(forward: Callable[[], Tensor], *, train: bool) -> float:
    start = time.process_time()
    with torch.set_grad_enabled(train):
        said = forward()
    if train:
        said.square().mean().backward()
    return time.process_time() - start


if __name__ == "__main__":
    raise SystemExit(main())
