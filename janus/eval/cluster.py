"""Answers from a Ray cluster: workers hold a model each, this process holds the folder.

A block of Ray's data set is a batch.  Batches go to whichever worker is free; what comes back is kept at
once, so that a worker that dies costs the batch it was at, and a driver that dies goes on like any other run.
Workers need the package, not the folder.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from janus.eval.asking import Made, Manner, Request, asker_for
from janus.eval.benchmark import Benchmark, Item, Line, Progress, Samples
from janus.eval.folder import claimed
from janus.eval.runner import Asking, Batch, Keeper, batches, begin, chosen, manner_of, requests

_PATIENCE = 10  # seconds, for a cluster to take a connection


def answer(
    benchmark: Benchmark,
    samples: Samples,
    model: Mapping[str, Any],
    asking: Asking,
    out: str | Path,
    on_progress: Progress | None = None,
    *,
    address: str,
    workers: int | None = None,
) -> int:
    """Like `runner.answer`, on a cluster.

    model: keyword arguments of `Janus.from_pretrained`, `source` among them, as workers see it.  address: of
    the cluster, "auto" for the one that this machine belongs to, or "local" to start one on this machine
    alone.  workers: how many models; None: one for each GPU, or one where there is none.
    """
    lines = chosen(benchmark, samples, asking)
    manner = manner_of(benchmark, asking)
    with claimed(out) as folder, _connected(address) as ray:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = workers or max(1, gpus)
        if count < 1 or (gpus and count > gpus):
            raise ValueError(f"workers must be 1 to {gpus}, the cluster's GPUs, not {count}")
        share: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        prompts = [benchmark.prompt(line) for line in lines]
        describe = ray.remote(**share)(_settings)
        try:
            settings = ray.get(describe.remote(dict(model), manner, prompts, asking.batch_size))
        except ray.exceptions.RayTaskError as error:
            raise ValueError(f"no worker can answer: {error.cause}") from error
        run = begin(benchmark, samples, lines, asking, settings, folder)
        run.gather()
        left = batches(run, asking.batch_size)
        if left:
            keeper, done, total = Keeper(run), 0, sum(map(len, left))
            asked = requests(run, left, benchmark.prompt, asking.seed)
            for made, seconds in _answered(ray, asked, dict(model), manner, min(count, len(left)), share):
                keeper.keep(made, seconds)
                done += len(made)
                if on_progress is not None:
                    on_progress(done, total)
        run.gather()
    return sum(map(len, left))


class Worker:
    """A model that answers; lives as long as Ray's data set."""

    def __init__(self, model: Mapping[str, Any], manner: Manner) -> None:
        self.asker = asker_for(manner, _loaded(model))

    def __call__(self, table: Any) -> Any:
        """A table of requests to one of answers."""
        began = time.monotonic()
        made = self.asker.ask([_request(row) for row in table.to_pylist()])
        return _answers_table(made, time.monotonic() - began)


def _loaded(model: Mapping[str, Any]) -> Any:
    from janus.api import Janus

    return Janus.from_pretrained(**model)


def _settings(model: Mapping[str, Any], manner: Manner, prompts: Sequence[str], batch_size: int) -> Line:
    """What a worker's answers depend on; raises ValueError for what will not fit."""
    asker = asker_for(manner, _loaded(model))
    asker.check(prompts, batch_size)
    return asker.settings


def _answered(
    ray: Any, asked: Iterator[Batch], model: dict[str, Any], manner: Manner, count: int, share: dict[str, Any]
) -> Iterator[tuple[list[Made], float]]:
    """Batches as they are answered, in whatever order, with the seconds that each took."""
    blocks = [ray.put(_requests_table(batch)) for batch in asked]
    data = ray.data.from_arrow_refs(blocks).map_batches(
        Worker,
        fn_constructor_args=(model, manner),
        compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
        batch_size=None,
        batch_format="pyarrow",
        **share,
    )
    for table in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        rows = table.to_pylist()
        yield [_made(row) for row in rows], rows[0]["seconds"]


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Raises ValueError where Ray is not installed or the cluster cannot be reached."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ValueError('a cluster needs Ray: pip install "janus-pro[ray]"') from error
    where = {"include_dashboard": False} if address == "local" else {"address": address}
    try:
        _reach(address)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True, **where)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"there is no Ray cluster at {address}: {error}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Ray itself waits for minutes.  Raises OSError where nothing listens at host:port."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+?)\]?:(\d+)", address)
    if found:
        socket.create_connection((found[1], int(found[2])), timeout=_PATIENCE).close()


# -- tables that travel ---------------------------------------------------------------------------


def _requests_table(batch: Batch) -> Any:
    import pyarrow

    return pyarrow.Table.from_pylist(
        [
            {
                "sample": one.item.sample,
                "number": one.item.number,
                "prompt": one.prompt,
                "seed": one.seed,
                "line": json.dumps(one.sample),
                "pictures": list(one.pictures),
            }
            for one in batch
        ],
        pyarrow.schema(
            [
                ("sample", pyarrow.int64()),
                ("number", pyarrow.int64()),
                ("prompt", pyarrow.string()),
                ("seed", pyarrow.int64()),
                ("line", pyarrow.string()),
                ("pictures", pyarrow.list_(pyarrow.binary())),
            ]
        ),
    )


def _request(row: Line) -> Request:
    item = Item(row["sample"], row["number"])
    return Request(item, row["prompt"], row["seed"], json.loads(row["line"]), tuple(row["pictures"]))


def _answers_table(made: Sequence[Made], seconds: float) -> Any:
    import pyarrow

    return pyarrow.Table.from_pylist(
        [
            {
                "line": json.dumps(one.line),
                "paths": list(one.files),
                "files": list(one.files.values()),
                "seconds": seconds,
            }
            for one in made
        ],
        pyarrow.schema(
            [
                ("line", pyarrow.string()),
                ("paths", pyarrow.list_(pyarrow.string())),
                ("files", pyarrow.list_(pyarrow.binary())),
                ("seconds", pyarrow.float64()),
            ]
        ),
    )


def _made(row: Line) -> Made:
    return Made(json.loads(row["line"]), dict(zip(row["paths"], row["files"], strict=True)))
