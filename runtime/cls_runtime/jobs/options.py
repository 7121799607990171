"""The options of a job, and of Ray. An unknown value is refused at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

from cls_runtime.bundle.manifest import Output
from cls_runtime.encoding.report import OnOverflow
from cls_runtime.encoding.vector_options import VectorOptions
from cls_runtime.engines.choice import VARIANT_NAMES, check_engine
from cls_runtime.engines.cpu import MOST_THREADS
from cls_runtime.engines.devices import Device, check_device
from cls_runtime.errors import UsageError
from cls_runtime.jobs.rows import OnError
from cls_runtime.option_checks import check_choice, check_count, check_flag

SHARD_ROWS = 100_000
LARGEST_COUNT = 2**31 - 1
OUTPUTS = tuple(name for name in get_args(Output) if name != "tokens")


@dataclass(frozen=True, kw_only=True, eq=False)
class JobOptions(VectorOptions):
    """The inputs and outputs of a job, and the options of `Encoder.encode` for its vectors.

    int8 shards without `ranges` have a scale for each row instead.

    Attributes:
        column: the column of the text.
        id_column: the column that becomes `id`; None for the row's number in the input.
        keep: columns to copy to the output.
        delimiter: the field separator of CSV files; None for a comma. It is refused without a CSV file.
        on_error: what to do with an unreadable row: `raise` ends the job, `skip` omits the row, `null` keeps it without a vector.
        shard_rows: input rows per shard.
        on_overflow: what to do with texts that exceed the model's maximum: `truncate` counts them, `warn` also gives one TruncationWarning
            at the end of the job, `raise` ends the job at the first.
        variant: the precision, or `auto`.
        engine: the inference engine, or `auto`.
        device: with engine `cuda`, which GPUs of this machine, as in `Encoder.load`; on Ray each worker has its own.
        threads: CPU threads (on Ray: of each worker); None for all (on Ray: 2).
        follow_links: read the bundle's files wherever links in its folder lead.

    Raises:
        UsageError: an invalid value.
    """

    column: str = "text"
    id_column: str | None = None
    keep: tuple[str, ...] = ()
    delimiter: str | None = None
    on_error: OnError = "raise"
    shard_rows: int = SHARD_ROWS
    on_overflow: OnOverflow = "truncate"
    variant: str = "auto"
    engine: str = "auto"
    device: Device | None = None
    threads: int | None = None
    follow_links: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_vectors(self)
        check_column("column", self.column)
        if self.id_column is not None:
            check_column("id_column", self.id_column)
        if not isinstance(self.keep, (tuple, list)) or not all(isinstance(name, str) for name in self.keep):
            raise UsageError(f"keep is {self.keep!r}, expected a tuple of columns' names, such as ('lang',)")
        if self.delimiter is not None:
            check_delimiter(self.delimiter)
        check_choice("on_error", self.on_error, get_args(OnError))
        check_choice("on_overflow", self.on_overflow, get_args(OnOverflow))
        check_count("shard_rows", self.shard_rows, most=LARGEST_COUNT)
        check_computing(self.variant, self.engine, self.threads, self.device)
        check_flag("follow_links", self.follow_links)

    @property
    def encoder_overflow(self) -> OnOverflow:
        """The same for an Encoder: the job warns once at its end, where its Encoders would at every shard."""
        return "raise" if self.on_overflow == "raise" else "truncate"

    def deciding(self) -> dict[str, Any]:
        """The options that a resumed job must share, but for those of its vectors, of which a bundle decides some."""
        options = {name: getattr(self, name) for name in ("column", "id_column", "on_error", "shard_rows")}
        options |= {"keep": list(self.keep), "refuses_overflow": self.on_overflow == "raise"}
        if self.delimiter not in (None, ","):  # jobs of versions that knew none have it not
            options["delimiter"] = self.delimiter
        return options


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where Ray runs, and the resources of a worker.

    Attributes:
        address: the address of a running cluster (`auto`, `host:port`, `ray://...`); None starts a local Ray and stops it afterwards.
        workers: the number of Encoders; None for as many as the cluster's CPUs allow.
        gpus: the share of a GPU that a worker reserves.

    Raises:
        UsageError: an invalid value.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.address is not None and (not isinstance(self.address, str) or not self.address):
            raise UsageError(f"ray address is {self.address!r}, expected auto, host:port or ray://host:port")
        if self.workers is not None:
            check_count("ray workers", self.workers, most=LARGEST_COUNT)
        is_number = isinstance(self.gpus, (int, float)) and not isinstance(self.gpus, bool)
        if not is_number or not 0 <= self.gpus < math.inf:
            raise UsageError(f"ray gpus is {self.gpus!r}, expected a number of at least 0, such as 0.5")


def check_vectors(options: VectorOptions) -> None:
    """Checks what no file of vectors holds, the rows of tokens, and that one prompt is named.

    Raises:
        UsageError: an option that is not understood.
    """
    check_choice("output", options.output, OUTPUTS)
    if options.prompt is not None and options.prompt_name is not None:
        raise UsageError(f"prompt_name is {options.prompt_name!r} and prompt is {options.prompt!r}, expected one of them")


def check_computing(variant: object, engine: object, threads: object, device: Device | None) -> None:
    """Checks what computes them.

    Raises:
        UsageError: an option that is not understood.
    """
    check_choice("variant", variant, VARIANT_NAMES)
    check_engine(engine)
    check_device(device, engine=str(engine))
    if threads is not None:
        check_count("threads", threads, most=MOST_THREADS)


def check_column(name: str, value: object) -> None:
    """Refuses anything but a column's name."""
    if not isinstance(value, str):
        raise UsageError(f"{name} is {value!r}, expected a column's name")


def check_delimiter(value: object) -> None:
    """Refuses what cannot separate the fields of CSV."""
    if not isinstance(value, str) or len(value) != 1 or value in '"\r\n\0' or "\ud800" <= value <= "\udfff":
        raise UsageError(f"delimiter is {value!r}, expected one character, such as ';' or '\\t', and no quote or line end")
