"""Supervised fine-tuning, generation, samples, previews and cards."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tuning.text_models import save_causal
from tests.tuning.text_runs import QUICK, make_run, metrics, pair_rows, read_rows, result_weights, run, state
from training.tuning.__main__ import main
from training.tuning.config import SFTConfig
from training.tuning.data import Group
from training.tuning.losses.sft import sft_loss
from training.tuning.methods.sft import choose_answers
from training.tuning.text.generation import batches_of, sample_tokens, uniforms
from training.tuning.text.logprobs import token_logprobs
from training.tuning.text.models import TextModel
from training.tuning.text.tokens import Unusable

GENERATE = {"max_new_tokens": 12, "samples_per_prompt": 2, "temperature": 1.0}
PROMPTS = [
    {"prompt": prompt, "meta": {"id": prompt[:3]}}
    for prompt in ("Why?", "How do I do it?", "Who", "Where is it")
]


def test_sft_loss_is_minus_the_log_probability() -> None:
    torch.testing.assert_close(sft_loss(torch.tensor([-1.0, -0.5])), torch.tensor([1.0, 0.5]))


@pytest.mark.parametrize("trained", ["states", "head", "both"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_token_logprobs_equal_plain_log_softmax(trained: str, with_bias: bool, monkeypatch: Any) -> None:
    """Values and gradients, over several chunks."""
    monkeypatch.setattr("training.tuning.text.logprobs.CHUNK_ELEMENTS", 30)
    torch.manual_seed(0)
    states = torch.randn(7, 5, dtype=torch.float64, requires_grad=trained != "head")
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=trained != "states")
    bias = torch.randn(11, dtype=torch.float64, requires_grad=trained != "states") if with_bias else None
    targets = torch.randint(11, (7,))
    leaves = [leaf for leaf in (states, weight, bias) if leaf is not None and leaf.requires_grad]
    upstream = torch.randn(7, dtype=torch.float64)
    logits = states @ weight.T + (0 if bias is None else bias)
    expected = logits.log_softmax(1)[torch.arange(7), targets]
    got = token_logprobs(states, weight, bias, targets, dtype=torch.float64)
    torch.testing.assert_close(got, expected)
    for one, other in zip(
        torch.autograd.grad(got, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def group(*judgements: dict[str, Any], candidates: int = 2) -> Group:
    return Group.model_validate(
        {
            "prompt": "p",
            "candidates": [{"text": f"answer {number}"} for number in range(candidates)],
            "judgements": judgements,
        }
    )


def chosen(given: Group, **config: Any) -> list[Any]:
    return choose_answers(SFTConfig(**config))(given)[0]


def test_which_answers_are_trained_on() -> None:
    assert chosen(group()) == ["answer 0", "answer 1"]
    assert chosen(group({"choice": 1})) == ["answer 1"]
    assert chosen(group({"choice": 1}), train_on="all") == ["answer 0", "answer 1"]
    assert chosen(group({"choice": 1}, {"choice": 1}, {"choice": 0})) == ["answer 1"]
    assert chosen(group({"ranking": [[1], [0]]})) == ["answer 1"]
    assert chosen(group({"thumbs": [0, 1]})) == ["answer 1"]
    assert chosen(group({"choice": 0, "corrections": [None, "better"]})) == ["better"]
    assert chosen(group({"choice": 1}, {"choice": 0}), ties="all") == ["answer 0", "answer 1"]
    for unusable, why in (
        (group({"choice": 1}, {"choice": 0}), "the vote is tied"),
        (group({"choice": "tie"}), "no answer is preferred"),
        (group({"choice": "both_bad"}), "no answer is preferred"),
        (group({"thumbs": [0, 0]}), "no answer is preferred"),
        (group(candidates=0), "no answer"),
    ):
        with pytest.raises(Unusable, match=why):
            chosen(unusable)


@pytest.mark.parametrize("lora", [{"r": 16, "alpha": 64}, None], ids=["lora", "full"])
def test_sft_learns_to_write(lora: Any, tmp_path: Path, llama: Path, learner: Callable[[str], Path]) -> None:
    """One answer to every prompt: full training learns it by heart, an adapter on random weights in part.

    Loaded by the public libraries alone, the result writes what the sample after training says.
    """
    rows = [{"prompt": row["prompt"], "completion": "Open the settings."} for row in PROMPTS]
    config = QUICK | {"lora": lora, "learning_rate": 1e-2, "epochs": 40, "samples": 2, "log_every": 40}
    config |= {"sample_temperature": 0, "sample_max_new_tokens": 16, "batch_size": 4}
    base = llama if lora else learner("llama")
    folder = make_run(tmp_path / "run", "sft", base=base, config=config, rows=rows, held_out=rows[:2])
    assert run(folder) == 0
    assert metrics(folder)[-1]["eval/loss"] < (3.5 if lora else 0.1) < metrics(folder)[0]["loss"] - 2
    samples = read_rows(folder / "samples.jsonl")
    assert [(row["step"], row["when"]) for row in samples] == [(0, "before")] * 2 + [(40, "after")] * 2
    assert samples[0]["text"] != samples[2]["text"]
    if not lora:
        assert [row["text"] for row in samples[2:]] == ["Open the settings."] * 2

    tokenizer = AutoTokenizer.from_pretrained(folder / "result")
    auto = AutoPeftModelForCausalLM if lora else AutoModelForCausalLM
    model = auto.from_pretrained(folder / "result")
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Why?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    written = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    text = tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text == samples[2]["text"]


def test_batch_of_eight_is_eight_of_one(tmp_path: Path, llama: Path) -> None:
    """The mean is over the answer tokens of the step, so long answers weigh the same however it is split."""
    config = QUICK | {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "epochs": 2,
        "train_on": "all",
        "max_grad_norm": None,
    }
    weights = []
    for size in (8, 1):
        folder = make_run(tmp_path / str(size), "sft", base=llama, config=config | {"micro_batch_size": size})
        assert run(folder) == 0
        weights.append(result_weights(folder))
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_changes_nothing(tmp_path: Path, llama: Path) -> None:
    folders = [
        make_run(tmp_path / str(on), "sft", base=llama, config=QUICK | {"gradient_checkpointing": on})
        for on in (False, True)
    ]
    assert [run(folder) for folder in folders] == [0, 0]
    one, two = (result_weights(folder) for folder in folders)
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("optimizer", "rate"), [("adamw", 1e-2), ("rmsprop", 1e-3), ("adafactor", 1e-1), ("sgd", 0.3)]
)
def test_every_optimizer_lowers_the_loss(optimizer: str, rate: float, tmp_path: Path, llama: Path) -> None:
    config = QUICK | {
        "optimizer": optimizer,
        "learning_rate": rate,
        "epochs": 3,
        "lora": None,
        "batch_size": 16,
    }
    folder = make_run(tmp_path / "run", "sft", base=llama, config=config)
    assert run(folder) == 0
    losses = [row["loss"] for row in metrics(folder)]
    assert losses[-1] < losses[0] - 0.1


def test_merged_weights_are_the_adapter_and_the_base(tmp_path: Path, llama: Path) -> None:
    config = QUICK | {"merged": True, "learning_rate": 1e-2}
    folder = make_run(tmp_path / "run", "sft", base=llama, config=config)
    assert run(folder) == 0
    ids = torch.tensor([[5, 60, 70, 80, 90]])
    adapted = AutoPeftModelForCausalLM.from_pretrained(folder / "result")(input_ids=ids).logits
    merged = AutoModelForCausalLM.from_pretrained(folder / "result" / "merged")(input_ids=ids).logits
    base = AutoModelForCausalLM.from_pretrained(llama)(input_ids=ids).logits
    torch.testing.assert_close(adapted, merged, rtol=1e-4, atol=1e-5)
    assert (adapted - base).abs().max() > 1e-2
    assert AutoTokenizer.from_pretrained(folder / "result" / "merged").chat_template


def test_sampling_follows_the_distribution() -> None:
    """20,000 draws from (.5, .3, .2): temperature 1, temperature 1/2 (squares), top-p .6 (the first two)."""
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(20_000, 3)
    draws = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    for options, expected in (
        ({"temperature": 1.0, "top_p": 1.0}, [0.5, 0.3, 0.2]),
        ({"temperature": 0.5, "top_p": 1.0}, [0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38]),
        ({"temperature": 1.0, "top_p": 0.6}, [0.625, 0.375, 0.0]),
        ({"temperature": 0.0, "top_p": 1.0}, [1.0, 0.0, 0.0]),
    ):
        found = sample_tokens(logits, draws, **options).bincount(minlength=3) / 20_000
        torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=0.015)
    edge = sample_tokens(
        torch.tensor([[0.0, float("-inf")]]), torch.tensor([0.9999999]), temperature=1.0, top_p=1.0
    )
    assert edge.tolist() == [0]


def test_uniforms_belong_to_their_key() -> None:
    both = uniforms(["a", "b"], 5)
    assert torch.equal(both[1], uniforms(["b"], 5)[0])
    assert torch.equal(both[1, :3], uniforms(["b"], 3)[0])
    assert not torch.equal(both[0], both[1])


def test_no_answer_leaves_the_context() -> None:
    prompts = [[1] * 3, [1] * 5, [1] * 9, [1] * 8, [1] * 9]
    found = list(batches_of(prompts, context=12, max_new_tokens=6, size=8))
    assert found == [([0, 1], 6), ([2, 4], 3), ([3], 4)]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_generations_do_not_depend_on_the_batch(
    architecture: str, tmp_path: Path, causal_folder: Callable[[str], Path]
) -> None:
    written = []
    for size in (1, 3, 16):
        base = causal_folder(architecture)
        config = GENERATE | {"batch_size": size}
        folder = make_run(tmp_path / str(size), "generate", base=base, config=config, rows=PROMPTS)
        assert run(folder) == 0
        written.append(read_rows(folder / "result" / "generations.jsonl"))
    assert written[0] == written[1] == written[2]
    assert [row["prompt"] for row in written[0]] == [row["prompt"] for row in PROMPTS]
    assert [row["meta"] for row in written[0]] == [row["meta"] for row in PROMPTS]
    texts = [candidate["text"] for row in written[0] for candidate in row["candidates"]]
    assert len(texts) == 8
    assert len(set(texts)) > 4
    assert written[0][0]["candidates"][0]["source"] == str(causal_folder(architecture))


def test_generation_resumes(tmp_path: Path, llama: Path, monkeypatch: Any) -> None:
    from training.tuning.text import writers as method

    config = GENERATE | {"batch_size": 2}
    whole = make_run(tmp_path / "whole", "generate", base=llama, config=config, rows=PROMPTS)
    assert run(whole) == 0
    parts = make_run(tmp_path / "parts", "generate", base=llama, config=config, rows=PROMPTS)
    real, calls = method.generate, []

    def cancel_second(*args: Any, **options: Any) -> Any:
        calls.append(options["keys"])
        if len(calls) == 2:
            (parts / "cancel").touch()
        return real(*args, **options)

    monkeypatch.setattr(method, "generate", cancel_second)
    assert run(parts) == 130
    assert state(parts)["step"] == 4
    with (parts / "generations.partial.jsonl").open("a") as handle:
        handle.write('{"row": 3, "num')  # a kill in mid-write
    assert run(parts) == 0
    assert len(calls) == 4
    assert read_rows(parts / "result" / "generations.jsonl") == read_rows(
        whole / "result" / "generations.jsonl"
    )
    assert [row["step"] for row in metrics(parts)] == [2, 4, 6, 8]


def test_empty_answers_are_sampled_again(monkeypatch: Any) -> None:
    from training.tuning.text import writers as method

    asked: list[list[str]] = []

    def fake(model: Any, prompts: Any, *, keys: list[str], **options: Any) -> list[str]:
        asked.append(keys)
        return [" " if key in ("a", "c", "c/again1") else f"answer {key}" for key in keys]

    monkeypatch.setattr(method, "generate", fake)
    model = object.__new__(TextModel)
    ask = partial(method.write_answers, model, [[1], [2], [3]], keys=["a", "b", "c"], max_new_tokens=5)
    assert ask(temperature=1.0) == ["answer a/again1", "answer b", "answer c/again2"]
    assert asked[1:] == [["a/again1", "c/again1"], ["c/again2"]]
    assert ask(temperature=0.0) == [" ", "answer b", " "]


def test_prompts_that_cannot_be_answered_are_named(tmp_path: Path, llama: Path, capsys: Any) -> None:
    rows = [*PROMPTS[:1], {"prompt": "Why? " * 300}]
    folder = make_run(tmp_path / "run", "generate", base=llama, config=GENERATE, rows=rows)
    assert run(folder) == 0
    assert len(read_rows(folder / "result" / "generations.jsonl")) == 1
    assert read_rows(folder / "result" / "dropped.jsonl") == [
        {"line": 2, "why": "the prompt is longer than the context"}
    ]
    only = make_run(tmp_path / "only", "generate", base=llama, config=GENERATE, rows=rows[1:])
    assert run(only) == 1
    assert "the prompt is longer than the context" in capsys.readouterr().err


def test_generation_from_an_adapter(tmp_path: Path, llama: Path) -> None:
    """An adapter is merged for generation: other answers than its base's."""
    tuned = make_run(tmp_path / "sft", "sft", base=llama, config=QUICK | {"learning_rate": 2e-2, "epochs": 3})
    assert run(tuned) == 0
    texts = []
    for number, base in enumerate((llama, tuned / "result")):
        folder = make_run(tmp_path / str(number), "generate", base=base, config=GENERATE, rows=PROMPTS)
        assert run(folder) == 0
        texts.append([row["candidates"] for row in read_rows(folder / "result" / "generations.jsonl")])
    assert texts[0] != texts[1]


def test_inspect_shows_what_the_trainer_sees(tmp_path: Path, llama: Path, capsys: Any) -> None:
    rows = [
        {"prompt": "Why?", "chosen": "One", "rejected": "Two is more"},
        {"prompt": "Why? " * 300, "chosen": "a", "rejected": "b"},
        {"prompt": "Why?", "chosen": "same", "rejected": "same"},
        {"prompt": "Why?", "candidates": [{"text": "a"}, {"text": "b"}], "judgements": [{"choice": "tie"}]},
    ]
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=QUICK, rows=rows)
    assert main(["inspect", str(folder), "--json"]) == 0
    preview = json.loads(capsys.readouterr().out)
    assert preview == json.loads((folder / "inspect.json").read_text())
    assert (preview["groups"], preview["pairs"]) == (1, 1)
    assert preview["dropped"] == {
        "the prompt is longer than the context": 1,
        "the answers are the same, or are once they are cut": 1,
        "only ties or both-bad": 1,
    }
    first, second, *_ = preview["rows"]
    assert (first["chosen"], first["rejected"], first["kept"]) == ("One", "Two is more", True)
    assert first["tokens"]["completions"] == ["One</s>", "Two is more</s>"]
    assert first["tokens"]["prefix"] == "<|user|>Why?<|assistant|>"
    assert (second["kept"], second["why"]) == (False, "the prompt is longer than the context")
    assert preview["total_tokens"] == first["tokens"]["total"]
    assert preview["token_lengths"]["max"] == first["tokens"]["prompt"] + max(first["tokens"]["answers"])
    assert "chat template" in preview["joined"]
    assert not (folder / "state.json").exists()


@pytest.mark.parametrize("method", ["sft", "reward_model", "generate", "score"])
def test_inspect_of_every_method(method: str, tmp_path: Path, llama: Path, capsys: Any) -> None:
    folder = make_run(tmp_path / "run", method, base=llama, rows=pair_rows(3))
    assert main(["inspect", str(folder), "--json"]) == 0
    preview = json.loads(capsys.readouterr().out)
    keys = {"groups", "pairs", "rows", "token_lengths", "dropped", "total_tokens"}
    assert keys <= preview.keys()
    assert preview["groups"] == len(preview["rows"]) == 3
    assert preview["token_lengths"].keys() == {"min", "median", "p95", "max"}


def test_inspect_of_bad_data(tmp_path: Path, llama: Path, capsys: Any) -> None:
    folder = make_run(tmp_path / "run", "dpo", base=llama, rows="{\n")
    assert main(["inspect", str(folder)]) == 1
    assert "line 1: not JSON" in capsys.readouterr().err


def test_model_card(tmp_path: Path, llama: Path) -> None:
    rows = pair_rows(6)
    people = {row["judgements"][0]["annotator"] for row in rows}
    folder = make_run(
        tmp_path / "run", "dpo", base=llama, config=QUICK, rows=rows, data={"project": "Help desk"}
    )
    assert run(folder) == 0
    facts = json.loads((folder / "result" / "metadata.json").read_text())
    assert facts["method"] == "dpo"
    assert facts["base"] == str(llama)
    assert facts["seed"] == 3
    assert facts["steps"] == 1
    assert facts["config"]["beta"] == 0.1
    counts = {key: facts["data"][key] for key in ("groups", "judgements", "annotators", "project")}
    assert counts == {"groups": 6, "judgements": 6, "annotators": len(people), "project": "Help desk"}
    assert len(facts["data"]["sha256"]) == 64
    assert facts["metrics"]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert {"torch", "transformers", "peft"} <= facts["versions"].keys()
    card = (folder / "result" / "README.md").read_text()
    for expected in (
        "arXiv:2305.18290",
        "AutoPeftModelForCausalLM",
        facts["data"]["sha256"],
        "| beta | 0.1 |",
    ):
        assert expected in card
    assert not list((folder / "result").glob("*.bin"))


def test_the_base_keeps_its_defaults_after_sampling(tmp_path: Path) -> None:
    """Penalties in a base's generation config do not change our samples, and stay in the result."""
    base = save_causal(tmp_path / "base")
    plain = make_run(tmp_path / "plain", "generate", base=base, config=GENERATE, rows=PROMPTS)
    assert run(plain) == 0
    path = base / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 5.0}))
    other = make_run(tmp_path / "other", "generate", base=base, config=GENERATE, rows=PROMPTS)
    assert run(other) == 0
    assert read_rows(plain / "result/generations.jsonl") == read_rows(other / "result/generations.jsonl")
    config = QUICK | {"lora": None, "samples": 1, "max_steps": 1}
    tuned = make_run(tmp_path / "tuned", "sft", base=base, config=config)
    assert run(tuned) == 0
    kept = json.loads((tuned / "result" / "generation_config.json").read_text())
    assert kept["repetition_penalty"] == 5.0
