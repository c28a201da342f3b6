"""Draw pictures for prompts. No training: rows of prompts in, rows of candidates out.

1. Every picture has a seed of its own, from the run's seed, its prompt and its number.
2. Pictures are drawn in batches and kept in ``drawn/``; a run that was stopped goes on with the rest.
3. With a ``search`` each picture is the one that it finds under the run's rewards, from its seed; no weight
   changes.
4. ``result/generations.jsonl`` has a row per prompt, with its pictures under ``result/media/``.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from training.tuning.config import ImageGenerateConfig
from training.tuning.data import plain_text
from training.tuning.errors import BadInput
from training.tuning.images.bases import resolve_base
from training.tuning.images.chains import ChainRecord, draw_chains, pictures_of
from training.tuning.images.combined import draw_combined
from training.tuning.images.families import Family
from training.tuning.images.generation import Request, Sampling, generate_images, plan_requests
from training.tuning.images.loading import load_for_sampling
from training.tuning.images.negative import NegativeModel
from training.tuning.images.personal import load_people, mixed
from training.tuning.images.preview import preview
from training.tuning.images.samples import sampling_for
from training.tuning.images.search.job import Search
from training.tuning.run import Run
from training.tuning.rundir import append_json_line


def train(run: Run) -> None:
    config: ImageGenerateConfig = run.config
    family = load_for_sampling(run.base, device=run.device)
    tell_people(run, family)
    sampling = sampling_for(config, family)
    record = record_for(family, sampling, config)
    draw = open_drawing(run, family, sampling, record)
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
    size = config.batch_size if config.search == "none" else 1
    for start in range(0, len(missing), size):
        started = time.perf_counter()
        batch = missing[start : start + size]
        images, metrics = draw([request for _, request in batch])
        for (path, _), image in zip(batch, images, strict=True):
            partial = path.with_suffix(".part")
            image.save(partial, format="PNG")
            partial.replace(path)
        speed = len(batch) / (time.perf_counter() - started)
        done = total - len(missing) + start + len(batch)
        run.progress(done, total, metrics | {"images_per_second": speed})
    run.publish(lambda folder: write_result(run, plan, drawn, folder, record))
    shutil.rmtree(drawn)


Draw = Callable[[list[Request]], tuple[list[Image.Image], dict[str, float]]]


def open_drawing(run: Run, family: Family, sampling: Sampling, record: ChainRecord | None) -> Draw:
    """What draws some pictures, and says what to log of them."""
    config: ImageGenerateConfig = run.config
    if config.guide_away:
        return open_negative(run, family, sampling)
    if config.search == "none" and run.reward:
        raise BadInput("rewards have no use here without a search", file=run.dir.run_file, field="reward")
    if config.search != "none" and not run.reward:
        problem = f"the search {config.search} needs a list of rewards"
        raise BadInput(problem, file=run.dir.run_file, field="reward")
    if config.search != "none":
        search = Search(run, family, sampling)

        def find(requests: list[Request]) -> tuple[list[Image.Image], dict[str, float]]:
            found = [search.draw(request) for request in requests]
            return [one.image for one in found], {"reward": found[0].reward}

        return find

    if config.combine is not None:
        return open_combined(run, family, sampling, config.combine)
    if record is not None:

        def draw_recorded(requests: list[Request]) -> tuple[list[Image.Image], dict[str, float]]:
            rows = family.encode_prompts([request.prompt for request in requests])
            seeds = [request.seed for request in requests]
            chain = draw_chains(family, family.denoiser, rows, record, seeds)
            return pictures_of(family, chain.final), {}

        return draw_recorded

    def draw(requests: list[Request]) -> tuple[list[Image.Image], dict[str, float]]:
        enabled = config.precision == "bf16"
        with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=enabled):
            return generate_images(family, requests, sampling), {}

    return draw


def tell_people(run: Run, family: Family) -> None:
    """Draw for the people that the config names, or for nobody."""
    config: ImageGenerateConfig = run.config
    file = resolve_base(run.base).person
    if file is None:
        if config.people:
            raise BadInput("this model knows no people: personal_dpo makes such", field="config.people")
        return
    if config.search != "none" or config.eta is not None or config.guide_away:
        raise BadInput("a model for people goes with neither search nor eta", field="base")
    people = load_people(family, file.parent)
    nobody = torch.zeros_like(next(iter(people.values())))
    family.person = mixed(people, config.people) if config.people else nobody


def open_combined(run: Run, family: Family, sampling: Sampling, share: float) -> Draw:
    """Drawing with the model below an adapter first."""
    config: ImageGenerateConfig = run.config
    if resolve_base(run.base).adapter is None:
        problem = "combine needs an adapter as base: what was tuned, and what it was tuned from"
        raise BadInput(problem, file=run.dir.run_file, field="base")

    def draw(requests: list[Request]) -> tuple[list[Image.Image], dict[str, float]]:
        half = torch.bfloat16 if config.precision == "bf16" else None
        scale = config.combine_guidance
        return draw_combined(family, requests, sampling, share=share, tuned_guidance=scale, autocast=half), {}

    return draw


def open_negative(run: Run, family: Family, sampling: Sampling) -> Draw:
    """Drawing away from the model that the reward list names."""
    config: ImageGenerateConfig = run.config
    if len(run.reward) != 1 or run.reward[0].model is None:
        problem = "guide_away needs one model here, the negative one"
        raise BadInput(problem, file=run.dir.run_file, field="reward")
    if sampling.guidance_scale <= 1:
        problem = "guide_away needs guidance: a scale above 1"
        raise BadInput(problem, file=run.dir.run_file, field="config.guidance_scale")
    negative = NegativeModel(family, base=run.base, negative=run.reward[0].model, merge=config.guide_merge)

    def draw(requests: list[Request]) -> tuple[list[Image.Image], dict[str, float]]:
        half = torch.bfloat16 if config.precision == "bf16" else None
        return negative.draw(requests, sampling, autocast=half), {}

    return draw


def record_for(family: Family, sampling: Sampling, config: ImageGenerateConfig) -> ChainRecord | None:
    """How chains are drawn that can be drawn again; None if the pipeline's own sampler draws."""
    if config.eta is None:
        return None
    height, width = family.native_size
    return ChainRecord(
        seeds=[],
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        eta=config.eta,
        height=sampling.height or height,
        width=sampling.width or width,
        precision=config.precision,
    )


def file_name(row: int, sample: int) -> str:
    """The picture's name, the same in ``drawn/`` and in the result."""
    return f"{row:06d}-{sample:02d}.png"


def write_result(
    run: Run, plan: list[list[Request]], drawn: Path, folder: Path, record: ChainRecord | None
) -> None:
    """One row per prompt, in the input's order; ``meta`` is the input's, with the seeds added, and with the
    record of chains that can be drawn again.
    """
    (folder / "media").mkdir()
    for row, (group, requests) in enumerate(zip(run.train, plan, strict=True)):
        names = [file_name(row, sample) for sample in range(len(requests))]
        for name in names:
            (folder / "media" / name).write_bytes((drawn / name).read_bytes())
        candidates = [{"image": name, "source": run.base} for name in names]
        seeds = [request.seed for request in requests]
        meta: dict[str, Any] = {**group.meta, "seeds": seeds}
        if record is not None:
            meta["chains"] = record.model_copy(update={"seeds": seeds}).model_dump(mode="json")
        prompt = group.model_dump(mode="json", include={"prompt"})
        append_json_line(folder / "generations.jsonl", {**prompt, "candidates": candidates, "meta": meta})


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as ``train`` will see them; too long ones are cut as the pipeline does, none is dropped."""
    family = load_for_sampling(run.base, device=run.device)
    return preview(
        run.train, reasons=[None] * len(run.train), pairs=lambda group: [], count_tokens=family.count_tokens
    )
