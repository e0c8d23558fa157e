"""Presets: the tasks of GLUE and SuperGLUE."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from app.api.examples.answers import TASK, TASKS_PAGE, answers
from app.errors import NotFound
from surgery.data.examples import raw_example, read_example
from surgery.data.presets.tasks import TASKS, Task
from surgery.errors import nearest
from surgery.schemas.data.dataset import Columns

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])
TaskName = Annotated[
    str, Path(max_length=120, description="The preset's name, such as `glue/cola`.")
]


class TaskExample(BaseModel):
    """An invented row of the benchmark, and the rows that are made of it."""

    raw: dict[str, Any] = Field(description="The row as the benchmark has it.")
    formatted: list[dict[str, Any]] = Field(
        description="The rows as they are trained on: the texts that the model reads, the label, "
        "and what the metrics need besides. Some presets make several rows of one."
    )


class TaskView(BaseModel):
    """A preset: where its data come from, what is predicted and how that is scored."""

    name: str = Field(description="The preset's name, which requests take as `dataset`.")
    title: str = Field(description="The task's full name.")
    hub: str = Field(description="The dataset's id on the Hugging Face Hub.")
    config: str = Field(description="Which of the dataset's configurations it is.")
    train: str | None = Field(
        description="The split to train on; null if the preset is for evaluation only."
    )
    validation: str = Field(description="The split that models are evaluated on.")
    sizes: dict[str, int] = Field(
        description="Rows of the official splits as published; for ReCoRD, its queries."
    )
    columns: Columns = Field(description="Which column has which role.")
    raw_columns: list[str] | None = Field(
        description="The columns from which the texts are built; null if the texts are columns."
    )
    problem: str = Field(description="What is predicted from a row, such as `classification`.")
    labels: list[str] = Field(description="The labels' names, in the order of their indices.")
    metrics: list[str] = Field(
        description="The task's official metrics. The first one determines the best checkpoint."
    )
    evaluation_only: bool = Field(description="Whether the preset cannot be trained on.")
    train_on: str | None = Field(
        description="The preset with the same labels to train on, if this one is for evaluation "
        "only."
    )
    example: TaskExample = Field(description="A row, before and after it is formatted.")


class TaskList(BaseModel):
    """All presets."""

    data: list[TaskView] = Field(description="The presets.")


def _view(task: Task) -> TaskView:
    return TaskView(
        name=task.name,
        title=task.title,
        hub=task.hub,
        config=task.config,
        train=None if task.train_on else task.train,
        validation=task.validation,
        sizes=dict(task.sizes),
        columns=task.columns,
        raw_columns=list(task.format.raw) if task.format else None,
        problem=task.problem,
        labels=list(task.labels),
        metrics=list(task.metrics),
        evaluation_only=task.train_on is not None,
        train_on=task.train_on,
        example=TaskExample(raw=raw_example(task), formatted=read_example(task)),
    )


@router.get("", summary="List the presets", responses=answers(TASKS_PAGE))
def get_tasks() -> TaskList:
    """Lists the presets, whose names other requests take as `dataset`."""
    return TaskList(data=[_view(task) for task in TASKS.values()])


@router.get("/{name:path}", summary="Get a preset", responses=answers(TASK, 404))
def get_task(name: TaskName) -> TaskView:
    """Describes one preset."""
    if name not in TASKS:
        near = nearest(name, list(TASKS))
        hint = f"; did you mean {near!r}?" if near else "; GET /v1/tasks lists them"
        raise NotFound(f"no preset {name[:100]!r}{hint}")
    return _view(TASKS[name])
