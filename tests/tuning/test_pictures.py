"""Pictures in prompts: read once for a group, the same numbers as the model's own, and runs that learn."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.tuning.test_grpo import VOWELS
from tests.tuning.text_models import save_causal
from tests.tuning.text_runs import make_run, metrics, read_rows, run
from tests.tuning.vision_models import pictured_rows, save_llava
from training.tuning.config import LoraConfig
from training.tuning.errors import BadInput
from training.tuning.reading import load_groups
from training.tuning.text.attention import ordinary_attention
from training.tuning.text.batches import make_batch
from training.tuning.text.dataset import texts_of
from training.tuning.text.generation import sample_answers
from training.tuning.text.loading import load_for_training
from training.tuning.text.models import TextModel, layout_of
from training.tuning.text.probe import check_reading
from training.tuning.text.setup import open_group_tokenizer
from training.tuning.text.tokens import GroupTokenizer, Unusable

LN_2 = 0.6931471805599453
QUICK: dict[str, Any] = {"log_every": 1, "learning_rate": 1e-2, "batch_size": 4, "samples": 2}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: Any) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def model(llava: Path) -> TextModel:
    return load_for_training(
        str(llava), kind="causal", lora=LoraConfig(), lora_was_set=False, precision="fp32",
        device=torch.device("cpu"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(llava: Path) -> GroupTokenizer:
    return open_group_tokenizer(str(llava), max_length=None)


def groups_in(folder: Path) -> list[Any]:
    rows = pictured_rows(folder, 4)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_groups(folder / "rows.jsonl", modality="text", media=folder / "data" / "media")


def test_a_picture_is_four_tokens_of_the_prefix(
    tmp_path: Path, llava: Path, tokenizer: GroupTokenizer
) -> None:
    """16 / 8 patches a side. The tokens are those of transformers' own processor, picture and all."""
    (group, *_) = groups_in(tmp_path)
    tokens = tokenizer.encode(group.prompt, texts_of(group))
    place = tokenizer.tokenizer.convert_tokens_to_ids("<image>")
    assert tokens.prefix.count(place) == 4
    assert not any(place in block for block in tokens.blocks)
    processor = AutoProcessor.from_pretrained(llava)
    turns = [message.model_dump() for message in group.prompt]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    own = processor(text=[text], images=[Image.open(tokens.pictures[0].path)])
    assert tokens.prefix == list(own["input_ids"][0])


def test_a_group_reads_as_its_candidates_alone(
    tmp_path: Path, model: TextModel, tokenizer: GroupTokenizer
) -> None:
    """Packed, every picture once for both answers, against the model's own forward passes, one by one."""
    groups = groups_in(tmp_path)
    encoded = [tokenizer.encode(group.prompt, texts_of(group)) for group in groups]
    batch = make_batch(encoded, causal=True)
    assert len(batch.pictures) == 4
    with torch.no_grad():
        packed = model.token_logprobs(batch)
        alone = []
        with ordinary_attention(model.inner):
            for one in encoded:
                for block, start in zip(one.blocks, one.starts, strict=True):
                    row = torch.tensor([one.prefix + block])
                    logits = model.inner(input_ids=row, **model.vision_inputs(one.pictures)).logits[0]
                    first = len(one.prefix) + start
                    log_p = logits.log_softmax(-1)[first - 1 : -1]
                    alone.append(log_p.gather(1, row[0, first:, None])[:, 0])
    torch.testing.assert_close(packed, torch.cat(alone), atol=2e-5, rtol=1e-4)
    # The same words under the other picture are something else.
    other = make_batch([encoded[0]], causal=True)
    other.pictures[0] = encoded[1].pictures[0]
    with torch.no_grad():
        assert (model.token_logprobs(other) - packed[: len(other.targets)]).abs().max() > 1e-3
    check_reading(model, kind="causal")


def test_adapters_leave_the_vision_part_alone(model: TextModel) -> None:
    names = [name for name, value in model.model.named_parameters() if value.requires_grad]
    assert any("language_model" in name for name in names)
    assert not [name for name in names if "vision" in name or "projector" in name]


@pytest.mark.parametrize("lora", [True, False])
def test_dpo_starts_at_ln_2_and_learns_to_see(tmp_path: Path, llava: Path, lora: bool) -> None:
    """Which word is right depends on the picture alone: without it the accuracy could not pass one half."""
    folder = tmp_path / "run"
    rows = pictured_rows(folder)
    config = QUICK | {"epochs": 15, "scheduler": "constant", "warmup": 0, "learning_rate": 5e-3}
    (folder / "data").rename(tmp_path / "data")
    make_run(folder, "dpo", base=llava, config=config | ({} if lora else {"lora": None}), rows=rows)
    (tmp_path / "data" / "media").rename(folder / "data" / "media")
    assert run(folder) == 0
    found = metrics(folder)
    assert found[0]["loss"] == pytest.approx(LN_2, abs=1e-7)
    assert found[0]["rewards/margin"] == 0
    assert found[-1]["rewards/accuracy"] == 1
    assert len(read_rows(folder / "samples.jsonl")) == 4
    processor = AutoProcessor.from_pretrained(folder / "result")
    assert processor.image_processor is not None
    base = AutoModelForImageTextToText.from_pretrained(llava if lora else folder / "result")
    if lora:
        PeftModel.from_pretrained(base, folder / "result")


def test_answers_to_pictures(tmp_path: Path, model: TextModel, tokenizer: GroupTokenizer) -> None:
    """Greedy answers, two to a prompt that is read once, are those of the model's own generate."""
    groups = groups_in(tmp_path)[:2]
    ids = [tokenizer.prompt_ids(group.prompt) for group in groups]
    pictures = [tokenizer.pictures(group.prompt) for group in groups]
    with torch.no_grad():
        found = sample_answers(
            model, ids, keys=list("abcd"), max_new_tokens=5, temperature=0.0, pictures=pictures
        )
        for number, answer in enumerate(found):
            row = list(ids[number // 2])
            with ordinary_attention(model.inner):
                for _ in answer.ids:
                    seen = model.vision_inputs(pictures[number // 2])
                    logits = model.inner(input_ids=torch.tensor([row]), **seen).logits
                    row.append(int(logits[0, -1].argmax()))
            assert answer.ids == row[len(ids[number // 2]) :]
    with pytest.raises(BadInput, match="not done on prompts with pictures"):
        sample_answers(model, ids, keys=list("ab"), max_new_tokens=5, temperature=0.0)


def test_grpo_on_pictures(tmp_path: Path, llava: Path) -> None:
    folder = tmp_path / "run"
    rows = [{"prompt": row["prompt"]} for row in pictured_rows(tmp_path, 4)]
    config = QUICK | {"num_generations": 4, "max_new_tokens": 4, "max_steps": 2, "samples": 0}
    make_run(folder, "grpo", base=llava, config=config, rows=rows, reward=VOWELS)
    (tmp_path / "data" / "media").rename(folder / "data" / "media")
    assert run(folder) == 0
    first, second = metrics(folder)
    assert first["kl"] == 0
    assert max(first["answers/logprob_gap"], second["answers/logprob_gap"]) < 1e-4


def test_language_models_leave_pictured_rows_out(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "run"
    rows = pictured_rows(tmp_path, 2)
    make_run(folder, "dpo", base=save_causal(tmp_path / "llama"), config=QUICK, rows=rows)
    (tmp_path / "data" / "media").rename(folder / "data" / "media")
    assert run(folder) == 1
    assert "the prompt holds pictures, which this model does not read" in capsys.readouterr().err


def test_pictures_must_be_there(tmp_path: Path, llava: Path, tokenizer: GroupTokenizer, capsys: Any) -> None:
    folder = make_run(
        tmp_path / "run", "dpo", base=llava, config=QUICK, rows=pictured_rows(tmp_path / "elsewhere", 2)
    )
    assert run(folder) == 1
    assert 'prompt (picture 1): the image "red.png" is missing' in capsys.readouterr().err
    (group, *_) = groups_in(tmp_path)
    with pytest.raises(Unusable, match="an answer contains the token of pictures"):
        tokenizer.encode(group.prompt, ["it is <image>"])


def place_pictures(folder: Path, media: Path) -> Path:
    (folder / "data" / "media").symlink_to(media / "data" / "media")
    return folder


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: Any, llava: Path) -> tuple[Path, Path]:
    """A reward model that has learned to see, and the pictures."""
    media = tmp_path_factory.mktemp("media")
    rows = pictured_rows(media)
    config = {"log_every": 1, "learning_rate": 1e-2, "batch_size": 4, "epochs": 12}
    folder = make_run(
        tmp_path_factory.mktemp("scorer") / "run", "reward_model", base=llava, config=config, rows=rows
    )
    assert run(place_pictures(folder, media)) == 0
    return folder, media


def test_a_reward_model_learns_to_see(tmp_path: Path, scorer: tuple[Path, Path], llava: Path) -> None:
    """The right word depends on the picture alone. The card's Python gives the same scores as ``score``."""
    folder, media = scorer
    assert metrics(folder)[-1]["rewards/accuracy"] == 1
    rows = pictured_rows(media, 2)
    scoring = place_pictures(make_run(tmp_path / "run", "score", base=folder / "result", rows=rows), media)
    assert run(scoring) == 0
    scores = [row["scores"] for row in read_rows(scoring / "result" / "scores.jsonl")]
    assert scores[0][0] > scores[0][1] + 1
    assert scores[1][1] > scores[1][0] + 1

    card = (folder / "result" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace('"result"', f'"{folder / "result"}"')
    names: dict[str, Any] = {"__name__": "card"}
    exec(code.split("# text:")[0], names)
    turns = [*rows[0]["prompt"], {"role": "assistant", "content": [{"type": "text", "text": "it is red"}]}]
    image = Image.open(media / "data" / "media" / "red.png").convert("RGB")
    text = names["processor"].apply_chat_template(turns).rstrip("\n")
    exec(code.split("# text:")[1].partition("\n")[2], names | {"text": text, "image": image}, names)
    assert float(names["score"]) == pytest.approx(scores[0][0], abs=1e-4)


def test_a_policy_is_rewarded_by_what_sees(tmp_path: Path, scorer: tuple[Path, Path], llava: Path) -> None:
    """A model of words alone would give every answer the same: it is refused."""
    folder, media = scorer
    config = QUICK | {"num_generations": 2, "max_new_tokens": 4, "max_steps": 1, "samples": 0}
    rows = [{"prompt": row["prompt"]} for row in pictured_rows(media, 2)]
    blind = make_run(tmp_path / "words", "reward_model", base=save_causal(tmp_path / "llama"),
                     config={"max_length": 128, "max_steps": 1})  # fmt: skip
    assert run(blind) == 0
    codes = []
    for name, reward in (("seeing", folder), ("blind", blind)):
        given = {"reward": [{"model": str(reward / "result")}], "rows": rows, "config": config}
        codes.append(run(place_pictures(make_run(tmp_path / name, "rloo", base=llava, **given), media)))
    assert codes == [0, 1]
    assert metrics(tmp_path / "seeing")[0]["reward_std"] > 0.1
    error = json.loads((tmp_path / "blind" / "state.json").read_text())["error"]
    assert "which this reward does not read" in error


def test_positions_in_height_and_width_are_refused() -> None:
    """Qwen2-VL numbers the tokens of a picture by row and column, which packed groups do not know."""
    from transformers import Qwen2VLConfig

    config = Qwen2VLConfig(
        text_config={"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}}
    )
    with pytest.raises(BadInput, match=r"qwen2_vl number a picture's tokens by row and column \(M-RoPE\)"):
        layout_of(config)
