"""Edit pictures as critiques say, pair each with its edit: rich preference optimisation (arXiv:2503.11720).

1. A row is one picture with a critique, by a person or by a vision-language model that was asked for one. The
   critiques become the instruction.
2. An editor (``base``) changes the picture. Both are scored: an edit may be worse.
3. ``result/selected.jsonl`` has a row for each pair with a gap above ``margin``, the better one chosen by a
   judge, for ``diffusion_dpo``; ``edits.jsonl`` has all with their scores; pictures are under ``media/``.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from training.tuning.config import ImageEditConfig
from training.tuning.data import Group, plain_text
from training.tuning.errors import BadInput
from training.tuning.images.data import open_image
from training.tuning.images.editing import Editor, editable
from training.tuning.images.generation import sample_seed
from training.tuning.images.preview import preview
from training.tuning.images.scores import open_picture_rewards, score_rows
from training.tuning.methods.image_score import judged_pairs
from training.tuning.run import Run


class Edits(Protocol):
    """What edits a picture."""

    def edit(self, image: Image.Image, instruction: str, *, seed: int) -> Image.Image: ...


def train(run: Run) -> None:
    """Edit with the pipeline that ``base`` names."""
    make_pairs(run, Editor(run.base, run.config, device=run.device))


def make_pairs(run: Run, editor: Edits) -> None:
    """Edit, score and pair. See the module for the steps."""
    config: ImageEditConfig = run.config
    groups = [group for group in run.train if why_not(group) is None]
    if not groups:
        raise BadInput("no row is one picture with a critique", file=run.dir.train_file)
    rewards = open_picture_rewards(run)
    drawn = run.dir.path / "drawn"
    drawn.mkdir(exist_ok=True)
    run.dir.cut_back(-1)
    pairs = []
    for number, group in enumerate(groups):
        run.check_stop()
        names = [f"{number:06d}-{kind}.png" for kind in ("original", "edited")]
        if not (drawn / names[1]).exists():  # the later of the two
            original = editable(open_image(run.dir.media / str(group.candidates[0].image)))
            prompt = plain_text(group.prompt)
            seed = sample_seed(seed=run.seed, prompt=prompt, occurrence=number, sample=0)
            edited = editor.edit(original, instruction_of(group, config), seed=seed)
            for name, image in zip(names, (original, edited), strict=True):
                keep(image, drawn / name)
        candidates = [{"image": names[0]}, {"image": names[1], "source": run.base}]
        pairs.append(Group(prompt=group.prompt, candidates=candidates, meta=group.meta, line=group.line))
        run.progress(number + 1, len(groups), {})
    scored = score_rows(run, rewards, pairs, on_batch=lambda _: run.check_stop(), media=drawn)
    scores = scored.total.view(-1, 2).tolist()

    def write(folder: Path) -> None:
        shutil.copytree(drawn, folder / "media")
        said = [instruction_of(group, config) for group in groups]
        rows = [
            pair.model_dump(mode="json", include={"prompt", "candidates", "meta"}, exclude_none=True)
            | {"instruction": one, "scores": own}
            for pair, one, own in zip(pairs, said, scores, strict=True)
        ]
        write_rows(folder / "edits.jsonl", rows)
        write_rows(folder / "selected.jsonl", judged_pairs(pairs, scores, margin=config.margin))

    run.publish(write)
    shutil.rmtree(drawn)


def instruction_of(group: Group, config: ImageEditConfig) -> str:
    """What the editor is told: the config's sentence with all critiques of the picture in it."""
    said = " ".join(one.critique.strip() for one in group.judgements if one.critique)
    return config.instruction.replace("{critique}", said)


def why_not(group: Group) -> str | None:
    """Why a row cannot be used, or None."""
    if len(group.candidates) != 1:
        return "not one picture: it is unclear which one the critique is about"
    return None if any(one.critique for one in group.judgements) else "no critique"


def keep(image: Image.Image, path: Path) -> None:
    """Save a picture, by rename."""
    partial = path.with_suffix(".part")
    image.save(partial, format="PNG")
    partial.replace(path)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON lines."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def inspect(run: Run) -> dict[str, Any]:
    """The rows as ``train`` will see them."""
    reasons = [why_not(group) for group in run.train]
    return preview(run.train, reasons=reasons, pairs=lambda group: [], count_tokens=lambda prompt: 0)
