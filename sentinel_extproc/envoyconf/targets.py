"""One kind of gateway, one function: settings and options in, the text to apply out.

A new target is a function here and an entry in ``TARGETS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sentinel_extproc import __version__
from sentinel_extproc.config.sections.serving import Metering
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.envoyconf.attachment import Attachment
from sentinel_extproc.envoyconf.compose import COMPOSE_NOTES, compose_file
from sentinel_extproc.envoyconf.compose import SOCKET as SIDECAR_SOCKET
from sentinel_extproc.envoyconf.envoy_gateway import (
    ENVOY_GATEWAY_NOTES,
    EnvoyGateway,
    GatewayTls,
    envoy_gateway_resources,
)
from sentinel_extproc.envoyconf.from_settings import (
    Choices,
    attachment_of,
    check_sidecar_tls,
    known_addresses,
)
from sentinel_extproc.envoyconf.helm_values import HELM_NOTES, helm_values
from sentinel_extproc.envoyconf.istio import ISTIO_NOTES, IstioGateway, istio_resources
from sentinel_extproc.envoyconf.kubernetes import DEFAULT_SERVICE, Service
from sentinel_extproc.envoyconf.native import with_native_metering
from sentinel_extproc.envoyconf.notes import ENVOY_NOTES, SHADOW_NOTES
from sentinel_extproc.envoyconf.render import documents, to_dict, to_yaml
from sentinel_extproc.envoyconf.static import gateway_bootstrap
from sentinel_extproc.envoyconf.versions import shown


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for, beside the settings; each target takes what is for it.

    Attributes:
        listen: address of a static gateway, host and port.
        admin: of Envoy's admin interface; None: none.
        istio, envoy_gateway: which gateway.
        service: the sidecars' Service.
        gateway_tls: to the sidecars, by names of Kubernetes objects.
        with_envoy: Helm: pods with an Envoy each.
    """

    choices: Choices = field(default_factory=Choices)
    listen: tuple[str, int] = ("0.0.0.0", 8080)  # noqa: S104 - a gateway is there to be reached
    admin: str | None = None
    service: Service = DEFAULT_SERVICE
    istio: IstioGateway = field(default_factory=IstioGateway)
    envoy_gateway: EnvoyGateway = field(default_factory=EnvoyGateway)
    gateway_tls: GatewayTls | None = None
    with_envoy: bool = False


def render_envoy(settings: Settings, options: Options) -> str:
    """A whole static bootstrap."""
    tls = options.choices.sidecar_tls
    check_sidecar_tls(
        settings, given=tls is not None, client_certificate=tls is not None and bool(tls.cert_file)
    )
    attachment = attachment_of(settings, options.choices)
    host, port = options.listen
    made = gateway_bootstrap(
        attachment, listener_address=host, listener_port=port, admin=options.admin
    )
    version = shown(attachment.envoy_version)
    values = to_dict(made)
    if settings.server.metering is Metering.NATIVE:
        values = with_native_metering(
            values,
            envoy_version=attachment.envoy_version,
            path=f"{settings.endpoints.prefix}chat/completions",
        )
    return documents(
        [values],
        comment=_head("envoy", f"For Envoy {version}: envoy -c FILE. See docs/attach/envoy.md."),
        notes={**ENVOY_NOTES, **_shadow_notes(attachment)},
    )


def _shadow_notes(attachment: Attachment) -> dict[str, str]:
    return SHADOW_NOTES if attachment.shadow else {}


def _metered_by_us(settings: Settings, target: str) -> None:
    """Refuse native metering where its filter can't be put into the gateway.

    Raises:
        ValueError: naming the setting.
    """
    if settings.server.metering is Metering.NATIVE:
        raise ValueError(f"server.metering: native is rendered for envoy only, not for {target}")


def _one_worker(settings: Settings) -> None:
    """Behind a Service a pod is one endpoint, whatever is in it.

    Raises:
        ValueError: naming the setting.
    """
    if settings.server.workers != 1:
        raise ValueError(
            "server.workers: sidecars behind a Service have one worker each; add replicas instead"
        )


def render_istio(settings: Settings, options: Options) -> str:
    """An EnvoyFilter and what belongs to it."""
    _metered_by_us(settings, "istio")
    gateway, choices = options.istio, options.choices
    if gateway.mesh_service is None:
        tls = choices.sidecar_tls
        check_sidecar_tls(
            settings,
            given=tls is not None,
            client_certificate=tls is not None and bool(tls.cert_file),
        )
    service = options.service
    if not choices.workers:
        _one_worker(settings)
        choices = replace(choices, workers=(f"{service.host}:{service.port}",))
    attachment = attachment_of(settings, choices)
    version = shown(attachment.envoy_version)
    return documents(
        istio_resources(attachment, gateway),
        comment=_head(
            "istio",
            f"For gateways with Envoy {version}: kubectl apply -f FILE. See docs/attach/istio.md.",
        ),
        notes={**ENVOY_NOTES, **ISTIO_NOTES, **_shadow_notes(attachment)},
    )


def render_envoy_gateway(settings: Settings, options: Options) -> str:
    """An EnvoyExtensionPolicy and what belongs to it."""
    _metered_by_us(settings, "envoy-gateway")
    tls = options.gateway_tls
    check_sidecar_tls(
        settings, given=tls is not None, client_certificate=tls is not None and bool(tls.client)
    )
    gateway = replace(options.envoy_gateway, service=options.service, tls=tls)
    _one_worker(settings)
    # The address is the Service's; it only has to be one here.
    service = options.service
    choices = replace(options.choices, workers=(f"{service.host}:{service.port}",))
    attachment = attachment_of(settings, choices)
    fail_open = {"extProc.failOpen": "Whatever becomes of the sidecar, traffic flows."}
    return documents(
        envoy_gateway_resources(attachment, gateway),
        comment=_head("envoy-gateway", "kubectl apply -f FILE. See docs/attach/envoy-gateway.md."),
        notes=ENVOY_GATEWAY_NOTES | (fail_open if attachment.shadow else {}),
    )


def _one_provider(settings: Settings, target: str) -> None:
    """Refuse what would need a secret for each of several keys, which nobody here can name.

    Raises:
        ValueError: naming the setting.
    """
    if settings.providers:
        raise ValueError(
            f"providers: not rendered for {target}; put the list, with an api_key_file each, into"
            " its settings yourself"
        )


def render_helm_values(settings: Settings, options: Options) -> str:
    """Values for deploy/helm/sentinel-extproc."""
    _one_provider(settings, "helm-values")
    envoy = None
    if not options.with_envoy:
        _one_worker(settings)
    else:
        workers = known_addresses(settings, SIDECAR_SOCKET)
        choices = replace(options.choices, workers=workers)
        made = gateway_bootstrap(attachment_of(settings, choices), admin="127.0.0.1:9901")
        envoy = to_yaml(made)
    return documents(
        [helm_values(settings, envoy_config=envoy)],
        comment=_head(
            "helm-values",
            "helm install sentinel-extproc deploy/helm/sentinel-extproc -f FILE."
            " See docs/attach/kubernetes.md.",
        ),
        notes=HELM_NOTES,
    )


def render_compose(settings: Settings, options: Options) -> str:
    """A docker-compose.yml."""
    _one_provider(settings, "compose")
    return documents(
        [compose_file(settings, options.choices.envoy_version)],
        comment=_head(
            "compose",
            "OPENAI_API_KEY=… ZION_API_URL=… ZION_API_KEY=… docker compose up, with a folder envoy/"
            "\nbeside it that has the output of --target envoy as envoy.yaml.",
        ),
        notes=COMPOSE_NOTES,
    )


def _head(target: str, how: str) -> str:
    return f"Rendered by sentinel-extproc {__version__}: render --target {target}\n{how}"


TARGETS: dict[str, Callable[[Settings, Options], str]] = {
    "envoy": render_envoy,
    "istio": render_istio,
    "envoy-gateway": render_envoy_gateway,
    "helm-values": render_helm_values,
    "compose": render_compose,
}
