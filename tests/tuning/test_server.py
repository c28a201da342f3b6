"""Generation by a server: the interface of local generation, adapters as they change, and what goes wrong."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning.completions_server import Served, serving
from tests.tuning.test_grpo import PROMPTS, QUICK, VOWELS, make
from tests.tuning.text_models import save_causal
from tests.tuning.text_runs import make_run, metrics, read_rows, run, state
from training.tuning.config import LoraConfig
from training.tuning.errors import BadInput
from training.tuning.text.generation import sample_answers
from training.tuning.text.loading import load_for_training
from training.tuning.text.models import TextModel
from training.tuning.text.server import GenerationServer, ServerFailed, seed_of

IDS = [[40, 41, 42, 43], [50, 51], [60]]
SAMPLING: dict[str, Any] = {"max_new_tokens": 9, "top_p": 1.0}


@pytest.fixture(scope="module")
def base(learner: Callable[[str], Path]) -> Path:
    return learner("llama")


@pytest.fixture
def served(base: Path) -> Iterator[Served]:
    with serving(base) as found:
        yield found


@pytest.fixture
def policy(base: Path) -> TextModel:
    """A model with an adapter that has moved."""
    torch.manual_seed(0)
    found = load_for_training(
        str(base), kind="causal", lora=LoraConfig(), lora_was_set=False, precision="fp32",
        device=torch.device("cpu"),
    )  # fmt: skip
    move(found)
    return found


def move(model: TextModel) -> None:
    with torch.no_grad():
        for name, value in model.model.named_parameters():
            if "lora_B" in name:
                value += 0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name)))


def connected(served: Served, folder: Path, **options: Any) -> GenerationServer:
    return GenerationServer(served.url, folder=folder, sleep=lambda seconds: None, **options)


def asked(served: Served, path: str) -> list[Any]:
    return [body for where, body in served.asked if where == path]


def test_greedy_answers_are_the_same(tmp_path: Path, policy: TextModel, served: Served) -> None:
    """Tokens equal, log-probabilities to 1e-4, with the adapter and without; two answers to each prompt."""
    remote = replace(policy, server=connected(served, tmp_path))
    keys = [f"{number}" for number in range(6)]
    for frozen in (False, True):
        with policy.frozen_start()() if frozen else torch.no_grad():
            local = sample_answers(policy, IDS, keys=keys, temperature=0.0, **SAMPLING)
            far = sample_answers(remote, IDS, keys=keys, temperature=0.0, **SAMPLING)
        assert [one.ids for one in far] == [one.ids for one in local]
        assert [one.ended for one in far] == [one.ended for one in local]
        for one, other in zip(far, local, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    with policy.frozen_start()():
        base = sample_answers(policy, IDS, keys=keys, temperature=0.0, **SAMPLING)
    assert [one.ids for one in base] != [
        one.ids for one in sample_answers(policy, IDS, keys=keys, temperature=0.0, **SAMPLING)
    ]


def test_sampled_answers_are_their_keys(tmp_path: Path, policy: TextModel, served: Served) -> None:
    """The same keys give the same answers, other keys other ones."""
    remote = replace(policy, server=connected(served, tmp_path))
    one, again, other = (
        sample_answers(remote, IDS, keys=[f"{name}/{n}" for n in range(3)], temperature=0.7, **SAMPLING)
        for name in ("a", "a", "b")
    )
    assert one == again
    assert [answer.ids for answer in one] != [answer.ids for answer in other]
    seeds = {(body["seed"], tuple(body["prompt"])) for body in asked(served, "/v1/completions")}
    assert seeds == {(seed_of(f"{name}/{n}"), tuple(IDS[n])) for name in "ab" for n in range(3)}


def test_the_adapter_is_loaded_when_it_has_changed(tmp_path: Path, policy: TextModel, served: Served) -> None:
    """Once for each state of the weights; old ones are unloaded and their files removed."""
    remote = replace(policy, server=connected(served, tmp_path))
    for _ in range(4):
        sample_answers(remote, IDS, keys=list("abc"), temperature=1.0, **SAMPLING)
        sample_answers(remote, IDS, keys=list("abc"), temperature=1.0, **SAMPLING)
        move(policy)
    assert len(asked(served, "/v1/load_lora_adapter")) == 4
    assert len(served.models) == 3  # the base and two adapters
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(set(served.models) - {"base"})
    # A trainer that starts again finds what it has already loaded.
    again = replace(policy, server=connected(served, tmp_path))
    for model in (remote, again):
        sample_answers(model, IDS, keys=list("abc"), temperature=1.0, **SAMPLING)
    assert len(asked(served, "/v1/load_lora_adapter")) == 5


def test_a_run_trains_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards rise; what the server sampled with is what training computes: its adapter is always fresh."""
    config = {
        "generation": "server",
        "max_new_tokens": 1,
        "max_steps": 10,
        "learning_rate": 1e-2,
        "scheduler": "constant",
        "num_generations": 8,
        "batch_size": 6,
        "beta": 0.0,
    }
    sure = save_causal(tmp_path / "base", "llama", initializer_range=0.3)
    with serving(sure) as served:
        monkeypatch.setenv("TIEBREAK_GENERATION_URL", served.url)
        folder = make(tmp_path / "run", sure, reward=VOWELS, **config)
        assert run(folder) == 0
    rows = metrics(folder)
    assert max(row["answers/logprob_gap"] for row in rows) < 1e-4
    rewards = [row["reward"] for row in rows]
    assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 0.15
    assert len(asked(served, "/v1/load_lora_adapter")) == 10
    assert rows[0]["kl"] == 0


def test_a_stale_adapter_shows(tmp_path: Path, policy: TextModel, base: Path, served: Served) -> None:
    """Where loading does nothing, the gap between sampled and computed log-probabilities is not 0."""
    remote = connected(served, tmp_path)
    served.models[remote._serve(policy)] = served.models["base"]
    answers = remote.sample(policy, IDS, keys=list("abc"), temperature=1.0, **SAMPLING)
    mine = sample_answers(policy, IDS, keys=list("abc"), temperature=1.0, **SAMPLING)
    assert abs(sum(answers[0].logprobs) - sum(mine[0].logprobs)) > 1e-3


def test_answers_of_a_served_adapter(
    tmp_path: Path, base: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job `generate`, of a tuned model: greedy answers equal those of this process."""
    tuned = make(tmp_path / "tuned", base, reward=VOWELS, max_steps=3, learning_rate=5e-2)
    assert run(tuned) == 0
    monkeypatch.setenv("TIEBREAK_GENERATION_URL", served.url)
    folders = []
    for where in ("local", "server"):
        config = {"generation": where, "temperature": 0.0, "max_new_tokens": 8}
        folders.append(
            make_run(tmp_path / where, "generate", base=tuned / "result", config=config, rows=PROMPTS)
        )
        assert run(folders[-1]) == 0
    local, remote = (read_rows(folder / "result" / "generations.jsonl") for folder in folders)
    assert local == remote
    assert asked(served, "/v1/completions")


# What goes wrong


def test_passing_failures_are_tried_again(tmp_path: Path, policy: TextModel, served: Served) -> None:
    remote = connected(served, tmp_path)
    served.failures[:] = [503, 429, 500]
    answers = remote.sample(policy, IDS[:1], keys=["a"], temperature=1.0, **SAMPLING)
    assert answers[0].ids


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("models", {"failures": [503] * 6}, "/models: HTTP 503"),
        ("models", {"failures": [401]}, "/models: HTTP 401"),
        ("load", {"failures": [404]}, "VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
        ("text", {"shift": 1}, "another tokenizer"),
    ],
)
def test_failures_say_what_to_do(
    tmp_path: Path, policy: TextModel, served: Served, path: str, options: dict[str, Any], words: str
) -> None:
    remote = connected(served, tmp_path) if path != "models" else None
    if path == "load":
        remote._models = lambda: []  # type: ignore[union-attr, method-assign]
    for name, value in options.items():
        setattr(served, name, value)
    with pytest.raises(ServerFailed, match=words):
        (remote or connected(served, tmp_path)).sample(
            policy, IDS, keys=list("abc"), temperature=1.0, **SAMPLING
        )


def test_token_names_do_as_well_as_ids(tmp_path: Path, policy: TextModel, served: Served) -> None:
    """Servers that know return_tokens_as_token_ids alone; one that gives words instead is refused."""
    served.token_ids = False
    remote = connected(served, tmp_path)
    answers = remote.sample(policy, IDS, keys=list("abc"), temperature=0.0, **SAMPLING)
    local = sample_answers(policy, IDS, keys=list("abc"), temperature=0.0, **SAMPLING)
    assert [one.ids for one in answers] == [one.ids for one in local]
    reply = {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0]}}]}
    with pytest.raises(ServerFailed, match="gives no token ids"):
        remote._read(reply, policy)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match="ConnectError"):
        GenerationServer("http://127.0.0.1:9/v1", folder=tmp_path, sleep=lambda seconds: None)
    with pytest.raises(BadInput, match="is no address"):
        GenerationServer("file:///etc/passwd", folder=tmp_path)


def test_a_run_needs_an_address_and_an_adapter(
    tmp_path: Path, base: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIEBREAK_GENERATION_URL", raising=False)
    assert run(make(tmp_path / "one", base, generation="server")) == 1
    assert "TIEBREAK_GENERATION_URL" in state(tmp_path / "one")["error"]
    assert run(make(tmp_path / "two", base, generation="server", lora=None)) == 1
    assert "generation=server needs lora" in capsys.readouterr().err
    assert "url" not in QUICK  # nor is there any key for it
