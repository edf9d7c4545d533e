"""What a scikit-learn script does to use all cores: jobs of joblib, each with some BLAS threads."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from joblib import Parallel, delayed, parallel_config
from threadpoolctl import threadpool_limits

Result = TypeVar("Result")


def in_jobs(calls: Sequence[Callable[[], Result]], jobs: int, threads: int) -> list[Result]:
    """Return what calls give, in their order, from some processes of some threads each."""
    with (
        threadpool_limits(threads),
        parallel_config("loky", n_jobs=jobs, inner_max_num_threads=threads),
    ):
        return list(Parallel()(delayed(call)() for call in calls))
