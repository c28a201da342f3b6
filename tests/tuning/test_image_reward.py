"""Image reward models: heads, backbones, training, files and scores."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPModel

from tests.tuning.image_models import save_clip, save_picture
from tests.tuning.image_runs import cancelled_after, make_run, metrics, pair_rows, read_rows, run
from training.tuning.config import ImageRewardModelConfig
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, EXIT_DONE, BadInput
from training.tuning.images.data import open_image
from training.tuning.images.pair_index import index_pairs
from training.tuning.images.reward import RewardHead, prepare
from training.tuning.images.reward_files import (
    load_clip,
    load_image_reward,
    reward_for_training,
    save_image_reward,
)
from training.tuning.methods.image_reward_model import pair_losses
from training.tuning.pairs import Pair
from training.tuning.rewards.compose import open_rewards
from training.tuning.rewards.pictures import PictureReward
from training.tuning.rewards.spec import parse_rewards

SMALL: dict[str, Any] = {
    "image_size": 16,
    "width": 16,
    "hidden": 8,
    "max_steps": 4,
    "batch_size": 4,
    "log_every": 1,
    "save_every": 2,
}
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def colour_rows(media: Path, *, count: int, seed: int) -> list[dict[str, Any]]:
    """A prompt names a colour; people prefer the picture that has it: neither words nor pictures alone
    decide.
    """
    media.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        wanted = str(rng.choice(list(COLOURS)))
        names = []
        for colour in COLOURS.values():
            noisy = np.array(colour) + rng.normal(0, 20, (16, 16, 3))
            names.append(f"{seed}-{number}-{len(names)}.png")
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(media / names[-1])
        choice = list(COLOURS).index(wanted)
        rows.append(
            {
                "prompt": f"a {wanted} square",
                "candidates": [{"image": name} for name in names],
                "judgements": [{"choice": choice, "annotator": f"p{number % 3}"}],
            }
        )
    return rows


def test_head_by_hand():
    """It starts as scale · cos: 3 · cos 60° = 1.5, whatever the lengths."""
    head = RewardHead(2, hidden=4, scale=3.0)
    image = torch.tensor([[2.0, 0.0]])
    text = torch.tensor([[0.5, math.sqrt(3) / 2]]) * 7
    torch.testing.assert_close(head(image, text), torch.tensor([[1.5]]))
    with torch.no_grad():
        head.mlp[-1].weight.fill_(1.0)
    assert head(image, text).item() != pytest.approx(1.5)


def test_a_fresh_clip_reward_is_clips_own_score(clip):
    """PickScore's form: before training, the score is CLIP's logit of picture and prompt."""
    model = reward_for_training(str(clip), ImageRewardModelConfig(), seed=0)
    pixels = prepare(model.backbone, [Image.new("RGB", (20, 30), colour) for colour in COLOURS.values()])
    prompts = ["a red", "blue"]
    tokens = model.backbone.tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = CLIPModel.from_pretrained(clip).eval()(pixel_values=pixels, **tokens).logits_per_image
        for text in (0, 1):
            ours = model(pixels, torch.tensor([text, text]), prompts)
            torch.testing.assert_close(ours, theirs[:, text], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("base", ["small", "clip"])
def test_a_score_does_not_depend_on_its_batch(base, clip):
    model = reward_for_training(None if base == "small" else str(clip), ImageRewardModelConfig(), seed=0)
    with torch.no_grad():
        model.head.mlp[-1].weight.normal_()
    images = [
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (16, 16, 3), dtype=np.uint8))
        for n in range(4)
    ]
    pixels = prepare(model.backbone, images)
    prompts = ["a b", "a much longer one"]
    with torch.no_grad():
        together = model(pixels, torch.tensor([0, 1, 1, 0]), prompts).tolist()
    alone = [*model.scores(prompts[0], [images[0], images[3]]), *model.scores(prompts[1], images[1:3])]
    assert together == pytest.approx([alone[0], alone[2], alone[3], alone[1]], abs=1e-5)


def test_word_order_matters_to_the_small_backbone():
    model = reward_for_training(None, ImageRewardModelConfig(), seed=0)
    prompts = ["a red circle on yellow", "a yellow circle on red", "A red, circle on yellow!", ""]
    features = model.backbone.text_features(prompts)
    assert torch.equal(features[0], features[2])
    assert (features[0] - features[1]).abs().max() > 0.01
    assert features[3].isfinite().all()


def test_it_learns_to_match_words_and_colours(tmp_path):
    media = tmp_path / "run" / "data" / "media"
    rows, held_out = colour_rows(media, count=48, seed=1), colour_rows(media, count=32, seed=2)
    config = SMALL | {"max_steps": 40, "learning_rate": 5e-3, "eval_every": 10}
    folder = make_run(
        tmp_path / "run", "image_reward_model", base=None, config=config, rows=rows, held_out=held_out
    )
    assert run(folder) == EXIT_DONE
    rated = [row for row in metrics(folder) if "eval/accuracy" in row]
    assert rated[-1]["eval/accuracy"] >= 0.95
    assert (
        rated[-1]["eval/accuracy_low"]
        < rated[-1]["eval/accuracy_majority"]
        <= rated[-1]["eval/accuracy_high"] + 1e-9
    )
    model = load_image_reward(folder / "result")
    for prompt, better in (("a red square", 0), ("a blue square", 1)):
        scores = model.scores(prompt, [Image.new("RGB", (16, 16), colour) for colour in COLOURS.values()])
        assert scores[better] > scores[1 - better]


@pytest.mark.parametrize(("pictures", "seen"), [(16, 16), (100, 64)])
def test_the_small_model_sees_pictures_at_their_own_size_up_to_64(pictures, seen, tmp_path):
    media = tmp_path / "run" / "data" / "media"
    rows = pair_rows(media, count=2)
    for row in rows:
        for candidate in row["candidates"]:
            save_picture(media / candidate["image"], seed=0, height=pictures, width=pictures // 2)
    config = {key: value for key, value in SMALL.items() if key != "image_size"} | {"max_steps": 1}
    folder = make_run(tmp_path / "run", "image_reward_model", base="small", config=config, rows=rows)
    assert run(folder) == EXIT_DONE
    assert json.loads((folder / "result" / "config.json").read_text())["backbone"]["image_size"] == seen


def test_the_best_checkpoint_is_the_result(tmp_path):
    """Scores are equal before training and wrong after it: the earliest evaluation is the best."""
    media = tmp_path / "run" / "data" / "media"
    rows, held_out = colour_rows(media, count=16, seed=1), colour_rows(media, count=16, seed=2)
    for row in held_out:
        row["judgements"][0]["choice"] = 1 - row["judgements"][0]["choice"]
    config = SMALL | {"max_steps": 30, "learning_rate": 5e-3, "eval_every": 5, "metric_for_best": "eval/loss"}
    folder = make_run(
        tmp_path / "run", "image_reward_model", base=None, config=config, rows=rows, held_out=held_out
    )
    assert run(folder) == EXIT_DONE
    losses = {row["step"]: row["eval/loss"] for row in metrics(folder) if "eval/loss" in row}
    best = min(losses, key=lambda step: losses[step])
    assert best < 30
    kept = load_file(folder / f"checkpoint-{best:06d}" / "weights.safetensors")
    result = load_file(folder / "result" / "reward.safetensors")
    assert all(torch.equal(kept[name], result[name]) for name in kept)
    facts = json.loads((folder / "result" / "metadata.json").read_text())
    assert facts["metrics"]["eval/loss"] == losses[best]


def test_ties_count_half(tmp_path):
    """With every vote tied the loss starts at ln 2 or above and accuracy is one half; dropped, nothing is
    left.
    """
    rows = pair_rows(tmp_path / "run" / "data" / "media")
    for row in rows:
        row["judgements"] = [{"choice": "tie"}]
    folder = make_run(tmp_path / "run", "image_reward_model", base=None, config=SMALL, rows=rows)
    assert run(folder) == EXIT_DONE
    assert all(row["rewards/accuracy"] == 0.5 for row in metrics(folder))
    assert metrics(folder)[0]["loss"] >= math.log(2)
    shutil.copytree(folder / "data", tmp_path / "dropped" / "data")
    dropped = make_run(
        tmp_path / "dropped", "image_reward_model", base=None, config=SMALL | {"ties": "drop"}, rows=rows
    )
    assert run(dropped) == EXIT_BAD_INPUT


@pytest.mark.parametrize("kind", ["small", "clip", "clip-lora"])
def test_resuming_and_loading(kind, clip, tmp_path):
    """Stopped after step 3 and resumed: the same weights to the bit; the files give the trained model
    back.
    """

    lora = {"r": 2, "alpha": 4, "target_modules": ["q_proj", "v_proj"]} if kind == "clip-lora" else None
    config = SMALL | {"max_steps": 5, "lora": lora}
    if kind != "small":
        config = {key: value for key, value in config.items() if key not in {"image_size", "width", "hidden"}}
    base = None if kind == "small" else clip
    folders = [
        make_run(tmp_path / name, "image_reward_model", base=base, config=config)
        for name in ("through", "stopped")
    ]
    assert run(folders[0]) == EXIT_DONE
    with cancelled_after(3):
        assert run(folders[1]) == EXIT_CANCELLED
    assert run(folders[1]) == EXIT_DONE
    through, stopped = (
        load_file(sorted(folder.glob("checkpoint-*"))[-1] / "weights.safetensors") for folder in folders
    )
    assert all(torch.equal(through[name], stopped[name]) for name in through)
    assert [row["loss"] for row in metrics(folders[0])] == [row["loss"] for row in metrics(folders[1])]

    image = open_image(folders[0] / "data" / "media" / "0-0.png")
    ours, theirs = (load_image_reward(folder / "result").scores("a b", [image]) for folder in folders)
    assert ours == theirs
    fresh = reward_for_training(None if base is None else str(base), ImageRewardModelConfig(**config), seed=3)
    assert ours != fresh.scores("a b", [image])
    if kind != "small":
        CLIPModel.from_pretrained(folders[0] / "result" / "backbone", use_safetensors=True)


def test_a_batch_is_the_sum_of_its_groups(tmp_path):
    losses = []
    for size in (None, 1, 3):
        folder = make_run(
            tmp_path / str(size),
            "image_reward_model",
            base=None,
            config=SMALL | {"batch_size": 8, "micro_batch_size": size},
        )
        assert run(folder) == EXIT_DONE
        losses.append([row["loss"] for row in metrics(folder)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("kind", ["small", "clip", "clip-lora"])
def test_gradient_checkpointing_changes_nothing(kind, clip, tmp_path):
    losses = []
    lora = {"r": 2, "alpha": 4, "target_modules": ["q_proj", "v_proj"]} if kind == "clip-lora" else None
    keys = {"max_steps", "batch_size", "log_every"} | (set(SMALL) if kind == "small" else set())
    for on in (False, True):
        folder = make_run(
            tmp_path / str(on),
            "image_reward_model",
            base=None if kind == "small" else clip,
            config={key: SMALL[key] for key in keys} | {"gradient_checkpointing": on, "lora": lora},
        )
        assert run(folder) == EXIT_DONE
        losses.append([row["loss"] for row in metrics(folder)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][0] != losses[0][-1]


def test_gradient_checkpointing_is_on(clip):
    """transformers ignores it in evaluation mode without a word; and dropout stays off."""
    backbone = load_clip(str(clip))
    backbone.clip.vision_model.encoder.layers[0].self_attn.dropout = 0.5
    calls = []
    backbone.enable_gradient_checkpointing()
    for encoder in (backbone.clip.vision_model.encoder, backbone.clip.text_model.encoder):
        layer = encoder.layers[0]
        assert layer.self_attn.dropout == 0.0
        recompute = layer._gradient_checkpointing_func
        layer._gradient_checkpointing_func = lambda *args, f=recompute: calls.append(1) or f(*args)
    backbone.image_features(torch.zeros(1, 3, 16, 16)).sum().backward()
    backbone.text_features(["a b"]).sum().backward()
    assert len(calls) == 2  # one layer each


def test_training_goes_on_from_a_result(tmp_path):
    first = make_run(tmp_path / "first", "image_reward_model", base=None, config=SMALL)
    assert run(first) == EXIT_DONE
    defaults = {key: value for key, value in SMALL.items() if key not in {"image_size", "width", "hidden"}}
    second = make_run(tmp_path / "second", "image_reward_model", base=first / "result", config=defaults)
    assert run(second) == EXIT_DONE
    assert metrics(second)[0]["loss"] == pytest.approx(metrics(first)[-1]["loss"], abs=0.3)
    assert metrics(second)[0]["loss"] != metrics(first)[0]["loss"]


@pytest.mark.parametrize("base", ["small", "clip"])
def test_scores_job(base, clip, tmp_path):
    """In the input's order, whatever the batches; a row of three and one without candidates."""
    model = reward_for_training(None if base == "small" else str(clip), ImageRewardModelConfig(), seed=0)
    with torch.no_grad():
        model.head.mlp[-1].weight.normal_()
    save_image_reward(model, tmp_path / "model")
    media = tmp_path / "run" / "data" / "media"
    rows = [{key: row[key] for key in ("prompt", "candidates")} for row in pair_rows(media, count=3)]
    rows[1]["candidates"] = rows[1]["candidates"] + rows[0]["candidates"][:1]
    rows.insert(1, {"prompt": "nothing to see"})
    folder = make_run(
        tmp_path / "run", "image_score", base=tmp_path / "model", config={"batch_size": 2}, rows=rows
    )
    assert run(folder) == EXIT_DONE
    scores = [row["scores"] for row in read_rows(folder / "result" / "scores.jsonl")]
    assert [len(row) for row in scores] == [2, 0, 3, 2]
    for row, found in zip(rows, scores, strict=True):
        images = [open_image(media / candidate["image"]) for candidate in row.get("candidates", [])]
        if images:
            assert found == pytest.approx(model.scores(row["prompt"], images), abs=1e-4)
    assert metrics(folder)[-1]["step"] == 4


def test_scores_by_rules(tmp_path, capsys):
    """The ITU-R 601 luma of red is 76/255, of blue 29/255; half of it counts, and the parts add up."""
    media = tmp_path / "run" / "data" / "media"
    media.mkdir(parents=True)
    for name in ("red", "blue"):
        Image.new("RGB", (8, 8), name).save(media / f"{name}.png")
    pair = {"prompt": "p", "candidates": [{"image": "red.png"}, {"image": "blue.png"}]}
    rows = [pair, {"prompt": "nothing to see"}, {"prompt": "q", "candidates": pair["candidates"][:1]}]
    rewards = [{"rule": "brightness", "weight": 0.5}, {"rule": "contrast"}]
    given = {"reward": rewards, "config": {"batch_size": 2}}
    folder = make_run(tmp_path / "run", "image_score", base=None, rows=rows, **given)
    assert run(folder) == EXIT_DONE
    found = read_rows(folder / "result" / "scores.jsonl")
    assert [row["scores"] for row in found] == [
        pytest.approx([38 / 255, 14.5 / 255], abs=1e-3), [], pytest.approx([38 / 255], abs=1e-3),
    ]  # fmt: skip
    assert found[0]["parts"]["brightness"] == pytest.approx([38 / 255, 14.5 / 255], abs=1e-3)
    assert found[0]["parts"]["contrast"] == pytest.approx([0, 0], abs=1e-6)
    both = make_run(tmp_path / "both", "image_score", base="x", rows=[pair], **given)
    assert run(both) == EXIT_BAD_INPUT
    assert "or give a reward list" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("base", "config", "message"),
    [
        (None, {"lora": {"r": 4}}, "the small backbone has nothing pretrained to adapt"),
        ("clip", {"image_size": 32}, "config.image_size"),
        ("clip", {"lora": {"target_modules": ["nope"]}}, "config.lora.target_modules"),
        ("nowhere", {}, "cannot be loaded"),
    ],
)
def test_bad_combinations(base, config, message, clip, tmp_path, capsys):
    folder = make_run(
        tmp_path / "run",
        "image_reward_model",
        base=clip if base == "clip" else base,
        config={"max_steps": 1} | config,
    )
    assert run(folder) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err


def test_bad_folders(clip, tmp_path):
    broken = shutil.copytree(clip, tmp_path / "pickle")
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"pytorch_model.bin: weights are a pickle"):
        load_clip(str(broken))
    wordless = shutil.copytree(clip, tmp_path / "wordless")
    for path in wordless.glob("*token*"):
        path.unlink()
    with pytest.raises(BadInput, match="no tokenizer"):
        load_clip(str(wordless))
    other = shutil.copytree(clip, tmp_path / "other")
    (other / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(BadInput, match="not a CLIPModel"):
        load_clip(str(other))
    (other / "model_index.json").write_text("{}")
    with pytest.raises(BadInput, match="this model draws pictures; a reward model starts from a CLIP"):
        load_clip(str(other))
    with pytest.raises(BadInput, match="not an image reward model"):
        load_image_reward(clip)


def test_ties_have_a_probability_of_their_own():
    """Rao-Kupper at nu = 5 and equal scores: 1/6 for each side and 2/3 for a tie; at any margin they sum
    to 1.
    """
    config = ImageRewardModelConfig(ties="rao_kupper", tie_rate=5.0)
    for margin in (0.0, -1.3, 40.0):
        scores = torch.tensor([margin, 0.0])
        losses = []
        for target, tie in ((1.0, 0.0), (0.0, 0.0), (0.0, 1.0)):
            index = index_pairs([[Pair(0, 1, 1.0, target, tie)]], [2], device=torch.device("cpu"))
            losses.append(pair_losses(scores, index, config)[0])
        shares = torch.cat(losses).neg().exp()
        assert shares.sum().item() == pytest.approx(1)
        if margin == 0:
            assert shares.tolist() == pytest.approx([1 / 6, 1 / 6, 2 / 3])
    with pytest.raises(ValueError, match="above 1"):
        ImageRewardModelConfig(ties="rao_kupper", tie_rate=1.0)


@pytest.mark.system("s002-056")
def test_tied_votes_pull_scores_together(tmp_path):
    """Half of the votes on the same two pictures are ties: with ties as an outcome the gap that fits is the
    likeliest one, -log of P(win)½ P(tie)½; ties as half votes would fit ln 3.
    """
    media = tmp_path / "run" / "data" / "media"
    (row,) = pair_rows(media, count=1)
    row["judgements"] = [{"choice": choice, "annotator": f"p{at}"} for at, choice in enumerate([0, "tie"])]
    keys = {"max_steps": 150, "learning_rate": 1e-2, "warmup": 0, "scheduler": "constant"}
    config = SMALL | keys | {"ties": "rao_kupper", "tie_rate": 5.0, "batch_size": 1, "save_every": 1000}
    folder = make_run(tmp_path / "run", "image_reward_model", base=None, config=config, rows=[row])
    assert run(folder) == EXIT_DONE
    # d maximises log σ(d - ln 5) + log[σ(d - ln 5) σ(-d - ln 5)]: 2 σ(ln 5 - d) = σ(d + ln 5).
    margin = torch.linspace(-5, 5, 100_001, dtype=torch.float64)
    lift = math.log(5)
    best = margin[(2 * torch.sigmoid(lift - margin) - torch.sigmoid(margin + lift)).abs().argmin()].item()
    assert metrics(folder)[-1]["rewards/margin"] == pytest.approx(best, abs=0.05)


def aspect_rows(media: Path, *, count: int, seed: int) -> list[dict[str, Any]]:
    """In one aspect the picture with the prompt's colour is better, in the other always the red one."""
    rows = colour_rows(media, count=count, seed=seed)
    for row in rows:
        row["judgements"][0] = {
            "annotator": "ann",
            "aspects": {
                "alignment": {"choice": row["judgements"][0]["choice"]},
                "warmth": {"choice": 0},
            },
        }
    return rows


def test_an_output_for_each_aspect(tmp_path, capsys):
    """Each output follows its own aspect; a reward list weighs them; what nobody judged is refused."""
    media = tmp_path / "run" / "data" / "media"
    rows, held_out = aspect_rows(media, count=48, seed=1), aspect_rows(media, count=24, seed=2)
    config = SMALL | {"max_steps": 60, "learning_rate": 5e-3, "aspects": ["alignment", "warmth"]}
    folder = make_run(
        tmp_path / "run", "image_reward_model", base=None, config=config, rows=rows, held_out=held_out
    )
    assert run(folder) == EXIT_DONE
    rated = [row for row in metrics(folder) if "eval/accuracy" in row][-1]
    assert min(rated["eval/accuracy/alignment"], rated["eval/accuracy/warmth"]) >= 0.9
    images = [Image.new("RGB", (16, 16), colour) for colour in COLOURS.values()]
    source = PictureReward(str(folder / "result"), device=torch.device("cpu"))
    outputs = source.measure(["a blue square"] * 2, images).outputs
    assert outputs.shape == (2, 2)
    assert outputs[1, 0] > outputs[0, 0]
    assert outputs[0, 1] > outputs[1, 1]
    model = load_image_reward(folder / "result")
    assert model.scores("a blue square", images) == pytest.approx(outputs.mean(dim=1).tolist(), abs=1e-5)
    spec = [{"model": str(folder / "result"), "transform": {"name": "attributes", "weights": [0.0, 2.0]}}]
    rewards = open_rewards(
        parse_rewards(spec, modality="image"), modality="image", device=torch.device("cpu")
    )
    torch.testing.assert_close(rewards.parts(["a blue square"] * 2, images).total, 2 * outputs[:, 1])
    other = make_run(
        tmp_path / "other",
        "image_reward_model",
        base=folder / "result",
        config={"max_steps": 1, "aspects": ["alignment"]},
    )
    assert run(other) == EXIT_BAD_INPUT
    assert "has alignment, warmth, which stay" in capsys.readouterr().err


def test_an_ensemble_is_unsure_where_it_saw_nothing(tmp_path):
    """Members differ in what they start from: they agree on what they were taught and not elsewhere."""
    media = tmp_path / "run" / "data" / "media"
    config = SMALL | {"max_steps": 60, "learning_rate": 5e-3, "members": 4, "hidden": 16}
    rows = colour_rows(media, count=48, seed=1)
    folder = make_run(tmp_path / "run", "image_reward_model", base=None, config=config, rows=rows)
    assert run(folder) == EXIT_DONE
    images = [Image.new("RGB", (16, 16), colour) for colour in COLOURS.values()]
    source = PictureReward(str(folder / "result"), device=torch.device("cpu"))
    outputs = source.measure(["a red square"] * 2, images).outputs
    gaps = outputs[0] - outputs[1]
    assert gaps.shape == (4,)
    assert (gaps > 0).all()
    assert gaps.std() > 1e-3
    cautious = [{"model": str(folder / "result"), "transform": {"name": "aggregate", "how": "mean_std"}}]
    rewards = open_rewards(
        parse_rewards(cautious, modality="image"), modality="image", device=torch.device("cpu")
    )
    expected = outputs.mean(dim=1) - 0.5 * outputs.std(dim=1, unbiased=False)
    torch.testing.assert_close(rewards.parts(["a red square"] * 2, images).total, expected)
