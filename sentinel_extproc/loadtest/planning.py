"""What to send, one request after the other, drawn from the mix by a seed. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from .scenario import ENDPOINTS, MAX_PROMPT_CHARS, Kind

_WORDS = tuple(
    """
    the a of and to in is that for it as with on by this at from are was an be or which have not
    one our more than other when there all into time some could them only its then two may these
    first also any made after over how most such where much before must through back years way
    well down should because each just those people how too little state good very make world
    still own see men work long get here between both life being under never day same another
    know while last might us great old year off come since against go came right used take three
    summary gateway budget meeting report customer invoice function error database deploy query
    """.split()  # noqa: SIM905 - a list of them would take a hundred lines
)
_TEXT_CHARS = 1 << 18


@dataclass(frozen=True, slots=True)
class Planned:
    """One request.

    Attributes:
        user: the place of its token.
        leaves_after_s: its client leaves then; None: stays to the end.
        think_s: until the same user's next one.
    """

    kind: str
    user: int
    path: str
    headers: dict[str, str]
    body: bytes
    stream: bool
    leaves_after_s: float | None
    think_s: float


class Planner:
    """Draws requests.

    Args:
        mix: what to draw from.
        tokens: of the users; a plan names its user by the place here.
    """

    def __init__(self, mix: Sequence[Kind], tokens: Sequence[str], seed: int) -> None:
        self._dice = random.Random(seed)  # noqa: S311 - no secret
        self._mix = mix
        self._weights = list(accumulate(kind.weight for kind in mix))
        self._models = [(list(k.models), list(accumulate(k.models.values()))) for k in mix]
        self._tokens = tokens
        self._text = _text(self._dice)

    def plan(self, user: int) -> Planned:
        """The next request of a user."""
        dice = self._dice
        place = dice.choices(range(len(self._mix)), cum_weights=self._weights)[0]
        kind = self._mix[place]
        names, weights = self._models[place]
        model = dice.choices(names, cum_weights=weights)[0]
        prompt = self._prompt(max(1, min(MAX_PROMPT_CHARS, round(kind.prompt_chars.draw(dice)))))
        most = max(1, round(kind.output_tokens.draw(dice)))
        headers = {
            "authorization": f"Bearer {self._tokens[user]}",
            "content-type": "application/json",
        }
        for name, value in kind.headers.items():
            headers[name.lower()] = value.replace("{output_tokens}", str(most))
        leaves = kind.abort_after.draw(dice) if dice.random() < kind.aborts else None
        return Planned(
            kind=kind.name,
            user=user,
            path=kind.path or ENDPOINTS[kind.endpoint],
            headers=headers,
            body=json.dumps(_body(kind, model, prompt, most), separators=(",", ":")).encode(),
            stream=kind.stream,
            leaves_after_s=leaves,
            think_s=kind.think.draw(dice),
        )

    def _prompt(self, chars: int) -> str:
        # From another place each time, so that nobody's cache makes it look better than it is.
        start = self._dice.randrange(len(self._text))
        whole = self._text[start:] + self._text[:start]
        return (whole * (chars // len(whole) + 1))[:chars] if chars > len(whole) else whole[:chars]


def _body(kind: Kind, model: str, prompt: str, most: int) -> dict[str, Any]:
    said = [{"role": "user", "content": prompt}]
    match kind.endpoint:
        case "embeddings":
            return {"model": model, "input": prompt}
        case "responses":
            asked: dict[str, Any] = {"input": prompt, "max_output_tokens": most}
        case "messages":
            asked = {"messages": said, "max_tokens": most}
        case "completions":
            asked = {"prompt": prompt, "max_tokens": most}
        case "chat":
            asked = {"messages": said, "max_completion_tokens": most}
    if kind.stream:
        asked["stream"] = True
        if kind.endpoint in ("chat", "completions"):
            asked["stream_options"] = {"include_usage": True}
    return {"model": model} | asked


def _text(dice: random.Random) -> str:
    words: list[str] = []
    chars = 0
    while chars < _TEXT_CHARS:
        sentence = dice.choices(_WORDS, k=dice.randrange(5, 18))
        words.append(" ".join(sentence).capitalize() + ".")
        chars += len(words[-1]) + 1
    return " ".join(words) + " "
