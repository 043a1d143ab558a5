"""Writes docs/attach/doctor.md from the doctor's rules. Called by `make docs`."""

from __future__ import annotations

from pathlib import Path

from sentinel_extproc.envoyconf.doctor.diagnose import SECTIONS
from sentinel_extproc.envoyconf.doctor.rules import Rule

PAGE = Path(__file__).parents[1] / "docs" / "attach" / "doctor.md"

HEAD = """# The doctor

<!-- Written by `make docs` from sentinel_extproc/envoyconf/doctor; a test keeps it current. -->

`sentinel-extproc doctor` looks at an Envoy that the sidecar is attached to and says in plain words
what would break, and how to mend it. It changes nothing. With the sidecar's settings at hand it
also says where the two don't fit.

```sh
sentinel-extproc doctor --envoy-config envoy.yaml            # a bootstrap, or a saved /config_dump
sentinel-extproc doctor --envoy-config envoy.yaml --config sentinel.yaml    # and what doesn't fit
sentinel-extproc doctor --admin http://127.0.0.1:9901        # a running Envoy, its counters too
kubectl -n istio-system port-forward deploy/istio-ingressgateway 15000 &
sentinel-extproc doctor --admin http://127.0.0.1:15000       # Istio; Envoy Gateway: port 19000
```

| Option | |
|---|---|
| `--strict` | warnings fail too |
| `--ignore ID` | leave out a finding; `--ignore ID@PLACE` only where PLACE is part of its place |
| `--config FILE` | the sidecar's settings, to compare with; `SENTINEL_CONFIG` may name them too. \
Without a file, those of the environment, if there are any about the server, endpoints, providers, \
overload or the source of identity. It says what it compared with, or that it didn't |
| `--without-settings` | compare with none |
| `--json` | for machines: `settings` (whether compared, and from where), `summary` and \
`findings`, each with `id`, `severity`, `where`, `seen`, \
`title`, `effect`, `fix` |
| `--max-body BYTES` | largest request body that clients send; 4 MiB by default, never above \
`endpoints.max_body_bytes` |
| `--envoy-version X.Y` | of the Envoy that reads the file: fields that it \
doesn't have aren't asked for |
| `--processor CLUSTER` | which ext_proc cluster is the sidecar's, when that isn't clear from its \
name, its stat prefix or its namespace |
| `--provider CLUSTER` | a cluster that must not be reached without the sidecar, beside those that \
routes through it lead to, that have the same endpoints, or that are known paid APIs |

| Exit code | |
|---|---|
| 0 | no errors (with `--strict`, no warnings either) |
| 1 | there are |
| 2 | wrong usage, or the file or the settings can't be used |
| 3 | the running Envoy can't be reached |

What to know:

- A file says what its Envoy starts with. What a control plane sends is only in a running one; a \
finding says so where that leaves a gap.
- Envoy's own `--mode validate` is not enough: it accepts a cluster that doesn't exist, for one.
- Counters are since Envoy's start: a finding of that section may be old.
- Time-outs count as too short below 5 minutes for a whole answer or a silence, and below \
`server.decision_timeout_seconds` (1.8 s unless settings say otherwise) for one message.
- What `render` makes from settings fits them: tests hold it to no finding, for an Envoy, one in a
  pod and an Istio gateway. What Envoy Gateway makes of its resources isn't in the tests.
- Only addresses on Envoy's own machine are compared with `server.listen`: elsewhere there may be a
  Service, or other replicas, in between.
- A route that needs no sidecar is fine as long as it doesn't lead to a provider.
- `max_connection_duration` and the `timeout` of `grpc_service` are no findings: Envoy lets answers
  finish all the same, seen on 1.40.

**error**: requests fail, are cut, or pass ungoverned. **warning**: it works today, and won't under
load, with some clients, or when something else breaks. **note**: worth knowing.
"""


def page() -> str:
    """The whole page, Markdown."""
    parts = [HEAD]
    for title, rules in SECTIONS:
        parts.append(f"## {title}\n")
        parts += [_entry(rule) for rule in rules]
    return "\n".join(parts)


def _entry(rule: Rule) -> str:
    return (
        f"### `{rule.id}` ({rule.severity.value})\n\n"
        f"{rule.title}. {rule.effect}\n\n"
        f"```yaml\n{rule.fix}\n```\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
