"""The two simulated worlds as the loop sees them: what is asked, what is liked, how models are tuned."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webapp.demo import image_world, settings_image, text_world
from webapp.demo.simulate import Content, Utility

MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class World:
    """One modality. `prompts(split, n, seed)` with splits "train" and "held_out"."""

    modality: str
    project: str
    guidelines: str
    question: str
    base: str  # the name under which the folder is registered
    folder: Path
    prompts: Callable[[Any, int, int], list[str]]
    utility: Utility
    method: str
    tuning: dict[str, Any]
    reward_method: str
    reward_base: str
    reward_folder: str
    reward: dict[str, Any]
    sampling: dict[str, Any]
    # Of each model to each held-out prompt, for the matches; with two the reward model is measured, too.
    answers: int


def _text_utility(prompt: str, content: Content) -> float:
    assert isinstance(content, str)
    return text_world.utility(prompt, content)


def _image_utility(prompt: str, content: Content) -> float:
    assert not isinstance(content, str)
    return image_world.utility(prompt, content)


TEXT = World(
    modality="text",
    project="Support answers",
    guidelines=(
        "A customer has written to a shop. **Which answer would you rather get?**\n\n"
        "Good answers greet you by name, show that your message was read, say what happens next with the "
        "right order, product or day, and offer more help. Bad ones blame you, put you off, ramble, or get "
        "your details wrong.\n"
    ),
    question="Which answer would you rather get?",
    base="demo-text",
    folder=MODELS / "text",
    prompts=text_world.prompts,
    utility=_text_utility,
    method="dpo",
    tuning={
        "learning_rate": 3e-3,
        # Enough to win three matches in four, little enough that shuffled labels do no harm.
        "beta": 0.5,
        "epochs": 1,
        "batch_size": 16,
        "scheduler": "cosine",
        "lora": {"r": 8, "alpha": 16, "target_modules": "all-linear"},
        "log_every": 5,
        "eval_every": 20,
        "sample_temperature": 1.0,
    },
    reward_method="reward_model",
    reward_base="demo-text",
    reward_folder=str(MODELS / "text"),
    reward={
        "learning_rate": 3e-3,
        "epochs": 2,
        "batch_size": 16,
        "scheduler": "cosine",
        "lora": None,
        "log_every": 5,
        "eval_every": 25,
        "keep_best": False,  # a hundred noisy judgements cannot tell which step was the best
    },
    sampling={"temperature": 1.0, "max_new_tokens": 120, "batch_size": 64},
    answers=2,
)

IMAGE = World(
    modality="image",
    project="Coloured shapes",
    guidelines=(
        "Two pictures were drawn for one description. **Which one shows it better?**\n\n"
        "Colour, shape and background have to be right and the edges clean. Where the description leaves "
        "it open, a large shape in the middle is better than a small one at the side.\n"
    ),
    question="Which picture shows it better?",
    base="demo-image",
    folder=MODELS / "image",
    prompts=image_world.prompts,
    utility=_image_utility,
    method="diffusion_dpo",
    tuning=settings_image.TUNING,
    reward_method="image_reward_model",
    reward_base="small-image-scorer",
    reward_folder="small",
    reward={"image_size": 32, "epochs": 6, "log_every": 5, "eval_every": 50},
    sampling={"batch_size": 32},
    answers=1,
)

WORLDS = (TEXT, IMAGE)
