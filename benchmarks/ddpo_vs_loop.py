"""DDPO against a plain re-implementation of its published loop: pictures per second and peak memory.

The loop is that of github.com/kvablack/ddpo-pytorch (arXiv:2305.13301), scripts/train.py at commit 1958463,
with the settings of its configuration for compressibility on one device: every batch of eight prompts goes
through the text encoder, is sampled with guidance by DDIM with η = 1 and decoded, and is scored on a thread;
the update reads the pictures four at a time, one denoising step after another in an order that chance gives
every picture, both branches of guidance in one pass, with a backward pass for each step, and steps the
optimizer after two such batches. Left out: progress bars, the log and its pictures, and checkpoints. ``loop``
has the attention that it asks for, diffusers' LoRAAttnProcessor, which writes out the probabilities;
``loop, fused attention`` has what diffusers takes today. Ours gets the same model (as in
``diffusion_dpo_vs_script``), prompts, reward, guidance, pictures per epoch and per update; its final
checkpoint and result count as time.

All sample and train every step with both branches of guidance, so that counted operations are the same: what
ours saves is beside them (prompts encoded once, larger batches, no tensors kept for weights that are frozen).
Each runs in a process of its own with one thread; times are CPU seconds without imports and loading.

    python -m benchmarks.ddpo_vs_loop [--quick] [--write FILE]
"""

import argparse
import io
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from concurrent import futures
from pathlib import Path
from typing import Any

from benchmarks.diffusion_dpo_vs_script import Clock, peak, save_model

PIXELS, STEPS, GUIDANCE, RANK, LEARNING_RATE, CLIP = 128, 10, 5.0, 4, 3e-4, 1e-4
PICTURES, SAMPLED, TRAINED, ACCUMULATED = 32, 8, 4, 2  # of an epoch, of a batch; batches of an update
GENERATIONS, HISTORY = 4, 16
TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]
PROMPTS = [f"a picture of a {letter}" for letter in "abcdefghijklmnop"]
CHILDREN = ("loop", "loop, fused attention", "tiebreak")
GOAL = 1.3


def main() -> int:
    """Measure, print, and say by the exit code whether the target was met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one epoch of pictures in two steps each")
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    parser.add_argument(
        "--child", nargs=4, metavar=("NAME", "FOLDER", "EPOCHS", "STEPS"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.child:
        name, folder, epochs, steps = options.child
        run = run_tiebreak if name == "tiebreak" else run_loop
        print(json.dumps(run(name, Path(folder), int(epochs), int(steps))))
        return 0
    epochs, steps = (1, 2) if options.quick else (2, STEPS)
    with tempfile.TemporaryDirectory() as name:
        save_model(Path(name) / "model", PIXELS)
        found = {child: measure(child, Path(name), epochs, steps) for child in CHILDREN}
    report = describe(found, epochs, steps, quick=options.quick)
    print(report)
    if options.write:
        options.write.write_text(report + "\n", encoding="utf-8")
    faster, smaller = ratios(found, "loop")
    return 0 if options.quick or (faster >= GOAL and smaller <= 1) else 1


def run_loop(name: str, folder: Path, epochs: int, steps: int) -> dict[str, float]:
    """The published loop: names are its own."""
    import numpy as np
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from diffusers.models.attention_processor import AttnProcessor
    from peft import LoraConfig
    from PIL import Image

    before = peak()
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "model", safety_checker=None)
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.requires_grad_(False)
    pipeline.scheduler = scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    unet = pipeline.unet
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    if name == "loop":
        unet.set_attn_processor(AttnProcessor())
    trainable = [one for one in unet.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=LEARNING_RATE, weight_decay=1e-4)
    stats: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=HISTORY))
    executor = futures.ThreadPoolExecutor(max_workers=2)
    chance = random.Random(0)
    torch.manual_seed(0)

    def encode(prompts: list[str]) -> torch.Tensor:
        ids = pipeline.tokenizer(
            prompts, return_tensors="pt", padding="max_length", truncation=True, max_length=77
        )
        return pipeline.text_encoder(ids.input_ids)[0].detach()

    def step_with_logprob(said: Any, timesteps: Any, sample: Any, prev_sample: Any = None) -> Any:
        """DDIM's step with η = 1 for a timestep of each row, and the log-probability of where it went."""
        previous = (timesteps - scheduler.config.num_train_timesteps // steps).clamp(min=0)
        levels = scheduler.alphas_cumprod
        alpha, alpha_prev = (levels.gather(0, at).view(-1, 1, 1, 1) for at in (timesteps, previous))
        original = (sample - (1 - alpha) ** 0.5 * said) / alpha**0.5
        std = ((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)) ** 0.5
        mean = alpha_prev**0.5 * original + (1 - alpha_prev - std**2) ** 0.5 * said
        if prev_sample is None:
            prev_sample = mean + std * torch.randn_like(mean)
        logps = -((prev_sample.detach() - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
        return prev_sample, logps.mean(dim=tuple(range(1, logps.ndim)))

    def guided(latents: Any, timesteps: Any, embeds: Any) -> Any:
        said = unet(torch.cat([latents] * 2), torch.cat([timesteps] * 2), embeds).sample
        without, told = said.chunk(2)
        return without + GUIDANCE * (told - without)

    def compressibility(images: Any) -> list[float]:
        sizes = []
        for image in (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy():
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=95)
            sizes.append(-buffer.tell() / 1000)
        return sizes

    start = time.process_time()
    neg_prompt_embed = encode([""])
    for _ in range(epochs):
        samples = []
        unet.eval()
        for _ in range(PICTURES // SAMPLED):
            prompts = [chance.choice(PROMPTS) for _ in range(SAMPLED)]
            prompt_embeds = encode(prompts)
            embeds = torch.cat([neg_prompt_embed.repeat(SAMPLED, 1, 1), prompt_embeds])
            with torch.no_grad():
                scheduler.set_timesteps(steps)
                latents = torch.randn(SAMPLED, 4, PIXELS // 8, PIXELS // 8)
                all_latents, all_logps = [latents], []
                for t in scheduler.timesteps:
                    timesteps = t.repeat(SAMPLED)
                    latents, logps = step_with_logprob(guided(latents, timesteps, embeds), timesteps, latents)
                    all_latents.append(latents)
                    all_logps.append(logps)
                images = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
                images = (images / 2 + 0.5).clamp(0, 1)
            samples.append(
                {
                    "prompts": prompts,
                    "prompt_embeds": prompt_embeds,
                    "timesteps": scheduler.timesteps.repeat(SAMPLED, 1),
                    "latents": torch.stack(all_latents[:-1], dim=1),
                    "next_latents": torch.stack(all_latents[1:], dim=1),
                    "log_probs": torch.stack(all_logps, dim=1),
                    "rewards": executor.submit(compressibility, images),
                }
            )
        asked = [prompt for one in samples for prompt in one["prompts"]]
        rewards = np.array([value for one in samples for value in one["rewards"].result()])
        advantages = np.empty_like(rewards)
        for prompt in np.unique(asked):
            own = np.array(asked) == prompt
            stats[prompt].extend(rewards[own])
            known = rewards if len(stats[prompt]) < HISTORY else np.array(stats[prompt])
            advantages[own] = (rewards[own] - known.mean()) / (known.std() + 1e-6)
        names = ("prompt_embeds", "timesteps", "latents", "next_latents", "log_probs")
        joined = {name: torch.cat([one[name] for one in samples]) for name in names}
        joined["advantages"] = torch.as_tensor(advantages, dtype=torch.float32).clamp(-5, 5)
        order = torch.randperm(PICTURES)
        joined = {name: value[order] for name, value in joined.items()}
        places = torch.stack([torch.randperm(steps) for _ in range(PICTURES)])
        for name in names[1:]:
            joined[name] = joined[name][torch.arange(PICTURES)[:, None], places]
        unet.train()
        for number, at in enumerate(range(0, PICTURES, TRAINED), start=1):
            sample = {name: value[at : at + TRAINED] for name, value in joined.items()}
            embeds = torch.cat([neg_prompt_embed.repeat(TRAINED, 1, 1), sample["prompt_embeds"]])
            for j in range(steps):
                timesteps, latents = sample["timesteps"][:, j], sample["latents"][:, j]
                _, logps = step_with_logprob(
                    guided(latents, timesteps, embeds), timesteps, latents, sample["next_latents"][:, j]
                )
                ratio = torch.exp(logps - sample["log_probs"][:, j])
                unclipped = -sample["advantages"] * ratio
                clipped = -sample["advantages"] * ratio.clamp(1 - CLIP, 1 + CLIP)
                (torch.maximum(unclipped, clipped).mean() / (steps * ACCUMULATED)).backward()
            if number % ACCUMULATED == 0:
                torch.nn.utils.clip_grad_norm_(trainable, 1.0)
                optimizer.step()
                optimizer.zero_grad()
    return {"seconds": time.process_time() - start, "memory": peak() - before}


def run_tiebreak(name: str, folder: Path, epochs: int, steps: int) -> dict[str, float]:
    """The method ``ddpo``."""
    import diffusers
    import transformers

    from training.tuning.__main__ import main as train
    from training.tuning.images import loading
    from training.tuning.methods import ddpo  # noqa: F401, imports are not timed

    diffusers.StableDiffusionPipeline, transformers.CLIPTextModel  # noqa: B018, loaded when first named

    before, loads = peak(), Clock()
    loading.load_family = loads(loading.load_family)
    config = {
        "max_steps": epochs, "batch_size": PICTURES // GENERATIONS, "num_generations": GENERATIONS,
        "micro_batch_size": SAMPLED, "minibatches": PICTURES // (TRAINED * ACCUMULATED), "history": HISTORY,
        "clip": CLIP, "advantage_clip": 5.0, "num_inference_steps": steps, "guidance_scale": GUIDANCE,
        "learning_rate": LEARNING_RATE, "weight_decay": 1e-4, "warmup": 0, "scheduler": "constant",
        "max_grad_norm": 1.0, "samples": 0, "save_every": 10_000,
        "lora": {"r": RANK, "alpha": RANK, "target_modules": TARGETS},
    }  # fmt: skip
    run = folder / "run"
    (run / "data").mkdir(parents=True)
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    (run / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = [{"rule": "jpeg_size", "weight": -1.0}]
    spec = {"method": "ddpo", "config": config, "base": str(folder / "model"), "seed": 0, "reward": reward}
    (run / "run.json").write_text(json.dumps(spec))
    start = time.process_time()
    if train([str(run)]):
        raise SystemExit("training failed")
    return {"seconds": time.process_time() - start - loads.seconds, "memory": peak() - before}


def measure(name: str, folder: Path, epochs: int, steps: int) -> dict[str, float]:
    """One child's result."""
    command = [sys.executable, "-m", "benchmarks.ddpo_vs_loop", "--child", name, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(epochs), str(steps)], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    print(name, found, file=sys.stderr)
    return found


def ratios(found: dict[str, dict[str, float]], peer: str) -> tuple[float, float]:
    """Our pictures per second over the peer's, and our memory over its."""
    ours, theirs = found["tiebreak"], found[peer]
    return theirs["seconds"] / ours["seconds"], ours["memory"] / theirs["memory"]


def describe(found: dict[str, dict[str, float]], epochs: int, steps: int, *, quick: bool) -> str:
    """The result as Markdown."""
    from importlib.metadata import version

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "peft"))
    count = epochs * PICTURES
    return "\n".join(
        [
            "# DDPO against its published loop",
            "",
            f"`python -m benchmarks.ddpo_vs_loop{' --quick' if quick else ''}`: Stable Diffusion 1's shape, "
            f"widths / 5, float32, LoRA of rank {RANK}, {PIXELS} pixels, {steps} steps with guidance, "
            f"{PICTURES} pictures an epoch, {TRAINED * ACCUMULATED} an update.",
            "",
            f"{os.cpu_count()} CPU cores ({platform.machine()}), one thread, Python "
            f"{platform.python_version()}, {versions}.",
            "",
            "| trainer | pictures per CPU second | peak memory, MB over imports |",
            "| --- | --- | --- |",
            *(
                f"| {name} | {count / one['seconds']:.3f} | {one['memory']:.0f} |"
                for name, one in found.items()
            ),
            "",
            *(
                f"- {peer}: **{faster:.2f}** × its pictures per second at **{smaller:.2f}** × its memory"
                + (f" (targets {GOAL:g} and 1)" if peer == "loop" else "")
                for peer in CHILDREN[:2]
                for faster, smaller in [ratios(found, peer)]
            ),
            "- by counted operations 1.00 ×",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
