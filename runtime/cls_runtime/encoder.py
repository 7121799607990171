"""`Encoder`: a loaded bundle. Texts in, vectors out, from any number of threads."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cls_runtime.bundle.folder import Bundle, require_fingerprint
from cls_runtime.bundle.manifest import Manifest, Output
from cls_runtime.bundle.places import find_bundle, with_revision
from cls_runtime.encoding.chunks import Distinct, Window, distinct, most_characters, split, windows
from cls_runtime.encoding.crew import check_threads
from cls_runtime.encoding.finishing import Vectors, finished
from cls_runtime.encoding.inputs import iterable_of_texts
from cls_runtime.encoding.job import Computed
from cls_runtime.encoding.merging import MAX_WAITING_CHARACTERS, MAX_WAITING_TEXTS, RequestMerger
from cls_runtime.encoding.options import EncoderOptions
from cls_runtime.encoding.overflow import Overflow, TruncationSide
from cls_runtime.encoding.own_ranges import own_ranges
from cls_runtime.encoding.prompts import DOCUMENT, QUERY, prompt_length, with_prompt
from cls_runtime.encoding.report import (
    BatchSummary,
    EncodeReport,
    EncoderInfo,
    OnOverflow,
    QueueState,
    Truncation,
    check_overflow,
    warn_of_truncation,
)
from cls_runtime.encoding.rows import Rows, empty_rows
from cls_runtime.encoding.runner import BatchRunner
from cls_runtime.encoding.similarity import similarity
from cls_runtime.encoding.text_tokens import TextTokens, text_tokens
from cls_runtime.encoding.texts import Text, checked_text, checked_texts
from cls_runtime.encoding.tokenizer import TextTokenizer
from cls_runtime.encoding.vector_options import WITH_RANGES, DType, VectorForm, VectorOptions
from cls_runtime.encoding.vectors import OnInvalid
from cls_runtime.engines.base import Engine
from cls_runtime.engines.choice import Choice, choose, engine_module
from cls_runtime.engines.cpu import available_cpus
from cls_runtime.engines.devices import Device, Numbers, computing, device_numbers
from cls_runtime.engines.needed_files import encoder_files
from cls_runtime.errors import DimensionsWarning, UsageError
from cls_runtime.progress_bar import ProgressBar

Float32 = NDArray[np.float32]


class Encoder:
    """A bundle's model, ready to turn texts into vectors. Create one with `Encoder.load`, or with `Encoder.of` on your own engine.

        >>> with Encoder.load("models/bge-small-en-v1.5") as encoder:
        ...     encoder.encode(["a text", "another"]).shape
        (2, 384)

    It is safe to use from several threads at once; all of them together use `info.threads` CPU threads. An Encoder that is dropped
    without `close` is freed too. After a fork it raises EngineError: load it in the child process. Pickling sends the bundle's path, or
    its hub id and commit, with the fingerprint and the options, and loads the bundle again on the other side.
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
        shares_threads_of: Encoder | None = None,
        devices: Numbers = (),
    ) -> None:
        self._bundle = bundle
        self._options = options
        self._loaded_from = loaded_from
        self._tokenizer = tokenizer
        self._ranges: dict[tuple[str, int, bool, bool], Float32] = {}
        self._overflow = Overflow(options.on_overflow, tokenizer.truncate_left)
        slots = None if shares_threads_of is None else _running(shares_threads_of).slots
        self._runner = BatchRunner(engine, tokenizer, token_budget=options.token_budget, slots=slots)
        self._merger = RequestMerger(
            self._runner,
            workers=engine.workers,
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
            token_budget=self._runner.batching.token_budget,
            devices=devices,
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
        device: Device | None = None,
        on_overflow: OnOverflow = "warn",
        on_invalid: OnInvalid = "raise",
        check_hashes: bool = False,
        token_budget: int | None = None,
        max_waiting_texts: int = MAX_WAITING_TEXTS,
        max_waiting_characters: int = MAX_WAITING_CHARACTERS,
        fingerprint: str | None = None,
        follow_links: bool = False,
        shares_threads_of: Encoder | None = None,
    ) -> Encoder:
        """Opens a bundle and loads its graph. All files are of one bundle, even while `cls-export --force` replaces the folder.

        Args:
            path: the bundle's folder, or its name on the hub: `org/name`, `org/name@revision`. Of the hub only the files of the chosen
                variant are downloaded. A folder of that name wins, and a `Path` is never looked up on the hub.
            revision: a branch, a tag or a commit on the hub; None for the main branch.
            variant: `fp32`, `fp16`, `int8`, `bf16`, `tf32`, or `auto`: the fastest one whose recorded parity meets its thresholds.
            engine: `onnxruntime`, `openvino`, `native`, `cuda`, or `auto`: the native engine if it is installed, has weights in the bundle
                and was measured faster on this kind of CPU; otherwise ONNX Runtime if it is installed, otherwise OpenVINO; never a GPU.
            threads: CPU threads in total, at most 1024; None for what the affinity mask and the container's quota allow.
            device: with engine `cuda`, which GPU: 1, "1" or "cuda:1", counted from 0 among those in `CUDA_VISIBLE_DEVICES`; several,
                which share the batches: "0,1" or (0, 1); "all", which a pickled copy reads as all of its own machine; None for the first.
            on_overflow: what to do with a text that exceeds the model's maximum: `warn` (and truncate), `truncate`, or `raise`.
            on_invalid: what to do with a NaN, infinite or zero vector: `raise` or `keep`.
            check_hashes: also compare every file's SHA-256 with the manifest; sizes are always compared.
            token_budget: the most tokens in a batch, padding included; memory grows with it. None for the engine's default.
            max_waiting_texts: the most texts that may wait for `aencode`; beyond it, `aencode` raises OverloadedError.
            max_waiting_characters: the same for the characters of these texts.
            fingerprint: load only the bundle with this fingerprint; None for any.
            follow_links: read files wherever links in the folder lead, as in `Bundle.open`.
            shares_threads_of: another Encoder of this process; both together then run no more batches at once than that one runs alone.
                Either may be closed first. A pickled copy shares nothing.

        Raises:
            BundleError: the bundle is missing, damaged, foreign or unsafe, or has another fingerprint.
            HubError: there is no such folder, and the hub has no bundle of that name.
            IntegrityError: with `check_hashes`, a file's hash differs.
            MissingExtraError: the engine is not installed, or huggingface_hub for a bundle on the hub.
            EngineError: the engine or the variant cannot run on this machine, a GPU is missing, or no threads can be started.
            UsageError: an unknown option, a variant that the bundle lacks, a `revision` of a folder, or a `device` of a CPU engine.
        """
        options = EncoderOptions(
            variant=variant,
            engine=engine,
            threads=threads,
            device=device,
            on_overflow=on_overflow,
            on_invalid=on_invalid,
            check_hashes=check_hashes,
            token_budget=token_budget,
            max_waiting_texts=max_waiting_texts,
            max_waiting_characters=max_waiting_characters,
            fingerprint=fingerprint,
            follow_links=follow_links,
        )
        return cls._load(with_revision(path, revision), options, shares_threads_of)

    @classmethod
    def _load(cls, name: str | os.PathLike[str], options: EncoderOptions, shares_threads_of: Encoder | None = None) -> Encoder:
        threads = options.threads or available_cpus()
        if shares_threads_of is not None:
            _running(shares_threads_of).check_usable()
            threads = options.threads or shares_threads_of.info.threads
        place = find_bundle(name)
        fetched = place.fetch(functools.partial(encoder_files, variant=options.variant, engine=options.engine))

        def read(bundle: Bundle) -> tuple[Manifest, Choice, TextTokenizer, Engine, Numbers]:
            if options.fingerprint is not None:
                require_fingerprint(bundle, options.fingerprint)
            choice = choose(bundle.manifest, engine=options.engine, variant=options.variant)
            check_threads()
            tokenizer = TextTokenizer.from_bundle(bundle)
            devices = device_numbers(options.device, engine=choice.engine)
            engine = engine_module(choice.engine).load(bundle, variant=choice.variant, threads=threads, devices=devices)
            return bundle.manifest, choice, tokenizer, engine, computing(devices, engine=choice.engine)

        manifest, choice, tokenizer, engine, devices = Bundle.read(
            place.folder, read, check_hashes=options.check_hashes, follow_links=options.follow_links, fetched=fetched
        )
        # The chosen variant, not "auto", and of this very bundle: a copy in another process must give the same vectors.
        options = dataclasses.replace(options, variant=choice.variant, threads=threads, fingerprint=manifest.fingerprint)
        bundle = Bundle(place.folder, manifest, options.follow_links, fetched)
        return cls(
            bundle,
            tokenizer,
            engine,
            options,
            reasons=choice.reasons,
            loaded_from=place.name,
            shares_threads_of=shares_threads_of,
            devices=devices,
        )

    @classmethod
    def of(
        cls, bundle: Bundle, engine: Engine, options: EncoderOptions | None = None, *, shares_threads_of: Encoder | None = None
    ) -> Encoder:
        """An Encoder on an engine that you provide: one that this package does not have, or one that a test observes.

            >>> graph = onnxruntime.load(bundle, variant="fp32", threads=2)  # doctest: +SKIP
            >>> Encoder.of(bundle, Watched(graph), EncoderOptions(variant="fp32", on_overflow="raise"))  # doctest: +SKIP

        It cannot be pickled, because no other process could load the engine.

        Args:
            bundle: the bundle, of which the tokenizer and the manifest are used, not the graph.
            engine: anything with the methods of `cls_runtime.engines.base.Engine`; closed with the Encoder.
            options: as in `load`; None for the defaults. `info` repeats `variant`; `engine` and `check_hashes` have no effect.
            shares_threads_of: as in `load`.

        Raises:
            BundleError: the bundle's tokenizer is missing or broken.
        """
        tokenizer = TextTokenizer.from_bundle(bundle)
        reasons = (f"engine {engine.name}: given to Encoder.of",)
        if shares_threads_of is not None:
            _running(shares_threads_of).check_usable()
        return cls(bundle, tokenizer, engine, options or EncoderOptions(), reasons=reasons, shares_threads_of=shares_threads_of)

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        return self._bundle

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self._bundle.manifest

    @property
    def info(self) -> EncoderInfo:
        """The engine and the variant, why they were chosen, and the threads."""
        return self._info

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The values that `output=` can have with this bundle."""
        return self.manifest.encoder_outputs

    @property
    def last_report(self) -> EncodeReport:
        """The report of this thread's last `encode`, or of the last block of its last `stream`; empty before the first.

        After `aencode` read it before the next `await`, or use `aencode_with_report`.
        """
        report: EncodeReport = getattr(self._last, "report", EncodeReport())
        return report

    @property
    def queue(self) -> QueueState:
        """The state of the queue of `aencode`. Reading it takes microseconds and no lock, on any thread."""
        return self._merger.state

    def observe(self, callback: Callable[[BatchSummary], None] | None) -> None:
        """Calls `callback` after each run of the graph, on the thread that ran it. There is one observer; None removes it.

        Keep it quick: the thread runs no batch meanwhile. An exception in it fails the call that the batch belongs to.
        """
        self._runner.observer = callback

    def encode(
        self,
        texts: Iterable[Text],
        *,
        output: Output = "sentence",
        normalize: bool | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        dtype: DType = "float32",
        ranges: ArrayLike | None = None,
        on_overflow: OnOverflow | None = None,
        truncation_side: TruncationSide | None = None,
        show_progress: bool = False,
    ) -> Vectors:
        """Vectors of texts or text pairs, by default as the model was trained to give them.

        A calling thread computes a single batch itself. docs/guides/embed.md has examples.

        Args:
            texts: any ordered iterable of str or of pairs (str, str), but not a str. Repeated texts are computed once.
            output: `sentence` (also called `cls` if it is that row), `pooler`, `logits` or `tokens`; see `outputs`.
            normalize: divide each vector (each token's vector for `tokens`) by its L2 norm; None as the model was trained, which is never
                for outputs other than the sentence.
            prompt_name: the name of the prompt to put before each text, or before the first text of a pair; None for the model's default.
            prompt: the text of a prompt, which wins over `prompt_name`; "" for none.
            dimensions: keep the first dimensions of a sentence's vector and, unless `normalize` is False, normalize it again; None for the
                model's `truncate_dim`, which does not normalize again, or for all. A size that the model does not name is a
                DimensionsWarning.
            dtype: `float32`, `float16`, `int8`, `uint8`, or one bit per dimension, packed: `binary` (int8), `ubinary` (uint8).
            ranges: float32 [2, width], the minimum and maximum of each dimension, which int8 and uint8 divide into 256 steps; None for
                `ranges()`, those of the bundle.
            on_overflow: what to do with a text that exceeds the model's maximum, as in `load`; None for the value given there.
            truncation_side: where such a text is cut, `right` or `left`; None for the tokenizer's default.
            show_progress: draw a progress bar on standard error; needs tqdm.

        Returns:
            `dtype` [n, width] in input order; [0, width] for no texts. For `tokens`, a list of n arrays [tokens, hidden], special tokens
            included.

        Raises:
            TypeError: `texts` is a str, a mapping, a data frame or something else that does not iterate over texts, or an item is neither
                a str nor a pair.
            TextError: an item is not valid Unicode, or so long that it must be cut before tokenizing and there is no safe place for it.
            TextTooLongError: with `on_overflow="raise"`, a text with its prompt is too long.
            InvalidVectorError: with `on_invalid="raise"`, a vector is NaN, infinite or zero; or `dtype` cannot hold it.
            UsageError: the bundle has no such output, prompt or number of dimensions, or an option makes no sense.
            BundleError: the golden vectors, from which the default ranges come, cannot be read.
            MissingExtraError: `show_progress` without tqdm installed.
            EngineError: the engine failed.
            ClosedError: after `close`.
        """
        options = VectorOptions(
            output=output, normalize=normalize, prompt_name=prompt_name, prompt=prompt, dimensions=dimensions, dtype=dtype, ranges=ranges
        )
        return self._encode(texts, options, self._overflow.with_options(on_overflow, truncation_side), show_progress=show_progress)[0]

    def encode_query(
        self,
        texts: Iterable[Text],
        *,
        output: Output = "sentence",
        normalize: bool | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        dtype: DType = "float32",
        ranges: ArrayLike | None = None,
        on_overflow: OnOverflow | None = None,
        truncation_side: TruncationSide | None = None,
        show_progress: bool = False,
    ) -> Vectors:
        """`encode` with the prompt named `query`, or without a prompt if the model has none of that name."""
        options = VectorOptions(
            output=output,
            normalize=normalize,
            prompt_name=QUERY,
            prompt=prompt,
            dimensions=dimensions,
            dtype=dtype,
            ranges=ranges,
        )
        return self._encode(texts, options, self._overflow.with_options(on_overflow, truncation_side), show_progress=show_progress)[0]

    def encode_document(
        self,
        texts: Iterable[Text],
        *,
        output: Output = "sentence",
        normalize: bool | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        dtype: DType = "float32",
        ranges: ArrayLike | None = None,
        on_overflow: OnOverflow | None = None,
        truncation_side: TruncationSide | None = None,
        show_progress: bool = False,
    ) -> Vectors:
        """`encode` with the prompt named `document`, or without a prompt if the model has none of that name."""
        options = VectorOptions(
            output=output,
            normalize=normalize,
            prompt_name=DOCUMENT,
            prompt=prompt,
            dimensions=dimensions,
            dtype=dtype,
            ranges=ranges,
        )
        return self._encode(texts, options, self._overflow.with_options(on_overflow, truncation_side), show_progress=show_progress)[0]

    def encode_with_report(
        self,
        texts: Iterable[Text],
        *,
        output: Output = "sentence",
        normalize: bool | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        dtype: DType = "float32",
        ranges: ArrayLike | None = None,
        on_overflow: OnOverflow | None = None,
        truncation_side: TruncationSide | None = None,
        show_progress: bool = False,
    ) -> tuple[Vectors, EncodeReport]:
        """`encode` with a report: texts, tokens, padding, batches, and which texts were truncated.

            >>> rows, report = encoder.encode_with_report(texts)
            >>> [texts[item.index] for item in report.truncated]
            []

        Returns:
            The vectors and their report, which is also `last_report`. Arguments and errors are those of `encode`.
        """
        options = VectorOptions(
            output=output, normalize=normalize, prompt_name=prompt_name, prompt=prompt, dimensions=dimensions, dtype=dtype, ranges=ranges
        )
        return self._encode(texts, options, self._overflow.with_options(on_overflow, truncation_side), show_progress=show_progress)

    def _encode(
        self, texts: Iterable[Text], options: VectorOptions, overflow: Overflow, *, show_progress: bool
    ) -> tuple[Vectors, EncodeReport]:
        """The work of those above, so that a warning names the line of whoever called one of them."""
        self._runner.check_usable()
        form = self._form(options, stacklevel=3)
        inputs = distinct(self._whole(texts, form))
        rows = empty_rows(len(inputs.once.texts), form.graph_output, form.width)
        lengths = np.zeros(len(inputs.once.texts), dtype=np.intp)
        report = EncodeReport()
        with ProgressBar(unit="text", total=len(inputs.once.texts), shown=False, asked_for=show_progress) as bar:
            most = most_characters(form.graph_output, form.width)
            parts = split(inputs.once, most_texts=self._runner.batching.window_texts, most=most)
            for done in self._computed(parts, form, overflow, progress=bar.advance if bar.is_drawn else None):
                part = slice(report.texts, report.texts + len(done.lengths))
                rows[part], lengths[part] = done.rows, done.lengths
                report += done.report
        vectors, report = self._completed(inputs, rows, inputs.report_of_all(report, lengths), form)
        self._warn_of_truncation(report.truncated, overflow, stacklevel=3)
        return vectors, report

    async def aencode(
        self,
        texts: Iterable[Text],
        *,
        output: Output = "sentence",
        normalize: bool | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        dtype: DType = "float32",
        ranges: ArrayLike | None = None,
        on_overflow: OnOverflow | None = None,
        truncation_side: TruncationSide | None = None,
        timeout_s: float | None = None,
    ) -> Vectors:
        """`encode` for asyncio: requests that arrive at the same time are computed together, and the event loop is never blocked.

        An idle worker starts a request at once. Requests take turns, so that a long one does not delay the short ones behind it.
        Cancelling the task removes its texts and affects no other request. `last_report` belongs to this request until the next `await`.
        Arguments and results are those of `encode`.

        Args:
            timeout_s: the seconds after which the request fails, counted from the call; None for never.

        Raises:
            OverloadedError: the queue exceeds `max_waiting_texts` or `max_waiting_characters`; nothing was queued.
            DeadlineError: `timeout_s` passed; texts that still waited are not computed.
            TypeError, TextError, TextTooLongError, InvalidVectorError, UsageError, BundleError, EngineError, ClosedError: as `encode`.
        """
        options = VectorOptions(
            output=output, normalize=normalize, prompt_name=prompt_name, prompt=prompt, dimensions=dimensions, dtype=dtype, ranges=ranges
        )
        overflow = self._overflow.with_options(on_overflow, truncation_side)
        return (await self._aencode(texts, options, overflow, timeout_s=timeout_s))[0]

    async def aencode_with_report(
        self,
        texts: Iterable[Text],
        *,
        output: Output = "sentence",
        normalize: bool | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        dtype: DType = "float32",
        ranges: ArrayLike | None = None,
        on_overflow: OnOverflow | None = None,
        truncation_side: TruncationSide | None = None,
        timeout_s: float | None = None,
    ) -> tuple[Vectors, EncodeReport]:
        """`aencode` with a report of this request alone: tokens, padding, batches, and the time it waited and took.

        Returns:
            The vectors and their report, which is also `last_report`. Arguments and errors are those of `aencode`.
        """
        options = VectorOptions(
            output=output, normalize=normalize, prompt_name=prompt_name, prompt=prompt, dimensions=dimensions, dtype=dtype, ranges=ranges
        )
        overflow = self._overflow.with_options(on_overflow, truncation_side)
        return await self._aencode(texts, options, overflow, timeout_s=timeout_s)

    async def _aencode(
        self, texts: Iterable[Text], options: VectorOptions, overflow: Overflow, *, timeout_s: float | None
    ) -> tuple[Vectors, EncodeReport]:
        """The work of those two, so that a warning names the line of whoever awaits one of them."""
        import asyncio  # whoever awaits has it; for everybody else it is a tenth of the time to the first vector

        deadline = None if timeout_s is None else time.monotonic() + _checked_seconds(timeout_s)
        self._runner.check_usable()
        form = self._form(options, stacklevel=3)
        inputs = distinct(self._whole(texts, form))
        rows, report = empty_rows(0, form.graph_output, form.width), EncodeReport()
        if inputs.once.texts:
            loop = asyncio.get_running_loop()
            request = self._merger.submit(inputs.once, form.graph_output, width=form.width, overflow=overflow, loop=loop, deadline=deadline)
            try:
                rows, report, lengths = await request.future
            finally:
                self._merger.withdraw(request)
            report = inputs.report_of_all(report, lengths)
        vectors, report = self._completed(inputs, rows, report, form)
        self._warn_of_truncation(report.truncated, overflow, stacklevel=3)
        return vectors, report

    def stream(
        self,
        texts: Iterable[Text],
        *,
        output: Output = "sentence",
        normalize: bool | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        dtype: DType = "float32",
        ranges: ArrayLike | None = None,
        on_overflow: OnOverflow | None = None,
        truncation_side: TruncationSide | None = None,
    ) -> Iterator[Vectors]:
        """Vectors of any iterable of texts, block by block, in constant memory.

        It reads ahead by two windows of at most 4096 texts, for `output="tokens"` of about 64 MiB of rows. Close or exhaust the iterator
        to stop the work. Arguments are those of `encode`.

        Yields:
            The result of `encode` for the next n texts, in input order. `last_report` describes the block just yielded.

        Raises:
            TypeError, TextError, TextTooLongError, InvalidVectorError, UsageError, BundleError, EngineError, ClosedError: as `encode`.
        """
        options = VectorOptions(
            output=output, normalize=normalize, prompt_name=prompt_name, prompt=prompt, dimensions=dimensions, dtype=dtype, ranges=ranges
        )
        overflow = self._overflow.with_options(on_overflow, truncation_side)
        self._runner.check_usable()
        return self._stream(iterable_of_texts(texts), self._form(options, stacklevel=2), overflow)

    def _stream(self, texts: Iterable[Text], form: VectorForm, overflow: Overflow) -> Iterator[Vectors]:
        waiting: deque[Distinct] = deque()
        unpooled = self._unpooled(form)

        def read() -> Iterator[Window]:
            checked = (checked_text(text, index) for index, text in enumerate(texts))
            given = (with_prompt(form.prompt, text) for text in checked) if form.prompt else checked
            most = most_characters(form.graph_output, form.width)
            for window in windows(given, most_texts=self._runner.batching.window_texts, most=most):
                waiting.append(distinct(window.unpooled(unpooled)))
                yield waiting[-1].once

        warned = False
        with contextlib.closing(self._computed(read(), form, overflow)) as blocks:
            for done in blocks:
                inputs = waiting.popleft()
                vectors, report = self._completed(inputs, done.rows, inputs.report_of_all(done.report, done.lengths), form)
                if report.truncated and not warned:
                    warned = True
                    self._warn_of_truncation(report.truncated, overflow, stacklevel=2)
                yield vectors

    def tokens(
        self,
        texts: Iterable[Text],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        on_overflow: OnOverflow | None = None,
        truncation_side: TruncationSide | None = None,
        whole: bool = False,
    ) -> list[TextTokens]:
        """The tokens of each text as `encode` passes them to the model: after the prompt, and truncated if there are too many.

            >>> encoder.tokens(["the cat"])[0].tokens
            ('[CLS]', 'the', 'cat', '[SEP]')

        Row i of `output="tokens"` belongs to token i. Arguments and errors are those of `encode`.

        Args:
            whole: all tokens of each text, also those beyond the model's maximum, to count them or to split a text; a text may then have
                at most 1,048,576 characters.

        Raises:
            UsageError: also for `whole` together with `on_overflow` or `truncation_side`.
        """
        self._runner.check_usable()
        if whole and not (on_overflow is None and truncation_side is None):
            raise UsageError("whole=True truncates nothing; leave on_overflow and truncation_side out")
        form = self._form(VectorOptions(prompt_name=prompt_name, prompt=prompt), stacklevel=2)
        overflow = self._overflow.with_options(on_overflow, truncation_side)
        given = self._whole(texts, form).texts
        left = overflow.truncate_left
        found = [text_tokens(self._tokenizer, text, index, truncate_left=left, whole=whole) for index, text in enumerate(given)]
        truncated = [item.truncated for item in found if item.truncated is not None]
        if overflow.refuses:
            check_overflow(truncated, max_length=self.manifest.max_length)
        self._warn_of_truncation(truncated, overflow, stacklevel=2)
        return found

    def decode(self, ids: Iterable[Sequence[int]], *, skip_special_tokens: bool = True) -> list[str]:
        """The text of each list of token ids, as far as the tokenizer can reconstruct it.

            >>> encoder.decode([encoder.tokens(["the cat"])[0].ids])
            ['the cat']

        Args:
            ids: lists of ids, such as those of `tokens`.
            skip_special_tokens: leave out special tokens.

        Raises:
            TextError: an id belongs to no token.
            ClosedError: as `encode`.
        """
        self._runner.check_usable()
        back = self._tokenizer.ids_to_text
        return [back.text(item, index, skip_special_tokens=skip_special_tokens) for index, item in enumerate(ids)]

    def ranges(self, *, output: Output = "sentence", normalize: bool | None = None, dimensions: int | None = None) -> Float32:
        """The minimum and maximum of each dimension over the bundle's golden texts, for vectors of `encode` with these options.

        By default int8 and uint8 divide these ranges into 256 steps. Ranges of a sample of your own texts are more precise:
        `np.stack([sample.min(0), sample.max(0)])`.

        Returns:
            float32 [2, width].

        Raises:
            UsageError: as `encode`, or the output is `tokens`, which has none.
            BundleError: the golden vectors cannot be read.
        """
        return self._own_ranges(VectorOptions(output=output, normalize=normalize, dimensions=dimensions, dtype="int8").of(self.manifest))

    def similarity(self, a: ArrayLike, b: ArrayLike) -> Float32:
        """The similarity of each vector in `a` to each in `b`, by the function that the model names; the cosine if it names none.

            >>> encoder.similarity(encoder.encode_query(["cats?"]), encoder.encode_document(["a cat", "a dog"])).shape
            (1, 2)

        Args:
            a: vectors [n, width] or one [width].
            b: vectors [m, width] or one [width].

        Returns:
            float32 [n, m]; higher is more similar. For `euclidean` and `manhattan` these are negative distances.

        Raises:
            UsageError: the arrays are not vectors of the same width.
        """
        return similarity(a, b, function=self.manifest.similarity_fn_name or "cosine")

    def close(self) -> None:
        """Waits for running batches, then frees the graph and the threads. Waiting `aencode` requests fail with ClosedError.

        It may be called more than once.
        """
        self._merger.close()
        self._runner.close()

    def __enter__(self) -> Encoder:
        self._runner.check_usable()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[str, EncoderOptions], Encoder], tuple[str, EncoderOptions]]:
        if self._loaded_from is None:
            raise TypeError("an Encoder made with Encoder.of cannot be pickled; create it again in the other process")
        return self._load, (self._loaded_from, self._options)

    def __repr__(self) -> str:
        state = "closed" if self._runner.closed else f"{self._info.variant} on {self._info.engine}, {self._info.threads} threads"
        return f"<Encoder of {self.manifest.source.name}: {state}>"

    def _form(self, options: VectorOptions, *, stacklevel: int) -> VectorForm:
        """What the vectors of a call are; warns of a size that the bundle does not name."""
        form = options.of(self.manifest)
        if doubt := options.doubt(self.manifest):
            warnings.warn(doubt, DimensionsWarning, stacklevel=stacklevel + 1)
        return form

    def _whole(self, texts: Iterable[Text], form: VectorForm) -> Window:
        """All texts, as the model is given them."""
        checked = checked_texts(iterable_of_texts(texts))
        if form.prompt:
            checked = [with_prompt(form.prompt, text) for text in checked]
        return Window(checked, range(len(checked))).unpooled(self._unpooled(form))

    def _unpooled(self, form: VectorForm) -> int:
        """How many tokens at the beginning of each text are read and not pooled."""
        return prompt_length(self._tokenizer, form.prompt) if form.prompt and self.manifest.leaves_prompt_out else 0

    def _computed(
        self, parts: Iterable[Window], form: VectorForm, overflow: Overflow, *, progress: Callable[[int], None] | None = None
    ) -> Generator[Computed, None, None]:
        return self._runner.compute(parts, form.graph_output, width=form.width, overflow=overflow, progress=progress)

    def _completed(self, inputs: Distinct, rows: Rows, report: EncodeReport, form: VectorForm) -> tuple[Vectors, EncodeReport]:
        """What the caller gets, from the rows of `inputs.once`; the report, which is of all texts, is remembered."""
        rows = inputs.rows_of_all(rows)
        ranges = form.ranges
        if ranges is None and form.dtype in WITH_RANGES:
            ranges = self._own_ranges(form)
        vectors = finished(rows, form, indices=inputs.whole.indices, ranges=ranges, on_invalid=self._options.on_invalid)
        self._last.report = report
        return vectors, report

    def _own_ranges(self, form: VectorForm) -> Float32:
        """The bundle's own ranges, made once for each kind of vector; nobody can write into them."""
        kind = (form.output, form.dimensions, form.normalize, form.normalize_whole)
        if kind not in self._ranges:
            self._ranges[kind] = own_ranges(self._bundle, form)
            self._ranges[kind].flags.writeable = False
        return self._ranges[kind]

    def _warn_of_truncation(self, truncated: Sequence[Truncation], overflow: Overflow, *, stacklevel: int) -> None:
        if truncated and overflow.action == "warn":
            warn_of_truncation(truncated, max_length=self.manifest.max_length, stacklevel=stacklevel + 1)


def _running(other: Encoder) -> BatchRunner:
    """What runs the batches of the Encoder that another one is to share the threads of.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(other, Encoder):
        raise UsageError(f"shares_threads_of is a {type(other).__name__}, expected an Encoder or None")
    return other._runner  # noqa: SLF001  one of its own class


def _checked_seconds(timeout_s: float) -> float:
    """`timeout_s`, which is a number of seconds.

    Raises:
        UsageError: it is none.
    """
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not (math.isfinite(timeout_s) and timeout_s > 0):
        raise UsageError(f"timeout_s is {timeout_s!r}, expected a number of seconds above 0, or None for no deadline")
    return timeout_s
