"""Image models that know whom they draw for (PPD; Dang et al., arXiv:2501.06655).

A person is a vector, made of what they chose in a few comparisons. Each cross-attention of the U-Net gets
keys and values of its own for it beside those of the prompt: Attn(Q, K, V) + Attn(Q, K', V'). That is the
layout of an IP-Adapter, and so it is stored and loaded; without a person it is the base, to the bit.

The paper makes the vector with a vision-language model that reads the pairs; here it is what the chosen
pictures have and the rejected do not, in the eyes of an image reward model.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from jaxtyping import Float
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.tuning.errors import BadInput
from training.tuning.images.bases import PERSONAL_FILE
from training.tuning.images.data import open_image
from training.tuning.images.families import Family
from training.tuning.images.families.stable_diffusion import StableDiffusion
from training.tuning.images.groups import ImageGroup
from training.tuning.images.policies import ImagePolicy

PEOPLE_FILE = "people.safetensors"
TOKENS = 4  # of a person in the attention, as an IP-Adapter has them
People = dict[str, Float[Tensor, " D"]]
See = Callable[[Sequence[Image.Image]], Float[Tensor, "N D"]]


class PersonalPolicy(ImagePolicy):
    """The keys and values for people are trained, and what brings a person to the width of the prompt; the
    base stays as it is, and is the reference. A zero vector is nobody: the base.
    """

    def __init__(self, family: Family) -> None:
        super().__init__(family, adapter=True)
        self.denoiser.requires_grad_(False)
        for name, weight in self.denoiser.named_parameters():
            # Without biases nobody stays nobody.
            weight.requires_grad_(_is_personal(name) and not name.endswith("bias"))

    @contextmanager
    def as_reference(self) -> Iterator[nn.Module]:
        """The base. Afterwards, also after an exception, the policy is back."""
        processors = personal_processors(self.family)
        try:
            for processor in processors:
                processor.scale = [0.0]
            yield self.denoiser
        finally:
            for processor in processors:
                processor.scale = [1.0]

    def save(self, folder: Path) -> None:
        """As ``ip_adapter.safetensors``."""
        projection = self.denoiser.encoder_hid_proj.image_projection_layers[0]
        found = {
            "image_proj.proj.weight": projection.image_embeds.weight,
            "image_proj.proj.bias": projection.image_embeds.bias,
            "image_proj.norm.weight": projection.norm.weight,
            "image_proj.norm.bias": projection.norm.bias,
        }
        for number, processor in enumerate(personal_processors(self.family)):
            for name in ("to_k_ip", "to_v_ip"):
                found[f"ip_adapter.{2 * number + 1}.{name}.weight"] = getattr(processor, name)[0].weight
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in found.items()}, folder / PERSONAL_FILE
        )


def add_people(family: Family, *, width: int, seed: int) -> PersonalPolicy:
    """Room for people of ``width`` numbers. Values start at zero, so that nothing changes yet."""
    check_family(family)
    generator = torch.Generator().manual_seed(seed)
    read = int(family.denoiser.config.cross_attention_dim)

    def drawn(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator) / columns**0.5

    attention = [name for name in family.denoiser.attn_processors if name.endswith("attn2.processor")]
    layers = {}
    for number, name in enumerate(attention):
        module = family.denoiser.get_submodule(name.removesuffix(".processor"))
        size = module.to_k.weight.shape[0]
        layers[f"{2 * number + 1}.to_k_ip.weight"] = drawn(size, read)
        layers[f"{2 * number + 1}.to_v_ip.weight"] = torch.zeros(size, read)
    projection = {
        "proj.weight": drawn(TOKENS * read, width),
        "proj.bias": torch.zeros(TOKENS * read),
        "norm.weight": torch.ones(read),
        "norm.bias": torch.zeros(read),
    }
    _load(family, {"image_proj": projection, "ip_adapter": layers})
    return PersonalPolicy(family)


def load_people(family: Family, folder: Path) -> People:
    """Put a saved adapter for people on the pipeline, frozen; returns who is known."""
    check_family(family)
    saved = load_file(folder / PERSONAL_FILE)
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, value in saved.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    _load(family, parts)
    family.denoiser.requires_grad_(False)
    return load_file(folder / PEOPLE_FILE)


def personal_processors(family: Family) -> list[IPAdapterAttnProcessor2_0]:
    """The cross-attentions that read a person, in the denoiser's order."""
    found = family.denoiser.attn_processors.values()
    return [one for one in found if isinstance(one, IPAdapterAttnProcessor2_0)]


def check_family(family: Family) -> None:
    """BadInput for models without cross-attention of the known kind."""
    if type(family) is not StableDiffusion:
        problem = f"people are for Stable Diffusion 1 and 2, not for {family.pipeline_class}"
        raise BadInput(problem, file=family.base, field="base")


def embed_people(groups: Sequence[ImageGroup], see: See, *, examples: int) -> People:
    """A vector for everybody with at least ``examples`` pairs: of the first that many the mean of
    f(chosen) - f(rejected), f unit features, at length one.
    """
    pairs: dict[str, list[tuple[Path, Path]]] = defaultdict(list)
    for group in groups:
        for pair in group.pairs:
            if pair.annotator is not None and pair.target > 0.5:
                pairs[pair.annotator].append((group.files[pair.chosen], group.files[pair.rejected]))
    people = {}
    for name, own in sorted(pairs.items()):
        if len(own) >= examples:
            features = F.normalize(
                see([open_image(file) for pair in own[:examples] for file in pair]), dim=-1
            )
            people[name] = F.normalize((features[0::2] - features[1::2]).mean(dim=0), dim=0).cpu()
    return people


def mixed(people: People, weights: dict[str, float]) -> Float[Tensor, " D"]:
    """Between people: the weighted mean of their vectors; a sum of weights below one is nearer to nobody's
    taste. Raises BadInput for somebody unknown.
    """
    if unknown := sorted(set(weights) - set(people)):
        problem = f"{unknown[0]} is not known to this model; known are {', '.join(sorted(people))}"
        raise BadInput(problem, field="config.people")
    total = max(1.0, sum(weights.values()))
    found: Tensor = sum(weight / total * people[name] for name, weight in weights.items())  # type: ignore[assignment]
    return found


def by_person(groups: Sequence[ImageGroup], people: People) -> list[ImageGroup]:
    """A group for each known person who judged one. They share its noise, timestep and crop."""
    found = []
    for group in groups:
        for name in sorted({pair.annotator for pair in group.pairs if pair.annotator in people}):
            own = [pair for pair in group.pairs if pair.annotator == name]
            found.append(group.for_person(name, own))
    return found


def _is_personal(name: str) -> bool:
    return "_ip." in name or name.startswith("encoder_hid_proj.")


def _load(family: Family, parts: dict[str, dict[str, Tensor]]) -> None:
    device = family.device
    on_device = {part: {name: one.to(device) for name, one in own.items()} for part, own in parts.items()}
    family.pipeline.load_ip_adapter(
        on_device, subfolder="", weight_name="", image_encoder_folder=None, low_cpu_mem_usage=False
    )
