"""Uploads to S3 in several parts that nobody will finish.

A large file is sent in parts. Those of a process that was killed are in no listing of files and
are paid for all the same. Other stores forget theirs by themselves within a week.
"""

from __future__ import annotations

import logging
import time
from typing import Any

log = logging.getLogger("surgeon.storage")


def abort_old_uploads(files: Any, root: str, age_seconds: float) -> None:
    """Give up the uploads below a path that began longer ago than this.

    ``files`` is a file system of fsspec; nothing happens unless it is S3's.
    """
    if not hasattr(files, "list_multipart_uploads"):
        return
    bucket, _, prefix = root.partition("/")
    limit = time.time() - age_seconds
    try:
        uploads = files.list_multipart_uploads(bucket)
    except PermissionError as error:
        log.warning(
            "uploads in parts that were never finished cannot be listed (%s): allow "
            "s3:ListBucketMultipartUploads, or let a lifecycle rule of the bucket end them",
            error,
        )
        return
    for upload in uploads:
        key = str(upload["Key"])
        if key.startswith(f"{prefix}/" if prefix else "") and (
            upload["Initiated"].timestamp() < limit
        ):
            log.info("giving up an upload in parts of %s, begun %s", key, upload["Initiated"])
            names = {"Bucket": bucket, "Key": key, "UploadId": upload["UploadId"]}
            files.call_s3("abort_multipart_upload", **names)
