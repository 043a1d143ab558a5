"""A few shapes of SVG in one look: light and dark, readable on a phone, with words for the blind.

Coordinates are those of SVG: x to the right, y downwards, in units of which a text line has 20.
"""

from __future__ import annotations

from html import escape

_STYLE = """
text{font:15px system-ui,sans-serif;fill:#1f2328}
.small{font-size:13px}.muted{fill:#59636e}.strong{font-weight:600}
.card{fill:#fff;stroke:#d1d9e0}.box{fill:#f6f8fa;stroke:#818b98}
.line{fill:none;stroke:#818b98;stroke-width:1.5}.dash{stroke-dasharray:4 4}
.blue{fill:#ddf4ff;stroke:#0969da}.green{fill:#dafbe1;stroke:#1a7f37}
.red{fill:#ffebe9;stroke:#cf222e}.amber{fill:#fff8c5;stroke:#9a6700}
.curve{fill:none;stroke:#0969da;stroke-width:2.5;stroke-linejoin:round}
.head{fill:#818b98}
@media (prefers-color-scheme:dark){
text{fill:#f0f6fc}.muted{fill:#9198a1}.card{fill:#151b23;stroke:#3d444d}
.box{fill:#212830;stroke:#9198a1}.line{stroke:#9198a1}.head{fill:#9198a1}
.blue{fill:#10305c;stroke:#4493f8}.green{fill:#12361d;stroke:#3fb950}
.red{fill:#4a1719;stroke:#f85149}.amber{fill:#3d2e06;stroke:#d29922}.curve{stroke:#4493f8}}
"""

WIDTH = 600


class Picture:
    """What is drawn so far.

    Args:
        title: what it is, in a few words.
        description: what one sees, for those who don't.
    """

    def __init__(self, title: str, description: str, height: int) -> None:
        self._title, self._description, self._height = title, description, height
        self._parts: list[str] = []

    def text(self, x: float, y: float, words: str, look: str = "", anchor: str = "start") -> None:
        place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
        self._parts.append(f'<text {place} class="{look}">{escape(words)}</text>')

    def box(
        self, x: float, y: float, width: float, height: float, look: str = "box", round_: int = 4
    ) -> None:
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{round_}" '
            f'class="{look}"/>'
        )

    def labelled(
        self, x: float, y: float, width: float, height: float, *lines: str, look: str = "box"
    ) -> None:
        """A box with lines of text in its middle, the first one strong."""
        self.box(x, y, width, height, look)
        top = y + height / 2 - 9 * (len(lines) - 1) + 5
        for number, words in enumerate(lines):
            kind = "strong" if number == 0 else "small muted"
            self.text(x + width / 2, top + 18 * number, words, kind, "middle")

    def path(self, *points: tuple[float, float], look: str = "line") -> None:
        d = "M" + " L".join(f"{x:g},{y:g}" for x, y in points)
        self._parts.append(f'<path d="{d}" class="{look}"/>')

    def arrow(self, *points: tuple[float, float], look: str = "line") -> None:
        """A path that ends in a head."""
        d = "M" + " L".join(f"{x:g},{y:g}" for x, y in points)
        self._parts.append(f'<path d="{d}" class="{look}" marker-end="url(#head)"/>')

    def svg(self) -> str:
        body = "\n".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}" '
            f'width="{WIDTH}" height="{self._height}" role="img" aria-labelledby="t d">\n'
            f'<title id="t">{escape(self._title)}</title>\n'
            f'<desc id="d">{escape(self._description)}</desc>\n<style>{_STYLE}</style>\n'
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" '
            'markerHeight="8" orient="auto-start-reverse"><path d="M0,0 L10,5 L0,10 z" '
            'class="head"/></marker></defs>\n'
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{self._height - 1}" rx="8" '
            f'class="card"/>\n{body}\n</svg>\n'
        )
