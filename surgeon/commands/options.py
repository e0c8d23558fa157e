"""The options of commands: shared ones, and those that fill in the fields of a request."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer

from surgeon.commands.failures import remember_options
from surgery.errors import SurgeryError
from surgery.schemas.enums import Policy
from surgery.schemas.fields import Option, option_of
from surgery.schemas.jobs.selection import selection_from
from surgery.schemas.options.adapter import LORA_LEARNING_RATE, adapter_from
from surgery.schemas.options.training import TrainingSpec, trials_from

Json = dict[str, Any]
Command = Callable[..., None]
Model = Annotated[str, typer.Argument(help="Hugging Face model id.")]
Dataset = Annotated[
    str,
    typer.Argument(
        help="A preset (glue/cola), a dataset's id, a file to upload, or a Hub dataset in JSON."
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID")]
Url = Annotated[str, typer.Option("--url", envvar="SURGEON_URL", help="URL of the service.")]
Key = Annotated[str | None, typer.Option("--key", envvar="SURGEON_API_KEY", help="API key.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
DEFAULT_URL = "http://127.0.0.1:8000"


def with_options(*options: Option) -> Callable[[Command], Command]:
    """Add options to a command, which receives their values by name as ``**given``.

    The command's help lists them after its arguments and before the options in its signature.
    """

    def decorated(command: Command) -> Command:
        @functools.wraps(command)
        def called(**given: Any) -> None:
            remember_options([each.flag for each in options if given[each.name] != each.default])
            switched_off = {each.name for each in options if each.default is True}
            command(**given | {name: not given[name] for name in switched_off})

        declared = inspect.signature(command, eval_str=True).parameters.values()
        named = [each.replace(kind=each.KEYWORD_ONLY) for each in declared if each.name != "given"]
        arguments = [each for each in named if each.default is each.empty]
        others = [each for each in named if each.default is not each.empty]
        parameters = [*arguments, *map(_parameter, options), *others]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return called

    return decorated


def _parameter(option: Option) -> inspect.Parameter:
    """The option as a parameter in the signature that typer reads."""
    is_number, is_text = option.type is float, option.type is str
    kind, default, text = option.type, option.default, option.help
    if option.repeated:
        kind, text = list[option.type] | None, f"{text} Give it once for each."  # type: ignore[name-defined]
    elif option.type is bool:
        default = False
    elif default is None:
        kind |= None
    declaration = typer.Option(
        option.flag,
        help=text,
        min=option.minimum,
        parser=finite if is_number else None,
        metavar=(option.metavar or "FLOAT") if is_number else option.metavar if is_text else None,
    )
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, declaration],
    )


def finite(text: str) -> float:
    """Parse a finite number, because JSON has no NaN and no infinity. Raises BadParameter."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"{text!r} is no number")
    return value


def values_of(options: Iterable[Option], given: Mapping[str, Any]) -> Json:
    """The values of these options, by name."""
    return {option.name: given[option.name] for option in options}


def selection_of(given: Mapping[str, Any]) -> Json:
    """The selection that the options describe. Raises BadParameter unless they choose one policy.

    ``given`` has the keys that ``selection_from`` reads, ``ranking`` with the id of a ranking and
    ``search_id`` with that of a search.
    """
    try:
        selection = selection_from(given)
    except SurgeryError as error:
        raise typer.BadParameter(str(error)) from error
    named = {"ranking": given.get("ranking"), "search": given.get("search_id")}
    return selection | {field: each for field, each in named.items() if each is not None}


def trained_of(given: Mapping[str, Any]) -> Json:
    """The field `selection`, or `adapter` in its place. Raises BadParameter unless it is one."""
    try:
        adapter = adapter_from(given)
    except SurgeryError as error:
        raise typer.BadParameter(str(error)) from error
    if adapter is None:
        return {"selection": selection_of(given)}
    others = (*Policy, "include", "granularity", "ranking", "search_id")
    if any(given.get(name) not in {None, False} for name in others):
        raise typer.BadParameter(
            "--lora and --bitfit train in place of layers; leave out what chooses layers"
        )
    return {"adapter": adapter}


def rate_option(text: str) -> Option:
    """The option of a learning rate that has another default for LoRA."""
    usual = TrainingSpec().learning_rate
    text = f"{text} Default: {usual:g}, and {LORA_LEARNING_RATE:g} for LoRA."
    return option_of(TrainingSpec, "learning_rate", default=None, help=text)


def rate_of(given: Mapping[str, Any]) -> Json:
    """The learning rate, if the command names one: only then is it LoRA's too."""
    rate = given["learning_rate"]
    return {} if rate is None else {"learning_rate": rate}


def trials_of(given: Mapping[str, Any]) -> Json:
    """The fields of training that TRIAL_OPTIONS describe. Raises BadParameter."""
    try:
        return trials_from(given)
    except SurgeryError as error:
        raise typer.BadParameter(str(error)) from error
