"""The simulated text world and the base model that ships with it."""

import hashlib
import itertools
import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest

from webapp.demo import text_grammar, text_world
from webapp.demo.text_world import EMPTY, NO_STEP, PER_WORD, UNKNOWN, WRONG, utility

SHIPPED = Path(text_world.__file__).parent / "models" / "text"
PROMPT = "Hi, Anna here. My kettle has not arrived. The order number is K4."
STEP = "I have asked the courier about order K4."
SORRY = "I am sorry that your kettle is late."
BEST = (
    f"Hi Anna! {SORRY} {STEP} I will send a new kettle if it is lost. Is there anything else I can help with?"
)


def test_enough_kinds_of_prompt():
    assert len(text_grammar.TEMPLATES) >= 36
    assert len({template.topic for template in text_grammar.TEMPLATES}) >= 8
    assert len({template.body for template in text_grammar.TEMPLATES}) == len(text_grammar.TEMPLATES)


def test_prompts_are_split_by_their_text_and_repeat_by_seed():
    train, held_out = text_world.prompts("train", 300, 1), text_world.prompts("held_out", 300, 1)
    assert len(set(train)) == len(set(held_out)) == 300
    assert not set(train) & set(held_out)
    assert train == text_world.prompts("train", 300, 1)
    assert train != text_world.prompts("train", 300, 2)
    assert {text_world.split_of(prompt) for prompt in held_out} == {"held_out"}


def test_corpus_is_of_the_language_and_of_training_prompts_only():
    samples = list(text_world.corpus(1000, 3))
    assert len(samples) == 1000
    for prompt, answer in samples:
        assert text_world.split_of(prompt) == "train"
        assert text_world.well_formed(answer), answer
        assert text_world.details_right(prompt, answer), (prompt, answer)


def test_choices_of_style_are_independent():
    """Of a corpus answer, whether it greets by name says nothing on whether it blames or has a step."""
    kinds = [{s.kind for s in text_world.read(answer)} for _, answer in text_world.corpus(4000, 5)]
    for first, second in [("G", "S"), ("G", "B"), ("S", "O"), ("A", "S")]:
        p_first = sum(first in kind for kind in kinds) / len(kinds)
        p_second = sum(second in kind for kind in kinds) / len(kinds)
        both = sum({first, second} <= kind for kind in kinds) / len(kinds)
        assert both == pytest.approx(p_first * p_second, abs=0.025)


def test_utility_by_hand():
    """Name 1, acknowledgement 1, step 2, second step 0.3, offer 0.5."""
    assert utility(PROMPT, BEST) == pytest.approx(4.8)
    assert utility(PROMPT, STEP) == pytest.approx(2.0)
    assert utility(PROMPT, f"Hello! {STEP}") == pytest.approx(2.0)
    assert utility(PROMPT, f"This is not our fault. {STEP}") == pytest.approx(0.5)
    assert utility(PROMPT, f"We care about every customer. {STEP}") == pytest.approx(1.4)
    assert utility(PROMPT, "We will look into it.") == pytest.approx(-0.5)
    assert utility(PROMPT, "  ") == EMPTY


@pytest.mark.parametrize(
    "answer",
    [
        "Hi Ben!",
        "I have asked the courier about order K5.",
        "I am sorry that your lamp is late.",
        "I have cancelled order K4.",  # right order, another request's answer
        "I am sorry that you cannot log in.",
    ],
)
def test_wrong_details_and_answers_to_something_else_cost(answer):
    assert utility(PROMPT, f"{answer} We will look into it.") == pytest.approx(WRONG - 0.5)


def test_garbage_costs():
    assert utility(PROMPT, "kettle kettle K4 Anna") == UNKNOWN + NO_STEP
    assert utility(PROMPT, f"{STEP} I have ask order courier K4.") == pytest.approx(2 + UNKNOWN)


@pytest.mark.parametrize("sentence", ["Hi Anna!", SORRY, STEP, "Is there anything else I can help with?"])
def test_repetition_never_pays(sentence):
    once = utility(PROMPT, sentence)
    scores = [utility(PROMPT, " ".join([sentence] * times)) for times in range(1, 30)]
    assert scores[0] == once
    assert all(
        later <= earlier - 1 or later == text_world.LOWEST for earlier, later in itertools.pairwise(scores)
    )


def test_more_of_the_bad_is_worse():
    blames = [utility(PROMPT, " ".join(text_grammar.BLAMES[:n])) for n in range(1, 5)]
    assert blames == sorted(blames, reverse=True)
    assert len(set(blames)) == len(blames)


def test_words_beyond_the_free_ones_cost():
    long = f"{BEST} {' '.join(['really'] * 40)}."
    words = len(long.split())
    assert utility(PROMPT, long) == pytest.approx(
        4.8 + UNKNOWN + PER_WORD * (words - text_world.WORDS_FOR_FREE)
    )


def test_nothing_beats_the_best_answer():
    """No corpus answer, and no answer with a sentence added or left out, scores above 4.8."""
    sentences = ["Hi Anna!", SORRY, STEP, "I will send a new kettle if it is lost.", text_grammar.OFFERS[0]]
    for left_out in range(5):
        assert utility(PROMPT, " ".join(sentences[:left_out] + sentences[left_out + 1 :])) < 4.8
    for added in (*text_grammar.FILLERS, *text_grammar.VAGUE_STEPS, *sentences, *text_grammar.SIGN_OFFS):
        assert utility(PROMPT, f"{BEST} {added}") <= 4.8
    assert max(utility(prompt, answer) for prompt, answer in text_world.corpus(3000, 7)) <= 4.8


def test_utility_of_a_visitors_prompt_still_reads_the_answer():
    """A prompt of no template: greetings and offers count, a step for another request does not."""
    prompt = "What is the weather like? Anna"
    assert utility(prompt, "Hi Anna!") == pytest.approx(1.0 + NO_STEP)
    assert utility(prompt, "I am sorry that you cannot log in.") == WRONG + NO_STEP


@pytest.mark.parametrize(("gap", "reliability"), [(1.0, 1.0), (2.0, 0.5), (-1.5, 1.2), (3.0, 0.0)])
def test_choose_is_bradley_terry(gap, reliability):
    rng = random.Random(0)
    n = 20_000
    first = sum(text_world.choose(gap, 0.0, rng, reliability, 0.0) == 0 for _ in range(n)) / n
    assert first == pytest.approx(1 / (1 + math.exp(-reliability * gap)), abs=4 * 0.5 / math.sqrt(n))


def test_ties_are_rao_kuppers():
    """P(tie) = sigmoid(w - d) - sigmoid(-w - d): at d = 0, w = 0.5 it is 2 sigmoid(0.5) - 1 = 0.245."""
    rng = random.Random(0)
    counts = Counter(text_world.choose(1.0, 1.0, rng, 1.0, 0.5) for _ in range(20_000))
    assert counts["tie"] / 20_000 == pytest.approx(0.2449, abs=0.014)
    assert counts[0] == pytest.approx(counts[1], rel=0.06)


def test_shipped_weights_are_those_of_the_manifest():
    manifest = json.loads((SHIPPED / "MANIFEST.json").read_text())
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest() == digest
    assert {"command", "seed", "versions", "seconds"} <= manifest.keys()
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 2.5e6


def test_shipped_model_writes_the_language():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from webapp.demo import build_text

    model = AutoModelForCausalLM.from_pretrained(SHIPPED)
    assert model.dtype == torch.float32
    measured = build_text.probe(model, AutoTokenizer.from_pretrained(SHIPPED), n=200, seed=1)
    assert measured["well_formed"] >= 0.9
    assert measured["details_right"] >= 0.8


def test_tokenizer_keeps_every_text(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    for text in (BEST, "Ünïcode 漢字 🙂 \t 0123", PROMPT):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    chat = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|user|>A<|end|><|assistant|>B<|end|>"


@pytest.mark.slow
def test_rebuild(tmp_path):
    """A short build learns the language's outlines, repeats by seed and writes a folder that loads."""
    from transformers import AutoModelForCausalLM

    from webapp.demo import build_text

    said: list[str] = []
    first = build_text.build(tmp_path / "a", seed=3, progress=said.append, steps=200, samples=4000)
    assert first["measured"]["well_formed"] > 0.1
    assert any("200 of 200" in line for line in said)
    again = build_text.build(tmp_path / "b", seed=3, progress=said.append, steps=200, samples=4000)
    assert again["sha256"] == first["sha256"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "a")
