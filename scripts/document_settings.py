"""Writes docs/configuration.md from the settings' own docstrings. Called by `make docs`."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import textwrap
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sentinel_extproc.config.load import PREDECESSOR
from sentinel_extproc.config.settings import Settings

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

HEAD = """# Configuration

<!-- Written by `make docs` from sentinel_extproc/config/settings.py; a test keeps it current. -->

Settings come from the environment, as `SENTINEL_<SECTION>__<NAME>` (two underscores between them),
and from a YAML file that `--config` or `SENTINEL_CONFIG` names, with a mapping per section:

```yaml
limits:
  requests: 100
  period_seconds: 60
```

Secrets can be files instead: in the folder that `SENTINEL_SECRETS_DIR` names, a file called
`<section>.<name>`, such as `provider.api_key`, holds the value of that setting. A Kubernetes Secret
with such keys, mounted as a volume, is such a folder. They are read at start.

The environment wins over the predecessor's names (column "also"), which win over secret files,
which win over the YAML file. `sentinel-extproc check-config` lists every fault at once, with exit
code 2, and otherwise prints the settings in force, secrets masked. A setting that doesn't exist is
a fault too, wherever it is.
"""


def page() -> str:
    """The whole page, Markdown."""
    parts = [HEAD]
    for section, field in Settings.model_fields.items():
        model: Any = field.annotation
        if get_origin(model) is tuple:  # a list of sections
            model = get_args(model)[0]
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        summary = " ".join((model.__doc__ or "").split())
        parts += [f"## {section}\n", f"{summary}\n"]
        parts += ["| Setting | Default | Allowed | Also | |", "|---|---|---|---|---|"]
        manuals = _manuals(model)
        parts += [
            _row(section, name, info, manuals.get(name, ""))
            for name, info in model.model_fields.items()
        ]
        parts.append("")
    return "\n".join(parts)


def _manuals(model: type[BaseModel]) -> dict[str, str]:
    """The docstring under each field. Read here: pydantic would do so at every start."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(model)))
    assert isinstance(tree.body[0], ast.ClassDef)
    found = {}
    for field, after in itertools.pairwise(tree.body[0].body):
        match field, after:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                found[name] = text
    return found


def _row(section: str, name: str, info: FieldInfo, manual: str) -> str:
    also = [f"`{old}`" for old, target in PREDECESSOR.items() if target == (section, name)]
    text = " ".join(manual.split()).replace("|", "\\|")
    text = re.sub(r"\s*Also (?:read from )?`[A-Z_]+`\.", "", text)
    return f"| `{name}` | {_default(info)} | {_allowed(info)} | {' '.join(also)} | {text} |"


def _default(info: FieldInfo) -> str:
    default = info.default
    if default is PydanticUndefined:
        return "needed" if info.default_factory is None else "empty"
    if isinstance(default, Enum):
        default = default.value
    if isinstance(default, BaseModel | SecretStr):
        return "set"
    if default is None or default == {} or default == ():
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`{json.dumps(default)}`"  # as the environment takes it; text enums too
    return f"`{default}`"


def _allowed(info: FieldInfo) -> str:
    annotation: Any = info.annotation
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    if (values := get_args(annotation)) and all(isinstance(value, str) for value in values):
        return ", ".join(f"`{value}`" for value in values)
    bounds = {
        sign: getattr(rule, key)
        for rule in info.metadata
        for key, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(rule, key, None) is not None
    }
    return " and ".join(f"{sign} {bound}" for sign, bound in bounds.items())


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
    print(f"wrote {PAGE.name}")
