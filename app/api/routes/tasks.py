"""The presets of GLUE and SuperGLUE."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from app.api.example_answers import TASK, TASKS_PAGE, answers
from app.errors import NotFound
from surgery.data.examples import raw_example, read_example
from surgery.data.presets.tasks import TASKS, Task
from surgery.errors import nearest
from surgery.schemas.dataset import Columns

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


class TaskExample(BaseModel):
    """An invented row, and what is stored of it."""

    raw: dict[str, Any] = Field(description="In the shape of the benchmark's own rows.")
    formatted: list[dict[str, Any]] = Field(
        description="The texts a model reads, the label, and what the metrics need beside them; "
        "several rows where a raw row becomes several."
    )


class TaskView(BaseModel):
    """A preset: where its data are, what is predicted, how it is scored."""

    name: str
    title: str
    hub: str
    config: str
    train: str | None = Field(description="The split to train on; null if for evaluation only.")
    validation: str = Field(description="The split that is measured.")
    sizes: dict[str, int] = Field(
        description="Rows of the official splits as published (ReCoRD: queries)."
    )
    columns: Columns
    raw_columns: list[str] | None = Field(
        description="The columns that the texts are built of; null where columns hold them."
    )
    problem: str
    labels: list[str]
    metrics: list[str] = Field(description="The official ones; the first picks the best epoch.")
    evaluation_only: bool
    train_on: str | None = Field(
        description="For evaluation only: the preset with the same labels to train on."
    )
    example: TaskExample


class TaskList(BaseModel):
    """All presets."""

    data: list[TaskView]


def _view(task: Task) -> TaskView:
    return TaskView(
        name=task.name, title=task.title, hub=task.hub, config=task.config,
        train=None if task.train_on else task.train, validation=task.validation,
        sizes=dict(task.sizes), problem=task.problem, labels=list(task.labels),
        metrics=list(task.metrics), columns=task.columns,
        raw_columns=list(task.format.raw) if task.format else None,
        evaluation_only=task.train_on is not None, train_on=task.train_on,
        example=TaskExample(raw=raw_example(task), formatted=read_example(task)),
    )  # fmt: skip


@router.get("", summary="List the presets", responses=answers(TASKS_PAGE))
def get_tasks() -> TaskList:
    """Each name can stand as `dataset` in a ranking or a fine-tune, unless `evaluation_only`."""
    return TaskList(data=[_view(task) for task in TASKS.values()])


@router.get("/{name:path}", summary="Get a preset", responses=answers(TASK, 404))
def get_task(name: Annotated[str, Path(max_length=120)]) -> TaskView:
    """One preset by its name, such as `glue/cola`."""
    if name not in TASKS:
        near = nearest(name, list(TASKS))
        hint = f"; did you mean {near!r}?" if near else "; GET /v1/tasks lists them"
        raise NotFound(f"no preset {name[:100]!r}{hint}")
    return _view(TASKS[name])
