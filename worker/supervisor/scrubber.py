"""Makes text that others wrote safe to show, in logs and in errors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Self
from urllib.parse import unquote, urlsplit

from app.settings import Settings

SHORTEST_SECRET = 6  # characters; blotting out a shorter text would make lines unreadable
SECRET_NAMES = re.compile(
    r"TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE
)
BLOT = "[secret]"


class Scrubber:
    """Makes lines of text safe to show: without secrets, and without control characters."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {secret for secret in secrets if len(secret) >= SHORTEST_SECRET}
        # The longest first, so that nothing is left of a secret that contains another one.
        patterns = map(re.escape, sorted(known, key=len, reverse=True))
        self._secrets = re.compile("|".join(patterns)) if known else None

    @classmethod
    def of(cls, settings: Settings, environment: Mapping[str, str] = os.environ) -> Self:
        """Blots out the secrets of the settings, of URLs, and of variables that sound like one."""
        secrets = {text for name, text in environment.items() if SECRET_NAMES.search(name)}
        if settings.hf_token is not None:
            secrets.add(settings.hf_token.get_secret_value())
        redis = settings.redis_url.get_secret_value() if settings.redis_url else ""
        urls = [settings.database_url, settings.resolved_database_url, settings.artifacts_url]
        for url in [redis, *urls, *environment.values()]:
            secrets |= _passwords(url)
        return cls({*secrets, *settings.api_key_hashes})

    def clean(self, text: str) -> str:
        """The text as it may be shown."""
        if self._secrets is not None:
            text = self._secrets.sub(BLOT, text)
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


NO_SECRETS = Scrubber()
"""Escapes control characters only."""


def _passwords(text: str) -> set[str]:
    """The password in a URL, as it is written there and as it is sent."""
    if "@" not in text or "://" not in text:
        return set()
    try:
        password = urlsplit(text).password
    except ValueError:
        return set()
    return {password, unquote(password)} if password else set()
