"""The server of the Model Context Protocol: its tools, what it says of them, and its transports."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import CallToolResult, InputRequiredResult, ToolAnnotations

from surgeon.agents.failures import ToolError
from surgeon.agents.following import Following
from surgeon.agents.reading import Reading
from surgeon.agents.submitting import Submitting
from surgeon.client import AsyncClient
from surgery.errors import nearest

PATIENCE_SECONDS = 10.0  # an agent that waits for a service that is away should hear of it
LOOPBACK = ("127.0.0.1", "localhost", "::1")
INSTRUCTIONS = (
    "Layer Surgeon ranks the layers of language encoders (BERT and its kin) for a dataset and "
    "fine-tunes chosen layers. A usual course: list_models and list_datasets, preview_dataset, "
    "rank_layers, selected_layers, then fine_tune those layers or compare them with others, and "
    "predict. Everything that runs is a job: tools that submit one first answer what would happen, "
    "and submit with confirm=true only. A ranking is a hypothesis; compare tells, with several "
    "seeds, whether its layers are better than others."
)
Function = Callable[..., Awaitable[Any]]


class Server(MCPServer[Any]):
    """The tools, each of which refuses arguments that it does not have."""

    def __init__(self, client: AsyncClient) -> None:
        tools = _tools(client)
        self._arguments = {tool.name: list(tool.parameters["properties"]) for tool in tools}
        super().__init__(
            name="layer-surgeon",
            title="Layer Surgeon",
            instructions=INSTRUCTIONS,
            version=version("layer-surgeon"),
            tools=tools,
            log_level="WARNING",
        )

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool. Raises ToolError for an argument that it does not have: a misspelt option
        must not be ignored."""
        known = self._arguments.get(name, list(arguments))
        for unknown in (each for each in arguments if each not in known):
            near = nearest(unknown, known)
            hint = f"did you mean {near!r}?" if near else f"it has {', '.join(known)}"
            further = "; other fields of its request go into options" if "options" in known else ""
            raise ToolError(f"{name} has no argument {unknown[:100]!r}; {hint}{further}")
        return await super().call_tool(name, arguments, context)


def _tools(client: AsyncClient) -> list[Tool]:
    """All tools, in the order in which they are usually called."""
    reading, submitting, following = Reading(client), Submitting(client), Following(client)
    hub, own = _reading(reaches_hub=True), _reading(reaches_hub=False)
    adding = ToolAnnotations(
        read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True
    )
    ending = ToolAnnotations(
        read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
    )
    return [
        _tool(reading.list_models, "List models", own),
        _tool(reading.describe_model, "Describe a model", hub),
        _tool(reading.list_datasets, "List datasets", own),
        _tool(reading.preview_dataset, "Preview a dataset", hub),
        _tool(reading.estimate_cost, "Estimate what fine-tunes take", hub),
        _tool(reading.request_fields, "List the fields of a request", own),
        _tool(submitting.rank_layers, "Rank layers", adding),
        _tool(following.selected_layers, "Show selected layers", own),
        _tool(submitting.search_layers, "Search for layers", adding),
        _tool(submitting.fine_tune, "Fine-tune layers", adding),
        _tool(submitting.compare, "Compare ways to train", adding),
        _tool(following.comparison_table, "Show a comparison", own),
        _tool(following.predict, "Predict", adding.model_copy(update={"open_world_hint": False})),
        _tool(following.list_jobs, "List jobs", own),
        _tool(following.job_status, "Show a job", own),
        _tool(following.wait_for_job, "Wait for a job", own),
        _tool(following.cancel_job, "Cancel a job", ending),
    ]


def _reading(*, reaches_hub: bool) -> ToolAnnotations:
    """What is true of a tool that changes nothing."""
    return ToolAnnotations(
        read_only_hint=True,
        destructive_hint=False,
        idempotent_hint=True,
        open_world_hint=reaches_hub,
    )


def _tool(function: Function, title: str, annotations: ToolAnnotations) -> Tool:
    tool = Tool.from_function(
        function,
        title=title,
        description=inspect.getdoc(function),
        annotations=annotations,
        structured_output=True,
    )
    tool.parameters["additionalProperties"] = False
    return tool


def serve_stdio(url: str, key: str | None) -> None:
    """Serve one agent on standard input and output, until it closes them."""
    _server(url, key).run("stdio")


def serve_http(url: str, key: str | None, host: str, port: int, names: Sequence[str]) -> None:
    """Serve agents over streamable HTTP at `/mcp`, until the process is ended.

    Requests are answered if they name this machine as loopback or by one of ``names``, so that no
    page of a browser can reach it under a name of its own.
    """
    hosts = [f"[{each}]" if ":" in each else each for each in (*LOOPBACK, *names)]
    allowed = [form for each in hosts for form in (each, f"{each}:*")]
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=allowed,
        allowed_origins=[f"{scheme}://{each}" for scheme in ("http", "https") for each in allowed],
    )
    _server(url, key).run("streamable-http", host=host, port=port, transport_security=security)


def _server(url: str, key: str | None) -> Server:
    return Server(AsyncClient(url, key, patience=PATIENCE_SECONDS))
