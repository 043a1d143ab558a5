"""What the doctor says would happen, happens: one thing broken at a time on the real Envoy."""

from __future__ import annotations

import contextlib
import copy
import http.client
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from sentinel_extproc.config.load import only
from sentinel_extproc.demo.envoy import RunningEnvoy, validate_config
from sentinel_extproc.demo.openai_standin import OpenAIStandIn
from sentinel_extproc.demo.process import StartError
from sentinel_extproc.demo.stack import Stack, provider_address, start_stack
from sentinel_extproc.demo.zion_faults import FaultKind
from sentinel_extproc.demo.zion_standin import ZionCall
from sentinel_extproc.envoyconf.doctor.admin import load_admin
from sentinel_extproc.envoyconf.doctor.attachment import Expectations, expected_by
from sentinel_extproc.envoyconf.doctor.diagnose import diagnose
from sentinel_extproc.envoyconf.doctor.meant import meant_by
from sentinel_extproc.envoyconf.doctor.snapshot import from_document
from sentinel_extproc.envoyconf.render import to_dict
from sentinel_extproc.envoyconf.static import static_bootstrap

Config = dict[str, Any]
StartEnvoy = Callable[..., RunningEnvoy]
ADA = {"authorization": "Bearer demo-ada"}
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = CHAT | {"stream": True}
LONG = {"x-standin-tokens": "30"}  # more than half a second with the delay below
HTTP = "type.googleapis.com/envoy.extensions.filters.http"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="sx-doctor-") as folder,
        start_stack(
            work_dir=Path(folder),
            settings={"SENTINEL_LIMITS__REQUESTS": "100000"},
            chunk_delay_s=0.02,
        ) as running,
    ):
        yield running


@dataclass
class Patient:
    """An Envoy with something broken, in front of the stack's sidecar and provider."""

    envoy: RunningEnvoy
    provider: OpenAIStandIn
    expected: Expectations = field(default_factory=Expectations)

    def chat(self, body: object = CHAT, headers: dict[str, str] | None = None) -> httpx.Response:
        headers = ADA if headers is None else headers
        url = f"{self.envoy.url}/v1/chat/completions"
        return httpx.post(url, json=body, headers=headers, trust_env=False, timeout=30)

    def seen(self, call: Callable[[], object]) -> int:
        """How many requests reach the provider because of ``call``."""
        before = len(self.provider.requests())
        call()
        return len(self.provider.requests()) - before

    def findings(self) -> set[str]:
        """What the doctor says about it, running."""
        snapshot = load_admin(f"unix:{self.envoy.admin_socket}")
        return {f.rule.id for f in diagnose(snapshot, self.expected)}

    @contextlib.contextmanager
    def sending(self, size: int) -> Iterator[http.client.HTTPConnection]:
        """A chat request of which only the headers are out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.envoy.port, timeout=30)
        connection.putrequest("POST", "/v1/chat/completions")
        for name, value in ADA.items():
            connection.putheader(name, value)
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(size))
        connection.endheaders()
        try:
            yield connection
        finally:
            connection.close()

    def is_cut(self) -> bool:
        """Whether a stream of more than half a second breaks off."""
        try:
            return "[DONE]" not in self.chat(STREAM, ADA | LONG).text
        except httpx.RemoteProtocolError:
            return True


def good(stack: Stack, **options: Any) -> Config:
    host, port, tls = provider_address(stack.services.openai_url)
    defaults: dict[str, Any] = {
        "processors": [stack.sidecar.address],
        "provider_host": host,
        "provider_port": port,
        "provider_tls": tls,
        "listener_address": "127.0.0.1",
        "listener_port": 0,
    }
    return to_dict(static_bootstrap(**defaults | options))


def manager(c: Config) -> Config:
    found: Config = c["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0][
        "typed_config"
    ]
    return found


def ours(c: Config) -> Config:
    found: Config = manager(c)["http_filters"][0]["typed_config"]
    return found


def route(c: Config) -> Config:
    found: Config = manager(c)["route_config"]["virtual_hosts"][0]["routes"][0]
    return found


def cluster(c: Config, number: int) -> Config:
    found: Config = c["static_resources"]["clusters"][number]
    return found


def limit_streams(c: Config, number: int) -> None:
    (options,) = cluster(c, number)["typed_extension_protocol_options"].values()
    options["common_http_protocol_options"] = {"max_stream_duration": "0.2s"}


def open_health(c: Config) -> None:
    """A route beside what is metered, as `unmetered` renders it, but by prefix."""
    hosts = manager(c)["route_config"]["virtual_hosts"]
    off = {"@type": f"{HTTP}.ext_proc.v3.ExtProcPerRoute", "disabled": True}
    hosts[0]["routes"].insert(
        0,
        {
            "match": {"prefix": "/health"},
            "route": copy.deepcopy(hosts[0]["routes"][0]["route"]),
            "request_headers_to_remove": ["authorization", "api-key", "x-api-key"],
            "typed_per_filter_config": {"envoy.filters.http.ext_proc": off},
        },
    )


def eventually(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


Diagnosed = Callable[..., Patient]


def fitting(stack: Stack) -> Expectations:
    """What the sidecar's settings expect of its Envoy."""
    values = {
        "server": {"listen": stack.sidecar.address},
        "provider": {"url": stack.services.openai_url, "api_key": stack.services.openai_key},
    }
    return expected_by(meant_by(only(values)), Expectations())


@pytest.fixture
def broken(stack: Stack, run_envoy: StartEnvoy) -> Diagnosed:
    """Breaks something, holds that the doctor finds just that, and runs it."""
    assert stack.openai is not None
    provider = stack.openai

    def start(rule: str, break_it: Callable[[Config], object], **options: Any) -> Patient:
        # Those that compare are told what the sidecar is set to; the others do without.
        expected = fitting(stack) if rule.startswith("settings-") else Expectations()
        config = good(stack, **options)
        assert diagnose(from_document(config), fitting(stack)) == []
        break_it(config)
        assert [f.rule.id for f in diagnose(from_document(config), expected)] == [rule]
        patient = Patient(run_envoy(config), provider, expected)
        assert rule in patient.findings()
        return patient

    return start


def test_the_running_stack_has_no_findings(stack: Stack) -> None:
    assert stack.openai is not None
    patient = Patient(stack.envoy, stack.openai)
    assert patient.seen(patient.chat) == 1
    assert not patient.is_cut()
    assert patient.findings() == set()
    assert Patient(stack.envoy, stack.openai, fitting(stack)).findings() == set()


def test_where_the_sidecar_does_not_listen_nobody_is_served(broken: Diagnosed) -> None:
    def elsewhere(c: Config) -> None:
        address = cluster(c, 0)["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        address["address"]["pipe"]["path"] = "/nobody-is-here.sock"

    patient = broken("settings-address", elsewhere)
    assert patient.chat().status_code == 503
    assert patient.seen(patient.chat) == 0


def test_tls_at_one_end_only_fails_every_request(broken: Diagnosed) -> None:
    context = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    socket = {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": context}}
    patient = broken("settings-tls", lambda c: cluster(c, 0).update(transport_socket=socket))
    assert patient.chat().status_code == 503
    assert patient.seen(patient.chat) == 0


def test_without_a_route_for_the_prefix_all_is_404(broken: Diagnosed) -> None:
    patient = broken("settings-prefix", lambda c: route(c).update(match={"prefix": "/llm/"}))
    assert patient.chat().status_code == 404
    url = f"{patient.envoy.url}/llm/chat/completions"
    answer = httpx.post(url, json=CHAT, headers=ADA, trust_env=False, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


def test_with_failure_mode_allow_everybody_passes_without_a_sidecar(broken: Diagnosed) -> None:
    def fail_open(c: Config) -> None:
        ours(c)["failure_mode_allow"] = True
        address = cluster(c, 0)["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        address["address"]["pipe"]["path"] = "/nobody-is-here.sock"

    patient = broken("failure-mode-allow", fail_open)
    assert patient.seen(lambda: patient.chat(headers={})) == 1
    assert {"seen-ungoverned", "seen-connect-failures"} <= patient.findings()


def test_in_observability_mode_requests_pass_that_should_be_refused(broken: Diagnosed) -> None:
    patient = broken("observability-mode", lambda c: ours(c).update(observability_mode=True))
    # A sidecar that enforces ends such an exchange with an error, which may come first.
    assert any(patient.seen(lambda: patient.chat(headers={})) for _ in range(30))


def test_without_immediate_responses_a_refusal_is_a_503(broken: Diagnosed) -> None:
    patient = broken(
        "immediate-response-off", lambda c: ours(c).update(disable_immediate_response=True)
    )
    assert patient.chat(headers={}).status_code == 503


def test_without_mode_override_requests_in_pieces_fail(broken: Diagnosed) -> None:
    patient = broken("mode-override-off", lambda c: ours(c).pop("allow_mode_override"))
    with patient.sending(2_000) as sending:
        sending.send(b'{"model": "gpt-4o-mini", ')
        assert sending.getresponse().status == 400


def test_without_request_headers_everything_fails(broken: Diagnosed) -> None:
    patient = broken(
        "request-headers-skipped",
        lambda c: ours(c)["processing_mode"].update(request_header_mode="SKIP"),
    )
    assert patient.chat().status_code == 503


def test_mutation_rules_can_send_the_users_token_to_the_provider(broken: Diagnosed) -> None:
    patient = broken(
        "mutation-rules",
        lambda c: ours(c).update(mutation_rules={"disallow_expression": {"regex": "auth.*"}}),
    )
    assert patient.seen(patient.chat) == 1
    assert dict(patient.provider.requests()[-1].headers)["authorization"] == ADA["authorization"]
    assert "seen-rejected-mutations" in patient.findings()


def test_forward_rules_can_hide_the_token(broken: Diagnosed) -> None:
    patterns = [{"exact": "authorization"}]
    patient = broken(
        "forward-rules",
        lambda c: ours(c).update(forward_rules={"disallowed_headers": {"patterns": patterns}}),
    )
    assert patient.chat().status_code == 401


def test_without_the_namespace_the_access_log_has_nothing(broken: Diagnosed) -> None:
    patient = broken("namespace-missing", lambda c: ours(c).pop("metadata_options"))
    assert patient.chat().status_code == 200
    assert not logged(patient)["sentinel"]


def logged(patient: Patient) -> Config:
    eventually(patient.envoy.access_log)
    return patient.envoy.access_log()[0]


def test_content_length_is_lost(broken: Diagnosed) -> None:
    patient = broken("content-length", lambda c: ours(c).pop("allow_content_length_header"))
    assert "content-length" not in patient.chat().headers


def test_a_cluster_that_does_not_exist_passes_validation(
    broken: Diagnosed, stack: Stack, work_dir: Path
) -> None:
    def rename(c: Config) -> None:
        ours(c)["grpc_service"]["envoy_grpc"]["cluster_name"] = "nobody"

    config = good(stack)
    rename(config)
    validate_config(config, work_dir=work_dir)
    assert broken("cluster-missing", rename).chat().status_code == 503


def test_a_cluster_without_http_2_serves_nobody(
    stack: Stack, run_envoy: StartEnvoy, work_dir: Path
) -> None:
    assert stack.openai is not None
    config = good(stack)
    del cluster(config, 0)["typed_extension_protocol_options"]
    assert [f.rule.id for f in diagnose(from_document(config), Expectations())] == ["cluster-http1"]
    with pytest.raises(StartError, match="must support HTTP/2"):
        validate_config(config, work_dir=work_dir)
    # Without health checks it starts, and fails later.
    del cluster(config, 0)["health_checks"]
    patient = Patient(run_envoy(config), stack.openai)
    assert patient.chat().status_code == 503


def test_a_full_circuit_breaker_refuses(broken: Diagnosed) -> None:
    def close(c: Config) -> None:
        cluster(c, 0)["circuit_breakers"]["thresholds"][0]["max_requests"] = 0

    patient = broken("cluster-breakers", close)
    assert patient.chat().status_code == 503
    assert "seen-overflow" in patient.findings()


@pytest.mark.parametrize(
    ("rule", "shorten"),
    [
        ("route-timeout", lambda c: route(c)["route"].update(timeout="0.2s")),
        (
            "max-stream-duration",
            lambda c: manager(c).update(
                common_http_protocol_options={"max_stream_duration": "0.2s"}
            ),
        ),
        ("cluster-max-duration", lambda c: limit_streams(c, 0)),
        ("provider-max-duration", lambda c: limit_streams(c, 1)),
    ],
)
def test_time_outs_cut_lively_streams(
    rule: str, shorten: Callable[[Config], object], broken: Diagnosed
) -> None:
    patient = broken(rule, shorten)
    assert patient.is_cut()
    assert "seen-cut" in patient.findings()


def test_idle_time_outs_cut_answers_that_begin_late(broken: Diagnosed) -> None:
    patient = broken("idle-timeout", lambda c: route(c)["route"].update(idle_timeout="0.2s"))
    assert patient.chat(headers=ADA | {"x-standin-fault": "hang"}).status_code == 504


def test_bodies_over_the_default_buffer_are_refused(broken: Diagnosed) -> None:
    patient = broken("body-limit", lambda c: route(c).pop("request_body_buffer_limit"))
    with patient.sending(4 << 20) as sending:
        # The rest only after the sidecar has asked for the whole body, or Envoy may wait for more
        # while it has stopped reading.
        replies = "ext_proc.sentinel.stream_msgs_received"
        eventually(lambda: any(patient.envoy.stats(replies).values()))
        with contextlib.suppress(OSError):  # it may be refused before all of it is out
            sending.send(b"x" * (4 << 20))
        assert sending.getresponse().status == 413
    assert "seen-too-large" in patient.findings()


def test_a_route_without_the_sidecar_lets_everybody_pass(broken: Diagnosed) -> None:
    off = {"@type": f"{HTTP}.ext_proc.v3.ExtProcPerRoute", "disabled": True}

    def open_up(c: Config) -> None:
        hosts = manager(c)["route_config"]["virtual_hosts"]
        back_door = {**route(c), "match": {"prefix": "/v1/chat/"}}
        back_door["typed_per_filter_config"] = {"envoy.filters.http.ext_proc": off}
        hosts[0]["routes"].insert(0, back_door)

    patient = broken("route-bypass", open_up)
    assert patient.seen(lambda: patient.chat(headers={})) == 1


def test_paths_that_are_not_normalised_choose_the_wrong_route(
    broken: Diagnosed, stack: Stack, run_envoy: StartEnvoy
) -> None:
    def open_up(c: Config) -> None:
        open_health(c)
        manager(c).pop("normalize_path")

    def sneak(envoy: RunningEnvoy) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", envoy.port, timeout=20)
        connection.request("POST", "/health/../v1/chat/completions", b"{}")
        connection.getresponse().read()
        connection.close()

    patient = broken("path-normalisation", open_up)
    assert patient.seen(lambda: sneak(patient.envoy)) == 1
    config = good(stack)
    open_health(config)
    patient.envoy.stop()
    mended = run_envoy(config)
    assert patient.seen(lambda: sneak(mended)) == 0


def test_retries_reach_the_provider_more_than_once(broken: Diagnosed) -> None:
    policy = {"retry_on": "5xx", "num_retries": 2}
    patient = broken("retries", lambda c: route(c)["route"].update(retry_policy=policy))
    fault = ADA | {"x-standin-fault": "error-500"}
    assert patient.seen(lambda: patient.chat(headers=fault)) == 3
    assert "seen-retries" in patient.findings()


def test_a_mirror_pays_twice(broken: Diagnosed) -> None:
    mirrors = [{"cluster": "provider"}]
    patient = broken("mirror", lambda c: route(c)["route"].update(request_mirror_policies=mirrors))
    before = len(patient.provider.requests())
    patient.chat()
    eventually(lambda: len(patient.provider.requests()) == before + 2)


def insert(c: Config, place: int, kind: str, type_name: str, **config: Any) -> None:
    typed = {"@type": f"{HTTP}.{kind}.v3.{type_name}", **config}
    manager(c)["http_filters"].insert(
        place, {"name": f"envoy.filters.http.{kind}", "typed_config": typed}
    )


def test_a_key_filter_behind_us_sees_the_providers_key(broken: Diagnosed) -> None:
    keys = {
        "credentials": [{"key": "demo-ada", "client": "ada"}],
        "key_sources": [{"header": "Authorization"}],
    }
    patient = broken("auth-after", lambda c: insert(c, 1, "api_key_auth", "ApiKeyAuth", **keys))
    assert patient.chat().status_code == 401


def test_a_compressor_behind_us_never_compresses(
    broken: Diagnosed, stack: Stack, run_envoy: StartEnvoy
) -> None:
    gzip = "type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip"
    library = {"compressor_library": {"name": "g", "typed_config": {"@type": gzip}}}
    patient = broken(
        "compressor-after", lambda c: insert(c, 1, "compressor", "Compressor", **library)
    )
    assert "content-encoding" not in patient.chat().headers
    patient.envoy.stop()
    config = good(stack)
    insert(config, 0, "compressor", "Compressor", **library)
    assert diagnose(from_document(config), Expectations()) == []
    mended = Patient(run_envoy(config), patient.provider)
    assert mended.chat().headers["content-encoding"] == "gzip"


def test_websockets_are_refused_where_they_are_not_allowed(broken: Diagnosed) -> None:
    patient = broken("websocket-off", lambda c: route(c)["route"].pop("upgrade_configs"))
    handshake = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    answer = httpx.get(
        f"{patient.envoy.url}/v1/realtime?model=gpt-realtime",
        headers=ADA | handshake,
        trust_env=False,
        timeout=20,
    )
    assert answer.status_code == 403
    assert "seen-websocket-refused" in patient.findings()


def test_the_default_message_timeout_is_too_short(stack: Stack, broken: Diagnosed) -> None:
    # The last one: the breaker in front of Zion stays open for some time.
    assert stack.zion is not None
    patient = broken("message-timeout", lambda c: ours(c).pop("message_timeout"))
    stack.zion.set_fault(ZionCall.ME, FaultKind.HANG)
    assert patient.chat(headers={"authorization": "Bearer unknown"}).status_code == 504
    assert patient.findings() == {"message-timeout", "seen-message-timeouts"}
