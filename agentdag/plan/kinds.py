"""The kinds of node that ask no model: functions, programs and remote agents, each read from its keys."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from urllib.parse import urlsplit

from agentdag.language.addresses import is_private
from agentdag.language.findings import did_you_mean
from agentdag.language.spec import FallbackSpec, HttpSpec, NodeSpec
from agentdag.language.templates import Template, ValueTemplate
from agentdag.plan.drafts import Draft, Path_, Texts
from agentdag.plan.files import is_within
from agentdag.plan.functions import FunctionProblem, Functions, Parameters
from agentdag.plan.work import CallWork, CommandWork, HttpWork

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True)
class Kinds:
    """Reads what nodes of one pipeline do that ask no model; problems go to the report of *texts*."""

    texts: Texts
    functions: Functions
    folder: Path
    allowed: Sequence[Path]

    def call(self, draft: Draft, spec: NodeSpec | FallbackSpec, path: Path_) -> CallWork | None:
        """A function with its arguments, so far as its source tells them."""
        assert spec.call is not None
        report, arguments = self.texts.report, {}
        for name, value in (spec.with_ or {}).items():
            arguments[name] = self.texts.values(draft, value, (*path, "with", name))
            if not name.isidentifier():
                report.at((*path, "with", name), "AD202", f"`{name}` is no name of an argument", key=True)
        module, function = spec.call.split(":")
        try:
            self.functions.check(module, function)
        except FunctionProblem as problem:
            report.at((*path, "call"), "AD207", str(problem), problem.hint)
            return None
        self._check_arguments(spec.call, self.functions.parameters(module, function), arguments, path)
        return CallWork(module, function, arguments, self.folder)

    def _check_arguments(
        self, call: str, taken: Parameters | None, given: Mapping[str, ValueTemplate], path: Path_
    ) -> None:
        if taken is None:
            return
        report = self.texts.report
        unknown = [name for name in given if taken.accepted is not None and name not in taken.accepted]
        for name in unknown:
            known = sorted(taken.accepted or ())
            hint = did_you_mean(name, known) or (f"it takes {', '.join(known)}" if known else "it takes nothing")
            report.at((*path, "with", name), "AD207", f"`{call}` takes no `{name}`", hint, key=True)
        missing = [name for name in taken.required if name not in given]
        if missing and not unknown:
            told = " and ".join(f"`{name}`" for name in missing)
            report.at((*path, "call"), "AD207", f"`{call}` needs {told}", "give it under `with:`")

    def command(self, draft: Draft, spec: NodeSpec, path: Path_) -> CommandWork | None:
        """A program; its name and its folder are the file's own words."""
        assert spec.command is not None
        report, texts = self.texts.report, self.texts
        if not spec.command or not spec.command[0].strip():
            report.at((*path, "command"), "AD202", "this command is empty", "write [program, argument, ...]")
            return None
        argv = [texts.template(draft, each, (*path, "command", index)) for index, each in enumerate(spec.command)]
        good = not texts.refuse_model_text(draft, argv[0], (*path, "command", 0), "the name of a program")
        for index in _programs_in(spec.command):
            what = "a command that another program runs"
            hint = "hand it over as an argument of its own, which that command reads"
            good &= not texts.refuse_model_text(draft, argv[index], (*path, "command", index), what, hint)
        if len(spec.command) == 1 and " " in spec.command[0] and not argv[0].reads:
            hint = f"write [{', '.join(_split(spec.command[0]))}]"
            report.at((*path, "command", 0), "AD202", "no shell takes this line apart", hint)
            good = False
        env = {}
        for name, text in (spec.env or {}).items():
            env[name] = self._filled(draft, text, (*path, "env", name))
            if not _VARIABLE.fullmatch(name):
                report.at((*path, "env", name), "AD202", f"`{name}` is no name of a variable", key=True)
        stdin = None if spec.stdin is None else texts.template(draft, spec.stdin, (*path, "stdin"))
        cwd = None
        if spec.cwd is not None:
            cwd = texts.template(draft, spec.cwd, (*path, "cwd"))
            good &= not texts.refuse_model_text(draft, cwd, (*path, "cwd"), "a path")
            if not cwd.reads and not is_within(self.folder / spec.cwd, self.folder, self.allowed):
                message = f"`{spec.cwd}` is outside the pipeline's folder"
                report.at((*path, "cwd"), "AD206", message, "allow its folder with --allow-path")
        return CommandWork(tuple(argv), stdin, env, cwd, self.folder.resolve()) if good else None

    def http(self, draft: Draft, spec: HttpSpec, path: Path_) -> HttpWork | None:
        """A request; whom it goes to, and its headers, are the file's own words or inputs."""
        report, texts = self.texts.report, self.texts
        url = texts.template(draft, spec.url, (*path, "url"))
        good = self._check_address(draft, url, spec, path)
        headers = {}
        for name, text in spec.headers.items():
            headers[name] = self._filled(draft, text, (*path, "headers", name))
            if not _HEADER.fullmatch(name):
                report.at((*path, "headers", name), "AD202", f"`{name}` is no name of a header", key=True)
            good &= not texts.refuse_model_text(draft, headers[name], (*path, "headers", name), "a header")
        if "json_" in spec.model_fields_set and spec.body is not None:
            report.at((*path, "body"), "AD204", "`json` and `body` exclude each other", "keep one", key=True)
            good = False
        sent = "json_" in spec.model_fields_set or spec.body is not None
        method = spec.method or ("POST" if sent else "GET")
        if sent and method in {"GET", "HEAD"}:
            report.at((*path, "method"), "AD204", f"{method} sends nothing", "write POST, or remove what is sent")
            good = False
        json = texts.values(draft, spec.json_, (*path, "json")) if "json_" in spec.model_fields_set else None
        body = None if spec.body is None else texts.template(draft, spec.body, (*path, "body"))
        return HttpWork(method, url, headers, json, body, spec.allow_private) if good else None

    def _filled(self, draft: Draft, text: str, path: Path_) -> Template:
        """A template, or a text that reads the environment: what a template gives is never looked through for that."""
        template = self.texts.template(draft, text, path)
        if "${" in text and "{" in text.replace("${", ""):
            hint = "read the environment in one of them alone"
            self.texts.report.at(path, "AD204", "`${...}` and `{{ ... }}` do not go together in one text", hint)
        return template

    def _check_address(self, draft: Draft, url: Template, spec: HttpSpec, path: Path_) -> bool:
        """Whether it is certain, or left to an input, whom the request goes to."""
        report, place = self.texts.report, (*path, "url")
        written = spec.url.partition("{{")[0].partition("{%")[0]
        if url.problems:
            return False
        if written.partition("://")[2].find("/") < 0 and url.reads:  # a template may tell the host
            return not self.texts.refuse_model_text(draft, url, place, "the address of a server")
        try:
            parts = urlsplit(written)
        except ValueError as error:
            report.at(place, "AD202", f"this is no address: {error}", "begin with https:// or http://")
            return False
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            report.at(place, "AD202", "this is no address", "begin with https:// or http://")
            return False
        if parts.username is not None or parts.password is not None:
            report.at(place, "AD202", "an address holds no user and no password", "write a header: Authorization")
            return False
        if not spec.allow_private and is_private(parts.hostname):
            message = f"{parts.hostname} is an address of this machine or of its network"
            report.at(place, "AD206", message, "write `allow_private: true` if that is meant")
            return False
        return True


_TAKE_PROGRAMS = re.compile(
    r"(ba|da|z|k|fi|c|tc)?sh|python[\d.]*|node|deno|bun|perl|ruby|php|pwsh|powershell|osascript"
)
"""What runs a text that stands among its arguments, after an option such as `-c` or `-e`."""
_EVALUATES = re.compile(r"-[a-z]*[cer]|--(eval|command|print|run)|-(Command|EncodedCommand)", re.IGNORECASE)
_RUN_OTHERS = frozenset(
    {"env", "xargs", "sudo", "doas", "nohup", "nice", "timeout", "time", "setsid", "stdbuf", "exec"}
)
"""What runs the program that its arguments name."""


def _programs_in(argv: Sequence[str]) -> list[int]:
    """The places of those arguments of *argv* that are commands themselves."""
    name = PurePath(argv[0]).name
    if name in _RUN_OTHERS:
        for index, each in enumerate(argv[1:], 1):
            if "{{" in each or not (each.startswith("-") or "=" in each or each[:1].isdigit()):
                return [index, *(index + inner for inner in _programs_in(argv[index:]) if "{{" not in each)]
        return []
    if _TAKE_PROGRAMS.fullmatch(name):
        return [index + 1 for index, each in enumerate(argv[:-1]) if index and _EVALUATES.fullmatch(each)]
    return []


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()
