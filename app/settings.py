"""Every setting of the service, read from the environment in this one place."""

from __future__ import annotations

import os
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import Misconfigured
from surgery.io.sources import Sources


def _seconds(value: object) -> object:
    """The environment holds text: "0.5" is half a second."""
    if isinstance(value, str) and value.replace(".", "", 1).isdigit():
        return float(value)
    return value


Seconds = Annotated[timedelta, BeforeValidator(_seconds)]
KeyHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Settings(BaseSettings):
    """Variables named ``SURGEON_…``; hyper-parameters are not settings but part of a job's spec."""

    model_config = SettingsConfigDict(env_prefix="SURGEON_", frozen=True, populate_by_name=True)

    data_dir: Path = Field(
        Path("surgeon-data"), description="Embedded database, artifacts, caches."
    )
    database_url: str = Field("", description="Postgres DSN; empty: SQLite in the data directory.")
    redis_url: SecretStr | None = Field(
        None, description="Celery's broker; absent: workers poll the database."
    )
    artifacts_url: str = Field(
        "", description="fsspec URL of artifacts; empty: the data directory."
    )
    mirror_dir: str = Field(
        "", description="Mirror directories, searched in order, separated as in PATH."
    )
    offline: bool = Field(False, description="Never ask the Hugging Face Hub.")
    hf_token: SecretStr | None = Field(
        None, validation_alias="HF_TOKEN", description="For gated models; reaches the Hub only."
    )
    api_key_hashes: Annotated[list[KeyHash], NoDecode] = Field(
        [], description="SHA-256 of each accepted API key, comma-separated; see `surgeon key`."
    )
    upload_max_bytes: int = Field(2 << 30, ge=1, description="Largest upload.")
    lease: Seconds = timedelta(seconds=60)  # six missed heartbeats
    heartbeat: Seconds = timedelta(seconds=10)
    fence_margin: Seconds = timedelta(seconds=15)  # a worker stops itself so long before its lease
    sweep: Seconds = timedelta(seconds=15)
    poll: Seconds = timedelta(seconds=5)
    grace: Seconds = timedelta(seconds=20)  # for a child to stop by itself
    deadline: Seconds = timedelta(hours=24)  # for one attempt at a job
    load: Seconds = timedelta(minutes=15)  # for a job's process to load a model and open its data
    retry_backoff: Seconds = timedelta(seconds=2)  # doubled at each crash
    max_attempts: int = Field(3, ge=1)
    jobs_per_child: int = Field(50, ge=1, description="A worker process is replaced after so many.")
    gpus_per_worker: int = Field(
        1, ge=1, description="A machine's GPUs are shared out among workers, so many to each: the "
        "most processes of one of its jobs.",
    )  # fmt: skip
    job_memory_bytes: int | None = Field(
        None, ge=1 << 30, description="Memory that each process of a job may take for itself; "
        "absent: all that the machine or its container has.",
    )  # fmt: skip
    prefix_memory_bytes: int | None = Field(
        None, ge=0, description="A job's frozen prefix may take; absent: a quarter of what is free."
    )
    prefix_disk_bytes: int | None = Field(
        None, ge=0, description="All kept prefixes may take; absent: a quarter of the free disk."
    )
    artifact_cache_bytes: int | None = Field(
        None, ge=0, description="Artifacts fetched from an object store may take on this disk; "
        "absent: a quarter of what is free.",
    )  # fmt: skip
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"

    @model_validator(mode="before")
    @classmethod
    def _split_hashes(cls, values: dict[str, object]) -> dict[str, object]:
        hashes = values.get("api_key_hashes")
        if isinstance(hashes, str):
            values["api_key_hashes"] = [h.strip() for h in hashes.split(",") if h.strip()]
        return values

    @model_validator(mode="after")
    def _lease_outlives_heartbeat(self) -> Settings:
        if self.lease <= self.heartbeat + self.fence_margin:
            raise ValueError("lease must be longer than heartbeat and fence_margin together")
        return self

    @property
    def embedded(self) -> bool:
        """Whether the database is the service's own file."""
        return self.resolved_database_url.startswith("sqlite")

    @property
    def resolved_database_url(self) -> str:
        """The database as SQLAlchemy names it."""
        if not self.database_url:
            return f"sqlite:///{self.data_dir.resolve() / 'surgeon.db'}"
        for short in ("postgres://", "postgresql://"):
            if self.database_url.startswith(short):
                return "postgresql+psycopg://" + self.database_url.removeprefix(short)
        return self.database_url

    @property
    def resolved_artifacts_url(self) -> str:
        """Where artifacts live, as fsspec names it."""
        return self.artifacts_url or str(self.data_dir.resolve() / "artifacts")

    @property
    def sources(self) -> Sources:
        """Where models and datasets are looked for."""
        mirrors = tuple(Path(part) for part in self.mirror_dir.split(os.pathsep) if part)
        return Sources(
            mirrors=mirrors,
            cache=self.data_dir.resolve() / "cache",
            offline=self.offline,
            token=self.hf_token.get_secret_value() if self.hf_token else None,
        )


@lru_cache(maxsize=1)
def settings_from_environment() -> Settings:
    """The process's settings. Raises Misconfigured, which shows no value: some are secret."""
    try:
        return Settings()
    except ValidationError as error:
        raise Misconfigured("\n".join(map(_line, error.errors()))) from None


def _line(fault: Any) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else ""
    variable = f"SURGEON_{name.upper()}" if name in Settings.model_fields else name
    return f"{variable or 'the settings'}: {fault['msg'].removeprefix('Value error, ')}"
