"""The settings of the service. This is the only module that reads them from the environment."""

from __future__ import annotations

import os
from datetime import timedelta
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
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
    """A number of seconds as the environment writes it, such as "0.5"; other values unchanged."""
    if isinstance(value, str) and value.replace(".", "", 1).isdigit():
        return float(value)
    return value


Seconds = Annotated[timedelta, BeforeValidator(_seconds)]
Network = IPv4Network | IPv6Network
KeyHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Not "*": every page would be let in, also where no key is needed.
Origin = Annotated[str, StringConstraints(pattern=r"^https?://[a-z0-9.:\[\]-]+$")]


class Settings(BaseSettings):
    """Settings from variables ``SURGEON_…``. Hyper-parameters belong to a job's spec instead."""

    model_config = SettingsConfigDict(env_prefix="SURGEON_", frozen=True, populate_by_name=True)

    data_dir: Path = Field(
        Path("surgeon-data"),
        description="Directory of the embedded database, of artifacts and of caches.",
    )
    database_url: str = Field(
        "", description="DSN of a Postgres database; empty: SQLite in the data directory."
    )
    redis_url: SecretStr | None = Field(
        None, description="URL of Celery's broker; unset: workers only poll the database."
    )
    artifacts_url: str = Field(
        "", description="fsspec URL of a store for artifacts; empty: the data directory."
    )
    mirror_dir: str = Field(
        "",
        description="Directories with copies of models and datasets, separated as in PATH. They "
        "are searched in order, before the Hugging Face Hub is asked.",
    )
    offline: bool = Field(False, description="Never ask the Hugging Face Hub.")
    hf_token: SecretStr | None = Field(
        None,
        validation_alias="HF_TOKEN",
        description="Token for gated models. It is sent to the Hugging Face Hub only.",
    )
    hub_token: SecretStr | None = Field(
        None,
        description="Token with which workers publish models on the Hugging Face Hub; unset: they "
        "do not. It is sent to the Hub only.",
    )
    api_key_hashes: Annotated[list[KeyHash], NoDecode] = Field(
        [], description="SHA-256 of each accepted API key, comma-separated; see `surgeon key`."
    )
    cors_origins: Annotated[list[Origin], NoDecode] = Field(
        [],
        description="Origins of web pages that may call the API, comma-separated, such as "
        "https://console.example.com; empty: none but its own.",
    )
    upload_max_bytes: int = Field(
        2 << 30, ge=1, description="Largest upload in bytes, as sent and when unpacked."
    )
    limit_requests_per_minute: int | None = Field(
        None, ge=1, description="Requests a minute of each API key; unset: unlimited."
    )
    limit_queued_jobs: int | None = Field(
        None, ge=0, description="Queued jobs of each project; unset: unlimited."
    )
    limit_running_jobs: int | None = Field(
        None,
        ge=0,
        description="Running jobs of each project; unset: unlimited. Workers read it.",
    )
    limit_device_hours_per_month: float | None = Field(
        None, ge=0, description="Hours of devices a month of each project; unset: unlimited."
    )
    limit_stored_bytes: int | None = Field(
        None, ge=0, description="Stored bytes of each project; unset: unlimited."
    )
    lease: Seconds = Field(
        timedelta(seconds=60),  # six missed heartbeats
        description="A job is taken from its worker after this time without a heartbeat.",
    )
    heartbeat: Seconds = Field(
        timedelta(seconds=10), description="Time between two heartbeats of a worker."
    )
    fence_margin: Seconds = Field(
        timedelta(seconds=15),
        description="A worker that cannot renew its lease stops its job this long before the end.",
    )
    sweep: Seconds = Field(
        timedelta(seconds=15), description="Time between two searches for lost jobs and garbage."
    )
    poll: Seconds = Field(
        timedelta(seconds=5), description="Time between two looks of an idle worker for a job."
    )
    grace: Seconds = Field(
        timedelta(seconds=20), description="Time that a job's process has to stop by itself."
    )
    deadline: Seconds = Field(
        timedelta(hours=24), description="Longest time for one attempt at a job."
    )
    load: Seconds = Field(
        timedelta(minutes=15),
        description="Longest time for a job's process to load the model and to open the data.",
    )
    retry_backoff: Seconds = Field(
        timedelta(seconds=2),
        description="Pause before a job's second attempt; it doubles with each further one, up to "
        "an hour.",
    )
    max_attempts: int = Field(
        3, ge=1, description="A job fails for good when this many attempts have crashed."
    )
    jobs_per_child: int = Field(
        50, ge=1, description="A worker replaces the process that runs jobs after this many jobs."
    )
    gpus_per_worker: int = Field(
        1,
        ge=1,
        description="How many of a machine's GPUs each worker gets; also the largest number of "
        "processes for one job.",
    )
    job_memory_bytes: int | None = Field(
        None,
        ge=1 << 30,
        description="Memory limit of each process of a job; unset: all that the machine or its "
        "container has.",
    )
    prefix_memory_bytes: int | None = Field(
        None,
        ge=0,
        description="Memory limit of one job's prefix cache; unset: a quarter of the free memory.",
    )
    prefix_disk_bytes: int | None = Field(
        None,
        ge=0,
        description="Disk limit of all prefix caches together; unset: a quarter of the free disk.",
    )
    signed_download_seconds: int | None = Field(
        None,
        ge=1,
        le=7 * 86400,  # the longest that S3 signs an address for
        description="Answer the download of a checkpoint's file with its address in the object "
        "store, signed for so long; unset: the API sends the file itself.",
    )
    artifact_cache_bytes: int | None = Field(
        None,
        ge=0,
        description="Disk limit of local copies of artifacts from an object store; unset: a "
        "quarter of the free disk.",
    )
    webhook_networks: Annotated[list[Network], NoDecode] = Field(
        [],
        description="Private networks that webhooks may reach, such as 10.0.0.0/8, "
        "comma-separated. Without any, only public addresses are reached, and by HTTPS alone.",
    )
    audit_days: int = Field(
        365, ge=1, description="Days for which the audit log is kept. Workers read it."
    )
    metrics_open: bool = Field(
        False,
        description="Answer /metrics without an API key, to whoever can reach the service.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Form of each line of the log: a sentence, or a JSON object."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="Least severe messages that are logged."
    )

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, object]) -> dict[str, object]:
        for name in ("api_key_hashes", "cors_origins", "webhook_networks"):
            text = values.get(name)
            if isinstance(text, str):
                values[name] = [part.strip() for part in text.split(",") if part.strip()]
        return values

    @model_validator(mode="after")
    def _lease_outlives_heartbeat(self) -> Settings:
        if self.lease <= self.heartbeat + self.fence_margin:
            raise ValueError("lease must be longer than heartbeat and fence_margin together")
        return self

    @property
    def embedded(self) -> bool:
        """Whether the database is an SQLite file of the service."""
        return self.resolved_database_url.startswith("sqlite")

    @property
    def resolved_database_url(self) -> str:
        """The URL of the database, as SQLAlchemy takes it."""
        if not self.database_url:
            return f"sqlite:///{self.data_dir.resolve() / 'surgeon.db'}"
        for short in ("postgres://", "postgresql://"):
            if self.database_url.startswith(short):
                return "postgresql+psycopg://" + self.database_url.removeprefix(short)
        return self.database_url

    @property
    def resolved_artifacts_url(self) -> str:
        """The URL or folder of the artifacts, as fsspec takes it."""
        return self.artifacts_url or str(self.data_dir.resolve() / "artifacts")

    @property
    def sources(self) -> Sources:
        """Where models and datasets are searched for."""
        mirrors = tuple(Path(part) for part in self.mirror_dir.split(os.pathsep) if part)
        return Sources(
            mirrors=mirrors,
            cache=self.data_dir.resolve() / "cache",
            offline=self.offline,
            token=self.hf_token.get_secret_value() if self.hf_token else None,
        )


@lru_cache(maxsize=1)
def settings_from_environment() -> Settings:
    """The settings of this process.

    Raises Misconfigured, whose message shows no values, as some of them are secret.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise Misconfigured("\n".join(map(_line, error.errors()))) from None


def _line(fault: Any) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else ""
    variable = f"SURGEON_{name.upper()}" if name in Settings.model_fields else name
    return f"{variable or 'the settings'}: {fault['msg'].removeprefix('Value error, ')}"
