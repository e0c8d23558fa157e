"""``python -m surgeon``: the command without its script."""

from __future__ import annotations

from surgeon.cli import main

main()
