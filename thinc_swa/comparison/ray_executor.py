"""Executor that runs the trainings of a comparison on a Ray cluster."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace

from ..distributed.ray_cluster import RayCluster
from .executors import LOST, Job

# Exit code of a run that could not be started.
CANNOT_START = 126


class RayExecutor:
    """Executor with a process on a node of a Ray cluster for each run. All nodes must see the
    output folder at the same path.

    cluster (RayCluster): The cluster, which stays connected.
    environment (Mapping[str, str]): Environment variables to add on the nodes.
    """

    def __init__(self, cluster: RayCluster, *, environment: Mapping[str, str]) -> None:
        self._cluster = cluster
        self._environment = dict(environment)
        self._folders: list[str] = []

    def start(self, job: Job) -> None:
        if job.gpu_id >= 0:
            # The only one that the process sees.
            job = replace(job, gpu_id=0)
        self._cluster.prepare(job.folder)
        self._cluster.start(
            job.folder,
            ["-m", "thinc_swa.comparison.run_worker", "run"],
            environment=self._environment,
            request=json.dumps(asdict(job)) + "\n",
        )
        self._folders.append(job.folder)

    def poll(self, timeout: float) -> dict[str, int]:
        ended = {}
        for folder, news in self._cluster.poll(timeout).items():
            if "lost" in news:
                ended[folder] = LOST
            elif "error" in news:
                ended[folder] = CANNOT_START
            elif news["exit_code"] is not None:
                ended[folder] = news["exit_code"]
        for folder in ended:
            self._folders.remove(folder)
        return ended

    def cancel(self, folder: str) -> None:
        self._cluster.end([folder])
        self._folders.remove(folder)

    def close(self) -> None:
        self._cluster.end(self._folders)
        self._folders = []
