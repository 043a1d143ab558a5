"""Everything `make run` needs around the sidecar: real Envoy and Redis, stand-ins, a scenario.

Needs the ``demo`` extra; nothing needed to serve imports this. What tests and the command call
(everything here is synchronous, starts within a deadline or raises StartError with the tail of
the part's log, is a context manager, and dies with its parent)::

    from sentinel_extproc.demo.process import ManagedProcess, StartError
        ManagedProcess(argv, *, name, log_path, stdout_path=None, env=None, stop_timeout_s=10.0)
        .start() .pid .running .exit_code .log_tail(lines=20) .signal(n) .stop() .kill()

    from sentinel_extproc.demo.envoy import RunningEnvoy, start_envoy, validate_config
        start_envoy(bootstrap, *, work_dir, concurrency=1, ready_timeout_s=30.0) -> RunningEnvoy
            bootstrap: what static_bootstrap() made; its admin is put on a Unix socket in work_dir
        .url .port .admin(path, method="GET") -> str .access_log() -> list[dict] .process .stop()
        validate_config(path_or_bootstrap, *, work_dir) -> None     # raises StartError

    from sentinel_extproc.demo.redis import RunningRedis, start_redis
        start_redis(*, work_dir, tcp=False) -> RunningRedis     # .url .process .restart() .stop()

    from sentinel_extproc.demo.hosting import serve_app
        serve_app(asgi_app, *, name, host="127.0.0.1", port=0) -> HostedApp    # .url .port .stop()
        runs in a thread and event loop of its own

    from sentinel_extproc.demo.openai_standin import OpenAIStandIn
        standin = OpenAIStandIn(provider_key="sk-provider", chunk_delay_s=0.0, counter=None)
        standin.app, standin.requests(), standin.served()

    from sentinel_extproc.demo.zion_standin import ZionStandIn, ZionUser
        standin = ZionStandIn(api_key="zion-key", users=[ZionUser(...)], dialect="unified",
                              deduplicate=True)
        standin.app, .ledger(), .duplicates, .requests(), .set_fault("batch", "error_500", times=1)
        .clear_faults(), .put_user(user), .revoke(token)

    from sentinel_extproc.demo.sidecar import RunningSidecar, start_sidecar
        start_sidecar(*, work_dir, environment, ready_timeout_s=30.0, stop_timeout_s=30.0)
            runs `python -m sentinel_extproc serve`; waits for grpc.health.v1 to say SERVING
        .address .is_serving() .process .stop()

    from sentinel_extproc.demo.stack import Services, Stack, start_stack
        with start_stack(*, work_dir, settings={"SENTINEL_...": "..."}, ...) as stack:
            the whole of it, in order; torn down in reverse
            stack.url .envoy .sidecar .redis .openai .zion .services

    from sentinel_extproc.demo.main import run_demo
        run_demo(*, once: bool, port: int = 8080, traffic: bool = False) -> int    # the exit code

    from sentinel_extproc.demo.live_page import live_page
        live_page() -> LivePage             # .link .port .token .settings
    from sentinel_extproc.demo.traffic import SampleTraffic
        with SampleTraffic(url): ...        # sample calls, bounded, to the stand-ins
"""
