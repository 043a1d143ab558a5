"""Typed Envoy configuration that attaches the sidecar. Nothing needed to serve imports this.

Needs the ``render`` extra (``envoy-data-plane``). What others call::

    from sentinel_extproc.envoyconf.static import static_bootstrap
    from sentinel_extproc.envoyconf.render import to_dict, to_json, to_yaml

    bootstrap = static_bootstrap(
        processors=["unix:/run/sentinel/worker-0.sock"],  # one address per worker process
        provider_host="api.openai.com",
        provider_port=443,
        provider_tls=True,              # SNI and SAN check against provider_host
        provider_ca_file="/etc/ssl/certs/ca-certificates.crt",
        listener_address="0.0.0.0",
        listener_port=8080,             # 0: the kernel picks one
        admin=None,                     # or "unix:/path", or "127.0.0.1:9901"
        message_timeout_s=2.0,
        buffer_limit_bytes=16 * 2**20,  # largest request body that is read whole
        connection_buffer_bytes=2**20,  # held for a client that reads slowly
        max_concurrent=100_000,         # circuit breakers
        stream_idle_timeout_s=300.0,
        health_check_interval_s=5.0,    # grpc.health.v1 on each worker; 0 turns it off
        envoy_version=(1, 40),          # leaves out what an older Envoy refuses
    )
    to_yaml(bootstrap) -> str

``sentinel-extproc render`` goes from settings to a target: ``targets`` has one function for each,
``attachment`` what they have in common.

``sentinel_extproc.envoyconf.api`` re-exports the ``envoy-data-plane`` modules in use; import them
from there, because importing them directly raises warnings that the tests turn into errors.
Impossible values raise ValueError naming the parameter.
"""
