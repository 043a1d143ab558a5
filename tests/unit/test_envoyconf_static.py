"""The static bootstrap: what every trap in Envoy's defaults needs is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sentinel_extproc.envoyconf.attachment import SidecarTls
from sentinel_extproc.envoyconf.examples import examples
from sentinel_extproc.envoyconf.local_reply import GATEWAY_ERRORS, OWN_DETAILS
from sentinel_extproc.envoyconf.notes import ENVOY_NOTES
from sentinel_extproc.envoyconf.render import to_dict, to_json, to_yaml
from sentinel_extproc.envoyconf.static import static_bootstrap
from sentinel_extproc.errors import PayloadTooLarge, Unauthenticated, Unavailable
from sentinel_extproc.exchange.commands import Respond
from sentinel_extproc.transport.codec import encode
from sentinel_extproc.transport.pb import sentinel_ext_proc_pb2 as pb

EXAMPLES = Path(__file__).resolve().parents[2] / "envoy"


def built(**options: Any) -> dict[str, Any]:
    return to_dict(static_bootstrap(**({"processors": ["unix:/s0", "unix:/s1"]} | options)))


def clusters(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {cluster["name"]: cluster for cluster in config["static_resources"]["clusters"]}


def manager(config: dict[str, Any]) -> dict[str, Any]:
    (listener,) = config["static_resources"]["listeners"]
    (chain,) = listener["filter_chains"]
    found: dict[str, Any] = chain["filters"][0]["typed_config"]
    return found


def processor(config: dict[str, Any]) -> dict[str, Any]:
    first, last = manager(config)["http_filters"]
    assert last["name"] == "envoy.filters.http.router"
    found: dict[str, Any] = first["typed_config"]
    return found


def test_the_filter_has_the_shape_of_the_default_attachment() -> None:
    found = processor(built())
    assert found["processing_mode"] == {
        "request_header_mode": "SEND",
        "request_body_mode": "STREAMED",
        "response_header_mode": "SEND",
        "response_body_mode": "STREAMED",
        "request_trailer_mode": "SKIP",
        "response_trailer_mode": "SKIP",
    }
    assert found["allow_mode_override"] is True
    assert found["route_cache_action"] == "RETAIN"
    assert found["message_timeout"] == "2s"
    assert found["status_on_error"] == {"code": "ServiceUnavailable"}
    assert not found.get("failure_mode_allow", False)
    assert not found.get("observability_mode", False)
    assert found["metadata_options"] == {"receiving_namespaces": {"untyped": ["sentinel"]}}
    assert found["grpc_service"] == {"envoy_grpc": {"cluster_name": "sentinel"}}


def test_every_cluster_that_is_named_exists() -> None:
    config = built()
    (host,) = manager(config)["route_config"]["virtual_hosts"]
    used = {host["routes"][0]["route"]["cluster"]}
    used.add(processor(config)["grpc_service"]["envoy_grpc"]["cluster_name"])
    assert used == set(clusters(config))


def test_workers_are_endpoints_of_their_own_under_least_request() -> None:
    cluster = clusters(built())["sentinel"]
    (locality,) = cluster["load_assignment"]["endpoints"]
    paths = [e["endpoint"]["address"]["pipe"]["path"] for e in locality["lb_endpoints"]]
    assert paths == ["/s0", "/s1"]
    assert cluster["lb_policy"] == "LEAST_REQUEST"
    assert cluster["type"] == "STATIC"
    options = cluster["typed_extension_protocol_options"]
    (protocol,) = options.values()
    assert protocol["explicit_http_config"] == {"http2_protocol_options": {}}


def test_only_connections_that_fail_leave_a_worker_out() -> None:
    cluster = clusters(built(health_check_interval_s=0))["sentinel"]
    detection = cluster["outlier_detection"]
    enforced = {name: value for name, value in detection.items() if name.startswith("enforcing_")}
    assert enforced.pop("enforcing_consecutive_local_origin_failure") == 100
    assert len(enforced) == 6
    assert set(enforced.values()) == {0}
    assert detection["split_external_local_origin_errors"] is True
    # Two are never left out, and while one is in nothing is sent to the other.
    assert detection["max_ejection_percent"] < 100
    assert cluster["common_lb_config"]["healthy_panic_threshold"] == {"value": 1.0}


@pytest.mark.parametrize(("address", "expected"), [("10.0.0.1:1", False), ("sentinel:1", True)])
def test_the_only_worker_is_not_left_out_but_a_name_may_be_many(
    address: str, expected: bool
) -> None:
    cluster = clusters(built(processors=[address]))["sentinel"]
    assert ("outlier_detection" in cluster) is expected


@pytest.mark.parametrize(
    ("addresses", "kind"),
    [(["10.0.0.1:50051"], "STATIC"), (["sentinel:50051", "10.0.0.1:50051"], "STRICT_DNS")],
)
def test_names_of_workers_are_resolved(addresses: list[str], kind: str) -> None:
    assert clusters(built(processors=addresses))["sentinel"]["type"] == kind


def test_buffers_and_breakers_are_raised() -> None:
    config = built(buffer_limit_bytes=5_000_000, max_concurrent=7000)
    (host,) = manager(config)["route_config"]["virtual_hosts"]
    assert host["routes"][0]["request_body_buffer_limit"] == 5_000_000
    (listener,) = config["static_resources"]["listeners"]
    assert listener["per_connection_buffer_limit_bytes"] == 2**20
    for cluster in clusters(config).values():
        (threshold,) = cluster["circuit_breakers"]["thresholds"]
        assert threshold["max_requests"] == threshold["max_connections"] == 7000
        assert threshold["max_pending_requests"] == 7000
    (monitor,) = config["overload_manager"]["resource_monitors"]
    assert monitor["typed_config"]["max_active_downstream_connections"] == "7000"


def test_long_streams_are_not_cut_but_silent_ones_are() -> None:
    config = built(stream_idle_timeout_s=77)
    (host,) = manager(config)["route_config"]["virtual_hosts"]
    (route,) = host["routes"]
    assert route["route"]["timeout"] == "0s"
    assert route["route"]["idle_timeout"] == "77s"
    assert manager(config)["stream_idle_timeout"] == "77s"


def test_a_request_must_arrive_in_time_unless_told_otherwise() -> None:
    assert manager(built())["request_timeout"] == "600s"
    assert manager(built())["request_headers_timeout"] == "10s"
    assert manager(built(request_timeout_s=77))["request_timeout"] == "77s"
    assert "request_timeout" not in manager(built(request_timeout_s=0))


def test_a_named_provider_gets_sni_and_a_check_of_its_name() -> None:
    config = built(provider_host="api.example.com", provider_ca_file="/ca.pem")
    cluster = clusters(config)["provider"]
    assert cluster["type"] == "LOGICAL_DNS"
    context = cluster["transport_socket"]["typed_config"]
    assert context["sni"] == "api.example.com"
    validation = context["common_tls_context"]["validation_context"]
    assert validation["trusted_ca"] == {"filename": "/ca.pem"}
    assert validation["match_typed_subject_alt_names"] == [
        {"san_type": "DNS", "matcher": {"exact": "api.example.com"}}
    ]
    (host,) = manager(config)["route_config"]["virtual_hosts"]
    assert host["routes"][0]["route"]["host_rewrite_literal"] == "api.example.com"


def test_a_provider_by_address_is_checked_without_sni() -> None:
    cluster = clusters(built(provider_host="192.0.2.1"))["provider"]
    assert cluster["type"] == "STATIC"
    context = cluster["transport_socket"]["typed_config"]
    assert "sni" not in context
    (san,) = context["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
    assert san == {"san_type": "IP_ADDRESS", "matcher": {"exact": "192.0.2.1"}}


@pytest.mark.parametrize(
    ("host", "port", "tls", "authority"),
    [
        ("a.example", 443, True, "a.example"),
        ("a.example", 80, False, "a.example"),
        ("a.example", 8443, True, "a.example:8443"),
        ("::1", 443, False, "[::1]:443"),
    ],
)
def test_the_provider_is_addressed_as_it_expects(
    host: str, port: int, tls: bool, authority: str
) -> None:
    config = built(provider_host=host, provider_port=port, provider_tls=tls)
    (virtual_host,) = manager(config)["route_config"]["virtual_hosts"]
    assert virtual_host["routes"][0]["route"]["host_rewrite_literal"] == authority


def test_without_tls_the_provider_speaks_http_1() -> None:
    cluster = clusters(built(provider_host="127.0.0.1", provider_tls=False))["provider"]
    assert "transport_socket" not in cluster
    (protocol,) = cluster["typed_extension_protocol_options"].values()
    assert protocol["explicit_http_config"] == {"http_protocol_options": {}}


def test_graceful_close_is_switched_on() -> None:
    (layer,) = built()["layered_runtime"]["layers"]
    flag = "envoy.reloadable_features.ext_proc_graceful_grpc_close"
    assert layer["static_layer"] == {flag: True}


def test_the_access_log_carries_our_metadata() -> None:
    (log,) = manager(built())["access_log"]
    fields = log["typed_config"]["log_format"]["json_format"]
    assert fields["sentinel"] == "%DYNAMIC_METADATA(sentinel)%"


@pytest.mark.parametrize(
    ("version", "present"), [((1, 36), False), ((1, 37), False), ((1, 38), True)]
)
def test_older_envoys_get_no_field_that_they_refuse(
    version: tuple[int, int], present: bool
) -> None:
    found = processor(built(envoy_version=version))
    assert ("allow_content_length_header" in found) is present


def test_admin_and_health_checks_are_optional() -> None:
    assert "admin" not in built()
    assert built(admin="unix:/a.sock")["admin"] == {"address": {"pipe": {"path": "/a.sock"}}}
    assert "health_checks" not in clusters(built(health_check_interval_s=0))["sentinel"]
    (check,) = clusters(built(health_check_interval_s=3))["sentinel"]["health_checks"]
    assert check["interval"] == check["no_traffic_interval"] == "3s"


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("processors", []),
        ("processors", ["unix:/s", "unix:/s"]),
        ("processors", ["unix:/s", "name:1"]),
        ("processors", ["nonsense"]),
        ("provider_host", "https://api.openai.com"),
        ("provider_host", ""),
        ("provider_port", 0),
        ("provider_ca_file", "ca.pem"),
        ("listener_address", "a b"),
        ("listener_port", 65536),
        ("admin", "9901"),
        ("message_timeout_s", 0.0),
        ("message_timeout_s", float("nan")),
        ("buffer_limit_bytes", 100),
        ("connection_buffer_bytes", 2**31),
        ("max_concurrent", 0),
        ("stream_idle_timeout_s", float("inf")),
        ("request_timeout_s", -1.0),
        ("health_check_interval_s", -1),
        ("envoy_version", (1, 35)),
    ],
)
def test_impossible_values_are_refused_by_name(parameter: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{parameter}: "):
        built(**{parameter: value})


def test_json_and_yaml_say_the_same() -> None:
    bootstrap = static_bootstrap(processors=["unix:/s"])
    text = to_yaml(bootstrap, comment="one\n\ntwo")
    assert text.startswith("# one\n#\n# two\n")
    assert yaml.safe_load(text) == json.loads(to_json(bootstrap)) == to_dict(bootstrap)


def test_the_examples_in_the_checkout_are_what_is_rendered() -> None:
    files = [path for path in EXAMPLES.rglob("*") if path.suffix in (".yaml", ".yml")]
    # Those are written by hand: somebody's own configuration, with us in it.
    files = [path for path in files if path.parent != EXAMPLES / "examples"]
    kept = {str(path.relative_to(EXAMPLES)): path.read_text(encoding="utf-8") for path in files}
    assert kept == examples()


def test_envoys_own_answers_have_the_shape_of_ours() -> None:
    mappers = manager(built())["local_reply_config"]["mappers"]
    assert {error.status for error in GATEWAY_ERRORS} == {408, 413, 502, 503, 504}
    assert all(json.loads(error.body()).keys() == {"error"} for error in GATEWAY_ERRORS)
    ours = {
        error.status: (error.type, error.default_code) for error in (PayloadTooLarge, Unavailable)
    }
    for error, mapper in zip(GATEWAY_ERRORS, mappers, strict=True):
        body = mapper["body_format_override"]
        assert body["text_format_source"]["inline_string"] == error.body()
        assert body["content_type"] == "application/json"
        assert json.loads(error.body())["error"].keys() == {"message", "type", "param", "code"}
        assert ours.get(error.status, (error.type, error.code)) == (error.type, error.code)
        assert set(mapper) == {"filter", "body_format_override", "headers_to_add"}


def test_what_tells_our_own_answers_apart_is_what_we_send() -> None:
    for error in (Unauthenticated("no"), Unavailable("away", code="usage_unavailable")):
        sent = pb.ProcessingResponse.FromString(encode(Respond(error, error.body())))
        assert sent.immediate_response.details.startswith(OWN_DETAILS)


def test_unmetered_paths_skip_the_sidecar_and_carry_no_credential() -> None:
    (host,) = manager(built(unmetered=["/health", "/docs/v1.2"]))["route_config"]["virtual_hosts"]
    *unmetered, governed = host["routes"]
    assert [route["match"]["safe_regex"]["regex"] for route in unmetered] == [
        "/health(?:/[A-Za-z0-9._~/-]*)?",
        r"/docs/v1\.2(?:/[A-Za-z0-9._~/-]*)?",
    ]
    for route in unmetered:
        (override,) = route["typed_per_filter_config"].values()
        assert override["disabled"] is True
        assert {"authorization", "x-api-key", "api-key", "cookie", "x-forwarded-for"} <= set(
            route["request_headers_to_remove"]
        )
        assert "upgrade_configs" not in route["route"]
    assert governed["match"] == {"prefix": "/"}
    assert "typed_per_filter_config" not in governed


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/models", "/V1/models", "health", "/", "/a/", "/a//b", "/a/../v1", "/a%2Fb"]
)
def test_no_unmetered_path_leads_past_the_meter(path: str) -> None:
    with pytest.raises(ValueError, match=r"^unmetered: "):
        built(unmetered=[path])


def test_tls_to_the_sidecar_is_mutual_and_holds_its_name() -> None:
    tls = SidecarTls("sentinel.example", "/ca.pem", "/tls.crt", "/tls.key")
    socket = clusters(built(processors=["10.0.0.1:50051"], sidecar_tls=tls))["sentinel"]
    context = socket["transport_socket"]["typed_config"]
    assert context["sni"] == "sentinel.example"
    common = context["common_tls_context"]
    assert common["alpn_protocols"] == ["h2"]
    assert common["tls_certificates"] == [
        {
            "certificate_chain": {"filename": "/tls.crt"},
            "private_key": {"filename": "/tls.key"},
        }
    ]
    assert common["validation_context"] == {
        "trusted_ca": {"filename": "/ca.pem"},
        "match_typed_subject_alt_names": [
            {"san_type": "DNS", "matcher": {"exact": "sentinel.example"}}
        ],
    }


@pytest.mark.parametrize(
    "values",
    [("a b", "/ca"), ("a", "ca.pem"), ("a", "/ca", "/crt"), ("a", "/ca", None, "/key")],
)
def test_half_of_a_tls_configuration_is_refused(values: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"^sidecar_tls\."):
        SidecarTls(*values)


def test_notes_are_comments_and_change_nothing() -> None:
    bootstrap = static_bootstrap(processors=["unix:/s"])
    plain, noted = to_yaml(bootstrap), to_yaml(bootstrap, notes=ENVOY_NOTES)
    assert yaml.safe_load(noted) == yaml.safe_load(plain)
    kept = "".join(f"{line}\n" for line in noted.splitlines() if not line.lstrip().startswith("#"))
    assert kept == plain


def test_every_note_is_about_a_field_that_is_rendered() -> None:
    text = to_yaml(static_bootstrap(processors=["unix:/s"], unmetered=["/h"]), notes=ENVOY_NOTES)
    said = " ".join(line.lstrip(" #") for line in text.splitlines() if "# " in line)
    for name, note in ENVOY_NOTES.items():
        assert note in said, name
