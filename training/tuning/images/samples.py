"""Pictures drawn before and after training at the same prompts and seeds."""

import json
from collections.abc import Callable
from functools import partial

from PIL import Image

from training.tuning.config import SamplingKeys
from training.tuning.data import plain_text
from training.tuning.images.families import Family
from training.tuning.images.generation import Request, Sampling, generate_images, plan_requests
from training.tuning.run import Run


def sampling_for(config: SamplingKeys, family: Family) -> Sampling:
    """The config's values, and where it leaves them empty the model's own."""
    given = config.model_dump(include={"num_inference_steps", "guidance_scale", "height", "width"})
    return Sampling(
        **family.sampling_defaults | {key: value for key, value in given.items() if value is not None}
    )


def draw_samples(
    run: Run,
    family: Family,
    *,
    step: int,
    when: str,
    prompts: dict[str, str] | None = None,
    draw: Callable[[list[Request]], list[Image.Image]] | None = None,
) -> None:
    """Draw the first held-out prompts (without held-out data: training prompts) into ``samples/``.

    ``prompts``: others, with what is shown of each; ``draw``: another way of drawing than the pipeline's.

    Rows: ``prompt``, ``seed`` and ``image``, a path in the run directory. Pictures that an earlier attempt
    drew at this point are not drawn again.
    """
    if prompts is None:
        prompts = {one: one for one in (plain_text(group.prompt) for group in run.eval or run.train)}
    first = list(prompts)[: run.config.samples]
    requests = [row[0] for row in plan_requests(first, samples_per_prompt=1, seed=run.seed)]
    known = _drawn(run, when=when)
    names = [f"samples/{when}-{number}.png" for number in range(len(requests))]
    missing = [number for number, name in enumerate(names) if name not in known]
    (run.dir.path / "samples").mkdir(exist_ok=True)
    draw = draw or partial(generate_images, family, sampling=sampling_for(run.config, family))
    for number in missing:
        run.check_stop()
        request = requests[number]
        (image,) = draw([request])
        image.save(run.dir.path / names[number])
        shown = {"prompt": prompts[request.prompt], "seed": request.seed, "image": names[number]}
        run.sample(step, when, shown)
    family.rest()


def _drawn(run: Run, *, when: str) -> set[str]:
    if not run.dir.samples_file.exists():
        return set()
    rows = [json.loads(line) for line in run.dir.samples_file.read_text(encoding="utf-8").splitlines()]
    return {row["image"] for row in rows if row["when"] == when}
