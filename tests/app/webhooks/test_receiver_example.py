"""The receiver that docs/service/webhooks.md shows."""

from __future__ import annotations

import re
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

from app.jobs.webhooks.notices import new_secret
from app.jobs.webhooks.sender import Answer, send
from tests.support.service.services import free_port, wait_until

PAGE = Path(__file__).parents[3] / "docs/service/webhooks.md"
BODY = (
    '{"type": "job.failed", "timestamp": "2026-11-23T10:00:00Z", "data": {"links": {"self": "x"}}}'
)


def test_it_takes_what_is_signed_once_and_refuses_what_is_not(tmp_path: Path) -> None:
    (source,) = re.findall(r"(?s)```python\n(.*?)```", PAGE.read_text())
    (tmp_path / "receiver.py").write_text(source)
    port, secret = free_port(), new_secret()
    command = [sys.executable, str(tmp_path / "receiver.py"), str(port), secret]

    def answer(message_id: str, *secrets: str) -> Answer:
        url, networks = f"http://127.0.0.1:{port}/", [ip_network("127.0.0.0/8")]
        return send(url, message_id, BODY, secrets, networks)

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: answer("msg_1", secret).delivered, 20)
        assert answer("msg_1", secret).status == 204  # the same event again
        assert answer("msg_2", new_secret()).status == 400
        assert answer("msg_3", new_secret(), secret).status == 204  # while a secret is replaced
        process.kill()
        printed, _ = process.communicate()
    assert printed.decode().splitlines() == ["job.failed x", "job.failed x"]
