"""A server that speaks S3, in this process, and an empty bucket of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "artifacts"
PREFIX = "surgeon"


@contextmanager
def serving_s3() -> Iterator[str]:
    """The server's address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@contextmanager
def bucket_at(server: str) -> Iterator[str]:
    """A URL of artifacts; the credentials are in the environment, as the service has them."""
    credentials = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
    }
    with patch.dict(os.environ, credentials):
        bucket = boto3.resource("s3").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}/{PREFIX}"
        bucket.objects.all().delete()
        bucket.delete()


def keys_in_bucket() -> set[str]:
    """What the bucket holds below the prefix."""
    objects = boto3.resource("s3").Bucket(BUCKET).objects.all()
    return {each.key.removeprefix(f"{PREFIX}/") for each in objects}


def unfinished_uploads() -> set[str]:
    """The keys to which an upload in parts has begun and not ended."""
    listed = boto3.client("s3").list_multipart_uploads(Bucket=BUCKET)
    return {upload["Key"] for upload in listed.get("Uploads", [])}
