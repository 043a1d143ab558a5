"""``sentinel-extproc render``: settings and options to configuration.

Exit codes: 0 done; 2 faulty settings or options, nothing written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

EXIT_CONFIG = 2

TARGET_NAMES = ("envoy", "istio", "envoy-gateway", "helm-values", "compose")

_ALL = frozenset(TARGET_NAMES)
_ENVOY = frozenset({"envoy"})
_ISTIO = frozenset({"istio"})
_GATEWAYS = frozenset({"istio", "envoy-gateway"})
_TIMES = frozenset({"envoy", "istio", "envoy-gateway", "helm-values"})

_Command = TypeVar("_Command", bound=Callable[..., Any])

_TARGETS_OF: dict[str, frozenset[str]] = {
    "mode": frozenset({"envoy", "istio", "envoy-gateway"}),
    "listen": _ENVOY,
    "admin": _ENVOY,
    "unmetered": frozenset({"envoy", "helm-values"}),
    "workers": frozenset({"envoy", "istio"}),
    "envoy_version": frozenset({"envoy", "istio", "helm-values", "compose"}),
    "istio_version": _ISTIO,
    "message_timeout": _TIMES,
    "buffer_limit": _TIMES,
    "idle_timeout": _TIMES,
    "request_timeout": _TIMES,
    "max_concurrent": _TIMES,
    "provider_ca": frozenset({"envoy", "istio", "helm-values"}),
    "namespace": _GATEWAYS,
    "gateway": _GATEWAYS,
    "selector": _ISTIO,
    "port": _ISTIO,
    "unmetered_routes": _ISTIO,
    "mesh_tls": _ISTIO,
    "local_replies": _ISTIO,
    "routes": frozenset({"envoy-gateway"}),
    "service": _GATEWAYS,
    "sidecar_name": frozenset({"envoy", "istio", "envoy-gateway"}),
    "sidecar_ca": frozenset({"envoy", "istio", "envoy-gateway"}),
    "sidecar_cert": frozenset({"envoy", "istio", "envoy-gateway"}),
    "sidecar_key": frozenset({"envoy", "istio"}),
    "with_envoy": frozenset({"helm-values"}),
}
"""Which targets an option is for; the others refuse it, instead of passing over it."""


def _for(name: str) -> str:
    targets = _TARGETS_OF.get(name, _ALL)
    return "" if targets == _ALL else f" [{', '.join(t for t in TARGET_NAMES if t in targets)}]"


def _option(name: str, flag: str, help_text: str, **how: Any) -> Callable[[_Command], _Command]:
    return click.option(flag, name, help=help_text + _for(name), **how)


_OPTIONS = (
    click.option(
        "--target", type=click.Choice(TARGET_NAMES), required=True, help="What to render for."
    ),
    click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="YAML file with settings; SENTINEL_CONFIG may name it too. None is needed.",
    ),
    click.option(
        "--output", "-o", default="-", metavar="FILE", help="Where to; - is standard output."
    ),
    _option(
        "mode",
        "--mode",
        "enforce, or shadow: the sidecar only observes. Default: server.mode.",
        type=click.Choice(["enforce", "shadow"]),
    ),
    _option(
        "envoy_version", "--envoy-version", "Of the Envoy that reads it. Default: the newest known."
    ),
    _option("istio_version", "--istio-version", "Of the gateway's proxy, instead."),
    _option(
        "workers",
        "--worker",
        "unix:/path or host:port of a sidecar's worker, as Envoy sees it; again for more."
        " Default: server.listen, or --service.",
        multiple=True,
        metavar="ADDRESS",
    ),
    _option(
        "unmetered",
        "--unmetered",
        "A path of the provider that passes without the sidecar and without credentials.",
        multiple=True,
        metavar="PATH",
    ),
    _option("listen", "--listen", "The gateway's address.", default="0.0.0.0:8080"),
    _option("admin", "--admin", "Envoy's admin interface, unix:/path or host:port; without, none."),
    _option(
        "message_timeout",
        "--message-timeout",
        "Seconds for one answer of the sidecar.",
        type=float,
        default=2.0,
        show_default=True,
    ),
    _option(
        "buffer_limit",
        "--buffer-limit",
        "Bytes of the largest body that is counted.",
        type=int,
        default=16 * 2**20,
        show_default=True,
    ),
    _option(
        "idle_timeout",
        "--idle-timeout",
        "Seconds of the longest silence within an answer.",
        type=float,
        default=300.0,
        show_default=True,
    ),
    _option(
        "request_timeout",
        "--request-timeout",
        "Seconds for a whole request to arrive, its body included; 0 for no bound.",
        type=float,
        default=600.0,
        show_default=True,
    ),
    _option(
        "max_concurrent",
        "--max-concurrent",
        "Circuit breakers: requests at once.",
        type=int,
        default=100_000,
        show_default=True,
    ),
    _option(
        "provider_ca",
        "--provider-ca",
        "PEM bundle on the gateway for the provider's certificate.",
        default="/etc/ssl/certs/ca-certificates.crt",
        show_default=True,
        metavar="FILE",
    ),
    _option("sidecar_name", "--sidecar-name", "TLS to the sidecar: the name in its certificate."),
    _option(
        "sidecar_ca", "--sidecar-ca", "Its authority: a file, or for envoy-gateway a ConfigMap."
    ),
    _option("sidecar_cert", "--sidecar-cert", "Envoy's own certificate: a file, or a TLS Secret."),
    _option("sidecar_key", "--sidecar-key", "Its key.", metavar="FILE"),
    _option("namespace", "--namespace", "Of the gateway. Default: istio-ingress, or default."),
    _option("gateway", "--gateway", "Name of a Gateway of the Gateway API."),
    _option(
        "selector",
        "--selector",
        "A label of the gateway's pods. Default: istio=ingressgateway.",
        multiple=True,
        metavar="KEY=VALUE",
    ),
    _option("port", "--port", "Only the listener on this port.", type=int),
    _option(
        "unmetered_routes",
        "--unmetered-route",
        "Name of a VirtualService's route that passes without the sidecar, with its credentials: "
        "for other services than the provider.",
        multiple=True,
        metavar="NAME",
    ),
    _option(
        "mesh_tls",
        "--mesh-tls",
        "Reach --service by the mesh's own mutual TLS.",
        is_flag=True,
    ),
    _option(
        "local_replies",
        "--local-replies",
        "Rewrite Envoy's own errors, of all routes of the gateway, to OpenAI's shape.",
        is_flag=True,
    ),
    _option(
        "routes",
        "--route",
        "Name of an HTTPRoute that is governed; without, one to the provider is made.",
        multiple=True,
        metavar="NAME",
    ),
    _option(
        "service",
        "--service",
        "Of the sidecars, name.namespace:port. Default: sentinel-extproc.sentinel:50051.",
    ),
    _option("with_envoy", "--with-envoy", "Pods with an Envoy and a sidecar each.", is_flag=True),
)


def _with_options(command: _Command) -> _Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@_with_options
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, without the comments; several are a List."
)
@click.pass_context
def render(
    context: click.Context,
    /,
    target: str,
    config_file: Path | None,
    output: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Print what attaches the sidecar to a gateway: complete, and the same as its settings.

    Settings that aren't given have their defaults; no secret is needed, and none is printed.

    \b
    Examples:
      sentinel-extproc render --target envoy -o envoy.yaml
      sentinel-extproc render --target istio --service sentinel.llm:50051
      sentinel-extproc render --target envoy --json | jq .static_resources.clusters

    Exit codes: 0 printed, 2 wrong usage or faulty settings.
    """
    _refuse_foreign(context, target)
    try:
        from sentinel_extproc.envoyconf.options import options_from
        from sentinel_extproc.envoyconf.targets import TARGETS
    except ImportError as error:
        click.echo(
            f"Rendering needs more packages ({error.name} is missing): pip install"
            " '.[render]' in a checkout",
            err=True,
        )
        sys.exit(EXIT_CONFIG)
    from sentinel_extproc.config.load import ConfigError, load
    from sentinel_extproc.envoyconf.from_settings import in_mode

    try:
        settings = in_mode(load(config_file, to_serve=False), given.pop("mode"))
        text = TARGETS[target](settings, options_from(target, given))
        if as_json:
            text = _as_json(text)
    except (ConfigError, ValueError) as error:
        for line in str(error).splitlines():
            click.echo(line, err=True)
        sys.exit(EXIT_CONFIG)
    if output == "-":
        click.echo(text, nl=False)
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        click.echo(f"{output}: {error.strerror}", err=True)
        sys.exit(EXIT_CONFIG)


def _as_json(text: str) -> str:
    import json

    import yaml

    found = list(yaml.safe_load_all(text))
    # As kubectl takes several things at once.
    whole = found[0] if len(found) == 1 else {"apiVersion": "v1", "kind": "List", "items": found}
    return json.dumps(whole, indent=2) + "\n"


def _refuse_foreign(context: click.Context, target: str) -> None:
    """An option that is passed over would be believed in."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is click.core.ParameterSource.DEFAULT or source is None:
            continue
        if target not in _TARGETS_OF.get(name, _ALL):
            raise click.UsageError(f"{parameter.opts[0]} is not for --target {target}")
