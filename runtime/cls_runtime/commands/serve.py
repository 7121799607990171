"""`cls-serve`: bundles behind HTTP, for the clients of OpenAI, TEI, Cohere and Jina."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cls_runtime.commands import shell
from cls_runtime.commands.bundle_options import BUNDLE_HELP
from cls_runtime.commands.engine_options import DEVICE_NEEDS_GPU_ENGINE, add_device, engine_name
from cls_runtime.commands.parsing import EXIT_CODES, command_parser
from cls_runtime.encoding.crew import check_threads
from cls_runtime.engines.choice import ENGINE_NAMES, VARIANT_NAMES
from cls_runtime.errors import MissingExtraError, UsageError
from cls_runtime.serving.options import ServeOptions
from cls_runtime.suggestions import did_you_mean

VARIABLE = "CLS_SERVE_"
_EXAMPLES = [
    ("cls-serve models/my-model", "on http://127.0.0.1:8080; / is a page to try it, /docs lists the endpoints"),
    ("cls-serve models/my-model --host 0.0.0.0 --api-key-file keys.txt", "for other machines, with keys"),
    ("cls-serve models/my-model models/my-reranker --threads 8", "two models that share eight threads"),
    ("cls-serve org/name@v1 --model-name text-embedding-3-small", "from the hub, under the name your program requests"),
    ("cls-serve models/my-model --uds /run/cls/serve.sock", "on a unix socket, behind a proxy"),
    ("CLS_SERVE_BUNDLE=/models/my-model CLS_SERVE_HOST=0.0.0.0 cls-serve", "options as variables, for containers"),
    ("cls-serve models/my-model --check", "check the bundle without serving it"),
]
_EXIT_CODES = [
    ("0", "ended by a signal, after every request was answered; with --check: all is well"),
    *((code, meaning) for code, meaning in EXIT_CODES if code in ("1", "2")),
    ("130, 143", "a second signal ended it at once"),
]
_REQUIREMENTS = (
    shell.Requirement(
        options=("--json",),
        need="--check; for a log in JSON use --log-format json",
        is_met=lambda arguments: arguments.check,
        instead=lambda _: "neither",
    ),
    shell.Requirement(
        options=("--host", "--port"),
        need="an address of this machine, not with a unix socket",
        is_met=lambda arguments: arguments.uds is None,
        instead=lambda arguments: f"--uds {arguments.uds}",
    ),
    DEVICE_NEEDS_GPU_ENGINE,
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMG]i?)?B?")
_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")
# What Kubernetes puts into every container for a service that is called cls-serve.
_OF_KUBERNETES = re.compile(r"SERVICE_(HOST|PORT)(_.*)?|PORT_\d+_(TCP|UDP|SCTP).*")
_LINK = re.compile(r"(tcp|udp|sctp)://.*")
_NO_OPTIONS = ("json", "check", "print_completion")  # of `ServeOptions`
# What is an option of `ServeOptions` under another name.
_FIELDS = {"max_body": "max_body_bytes", "deadline": "deadline_s", "shutdown_timeout": "shutdown_timeout_s", "drain_delay": "drain_delay_s"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cls-serve` with `argv` (default: the process's arguments) and gives the exit code."""
    return shell.run_command(_parser(), _run, argv)


def size_bytes(text: str) -> int:
    """A size as people write it.

    >>> size_bytes("16MiB"), size_bytes("2 MB"), size_bytes("4096")
    (16777216, 2000000, 4096)
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a size, expected one such as 16MiB, 2MB or 4096")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "cls-serve",
        "Serves bundles over HTTP to clients of OpenAI, text-embeddings-inference, Cohere and Jina until it receives a signal. Every "
        "option is also an environment variable: --max-body is CLS_SERVE_MAX_BODY, BUNDLE is CLS_SERVE_BUNDLE; separate several values "
        "with commas or spaces. Options win over variables.",
        examples=_EXAMPLES,
        works_alone=f"{VARIABLE}BUNDLE" in os.environ,
        intermixed=True,
        exit_codes=_EXIT_CODES,
        variables=[(f"{VARIABLE}...", "every option, such as CLS_SERVE_PORT=8080")],
    )
    add = parser.add_argument
    add("bundles", metavar="BUNDLE", nargs="*", default=None, help=f"{BUNDLE_HELP}; the first answers requests that name no model")
    where = parser.add_argument_group("address")
    where.add_argument("--host", help="address to listen on; 0.0.0.0 for all addresses of this machine (default: 127.0.0.1)")
    where.add_argument("--port", type=_whole, help="port; 0 picks a free one, which the log names (default: 8080)")
    where.add_argument(
        "--uds",
        metavar="PATH",
        type=Path,
        help="listen on a unix socket instead, open to its owner and group (mode 660); a socket left by a dead server is replaced, one "
        "in use or any other file is an error",
    )
    models = parser.add_argument_group("models")
    models.add_argument(
        "--model-name",
        metavar="NAME",
        action="append",
        dest="model_names",
        help="name that clients use for the model; other names fail with 404. Repeat it for more names, or with several bundles once "
        "for each, in order; * accepts any name (default: the folder's name, and the checkpoint's unless two bundles share it)",
    )
    models.add_argument("--variant", choices=VARIANT_NAMES, help="precision of all bundles (default: auto)")
    models.add_argument("--engine", choices=ENGINE_NAMES, type=engine_name, help="inference engine of all bundles (default: auto)")
    add_device(models)
    models.add_argument(
        "--threads", metavar="N", type=_whole, help="CPU threads that all bundles share (default: the CPUs the process may use)"
    )
    models.add_argument(
        "--on-overflow",
        choices=("truncate", "raise"),
        help="for texts longer than the model's maximum: truncate shortens and reports them, raise fails with 400 (422 on TEI's paths); a "
        "request can override this (default: truncate)",
    )
    models.add_argument("--prompt-name", metavar="NAME", help="prompt of requests that name none (default: the model's own)")
    models.add_argument(
        "--follow-links",
        action="store_true",
        default=None,
        help="follow symbolic links out of BUNDLE, such as those of stow and nix (default: refuse them, except in the hub's cache)",
    )
    bounds = parser.add_argument_group("limits")
    bounds.add_argument("--max-inputs", metavar="N", type=_whole, help="maximum texts per request; more fail with 413 (default: 2048)")
    bounds.add_argument(
        "--max-body",
        metavar="SIZE",
        type=size_bytes,
        help="maximum size of a request body, such as 16MiB, 16MB or a number of bytes; larger ones fail with 413. At most 16 bodies of "
        "this size are read at once; more fail with 429 (default: 16MiB)",
    )
    bounds.add_argument(
        "--max-queue-ms",
        metavar="MS",
        type=_number,
        help="how long a request may wait for earlier ones; if it would wait longer, it fails at once with 429 (default: 2000)",
    )
    bounds.add_argument(
        "--deadline",
        metavar="S",
        type=_number,
        help="seconds a request may take; then it fails with 503, its waiting texts are dropped, and an answer that the client has not "
        "read is cut off (default: 30)",
    )
    access = parser.add_argument_group("access")
    access.add_argument(
        "--api-key-file",
        metavar="FILE",
        type=Path,
        help="file with one key per line, # before a comment; read again on SIGHUP. Requests without one of its keys fail with 401 "
        "(default: no keys)",
    )
    access.add_argument("--api-key", nargs="?", action=_NeverAKey, help=argparse.SUPPRESS)
    access.add_argument(
        "--cors-origin",
        metavar="ORIGIN",
        action="append",
        dest="cors_origins",
        help="origin whose pages may call the server from a browser; repeat it for more; * for any (default: none)",
    )
    life = parser.add_argument_group("lifecycle")
    life.add_argument(
        "--shutdown-timeout",
        metavar="S",
        type=_number,
        help="seconds that requests have to finish after a signal; the rest fail with 503 (default: 25)",
    )
    life.add_argument(
        "--drain-delay",
        metavar="S",
        type=_number,
        help="seconds for which the server keeps accepting requests after a signal, while /ready is already 503 (default: 0)",
    )
    life.add_argument(
        "--log-format",
        choices=("text", "json"),
        help="format of the log on standard error; json writes one object per line (default: text)",
    )
    life.add_argument(
        "--check",
        action="store_true",
        default=None,
        help="load the bundles, verify their hashes, encode one text, print the findings and exit; with --json, print them as JSON",
    )
    return parser


class _NeverAKey(argparse.Action):
    """What is no option, and whose value an error must not repeat."""

    def __call__(self, parser: argparse.ArgumentParser, _namespace: object, _value: object, option_string: str | None = None) -> None:
        parser.error(self.why(option_string or ""))

    @staticmethod
    def why(name: str) -> str:
        return (
            f"{name} is not an option: other users of the machine could read the key there; write it to a file, and name that with "
            "--api-key-file"
        )


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number") from None


def _run(arguments: argparse.Namespace) -> int:
    _fill_from(arguments, _parser(), os.environ)
    shell.check_requirements(arguments, _REQUIREMENTS)
    given = {name: value for name, value in vars(arguments).items() if value is not None and name not in _NO_OPTIONS}
    given = {_FIELDS.get(name, name): tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    options = ServeOptions(**({"bundles": ()} | given))
    check_threads()
    try:
        from cls_runtime.serving import server
    except ImportError as error:
        raise MissingExtraError(f"{error.name} is not installed; run: pip install 'cls-export[serve]'") from None
    if arguments.check:
        return _check(options, in_json=bool(arguments.json))
    return server.serve(options)


def _fill_from(arguments: argparse.Namespace, parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    """Gives options that were not given the values of their variables.

    Raises:
        UsageError: a value is none.
    """
    known: dict[str, argparse.Action] = {}
    for action in parser._actions:  # noqa: SLF001  argparse has no other list of its options
        if action.dest not in ("help", "version", "print_completion"):
            name = next((option for option in action.option_strings if option.startswith("--")), "--bundle")
            known[name.removeprefix("--").replace("-", "_").upper()] = action
    for variable in sorted(environment):
        name = variable.removeprefix(VARIABLE)
        if name == variable or (_OF_KUBERNETES.fullmatch(name) and name not in known):
            continue
        if name not in known:
            shell.warn(
                f"{variable} is not an option of cls-serve and has no effect{did_you_mean(name, known)}; cls-serve --help lists the options"
            )
            continue
        text = environment[variable]
        if not text.strip() or (name == "PORT" and _LINK.fullmatch(text)):  # Kubernetes' too
            continue
        if getattr(arguments, known[name].dest) in (None, [], False):
            if name in ("HOST", "PORT") and (arguments.uds is not None or environment.get(f"{VARIABLE}UDS", "").strip()):
                continue  # an image sets them; whoever says a socket means that
            setattr(arguments, known[name].dest, _value(known[name], variable, text))


def _value(action: argparse.Action, variable: str, text: str) -> Any:
    """What an option's variable stands for."""
    if isinstance(action, _NeverAKey):
        raise UsageError(action.why(variable).replace("--api-key-file", f"{variable}_FILE"))
    text = text.strip()
    if action.nargs == 0:
        if text.lower() not in (*_YES, *_NO):
            raise UsageError(f"{variable} is {text[:40]!r}, expected 1 or 0")
        return text.lower() in _YES
    if action.dest in ("bundles", "model_names", "cors_origins"):
        return [item for item in re.split(r"[,\s]+", text) if item]
    convert: Callable[[str], Any] = action.type or str  # type: ignore[assignment]  # only functions here
    try:
        value = convert(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{variable}: {error}") from None
    if action.choices is not None and value not in action.choices:
        raise UsageError(f"{variable} is {text[:40]!r}, expected one of {', '.join(action.choices)}{did_you_mean(value, action.choices)}")
    return value


def _check(options: ServeOptions, *, in_json: bool) -> int:
    """Finds out whether the server could start, and says what it would serve."""
    from cls_runtime.serving.keys import ApiKeys
    from cls_runtime.serving.models import ServedModels, resident_bytes

    ApiKeys(options.api_key_file)
    models = ServedModels.load(options)
    try:
        if in_json:
            shell.print_json({"models": [model.document for model in models.all], "resident_bytes": resident_bytes()})
        elif not options.quiet:
            for line in models.lines():
                shell.say(line)
            shell.say("all files match their hashes, and every model encoded a text")
    finally:
        models.close()
    return shell.EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
