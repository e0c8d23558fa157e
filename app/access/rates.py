"""Rate limits: a bucket of tokens for each API key, which refills within a minute.

The buckets are in Redis, where every API process counts together, or else in this process. A Redis
that does not answer in time must not hold requests up: for some seconds each process then counts
by itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from app.settings import Settings

log = logging.getLogger("surgeon.api")
PERIOD_SECONDS = 60.0
ANSWER_SECONDS = 0.1  # how long a request waits for Redis
PAUSE_SECONDS = 5.0  # how long a Redis that failed is left alone
MOST_BUCKETS = 10_000  # in this process, before full ones are forgotten

# The clock is Redis's own, so that processes with different clocks count alike.
TAKE = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local capacity = tonumber(ARGV[1])
local spent = math.max(0, now - (tonumber(bucket[2]) or now))
local tokens = math.min(capacity, (tonumber(bucket[1]) or capacity) + spent * capacity / ARGV[2])
local taken = tokens >= 1
if taken then tokens = tokens - 1 end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', tostring(now))
redis.call('EXPIRE', KEYS[1], ARGV[2])
return {taken and 1 or 0, tostring(tokens)}
"""


@dataclass(frozen=True)
class Rate:
    """Where a key stands after one of its requests."""

    limit: int  # requests a minute
    tokens: float  # requests that it may send at once
    allowed: bool

    @property
    def remaining(self) -> int:
        """How many requests it may send at once."""
        return int(self.tokens)

    @property
    def wait_seconds(self) -> int:
        """After how long it may send the next request."""
        return max(0, math.ceil((1 - self.tokens) * PERIOD_SECONDS / self.limit))

    @property
    def headers(self) -> Mapping[str, str]:
        """As draft-ietf-httpapi-ratelimit-headers-10 writes it."""
        full = math.ceil((self.limit - self.tokens) * PERIOD_SECONDS / self.limit)
        return {
            "RateLimit-Policy": f'"requests";q={self.limit};w={PERIOD_SECONDS:.0f}',
            "RateLimit": f'"requests";r={self.remaining};t={full}',
        }


class RateLimiter:
    """Counts the requests of each key."""

    def __init__(self, settings: Settings) -> None:
        self._local: dict[str, tuple[float, float]] = {}  # tokens, and when they were counted
        self._redis: Redis | None = None
        self._pause_until = 0.0
        self._failing = False
        if settings.redis_url is not None:
            self._redis = Redis.from_url(
                settings.redis_url.get_secret_value(),
                socket_timeout=ANSWER_SECONDS,
                socket_connect_timeout=ANSWER_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
            self._take = self._redis.register_script(TAKE)

    async def take(self, key: str, limit: int) -> Rate:
        """Count a request of a key that may send ``limit`` of them a minute."""
        if self._redis is None or time.monotonic() < self._pause_until:
            return self._take_here(key, limit)
        if self._failing:  # this request alone tries it again
            self._pause_until = time.monotonic() + PAUSE_SECONDS
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                taken, tokens = await self._take(
                    keys=[f"surgeon:rate:{key}"], args=[limit, int(PERIOD_SECONDS)]
                )
        except (RedisError, OSError, TimeoutError) as error:
            self._note_failure(error)
            return self._take_here(key, limit)
        if self._failing:
            log.info("Redis answers again: rates are counted there")
            self._failing, self._pause_until = False, 0.0
        return Rate(limit, float(tokens), bool(taken))

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._redis is not None:
            await self._redis.aclose()

    def _note_failure(self, error: Exception) -> None:
        if not self._failing:
            log.warning(
                "Redis does not answer: each process counts rates by itself: %s",
                error or type(error).__name__,
            )
        self._failing = True
        self._pause_until = time.monotonic() + PAUSE_SECONDS

    def _take_here(self, key: str, limit: int) -> Rate:
        now = time.monotonic()
        tokens, at = self._local.get(key, (float(limit), now))
        tokens = min(limit, tokens + (now - at) * limit / PERIOD_SECONDS)
        allowed = tokens >= 1
        if len(self._local) >= MOST_BUCKETS and key not in self._local:
            # Whoever sent nothing for a minute has a full bucket, as has one who is not here.
            self._local = {
                name: bucket
                for name, bucket in self._local.items()
                if now - bucket[1] < PERIOD_SECONDS
            }
        self._local[key] = (tokens - allowed, now)
        return Rate(limit, tokens - allowed, allowed)
