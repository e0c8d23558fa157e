"""The documentation page: Swagger UI, whose files this service serves itself.

The files are those in the package fastapi-offline (Swagger UI, under the Apache License 2.0). The
page loads nothing from elsewhere, so it also works where there is no internet, and its policy lets
the browser run nothing but these files.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, HTMLResponse

from app.errors import NotFound

router = APIRouter(include_in_schema=False)
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # icons within the style sheet
        "connect-src 'self'",  # the document, and the requests that a reader tries out
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon.png": "image/png",
}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Layer Surgeon: documentation of the API</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="documentation">This page needs JavaScript. The document that it shows is
<a href="openapi.json">openapi.json</a>.</div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# A file of its own, as the policy lets no script within the page run. The validator is a public
# service that would be told the document's address.
START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#documentation",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
});
"""


@router.get("/docs")
async def get_docs() -> Response:
    """The page."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})


@router.get("/docs/start.js")
async def get_start() -> Response:
    """The script that shows the document in the page."""
    return Response(START, media_type="text/javascript")


@router.get("/docs/{name}")
async def get_asset(name: str, request: Request) -> Response:
    """A file of Swagger UI. Raises NotFound for other names."""
    if name not in ASSETS:
        raise NotFound(f"{request.url.path} is no part of the documentation; see /docs")
    path = Path(str(files("fastapi_offline") / "static" / name))
    return FileResponse(path, media_type=ASSETS[name])
