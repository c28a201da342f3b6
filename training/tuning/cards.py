"""The model card: ``README.md`` for people and ``metadata.json`` for programs, beside the weights."""

from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.tuning.data import Group
from training.tuning.pairs import VOTING_KINDS
from training.tuning.rundir import finite, write_json, write_text

if TYPE_CHECKING:
    from training.tuning.run import Run

PACKAGES = ["torch", "transformers", "peft", "diffusers", "safetensors"]


def write_card(folder: Path, *, run: "Run", how_to_load: str, notes: list[str], more: dict[str, Any]) -> None:
    """Write both files into ``folder``; ``more`` goes into the metadata."""
    facts = {**collect(run), "how_to_load": how_to_load, **more}
    write_json(folder / "metadata.json", facts)
    write_text(
        folder / "README.md", card_text(facts, title=run.method.title, how_to_load=how_to_load, notes=notes)
    )


def collect(run: "Run") -> dict[str, Any]:
    """Everything about a run that its result should still say in a year."""
    counts = count_judgements(run.train)
    known = run.spec.data.model_dump(exclude={"base_name"}, exclude_none=True)
    return {
        "method": run.method.name,
        "paper": run.method.paper,
        "base": run.base,
        "base_name": run.spec.data.base_name or run.base,
        "data": {"sha256": run.data_sha256, **counts, **known},
        "config": run.config.model_dump(mode="json"),
        "seed": run.seed,
        "steps": run.total_steps,
        **({"stopped_early": run.stopped_early} if run.stopped_early else {}),
        "metrics": finite({**run.last_metrics, **run.eval_metrics}),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def count_judgements(groups: list[Group]) -> dict[str, int]:
    """Groups, judgements that count as votes, and the people who gave them."""
    votes = [
        judgement for group in groups for judgement in group.judgements if judgement.kind in VOTING_KINDS
    ]
    people = {judgement.annotator for judgement in votes if judgement.annotator is not None}
    return {"groups": len(groups), "judgements": len(votes), "annotators": len(people)}


def card_text(facts: dict[str, Any], *, title: str, how_to_load: str, notes: list[str]) -> str:
    """The README, in Markdown with the YAML header that model hubs read."""
    data, method = facts["data"], facts["method"]
    header = ["---", f"base_model: {_yaml(facts['base_name'])}", f"tags: [tiebreak, {method}]", "---"]
    paper = f" ({facts['paper']})" if facts["paper"] else ""
    body = [
        f"# {title}",
        "",
        f"Trained by Tiebreak with `{method}`{paper} from `{facts['base_name']}`.",
        "",
        *(f"{note}\n" for note in notes),
        "## How to load it",
        "",
        "```python",
        how_to_load.strip(),
        "```",
        "",
        "## Data",
        "",
        f"{data['groups']} groups with {data['judgements']} judgements by {data['annotators']} annotators; "
        f"SHA-256 of the training rows `{data['sha256']}`.",
        "",
        "## Metrics",
        "",
        *_table(facts["metrics"]),
        "",
        "## Configuration",
        "",
        f"Seed {facts['seed']}, {facts['steps']} optimizer steps.",
        "",
        *_table(facts["config"]),
        "",
        "## Versions",
        "",
        *_table(facts["versions"]),
    ]
    return "\n".join(header + body) + "\n"


def _table(values: dict[str, Any]) -> list[str]:
    rows = [f"| {name} | {_cell(value)} |" for name, value in values.items()]
    return ["| name | value |", "| --- | --- |", *rows]


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _yaml(value: Any) -> str:
    return "null" if value is None else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
