"""A check for schemathesis: whatever was asked for does not exist for the one who asks."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.check
def only_not_found(_: Any, response: Any, case: Any) -> None:
    # 422: the request is wrong in itself, such as by a number too large, whoever asks for whatever.
    assert response.status_code in {404, 422}, (case.method, case.path, response.status_code)
