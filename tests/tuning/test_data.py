"""Rows: the group, the public formats, and everything that can be wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from training.tuning.data import Group, plain_text
from training.tuning.errors import BadInput
from training.tuning.reading import load_groups

GROUP = {
    "prompt": "Why?",
    "candidates": [{"text": "One", "source": "base"}, {"text": "Two"}],
    "judgements": [
        {
            "annotator": "ann",
            "annotator_group": "experts",
            "kind": "regular",
            "order": [1, 0],
            "choice": 1,
            "strength": 2,
            "aspects": {"tone": {"choice": 0, "strength": 1}, "length": {"choice": "tie"}},
            "ranking": [[1], [0]],
            "ratings": [{"helpfulness": 4}, None],
            "thumbs": [1, 0],
            "tags": ["short"],
            "rubric": [{"name": "polite", "met": True}],
            "marks": [
                {"candidate": 0, "type": "span", "start": 0, "end": 2, "category": "wrong", "severity": 1},
                {"candidate": 1, "type": "step", "step": 0, "start": 0, "end": 3, "first_error": True},
                {"candidate": 1, "type": "point", "point": [0.5, 1]},
            ],
            "critique": "Fine.",
            "corrections": [None, "Three"],
            "turns": [{"turn": 0, "choice": "tie"}],
            "context": {"screen": "wide"},
            "template_version": 3,
            "seconds": 4.5,
            "at": "2026-01-01T00:00:00Z",
        }
    ],
    "reference": "Because.",
    "meta": {"anything": ["goes"]},
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def load(path: Path) -> list[Group]:
    return load_groups(path, modality="text")


def test_every_key_of_a_group(tmp_path: Path) -> None:
    (group,) = load(write(tmp_path / "t.jsonl", GROUP))
    assert group.judgements[0].choice == 1
    assert group.judgements[0].corrections == [None, "Three"]
    assert group.candidates[0].source == "base"
    assert group.line == 1
    assert Group.model_validate(group.model_dump(exclude={"line"})).prompt == "Why?"


def test_public_formats(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Why?"}]
    answer = [{"role": "assistant", "content": "One"}]
    groups = load(
        write(
            tmp_path / "t.jsonl",
            {"prompt": "Why?", "chosen": "One", "rejected": "Two"},
            "\n",
            {"prompt": messages, "chosen": answer, "rejected": answer, "meta": {"id": 7}},
            {"prompt": "Why?", "completion": "One", "label": False},
            {"prompt": "Why?", "completion": "One"},
            {"prompt": "Why?"},
        )
    )
    assert [len(group.candidates) for group in groups] == [2, 2, 1, 1, 0]
    assert [group.line for group in groups] == [1, 3, 4, 5, 6]
    assert [group.judgements[0].choice for group in groups[:2]] == [0, 0]
    assert groups[1].meta == {"id": 7}
    assert plain_text(groups[1].candidates[0].text or "") == "One"
    assert groups[2].judgements[0].thumbs == [0]
    assert groups[3].judgements == groups[4].judgements == []


def changed(**changes: Any) -> dict[str, Any]:
    return GROUP | changes


def judged(**judgement: Any) -> dict[str, Any]:
    return changed(judgements=[judgement])


BAD = {
    "not json": ('{"prompt": \n', "line 2: not JSON"),
    "not an object": ("[1]\n", "line 2: a row must be a JSON object"),
    "no prompt": ({"chosen": "a", "rejected": "b"}, 'line 2, prompt: the column "prompt" is missing'),
    "no rejected": (
        {"prompt": "p", "chosen": "a"},
        'line 2: there is a column "chosen" but the column "rejected"',
    ),
    "no completion": (
        {"prompt": "p", "label": True},
        'there is a column "label" but the column "completion"',
    ),
    "unknown column": ({"prompt": "p", "chosen": "a", "rejected": "b", "score": 1}, 'unknown column "score"'),
    "columns do not fit": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "completion": "c"},
        "do not go together",
    ),
    "empty answer": ({"prompt": "p", "chosen": " ", "rejected": "b"}, "line 2, chosen: the answer is empty"),
    "empty message": (
        {"prompt": "p", "chosen": "a", "rejected": [{"role": "assistant", "content": ""}]},
        "line 2, rejected: the answer is empty",
    ),
    "answer is a boolean": ({"prompt": "p", "chosen": True, "rejected": "b"}, "line 2, chosen"),
    "label is a word": (
        {"prompt": "p", "completion": "a", "label": "yes"},
        "line 2, label: must be true or false",
    ),
    "unknown key": (changed(colour="red"), "line 2, colour: unknown key"),
    "line is no key": (changed(line=3), "line 2, line: unknown key"),
    "unknown key of a candidate": (
        changed(candidates=[{"text": "a", "id": 3}]),
        "candidates.0.id: unknown key",
    ),
    "two contents": (changed(candidates=[{"text": "a", "image": "b"}]), "either"),
    "choice out of range": (judged(choice=2), "choice is 2, but there are 2 candidates"),
    "choice negative": (judged(choice=-1), "choice is -1"),
    "choice unknown": (judged(choice="left"), "judgements.0.choice"),
    "strength out of range": (judged(choice=0, strength=4), "judgements.0.strength"),
    "order incomplete": (judged(order=[0]), "order is not an order of the 2 candidates"),
    "ranking twice": (judged(ranking=[[0], [0, 1]]), "ranking names a candidate twice"),
    "too many thumbs": (judged(thumbs=[1, 0, 1]), "thumbs has 3 entries for 2 candidates"),
    "mark elsewhere": (judged(marks=[{"candidate": 5, "type": "span"}]), "marks names candidate 5 of 2"),
    "unknown kind": (judged(kind="odd"), "judgements.0.kind"),
    "image in a text method": (changed(candidates=[{"image": "a.png"}], judgements=[]), "works on texts"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named(name: str, tmp_path: Path) -> None:
    row, expected = BAD[name]
    path = write(tmp_path / "train.jsonl", {"prompt": "fine"}, row)
    with pytest.raises(BadInput) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_no_rows_no_utf8(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the file is missing"):
        load(tmp_path / "none.jsonl")
    with pytest.raises(BadInput, match="holds no rows"):
        load(write(tmp_path / "empty.jsonl", "\n"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "caf\xe9"}\n')
    with pytest.raises(BadInput, match="not UTF-8"):
        load(tmp_path / "latin.jsonl")


def test_images(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    Image.new("RGB", (8, 8), "red").save(media / "fine.png")
    Image.new("RGB", (64, 64), "red").save(media / "whole.jpg")
    (media / "cut.jpg").write_bytes((media / "whole.jpg").read_bytes()[:-200])
    (media / "text.png").write_text("not an image")
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")

    def check(name: str) -> list[Group]:
        path = write(
            tmp_path / "t.jsonl", {"prompt": "p", "candidates": [{"image": "fine.png"}, {"image": name}]}
        )
        return load_groups(path, modality="image", media=media)

    assert check("fine.png")[0].candidates[1].image == "fine.png"
    for name, why in {
        "none.png": "is missing",
        "cut.jpg": "cannot be read",
        "text.png": "cannot be read",
        "../outside.png": "leads out of the folder",
        str(tmp_path / "outside.png"): "leads out of the folder",
    }.items():
        with pytest.raises(BadInput, match=r"line 1, candidates.1.image") as caught:
            check(name)
        assert why in str(caught.value)


def test_two_hundred_megapixels_are_refused_before_decoding(tmp_path: Path, monkeypatch: Any) -> None:
    Image.new("1", (20_000, 10_000)).save(tmp_path / "big.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", None)
    path = write(tmp_path / "t.jsonl", {"prompt": "p", "candidates": [{"image": "big.png"}]})
    with pytest.raises(BadInput, match="20000 × 10000 pixels; at most 50 million"):
        load_groups(path, modality="image", media=tmp_path)


def test_text_rows_of_an_image_method_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="works on images"):
        load_groups(write(tmp_path / "t.jsonl", GROUP), modality="image")
