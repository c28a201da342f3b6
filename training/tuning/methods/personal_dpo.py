"""Personalised preference tuning of image models (PPD; Dang et al., arXiv:2501.06655).

1. Everybody with ``examples`` pairs at least becomes a vector, from what they chose in the first of them.
2. Each judgement is a pair for its annotator: the model is told who, the reference is not, and the objective
   is Diffusion-DPO over all people together. Only what people have of their own in the attention learns.
3. The result knows everybody by name; ``image_generate`` draws for one of them or between several. New people
   are added from their own few pairs with ``fit: people``, without training.
"""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from training.tuning.config import PersonalDPOConfig
from training.tuning.data import Group
from training.tuning.errors import BadInput
from training.tuning.images.bases import copy_generation_defaults, resolve_base
from training.tuning.images.data import to_pixels
from training.tuning.images.direct import Direct, inspect_direct
from training.tuning.images.families import Family, load_family
from training.tuning.images.groups import Choose, Chosen
from training.tuning.images.online import from_afar
from training.tuning.images.personal import (
    PEOPLE_FILE,
    People,
    PersonalPolicy,
    add_people,
    by_person,
    embed_people,
    load_people,
)
from training.tuning.images.preparation import remove_cache, usable_groups
from training.tuning.images.samples import draw_samples
from training.tuning.methods.diffusion_dpo import learn_pairs
from training.tuning.pairs import make_pairs, why_no_pairs
from training.tuning.rewards.compose import open_rewards
from training.tuning.rewards.pictures import PictureReward
from training.tuning.run import Run

NEEDS = "a pair of somebody known"
logger = logging.getLogger("training.tuning")


def train(run: Run) -> None:
    """Train a model for people. See the module for the steps."""
    config: PersonalDPOConfig = run.config
    found = resolve_base(run.base)
    if found.adapter is not None:
        raise BadInput("people are added to a pipeline, not to an adapter", file=run.base, field="base")
    family = load_family(found.pipeline, device=run.device)
    known = people_of(run, family)
    if config.fit == "people":
        add_only(run, family, known)
        return
    if found.person is not None:
        problem = "already knows people: fit people adds others, or start from its base"
        raise BadInput(problem, file=run.base, field="base")
    policy = add_people(family, width=len(next(iter(known.values()))), seed=run.seed)
    work = Direct(
        run,
        of_annotators(config),
        needs=NEEDS,
        reference=config.reference,
        draws=config.draws,
        policy=policy,
        apart=partial(by_person, people=known),
        people=known,
    )
    family.person = next(iter(known.values()))  # for whom samples are drawn

    learn_pairs(work, config)
    draw_samples(run, family, step=run.total_steps, when="after")
    publish_people(run, policy, known)
    remove_cache(run)


def of_annotators(config: PersonalDPOConfig) -> Choose:
    """The pairs of a row, those of each annotator apart."""

    def choose(group: Group) -> Chosen | str:
        found = make_pairs(group, config, apart=("annotator",))
        pairs = [pair for pair in found if pair.annotator is not None]
        if not pairs:
            return "no annotator is named" if found else why_no_pairs(group)
        return Chosen(sorted({index for pair in pairs for index in (pair.chosen, pair.rejected)}), pairs)

    return choose


def people_of(run: Run, family: Family) -> People:
    """Everybody in the training rows with enough pairs. Raises BadInput if that is nobody."""
    config: PersonalDPOConfig = run.config
    groups = usable_groups(run, family, run.train, of_annotators(config), part="train")
    found = embed_people(groups, seeing(run), examples=config.examples)
    if not found:
        problem = f"nobody has {config.examples} pairs; `inspect` shows the rows"
        raise BadInput(problem, file=run.dir.train_file)
    logger.info("%d people with %d pairs or more", len(found), config.examples)
    return found


def seeing(run: Run) -> Any:
    """What the first image reward model of the list sees in pictures, else a view from afar."""
    rewards = open_rewards(run.reward, modality="image", device=run.device, precision=run.config.precision)
    seen = [source for source in rewards.sources if isinstance(source, PictureReward)]
    if run.reward and not seen:
        raise BadInput("here rewards are image reward models, for what they see", field="reward")
    if seen:
        return seen[0].features

    def afar(pictures: list[Image.Image]) -> Tensor:
        return torch.cat([from_afar(to_pixels(picture)[None]) for picture in pictures])

    return afar


def add_only(run: Run, family: Family, found: People) -> None:
    """The base's result with more people."""
    base = resolve_base(run.base)
    if base.person is None:
        problem = "fit people needs a result of personal_dpo as base"
        raise BadInput(problem, file=run.base, field="base")
    known = load_people(family, base.person.parent)
    width = len(next(iter(known.values())))
    if any(len(one) != width for one in found.values()):
        problem = "people were seen by another model before: give the same reward list"
        raise BadInput(problem, field="reward")
    publish_people(run, PersonalPolicy(family), known | found)


def publish_people(run: Run, policy: PersonalPolicy, people: People) -> None:
    """Write the adapter and the people."""

    def write(folder: Path) -> None:
        policy.save(folder)
        save_file(people, folder / PEOPLE_FILE)
        copy_generation_defaults(run.base, folder)

    run.publish(write, how_to_load=HOW_TO_LOAD)


def inspect(run: Run) -> dict[str, Any]:
    """The rows as ``train`` will see them."""
    return inspect_direct(run, of_annotators(run.config))


HOW_TO_LOAD = """
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

pipeline = DiffusionPipeline.from_pretrained(BASE)  # the base model named above
pipeline.load_ip_adapter(
    "result", subfolder="", weight_name="ip_adapter.safetensors", image_encoder_folder=None
)
person = load_file("result/people.safetensors")[NAME].view(1, 1, -1)  # or a mean of several
told = torch.cat([torch.zeros_like(person), person])  # with guidance: nobody, then the person
pipeline(PROMPT, ip_adapter_image_embeds=[told])
"""
