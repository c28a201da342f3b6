"""Diffusion-DPO against the training step of diffusers' research script: pairs per second and peak memory.

The script, examples/research_projects/diffusion_dpo/train_diffusion_dpo.py of huggingface/diffusers, is no
package; its step is written out here as it is published: every step reads the pictures, encodes them and the
prompts again, gives all pictures of the batch to the U-Net at once, and a second time with the adapter off
for the reference (read beside the file as of commit c9c8217; logs, progress and checkpoints are left out).
``script`` has gradient checkpointing on, as in the command of its README; ``script, no
checkpointing`` is faster and takes more memory. Ours encodes once, before the first step, which is shown
beside, and reads two pairs at a time; its reference, asked before the first step, counts as training. Of the
twelve epochs ``tiebreak`` has four noises and timesteps for each pair in turn, for each of which the
reference is asked once; ``tiebreak, new noise`` has other ones in every epoch, like the script.

The floor, by counted operations: the script encodes, and passes the U-Net four times (policy, policy again
for its gradient, gradient, reference); ours three times with new noise, and 2⅓ times with four in turn.

All get the same model (Stable Diffusion 1's shape, every width divided by five, random weights, float32,
LoRA of rank 8 on the attention layers), the same pictures and prompts, AdamW, and the same pairs per step,
each in a process of its own with one thread. Times are CPU seconds without imports and loading; memory is the
peak of the process over what it holds after imports.

    python -m benchmarks.diffusion_dpo_vs_script [--quick] [--write FILE]
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PAIRS, BATCH, RANK, BETA, LEARNING_RATE = 8, 8, 8, 5000.0, 1e-5
MICRO, EPOCHS, DRAWS = 2, 12, 4  # pairs read at a time; as the demo's image model is tuned
CHILDREN = ("script", "script, no checkpointing", "tiebreak, new noise", "tiebreak")
SPEED_TARGET, MEMORY_TARGET = 2.0, 0.6


def main() -> int:
    """Measure, print, and say by the exit code whether the targets were met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="pictures of 128 pixels, two epochs")
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    parser.add_argument(
        "--child", nargs=4, metavar=("NAME", "FOLDER", "PIXELS", "STEPS"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.child:
        name, folder, pixels, steps = options.child
        run = run_tiebreak if name.startswith("tiebreak") else run_script
        print(json.dumps(run(name, Path(folder), int(pixels), int(steps))))
        return 0
    pixels, steps = (128, 2) if options.quick else (256, EPOCHS * PAIRS // BATCH)
    with tempfile.TemporaryDirectory() as name:
        save_model(Path(name) / "model", pixels)
        save_pairs(Path(name) / "data", pixels)
        found = {
            child: measure(child, Path(name), pixels, steps if "tiebreak" in child else max(2, steps // 2))
            for child in CHILDREN
        }
        floor = count_operations(Path(name) / "model", pixels)
    report = describe(found, floor, pixels, quick=options.quick)
    print(report)
    if options.write:
        options.write.write_text(report + "\n", encoding="utf-8")
    faster, smaller = ratios(found, "script")
    return 0 if faster >= SPEED_TARGET and smaller <= MEMORY_TARGET else 1


def save_model(folder: Path, pixels: int) -> None:
    """A pipeline of Stable Diffusion 1's shape and noise, with widths divided by five."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    tokenizer = CLIPTokenizer(
        vocab={word: at for at, word in enumerate(words)}, merges=[], model_max_length=77
    )
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=160, intermediate_size=640, num_hidden_layers=12,
        num_attention_heads=4, max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=pixels // 8, block_out_channels=(64, 128, 256, 256), cross_attention_dim=160,
        attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(24, 48, 104, 104), layers_per_block=2, norm_num_groups=8, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    StableDiffusionPipeline(
        unet=unet, vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def save_pairs(folder: Path, pixels: int) -> None:
    """Pictures of smooth noise, a quarter larger than the model's, and rows that prefer the first of two."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "media").mkdir(parents=True)
    rows = []
    for number in range(PAIRS):
        names = [f"{number}-{side}.jpg" for side in "ab"]
        for name in names:
            small = Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8))
            size = (pixels * 25 // 16, pixels * 5 // 4)
            small.resize(size, Image.Resampling.BICUBIC).save(folder / "media" / name, quality=95)
        prompt = "a picture of " + " ".join(rng.choice(list("bcdefgh"), 20))
        rows.append(
            {
                "prompt": prompt,
                "candidates": [{"image": name} for name in names],
                "judgements": [{"choice": 0}],
            }
        )
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_script(name: str, folder: Path, pixels: int, steps: int) -> dict[str, float]:
    """The published loop: names are the script's. Labels are 0 throughout, so the first picture is chosen."""
    import diffusers  # noqa: F401, imports are not timed
    import numpy as np
    import torch
    import torch.nn.functional as F
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from peft import LoraConfig
    from PIL import Image, ImageOps
    from torch.utils.data import DataLoader
    from transformers import CLIPTextModel, CLIPTokenizer

    before = peak()
    model = folder / "model"
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    noise_scheduler = DDPMScheduler.from_pretrained(model / "scheduler")
    text_encoder = CLIPTextModel.from_pretrained(model / "text_encoder").requires_grad_(False)
    vae = AutoencoderKL.from_pretrained(model / "vae").requires_grad_(False)
    unet = UNet2DConditionModel.from_pretrained(model / "unet").requires_grad_(False)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets)
    )
    if name == "script":
        unet.enable_gradient_checkpointing()
    params_to_optimize = [one for one in unet.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(params_to_optimize, lr=LEARNING_RATE, weight_decay=1e-2)

    def load(row: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Resize the shorter side, crop the middle, flip each picture by chance, -1..1; both on channels."""
        pictures = []
        for candidate in row["candidates"]:
            image = Image.open(folder / "data" / "media" / candidate["image"]).convert("RGB")
            image = ImageOps.fit(image, (pixels, pixels), method=Image.Resampling.BILINEAR)
            image = ImageOps.mirror(image) if torch.rand(1) < 0.5 else image
            pictures.append(torch.from_numpy(np.asarray(image)).permute(2, 0, 1).float() / 127.5 - 1)
        ids = tokenizer(
            row["prompt"], truncation=True, padding="max_length", max_length=77, return_tensors="pt"
        )
        return {"pixel_values": torch.cat(pictures), "input_ids": ids.input_ids[0]}

    rows = [json.loads(line) for line in (folder / "data" / "train.jsonl").read_text().splitlines()]
    loader: Any = DataLoader([*range(len(rows))], batch_size=BATCH, shuffle=True, collate_fn=lambda at: at)
    unet.train()
    start, done = time.process_time(), 0
    while done < steps:
        for places in loader:
            examples = [load(rows[at]) for at in places]
            pixel_values = torch.stack([one["pixel_values"] for one in examples])
            feed_pixel_values = torch.cat(pixel_values.chunk(2, dim=1))
            latents = torch.cat(
                [
                    vae.encode(feed_pixel_values[at : at + 8]).latent_dist.sample()
                    for at in range(0, len(feed_pixel_values), 8)  # --vae_encode_batch_size
                ]
            )
            latents = latents * vae.config.scaling_factor
            noise = torch.randn_like(latents).chunk(2)[0].repeat(2, 1, 1, 1)
            bsz = latents.shape[0] // 2
            timesteps = torch.randint(0, noise_scheduler.config.num_train_timesteps, (bsz,)).repeat(2)
            noisy_model_input = noise_scheduler.add_noise(latents, noise, timesteps)
            with torch.no_grad():
                states = text_encoder(torch.stack([one["input_ids"] for one in examples]))[0]
            encoder_hidden_states = states.repeat(2, 1, 1)
            model_pred = unet(noisy_model_input, timesteps, encoder_hidden_states).sample
            model_losses = F.mse_loss(model_pred, noise, reduction="none").mean(dim=(1, 2, 3))
            model_losses_w, model_losses_l = model_losses.chunk(2)
            unet.disable_adapters()
            with torch.no_grad():
                ref_preds = unet(noisy_model_input, timesteps, encoder_hidden_states).sample
                ref_loss = F.mse_loss(ref_preds, noise, reduction="none").mean(dim=(1, 2, 3))
            unet.enable_adapters()
            ref_losses_w, ref_losses_l = ref_loss.chunk(2)
            logits = (ref_losses_w - ref_losses_l) - (model_losses_w - model_losses_l)
            loss = -F.logsigmoid(BETA * logits).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params_to_optimize, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            if done == steps:
                break
    return {"seconds": time.process_time() - start, "memory": peak() - before, "steps": steps}


def run_tiebreak(name: str, folder: Path, pixels: int, steps: int) -> dict[str, float]:
    """The method diffusion_dpo, a pair in a micro-batch, latents and prompts encoded by then."""
    import diffusers
    import transformers

    from training.tuning.__main__ import main as train
    from training.tuning.images import batches, loading
    from training.tuning.methods import diffusion_dpo  # noqa: F401, imports are not timed

    diffusers.StableDiffusionPipeline, transformers.CLIPTextModel  # noqa: B018, loaded when first named

    before, encoding, loads = peak(), Clock(), Clock()
    batches.PreparedGroups.__init__ = encoding(batches.PreparedGroups.__init__)  # type: ignore[method-assign]
    loading.load_family = loads(loading.load_family)
    config = {
        "max_steps": steps, "batch_size": BATCH, "micro_batch_size": MICRO, "beta": BETA, "samples": 0,
        "learning_rate": LEARNING_RATE, "weight_decay": 1e-2, "warmup": 0, "scheduler": "constant",
        "resolution": pixels, "random_flip": True, "lora": {"r": RANK, "alpha": RANK,
        "target_modules": ["to_k", "to_q", "to_v", "to_out.0"]},
        "draws": DRAWS if name == "tiebreak" else None,
    }  # fmt: skip
    run = folder / name
    run.mkdir()
    (run / "data").symlink_to(folder / "data")
    spec = {"method": "diffusion_dpo", "config": config, "base": str(folder / "model"), "seed": 0}
    (run / "run.json").write_text(json.dumps(spec))
    start = time.process_time()
    if train([str(run)]):
        raise SystemExit("training failed")
    seconds = time.process_time() - start - encoding.seconds - loads.seconds
    return {"seconds": seconds, "memory": peak() - before, "steps": steps, "encoding": encoding.seconds}


class Clock:
    """Adds up the CPU seconds of functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function: Any) -> Any:
        """The same function, timed."""

        def timed(*given: Any, **named: Any) -> Any:
            start = time.process_time()
            try:
                return function(*given, **named)
            finally:
                self.seconds += time.process_time() - start

        return timed


def peak() -> float:
    """Megabytes that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, folder: Path, pixels: int, steps: int) -> dict[str, float]:
    """One child's result."""
    command = [sys.executable, "-m", "benchmarks.diffusion_dpo_vs_script", "--child", name]
    command += [str(folder), str(pixels), str(steps)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    print(name, found, file=sys.stderr)
    return found


def speed(found: dict[str, float]) -> float:
    """Pairs per CPU second."""
    return found["steps"] * BATCH / found["seconds"]


def ratios(found: dict[str, dict[str, float]], peer: str) -> tuple[float, float]:
    """Our pairs per second over theirs, and our memory over theirs."""
    ours, theirs = found["tiebreak"], found[peer]
    return speed(ours) / speed(theirs), ours["memory"] / theirs["memory"]


def count_operations(model: Path, pixels: int) -> dict[str, float]:
    """Billions of operations per pair, by matrix products and convolutions, of each trainer."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from peft import LoraConfig
    from torch.utils.flop_counter import FlopCounterMode

    vae = AutoencoderKL.from_pretrained(model / "vae").requires_grad_(False)
    unet = UNet2DConditionModel.from_pretrained(model / "unet").requires_grad_(False)
    unet.add_adapter(LoraConfig(r=RANK, target_modules=["to_k", "to_q", "to_v", "to_out.0"]))
    side = pixels // 8
    given = torch.randn(2, 4, side, side), torch.tensor([500, 500]), torch.randn(2, 77, 160)

    def count(work: Any) -> float:
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops() / 1e9

    encode = count(lambda: vae.encode(torch.randn(2, 3, pixels, pixels)))
    forward = count(lambda: unet(*given))
    both = count(lambda: unet(*given).sample.mean().backward())
    return {
        "script": encode + 2 * forward + both,
        "script, no checkpointing": encode + forward + both,
        "tiebreak, new noise": forward + both,
        "tiebreak": forward * DRAWS / EPOCHS + both,
    }


def describe(found: dict[str, dict[str, float]], floor: dict[str, float], pixels: int, *, quick: bool) -> str:
    """The result as Markdown."""
    from importlib.metadata import version

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "peft"))
    lines = [
        "# Diffusion-DPO against the step of diffusers' research script",
        "",
        f"`python -m benchmarks.diffusion_dpo_vs_script{' --quick' if quick else ''}`: Stable Diffusion 1's "
        f"shape, widths / 5, float32, LoRA of rank {RANK}, {pixels} pixels, {BATCH} pairs a step.",
        "",
        f"{os.cpu_count()} CPU cores ({platform.machine()}), one thread, Python {platform.python_version()}, "
        f"{versions}.",
        "",
        "| trainer | pairs per CPU second | peak memory, MB over imports | 10⁹ operations per pair |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {speed(one):.3f} | {one['memory']:.0f} | {floor[name]:.0f} |"
            for name, one in found.items()
        ),
        "",
    ]
    for peer in CHILDREN[:2]:
        faster, smaller = ratios(found, peer)
        targets = f" (targets {SPEED_TARGET:g} and {MEMORY_TARGET:g})" if peer == "script" else ""
        lines.append(
            f"- with {DRAWS} noises for each pair in {EPOCHS} epochs, against `{peer}`: **{faster:.2f}** × "
            f"its pairs per second at **{smaller:.2f}** × its memory{targets}"
        )
    fresh = found["tiebreak, new noise"]
    script = found["script"]
    lines.append(
        f"- with new noise in every epoch, as the script has: **{speed(fresh) / speed(script):.2f}** × it at "
        f"**{fresh['memory'] / script['memory']:.2f}** × its memory; by counted operations "
        f"{floor['script'] / floor['tiebreak, new noise']:.2f} × (with {DRAWS} noises in {EPOCHS} epochs "
        f"{floor['script'] / floor['tiebreak']:.2f} ×)"
    )
    once = found["tiebreak"]["encoding"]
    lines.append(
        f"- encoded once: {2 * PAIRS} pictures, as they are and mirrored, and prompts in {once:.1f} s"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
