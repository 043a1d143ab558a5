"""The store in Redis: one round trip per command, whatever the number of limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from ..limit import Kind
from ..model import Epoch
from . import Claim, StoreError, StoreUntriedError, Verdict, owner_tag, scripts
from .lane import Argument, Lane, packed
from .packing import pack_lines, verdict_of
from .slots import tag_of_every_slot, tag_of_slot
from .turns import Turns

Client = Redis | RedisCluster

_STATES = "2"
"""The layout of records and states, in their keys: replicas of different releases must not read
each other's."""

_SHARED = "1"
"""The layout of epochs and of the replicas' list. A revocation must hold through an upgrade."""

_EVERYBODY = "all"

_FAULTS = (TimeoutError, RedisError, RedisClusterException, OSError)
"""A cluster's own error is not a RedisError."""

_SETTLE_WAITS_S = 0.002
"""A settlement may wait that long, so that it travels with the next reserve: under load that spares
every second write to the socket. Not where somebody may be waiting for the place of what ended."""

_AT_ONCE = 1 << scripts.NUMBERS[Kind.CONCURRENCY]

_PATIENCE_S = 1.0
"""Off the path of requests: connecting to a distant Redis over TLS takes longer than a budget."""


class RedisStore:
    """Counts in Redis, standalone, behind Sentinel, or a Cluster.

    Keys, all of one user in one hash slot::

        <prefix>:2:{<owner>}:r:<id>        the record of one exchange
        <prefix>:2:{<owner>}:l:<line key>  the state of one limit
        <prefix>:1:{<owner>}:e:<name>      a revocation epoch

    Args:
        client: from ``connect.build_client``: without retries of its own.
        prefix: keeps several installations apart in one Redis.
        timeout_s: budget of one command from when it is its turn, connecting included.
        concurrency: commands under way at once. More would not be faster: beyond a few, the time
            goes into this process, and it must not be taken for Redis' own slowness.
        queue_timeout_s: how long a command may wait for its turn.
        record_ttl_s: how long an unsettled hold can be replayed; extending starts it again.
        settled_ttl_s: how long a repeated settlement is recognised.
        clock: the time in ms; for tests only, Redis' own TIME when None.
    """

    def __init__(
        self,
        client: Client,
        *,
        prefix: str = "sentinel",
        timeout_s: float = 0.025,
        concurrency: int = 64,
        queue_timeout_s: float = 0.25,
        record_ttl_s: float = 600.0,
        settled_ttl_s: float = 300.0,
        clock: Callable[[], int] | None = None,
    ) -> None:
        if "{" in prefix or "}" in prefix:
            raise ValueError("a key prefix must not contain braces: they choose the cluster slot")
        self.client = client
        self._states = f"{prefix}:{_STATES}"
        self._shared = f"{prefix}:{_SHARED}"
        self._timeout_s = timeout_s
        self._turns = Turns(concurrency, within_s=queue_timeout_s)
        self._record_ttl = str(round(record_ttl_s * 1000))
        self._settled_ttl = str(round(settled_ttl_s * 1000))
        self._clock = clock
        self._cluster = isinstance(client, RedisCluster)
        # A cluster's commands go to many nodes, and redis-py knows which.
        self._lane = (
            None
            if isinstance(client, RedisCluster)
            else Lane(client.connection_pool, within_s=timeout_s)
        )
        self._reserve = scripts.ByKinds("reserve")
        self._extend = scripts.ByKinds("extend")
        self._settle = scripts.ByKinds("settle")
        self._bump = scripts.load("bump")
        self._beat = scripts.load("beat")

    async def start(self) -> None:
        """Nothing runs in the background; connections are made when needed."""

    async def reserve(self, claim: Claim) -> Verdict:
        """See ``Store.reserve``."""
        return verdict_of(await self._run(*self.reserve_call(claim)))

    def reserve_call(self, claim: Claim) -> tuple[scripts.Script, list[str], list[Argument]]:
        """The reserve script, its keys and its arguments."""
        owner, epochs = claim.owner, claim.epochs
        head = f"{self._states}:{{{owner}}}"
        keys = [f"{head}:r:{claim.id}"]
        arguments: list[Argument] = [self._now(), self._record_ttl, len(epochs)]
        own = f"{self._shared}:{{{owner}}}:e:"
        for epoch in epochs:
            name = epoch.name
            keys.append(self._epoch_key(owner, name) if name == _EVERYBODY else own + name)
            arguments.append(epoch.seen)
        kinds = pack_lines(claim.lines, f"{head}:l:", keys, arguments)
        return self._reserve.of(kinds), keys, arguments

    async def extend(self, claim: Claim) -> Verdict:
        """See ``Store.extend``."""
        keys = [f"{self._states}:{{{claim.owner}}}:r:{claim.id}"]
        arguments: list[Argument] = [self._now(), self._record_ttl]
        kinds = pack_lines(claim.lines, f"{self._states}:{{{claim.owner}}}:l:", keys, arguments)
        return verdict_of(await self._run(self._extend.of(kinds), keys, arguments))

    async def settle(self, claim: Claim) -> None:
        """See ``Store.settle``."""
        script, keys, arguments, soon_s = self._settle_call(claim)
        await self._run(script, keys, arguments, soon_s)

    def settle_soon(self, claim: Claim, done: Callable[[Exception | None], None]) -> bool:
        """See ``SettlesSoon.settle_soon``."""
        if self._lane is None or not self._turns.take():
            return False
        try:
            script, keys, arguments, soon_s = self._settle_call(claim)
            command = packed(("EVALSHA", script.sha, len(keys), *keys, *arguments))
            reply = self._lane.send(command, soon_s)
        except BaseException as fault:
            self._turns.give_back()
            if isinstance(fault, RedisError):
                return False  # ``settle`` will say why
            raise
        reply.add_done_callback(partial(self._settled, done))
        return True

    def _settled(
        self, done: Callable[[Exception | None], None], reply: asyncio.Future[object]
    ) -> None:
        self._turns.give_back()
        fault = reply.exception()
        if fault is None:
            done(None)
        elif isinstance(fault, NoScriptError):
            done(StoreUntriedError("Redis does not know the script"))  # ``settle`` sends it
        elif isinstance(fault, _FAULTS):
            done(_as_ours(fault))
        else:
            raise fault

    def _settle_call(self, claim: Claim) -> tuple[scripts.Script, list[str], list[Argument], float]:
        """The same of the settle script, and how long it may wait for company."""
        head = f"{self._states}:{{{claim.owner}}}"
        keys = [f"{head}:r:{claim.id}"]
        arguments: list[Argument] = [self._now(), self._settled_ttl, claim.at_ms]
        kinds = pack_lines(claim.lines, f"{head}:l:", keys, arguments)
        return self._settle.of(kinds), keys, arguments, 0.0 if kinds & _AT_ONCE else _SETTLE_WAITS_S

    async def epochs(self, external_id: str, names: Sequence[str]) -> tuple[Epoch, ...]:
        """The revocation epochs as they stand, for a credential that is checked now.

        Raises:
            StoreError: they can't be read.
        """
        owner = owner_tag(external_id)
        keys = [self._epoch_key(owner, name) for name in names]
        values = cast("list[bytes | None]", await self._send(("MGET", *keys)))
        return tuple(
            Epoch(name, int(value or 0)) for name, value in zip(names, values, strict=True)
        )

    async def revoke(self, external_id: str, name: str) -> None:
        """Move one of a user's epochs (``user`` or ``token:<hash>``) forward.

        Raises:
            StoreError: it may not have happened; repeat it.
        """
        await self._run(self._bump, [self._epoch_key(owner_tag(external_id), name)], [self._now()])

    async def revoke_everybody(self) -> None:
        """Move the epoch ``all`` forward. In a cluster that is one key in every slot.

        Raises:
            StoreError: it may not have happened, or not everywhere; repeat it.
        """
        if not self._cluster:
            await self._run(self._bump, [self._epoch_key("", _EVERYBODY)], [self._now()])
            return
        tags = tag_of_every_slot()
        for start in range(0, len(tags), 64):
            keys = [self._everybody_key(tag) for tag in tags[start : start + 64]]
            await asyncio.gather(*(self._run(self._bump, [key], [self._now()]) for key in keys))

    async def beat(self, replica: str, ttl_s: float) -> int:
        """Say that ``replica`` is there; returns how many said so within ``ttl_s``.

        Raises:
            StoreError: unknown.
        """
        arguments = [self._now(), replica, str(round(ttl_s * 1000))]
        return int(str(await self._run(self._beat, [f"{self._shared}:replicas"], arguments)))

    async def complaints(self) -> tuple[str, ...]:
        """What is wrong with this Redis for keeping limits; empty when nothing is.

        Raises:
            StoreError: it could not be asked.
        """
        nodes = await self._info("memory", "maxmemory_policy")
        policies = {str(node.get("maxmemory_policy", "unknown")) for node in nodes}
        return tuple(
            f"maxmemory-policy is {policy}: Redis may forget limits silently; set noeviction"
            for policy in sorted(policies - {"noeviction"})
        )

    async def versions(self) -> tuple[str, ...]:
        """Of the server, or of a cluster's nodes where they differ; empty if it doesn't say."""
        try:
            nodes = await self._info("server", "redis_version")
        except StoreError:
            return ()
        found = {
            f"Valkey {node['valkey_version']}"
            if "valkey_version" in node
            else f"Redis {node['redis_version']}"
            for node in nodes
            if "redis_version" in node
        }
        return tuple(sorted(found))

    async def _info(self, section: str, field: str) -> list[Mapping[str, object]]:
        """What the server says of itself, or each node of a cluster; ``field`` is in it.

        Raises:
            StoreError: it could not be asked.
        """
        async with self._bounded(_PATIENCE_S):
            answer = cast("Mapping[str, object]", await self.client.info(section))
        nodes = [answer] if field in answer else answer.values()
        return [node for node in nodes if isinstance(node, Mapping)]

    async def ping(self) -> None:
        """See ``Store.ping``; connects if need be, which a request has no time for, least of all
        when a sentinel must be asked for the way. Of a cluster, any node may answer."""
        async with self._bounded(_PATIENCE_S):
            if self._lane is not None:
                # Where the commands will travel, so that their connection is there when they do.
                await self._lane.call("PING")
            elif isinstance(self.client, RedisCluster):
                await self.client.initialize()
                await self._ping_any(self.client)

    @staticmethod
    async def _ping_any(client: RedisCluster) -> None:
        error: Exception = StoreError("the cluster has no nodes")
        for node in client.get_primaries():
            try:
                await cast("Awaitable[object]", client.ping(target_nodes=node))
            except RedisError as fault:
                error = fault
            else:
                return
        raise error

    async def close(self) -> None:
        """Close the client and its connections, those to sentinels included."""
        if self._lane is not None:
            await self._lane.aclose()
        await self.client.aclose()
        pool = None if isinstance(self.client, RedisCluster) else self.client.connection_pool
        if isinstance(pool, SentinelConnectionPool):
            for sentinel in pool.sentinel_manager.sentinels:
                await sentinel.aclose()

    def _epoch_key(self, owner: str, name: str) -> str:
        if name != _EVERYBODY:
            return f"{self._shared}:{{{owner}}}:e:{name}"
        return self._everybody_key(tag_of_slot(owner)) if self._cluster else f"{self._shared}:e:all"

    def _everybody_key(self, tag: str) -> str:
        return f"{self._shared}:{{{tag}}}:e:all"

    def _now(self) -> str:
        return "" if self._clock is None else str(self._clock())

    async def _run(
        self,
        script: scripts.Script,
        keys: list[str],
        arguments: Sequence[Argument],
        soon_s: float = 0.0,
    ) -> object:
        rest = (len(keys), *keys, *arguments)
        lane = self._lane
        try:
            if lane is None or not self._turns.take():
                return await self._send(("EVALSHA", script.sha, *rest), soon_s)
            try:
                # Nearly every command: in this frame, what ``_send`` does.
                return await lane.send(packed(("EVALSHA", script.sha, *rest)), soon_s)
            finally:
                self._turns.give_back()
        except NoScriptError:
            # A fresh or flushed Redis: EVAL runs the script and keeps it.
            return await self._send(("EVAL", script.source, *rest), soon_s)
        except _FAULTS as fault:
            raise _as_ours(fault) from fault

    async def _send(self, command: tuple[Argument, ...], soon_s: float = 0.0) -> object:
        """A command of some exchange: in its turn, within the budget, its errors as ours."""
        try:
            await self._turns.wait()
        except TimeoutError as error:
            raise StoreUntriedError("too many commands wait for Redis") from error
        try:
            if self._lane is not None:
                return await self._lane.send(packed(command), soon_s)
            async with asyncio.timeout(self._timeout_s):
                return await cast("Awaitable[object]", self.client.execute_command(*command))
        except NoScriptError:
            raise
        except _FAULTS as fault:
            raise _as_ours(fault) from fault
        finally:
            self._turns.give_back()

    @asynccontextmanager
    async def _bounded(self, seconds: float) -> AsyncIterator[None]:
        """The same for what no exchange waits for."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except _FAULTS as fault:
            raise _as_ours(fault) from fault


def _as_ours(fault: Exception) -> StoreError:
    if isinstance(fault, TimeoutError):
        return StoreError("Redis did not answer in time")
    return StoreError(f"Redis: {type(fault).__name__}: {fault}")
