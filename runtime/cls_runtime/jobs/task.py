"""What a job does to a row, in plain data that goes to other processes: which Encoder, which vectors, in which form, where to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cls_runtime.bundle.manifest import Manifest
from cls_runtime.encoder import Encoder
from cls_runtime.encoding.report import OnOverflow
from cls_runtime.engines.choice import graph_variant
from cls_runtime.engines.devices import Device
from cls_runtime.jobs.embedding import embed_blocks
from cls_runtime.jobs.inputs import JobInputs
from cls_runtime.jobs.output_folder import OutputFolder, output_folder
from cls_runtime.jobs.rows import EmbeddedBlock, RowBlock
from cls_runtime.jobs.shards import ShardFormat


@dataclass(frozen=True, kw_only=True)
class JobTask:
    """See the module's docstring. `variant` and `engine` are names, never `auto`: every process must give the same vectors.

    Attributes:
        bundle: the bundle's folder, the same on every machine, or `ID@COMMIT` of the hub.
        variant: the precision.
        engine: the inference engine.
        device: which GPUs of this machine, as of `Encoder.load`.
        threads: CPU threads of one Encoder; None for all.
        on_overflow: `truncate` or `raise`.
        inputs: the job's inputs.
        row_counts: rows of each input file, where all are Parquet; None otherwise.
        form: how a shard looks.
        shard_rows: rows of the input that a shard covers.
        out: the output folder, a path or a URI.
        fingerprint: the bundle's, when the job began.
        follow_links: read the bundle's files wherever links in its folder lead.
    """

    bundle: str
    variant: str
    engine: str
    device: Device | None
    threads: int | None
    on_overflow: OnOverflow
    inputs: JobInputs
    row_counts: tuple[int, ...] | None
    form: ShardFormat
    shard_rows: int
    out: str
    fingerprint: str
    follow_links: bool

    def load_encoder(self) -> Encoder:
        """The Encoder.

        Raises:
            BundleError: another bundle is at the path by now; also as `Encoder.load`.
            MissingExtraError, EngineError, UsageError: as `Encoder.load`.
        """
        return Encoder.load(
            self.bundle,
            variant=self.variant,
            engine=self.engine,
            device=self.device,
            threads=self.threads,
            on_overflow=self.on_overflow,
            fingerprint=self.fingerprint,
            follow_links=self.follow_links,
        )

    def folder(self) -> OutputFolder:
        """The output folder."""
        return output_folder(self.out)

    @contextlib.contextmanager
    def embedded(self, encoder: Encoder, blocks: Iterable[RowBlock]) -> Iterator[Iterator[EmbeddedBlock]]:
        """The blocks with their vectors; leaving the block stops the work."""
        with contextlib.closing(embed_blocks(encoder, blocks, self.form.vectors)) as embedded:
            yield embedded


def graph_sha256(manifest: Manifest, variant: str, engine: str) -> str:
    """The hash of the graph file that an engine reads for a variant; of a precision that it makes itself, the one it makes it from."""
    entry = manifest.variants[graph_variant(variant)]
    files = entry.engine_files.get(engine, entry.files)
    return files[0].sha256 if files else ""
