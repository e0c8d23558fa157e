"""`surgeon mcp`, asked by the client of the protocol's own package as agents do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult

from surgeon.agents.server import Server
from surgeon.client import AsyncClient
from tests.support.models.mirror import TINY, TINY_LAYERS
from tests.support.service.deployment import ROOT
from tests.support.service.services import Running, free_port, wait_until

Json = dict[str, Any]
Conversation = Callable[[Client], Awaitable[None]]
Talk = Callable[[Conversation], None]
HERE = "127.0.0.1"
WORDS = {True: "a fine film", False: "a poor film"}


@pytest.fixture(scope="module")
def dataset(embedded_service: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An uploaded dataset of its own."""
    path = tmp_path_factory.mktemp("agents") / "films.csv"
    rows = [f"{WORDS[i % 2 == 0]} {i},{'good' if i % 2 == 0 else 'bad'}" for i in range(120)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return embedded_service.client.upload(path, name="films of an agent").id


def command(service: Running, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "surgeon", "mcp", "--url", service.client.url, *arguments]


def wait_for_http(url: str, process: subprocess.Popen[bytes]) -> None:
    def answers() -> bool:
        assert process.poll() is None
        try:
            return bool(httpx2.get(url, timeout=5).status_code)
        except httpx2.TransportError:
            return False

    wait_until(answers, 120)


@pytest.fixture(scope="module")
def http_url(embedded_service: Running) -> Iterator[str]:
    """The address of `surgeon mcp --http`."""
    url = f"http://{HERE}:{(port := free_port())}/mcp"
    started = command(embedded_service, "--http", f"{HERE}:{port}")
    process = subprocess.Popen(started, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        wait_for_http(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(params=["stdio", pytest.param("http", marks=pytest.mark.slow)])
def talk(request: pytest.FixtureRequest, embedded_service: Running) -> Talk:
    """Has a conversation with the tools over one of the transports."""
    if request.param == "http":
        return talking(request.getfixturevalue("http_url"))
    program, *arguments = command(embedded_service)
    return talking(StdioServerParameters(command=program, args=arguments, cwd=ROOT))


@pytest.fixture
def briefly(embedded_service: Running) -> Talk:
    """The same without a process of its own."""

    def converse(conversation: Conversation) -> None:
        async def main() -> None:
            url = embedded_service.client.url
            async with AsyncClient(url) as service, Client(Server(service)) as agent:
                await conversation(agent)

        asyncio.run(main())

    return converse


def talking(target: str | StdioServerParameters) -> Talk:
    def converse(conversation: Conversation) -> None:
        async def main() -> None:
            async with Client(target) as agent:
                await conversation(agent)

        asyncio.run(main())

    return converse


async def answer(agent: Client, tool: str, /, **arguments: Any) -> Json:
    """What a tool answers, which must be no error."""
    found = await agent.call_tool(tool, arguments)
    assert not found.is_error, text_of(found)
    assert found.structured_content is not None
    return found.structured_content


async def refusal(agent: Client, tool: str, /, **arguments: Any) -> str:
    """What a tool says that it is asked for wrongly."""
    found = await agent.call_tool(tool, arguments)
    assert found.is_error, found.structured_content
    return text_of(found)


def text_of(found: CallToolResult) -> str:
    return "\n".join(block.text for block in found.content if block.type == "text")


async def at_its_end(agent: Client, job: str) -> Json:
    """The status of a job once it has finished."""
    status = await answer(agent, "wait_for_job", job=job)
    while not status["finished"]:
        assert "wait_for_job" in status["next"]
        status = await answer(agent, "wait_for_job", job=job)
    assert status["status"] == "succeeded", status
    return status


def jobs(service: Running) -> int:
    return len(service.client.call("GET", "/v1/jobs", params={"limit": 200})["data"])


def test_an_agent_goes_from_a_dataset_to_predictions(
    talk: Talk, embedded_service: Running, dataset: str
) -> None:
    task = {"model": TINY, "dataset": dataset}

    async def conversation(agent: Client) -> None:
        assert TINY in (await answer(agent, "list_models"))["models"]
        layers = (await answer(agent, "describe_model", model=TINY))["layers"]
        assert len(layers) == TINY_LAYERS
        listed = await answer(agent, "list_datasets", name="films of an agent")
        assert [each["id"] for each in listed["stored"]] == [dataset]
        assert "glue/rte" in {each["name"] for each in listed["presets"]}

        shown = await answer(agent, "preview_dataset", **task, rows=1)
        assert "film" in shown["rows"][0]["sequences"][0]["tokens"]
        before = jobs(embedded_service)
        asked = {**task, "options": {"samples": 16, "max_length": 16, "cache": "bypass"}}
        planned = await answer(agent, "rank_layers", **asked)
        assert (planned["submitted"], planned["job"]) == (False, None)
        assert planned["dry_run"]["spec"]["samples"] == 16
        assert "confirm=true" in planned["next"]
        assert jobs(embedded_service) == before
        submitted = await answer(agent, "rank_layers", **asked, confirm=True)
        ranked = await at_its_end(agent, submitted["job"]["id"])
        names = [layer["name"] for layer in ranked["result"]["layers"]]
        assert sorted(names) == [layer["name"] for layer in layers]
        assert {call["tool"] for call in ranked["next_calls"]} <= {
            "fine_tune", "search_layers", "compare",
        }  # fmt: skip

        chosen = await answer(agent, "selected_layers", job=ranked["id"], k=2)
        assert {layer["name"] for layer in chosen["selection"]["layers"]} == set(names[:2])
        selection = {"policy": "top_k", "k": 2, "ranking": ranked["id"]}
        tuning = {**task, "selection": selection, "training": {"epochs": 1, "max_length": 16}}
        planned = await answer(agent, "fine_tune", **tuning)
        assert set(planned["dry_run"]["layers"]) == set(names[:2])
        assert planned["dry_run"]["estimate"]["rows"][0]["trainable_parameters"] > 0
        submitted = await answer(agent, "fine_tune", **tuning, confirm=True)
        tuned = await at_its_end(agent, submitted["job"]["id"])
        assert set(tuned["result"]["trained_layers"]) == set(names[:2])

        rows = [{"text": text} for text in WORDS.values()]
        said = await answer(
            agent, "predict", checkpoint=tuned["result"]["best_checkpoint"], rows=rows
        )
        if not said["finished"]:
            said = await at_its_end(agent, said["id"])
        labels = [each["label"] for each in said["result"]["predictions"]]
        assert len(labels) == 2
        assert set(labels) <= {"good", "bad"}

    talk(conversation)


def test_a_comparison_is_planned_with_its_costs_and_told_as_a_table(
    briefly: Talk, dataset: str
) -> None:
    last = {"name": "last", "selection": {"policy": "last_k", "k": 1}}
    arms = [last, {"name": "all", "selection": {"policy": "all"}}]
    training = {"epochs": 1, "max_length": 16, "max_steps": 2}
    asked = {"model": TINY, "dataset": dataset, "arms": arms, "seeds": [0], "training": training}

    async def conversation(agent: Client) -> None:
        planned = (await answer(agent, "compare", **asked))["dry_run"]
        assert planned["runs"] == 2
        assert [arm["name"] for arm in planned["arms"]] == ["last", "all"]
        few, all_layers = planned["arms"]
        assert all_layers["peak_memory_bytes"] > few["peak_memory_bytes"] > 0
        submitted = await answer(agent, "compare", **asked, confirm=True)
        compared = submitted["job"]["id"]
        ended = await at_its_end(agent, compared)
        table = await answer(agent, "comparison_table", job=compared)
        assert [arm["name"] for arm in table["arms"]] == ["last", "all"]
        assert table["decision"]["summary"] == ended["result"]["decision"]

    briefly(conversation)


def test_a_job_is_cancelled_only_if_that_is_confirmed(
    briefly: Talk, embedded_service: Running, dataset: str
) -> None:
    long = {"selection": {"policy": "all"}, "training": {"epochs": 1000, "max_length": 16}}

    async def conversation(agent: Client) -> None:
        asked = {"model": TINY, "dataset": dataset, **long, "confirm": True}
        job = (await answer(agent, "fine_tune", **asked))["job"]["id"]
        running = await answer(agent, "job_status", job=job)
        assert (running["finished"], running["result"]) == (False, None)
        assert job in await refusal(agent, "selected_layers", job=job)
        elsewhere = f"../jobs/{job}/cancel?x="
        await refusal(agent, "preview_dataset", dataset=elsewhere, model=TINY)
        asked = await answer(agent, "cancel_job", job=job)
        assert not asked["requested"]
        assert "confirm=true" in asked["next"]
        assert not embedded_service.client.job(job)["cancel_requested"]
        assert (await answer(agent, "cancel_job", job=job, confirm=True))["requested"]
        embedded_service.finished({"id": job})
        ended = await answer(agent, "job_status", job=job)
        assert ended["status"] == "cancelled"
        again = await answer(agent, "cancel_job", job=job)
        assert "ended already" in again["next"]

    briefly(conversation)


REFUSED: dict[str, tuple[str, Json, tuple[str, ...]]] = {
    "an unknown model": (
        "rank_layers", {"model": "tiny/brt"}, ("model_not_found", f"did you mean '{TINY}'", "/model"),
    ),
    "an unknown dataset": (
        "rank_layers", {"dataset": "glue/rtee"}, ("dataset_not_found", "list_datasets lists"),
    ),
    "a misspelt option": (
        "rank_layers", {"options": {"sampels": 16}}, ("/sampels", "samples"),
    ),
    "a misspelt argument": (
        "rank_layers", {"confrim": True}, ("no argument 'confrim'", "did you mean 'confirm'"),
    ),
    "a field given twice": (
        "rank_layers", {"options": {"model": "tiny/other"}}, ("model", "name it once"),
    ),
    "a selection without its number": (
        "fine_tune", {"selection": {"policy": "top_k"}}, ("/selection", "needs k"),
    ),
    "a layer that is not there": (
        "fine_tune", {"selection": {"policy": "layers", "layers": [99]}}, ("/selection/layers", "99"),
    ),
    "too many rows": ("preview_dataset", {"rows": 21}, ("rows", "less than or equal to 20")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_call_says_what_to_do(
    case: str, briefly: Talk, embedded_service: Running, dataset: str
) -> None:
    tool, wrong, words = REFUSED[case]

    confirmed: list[Json] = [{}] if tool == "preview_dataset" else [{}, {"confirm": True}]
    asked = {"model": TINY, "dataset": dataset, **wrong}

    async def conversation(agent: Client) -> None:
        before = jobs(embedded_service)
        for confirm in confirmed:
            said = await refusal(agent, tool, **asked, **confirm)
            for word in words:
                assert word in said, said
        assert jobs(embedded_service) == before

    briefly(conversation)


def test_a_service_that_is_away_is_said_to_be_so() -> None:
    async def main() -> None:
        url = f"http://{HERE}:{free_port()}"
        async with AsyncClient(url) as service, Client(Server(service)) as agent:
            assert "no service answers" in await refusal(agent, "list_models")

    asyncio.run(main())


def test_hosts_are_told_truthfully_what_tools_do(briefly: Talk) -> None:
    submitting = {"rank_layers", "search_layers", "fine_tune", "compare", "predict"}

    async def conversation(agent: Client) -> None:
        tools = {tool.name: tool for tool in (await agent.list_tools()).tools}
        changing = {
            n for n, t in tools.items() if not (t.annotations and t.annotations.read_only_hint)
        }
        assert changing == {*submitting, "cancel_job"}
        destroying = {
            n for n, t in tools.items() if t.annotations and t.annotations.destructive_hint
        }
        assert destroying == {"cancel_job"}
        page = (ROOT / "docs/clients/agents.md").read_text()
        for tool in tools.values():
            assert f"`{tool.name}`" in page
            assert tool.description, tool.name
            assert "\n " not in tool.description
            assert tool.output_schema, tool.name
        fields = tools["fine_tune"].input_schema["properties"]["selection"]["anyOf"][0][
            "properties"
        ]
        assert fields["k"]["description"] == "The number of layers, for the *_k policies."

    briefly(conversation)


def test_every_field_of_a_request_can_be_asked_for(briefly: Talk) -> None:
    async def conversation(agent: Client) -> None:
        for tool in ("rank_layers", "fine_tune", "search_layers", "compare", "predict"):
            schema = await answer(agent, "request_fields", tool=tool)
            assert "priority" in schema["properties"], tool

    briefly(conversation)


def test_no_page_of_a_browser_reaches_the_tools(http_url: str) -> None:
    ask = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    accept = {"Accept": "application/json, text/event-stream"}
    rebound = httpx2.post(http_url, json=ask, headers={**accept, "Host": "evil.example"})
    assert rebound.status_code == 421
    foreign = httpx2.post(http_url, json=ask, headers={**accept, "Origin": "http://evil.example"})
    assert foreign.status_code == 403


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--http", "0.0.0.0:8765"), "--allow-host"),
        (("--http", "192.0.2.1:8765"), "--allow-host"),
        (("--http", "127.0.0.1"), "HOST:PORT"),
        (("--allow-host", "gpu.lan"), "goes with --http"),
    ],
)
def test_an_address_that_others_reach_is_refused_unless_asked_for(
    arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "surgeon", "mcp", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=200,
        env={"HOME": str(tmp_path), "PATH": "", "COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
