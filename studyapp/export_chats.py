"""Rated chats in the JSON that Argilla and Label Studio read: one record for each chat, with everybody's ratings of it.

Pure. Prepared chats are grouped over raters, so this belongs to a study that is closed: two codes under one text are
one arm. A record's id comes from its text, never from a key or a row's number, whose order would tell arms apart.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
Chat = list[dict[str, str]]

_SPEAKERS = {"user": "Rater", "assistant": "Assistant"}


@dataclass
class Record:
    """One chat and the rows of its ratings."""

    id: str
    first: Row
    messages: Chat
    ratings: list[Row] = field(default_factory=list)


def argilla(rows: Iterable[Row], study: str) -> list[dict[str, Any]]:
    """The records that Argilla's `Dataset.records.from_json` takes.

    `rows` are those of the table `chats`, repeats left out; `study` makes the users' ids this study's own. The dataset
    needs the fields goal, reached (text) and chat, the questions satisfaction, goal_achievement (rating 1 to 5) and
    comment (text).
    """
    return [
        {
            "id": record.id,
            "fields": {"goal": record.first["goal"], "reached": record.first["reached"], "chat": record.messages},
            "metadata": {**_facts(record), "codes": [f"{row['rater']}:{row['code']}" for row in record.ratings]},
            "responses": {
                question: [
                    {"value": row[question], "user_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{study} {row['rater']}"))}
                    for row in record.ratings
                    if row[question] != ""
                ]
                for question in ("satisfaction", "goal_achievement", "comment")
            },
            "suggestions": {},
            "vectors": {},
        }
        for record in _records(rows)
    ]


def label_studio(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Tasks as Label Studio imports them, with `rows` as for Argilla.

    Its labelling configuration needs Paragraphs named chat, a Rating for each of satisfaction and goal_achievement, and
    a TextArea for the comment.
    """
    return [
        {
            "data": {
                "id": record.id,
                "goal": record.first["goal"],
                "reached": record.first["reached"],
                "chat": [{"author": _SPEAKERS[m["role"]], "text": m["content"]} for m in record.messages],
                **_facts(record),
            },
            "annotations": [_annotation(record.id, row) for row in record.ratings],
            "predictions": [],
        }
        for record in _records(rows)
    ]


def _annotation(record: str, row: Row) -> dict[str, Any]:
    values = {name: ("rating", {"rating": row[name]}) for name in ("satisfaction", "goal_achievement")}
    if row["comment"]:
        values["comment"] = ("textarea", {"text": [row["comment"]]})
    return {
        "result": [
            {
                "id": f"{record}-{row['rater']}-{name}",
                "from_name": name,
                "to_name": "chat",
                "type": kind,
                "value": value,
            }
            for name, (kind, value) in values.items()
        ],
        "lead_time": row["seconds"],
        "created_at": row["updated_at"],
        "was_cancelled": False,
        "ground_truth": False,
        "rater": row["rater"],
        "code": row["code"],
    }


def _facts(record: Record) -> dict[str, Any]:
    return {name: record.first[name] for name in ("scenario", "category", "mode", "arm") if name in record.first}


def _records(rows: Iterable[Row]) -> list[Record]:
    """The chats in the order of their ids, each scenario's together.

    Equal texts are one chat, but a rater's two of one text stay two: the tools take one answer of each for a record.
    """
    records: dict[str, Record] = {}
    for row in rows:
        own = [row["rater"], row["position"], row["place"]] if row["mode"] == "live" else []
        text = json.dumps([row["scenario"], row["messages"], own, row.get("arm")], sort_keys=True)
        name = f"{row['scenario']}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        while name in records and any(other["rater"] == row["rater"] for other in records[name].ratings):
            name += "x"
        records.setdefault(name, Record(name, row, row["messages"])).ratings.append(row)
    return [records[name] for name in sorted(records)]
