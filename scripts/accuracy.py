"""How close estimates come to what providers reported, over recorded calls. `make accuracy`.

Every recorded call is counted and shown. A row is "computable" if its request alone decides its
input; what else it depends on is told by `unseen`, from the request only, never from the outcome,
its date or who recorded it. What the estimator calls rough is held to the same by a test.
Recordings are read from $SENTINEL_RECORDINGS, else from ../shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import struct
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinel_extproc.tokens.estimator import TokenEstimator
from sentinel_extproc.tokens.models import ModelTable

NAME = "token_usage_recordings.jsonl"
ROOT = Path(__file__).resolve().parent.parent

KINDS = {
    "chat.completions": "chat",
    "completions": "completions",
    "embeddings": "embeddings",
    "responses": "responses",
    "responses.input_tokens": "responses",
}

TARGETS: dict[str, tuple[float, float | None]] = {
    "plain chat": (0.97, None),
    "tools": (0.85, 0.01),
    "responses text": (0.97, None),
    "embeddings": (0.99, None),
}
"""What the project aims at, on computable rows: least share of exact ones, greatest mean error."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One recorded call and what we made of it.

    Attributes:
        group: endpoint, tools or not, streamed or not.
        kind: what the targets tell apart: plain chat, tools, responses text, embeddings, other.
        flagged: the recordings mark it as missed by far by an earlier estimator.
        unseen: why the request alone doesn't decide the input; empty if it does.
        outputs: counted and reported tokens of the answer, when it was text only.
    """

    id: str
    model: str
    group: tuple[str, str, str]
    kind: str
    flagged: bool
    unseen: str
    estimated: int
    reported: int
    confidence: str
    outputs: tuple[int, int] | None

    @property
    def error(self) -> float:
        """Relative to what was reported."""
        return abs(self.estimated - self.reported) / max(1, self.reported)


def recordings() -> Path | None:
    """The file with recordings, if it is there."""
    named = os.environ.get("SENTINEL_RECORDINGS")
    path = Path(named) if named else ROOT.parent / "shared" / "data" / NAME
    return path if path.is_file() else None


def read(path: Path) -> Iterator[Json]:
    """The recorded calls."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def measure(calls: Iterable[Json]) -> tuple[list[Row], list[Json]]:
    """Rows for every call of an endpoint that has an input rule; and the calls of those without."""
    calls = list(calls)
    estimator = TokenEstimator(ModelTable(aliases=deployments(calls)))
    rows, others = [], []
    for call in calls:
        kind = KINDS.get(call["endpoint"])
        if kind is None:
            others.append(call)
            continue
        body = restored(call)
        estimate = estimator.estimate(kind, body)
        usage = call["usage"]
        rows.append(
            Row(
                id=call["id"],
                model=str(call["model_returned"] or body.get("model")),
                group=(
                    call["endpoint"],
                    "tools" if body.get("tools") or body.get("functions") else "no tools",
                    "streamed" if call["stream"] else "whole",
                ),
                kind=target(kind, body),
                flagged="outlier_vs_prototype" in call.get("flags", ()),
                unseen=unseen(body),
                estimated=estimate.input_tokens,
                reported=usage["prompt_tokens"]
                if "prompt_tokens" in usage
                else usage["input_tokens"],
                confidence=estimate.confidence.value,
                outputs=outputs(estimator, call, kind, body),
            )
        )
    return rows, others


def deployments(calls: Iterable[Json]) -> dict[str, str]:
    """Names that only an operator can resolve, with the models that answered: their aliases."""
    table = ModelTable()
    return {
        str(call["model_requested"]): call["model_returned"]
        for call in calls
        if call["model_returned"] and not table.resolve(call["model_requested"]).known
    }


def restored(call: Json) -> Json:
    """The request, with headers of the recorded size in place of media that was left out."""
    body: Json = dict(call["request"])
    # Azure names the deployment in the path alone.
    body.setdefault("model", call["model_requested"] or call["model_returned"])
    for number, medium in enumerate(call["media"] or []):
        body = _replaced(body, f"<elided media #{number}>", _stand_in(medium))
    return body


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, old, new) for inner in value]
    return value.replace(old, new) if isinstance(value, str) else value


def _stand_in(medium: Json) -> str:
    size = int(medium.get("bytes") or 0)
    head = b""
    if medium["kind"] == "image":
        pixels = struct.pack(">II", medium.get("width") or 0, medium.get("height") or 0)
        head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + pixels
    elif medium.get("format") == "wav" and medium.get("duration_s"):
        rate = round((size - 44) / medium["duration_s"])
        head = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0" + struct.pack("<II", rate // 2, rate)
    return base64.b64encode(head.ljust(size, b"\0")).decode()


def outputs(estimator: TokenEstimator, call: Json, kind: str, body: Json) -> tuple[int, int] | None:
    """Counted and reported output of an answer that was one text and nothing else."""
    answers = call["output"] or []
    usage = call["usage"]
    reported = usage.get("completion_tokens", usage.get("output_tokens"))
    if len(answers) != 1 or reported is None:
        return None
    answer = answers[0]
    if not isinstance(answer.get("text"), str) or set(answer) - {"text", "finish_reason", "type"}:
        return None
    details = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    if any(details.get(key) for key in ("reasoning_tokens", "audio_tokens")):
        return None
    model = str(body.get("model"))
    counter = estimator.output_counter(model)
    for delta in (call.get("deltas") or {}).get("0") or [answer["text"]]:
        counter.feed(delta)
    return counter.total() + estimator.answer_frame(kind, model), reported


def target(kind: str, body: Json) -> str:
    """Which of the project's targets a request falls under."""
    if kind in ("chat", "responses") and (body.get("tools") or body.get("functions")):
        return "tools"
    content = json.dumps(body.get("messages") or body.get("input"))
    if re.search(r'"type": "(image_url|input_image|input_audio|file|input_file)"', content):
        return "media"
    return {"chat": "plain chat", "responses": "responses text"}.get(kind, kind)


def unseen(body: Json) -> str:
    """Why the input can't be told from the request alone, by the first of these rules that fits."""
    for key in ("previous_response_id", "conversation", "prompt"):
        if body.get(key) is not None and not (key == "prompt" and not isinstance(body[key], dict)):
            return f"kept by the provider ({key})"
    if "web_search_options" in body or any(map(_hosted, body.get("tools") or [])):
        return "hosted tools"
    if (body.get("reasoning") or {}).get("mode"):
        return "reasoning.mode"
    return _unseen_in(_shown(body.get("messages") or body.get("input")))


def _shown(items: Any) -> Any:
    """The items without reasoning of turns that are over, which no model is shown again."""
    if not isinstance(items, list):
        return items
    roles = [item.get("role") if isinstance(item, dict) else None for item in items]
    turn = max((at for at, role in enumerate(roles) if role not in (None, "assistant")), default=-1)
    return [
        item
        for at, item in enumerate(items)
        if at > turn or not isinstance(item, dict) or item.get("type") != "reasoning"
    ]


def _hosted(tool: Json) -> bool:
    return tool.get("type") not in (None, "function", "custom")


def _unseen_in(value: Any) -> str:
    items = value if isinstance(value, list) else []
    for item in items:
        if not isinstance(item, dict):
            continue
        found = _unseen_item(item)
        for key in ("content", "output"):
            found = found or _unseen_in(item.get(key))
        if found:
            return found
    return ""


def _unseen_item(item: Json) -> str:
    kind = str(item.get("type"))
    if kind == "reasoning" or item.get("encrypted_content"):
        return "encrypted reasoning in the input"
    if kind.startswith(("web_search", "file_search", "tool_search", "code_interpreter", "mcp_")):
        return "hosted items in the input"
    if kind.startswith(("image_generation", "computer", "item_reference", "additional_tools")):
        return "hosted items in the input"
    if kind in ("image_url", "input_image"):
        url = item.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        return "" if str(url).startswith("data:") else "image elsewhere"
    if kind in ("file", "input_file"):
        return "file, extracted by the provider"
    if kind == "input_audio" and (item.get("input_audio") or {}).get("format") != "wav":
        return "compressed audio"
    return ""


def table(title: str, groups: dict[Any, list[Row]]) -> None:
    """One line a group: rows, exact ones, mean error."""
    print(f"\n{title:<52} {'rows':>5} {'exact':>6} {'share':>7} {'mean error':>11}")
    for name, rows in sorted(groups.items()):
        label = " · ".join(name) if isinstance(name, tuple) else str(name)
        line(label, rows)
    line("all", [row for rows in groups.values() for row in rows])


def line(label: str, rows: list[Row]) -> None:
    """Rows, exact ones and mean error of one group."""
    exact = sum(row.estimated == row.reported for row in rows)
    share, error = met(rows)
    print(f"  {label:<50} {len(rows):>5} {exact:>6} {share:>7.1%} {error:>11.2%}")


def grouped(rows: Iterable[Row], key: Any) -> dict[Any, list[Row]]:
    """Rows by `key(row)`."""
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def targets(title: str, rows: list[Row]) -> None:
    """What was aimed at, and what was reached."""
    print(f"\n{title:<52} {'rows':>5} {'exact':>7} {'aim':>6} {'mean error':>11} {'aim':>6}")
    groups = grouped(rows, lambda row: row.kind)
    for kind, (least, greatest) in TARGETS.items():
        share, error = met(groups[kind])
        reached = share >= least and (greatest is None or error <= greatest)
        print(
            f"  {kind:<50} {len(groups[kind]):>5} {share:>7.1%} {least:>6.0%} {error:>11.2%}"
            f" {'' if greatest is None else f'{greatest:.0%}':>6} {'' if reached else ' missed'}"
        )


def met(rows: list[Row]) -> tuple[float, float]:
    """Share of exact rows, and mean error."""
    exact = sum(row.estimated == row.reported for row in rows)
    return exact / max(1, len(rows)), sum(row.error for row in rows) / max(1, len(rows))


def report(rows: list[Row], others: list[Json], *, misses: bool) -> None:
    """Print everything."""
    seen = [row for row in rows if not row.unseen]
    hidden = [row for row in rows if row.unseen]
    rest = [row for row in seen if not row.flagged]
    table("computable from the request", grouped(seen, lambda row: row.group))
    table("the same by what targets tell apart", grouped(seen, lambda row: row.kind))
    table("the same by confidence", grouped(seen, lambda row: row.confidence))
    targets("targets: every computable row", seen)
    flagged = len(seen) - len(rest)
    targets(f"without the {flagged} that the recordings flag as outliers", rest)
    table("not computable: why", grouped(hidden, lambda row: row.unseen))
    table("every row, by confidence", grouped(rows, lambda row: row.confidence))
    print("\ncalls without an input rule here (usage comes from the provider's answer):")
    for endpoint, calls in sorted(grouped_calls(others).items()):
        print(f"  {endpoint:<50} {calls:>5}")
    texts = [row.outputs for row in rows if row.outputs]
    exact = sum(counted == reported for counted, reported in texts)
    off = sum(abs(counted - reported) for counted, reported in texts)
    total = sum(reported for _, reported in texts)
    print(
        f"\noutput of {len(texts)} answers of plain text: {exact} exact "
        f"({exact / max(1, len(texts)):.1%}), off by {off} of {total} tokens"
    )
    if misses:
        for row in sorted(rows, key=lambda row: (row.unseen, row.group, row.model)):
            if row.estimated != row.reported:
                print(
                    f"  {row.id:<17} {row.estimated:>6} for {row.reported:>6} {row.confidence:<6}"
                    f" {' · '.join(row.group)} {row.model} {row.unseen}"
                )


def grouped_calls(calls: Iterable[Json]) -> dict[str, int]:
    """How many calls per endpoint."""
    counts: dict[str, int] = defaultdict(int)
    for call in calls:
        counts[call["endpoint"]] += 1
    return counts


def main() -> int:
    """0 also when there are no recordings: they aren't part of the project."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--misses", action="store_true", help="list every row that isn't exact")
    options = parser.parse_args()
    path = recordings()
    if path is None:
        print(f"skipped: no {NAME} (set SENTINEL_RECORDINGS to a file of recorded calls)")
        return 0
    rows, others = measure(read(path))
    report(rows, others, misses=options.misses)
    return 0


if __name__ == "__main__":
    sys.exit(main())
