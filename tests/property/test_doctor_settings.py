"""What is rendered for some settings fits them, as the doctor sees it, whatever they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel_extproc.config.load import only
from sentinel_extproc.config.sections.serving import Metering
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.envoyconf.attachment import SidecarTls
from sentinel_extproc.envoyconf.doctor.attachment import Expectations, expected_by
from sentinel_extproc.envoyconf.doctor.diagnose import diagnose
from sentinel_extproc.envoyconf.doctor.meant import meant_by
from sentinel_extproc.envoyconf.doctor.snapshot import from_document
from sentinel_extproc.envoyconf.from_settings import Choices
from sentinel_extproc.envoyconf.targets import (
    Options,
    render_envoy,
    render_helm_values,
    render_istio,
)
from tests.envoy.istio_patches import patched

MIB = 1 << 20
TLS = {"tls_cert_file": "/s.crt", "tls_key_file": "/s.key"}
PROVIDERS: tuple[dict[str, Any], ...] = (
    {"name": "openai", "url": "https://api.openai.com", "api_key": "k"},
    {
        "name": "azure",
        "kind": "azure",
        "url": "https://x.openai.azure.com",
        "path_prefix": "/azure/",
        "api_key": "k",
    },
    {"name": "own", "url": "http://10.1.2.3:8000", "hosts": ["own.example"], "api_key": "k"},
)


@st.composite
def governed(draw: st.DrawFn) -> tuple[Settings, Choices]:
    """Settings, and options that don't contradict them."""
    tls = draw(st.sampled_from(["none", "server", "mutual"]))
    local = ["unix:/run/sentinel/sentinel.sock", "unix:/s", "127.0.0.1:50051", "0.0.0.0:50051"]
    # Without TLS, a network in between is a finding of its own.
    listen = draw(st.sampled_from(local if tls == "none" else [*local, "10.0.0.5:50051"]))
    decision = draw(st.floats(0.5, 3.0))
    body = draw(st.integers(64 << 10, 32 * MIB))
    most = draw(st.none() | st.integers(1, 9_999))
    workers = draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["enforce", "native", "shadow"]))
    server: dict[str, Any] = {
        "listen": listen,
        "workers": workers,
        "decision_timeout_seconds": decision,
        "mode": "shadow" if kind == "shadow" else "enforce",
        "metering": "native" if kind == "native" else "stream",
    }
    if tls != "none":
        server |= TLS
    if tls == "mutual":
        server["client_ca_file"] = "/ca.pem"
    values: dict[str, Any] = {
        "server": server,
        "endpoints": {
            "prefix": draw(st.sampled_from(["/v1/", "/", "/llm/v1/"])),
            "max_body_bytes": body,
        },
        "overload": {"max_exchanges": most},
        "identity": {"source": draw(st.sampled_from(["zion", "envoy_jwt"]))},
        "zion": {"deadline_seconds": 0.4},
        "provider": {"url": draw(st.sampled_from(["https://api.openai.com", "http://10.0.0.9"]))},
        "providers": draw(st.lists(st.sampled_from(PROVIDERS), unique_by=lambda one: one["name"])),
    }
    names = {"sidecar_tls": SidecarTls("s.example", "/ca.pem", "/e.crt", "/e.key")}
    return only(values), Choices(
        message_timeout_s=decision + draw(st.floats(0.01, 5)),
        buffer_limit_bytes=draw(st.integers(body, 48 * MIB)),
        max_concurrent=draw(st.integers(workers * (most or 5_000), 200_000)),
        stream_idle_timeout_s=draw(st.floats(300, 3600)),
        request_timeout_s=draw(st.floats(60, 3600)),
        **(names if tls != "none" else {}),  # type: ignore[arg-type]
    )


def findings(config: dict[str, Any], meant: Settings) -> list[str]:
    expected = expected_by(meant_by(meant), Expectations())
    # That many at once, or in clear to a provider, is what was asked for, and told all the same.
    told = {"cluster-breakers", "provider-breakers", "provider-plaintext"}
    found = [one for one in diagnose(from_document(config), expected) if one.rule.id not in told]
    return [f"{one.rule.id} at {one.where}: {one.seen}" for one in found]


@settings(max_examples=150, deadline=None)
@given(governed())
def test_a_rendered_envoy_fits_the_settings_that_it_was_rendered_for(
    given_: tuple[Settings, Choices],
) -> None:
    sidecar, choices = given_
    config = yaml.safe_load(render_envoy(sidecar, Options(choices=choices)))
    assert findings(config, sidecar) == []


# The same gateway elsewhere: an Envoy in each pod, and one that Istio's control plane configures.


@settings(max_examples=25, deadline=None)
@given(governed())
def test_so_does_the_one_beside_it_in_a_pod(given_: tuple[Settings, Choices]) -> None:
    sidecar, choices = given_
    here = {
        "listen": "unix:/run/sentinel/sentinel.sock",
        "tls_cert_file": None,
        "client_ca_file": None,
        "metering": Metering.STREAM,
    }
    server = sidecar.server.model_copy(update=here)
    sidecar = sidecar.model_copy(update={"server": server, "providers": ()})
    options = Options(choices=replace(choices, sidecar_tls=None), with_envoy=True)
    values = yaml.safe_load(render_helm_values(sidecar, options))
    assert findings(yaml.safe_load(values["envoy"]["config"]), sidecar) == []


@settings(max_examples=25, deadline=None)
@given(governed())
def test_so_does_an_istio_gateway_with_it(given_: tuple[Settings, Choices]) -> None:
    sidecar, choices = given_
    # Behind a Service a pod is one endpoint, and the mesh's own filters have no place for Envoy's.
    server = sidecar.server.model_copy(update={"workers": 1, "metering": Metering.STREAM})
    sidecar = sidecar.model_copy(update={"server": server, "providers": ()})
    # Across the cluster, cleartext is a finding of its own.
    tls = choices.sidecar_tls or SidecarTls("s.example", "/ca.pem")
    options = Options(choices=replace(choices, sidecar_tls=tls))
    (patches,) = [
        one["spec"]["configPatches"]
        for one in yaml.safe_load_all(render_istio(sidecar, options))
        if one["kind"] == "EnvoyFilter"
    ]
    config = patched(mesh_gateway(sidecar), patches)
    # What istiod configures itself, and its operators.
    theirs = (
        "local-reply",
        "client-headers-trusted",
        "envoy-headers-sent",
        "connections-unbounded",
    )
    assert [one for one in findings(config, sidecar) if not one.startswith(theirs)] == []


def mesh_gateway(sidecar: Settings) -> dict[str, Any]:
    """A gateway as istiod makes one, with a route to the provider and nothing of ours yet."""
    whole = yaml.safe_load(
        render_envoy(only({"provider": {"url": sidecar.provider.url}}), Options())
    )
    (listener,) = whole["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    router = manager["http_filters"][-1]
    (host,) = manager["route_config"]["virtual_hosts"]
    for route in host["routes"]:
        route["name"] = "llm"
        del route["request_body_buffer_limit"]
    clusters = [one for one in whole["static_resources"]["clusters"] if one["name"] == "provider"]
    own = {
        "@type": manager["@type"],
        "stat_prefix": "outbound_0.0.0.0_443",
        "route_config": manager["route_config"],
        "http_filters": [router],
        "use_remote_address": True,
    }
    network = {"name": listener["filter_chains"][0]["filters"][0]["name"], "typed_config": own}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 443}}
    gateway = {"name": "0.0.0.0_443", "address": address, "filter_chains": [{"filters": [network]}]}
    return {
        "static_resources": {"listeners": [gateway], "clusters": clusters},
        "layered_runtime": {"layers": [{"name": "own", "static_layer": {}}]},
    }
