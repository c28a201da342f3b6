"""Image reward models on a vision-language model: LLaVA-Reward."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.tuning.image_runs import make_run, metrics, run
from tests.tuning.vision_models import save_llava
from training.tuning.config import ImageRewardModelConfig
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_DONE
from training.tuning.images.pair_index import PairIndex
from training.tuning.images.reward import ImageReward, prepare
from training.tuning.images.reward_files import load_image_reward
from training.tuning.images.vision_reward import SkipHead, load_vision_language
from training.tuning.methods.image_reward_model import pair_losses
from training.tuning.rewards.pictures import PictureReward

COLOURS = {"red": (230, 20, 20), "blue": (20, 20, 230)}
QUICK = {"lora": {"r": 4, "alpha": 8}, "learning_rate": 5e-3, "warmup": 0, "log_every": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.mark.system("s000-097")
def test_the_head_by_hand():
    """Width 2, two visual tokens, identity matrices: weights e^{h·e/√2}, then RMSNorm and w = (1, 0)."""
    head = SkipHead(2)
    with torch.no_grad():
        for layer in (head.query, head.key, head.value):
            layer.weight.copy_(torch.eye(2))
        head.score.weight.copy_(torch.tensor([[1.0, 0.0]]))
        last, visual = torch.tensor([[1.0, 2.0]]), torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
        found = head(last, visual)
        weights = [math.exp(1 / math.sqrt(2)), math.exp(6 / math.sqrt(2))]
        first = weights[0] / sum(weights)
        sums = [1 + first, 2 + 3 * (1 - first)]
        size = math.sqrt((sums[0] ** 2 + sums[1] ** 2) / 2)
        assert found.item() == pytest.approx(sums[0] / size, rel=1e-4)
        head.value.weight.zero_()  # then the plain head on RMSNorm(h)
        plain = 1 / math.sqrt((1 + 4) / 2)
        assert head(last, visual).item() == pytest.approx(plain, rel=1e-4)
        assert head(last, 7 * visual).item() == pytest.approx(plain, rel=1e-4)


@pytest.mark.system("s000-097")
def test_the_loss_of_pairs_and_of_labels():
    """Equal rewards at τ = 0.1: ln 2, and −1 / 2τ = −5 on the preferred; unpaired: cross-entropy, no τ."""
    one = torch.ones(1)
    pairs = PairIndex(torch.tensor([0]), torch.tensor([1]), one, one, torch.zeros(1))
    scores = torch.tensor([0.3, 0.3], requires_grad=True)
    losses, _ = pair_losses(scores, pairs, ImageRewardModelConfig(temperature=0.1))
    losses.sum().backward()
    assert losses.item() == pytest.approx(math.log(2), abs=1e-6)
    assert scores.grad.tolist() == pytest.approx([-5.0, 5.0], abs=1e-5)


def test_the_reading_is_transformers_own(llava):
    """The last state of each row by itself; the visual tokens are the projector's; padding is unseen."""
    backbone = load_vision_language(str(llava))
    images = [Image.new("RGB", (20, 24), colour) for colour in COLOURS.values()]
    pixels = prepare(backbone, images)
    prompts = ["it is red", "it is blue, I think"]
    with torch.no_grad():
        last, visual = backbone.read(pixels, torch.tensor([0, 1]), prompts)
        assert visual.shape == (2, 4, backbone.width)
        for at, prompt in enumerate(prompts):
            ids = torch.tensor([backbone._tokens(prompt)])
            alone = backbone.model.base_model(input_ids=ids, pixel_values=pixels[at : at + 1])
            torch.testing.assert_close(last[at], alone.last_hidden_state[0, -1], atol=1e-5, rtol=1e-4)
            seen = backbone.model.base_model.get_image_features(pixels[at : at + 1]).pooler_output[0]
            torch.testing.assert_close(visual[at], seen, atol=1e-5, rtol=1e-4)
        seen = backbone.image_features(pixels)
        torch.testing.assert_close(seen, visual.mean(dim=1), atol=1e-5, rtol=1e-4)
    assert backbone.count_tokens(prompts[1]) == ids.shape[1]


def coloured_rows(media: Path) -> list[dict[str, Any]]:
    """Of a red and a blue picture the one that the prompt names is preferred, in the aspect fit; in beauty it
    is the red one.
    """
    media.mkdir(parents=True, exist_ok=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (16, 16), colour).save(media / f"{name}.png")
    rows = []
    for number in range(8):
        wanted = list(COLOURS)[number % 2]
        choices = {"aspects": {"fit": {"choice": number % 2}, "beauty": {"choice": 0}}}
        rows.append(
            {
                "prompt": f"it is {wanted}",
                "candidates": [{"image": f"{name}.png"} for name in COLOURS],
                "judgements": [{"choice": number % 2, "annotator": "ann"} | choices],
            }
        )
    return rows


def trained(folder: Path, base: Path | str, **config: Any) -> Path:
    rows = coloured_rows(folder / "data" / "media")
    made = make_run(folder, "image_reward_model", base=base, config=QUICK | config, rows=rows)
    assert run(made) == EXIT_DONE
    return made


def test_it_learns_which_picture_fits_and_loads_again(llava, tmp_path):
    """From ln 2 at scores near 0 to the right order for both prompts; the file scores the same; a LoRA for
    another perspective on the same base prefers something else; pixels have a gradient.
    """
    folder = trained(tmp_path / "run", llava, max_steps=40)
    losses = [row["loss"] for row in metrics(folder) if "loss" in row]
    assert losses[0] == pytest.approx(math.log(2), abs=0.05)
    assert losses[-1] < 0.2
    model = load_image_reward(folder / "result")
    images = [Image.new("RGB", (16, 16), colour) for colour in COLOURS.values()]
    fits = {name: model.scores(f"it is {name}", images) for name in COLOURS}
    assert fits["red"][0] > fits["red"][1]
    assert fits["blue"][1] > fits["blue"][0]
    source = PictureReward(str(folder / "result"), device=torch.device("cpu"))
    outputs = source.measure(["it is red"] * 2, images).outputs[:, 0]
    assert outputs.tolist() == pytest.approx(fits["red"], rel=1e-4)
    pixels = torch.zeros(1, 3, 16, 16, requires_grad=True)
    source.measure_pixels(["it is red"], pixels).outputs.sum().backward()
    assert pixels.grad.abs().max() > 0

    beauty = trained(tmp_path / "beauty", llava, max_steps=30, aspect="beauty")
    other = load_image_reward(beauty / "result")
    for name in COLOURS:
        red, blue = other.scores(f"it is {name}", images)
        assert red > blue


def test_only_the_language_part_and_the_projector_are_trained(llava, tmp_path):
    folder = trained(tmp_path / "run", llava, max_steps=2)
    before, after = load_vision_language(str(llava)), load_image_reward(folder / "result").backbone
    moved = {
        name
        for (name, one), other in zip(before.model.named_parameters(), after.model.parameters(), strict=True)
        if not torch.equal(one, other)
    }
    assert any("multi_modal_projector" in name for name in moved)
    assert any("q_proj" in name for name in moved)
    assert not any("vision_" in name or "embed_tokens" in name for name in moved)


def test_training_resumes_exactly(llava, tmp_path):
    whole = trained(tmp_path / "whole", llava, max_steps=4, save_every=2)
    half = trained(tmp_path / "half", llava, max_steps=4, save_every=2)
    for gone in ("result", "checkpoint-000004"):
        for path in sorted((half / gone).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (half / gone).rmdir() if (half / gone).exists() else None
    assert run(half) == EXIT_DONE
    one, other = (load_image_reward(folder / "result").state_dict() for folder in (whole, half))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_what_it_has_itself_is_not_set(llava, tmp_path, capsys):
    folder = make_run(tmp_path / "run", "image_reward_model", base=llava, config={"width": 64})
    assert run(folder) == EXIT_BAD_INPUT
    assert "has its own" in capsys.readouterr().err


def test_recomputing_changes_nothing(llava):
    """Gradient checkpointing: the same gradient of the head's query."""
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        backbone = load_vision_language(str(llava))
        model = ImageReward(backbone, SkipHead(backbone.width))
        if again:
            backbone.enable_gradient_checkpointing()
        pixels = prepare(backbone, [Image.new("RGB", (16, 16), "red")])
        model(pixels, torch.tensor([0]), ["it is red"]).sum().backward()
        weight = dict(backbone.model.named_parameters())
        gradients.append(
            next(value.grad for name, value in weight.items() if "q_proj" in name and value.grad is not None)
        )
    torch.testing.assert_close(*gradients)
