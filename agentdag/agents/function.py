"""A node that calls a Python function: async ones on the loop, others each in a thread of its own.

The function is foreign code: whatever it raises is a recorded failure, and a hang holds up nobody.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import importlib.util
import inspect
import json
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any, TypeGuard

from pydantic_core import PydanticSerializationError, to_jsonable_python

from agentdag.agents.agent import Outcome, Task
from agentdag.agents.answers import Reader, read_value
from agentdag.calls import Form, Provider, Rehearsal, Request
from agentdag.errors import ErrorKind, Failure, FinalError
from agentdag.limits.turn import Attempt

_NOT_THE_USERS = ("site-packages", str(Path(traceback.__file__).parent))


@dataclass(frozen=True, slots=True)
class FunctionAgent:
    """Calls *function* with *arguments*; what it returns must be what JSON can hold, and what *reader* reads, where
    there is one."""

    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    reader: Reader | None = None

    async def perform(self, task: Task) -> Outcome:
        async def act(_attempt: Attempt) -> Any:
            value = await called(self.function, self.arguments)
            return value if self.reader is None else read_value(self.reader.value(value))

        call = await task.call(act)
        return Outcome(call.attempts, call.latency_s, call.result, call.failure)


async def called(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """What *function* returns, as JSON can hold it; raises FinalError where it raises, or returns anything else."""
    try:
        if inspect.iscoroutinefunction(function):
            return _plain(await function(**arguments))
        return await _in_thread(function, arguments)
    except (FinalError, asyncio.CancelledError):
        raise
    except BaseException as error:  # whatever it is, it ends the function and nothing else
        raise FinalError(Failure(ErrorKind.FUNCTION, _told(error))) from error


@dataclass(frozen=True, slots=True)
class StandInAgent:
    """Plays a function, a program or a remote agent: waits and fails as the simulator does, and gives the output that
    the file says, or one of the shape that is due. *asked* is what it would do, in short."""

    simulator: Provider
    rehearsal: Rehearsal
    asked: str
    form: Form | None
    is_function: bool = True

    async def perform(self, task: Task) -> Outcome:
        async def act(attempt: Attempt) -> Any:
            request = Request(
                task.node,
                attempt.number,
                "simulator",
                self.asked,
                rehearsal=self.rehearsal,
                hedge=attempt.hedge,
                form=self.form,
            )
            reply = await self.simulator.complete(request, task.on_delta)
            if self.rehearsal.output is not None or (self.is_function and self.form is None):
                return self.rehearsal.output
            return reply.text if self.form is None else json.loads(reply.text)

        call = await task.call(act)
        return Outcome(call.attempts, call.latency_s, call.result, call.failure)


async def _in_thread(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """The result of *function* in a daemon thread, which a cancelled or timed-out call leaves behind."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, failure: Exception | None) -> None:
        if result.done():
            return
        if failure is None:
            result.set_result(value)
        else:
            result.set_exception(failure)

    def work() -> None:
        value: Any = None
        failure: Exception | None = None
        try:
            value = context.run(function, **arguments)
            value = value if inspect.isawaitable(value) else _plain(value)
        except BaseException as error:  # noqa: BLE001 - foreign code
            failure = error if _is_plain_error(error) else RuntimeError(f"{type(error).__name__}: {error}")
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, failure)

    threading.Thread(target=work, name=f"call {getattr(function, '__name__', 'function')}", daemon=True).start()
    value = await result
    return _plain(await value) if inspect.isawaitable(value) else value


def _is_plain_error(error: BaseException) -> TypeGuard[Exception]:
    """Whether a future takes *error*, and it ends no more than what raised it."""
    return isinstance(error, Exception) and not isinstance(error, StopIteration)


def _plain(value: Any) -> Any:
    """*value* as what JSON can hold; raises FinalError where it cannot."""
    if type(value) in {str, bool, NoneType}:
        return value
    if isinstance(value, Iterator):
        message = f"returned {type(value).__name__}, which JSON cannot hold; return a list"
        raise FinalError(Failure(ErrorKind.FUNCTION, message))
    try:
        plain = to_jsonable_python(value)
        json.dumps(plain, allow_nan=False)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        message = f"returned {type(value).__name__}, which is not what JSON can hold: {error}"
        raise FinalError(Failure(ErrorKind.FUNCTION, message)) from error
    return plain


def _told(error: BaseException) -> str:
    """The error with the place in the user's code where it was raised."""
    places = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename != __file__
    ]
    own = [each for each in places if not any(part in each[0] for part in _NOT_THE_USERS)] or places
    place = f" ({Path(own[-1][0]).name}:{own[-1][1]})" if own else ""
    return f"{type(error).__name__}: {error}{place}"


def load_module(module: str, folder: Path) -> ModuleType:
    """The *module*, the pipeline's folder searched first. Raises whatever importing it raises."""
    place = str(folder.resolve())
    if place not in sys.path:
        sys.path.insert(0, place)
    found = importlib.import_module(module)
    beside = folder.joinpath(*module.split(".")).with_suffix(".py").resolve()
    if beside.is_file() and Path(getattr(found, "__file__", None) or "").resolve() != beside:
        return _load_file(f"{module}@{beside}", beside)  # another pipeline's module of the same name came first
    return found


def function_in(module: ModuleType, function: str) -> Callable[..., Any]:
    """The callable *function* of *module*; raises AttributeError, or TypeError where it cannot be called."""
    found: Any = module
    for name in function.split("."):
        found = getattr(found, name)
    if not callable(found):
        raise TypeError(f"`{module.__name__}:{function}` is {type(found).__name__}, which cannot be called")
    return found  # type: ignore[no-any-return]  # `callable` tells mypy nothing of what it returns


def _load_file(name: str, path: Path) -> ModuleType:
    """The module in *path*, under a *name* of its own."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be imported")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception:
            del sys.modules[name]
            raise
    return sys.modules[name]


def check_arguments(function: Callable[..., Any], names: Mapping[str, Any]) -> str | None:
    """Why *function* cannot be called with these keyword arguments, or None where it can."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(**dict.fromkeys(names))
    except TypeError as error:
        return f"{error}; it takes {signature}"
    return None
