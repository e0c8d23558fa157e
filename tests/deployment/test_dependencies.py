"""What is imported is declared: each install runs on its own dependencies and nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from surgeon.client import Client, Unreachable
from tests.support.service.deployment import ROOT
from tests.support.service.services import free_port, wait_until

OURS = ("surgery", "app", "worker", "surgeon")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STANDARD = {*sys.stdlib_module_names, "compression"}  # the last since 3.14, backports.zstd before


def declared(*extras: str) -> set[str]:
    """The distributions that an install with these extras names itself."""
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][x] for x in extras)]
    found = {Requirement(line) for lines in lists for line in lines}
    own = {wanted for wanted in found if wanted.name == PROJECT["name"]}
    inner = {extra for wanted in own for extra in wanted.extras}
    names = {canonicalize_name(wanted.name) for wanted in found - own}
    return names | (declared(*inner) if inner else set())


def imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Dotted names of what import statements load, the names of a ``from`` among them."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_the_top(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is loaded: no function's body, nothing for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or for_types:
            continue
        yield node
        yield from at_the_top(node)


def source(name: str) -> Path | None:
    """The file of one of our modules."""
    path = ROOT.joinpath(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def loaded(names: Iterable[str], whole: tuple[str, ...]) -> dict[str, set[str]]:
    """Foreign packages that loading these modules loads, by the module of ours that names them.

    Of the packages in ``whole`` the functions' imports count too.
    """
    found: dict[str, set[str]] = {}
    waiting = list(names)
    while waiting:
        module = waiting.pop()
        path = source(module)
        if module in found or path is None:
            continue
        tree = ast.parse(path.read_text())
        nodes = ast.walk(tree) if module.split(".")[0] in whole else at_the_top(tree)
        imported = set(imports(iter(nodes)))
        found[module] = {n.split(".")[0] for n in imported} - {*OURS, *STANDARD}
        waiting += [n for n in imported if n.split(".")[0] in OURS]
    return found


def undeclared(found: dict[str, set[str]], known: set[str]) -> dict[str, set[str]]:
    """What no declared distribution brings, by the module that imports it."""
    packages = {
        name: {canonicalize_name(one) for one in owners}
        for name, owners in packages_distributions().items()
    }
    missing = {
        module: {name for name in names if not packages.get(name, set()) & known}
        for module, names in found.items()
    }
    return {module: names for module, names in missing.items() if names}


def modules(package: str) -> Iterator[str]:
    """Every module of one of our packages."""
    for path in ROOT.joinpath(*package.split(".")).rglob("*.py"):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_the_base_install_declares_what_the_client_imports() -> None:
    agents = {name for name in modules("surgeon.agents") if not name.endswith(".command")}
    found = loaded(set(modules("surgeon")) - agents, whole=())
    assert not agents & found.keys()
    assert {
        "surgeon.client",
        "surgeon.agents.command",
        "surgeon.commands.server",
        "surgery.schemas.enums",
    } <= set(found)
    assert undeclared(found, declared()) == {}


def test_the_tools_of_agents_declare_what_they_import() -> None:
    found = loaded(modules("surgeon.agents"), whole=())
    assert "mcp" in found["surgeon.agents.server"]
    assert undeclared(found, declared("mcp")) == {}


def test_the_server_declares_what_the_api_imports() -> None:
    found = loaded([*modules("app"), "surgeon.commands.server", "worker.main"], whole=("app",))
    assert {
        "surgery.data.ingest.spool",
        "app.jobs.queue",
        "worker.supervisor.attempt.attempt",
    } <= set(found)
    assert undeclared(found, declared("server", "otel")) == {}


def test_the_worker_declares_all_it_imports() -> None:
    found = loaded((name for package in OURS for name in modules(package)), whole=OURS)
    assert {"surgery.training.loop", "worker.child", "app.main"} <= set(found)
    # Triton comes with torch's CUDA builds, and the fused kernel is used on their devices alone.
    found.pop("surgery.gradients.squares_triton", None)
    every = ("worker", "otel", "mlflow", "wandb", "demo", "plot", "mcp")
    assert undeclared(found, declared(*every)) == {}


def closure(requirements: list[str], extras: Sequence[str]) -> set[str]:
    """Every distribution that these lines bring, by the installed ones' own metadata."""
    brought: set[str] = set()
    waiting = [(Requirement(line), extra) for line in requirements for extra in ("", *extras)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        new = {(name, asked) for asked in ("", *requirement.extras)} - seen
        seen |= new
        brought.add(name)
        for _, asked in new:
            lines = distribution(name).requires or []
            waiting += [(Requirement(line), asked) for line in lines]
    return brought


def link(name: str, site: Path) -> None:
    """One installed distribution in another environment, as links to its files."""
    files = distribution(name).files or []
    inside = [path for path in files if ".." not in path.parts and "__pycache__" not in path.parts]
    for top in {path.parts[0] for path in inside}:
        there = Path(str(distribution(name).locate_file(top)))
        if there.is_file() or (there / "__init__.py").is_file() or top.endswith((".libs", "-info")):
            (site / top).symlink_to(there)
            continue
        for path in (path for path in inside if path.parts[0] == top):  # a namespace: its own alone
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).symlink_to(distribution(name).locate_file(path))


def environment(wheel: Path, home: Path, *extras: str) -> Path:
    """The `surgeon` command of an environment with the wheel and what it asks for, no more."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    lines = [
        line.removeprefix("Requires-Dist: ")
        for line in metadata.read_text().splitlines()
        if line.startswith("Requires-Dist: ")
    ]
    for name in closure(lines, extras):
        link(name, site)
    for path in wheel.iterdir():
        (site / path.name).symlink_to(path)
    (scripts,) = wheel.glob("*.dist-info/entry_points.txt")
    module, _, function = scripts.read_text().partition("surgeon = ")[2].strip().partition(":")
    command = home / "bin/surgeon"
    command.write_text(f"#!{home}/bin/python\nfrom {module} import {function}\n{function}()\n")
    command.chmod(0o755)
    return command


@pytest.fixture(scope="module")
def client(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a base install."""
    return environment(wheel, tmp_path_factory.mktemp("base-install") / "environment")


@pytest.fixture(scope="module")
def server(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an install with the server."""
    return environment(wheel, tmp_path_factory.mktemp("server-install") / "environment", "server")


def missing(command: Path, *names: str) -> list[str]:
    """Which packages the environment of a command lacks."""
    code = f"import importlib.util as u; print(*[n for n in {names!r} if not u.find_spec(n)])"
    return subprocess.check_output(
        [command.with_name("python"), "-P", "-c", code], text=True
    ).split()


def test_the_installs_are_really_bare(client: Path, server: Path) -> None:
    lacked = ["torch", "pytest", "fastapi", "numpy", "sqlalchemy"]
    assert missing(client, *lacked) == lacked
    assert missing(server, *lacked) == ["torch", "pytest"]


@pytest.mark.parametrize(
    ("install", "arguments", "extras"),
    [
        ("client", ("api",), "server"),
        ("client", ("db", "upgrade"), "server"),
        ("client", ("serve",), "server,worker"),
        ("client", ("demo",), "server,worker,demo"),
        ("client", ("mcp",), "mcp"),
        ("server", ("serve",), "worker"),
        ("server", ("worker",), "worker"),
    ],
)
def test_a_command_names_the_extra_that_it_lacks(
    install: str, arguments: tuple[str, ...], extras: str, request: pytest.FixtureRequest
) -> None:
    command = request.getfixturevalue(install)
    done = subprocess.run(
        [command, *arguments], env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"pip install 'layer-surgeon[{extras}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_api_and_its_client_run_each_on_its_install(
    client: Path, server: Path, tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"SURGEON_DATA_DIR": str(tmp_path / "data"), "SURGEON_OFFLINE": "true"}
    with (tmp_path / "api.log").open("wb") as log:
        api = subprocess.Popen(
            [server, "api", "--port", str(port)],
            cwd=tmp_path, env=settings, stdout=log, stderr=log,
        )  # fmt: skip

    def answers() -> bool:
        assert api.poll() is None, (tmp_path / "api.log").read_text()
        try:
            with Client(url) as opened:
                return bool(opened.call("GET", "/healthz"))
        except Unreachable:
            return False

    try:
        wait_until(answers, 180, (tmp_path / "api.log").read_text)
        listed = subprocess.run(
            [client, "jobs", "--url", url],
            cwd=tmp_path, env={}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        api.terminate()
        api.wait(30)
    assert listed.returncode == 0, listed.stderr
    assert "no jobs" in listed.stdout + listed.stderr
