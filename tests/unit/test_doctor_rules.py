"""Every finding: the rendered configuration with one thing broken gives exactly that one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from sentinel_extproc.envoyconf.attachment import SidecarTls
from sentinel_extproc.envoyconf.doctor.attachment import Expectations
from sentinel_extproc.envoyconf.doctor.diagnose import RULES, SECTIONS, diagnose
from sentinel_extproc.envoyconf.doctor.reading import normal
from sentinel_extproc.envoyconf.doctor.snapshot import Snapshot, from_document
from sentinel_extproc.envoyconf.examples import envoy_examples
from sentinel_extproc.envoyconf.render import to_dict
from sentinel_extproc.envoyconf.static import static_bootstrap
from sentinel_extproc.envoyconf.versions import OLDEST

Config = dict[str, Any]
Break = Callable[[Config], object]
HTTP = "type.googleapis.com/envoy.extensions.filters.http"


GOOD = to_dict(static_bootstrap(processors=["unix:/s0", "unix:/s1"], admin="127.0.0.1:9901"))


def good() -> Config:
    return copy.deepcopy(GOOD)


def found(config: Config, **expected: Any) -> list[str]:
    return [f.rule.id for f in diagnose(from_document(config), Expectations(**expected))]


def listener(c: Config) -> Config:
    return c["static_resources"]["listeners"][0]  # type: ignore[no-any-return]


def manager(c: Config) -> Config:
    return listener(c)["filter_chains"][0]["filters"][0]["typed_config"]  # type: ignore[no-any-return]


def filters(c: Config) -> list[Config]:
    return manager(c)["http_filters"]  # type: ignore[no-any-return]


def ours(c: Config) -> Config:
    return next(f for f in filters(c) if "ext_proc" in f["name"])["typed_config"]  # type: ignore[no-any-return]


def mode(c: Config) -> Config:
    return ours(c)["processing_mode"]  # type: ignore[no-any-return]


def host(c: Config) -> Config:
    return manager(c)["route_config"]["virtual_hosts"][0]  # type: ignore[no-any-return]


def route(c: Config) -> Config:
    return host(c)["routes"][0]  # type: ignore[no-any-return]


def action(c: Config) -> Config:
    return route(c)["route"]  # type: ignore[no-any-return]


def clusters(c: Config) -> list[Config]:
    return c["static_resources"]["clusters"]  # type: ignore[no-any-return]


def sidecar(c: Config) -> Config:
    return clusters(c)[0]


def provider(c: Config) -> Config:
    return clusters(c)[1]


def options(cluster: Config) -> Config:
    (found_options,) = cluster["typed_extension_protocol_options"].values()
    return found_options  # type: ignore[no-any-return]


def tls(c: Config) -> Config:
    return provider(c)["transport_socket"]["typed_config"]  # type: ignore[no-any-return]


def http_filter(kind: str, **config: Any) -> Config:
    names = {
        "rbac": "rbac.v3.RBAC",
        "jwt_authn": "jwt_authn.v3.JwtAuthentication",
        "ext_proc": "ext_proc.v3.ExternalProcessor",
    }
    type_name = names.get(kind, f"{kind}.v3.{kind.title().replace('_', '')}")
    return {
        "name": f"envoy.filters.http.{kind}",
        "typed_config": {"@type": f"{HTTP}.{type_name}", **config},
    }


def before(kind: str, **config: Any) -> Break:
    return lambda c: filters(c).insert(0, http_filter(kind, **config))


def after(kind: str, **config: Any) -> Break:
    return lambda c: filters(c).insert(1, http_filter(kind, **config))


def off(**extra: Any) -> Config:
    return {
        "envoy.filters.http.ext_proc": {
            "@type": f"{HTTP}.ext_proc.v3.ExtProcPerRoute",
            **(extra or {"disabled": True}),
        }
    }


def second_route(c: Config, **fields: Any) -> None:
    host(c)["routes"].insert(
        0, {"match": {"prefix": "/x"}, "route": {"cluster": "provider"}, **fields}
    )


def second_listener(c: Config) -> None:
    copied = yaml.safe_load(yaml.safe_dump(listener(c)))
    copied["name"] = "back-door"
    filters_ = copied["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    del filters_[0]
    c["static_resources"]["listeners"].append(copied)


def twin_cluster(c: Config) -> None:
    """Another cluster to the same host, for a listener without us."""
    clusters(c).append({**provider(c), "name": "twin"})
    second_listener(c)
    back_door = c["static_resources"]["listeners"][1]["filter_chains"][0]["filters"][0]
    hosts = back_door["typed_config"]["route_config"]["virtual_hosts"]
    hosts[0]["routes"][0]["route"]["cluster"] = "twin"


def tcp_proxy(c: Config) -> None:
    kind = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    proxy = {"name": "tcp", "typed_config": {"@type": kind, "cluster": "provider"}}
    c["static_resources"]["listeners"].append({"filter_chains": [{"filters": [proxy]}]})


def unclear(c: Config) -> None:
    for number in range(2):
        config = {**ours(c), "grpc_service": {"envoy_grpc": {"cluster_name": f"c{number}"}}}
        del config["metadata_options"], config["stat_prefix"]
        filters(c).insert(0, {"name": f"f{number}", "typed_config": config})
    del filters(c)[2]
    c.pop("layered_runtime")
    del clusters(c)[:]


def pop(section: Callable[[Config], Config], *names: str) -> Break:
    return lambda c: [section(c).pop(name) for name in names]


def put(section: Callable[[Config], Config], **values: Any) -> Break:
    return lambda c: section(c).update(values)


BROKEN: dict[str, list[Break]] = {
    "filter-missing": [lambda c: filters(c).pop(0)],
    "filter-unclear": [],
    "listener-bypass": [second_listener, twin_cluster],
    "route-bypass": [
        lambda c: second_route(c, typed_per_filter_config=off()),
        lambda c: second_route(
            c,
            typed_per_filter_config={
                "envoy.filters.http.ext_proc": {
                    "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
                    "disabled": True,
                }
            },
        ),
    ],
    "tcp-bypass": [tcp_proxy],
    "cluster-by-header": [
        lambda c: second_route(c, route={"cluster_header": "x-to"}, typed_per_filter_config=off())
    ],
    "message-timeout": [pop(ours, "message_timeout"), put(ours, message_timeout="0.5s")],
    "max-message-timeout": [put(ours, max_message_timeout="5s")],
    "failure-mode-allow": [
        put(ours, failure_mode_allow=True),
        put(route, typed_per_filter_config=off(overrides={"failure_mode_allow": True})),
        put(host, typed_per_filter_config=off(overrides={"failure_mode_allow": True})),
    ],
    "observability-mode": [put(ours, observability_mode=True)],
    "deferred-close": [put(ours, deferred_close_timeout="5s")],
    "immediate-response-off": [put(ours, disable_immediate_response=True)],
    "status-on-error": [pop(ours, "status_on_error")],
    "http-service": [put(ours, http_service={"http_service": {}})],
    "google-grpc": [],
    "request-headers-skipped": [put(mode, request_header_mode="SKIP")],
    "request-body-mode": [
        put(mode, request_body_mode="BUFFERED"),
        put(mode, request_body_mode="BUFFERED_PARTIAL"),
        put(
            route,
            typed_per_filter_config=off(
                overrides={
                    "processing_mode": {
                        "request_body_mode": "BUFFERED",
                        "response_body_mode": "STREAMED",
                    }
                }
            ),
        ),
    ],
    "response-mode": [
        pop(mode, "response_body_mode"),
        put(mode, response_header_mode="SKIP"),
        put(mode, response_body_mode="BUFFERED"),
    ],
    "full-duplex": [put(mode, request_body_mode="FULL_DUPLEX_STREAMED")],
    "mode-override-off": [pop(ours, "allow_mode_override")],
    "override-modes": [put(ours, allowed_override_modes=[{"request_body_mode": "NONE"}])],
    "early-body": [put(ours, send_body_without_waiting_for_header_response=True)],
    "trailers-sent": [put(mode, response_trailer_mode="SEND")],
    "namespace-missing": [
        pop(ours, "metadata_options"),
        put(
            route,
            typed_per_filter_config=off(
                overrides={"metadata_options": {"receiving_namespaces": {"untyped": ["x"]}}}
            ),
        ),
    ],
    "jwt-metadata": [
        before("jwt_authn", providers={"p": {}}, rules=[{"match": match, "requires": {"a": 1}}])
        for match in ({"prefix": "/"}, {"safe_regex": {"regex": "/v1/.*"}}, {"odd": 1})
    ],
    "mutation-rules": [
        put(ours, mutation_rules={"disallow_all": True}),
        put(ours, mutation_rules={"disallow_expression": {"regex": "auth.*"}}),
    ],
    "forward-rules": [
        put(ours, forward_rules={"allowed_headers": {"patterns": [{"exact": "x-a"}]}}),
        put(ours, forward_rules={"disallowed_headers": {"patterns": [{"prefix": "auth"}]}}),
    ],
    "content-length": [pop(ours, "allow_content_length_header")],
    "route-cache": [put(ours, route_cache_action="CLEAR")],
    "router-first": [lambda c: filters(c).reverse()],
    "auth-after": [after("jwt_authn"), after("ext_authz"), after("oauth2")],
    "cors-after": [after("cors")],
    "refused-after": [after("rbac"), after("local_ratelimit"), after("ratelimit"), after("fault")],
    "compressor-after": [after("compressor")],
    "decompressor-after": [after("decompressor")],
    "cache-before": [before("cache")],
    "credentials-before": [before("credential_injector")],
    "code-after": [
        after("lua"),
        after("wasm"),
        after("ext_proc", grpc_service={"envoy_grpc": {"cluster_name": "other"}}),
    ],
    "buffer-filter": [before("buffer"), after("buffer")],
    "path-normalisation": [pop(manager, "normalize_path"), pop(manager, "merge_slashes")],
    "escaped-slashes": [put(manager, path_with_escaped_slashes_action="UNESCAPE_AND_FORWARD")],
    "request-timeout": [put(manager, request_timeout="10s")],
    "slow-bodies": [pop(manager, "request_timeout"), put(manager, request_timeout="0s")],
    "client-headers-trusted": [pop(manager, "use_remote_address")],
    "envoy-headers-sent": [lambda c: filters(c)[1]["typed_config"].pop("suppress_envoy_headers")],
    "access-log": [
        pop(manager, "access_log"),
        lambda c: manager(c)["access_log"][0]["typed_config"].pop("log_format"),
    ],
    "local-reply": [pop(manager, "local_reply_config")],
    "upgrade-filters": [
        lambda c: manager(c).update(
            upgrade_configs=[{"upgrade_type": "websocket", "filters": [filters(c)[1]]}]
        )
    ],
    "route-timeout": [
        pop(action, "timeout"),
        put(action, timeout="15s"),
        put(action, retry_policy={"retry_on": "connect-failure", "per_try_timeout": "9s"}),
    ],
    "max-stream-duration": [
        put(action, max_stream_duration={"max_stream_duration": "60s"}),
        put(manager, common_http_protocol_options={"max_stream_duration": "60s"}),
    ],
    "idle-timeout": [
        put(action, idle_timeout="30s"),
        lambda c: (action(c).pop("idle_timeout"), manager(c).update(stream_idle_timeout="30s")),
    ],
    "body-limit": [
        pop(route, "request_body_buffer_limit"),
        lambda c: (
            route(c).pop("request_body_buffer_limit"),
            listener(c).update(per_connection_buffer_limit_bytes=32768),
        ),
        put(route, request_body_buffer_limit=32768),
    ],
    "body-limit-above-sidecar": [put(route, request_body_buffer_limit="268435456")],
    "retries": [
        put(action, retry_policy={"retry_on": "5xx"}),
        put(host, retry_policy={"retry_on": "connect-failure, retriable-status-codes"}),
    ],
    "hedging": [put(action, hedge_policy={"hedge_on_per_try_timeout": True})],
    "mirror": [put(action, request_mirror_policies=[{"cluster": "provider"}])],
    "internal-redirects": [put(action, internal_redirect_policy={})],
    "websocket-off": [
        pop(action, "upgrade_configs"),
        lambda c: action(c)["upgrade_configs"][0].update(enabled=False),
    ],
    "host-rewrite": [pop(action, "host_rewrite_literal")],
    "cluster-missing": [
        lambda c: ours(c)["grpc_service"]["envoy_grpc"].update(cluster_name="nobody"),
        lambda c: clusters(c).pop(0),
        lambda c: clusters(c).pop(1),
    ],
    "cluster-empty": [lambda c: sidecar(c).pop("load_assignment")],
    "cluster-http1": [
        lambda c: sidecar(c).pop("typed_extension_protocol_options"),
        lambda c: options(sidecar(c)).update(explicit_http_config={"http_protocol_options": {}}),
        lambda c: (
            options(sidecar(c)).pop("explicit_http_config"),
            options(sidecar(c)).update(
                use_downstream_protocol_config={"http2_protocol_options": {}}
            ),
        ),
    ],
    "cluster-breakers": [
        lambda c: sidecar(c).pop("circuit_breakers"),
        lambda c: sidecar(c)["circuit_breakers"]["thresholds"][0].update(max_requests=1024),
        lambda c: sidecar(c)["circuit_breakers"]["thresholds"][0].update(priority="HIGH"),
    ],
    "cluster-max-duration": [
        lambda c: options(sidecar(c)).update(
            common_http_protocol_options={"max_stream_duration": "30s"}
        )
    ],
    "cluster-health": [lambda c: sidecar(c).pop("health_checks")],
    "cluster-balancing": [lambda c: sidecar(c).pop("lb_policy")],
    "cluster-shared-address": [
        lambda c: sidecar(c)["load_assignment"]["endpoints"].append(
            sidecar(c)["load_assignment"]["endpoints"][0]
        )
    ],
    "cluster-plaintext": [
        lambda c: sidecar(c)["load_assignment"]["endpoints"][0]["lb_endpoints"].append(
            {"endpoint": {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 1}}}}
        )
    ],
    "provider-breakers": [
        lambda c: provider(c).pop("circuit_breakers"),
        lambda c: provider(c)["circuit_breakers"]["thresholds"][0].pop("max_pending_requests"),
    ],
    "provider-max-duration": [
        lambda c: options(provider(c)).update(
            common_http_protocol_options={"max_stream_duration": "30s"}
        )
    ],
    "provider-plaintext": [lambda c: provider(c).pop("transport_socket")],
    "provider-sni": [lambda c: tls(c).pop("sni")],
    "provider-ca": [
        lambda c: tls(c).pop("common_tls_context"),
        lambda c: tls(c)["common_tls_context"]["validation_context"].pop("trusted_ca"),
    ],
    "provider-san": [
        lambda c: tls(c)["common_tls_context"]["validation_context"].pop(
            "match_typed_subject_alt_names"
        )
    ],
    "graceful-close": [
        lambda c: c.pop("layered_runtime"),
        lambda c: c["layered_runtime"]["layers"].append(
            {
                "name": "later",
                "static_layer": {
                    "envoy": {"reloadable_features": {"ext_proc_graceful_grpc_close": False}}
                },
            }
        ),
    ],
    "connections-unbounded": [lambda c: c.pop("overload_manager")],
    "admin-exposed": [
        lambda c: c["admin"]["address"]["socket_address"].update(address="0.0.0.0")  # noqa: S104
    ],
    "listeners-unknown": [lambda c: c["static_resources"].pop("listeners")],
    "partly-unknown": [
        lambda c: c.update(dynamic_resources={"lds_config": {"ads": {}}}),
        lambda c: c.update(dynamic_resources={"cds_config": {"ads": {}}}),
        lambda c: (
            manager(c).pop("route_config"),
            manager(c).update(rds={"route_config_name": "r"}),
        ),
        lambda c: filters(c).insert(0, {"name": "x", "config_discovery": {"config_source": {}}}),
    ],
}
STATS: dict[str, list[str]] = {
    "seen-ungoverned": ["http.gateway.ext_proc.sentinel.failure_mode_allowed"],
    "seen-message-timeouts": ["http.gateway.ext_proc.sentinel.message_timeouts"],
    "seen-failed-streams": ["http.gateway.ext_proc.sentinel.streams_failed"],
    "seen-rejected-mutations": ["http.gateway.ext_proc.sentinel.rejected_header_mutations"],
    "seen-spurious-messages": ["http.gateway.ext_proc.sentinel.spurious_msgs_received"],
    "seen-not-grpc": ["http.gateway.ext_proc.sentinel.http_not_ok_resp_received"],
    "seen-overflow": [
        "cluster.sentinel.upstream_rq_pending_overflow",
        "cluster.provider.upstream_cx_overflow",
    ],
    "seen-connect-failures": [
        "cluster.sentinel.upstream_cx_connect_fail",
        "cluster.provider.upstream_cx_connect_timeout",
    ],
    "seen-resets": [
        "cluster.sentinel.upstream_rq_rx_reset",
        "cluster.provider.upstream_rq_rx_reset",
    ],
    "seen-too-large": ["http.gateway.downstream_rq_too_large"],
    "seen-cut": [
        "http.gateway.downstream_rq_idle_timeout",
        "cluster.provider.upstream_rq_timeout",
        "cluster.sentinel.upstream_rq_max_duration_reached",
    ],
    "seen-retries": ["cluster.provider.upstream_rq_retry"],
    "seen-websocket-refused": ["http.gateway.downstream_rq_ws_on_non_ws_route"],
    "seen-unhealthy": ["cluster.sentinel.membership_total"],
    "seen-partly-unhealthy": [],
    "seen-rejected-update": ["listener_manager.lds.update_rejected"],
}
SERVER = {"envoy-too-old", "envoy-not-live"}


def test_the_rendered_configuration_has_no_findings() -> None:
    assert found(good()) == []


@pytest.mark.parametrize("name", sorted(envoy_examples()))
def test_the_examples_have_no_findings(name: str) -> None:
    snapshot = from_document(yaml.safe_load(envoy_examples()[name]))
    # That one is rendered for the oldest Envoy.
    version = OLDEST if name == "envoy-shared.yaml" else None
    assert diagnose(dataclasses.replace(snapshot, version=version), Expectations()) == []


@pytest.mark.parametrize(
    ("rule", "break_it"),
    [
        pytest.param(rule, b, id=f"{rule}-{n}")
        for rule, ways in BROKEN.items()
        for n, b in enumerate(ways)
    ],
)
def test_one_thing_broken_is_one_finding(rule: str, break_it: Break) -> None:
    config = good()
    break_it(config)
    assert found(config) == [rule]


@pytest.mark.parametrize(
    ("rule", "counter"), [(rule, name) for rule, names in STATS.items() for name in names]
)
def test_a_counter_that_means_trouble_is_one_finding(rule: str, counter: str) -> None:
    config = normal(good())
    quiet = {
        counter: 0,
        "http.other.downstream_rq_too_large": 5,
        "cluster.other.upstream_rq_retry": 1,
    }
    assert diagnose(Snapshot(config, stats=quiet), Expectations()) == []
    (finding,) = diagnose(Snapshot(config, stats={counter: 3}), Expectations())
    assert finding.rule.id == rule
    assert "3" in finding.seen


def test_some_workers_that_are_not_healthy_are_told_from_all() -> None:
    stats = {"cluster.sentinel.membership_total": 3, "cluster.sentinel.membership_healthy": 2}
    (finding,) = diagnose(Snapshot(normal(good()), stats=stats), Expectations())
    assert (finding.rule.id, finding.seen) == ("seen-partly-unhealthy", "2 of 3 healthy")


def test_counters_go_by_the_name_that_envoy_says() -> None:
    config = normal(good())
    snapshot = Snapshot(
        config, stats={"cluster.ai_1.upstream_rq_retry": 1}, observed_as={"provider": "ai:1"}
    )
    assert [f.rule.id for f in diagnose(snapshot, Expectations())] == ["seen-retries"]


def test_the_servers_own_state_is_a_finding() -> None:
    config = normal(good())
    old = diagnose(Snapshot(config, version=(1, 35)), Expectations())
    assert [f.rule.id for f in old] == ["envoy-too-old"]
    draining = diagnose(Snapshot(config, version=(1, 40), state="DRAINING"), Expectations())
    assert [f.rule.id for f in draining] == ["envoy-not-live"]
    assert diagnose(Snapshot(config, version=(1, 36), state="LIVE"), Expectations()) == []


def test_fields_that_a_version_does_not_have_are_not_asked_for() -> None:
    config = good()
    ours(config).pop("allow_content_length_header")
    assert diagnose(Snapshot(normal(config), version=(1, 37)), Expectations()) == []


def test_two_strange_processors_are_not_guessed_between() -> None:
    config = good()
    unclear(config)
    assert found(config) == ["filter-unclear", "filter-unclear"]
    told = found(config, processor="c1")
    assert "filter-unclear" not in told
    assert "cluster-missing" in told


def test_googles_client_is_told_from_envoys() -> None:
    config = good()
    ours(config)["grpc_service"] = {"google_grpc": {"target_uri": "unix:/s0"}}
    assert found(config) == ["google-grpc"]


def test_every_rule_has_a_case_here() -> None:
    # Those of settings: tests/unit/test_doctor_settings.py.
    compared = {rule for rule in RULES if rule.startswith("settings-")}
    assert BROKEN.keys() | STATS.keys() | SERVER | compared == RULES.keys()
    assert sum(len(rules) for _, rules in SECTIONS) == len(RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_says_what_and_how(rule: Any) -> None:
    assert not rule.title.endswith(".")
    assert rule.effect.endswith(".")
    assert yaml.safe_load(rule.fix) is not None or rule.fix.startswith("#")


@pytest.mark.parametrize(
    ("match", "extra", "rules"),
    [
        ({"prefix": "/health"}, {}, []),
        ({"path": "/metrics"}, {}, []),
        ({"safe_regex": {"regex": "/health(?:/[A-Za-z0-9._~/-]*)?"}}, {}, []),
        ({"prefix": "/"}, {}, ["route-bypass"]),
        ({"prefix": "/v1"}, {}, ["route-bypass"]),
        ({"prefix": "/V1/models"}, {}, ["route-bypass"]),
        ({"path": "/v1/chat/completions"}, {}, ["route-bypass"]),
        ({"safe_regex": {"regex": "/.*"}}, {}, ["route-bypass"]),
        ({"safe_regex": {"regex": "(/(a+)+)+"}}, {}, ["route-bypass"]),
        ({"safe_regex": {"regex": "/" + ".*" * 400 + "x"}}, {}, ["route-bypass"]),
        ({"connect_matcher": {}}, {}, ["route-bypass"]),
        ({"prefix": "/health"}, {"request_headers_to_remove": ["cookie"]}, ["route-bypass"]),
        (
            {"prefix": "/health"},
            {"request_headers_to_add": [{"header": {"key": "Authorization", "value": "Bearer k"}}]},
            ["route-bypass"],
        ),
    ],
)
def test_a_route_beside_what_is_metered_may_pass_without_credentials(
    match: Config, extra: Config, rules: list[str]
) -> None:
    config = good()
    fields = {"request_headers_to_remove": ["authorization", "api-key", "x-api-key"], **extra}
    second_route(config, match=match, typed_per_filter_config=off(), **fields)
    assert found(config) == rules


@pytest.mark.parametrize(
    "rules",
    [
        [],
        [{"match": {"prefix": "/shop"}, "requires": {"provider_name": "p"}}],
        [{"match": {"prefix": "/v1/"}}, {"match": {"prefix": "/"}, "requires": {"a": 1}}],
    ],
)
def test_jwts_for_other_paths_are_none_of_our_business(rules: list[Config]) -> None:
    config = good()
    before("jwt_authn", providers={"p": {}}, rules=rules)(config)
    assert found(config) == []


def test_rendered_unmetered_paths_and_tls_to_the_sidecar_have_no_findings() -> None:
    config = static_bootstrap(
        processors=["10.0.0.1:50051", "10.0.0.2:50051"],
        unmetered=["/health", "/metrics"],
        sidecar_tls=SidecarTls("sentinel.ai", ca_file="/ca.pem", cert_file="/c", key_file="/k"),
    )
    assert found(to_dict(config)) == []


def test_a_known_provider_is_guarded_even_if_we_are_nowhere_near_it() -> None:
    config = good()
    second_listener(config)
    route(config)["route"]["cluster"] = "sandbox"
    clusters(config).append(
        {
            **provider(config),
            "name": "sandbox",
            "load_assignment": sidecar(config)["load_assignment"],
        }
    )
    assert "listener-bypass" in found(config)


def test_a_route_to_something_else_may_do_without_us() -> None:
    config = good()
    clusters(config).append({"name": "shop"})
    second_route(config, route={"cluster": "shop"}, typed_per_filter_config=off())
    assert found(config) == []
    assert found(config, providers=frozenset({"shop"})) == [
        "route-bypass",
        "provider-breakers",
    ]


def test_a_route_can_turn_us_on_again_below_a_host_that_turned_us_off() -> None:
    config = good()
    host(config)["typed_per_filter_config"] = off()
    assert found(config) == ["route-bypass"]
    route(config)["typed_per_filter_config"] = off(overrides={})
    assert found(config) == []


def test_camel_case_and_typed_structs_are_read_too() -> None:
    config = good()
    processor = filters(config)[0]
    type_url = processor["typed_config"].pop("@type")
    value = processor.pop("typed_config")
    value["messageTimeout"] = value.pop("message_timeout").replace("2s", "0.2s")
    processor["typedConfig"] = {
        "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
        "typeUrl": type_url,
        "value": value,
    }
    assert found(config) == ["message-timeout"]
