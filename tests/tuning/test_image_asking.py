"""Rewards of pictures that ask more than one thing: contrasts between prompts, yes and no, labels."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tuning.image_models import save_clip
from tests.tuning.image_runs import make_run, metrics, run
from tests.tuning.vision_models import save_llava
from training.tuning.config import ImageRewardModelConfig
from training.tuning.data import Group
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_DONE, BadInput
from training.tuning.methods.image_reward_model import index_views, pair_losses
from training.tuning.rewards.asked import AskedReward, yes_share
from training.tuning.rewards.asking import Ask, Contrast
from training.tuning.rewards.compose import Rewards, open_rewards
from training.tuning.rewards.contrast import ContrastReward, text_norm
from training.tuning.rewards.sources import Measured
from training.tuning.rewards.spec import BadReward, parse_rewards

CPU = torch.device("cpu")


def opened(entries: list[dict[str, Any]]) -> Rewards:
    return open_rewards(parse_rewards(entries, modality="image"), modality="image", device=CPU)


# Contrasts between prompts (TextNorm)


@pytest.mark.system("s000-022")
def test_text_norm_by_hand():
    """One contrast is σ((r − r_c) / τ); C equal scores give 1 / (C + 1); what all get alike cancels."""
    own, other = torch.tensor([0.7]), torch.tensor([[0.2]])
    expected = 1 / (1 + math.exp(-(0.7 - 0.2) / 0.5))
    assert text_norm(own, other, temperature=0.5).item() == pytest.approx(expected, abs=1e-6)
    assert text_norm(own, own.expand(4, 1), temperature=0.1).item() == pytest.approx(1 / 5, abs=1e-6)
    both = torch.tensor([[0.3, -0.2], [0.1, 0.4], [0.0, 0.9]])
    moved = both + torch.tensor([5.0, -3.0])
    for one in (both, moved):
        found = text_norm(one[0], one[1:], temperature=0.2)
        torch.testing.assert_close(found, (both / 0.2).softmax(dim=0)[0])


class Words:
    """A source of two members: how red and how blue a picture is, where the prompt says so; and beauty, which
    is the mean, times 100, whatever it says.
    """

    differentiable = True

    def measure(self, prompts, candidates):
        return self.measure_pixels(prompts, torch.stack([torch.tensor(one) for one in candidates]))

    def measure_pixels(self, prompts, pixels):
        wanted = torch.tensor([[float("red" in text), 0.0, float("blue" in text)] for text in prompts])
        means = pixels.mean(dim=(2, 3))
        fit = (wanted * means).sum(dim=1)
        return Measured(torch.stack([fit, 2 * fit], dim=1) + 100 * means.mean(dim=1, keepdim=True))

    def measure_prompt(self, prompt):
        raise NotImplementedError

    def reduce(self, outputs, prompts):
        return outputs.mean(dim=1)


@pytest.mark.system("s000-022")
def test_a_calibrated_reward_cannot_be_bought_with_beauty():
    """A bright blue picture beats a dull red one for "red" until beauty cancels; members one by one."""
    red, blue = torch.zeros(3, 2, 2), torch.zeros(3, 2, 2)
    red[0], blue[2], blue[1] = 0.5, 0.9, 0.9
    pixels = torch.stack([red, blue])
    source = Words()
    prompts = ["a red ball", "a red ball"]
    assert source.measure_pixels(prompts, pixels).outputs[:, 0].argmax() == 1
    contrast = Contrast(temperature=0.5, prompts={"a red ball": ["a blue ball", "a cup"]})
    calibrated = ContrastReward(source, contrast)
    outputs = calibrated.measure_pixels(prompts, pixels).outputs
    # red: its scores for red, blue and cup are .5, 0, 0; blue: 0, .9, 0; twice that for the second member.
    rows = [[0.5, 0.0, 0.0], [0.0, 0.9, 0.0]]
    share = [
        [np.exp(k * row[0] / 0.5) / np.exp(np.array(row) * k / 0.5).sum() for k in (1, 2)] for row in rows
    ]
    torch.testing.assert_close(outputs, torch.tensor(share, dtype=torch.float32), atol=1e-4, rtol=0)
    assert (outputs[0] > outputs[1]).all()
    assert calibrated.measure(prompts, [one.tolist() for one in pixels]).outputs.shape == (2, 2)
    moving = pixels.clone().requires_grad_()
    calibrated.measure_pixels(prompts, moving).outputs[0, 0].backward()
    assert (
        moving.grad[0, 0].sum() > 0 > moving.grad[0, 2].sum()
    )  # more red, and less of what the contrast says


def test_contrasts_by_rule():
    words = [["red", "blue", "green"], ["two", "three"]]
    found = Contrast(words=words).contrasts("Two red birds on a blue roof")
    assert sorted(found) == [
        "Two blue birds on a blue roof",
        "Two green birds on a blue roof",
        "Two red birds on a green roof",
        "Two red birds on a red roof",
        "three red birds on a blue roof",
    ]
    assert len(Contrast().contrasts("a red cat")) == 10  # all other colours
    with pytest.raises(ValueError, match="nothing to compare"):
        Contrast().contrasts("a bored cat")
    assert Contrast(prompts={"a cat": ["a dog", "a cat"]}).contrasts("a cat") == ["a dog"]


def test_a_contrast_in_a_reward_list(tmp_path):
    """For an ensemble too: mean − λ · std of calibrated members; a prompt without contrasts is refused."""
    config = {"max_steps": 2, "members": 2, "lora": None, "learning_rate": 1e-3}
    folder = make_run(
        tmp_path / "run", "image_reward_model", base=save_clip(tmp_path / "clip"), config=config
    )
    assert run(folder) == EXIT_DONE
    plain = {"model": str(folder / "result")}
    contrast = {"temperature": 0.5, "prompts": {"a b": ["c d", "e f"]}}
    how = {"name": "aggregate", "how": "mean_std", "penalty": 0.5}
    images = [Image.new("RGB", (16, 16), colour) for colour in ("red", "white")]
    scores = opened([plain]).sources[0]
    by_prompt = torch.stack([scores.measure([text] * 2, images).outputs for text in ("a b", "c d", "e f")])
    members = (by_prompt / 0.5).softmax(dim=0)[0]
    expected = members.mean(dim=1) - 0.5 * members.std(dim=1, unbiased=False)
    rewards = opened([plain | {"contrast": contrast, "transform": how}])
    torch.testing.assert_close(rewards.parts(["a b"] * 2, images).total, expected, atol=1e-5, rtol=1e-4)
    assert rewards.differentiable()
    with pytest.raises(BadInput, match="nothing to compare"):
        rewards.parts(["x"], images[:1])


@pytest.mark.parametrize(
    ("entry", "field", "message"),
    [
        ({"rule": "brightness", "contrast": {}}, "reward.0", "belongs to a model of pictures"),
        ({"rule": "brightness", "ask": {}}, "reward.0", "belongs to a model of pictures"),
        ({"model": "m", "ask": {}, "contrast": {}}, "reward.0", "{prompt}"),
        ({"model": "m", "contrast": {"words": [["red"]]}}, "reward.0.contrast.words", "two or more"),
        ({"model": "m", "ask": {"wanted": "maybe"}}, "reward.0.ask.wanted", "'yes' or 'no'"),
    ],
)
def test_what_an_entry_may_not_say(entry, field, message):
    with pytest.raises(BadReward) as error:
        parse_rewards([entry], modality="image")
    assert error.value.field.startswith(field.rsplit(".words", 1)[0])
    assert message in error.value.message


@pytest.mark.parametrize("key", ["contrast", "ask"])
def test_texts_are_not_asked(key):
    with pytest.raises(BadReward, match="is for pictures"):
        parse_rewards([{"model": "m", key: {}}], modality="text")


# Vision-language models that are asked


@pytest.mark.system("s002-050")
def test_the_share_of_yes_by_hand():
    """log-probabilities −0.1 and −2.3: 1 / (1 + e^−2.2) = 0.9002, so the reward is 0.0998; and the limits."""
    yes, no = torch.tensor([-0.1, -math.inf, -1.0]), torch.tensor([-2.3, -1.0, -math.inf])
    share = yes_share(yes, no)
    assert share[0].item() == pytest.approx(0.9002, abs=5e-5)
    assert 1 - share[0].item() == pytest.approx(0.0998, abs=5e-5)
    assert share[1:].tolist() == [0.0, 1.0]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"), words=["yes", "No", "no"])


def test_a_model_is_asked_as_its_template_says(llava):
    """P(yes) of transformers' own forward pass; no is the rest; the prompt stands in the question."""
    source = AskedReward(str(llava), Ask(question="is it {prompt}?", wanted="yes"), device=CPU)
    image = Image.new("RGB", (20, 24), (250, 10, 10))
    text = "<|user|><image>\nis it red?<|assistant|>"
    inputs = source.processor(text=[text], images=[image], return_tensors="pt")
    with torch.no_grad():
        shares = source.model(**inputs).logits[0, -1].softmax(dim=0)
    yes, no = (float(shares[source.words[word]].sum()) for word in ("yes", "no"))
    found = source.measure(["red", "blue"], [image, image]).outputs
    assert found.shape == (2, 1)
    assert found[0, 0].item() == pytest.approx(yes / (yes + no), rel=1e-4)
    assert found[0, 0] != found[1, 0]
    entry = {"model": str(llava), "ask": {"question": "is it {prompt}?", "wanted": "no"}}
    total = opened([entry]).parts(["red"], [image]).total
    assert total.item() == pytest.approx(1 - yes / (yes + no), rel=1e-4)


def test_questions_are_tried_on_labelled_pictures(llava, tmp_path, capsys):
    """The question in use is the one that agrees best with the thumbs, by its own scores."""
    media = tmp_path / "run" / "data" / "media"
    media.mkdir(parents=True)
    rows = []
    for number in range(6):
        colour = tuple(int(one) for one in np.random.default_rng(number).integers(0, 255, 3))
        Image.new("RGB", (16, 16), colour).save(media / f"{number}.png")
        judgement = {"thumbs": [number % 2], "annotator": "ann"}
        rows.append({"prompt": "a b", "candidates": [{"image": f"{number}.png"}], "judgements": [judgement]})
    questions = ["a flaw?", "is it bad?", "broken light?"]
    given = {"base": None, "reward": [{"model": str(llava), "ask": {}}]}
    config = {"batch_size": 4, "questions": questions}
    folder = make_run(tmp_path / "run", "image_score", config=config, rows=rows, **given)
    assert run(folder) == EXIT_DONE
    tried = json.loads((folder / "result" / "questions.json").read_text())
    assert sorted(row["question"] for row in tried) == sorted(questions)
    assert tried[0]["agreement"] == max(row["agreement"] for row in tried)
    scores = [
        json.loads(line)["scores"][0]
        for line in (folder / "result" / "scores.jsonl").read_text().splitlines()
    ]
    wins = [scores[good] > scores[bad] for good in (1, 3, 5) for bad in (0, 2, 4)]
    assert tried[0]["agreement"] == pytest.approx(sum(wins) / 9)
    best = AskedReward(str(llava), Ask(question=tried[0]["question"]), device=CPU)
    images = [Image.open(media / f"{number}.png") for number in range(6)]
    assert best.measure(["a b"] * 6, images).outputs[:, 0].tolist() == pytest.approx(scores, rel=1e-5)
    wrong = make_run(
        tmp_path / "wrong", "image_score", base=None, config=config, reward=[{"rule": "brightness"}]
    )
    assert run(wrong) == EXIT_BAD_INPUT
    assert "one model with ask" in capsys.readouterr().err


# Labels of single pictures, and the audit of hacked ensembles


def picture(generator: np.random.Generator, *, quality: float, speckle: float) -> Image.Image:
    """A soft shape whose colour says how good it is, and noise that all simple measures like."""
    pixels = np.full((16, 16, 3), 96.0)
    pixels[4:12, 4:12] = [96 + 60 * quality, 96, 96 - 60 * quality]
    pixels += speckle * generator.normal(0, 90, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def labelled_rows(media: Path, *, count: int, seed: int) -> list[dict[str, Any]]:
    """Half of the pictures have artifacts, in whatever quality; a thumb down says so."""
    generator = np.random.default_rng(seed)
    media.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        spoilt = number % 2
        name = f"{seed}-{number}.png"
        quality, speckle = generator.uniform(0, 1), spoilt * generator.uniform(0.4, 1)
        picture(generator, quality=quality, speckle=speckle).save(media / name)
        judgement = {"thumbs": [1 - spoilt], "annotator": "ann"}
        rows.append({"prompt": "a b", "candidates": [{"image": name}], "judgements": [judgement]})
    return rows


@pytest.fixture(scope="module")
def artifact_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image reward model of clean against spoilt, from 48 pictures."""
    folder = tmp_path_factory.mktemp("head")
    media = folder / "data" / "media"
    make_run(
        folder,
        "image_reward_model",
        base=None,
        config={
            "learn_from": "labels",
            "max_steps": 100,
            "batch_size": 12,
            "learning_rate": 3e-3,
            "width": 32,
            "warmup": 0,
            "log_every": 1,
        },
        rows=labelled_rows(media, count=48, seed=1),
        held_out=labelled_rows(media, count=24, seed=2),
    )
    assert run(folder) == EXIT_DONE
    return folder


def test_the_loss_of_labels_is_a_cross_entropy():
    """Scores ln 3 and ln 3 of a good and a bad picture: −ln ¾ and −ln ¼; two votes of three: their mean."""
    group = Group(
        line=1,
        prompt="a",
        candidates=[{"image": "a.png"}, {"image": "b.png"}, {"image": "c.png"}],
        judgements=[{"thumbs": [1, 0, 1]}, {"thumbs": [None, None, 1]}, {"thumbs": [None, None, 0]}],
    )
    config = ImageRewardModelConfig(learn_from="labels")
    [(output, index)] = index_views([group], config, device=CPU)
    losses, _ = pair_losses(torch.full((3,), math.log(3)), index, config)
    expected = [-math.log(3 / 4), -math.log(1 / 4), -(2 * math.log(3 / 4) + math.log(1 / 4)) / 3]
    assert (output, losses.tolist()) == (0, pytest.approx(expected, abs=1e-6))
    assert index.weight.tolist() == [1, 1, 3]


def test_labels_are_learnt(artifact_head):
    """Held-out pictures are told apart."""
    last = [row for row in metrics(artifact_head) if "eval/accuracy" in row][-1]
    assert last["eval/accuracy"] == 1.0
    assert last["eval/accuracy_majority"] == 1.0
    assert last["eval/loss"] < 0.2


@pytest.mark.parametrize("keys", [{"ties": "drop"}, {"pairs": "majority"}, {"aspects": ["a", "b"]}])
def test_keys_of_pairs_have_no_use_for_labels(keys, tmp_path, capsys):
    config = {"learn_from": "labels"} | keys
    assert run(make_run(tmp_path / "run", "image_reward_model", base=None, config=config)) == EXIT_BAD_INPUT
    assert "has no use for labels" in capsys.readouterr().err


@pytest.mark.system("s002-050")
def test_an_ensemble_of_proxies_is_hacked_and_the_artifact_term_stops_it(artifact_head):
    """64 pictures from good to bad, half of them speckled. Mean and minimum of three simple measures, all of
    which like speckle, choose a speckled one; with 1 − P(artifact) of equal weight added, the best clean one.
    """
    generator = np.random.default_rng(7)
    made = [(generator.uniform(0, 1), float(number % 2) * generator.uniform(0.4, 1)) for number in range(64)]
    images = [picture(generator, quality=quality, speckle=speckle) for quality, speckle in made]
    prompts = ["a b"] * len(images)
    proxies = [{"rule": name} for name in ("sharpness", "colourfulness", "saturation")]
    measured = opened(proxies).parts(prompts, images).scores
    low, high = measured.amin(dim=0), measured.amax(dim=0)
    alike = (measured - low) / (high - low)  # from 0 to 1, as a P(artifact) is
    for ensemble in (alike.mean(dim=1), alike.amin(dim=1)):
        assert made[int(ensemble.argmax())][1] > 0.4  # hacked
    scaled = [
        {
            "rule": entry["rule"],
            "transform": {"name": "affine", "scale": 1 / float(b - a), "shift": float(-a / (b - a))},
        }
        for entry, a, b in zip(proxies, low, high, strict=True)
    ]
    entry = {"model": str(artifact_head / "result"), "transform": "sigmoid"}
    thirds = [one | {"weight": 1 / 3} for one in scaled]
    total = opened([*thirds, entry]).parts(prompts, images).total
    torch.testing.assert_close(
        opened(thirds).parts(prompts, images).total, alike.mean(dim=1), atol=1e-5, rtol=1e-4
    )
    quality, speckle = made[int(total.argmax())]
    assert speckle == 0
    assert quality > 0.9 * max(one for one, spoilt in made if spoilt == 0)


@pytest.mark.system("s002-050")
def test_a_constant_artifact_reward_changes_no_advantage():
    """Of a group whose pictures are all as clean: centred rewards are the same with and without it."""
    rewards = torch.tensor([0.3, 0.9, 0.1, 0.5])
    together = rewards + 0.8
    torch.testing.assert_close(together - together.mean(), rewards - rewards.mean())
