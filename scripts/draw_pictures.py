"""Draw docs/pictures/. Run by `make docs`; a test keeps the files current."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.picture import WIDTH, Picture

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"


def bucket() -> Picture:
    """Level over time, reckoned: a burst of 60, 20 a step flow back."""
    p = Picture(
        "A bucket",
        "What is left of a bucket over time. It starts full, at burst. Each request takes its "
        "estimate at once, so the line falls; in between it rises evenly. The settlement of a "
        "long answer takes it below zero: that debt is refilled first. Until the level is "
        "back above what a request needs, it is refused with 429.",
        320,
    )
    left, zero, unit, step = 70, 215, 2.6, 62
    p.path((left, 30), (left, 290))
    p.arrow((left, zero), (WIDTH - 15, zero))
    p.text(WIDTH - 15, zero + 20, "time", "small muted", "end")
    for mark, words in ((60, "burst"), (0, "0")):
        p.text(left - 8, zero - mark * unit + 5, words, "small", "end")
    p.path((left, zero - 60 * unit), (WIDTH - 15, zero - 60 * unit), look="line dash")
    p.box(left, zero, WIDTH - 15 - left, 75, "red", 0)
    p.text(left - 8, zero + 42, "debt", "small", "end")
    # (steps that pass, what is taken then, what the taking is)
    events = [
        (0.5, 35, "a request"),
        (1, 30, "another"),
        (1.2, 58, "settled: it was longer"),
        (5.3, 0, ""),
    ]
    level, x = 60.0, float(left)
    points = [(x, zero - level * unit)]
    for passed, taken, what in events:
        full_at = (60 - level) / 20
        if full_at < passed:
            points.append((x + full_at * step, zero - 60 * unit))
        level = min(60.0, level + 20 * passed)
        x += passed * step
        points.append((x, zero - level * unit))
        level -= taken
        points.append((x, zero - level * unit))
        if what:
            p.text(x + 8, zero - level * unit + 20, what, "small")
    p.path(*points, look="curve")
    p.text(x - 175, zero - 62, "limit flows back", "small")
    p.text(x - 175, zero - 44, "in every per", "small")
    return p


def ring() -> Picture:
    p = Picture(
        "A ring",
        "Sixty slots side by side, each with a bar for what was taken in it. A frame, the "
        "window, spans the last sixty slots and the running one. The oldest slot drops out "
        "next, whole, and makes room; the sum of all bars in the frame never exceeds the "
        "limit.",
        270,
    )
    base, width, left = 190, 13, 40
    taken = [
        3,
        0,
        5,
        1,
        0,
        0,
        4,
        0,
        2,
        0,
        0,
        6,
        1,
        0,
        3,
        0,
        0,
        2,
        4,
        0,
        0,
        1,
        0,
        5,
        2,
        0,
        0,
        3,
        0,
        1,
    ]
    for place, amount in enumerate(taken):
        x = left + 26 + place * (width + 3)
        inside = place >= 3
        p.box(x, base - 4, width, 4, "box" if not inside else "blue", 0)
        if amount:
            p.box(x, base - 4 - amount * 14, width, amount * 14, "blue" if inside else "box", 1)
    frame = left + 26 + 3 * (width + 3) - 3
    p.path((frame, 60), (frame, 215), look="line dash")
    p.path((WIDTH - 50, 60), (WIDTH - 50, 215), look="line dash")
    p.arrow((290, 68), (frame + 2, 68))
    p.arrow((290, 68), (WIDTH - 52, 68))
    p.text(330, 52, "the window: the last 60 slots and the running one", "strong", "middle")
    p.path((left, base), (WIDTH - 20, base))
    p.text(left + 10, 238, "out: counts", "small muted")
    p.text(left + 10, 254, "no more", "small muted")
    p.text(frame + 6, 208, "drops out next, whole", "small")
    p.text(WIDTH - 45, 208, "now", "small strong")
    p.text(WIDTH - 52, 246, "the sum of all bars in the window never exceeds limit", "small", "end")
    return p


def calendar() -> Picture:
    p = Picture(
        "A calendar quota",
        "One bar for each UTC day. In today's bar: what was used, then what running requests "
        "hold, then what remains. A hold is a lease of sixty seconds that is renewed while "
        "its request runs; what a crash leaves is free again within a minute. At midnight the "
        "next bar starts at nothing.",
        230,
    )
    left, middle, right, top = 25, 425, 575, 70
    p.text((left + middle) / 2, 40, "today", "strong", "middle")
    p.text((middle + right) / 2, 40, "tomorrow", "strong", "middle")
    p.box(left, top, middle - left, 46, "box", 0)
    p.box(left, top, 190, 46, "blue", 0)
    p.box(left + 190, top, 90, 46, "amber", 0)
    p.box(middle, top, right - middle, 46, "box", 0)
    for x, words in (
        (left + 95, "used"),
        (left + 235, "held"),
        (left + 340, "remaining"),
        ((middle + right) / 2, "starts at 0"),
    ):
        p.text(x, top + 29, words, "", "middle")
    for x in (left, middle, right):
        p.path((x, 55), (x, 130), look="line dash")
    p.text(left, 148, "00:00 UTC", "small muted")
    p.text(middle, 148, "00:00 UTC", "small muted", "middle")
    p.path((left + 235, top + 46), (left + 235, 175))
    p.text(left + 75, 195, "leases of 60 s, renewed while their requests run;", "small")
    p.text(left + 75, 213, "what a crash leaves is free again within a minute", "small")
    return p


def concurrency() -> Picture:
    p = Picture(
        "A limit of three at once",
        "Time runs to the right, over three places. Requests A, B and C each take one. D comes "
        "while all three are taken and gets a 429. When B has ended, D tries again and is let "
        "in. C's sidecar crashes: its lease is renewed no more, and within sixty seconds its "
        "place is free again, for E.",
        275,
    )
    left, top, row, height = 75, 50, 52, 34
    for place in range(3):
        y = top + place * row
        p.text(left - 10, y + 22, f"place {place + 1}", "small", "end")
        p.box(left, y, WIDTH - 20 - left, height, "box", 0)

    def bar(place: int, begin: int, width: int, words: str, look: str = "blue") -> None:
        y = top + place * row
        p.box(left + begin, y, width, height, look, 0)
        p.text(left + begin + width / 2, y + 22, words, "", "middle")

    bar(0, 10, 430, "A")
    bar(1, 40, 130, "B")
    bar(1, 235, 205, "D")
    bar(2, 70, 130, "C")
    bar(2, 200, 150, "its lease", "amber")
    bar(2, 375, 65, "E")
    refused = left + 125
    p.path((refused, 30), (refused, top + 3 * row - 14), look="line dash")
    p.text(refused + 6, 40, "D comes: 429, with Retry-After", "small")
    crash = left + 200
    p.path((crash, top + 2 * row), (crash, top + 3 * row + 5))
    p.text(crash, top + 3 * row + 21, "C's sidecar crashes; within a minute", "small", "middle")
    p.text(crash, top + 3 * row + 38, "its place is free", "small", "middle")
    p.arrow((left, 250), (WIDTH - 15, 250))
    p.text(WIDTH - 15, 268, "time", "small muted", "end")
    return p


def reserve_and_settle() -> Picture:
    p = Picture(
        "Reserve and settle",
        "Time runs downwards, between the client's call, the sidecar and Redis. Before the "
        "request leaves, the sidecar reserves the estimate, prompt and largest output, of all "
        "limits in one call. While the answer streams, the hold grows if the count runs ahead "
        "of it. At the end it is settled to what was used, and the rest is handed back. A "
        "limit without room answers 429, and nothing was taken anywhere.",
        430,
    )
    call, side, redis = 90, 300, 510
    for x, words in ((call, "client, Envoy"), (side, "sidecar"), (redis, "Redis")):
        p.labelled(x - 68, 18, 136, 34, words)
        p.path((x, 52), (x, 412), look="line dash")

    def message(y: int, begin: int, end: int, words: str, look: str = "small") -> None:
        step = 5 if end > begin else -5
        p.arrow((begin + step, y), (end - step, y))
        p.text((begin + end) / 2, y - 7, words, look, "middle")

    message(85, call, side, "request")
    message(115, side, redis, "reserve: prompt + most")
    message(143, redis, side, "held, by every limit")
    message(171, side, call, "to the provider")
    p.labelled(
        call - 68,
        190,
        136,
        92,
        "the answer",
        "streams; it is",
        "counted as it",
        "comes",
        look="blue",
    )
    message(235, side, redis, "grow, when needed")
    message(263, redis, side, "held")
    message(315, side, redis, "settle: what was used")
    p.text(405, 334, "the rest is handed back", "small muted", "middle")
    p.box(22, 350, 556, 62, "red")
    p.text(40, 375, "No room in one of them: 429, and nothing is taken anywhere.", "small")
    p.text(
        40, 397, "A crash: leases run out. Gone in between: asked again by the same id.", "small"
    )
    return p


def ladder() -> Picture:
    p = Picture(
        "The degrade ladder",
        "Steps from top to bottom. Redis answers within 25 milliseconds: it decides. No "
        "answer: the command is repeated once under the same id, which can't charge twice. "
        "Still none: Redis is away, and each limit decides by its own on_outage: local admits "
        "a bounded share, deny answers 503, allow admits all. Redis is back: what was "
        "admitted meanwhile is charged as debt before it decides again.",
        440,
    )
    p.labelled(150, 20, 300, 52, "Redis decides", "within 25 ms", look="green")
    p.arrow((300, 72), (300, 102))
    p.text(310, 92, "no answer", "small muted")
    p.labelled(150, 104, 300, 52, "asked once more", "same id: it can't charge twice", look="amber")
    p.arrow((300, 156), (300, 186))
    p.text(310, 176, "none either: Redis is away", "small muted")
    for x, name, first, second, look in (
        (20, "local", "1/(2n) of the limit", "then 429", "amber"),
        (215, "deny", "503", "Retry-After", "red"),
        (410, "allow", "all, because you", "chose that", "red"),
    ):
        p.labelled(x, 206, 170, 74, name, first, second, look=look)
        p.arrow((300, 186), (x + 85, 204))
        p.path((x + 85, 280), (300, 310))
    p.arrow((300, 310), (300, 334))
    p.text(310, 328, "a probe is answered", "small muted")
    p.labelled(
        90,
        336,
        420,
        52,
        "debt first",
        "what was admitted meanwhile is charged to Redis",
        look="blue",
    )
    p.arrow((510, 362), (590, 362), (590, 46), (452, 46))
    p.text(
        300,
        418,
        "Each limit says on_outage for itself; n is the number of replicas.",
        "small muted",
        "middle",
    )
    return p


def trust() -> Picture:
    p = Picture(
        "Trust boundaries",
        "Clients, outside, reach only Envoy. Envoy and the sidecar with its outbox are inside "
        "one boundary: they have the provider's key. The sidecar speaks to Redis and Zion, "
        "which it trusts with limits and with identity. Envoy speaks to the provider, which "
        "gets the provider's key and the prompt, never the user's token. The operator reaches "
        "the admin port with the admin token.",
        400,
    )
    p.labelled(15, 150, 105, 60, "clients", "not trusted", look="red")
    p.box(160, 40, 265, 280, "green", 8)
    p.text(292, 62, "has the provider's key", "small strong", "middle")
    p.labelled(180, 150, 90, 60, "Envoy", "TLS")
    p.labelled(315, 150, 95, 60, "sidecar", "decides")
    p.labelled(315, 245, 95, 50, "outbox", "the bill")
    p.labelled(468, 60, 122, 56, "provider", "believed: usage")
    p.labelled(468, 150, 122, 60, "Redis", "limits, epochs")
    p.labelled(468, 240, 122, 60, "Zion", "who, how much")
    p.labelled(315, 335, 95, 50, "operator", "admin token", look="amber")
    p.arrow((120, 180), (178, 180))
    p.text(18, 135, "user's token", "small muted")
    p.arrow((270, 180), (313, 180))
    p.arrow((225, 150), (225, 88), (466, 88))
    p.text(235, 106, "key, never the token", "small muted")
    p.arrow((410, 180), (466, 180))
    p.arrow((410, 196), (445, 196), (445, 270), (466, 270))
    p.arrow((362, 210), (362, 243))
    p.arrow((362, 335), (362, 322))
    return p


def flow() -> Picture:
    p = Picture(
        "What happens to a request",
        "Clients send requests with a user's token to Envoy. Envoy asks the sidecar by ext_proc, "
        "one stream a request, and sends on to the provider what the sidecar let through, with the "
        "provider's key. The sidecar asks Zion who the caller is, takes from the limits in Redis, "
        "and writes a usage record to its outbox, from which Zion is billed.",
        330,
    )
    p.labelled(15, 40, 110, 60, "clients", "user's token")
    p.labelled(235, 40, 130, 60, "Envoy", "TLS, streaming", look="blue")
    p.labelled(475, 40, 110, 60, "provider", "your key")
    p.labelled(235, 160, 130, 60, "Sentinel", "decides, counts", look="green")
    p.labelled(15, 160, 110, 60, "Redis", "limits")
    p.labelled(475, 160, 110, 60, "Zion", "who; the bill")
    p.labelled(235, 255, 130, 56, "outbox", "survives crashes", look="amber")
    p.arrow((125, 62), (233, 62))
    p.arrow((235, 82), (127, 82))
    p.text(180, 54, "request", "small muted", "middle")
    p.text(180, 100, "answer", "small muted", "middle")
    p.arrow((365, 62), (473, 62))
    p.arrow((475, 82), (367, 82))
    p.arrow((290, 100), (290, 158))
    p.arrow((310, 160), (310, 102))
    p.text(320, 135, "ext_proc", "small muted")
    p.arrow((235, 190), (127, 190))
    p.text(180, 182, "reserve", "small muted", "middle")
    p.text(180, 208, "settle", "small muted", "middle")
    p.arrow((365, 182), (473, 182))
    p.text(420, 174, "who is it?", "small muted", "middle")
    p.arrow((300, 220), (300, 253))
    p.arrow((365, 283), (530, 283), (530, 222))
    p.text(448, 303, "what was used, once", "small muted", "middle")
    return p


PICTURES: dict[str, Callable[[], Picture]] = {
    "bucket.svg": bucket,
    "ring.svg": ring,
    "calendar.svg": calendar,
    "concurrency.svg": concurrency,
    "reserve-and-settle.svg": reserve_and_settle,
    "ladder.svg": ladder,
    "trust.svg": trust,
    "flow.svg": flow,
}


def drawn() -> dict[str, str]:
    """Each file's name and what belongs into it."""
    return {name: draw().svg() for name, draw in PICTURES.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in drawn().items():
        (FOLDER / name).write_text(text, "utf-8")
