"""Rewards of single tokens on the way from a run's reward list into PPO and RLOO."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tuning.test_grpo import PROMPTS, QUICK, VOWELS
from tests.tuning.text_models import tiny_tokenizer
from tests.tuning.text_runs import make_run, metrics, result_weights, run
from training.tuning.data import Group
from training.tuning.methods.rloo import advantages_of
from training.tuning.rewards.compose import Scored, open_rewards
from training.tuning.rewards.credited import Corrections, Critiques, Sampled
from training.tuning.rewards.spec import BadReward, parse_rewards
from training.tuning.run import Run
from training.tuning.rundir import RunDir
from training.tuning.text.attention import ordinary_attention
from training.tuning.text.generation import Answer, generate
from training.tuning.text.judging import Judge, Judged
from training.tuning.text.rewrites import CRITIQUE, REWRITE, about_answer
from training.tuning.text.rollouts import Rollout, lay_out, make_rollout, open_prompts
from training.tuning.text.setup import open_group_tokenizer, open_policy
from training.tuning.text.steps import Step, labelled_segments, segments_of
from training.tuning.text.tokens import answer_offsets

PPO = {name: value for name, value in QUICK.items() if name != "num_generations"} | {"minibatches": 1}
LEARN = {"max_length": 200, "samples": 0, "lora": None, "learning_rate": 5e-3, "batch_size": 8, "warmup": 0}


@pytest.fixture(scope="module")
def llama(learner: Callable[[str], Path]) -> Path:
    return learner("llama")


def judged(folder: Path, texts: list[str]) -> tuple[Judged, list[Rollout], Any]:
    """What the run's rewards say of these answers to its prompts, as PPO would hear it."""
    training = Run(RunDir(folder))
    tokenizer = open_group_tokenizer(training.base, max_length=None)
    prompts = open_prompts(training.train, tokenizer, run=training)
    policy = open_policy(training, kind="causal")
    frozen = policy.frozen_start()
    judge = Judge(training, policy, frozen, prompts, context=tokenizer.context)
    rollouts = []
    for prompt, text in zip(prompts, texts, strict=False):
        (ids,) = tokenizer.encode(prompt.text, [text]).answers
        rollouts.append(make_rollout(policy, prompt, [Answer(ids, [0.0] * len(ids), ended=True)]))
    step = lay_out(policy, frozen, rollouts, training.config, with_kl=True)
    return judge.score(rollouts), rollouts, step


def by_characters(tokens: Tensor, text: str) -> dict[int, float]:
    """Rewards that are not 0, by where the token ends in the text."""
    tokenizer = tiny_tokenizer()
    ends = [end for _, end in tokenizer(text, return_offsets_mapping=True)["offset_mapping"]] + [len(text)]
    kept = [(end, value) for end, value in zip(ends, tokens.tolist(), strict=True) if value]
    return {end: round(value, 5) for end, value in kept if round(value, 5)}


def ppo_run(folder: Path, base: Path, reward: list[dict[str, Any]], **changes: Any) -> Path:
    return make_run(folder, "ppo", base=base, config=PPO | changes, rows=PROMPTS, reward=reward)


# Segments


def test_where_segments_are() -> None:
    text = "Yes, it is. No; not so!\nWhy"
    assert [text[a:b] for a, b in segments_of(text, "sentences")] == ["Yes, it is.", "No; not so!", "Why"]
    assert [text[a:b] for a, b in segments_of(text, "clauses")] == ["Yes,", "it is.", "No;", "not so!", "Why"]
    assert [text[a:b] for a, b in segments_of(text, "steps")] == ["Yes, it is. No; not so!", "Why"]
    assert segments_of("", "sentences") == []


@pytest.mark.system("s001-053")
def test_fine_grained_rewards_fall_on_segments(tmp_path: Path, llama: Path) -> None:
    """Three clean sentences at .5, two bad clauses of four at .3, the whole at .3: 1.5 + 0 + .3 = 1.8."""
    text = "a good one, bad. it is so, bad. ok."
    reward = [
        {
            "rule": "pattern:[aeiou]",
            "weight": 0.5,
            "credit": {"name": "segments", "by": "sentences", "how": "sign"},
        },
        {
            "rule": "pattern:^(?!bad)",
            "weight": 0.3,
            "credit": {"name": "segments", "by": "clauses", "how": "sign"},
        },
        {"rule": "pattern:ok", "weight": 0.3},
    ]
    folder = ppo_run(tmp_path / "run", llama, reward)
    found, rollouts, _ = judged(folder, [text])
    # Clauses end at 11, 16, 26, 31, 35; sentences at 16, 31, 35.
    wanted = {11: 0.3, 16: 0.5 - 0.3, 26: 0.3, 31: 0.5 - 0.3, 35: 0.5 + 0.3}
    assert by_characters(found.tokens, text) == wanted
    assert float(found.whole) == pytest.approx(0.3)
    assert float(found.total) == pytest.approx(sum(wanted.values()) + 0.3)
    assert rollouts[0].texts == [text]
    assert run(folder) == 0
    assert all("reward/pattern:ok" in row for row in metrics(folder))


def marked(count: int) -> list[dict[str, Any]]:
    """Answers of two sentences, of which the one with "rude" is marked; the other mark is no matter."""
    rows = []
    for number in range(count):
        first, second = ("rude answer.", "kind answer.") if number % 2 else ("kind answer.", "rude answer.")
        text = f"{first} {second}"
        at = text.index("rude")
        marks = [
            {"candidate": 0, "type": "span", "start": at, "end": at + 4, "category": "tone"},
            {"candidate": 0, "type": "span", "start": 0, "end": 2, "category": "fact"},
        ]
        judgements = [{"annotator": "ann", "marks": marks}]
        rows.append(
            {"prompt": f"question {number}", "candidates": [{"text": text}], "judgements": judgements}
        )
    return rows


def test_labels_of_segments_by_hand() -> None:
    """Two people asked, one of whom found nothing: half a vote. Who was not asked does not count."""
    row = marked(1)[0]
    row["judgements"] += [{"annotator": "bob", "marks": []}, {"annotator": "cyd", "choice": None}]
    group = Group.model_validate(row)
    assert labelled_segments(group, "sentences", "tone") == [Step(0, 0, 12, 1.0), Step(0, 13, 25, 0.5)]
    assert labelled_segments(group, "sentences", None) == [Step(0, 0, 12, 0.5), Step(0, 13, 25, 0.5)]


@pytest.mark.system("s001-053")
def test_a_model_of_marked_spans_rewards_segments(tmp_path: Path, llama: Path) -> None:
    """From annotators' spans to a segment classifier to ±w at the ends of a policy's sentences."""
    config = {"segments": "sentences", "category": "tone", "epochs": 10, "log_every": 1}
    options = {name: value for name, value in LEARN.items() if name != "samples"} | config
    learned = make_run(
        tmp_path / "marks", "process_reward_model", base=llama, config=options, rows=marked(24),
        held_out=marked(6),
    )  # fmt: skip
    assert run(learned) == 0
    assert max(row.get("eval/accuracy", 0) for row in metrics(learned)) == 1
    credit = {"name": "segments", "how": "sign"}
    folder = ppo_run(
        tmp_path / "run", llama, [{"model": str(learned / "result"), "weight": 0.5, "credit": credit}]
    )
    text = "kind answer. rude answer."
    found, _, _ = judged(folder, [text])
    assert by_characters(found.tokens, text) == {12: 0.5, 25: -0.5}
    assert run(folder) == 0


# Steps


def steps(tmp_path: Path, llama: Path, text: str, **credit: Any) -> tuple[Judged, dict[int, float]]:
    """Credit for steps that are worth their number of words less two."""
    name = "-".join(map(str, credit.values()))
    entry = {
        "rule": "words",
        "transform": {"name": "affine", "shift": -2.0},
        "credit": {"name": "segments", **credit},
    }
    found, _, _ = judged(ppo_run(tmp_path / name, llama, [entry]), [text])
    return found, by_characters(found.tokens, text)


@pytest.mark.system("s000-110")
def test_min_form_credit_in_a_run(tmp_path: Path, llama: Path) -> None:
    """Steps worth 1, −1, 1: at a small temperature the return is −1, at the end of the worst one, and more
    good steps do not change it."""
    text = "a b c\nd\na b c"
    found, places = steps(tmp_path, llama, text, how="min_form", temperature=0.05)
    assert places == {7: -1.0}
    longer, _ = steps(tmp_path / "longer", llama, text + "\na b c" * 6, how="min_form", temperature=0.05)
    assert float(found.total) == pytest.approx(-1, abs=1e-4)
    assert float(longer.total) == pytest.approx(-1, abs=1e-4)


@pytest.mark.system("s001-062")
def test_clipped_and_different_steps_in_a_run(tmp_path: Path, llama: Path) -> None:
    """Steps worth 1, −1, 1: clipped at 0 they give 0, −1, 0; as differences 2, −2, 1: the first in sum."""
    text = "a b c\nd\na b c"
    clipped, places = steps(tmp_path, llama, text, how="clip", threshold=0.0)
    assert places == {7: -1.0}
    delta, places = steps(tmp_path, llama, text, how="delta")
    assert places == {5: 2.0, 7: -2.0, 13: 1.0}
    again, _ = steps(tmp_path / "again", llama, text + "\na b c" * 5, how="delta")
    assert float(delta.total) == float(again.total) == 1
    assert float(clipped.total) == -1
    plain, places = steps(tmp_path, llama, text, how="plain")
    assert places == {5: 1.0, 7: -1.0, 13: 1.0}
    assert float(plain.total) == 1


# Corrections and critiques


def pairs_of(count: int) -> list[dict[str, Any]]:
    words = ["short", "kind", "correct", "long"]
    texts = [[f"a {kind} {words[number % 4]} answer" for kind in ("rude", "good")] for number in range(count)]
    return [
        {
            "prompt": f"question {number}",
            "candidates": [{"text": text} for text in own],
            "judgements": [{"choice": 1}],
        }
        for number, own in enumerate(texts)
    ]


def sampled(folder: Path, prompt: str, text: str) -> Sampled:
    tokenizer = open_group_tokenizer(str(folder), max_length=None)
    ids = tokenizer.prompt_ids(prompt)
    (answer,) = tokenizer.encode(prompt, [text]).answers
    return Sampled(prompt, ids, text, answer, answer_offsets(tokenizer.tokenizer, answer, text))


@pytest.mark.system("s000-111")
def test_a_corrector_credits_what_it_would_write(tmp_path: Path, llama: Path) -> None:
    """Trained to turn rude into good and good into good: a good answer is all 1; of a rude one the tokens up
    to the wrong word are 1, which is −1: the corrector's own rewrite parts from it there."""
    config = LEARN | {"train_on": "rewrites", "epochs": 15}
    folder = make_run(tmp_path / "sft", "sft", base=llama, config=config, rows=pairs_of(16))
    assert run(folder) == 0
    corrector = Corrections(str(folder / "result"), device=torch.device("cpu"), precision="fp32")
    good, rude = (
        sampled(llama, "question 2", text) for text in ("a good short answer", "a rude short answer")
    )
    praised, blamed = corrector.credit([good, rude])
    assert praised.tolist() == [1.0] * len(good.ids)
    asked = corrector.tokenizer.prompt_ids(about_answer("question 2", rude.text, REWRITE))
    (rewrite,) = generate(corrector.model, [asked], keys=["0"], max_new_tokens=20, temperature=0.0)
    assert rewrite == "a good short answer"
    wrong = next(at for at, pair in enumerate(zip(rude.ids, good.ids, strict=False)) if pair[0] != pair[1])
    assert wrong > 0
    assert blamed[:wrong].tolist() == [1.0] * wrong
    assert float(blamed[wrong]) == -1
    reward = [{"model": str(folder / "result"), "credit": "correction"}]
    assert run(ppo_run(tmp_path / "ppo", llama, reward, kl="full")) == 0


@pytest.mark.system("s001-008")
def test_a_critic_credits_what_it_quotes(tmp_path: Path, llama: Path) -> None:
    """Trained on marked spans, it quotes the rude word as poor and the good one as good: −1 and 1 at their
    tokens, 0 elsewhere; every token also pays the full divergence."""
    mark = {"type": "span", "start": 2, "end": 6}
    marks = [mark | {"candidate": 0, "category": "tone"}, mark | {"candidate": 1, "category": "fine"}]
    rows = [row | {"judgements": [{"marks": marks}]} for row in pairs_of(16)]
    config = LEARN | {"train_on": "critiques", "praise": ["fine"], "epochs": 40}
    folder = make_run(tmp_path / "sft", "sft", base=llama, config=config, rows=rows)
    assert run(folder) == 0
    reward = [{"model": str(folder / "result"), "credit": {"name": "critique", "max_new_tokens": 12}}]
    folder = ppo_run(tmp_path / "ppo", llama, reward, kl="full", beta=0.5)
    texts = ["a rude long answer", "a good long answer"]
    found, rollouts, step = judged(folder, texts)
    for text, tokens, wanted in zip(
        texts, found.tokens.split(step.lengths.long().tolist()), (-1, 1), strict=True
    ):
        offsets = answer_offsets(tiny_tokenizer(), rollouts[0].answers[0].ids, texts[0])
        inside = [float(start < 6 and end > 2) for start, end in offsets]
        assert tokens.tolist() == [wanted * one for one in inside], text
    assert run(folder) == 0
    assert (step.full_kl == 0).all()
    critic = Critiques(str(tmp_path / "sft" / "result"), parse_rewards(reward, modality="text")[0].credit,
                       device=torch.device("cpu"), precision="fp32")  # type: ignore[arg-type]  # fmt: skip
    assert critic.write([sampled(llama, "question 3", "a rude long answer")]) == ["- rude"]
    assert CRITIQUE in str(about_answer("question 3", "a", CRITIQUE))


def test_full_divergence_by_hand(tmp_path: Path, llama: Path) -> None:
    """The mean over sampled tokens of the log-ratio estimates it; here against logits of both models."""
    training = Run(RunDir(ppo_run(tmp_path / "run", llama, VOWELS, lora=None)))
    policy = open_policy(training, kind="causal")
    frozen = policy.frozen_start()
    tokenizer = open_group_tokenizer(training.base, max_length=None)
    (prompt, *_) = open_prompts(training.train, tokenizer, run=training)
    ids = [20, 30, 40]
    with torch.no_grad(), ordinary_attention(policy.inner):
        row = torch.tensor([[*prompt.ids, *ids]])
        before = policy.inner(row).logits[0, len(prompt.ids) - 1 : -1].log_softmax(1)
        for value in policy.model.parameters():
            value += 0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
        after = policy.inner(row).logits[0, len(prompt.ids) - 1 : -1].log_softmax(1)
    rollout = make_rollout(policy, prompt, [Answer(ids, [0.0] * 3, ended=False)])
    step = lay_out(policy, frozen, [rollout], training.config, with_kl=True)
    torch.testing.assert_close(step.full_kl, (after.exp() * (after - before)).sum(1), atol=1e-6, rtol=1e-4)
    assert float(step.full_kl.min()) > 1e-4


# RLOO


def test_tokens_as_actions_by_hand(tmp_path: Path, llama: Path) -> None:
    """Two answers of two tokens earning (1, 2) and (0, 1): the first token's return-to-go is 3, less the
    other's 1; the second's 2, less 1; of the other answer 1 − 3 and 1 − 3."""
    config = {name: QUICK[name] for name in ("max_new_tokens", "samples")} | {"actions": "tokens", "beta": 0}
    folder = make_run(
        tmp_path / "run",
        "rloo",
        base=llama,
        config=config | {"num_generations": 2},
        rows=PROMPTS,
        reward=VOWELS,
    )
    training = Run(RunDir(folder))
    policy = open_policy(training, kind="causal")
    tokenizer = open_group_tokenizer(training.base, max_length=None)
    (prompt, *_) = open_prompts(training.train, tokenizer, run=training)
    answers = [Answer([20, 2], [0.0] * 2, ended=True), Answer([21, 2], [0.0] * 2, ended=True)]
    step = lay_out(policy, policy.frozen_start(), [make_rollout(policy, prompt, answers)], training.config)
    none = torch.zeros(2, 0)
    scored = Scored(torch.zeros(2), none, none, {})
    given = Judged(
        total=torch.tensor([3.0, 1.0]), whole=torch.tensor([2.0, 1.0]), tokens=torch.tensor([1.0, 0, 0, 0]),
        scored=scored,
    )  # fmt: skip
    assert advantages_of(given, step, training.config).tolist() == [2, 1, -2, -2]


def test_tokens_as_actions_are_answers_without_credit(tmp_path: Path, llama: Path) -> None:
    """A reward at the end is what every token earns from it on: the first gradient is the same."""
    config = QUICK | {"beta": 0, "max_steps": 2}
    whole, parts = (
        make_run(
            tmp_path / name,
            "rloo",
            base=llama,
            config=config | {"actions": name},
            rows=PROMPTS,
            reward=VOWELS,
        )
        for name in ("answers", "tokens")
    )
    assert run(whole) == run(parts) == 0
    for name, value in result_weights(whole).items():
        torch.testing.assert_close(value, result_weights(parts)[name], atol=1e-5, rtol=1e-3)


def test_a_run_on_credited_tokens_resumes(tmp_path: Path, llama: Path) -> None:
    reward = [{"rule": "pattern:[aeiou]", "credit": {"name": "segments", "by": "clauses", "how": "sign"}}]
    config = QUICK | {"actions": "tokens", "max_steps": 4, "save_every": 2}
    whole, cut = (
        make_run(tmp_path / name, "rloo", base=llama, config=config, rows=PROMPTS, reward=reward)
        for name in ("whole", "cut")
    )
    assert run(whole) == 0
    assert run(cut) == 0
    import shutil

    for name in ("checkpoint-000004", "result", "state.json"):
        path = cut / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run(cut) == 0
    for name, value in result_weights(whole).items():
        assert torch.equal(value, result_weights(cut)[name])


# What is refused


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"rule": "words", "credit": "correction"}, "needs a model"),
        ({"model": "m", "credit": "critique", "transform": "sigmoid"}, "takes no transform"),
        ({"rule": "words", "credit": "segments", "transform": "standardise"}, "one by one"),
        ({"rule": "words", "credit": {"name": "segments", "how": "clip"}}, "threshold belongs to"),
        ({"rule": "words", "credit": {"name": "segments", "temperature": 1.0}}, "temperature belongs to"),
    ],
)
def test_credit_that_makes_no_sense(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(BadReward, match=words):
        parse_rewards([entry], modality="text")


def test_credit_has_no_use_in_scoring(tmp_path: Path) -> None:
    entries = parse_rewards([{"rule": "words", "credit": "segments"}], modality="text")
    rewards = open_rewards(entries, modality="text", device=torch.device("cpu"))
    with pytest.raises(Exception, match="methods that train on answers which the policy writes"):
        rewards.score(["p"], ["a b"])


def test_characters_of_tokens_that_the_tokenizer_would_not_make() -> None:
    """ "wro" "ng" where the tokenizer has one token for "wrong": they are decoded one by one."""
    tokenizer = tiny_tokenizer()
    pieces = [tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in ("w", "r", "o", "ng é")]
    ids = [token for piece in pieces for token in piece] + [2]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    offsets = answer_offsets(tokenizer, ids, text)
    assert "".join(text[start:end] for start, end in offsets) == text == "wrong é"
    assert offsets[0] == (0, 1)
    assert offsets[-1] == (len(text), len(text))
