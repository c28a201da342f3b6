"""Draw pictures for prompts. No training: rows of prompts in, rows of candidates out.

1. Every picture has a seed of its own, from the run's seed, its prompt and its number.
2. Pictures are drawn in batches and kept in ``drawn/``; a run that was stopped goes on with the rest.
3. ``result/generations.jsonl`` has a row per prompt, with its pictures under ``result/media/``.
"""

import shutil
import time
from pathlib import Path
from typing import Any

import torch

from training.tuning.config import ImageGenerateConfig
from training.tuning.data import plain_text
from training.tuning.images.generation import Request, generate_images, plan_requests
from training.tuning.images.loading import load_for_sampling
from training.tuning.images.preview import preview
from training.tuning.images.samples import sampling_for
from training.tuning.run import Run
from training.tuning.rundir import append_json_line


def train(run: Run) -> None:
    config: ImageGenerateConfig = run.config
    family = load_for_sampling(run.base, device=run.device)
    sampling = sampling_for(config, family)
    prompts = [plain_text(group.prompt) for group in run.train]
    plan = plan_requests(prompts, samples_per_prompt=config.samples_per_prompt, seed=run.seed)
    drawn = run.dir.path / "drawn"
    drawn.mkdir(exist_ok=True)
    missing = [
        (drawn / file_name(row, sample), request)
        for row, requests in enumerate(plan)
        for sample, request in enumerate(requests)
        if not (drawn / file_name(row, sample)).exists()
    ]
    total = len(plan) * config.samples_per_prompt
    run.dir.cut_back(total - len(missing))
    autocast = torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")
    for start in range(0, len(missing), config.batch_size):
        started = time.perf_counter()
        batch = missing[start : start + config.batch_size]
        with autocast:
            images = generate_images(family, [request for _, request in batch], sampling)
        for (path, _), image in zip(batch, images, strict=True):
            partial = path.with_suffix(".part")
            image.save(partial, format="PNG")
            partial.replace(path)
        speed = len(batch) / (time.perf_counter() - started)
        run.progress(total - len(missing) + start + len(batch), total, {"images_per_second": speed})
    run.publish(lambda folder: write_result(run, plan, drawn, folder))
    shutil.rmtree(drawn)


def file_name(row: int, sample: int) -> str:
    """The picture's name, the same in ``drawn/`` and in the result."""
    return f"{row:06d}-{sample:02d}.png"


def write_result(run: Run, plan: list[list[Request]], drawn: Path, folder: Path) -> None:
    """One row per prompt, in the input's order; ``meta`` is the input's, with the seeds added."""
    (folder / "media").mkdir()
    for row, (group, requests) in enumerate(zip(run.train, plan, strict=True)):
        names = [file_name(row, sample) for sample in range(len(requests))]
        for name in names:
            (folder / "media" / name).write_bytes((drawn / name).read_bytes())
        candidates = [{"image": name, "source": run.base} for name in names]
        meta = {**group.meta, "seeds": [request.seed for request in requests]}
        prompt = group.model_dump(mode="json", include={"prompt"})
        append_json_line(folder / "generations.jsonl", {**prompt, "candidates": candidates, "meta": meta})


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as ``train`` will see them; too long ones are cut as the pipeline does, none is dropped."""
    family = load_for_sampling(run.base, device=run.device)
    return preview(
        run.train, reasons=[None] * len(run.train), pairs=lambda group: [], count_tokens=family.count_tokens
    )
