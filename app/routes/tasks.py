"""The presets of GLUE and SuperGLUE."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from app.errors import NotFound
from app.routes.examples import TASK, TASKS_PAGE, answers
from surgery.dataset_spec import Columns
from surgery.spec import nearest
from surgery.tasks import TASKS, Task

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


class TaskView(BaseModel):
    """A preset: where its data are, what is predicted, how it is scored."""

    name: str
    title: str
    hub: str
    config: str
    train: str
    validation: str
    columns: Columns
    problem: str
    labels: list[str]
    metrics: list[str]


class TaskList(BaseModel):
    """All presets."""

    data: list[TaskView]


def _view(task: Task) -> TaskView:
    return TaskView(
        name=task.name, title=task.title, hub=task.hub, config=task.config, train=task.train,
        validation=task.validation, problem=task.problem, labels=list(task.labels),
        metrics=list(task.metrics),
        columns=task.columns,
    )  # fmt: skip


@router.get("", summary="List the presets", responses=answers(TASKS_PAGE))
def get_tasks() -> TaskList:
    """Each name can stand as `dataset` in a ranking or a fine-tune."""
    return TaskList(data=[_view(task) for task in TASKS.values()])


@router.get("/{name:path}", summary="Get a preset", responses=answers(TASK, 404))
def get_task(name: Annotated[str, Path(max_length=120)]) -> TaskView:
    """One preset by its name, such as `glue/cola`."""
    if name not in TASKS:
        near = nearest(name, list(TASKS))
        hint = f"; did you mean {near!r}?" if near else "; GET /v1/tasks lists them"
        raise NotFound(f"no preset {name[:100]!r}{hint}")
    return _view(TASKS[name])
