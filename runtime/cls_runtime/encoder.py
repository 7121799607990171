"""`Encoder`: a bundle, loaded. Text in, vectors out, from any number of threads."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.folder import Bundle, require_fingerprint
from cls_runtime.bundle.manifest import GRAPH_OUTPUTS, Manifest, Output
from cls_runtime.bundle.places import find_bundle, with_revision
from cls_runtime.encoding.batching import TOKEN_BUDGET
from cls_runtime.encoding.chunks import Distinct, Window, distinct, split, windows
from cls_runtime.encoding.crew import check_threads
from cls_runtime.encoding.inputs import iterable_of_texts
from cls_runtime.encoding.merging import MAX_WAIT_MS, MAX_WAITING_CHARACTERS, MAX_WAITING_TEXTS, RequestMerger
from cls_runtime.encoding.options import EncoderOptions
from cls_runtime.encoding.report import EncodeReport, EncoderInfo, OnOverflow, warn_of_truncation
from cls_runtime.encoding.runner import BatchRunner
from cls_runtime.encoding.tokenizer import Text, TextTokenizer, checked_text
from cls_runtime.encoding.vectors import OnInvalid, finish_rows
from cls_runtime.engines.base import Engine
from cls_runtime.engines.choice import Choice, choose, engine_module
from cls_runtime.engines.cpu import available_cpus
from cls_runtime.engines.needed_files import encoder_files

Float32 = NDArray[np.float32]


class Encoder:
    """A bundle's model, ready to turn texts into vectors. Made by `Encoder.load`, or by `Encoder.of` on an engine of one's own.

        >>> with Encoder.load("models/all-MiniLM-L6-v2") as encoder:  # doctest: +SKIP
        ...     encoder.encode(["a text", "another"]).shape
        (2, 384)

    Safe to use from several threads at once; all of them together use `info.threads` CPU threads. One that is dropped without `close` is
    freed too. Not after a fork: load it in the child process. Pickling sends the bundle's path, or its hub id and commit, with its
    fingerprint and the options, and loads it again on the other side.
    """

    def __init__(
        self,
        bundle: Bundle,
        tokenizer: TextTokenizer,
        engine: Engine,
        options: EncoderOptions,
        *,
        reasons: tuple[str, ...] = (),
        loaded_from: str | None = None,
    ) -> None:
        self._bundle = bundle
        self._options = options
        self._loaded_from = loaded_from
        self._runner = BatchRunner(engine, tokenizer, token_budget=options.token_budget)
        self._merger = RequestMerger(
            self._runner,
            rounds_at_once=engine.workers,
            token_budget=options.token_budget,
            max_wait_ms=options.max_wait_ms,
            max_waiting_texts=options.max_waiting_texts,
            max_waiting_characters=options.max_waiting_characters,
        )
        self._merger.end_with(self)
        self._info = EncoderInfo(
            engine=engine.name,
            variant=options.variant,
            reasons=reasons,
            threads=options.threads or engine.workers,
            workers=engine.workers,
            providers=engine.providers,
            token_budget=options.token_budget,
        )
        self._last = threading.local()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        variant: str = "auto",
        engine: str = "auto",
        threads: int | None = None,
        on_overflow: OnOverflow = "warn",
        on_invalid: OnInvalid = "raise",
        check_hashes: bool = False,
        token_budget: int = TOKEN_BUDGET,
        max_wait_ms: float = MAX_WAIT_MS,
        max_waiting_texts: int = MAX_WAITING_TEXTS,
        max_waiting_characters: int = MAX_WAITING_CHARACTERS,
        fingerprint: str | None = None,
        follow_links: bool = False,
    ) -> Encoder:
        """Opens a bundle and loads its graph, all of one bundle, also while `cls-export --force` replaces the folder.

        Args:
            path: the bundle's folder, or its name on the hub, of which the files of the chosen variant are fetched: `org/name`,
                `org/name@revision`. What exists on this machine is never looked for on the hub, nor is a `Path`.
            revision: a branch, a tag or a commit of the hub; None for the main branch.
            variant: `fp32`, `fp16`, `int8`, `bf16`, or `auto`: the fastest whose recorded parity meets its thresholds.
            engine: `onnxruntime`, `openvino`, `cuda`, `tensorrt`, or `auto`: ONNX Runtime where it is installed, else OpenVINO.
            threads: CPU threads in total; None for what the affinity mask and the container's quota allow.
            on_overflow: what to do with a text longer than the model takes: `warn` (and cut), `truncate`, or `raise`.
            on_invalid: what to do with a NaN, infinite or zero vector: `raise`, or `keep`.
            check_hashes: also compare every file's SHA-256 with the manifest's; sizes are always compared.
            token_budget: tokens in a batch, padding included; memory grows with it.
            max_wait_ms: how long `aencode` waits for other requests to compute together with; 0 for not at all.
            max_waiting_texts: texts that may wait for `aencode`; more is an OverloadedError.
            max_waiting_characters: characters of all those texts; likewise.
            fingerprint: the bundle's, where another bundle than that one must not be loaded; None for whichever is there.
            follow_links: read files wherever links in the folder lead, as of `Bundle.open`.

        Raises:
            BundleError: the bundle is missing, damaged, foreign or unsafe, or has another fingerprint.
            HubError: there is no such folder, and the hub does not give a bundle of that name.
            IntegrityError: `check_hashes`, and a file's hash differs.
            MissingExtraError: the engine is not installed, or for a bundle of the hub huggingface_hub.
            EngineError: the engine or the variant cannot run on this machine, or no threads can be started.
            UsageError: an unknown option, a variant that the bundle lacks, or a `revision` of a folder.
        """
        options = EncoderOptions(
            variant=variant,
            engine=engine,
            threads=threads,
            on_overflow=on_overflow,
            on_invalid=on_invalid,
            check_hashes=check_hashes,
            token_budget=token_budget,
            max_wait_ms=max_wait_ms,
            max_waiting_texts=max_waiting_texts,
            max_waiting_characters=max_waiting_characters,
            fingerprint=fingerprint,
            follow_links=follow_links,
        )
        return cls._load(with_revision(path, revision), options)

    @classmethod
    def _load(cls, name: str | os.PathLike[str], options: EncoderOptions) -> Encoder:
        threads = options.threads or available_cpus()
        place = find_bundle(name)
        fetched = place.fetch(functools.partial(encoder_files, variant=options.variant, engine=options.engine))

        def read(bundle: Bundle) -> tuple[Manifest, Choice, TextTokenizer, Engine]:
            if options.fingerprint is not None:
                require_fingerprint(bundle, options.fingerprint)
            choice = choose(bundle.manifest, engine=options.engine, variant=options.variant)
            check_threads()
            tokenizer = TextTokenizer.from_bundle(bundle)
            return bundle.manifest, choice, tokenizer, engine_module(choice.engine).load(bundle, variant=choice.variant, threads=threads)

        manifest, choice, tokenizer, engine = Bundle.read(
            place.folder, read, check_hashes=options.check_hashes, follow_links=options.follow_links, fetched=fetched
        )
        # The chosen variant, not "auto", and of this very bundle: a copy in another process must give the same vectors.
        options = dataclasses.replace(options, variant=choice.variant, threads=threads, fingerprint=manifest.fingerprint)
        bundle = Bundle(place.folder, manifest, options.follow_links, fetched)
        return cls(bundle, tokenizer, engine, options, reasons=choice.reasons, loaded_from=place.name)

    @classmethod
    def of(cls, bundle: Bundle, engine: Engine, options: EncoderOptions | None = None) -> Encoder:
        """An Encoder of a bundle on an engine that is there already: one that this package does not have, or one that a test watches.

            >>> graph = onnxruntime.load(bundle, variant="fp32", threads=2)  # doctest: +SKIP
            >>> Encoder.of(bundle, Watched(graph), EncoderOptions(variant="fp32", on_overflow="raise"))  # doctest: +SKIP

        It cannot be pickled: no other process could load the engine.

        Args:
            bundle: the bundle; its tokenizer and manifest are used, its graph is not.
            engine: what computes, closed with the Encoder.
            options: as of `load`; None for its defaults. `variant` is what `info` will say, `engine` and `check_hashes` say nothing here.

        Raises:
            BundleError: the bundle's tokenizer is missing or broken.
        """
        tokenizer = TextTokenizer.from_bundle(bundle)
        return cls(bundle, tokenizer, engine, options or EncoderOptions(), reasons=(f"engine {engine.name}: given to Encoder.of",))

    @property
    def bundle(self) -> Bundle:
        """Its bundle."""
        return self._bundle

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self._bundle.manifest

    @property
    def info(self) -> EncoderInfo:
        """The engine and the variant, why these, and the threads."""
        return self._info

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What `output=` may be with this bundle."""
        return self.manifest.encoder_outputs

    @property
    def last_report(self) -> EncodeReport:
        """What this thread's last `encode`, or the last block of its last `stream`, did; empty before the first."""
        report: EncodeReport = getattr(self._last, "report", EncodeReport())
        return report

    def encode(self, texts: Iterable[Text], *, output: Output = "cls", normalize: bool = False) -> Float32:
        """Vectors of texts or text pairs.

        Args:
            texts: any iterable of str or of pairs (str, str); not a str.
            output: `cls`, `pooler` or `logits`; `outputs` says which the bundle has.
            normalize: divide each vector by its L2 norm.

        Returns:
            float32 [n, width] in input order; [0, width] for no texts.

        Raises:
            TypeError: `texts` is a str, a mapping, a data frame or another thing that iterates over no texts, or an item is neither a str
                nor a pair.
            TextError: an item is not valid Unicode, or so long that it must be cut before it is tokenized, without a place for a cut.
            TextTooLongError: a text is too long, with `on_overflow="raise"`.
            InvalidVectorError: a vector is NaN, infinite or zero, with `on_invalid="raise"`.
            UsageError: the bundle has no such output.
            EngineError: the engine failed.
            ClosedError: after `close`.
        """
        return self._encode(texts, output=output, normalize=normalize)[0]

    def encode_with_report(self, texts: Iterable[Text], *, output: Output = "cls", normalize: bool = False) -> tuple[Float32, EncodeReport]:
        """`encode`, and what it did: how many texts, tokens, padding and batches, and which texts were cut.

            >>> rows, report = encoder.encode_with_report(texts)  # doctest: +SKIP
            >>> [texts[item.index] for item in report.truncated]  # doctest: +SKIP
            []

        Returns:
            The rows of `encode`, and their report, which is also `last_report`. Arguments and errors are those of `encode`.
        """
        return self._encode(texts, output=output, normalize=normalize)

    def _encode(self, texts: Iterable[Text], *, output: Output, normalize: bool) -> tuple[Float32, EncodeReport]:
        """The work of the two above, so that a warning names the line of whoever called either."""
        self._runner.check_usable()
        inputs = distinct(_whole(texts))
        rows = np.empty((len(inputs.once.texts), self.manifest.width(output)), dtype=np.float32)
        report = EncodeReport()
        for block, done in self._computed(split(inputs.once), output):
            rows[report.texts : report.texts + len(block)] = block
            report += done
        rows, report = self._completed(inputs, rows, report, output=output, normalize=normalize)
        self._warn_of_truncation(report, stacklevel=3)
        return rows, report

    async def aencode(self, texts: Iterable[Text], *, output: Output = "cls", normalize: bool = False) -> Float32:
        """`encode` for asyncio: requests that come at the same time are computed together, and the event loop is never blocked.

        Requests take turns, so a long one does not hold up the short ones behind it. Cancelling the task withdraws its texts and harms
        no other. `last_report` is this request's until the next `await`; its tokens, padding and batches include those of the requests
        computed with it.

        Args:
            texts: any iterable of str or of pairs (str, str); not a str.
            output: `cls`, `pooler` or `logits`.
            normalize: divide each vector by its L2 norm.

        Returns:
            float32 [n, width] in input order; [0, width] for no texts.

        Raises:
            OverloadedError: more waits than `max_waiting_texts` or `max_waiting_characters`; nothing was queued.
            TypeError, TextError, TextTooLongError, InvalidVectorError, UsageError, EngineError, ClosedError: as `encode`.
        """
        import asyncio  # whoever awaits has it; for everybody else it is a tenth of the time to the first vector

        self._runner.check_usable()
        inputs = distinct(_whole(texts))
        rows, report = np.empty((0, self.manifest.width(output)), dtype=np.float32), EncodeReport()
        if inputs.once.texts:
            rows, report = await asyncio.wrap_future(
                self._merger.submit(
                    inputs.once,
                    GRAPH_OUTPUTS[output],
                    width=self.manifest.width(output),
                    refuse_overflow=self._options.on_overflow == "raise",
                )
            )
        rows, report = self._completed(inputs, rows, report, output=output, normalize=normalize)
        self._warn_of_truncation(report, stacklevel=2)
        return rows

    def stream(self, texts: Iterable[Text], *, output: Output = "cls", normalize: bool = False) -> Iterator[Float32]:
        """Vectors of any iterable of texts, block by block, in memory that does not grow with it.

        It reads ahead by two windows of at most 4096 texts each. Close the iterator (or exhaust it) to stop the work.

        Args:
            texts: any iterable of str or of pairs (str, str); not a str.
            output: `cls`, `pooler` or `logits`.
            normalize: divide each vector by its L2 norm.

        Yields:
            float32 [n, width], in input order. `last_report` describes the block just yielded.

        Raises:
            TypeError, TextError, TextTooLongError, InvalidVectorError, UsageError, EngineError, ClosedError: as `encode`.
        """
        self._runner.check_usable()
        self.manifest.width(output)
        return self._stream(iterable_of_texts(texts), output=output, normalize=normalize)

    def _stream(self, texts: Iterable[Text], *, output: Output, normalize: bool) -> Iterator[Float32]:
        waiting: deque[Distinct] = deque()

        def read() -> Iterator[Window]:
            for window in windows(checked_text(text, index) for index, text in enumerate(texts)):
                waiting.append(distinct(window))
                yield waiting[-1].once

        warned = False
        with contextlib.closing(self._computed(read(), output)) as blocks:
            for block, done in blocks:
                rows, report = self._completed(waiting.popleft(), block, done, output=output, normalize=normalize)
                if report.truncated and not warned:
                    warned = True
                    self._warn_of_truncation(report, stacklevel=2)
                yield rows

    def close(self) -> None:
        """Waits for the batches that run, and frees the graph and the threads. May be called more than once."""
        self._merger.close()
        self._runner.close()

    def __enter__(self) -> Encoder:
        self._runner.check_usable()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[str, EncoderOptions], Encoder], tuple[str, EncoderOptions]]:
        if self._loaded_from is None:
            raise TypeError("an Encoder on an engine of one's own cannot be pickled; make it again on the other side")
        return self._load, (self._loaded_from, self._options)

    def __repr__(self) -> str:
        state = "closed" if self._runner.closed else f"{self._info.variant} on {self._info.engine}, {self._info.threads} threads"
        return f"<Encoder of {self.manifest.source.name}: {state}>"

    def _computed(self, parts: Iterable[Window], output: Output) -> Generator[tuple[Float32, EncodeReport], None, None]:
        return self._runner.compute(
            parts, GRAPH_OUTPUTS[output], width=self.manifest.width(output), refuse_overflow=self._options.on_overflow == "raise"
        )

    def _completed(
        self, inputs: Distinct, rows: Float32, report: EncodeReport, *, output: Output, normalize: bool
    ) -> tuple[Float32, EncodeReport]:
        """What the caller gets, from the rows and the report of `inputs.once`; the report is remembered."""
        rows, report = inputs.rows_of_all(rows), inputs.report_of_all(report)
        self._check_and_normalize(rows, inputs.whole, output=output, normalize=normalize)
        self._last.report = report
        return rows, report

    def _check_and_normalize(self, rows: Float32, window: Window, *, output: Output, normalize: bool) -> None:
        finish_rows(
            rows,
            first_index=window.indices[0] if window.indices else 0,
            normalize=normalize,
            on_invalid=self._options.on_invalid,
            zero_is_valid=output == "logits",
        )

    def _warn_of_truncation(self, report: EncodeReport, *, stacklevel: int) -> None:
        if report.truncated and self._options.on_overflow == "warn":
            warn_of_truncation(report.truncated, max_length=self.manifest.max_length, stacklevel=stacklevel + 1)


def _whole(texts: Iterable[Text]) -> Window:
    checked = [checked_text(text, index) for index, text in enumerate(iterable_of_texts(texts))]
    return Window(checked, range(len(checked)))
