"""Corpus jobs: from a file to hundreds of millions of texts, resumable, on one machine or on Ray. Needs the extra `jobs`.

>>> from cls_runtime.jobs import JobOptions, run_job
>>> report = run_job("models/bge-small-en-v1.5", ["corpus.parquet"], "vectors", options=JobOptions(dtype="float16"))
>>> report.total.rows
4

`EmbedBatches` is for those who bring their own engine: a picklable function over Arrow record batches, for Spark's `mapInArrow`, Dask,
or a plain loop.
"""

from cls_runtime.jobs.batches import EmbedBatches
from cls_runtime.jobs.job import JobReport, run_job
from cls_runtime.jobs.options import JobOptions, RayOptions

__all__ = ["EmbedBatches", "JobOptions", "JobReport", "RayOptions", "run_job"]
