"""Builds the demo's image model from nothing: a small Stable Diffusion for the shapes of `image_world`.

1. a word-level CLIP tokenizer over the prompts' words;
2. an autoencoder, 32 × 32 × 3 pixels to 8 × 8 × 4 latents, trained on drawn pictures;
3. a text encoder and a U-Net, trained together to predict v (arXiv:2202.00512) on a squared-cosine schedule
   that ends in pure noise (arXiv:2305.08891); the moving average of their weights is kept;
4. everything written as a `StableDiffusionPipeline` folder in half precision, with MANIFEST.json.

A build can be stopped at any time: the same call goes on from its newest state. The same seed gives the same
model up to the rounding of matrix products, which differs between machines and even between runs.
"""

import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from webapp.demo import image_world as world
from webapp.demo.stage import Stage

AUTOENCODER_STEPS = 5_000
AUTOENCODER_BATCH = 16
AUTOENCODER_RATE = 2e-3
LATENT_NOISE = 0.1  # standard deviations, added while the decoder learns, so that it forgives small errors
DENOISER_STEPS = 17_000
DENOISER_BATCH = 32
DENOISER_RATE = 2e-3
PICTURES = 20_000  # drawn and encoded once for the denoiser
EMPTY_PROMPTS = 0.05  # so that guidance is possible, though nothing needs it
AVERAGE_EVERY = 10  # steps
AVERAGE = 0.99  # of the averaged weights is kept each time
SAMPLING = {"num_inference_steps": 12, "guidance_scale": 1.0}
END = "<|endoftext|>"
PROBED = ("colour", "shape", "background")

Progress = Callable[[str], None]


def build(out: Path, *, seed: int, progress: Progress, steps_scale: float = 1.0) -> dict[str, object]:
    """Train the model and write it to `out`; returns what MANIFEST.json says.

    `steps_scale` shortens every stage in proportion, for tests. While it works, the newest state lies in
    `<out>.partial`, from where an interrupted build goes on.
    """
    partial = out.with_name(out.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    stages = [
        Stage(partial / f"{name}.pt", max(1, round(steps_scale * steps)), seed + number, progress)
        for number, (name, steps) in enumerate(
            [("autoencoder", AUTOENCODER_STEPS), ("denoiser", DENOISER_STEPS)], start=1
        )
    ]
    tokenizer = make_tokenizer()
    autoencoder = make_autoencoder(seed)
    train_autoencoder(autoencoder, stages[0])
    latents, prompts = encode_pictures(autoencoder, max(256, round(steps_scale * PICTURES)), seed + 3)
    text_encoder, unet = make_denoiser(seed, tokenizer)
    train_denoiser(
        unet, text_encoder, latents, tokenize(tokenizer, prompts), tokenize(tokenizer, [""]), stages[1]
    )
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    save(pipeline, partial / "pipeline")
    samples = max(20, round(min(1.0, steps_scale) * 400))
    manifest = {
        "command": f"python manage.py build_demo_models image --seed {seed}",
        "seed": seed,
        "steps_scale": steps_scale,
        "sha256": hashes(partial / "pipeline"),
        "versions": versions(),
        "cpu_seconds": {stage.path.stem: round(stage.total_seconds) for stage in stages},
        "probe": probe(load(partial / "pipeline"), samples, seed + 4),
        "probe_samples": samples,
        "sampling": SAMPLING,
    }
    (partial / "pipeline" / "MANIFEST.json").write_text(json.dumps(manifest, indent=2) + "\n")
    if out.exists():
        shutil.rmtree(out)
    os.replace(partial / "pipeline", out)
    shutil.rmtree(partial)
    progress(f"wrote {out}: the probe reads {manifest['probe']}")
    return manifest


def make_tokenizer() -> CLIPTokenizer:
    """Every word of the prompts is one token, other words are spelt."""
    every = [
        world.Request(colour, shape, background, size).prompt
        for colour, shape, background in itertools.product(world.COLOURS, world.SHAPES, world.BACKGROUNDS)
        for size in (None, *world.SIZES)
    ]
    learner = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    learner.train_from_iterator(
        every,
        trainers.BpeTrainer(
            vocab_size=1_000,
            special_tokens=["<|startoftext|>", END],
            initial_alphabet=letters,
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    learnt = json.loads(learner.to_str())["model"]
    return CLIPTokenizer(
        vocab=learnt["vocab"], merges=[tuple(pair) for pair in learnt["merges"]], model_max_length=16
    )


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """(n, 16) token ids, padded as the pipeline pads."""
    return tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def make_autoencoder(seed: int) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=world.SIDE,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).to(memory_format=torch.channels_last)


def make_denoiser(seed: int, tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    torch.manual_seed(seed)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            projection_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # At CLIP's 0.02 the words take long to come apart.
    embeddings = text_encoder.get_input_embeddings()
    nn.init.normal_(embeddings.weight, std=1.0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 80),
        layers_per_block=1,
        # Attention at 4 × 4 only: a step costs two thirds, and as much is learnt in the same time.
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=4,  # the number of heads, despite its name
        norm_num_groups=16,
    ).to(memory_format=torch.channels_last)
    return text_encoder, unet


def make_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def draw_batch(n: int, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
    """(n, 3, 32, 32) pictures in -1..1 and their prompts; half of the prompts name the size."""
    pictures, prompts = [], []
    for _ in range(n):
        colour, shape, background = (
            str(rng.choice(list(names))) for names in (world.COLOURS, world.SHAPES, world.BACKGROUNDS)
        )
        size = str(rng.choice(list(world.SIZES))) if rng.random() < 0.5 else None
        request = world.Request(colour, shape, background, size)
        pictures.append(np.asarray(world.draw(world.sample_scene(request, rng))))
        prompts.append(request.prompt)
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return pixels.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last), prompts


def train_autoencoder(autoencoder: AutoencoderKL, stage: Stage) -> None:
    """Squared and absolute error of pictures decoded from noisy latents; sets the latents' scale."""
    optimizer = torch.optim.AdamW(
        autoencoder.parameters(), lr=AUTOENCODER_RATE, betas=(0.9, 0.99), weight_decay=1e-4
    )
    stage.resume({"model": autoencoder, "optimizer": optimizer})
    for step in range(stage.first, stage.steps):
        cosine = 0.5 + 0.5 * math.cos(math.pi * step / stage.steps)
        set_rate(optimizer, AUTOENCODER_RATE * min(warmup(step, stage.steps), cosine))
        pictures, _ = draw_batch(AUTOENCODER_BATCH, stage.rng)
        latents = autoencoder.encode(pictures).latent_dist.mean
        noise = torch.randn(latents.shape, generator=stage.generator) * LATENT_NOISE * latents.detach().std()
        difference = autoencoder.decode(latents + noise).sample - pictures
        loss = difference.square().mean() + 0.1 * difference.abs().mean() + 1e-4 * latents.square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        stage.after(step, loss)
    with torch.no_grad():
        pictures, _ = draw_batch(256, np.random.default_rng(0))
        latents = autoencoder.encode(pictures).latent_dist.mean
        spread = latents.std().item()
        error = (autoencoder.decode(latents).sample.clamp(-1, 1) - pictures).square().mean().item()
        # The encoder's variance was not trained: make it constant and small.
        encoder_end = autoencoder.encoder.conv_out
        encoder_end.weight[latents.shape[1] :].zero_()
        encoder_end.bias[latents.shape[1] :].fill_(2 * math.log(0.02 * spread))
    autoencoder.register_to_config(scaling_factor=1 / spread)
    stage.progress(f"autoencoder: {10 * math.log10(4 / error):.1f} dB, latent spread {spread:.3f}")


@torch.no_grad()
def encode_pictures(autoencoder: AutoencoderKL, n: int, seed: int) -> tuple[Tensor, list[str]]:
    """(n, 4, 8, 8) latents of unit spread, and the prompts of their pictures."""
    rng = np.random.default_rng(seed)
    latents, prompts = [], []
    for start in range(0, n, 250):
        pictures, named = draw_batch(min(250, n - start), rng)
        latents.append(autoencoder.encode(pictures).latent_dist.mean * autoencoder.config.scaling_factor)
        prompts += named
    return torch.cat(latents), prompts


def train_denoiser(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    latents: Tensor,
    tokens: Tensor,
    empty: Tensor,
    stage: Stage,
) -> None:
    """Mean squared error of v (Appendix D of arXiv:2202.00512); leaves the averaged weights in the models.

    latents (n, 4, 8, 8), tokens (n, 16), empty (1, 16).
    """
    both = nn.ModuleList([unet, text_encoder])
    # While much is learnt, a long memory would hold the average back: its horizon grows with the count.
    average = torch.optim.swa_utils.AveragedModel(
        both, avg_fn=lambda old, new, count: old + (new - old) * max(1 - AVERAGE, 5 / (count + 10))
    )
    optimizer = torch.optim.AdamW(
        both.parameters(), lr=DENOISER_RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    scheduler = make_scheduler()
    stage.resume({"model": both, "average": average, "optimizer": optimizer})
    losses = torch.zeros(0)
    for step in range(stage.first, stage.steps):
        set_rate(optimizer, denoiser_rate(step, stage.steps))
        rows = torch.randint(len(latents), (DENOISER_BATCH,), generator=stage.generator)
        dropped = torch.rand(DENOISER_BATCH, generator=stage.generator) < EMPTY_PROMPTS
        words = torch.where(dropped[:, None], empty, tokens[rows])
        # One timestep from each of equal strata, which makes the batch's mean steadier.
        strata = (
            torch.arange(DENOISER_BATCH) + torch.rand(DENOISER_BATCH, generator=stage.generator)
        ) / DENOISER_BATCH
        timesteps = (strata * scheduler.config.num_train_timesteps).long()
        noise = torch.randn(latents[rows].shape, generator=stage.generator)
        noisy = scheduler.add_noise(latents[rows], noise, timesteps)
        target = scheduler.get_velocity(latents[rows], noise, timesteps)
        predicted = unet(noisy, timesteps, text_encoder(words)[0]).sample
        loss = F.mse_loss(predicted, target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % AVERAGE_EVERY == 0 or step + 1 == stage.steps:
            average.update_parameters(both)
        losses = torch.cat([losses, loss.detach()[None]])[-100:]
        stage.after(step, losses.mean())
    both.load_state_dict(average.module.state_dict())


def denoiser_rate(step: int, steps: int) -> float:
    """Level and then down to nothing; once more from half the rate, straight down (arXiv:1608.03983)."""
    first = round(steps * 10 / 17)
    if step < first:
        return DENOISER_RATE * min(warmup(step, first), 1.0, 4 * (1 - step / first))
    return DENOISER_RATE / 2 * min(warmup(step - first, steps - first), (steps - step) / (steps - first))


def warmup(step: int, steps: int) -> float:
    """The share of the full learning rate early in a stage: rises to 1 within 100 steps."""
    return (step + 1) / min(100, max(1, steps // 10))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def save(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Write the pipeline in half precision, half the size on disk; everybody loads it in float32."""
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    # Read by `image_generate`: how this model likes to be sampled.
    (folder / "generation_config.json").write_text(json.dumps(SAMPLING, indent=2) + "\n")


def load(folder: Path) -> StableDiffusionPipeline:
    """The pipeline in float32 on the CPU, without a progress bar."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipeline: StableDiffusionPipeline, prompts: list[str], seed: int, *, batch: int = 50) -> list:
    """One picture (PIL) for every prompt."""
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for start in range(0, len(prompts), batch):
        pictures += pipeline(
            prompts[start : start + batch],
            generator=generator,
            **SAMPLING,
        ).images
    return pictures


def probe(pipeline: StableDiffusionPipeline, n: int, seed: int) -> dict[str, float]:
    """The share of samples whose colour, shape, background, and all three, the probe reads as asked for."""
    prompts = world.prompts("train", n - n // 4, seed) + world.prompts("held_out", n // 4, seed)
    hits = []
    for prompt, picture in zip(prompts, sample(pipeline, prompts, seed), strict=True):
        reading = world.read(picture)
        matches = reading.matches(world.parse(prompt)) if reading else dict.fromkeys(PROBED, False)
        hits.append({**matches, "all": all(matches.values())})
    return {name: round(float(np.mean([hit[name] for hit in hits])), 4) for name in (*PROBED, "all")}


def hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every weight file, by its path in the folder."""
    files = sorted(folder.rglob("*.safetensors"))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def versions() -> dict[str, str]:
    packages = ("torch", "diffusers", "transformers", "tokenizers", "safetensors", "numpy")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }
