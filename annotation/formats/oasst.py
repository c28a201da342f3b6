"""OpenAssistant trees. Read: a tree per row, `message_tree_id, prompt` with nested `replies`; or a message
per row, rows of one tree following one another. Each prompter's message with replies is a group: the
prompt is the thread up to it, `rank` (0 is best) the ranking, and the means in `labels` are ratings.
Deleted messages are left out. Written: a tree for each judgement.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, Final

from annotation.formats.fitting import Holds
from annotation.formats.reading import (
    as_messages,
    list_of,
    make_group,
    need,
    number_of,
    object_of,
    single,
    tiers_of,
)
from annotation.formats.schema import RowError

Row = dict[str, Any]
HOLDS = Holds(
    answers=frozenset({"ranking", "partial", "ratings"}),
    prompts="chat",
    texts="plain",
    roles=frozenset({"user", "assistant"}),
    modalities=("text",),
    sources=True,
    unjudged=True,
)
ROLES: Final = {"prompter": "user", "assistant": "assistant"}
MAX_DEPTH: Final = 200


def key(row: Row) -> object:
    """Messages of one tree belong together; a tree stands for itself."""
    return row["message_tree_id"] if "parent_id" in row and "message_tree_id" in row else object()


def read(rows: list[Row], *, content: str) -> list[Row]:
    """Every fork of the tree as a group. Raises `RowError`."""
    first = rows[0]
    if "parent_id" in first:
        root = _tree_of(rows)
    else:
        need(first, "prompt")
        root = object_of(first["prompt"], "prompt")
    groups = list(_forks(root, [], content=content, field="prompt"))
    if not groups:
        raise RowError("replies", "are missing: the tree has no answer to compare")
    return groups


def _tree_of(rows: list[Row]) -> Row:
    """Messages as a tree. One whose parent is not there hangs nowhere, and is an error."""
    for row in rows:
        need(row, "message_id", "text", "role")
    nodes = {row["message_id"]: {**row, "replies": []} for row in rows}
    root = None
    for node in nodes.values():
        if node.get("parent_id") is None:
            root = node
        elif node["parent_id"] in nodes:
            nodes[node["parent_id"]]["replies"].append(node)
        else:
            raise RowError("parent_id", f"{node['parent_id']!r} is no message of this tree's rows")
    if root is None:
        raise RowError("parent_id", "no message of the tree is its first")
    return root


def _forks(node: Row, thread: list[Row], *, content: str, field: str) -> Iterator[Row]:
    if len(thread) > MAX_DEPTH:
        raise RowError(field, f"is nested more than {MAX_DEPTH} messages deep")
    need(node, "text", "role")
    if node["role"] not in ROLES:
        raise RowError(f"{field}.role", f"must be one of {', '.join(ROLES)}")
    if node.get("deleted"):
        return
    thread = [*thread, {"role": ROLES[node["role"]], "content": node["text"]}]
    replies = [
        object_of(item, f"{field}.replies") for item in list_of(node.get("replies") or [], f"{field}.replies")
    ]
    answers = [item for item in replies if item.get("role") == "assistant" and not item.get("deleted")]
    if node["role"] == "prompter" and answers:
        yield _group(thread, answers, node, content=content, field=f"{field}.replies")
    for number, reply in enumerate(replies):
        yield from _forks(reply, thread, content=content, field=f"{field}.replies.{number}")


def _group(thread: list[Row], answers: list[Row], node: Row, *, content: str, field: str) -> Row:
    ranked = [index for index, item in enumerate(answers) if item.get("rank") is not None]
    judgement: Row = {}
    if ranked:
        tiers = tiers_of([answers[index]["rank"] for index in ranked], f"{field}.rank")
        judgement["ranking"] = [[ranked[place] for place in tier] for tier in tiers]
    ratings = [_ratings(item, field) for item in answers]
    if any(ratings):
        judgement["ratings"] = ratings
    meta = {name: node[name] for name in ("lang", "message_id") if node.get(name)}
    return make_group(
        single(thread, "user"),
        [item.get("text") for item in answers],
        content=content,
        names=[f"{field}.{index}.text" for index in range(len(answers))],
        judgements=[judgement] if judgement else [],
        sources=[item.get("model_name") for item in answers],
        meta=meta,
    )


def _ratings(message: Row, field: str) -> Row:
    labels = message.get("labels") or {}
    if isinstance(labels, dict) and isinstance(labels.get("name"), list):  # as the flat release has them
        labels = {
            name: {"value": value}
            for name, value in zip(labels["name"], labels.get("value") or [], strict=False)
        }
    found = {}
    for name, said in object_of(labels, f"{field}.labels").items():
        value = said.get("value") if isinstance(said, dict) else said
        if value is not None:
            found[name] = number_of(value, f"{field}.labels.{name}")
    return found


def write(group: Row) -> Iterator[Row]:
    """A tree for each judgement: the thread, and the candidates as its last replies."""
    speakers = {role: name for name, role in ROLES.items()}
    lang = group.get("meta", {}).get("lang")
    for judgement in group["judgements"] or [{}]:
        ranks = {i: place for place, tier in enumerate(judgement.get("ranking", [])) for i in tier}
        ratings = judgement.get("ratings") or [{}] * len(group["candidates"])
        replies = []
        for index, item in enumerate(group["candidates"]):
            reply = {"text": item["text"], "role": "assistant", "replies": []}
            reply |= {"rank": ranks[index]} if index in ranks else {}
            reply |= {"model_name": item["source"], "synthetic": True} if item.get("source") else {}
            labels = {name: {"value": value, "count": 1} for name, value in (ratings[index] or {}).items()}
            replies.append(reply | ({"labels": labels} if labels else {}))
        thread = as_messages(group["prompt"], "user")
        for message in reversed(thread):
            node = {"text": message["content"], "role": speakers[message["role"]], "replies": replies}
            node |= {"lang": lang} if lang else {}
            replies = [node]
        tree = hashlib.sha256(repr(group["prompt"]).encode()).hexdigest()[:32]
        yield {"message_tree_id": tree, "prompt": replies[0]}
