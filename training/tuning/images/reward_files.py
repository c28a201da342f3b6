"""Image reward models on disk: fresh ones, pretrained ones, and results."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

from training.tuning.config import ImageRewardModelConfig, LoraConfig
from training.tuning.errors import BadInput
from training.tuning.fused_lora import fuse_adapters
from training.tuning.images.bases import LORA_FILE, check_tokenizer, pickled_weights
from training.tuning.images.reward import Backbone, ClipBackbone, ImageReward, RewardHead, SmallBackbone
from training.tuning.images.vision_reward import (
    PROJECTOR,
    SkipHead,
    VisionLanguageBackbone,
    is_vision_language,
    load_vision_language,
)
from training.tuning.rewards.info import RewardInfo, read_info, write_info
from training.tuning.text.models import VISION

FORMAT = "tiebreak-image-reward"
WEIGHTS = "reward.safetensors"
SMALL = "small"
EARLY = "early"  # beside a reward model: what judges pictures after a share of their steps, by that share
STARTS = (
    "a reward model starts from a CLIP, from a vision-language model of LLaVA's kind, from an earlier reward "
    'model, or with base "small" from nothing'
)
BUCKETS = 2048  # of the small backbone's words
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


def reward_for_training(
    base: str | None, config: ImageRewardModelConfig, *, seed: int, picture_size: int = 64
) -> ImageReward:
    """The model to train: a small one from nothing (no base, or "small"), a CLIP, or an earlier result.

    What is new starts from ``seed``. ``picture_size``, in pixels, is that of the data, for a small model
    whose config leaves its own open. Raises BadInput for LoRA on a model that has nothing pretrained.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _reward_for_training(base, config, min(64, max(16, picture_size)))
    return adapted(model, config.lora, seed=seed)


def adapted(model: ImageReward, lora: LoraConfig | None, *, seed: int) -> ImageReward:
    """The model with a fresh adapter on its backbone, from ``seed``; without ``lora`` as it is."""
    if lora is None:
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(model.backbone, VisionLanguageBackbone):
            # The projector is trained in full, as published, and its adapter is its own copy.
            model.backbone.model = add_adapter(model.backbone.model, lora, whole=[PROJECTOR])
            return model
        if not isinstance(model.backbone, ClipBackbone):
            message = "the small backbone has nothing pretrained to adapt; set lora to null"
            raise BadInput(message, file="run.json", field="config.lora")
        model.backbone.clip = add_adapter(model.backbone.clip, lora)
        return model


def refuse_small_keys(base: str, config: ImageRewardModelConfig, *keys: str) -> None:
    """BadInput if the config sets what a pretrained model decides itself."""
    for key in keys:
        if getattr(config, key) != type(config).model_fields[key].default:
            message = f"{base} has its own; this is for a model that is trained from nothing"
            raise BadInput(message, file="run.json", field=f"config.{key}")


def _reward_for_training(base: str | None, config: ImageRewardModelConfig, image_size: int) -> ImageReward:
    if base is None or base == SMALL:
        backbone = SmallBackbone(
            image_size=config.image_size or image_size, width=config.width, buckets=BUCKETS
        )
        return ImageReward(backbone, _head(config, config.width, scale=1.0), info_of(config)).eval()
    if is_image_reward(Path(base)):
        refuse_small_keys(base, config, "image_size", "width", "hidden")
        model = load_image_reward(base)
        if model.info.names != info_of(config).names or model.info.outputs != info_of(config).outputs:
            own = ", ".join(model.info.names) or f"{model.info.outputs} members"
            raise BadInput(f"has {own}, which stay; set the same members and aspects", file=base)
        return model
    if is_vision_language(base):
        refuse_small_keys(base, config, "image_size", "width", "hidden")
        seeing, info = load_vision_language(base), info_of(config)
        return ImageReward(seeing, SkipHead(seeing.width, outputs=info.outputs), info).eval()
    refuse_small_keys(base, config, "image_size", "width")
    clip = load_clip(base)
    scale = clip.clip.logit_scale.exp().item()
    return ImageReward(clip, _head(config, clip.width, scale=scale), info_of(config)).eval()


def _head(config: ImageRewardModelConfig, width: int, *, scale: float) -> RewardHead:
    return RewardHead(width, hidden=config.hidden, scale=scale, outputs=info_of(config).outputs)


def info_of(config: ImageRewardModelConfig) -> RewardInfo:
    """What the outputs will be: one, those of an ensemble's members, or one for each aspect, which are
    averaged.
    """
    if config.aspects:
        count = len(config.aspects)
        return RewardInfo(kind="attributes", outputs=count, names=config.aspects, weights=[1 / count] * count)
    return RewardInfo(kind="ensemble", outputs=config.members) if config.members > 1 else RewardInfo()


def add_adapter(model: Any, lora: LoraConfig, *, whole: list[str] | None = None) -> Any:
    """A model with a fresh LoRA adapter; only the adapter is trained, and the modules ``whole``."""
    config = PeftLoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        target_modules=lora.target_modules,
        exclude_modules=VISION if whole else None,
        modules_to_save=whole,
    )
    try:
        found = get_peft_model(model, config)
    except ValueError as error:
        raise BadInput(str(error), file="run.json", field="config.lora.target_modules") from error
    fuse_adapters(found)
    return found


def merge_adapter(model: ImageReward) -> ImageReward:
    """The same model with its LoRA adapter, if it has one, added into the weights. Changes ``model``."""
    backbone = model.backbone
    if isinstance(backbone, ClipBackbone) and hasattr(backbone.clip, "merge_and_unload"):
        backbone.clip = backbone.clip.merge_and_unload()
    if isinstance(backbone, VisionLanguageBackbone) and hasattr(backbone.model, "merge_and_unload"):
        backbone.model = backbone.model.merge_and_unload()
    return model


def load_clip(base: str) -> ClipBackbone:
    """CLIPModel with tokenizer, float32. Raises BadInput for other models, pickles and a missing
    tokenizer.
    """
    folder = Path(base)
    local = folder.exists()
    if (folder / "model_index.json").exists() or (folder / LORA_FILE).exists():
        raise BadInput(f"this model draws pictures; {STARTS}", file=base)
    if local and not any(folder.glob("*.safetensors")):
        if pickles := pickled_weights(folder):
            message = "weights are a pickle, which can run code; only safetensors are read"
            raise BadInput(message, file=pickles[0])
        raise BadInput(f"no weights (*.safetensors); {STARTS}", file=base)
    if local and json.loads((folder / "config.json").read_text()).get("model_type") != "clip":
        raise BadInput(f"not a CLIPModel; {STARTS}", file=folder / "config.json")
    try:
        clip = CLIPModel.from_pretrained(
            base,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=local,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError) as error:
        raise BadInput(f"the CLIP model cannot be loaded: {error}", file=base) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=local)
    except (OSError, ValueError) as error:
        raise BadInput(f"the folder has no tokenizer that can be loaded: {error}", file=base) from error
    check_tokenizer(tokenizer, vocabulary=clip.config.text_config.vocab_size, base=base)
    return ClipBackbone(clip, tokenizer, **read_preprocessing(folder))


def read_preprocessing(folder: Path) -> dict[str, list[float]]:
    """Mean and standard deviation of the channels from preprocessor_config.json; without one, CLIP's."""
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text()) if path.is_file() else {}
    return {"mean": settings.get("image_mean", CLIP_MEAN), "std": settings.get("image_std", CLIP_STD)}


def save_image_reward(model: ImageReward, folder: Path) -> None:
    """Write ``config.json``, ``reward.json``, ``reward.safetensors``; a CLIP goes to ``backbone/`` as
    transformers writes it.

    In ``reward.safetensors``, names that begin with ``head.`` are the head (see ``reward.py``), and those
    with ``backbone.`` the small backbone.
    """
    backbone = model.backbone
    config = {
        "format": FORMAT,
        "backbone": {"kind": backbone.kind, **backbone.settings},
        "head": model.head.settings,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_info(folder, model.info)
    weights = model.state_dict()
    if isinstance(backbone, ClipBackbone):
        backbone.clip.save_pretrained(folder / "backbone", safe_serialization=True)
        backbone.tokenizer.save_pretrained(folder / "backbone")
        weights = {name: value for name, value in weights.items() if name.startswith("head.")}
    if isinstance(backbone, VisionLanguageBackbone):
        backbone.model.save_pretrained(folder / "backbone", safe_serialization=True)
        backbone.processor.save_pretrained(folder / "backbone")
        weights = {name: value for name, value in weights.items() if name.startswith("head.")}
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, folder / WEIGHTS)


def is_image_reward(folder: Path) -> bool:
    """Whether ``save_image_reward`` wrote this folder."""
    path = folder / "config.json"
    return path.is_file() and json.loads(path.read_text()).get("format") == FORMAT


def load_image_reward(folder: str | Path) -> ImageReward:
    """The reward model in a result folder, on the CPU, in evaluation mode. Raises BadInput for other
    folders.
    """
    folder = Path(folder)
    if not is_image_reward(folder):
        raise BadInput("not an image reward model (a result of the method image_reward_model)", file=folder)
    config = json.loads((folder / "config.json").read_text())
    settings = dict(config["backbone"])
    backbone: Backbone
    kind = settings.pop("kind")
    if kind == VisionLanguageBackbone.kind:
        backbone = load_vision_language(str(folder / "backbone"), **settings)
    elif kind == ClipBackbone.kind:
        clip = load_clip(str(folder / "backbone"))
        backbone = ClipBackbone(clip.clip, clip.tokenizer, **settings)
    else:
        backbone = SmallBackbone(**settings)
    if isinstance(backbone, VisionLanguageBackbone):
        head: RewardHead | SkipHead = SkipHead(backbone.width, **config["head"])
    else:
        head = RewardHead(backbone.width, scale=1.0, **config["head"])
    model = ImageReward(backbone, head, read_info(folder))
    missing, unexpected = model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    wrong = [
        *unexpected,
        *(name for name in missing if not name.startswith(("backbone.clip.", "backbone.model."))),
    ]
    if wrong:
        raise BadInput(f"weights do not fit the model: {', '.join(wrong[:3])}", file=folder / WEIGHTS)
    return model.eval()
