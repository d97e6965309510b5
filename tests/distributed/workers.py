"""Workers for tests: what each of them does, simulated or in a process of its own."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy
from thinc.api import SGD, Adam, Dropout, Relu, Softmax, chain, fix_random_seed

from thinc_swa import LocalSGD
from thinc_swa.distributed import TorchCommunicator, WorkerError, connect
from thinc_swa.models.parameters import named_parameters

TESTS = Path(__file__).parents[1]


def make_model(width=4, seed=0):
    """A small model, initialized, with dropout."""
    fix_random_seed(seed)
    model = chain(Relu(width), Dropout(0.2), Softmax(3))
    return model.initialize(numpy.zeros((2, 5), dtype="f"), numpy.zeros((2, 3), dtype="f"))


def places(model):
    """The weights of all parameters by place, not copies."""
    return {place: (key, parameter.get()) for place, key, parameter in named_parameters(model)}


def copies(arrays):
    return {place: array.copy() for place, (_, array) in arrays.items()}


def gradient_of(rank, step, index, shape):
    random = numpy.random.default_rng((rank, step, index))
    return random.uniform(-1, 1, shape).astype("f")


def train_on_gradients(communicator, *, n_steps, missing=(), non_finite=(), **settings):
    """Train with given gradients.

    missing (Collection[tuple[int, int, int]]): (rank, step, index of the parameter) without a
        gradient.
    non_finite (Collection[tuple[int, int, int]]): Those whose gradient has a NaN.
    RETURNS (list[dict[str, ndarray]]): The weights by place, before the training and after each
        step, and then the averages.
    """
    model = make_model()
    optimizer = LocalSGD(SGD(0.1, use_averages=False, grad_clip=0), **settings)
    connect(optimizer, model, communicator)
    arrays = places(model)
    history = [copies(arrays)]
    for step in range(1, n_steps + 1):
        for index, (key, weights) in enumerate(arrays.values()):
            moment = (communicator.rank, step, index)
            gradient = gradient_of(*moment, weights.shape)
            if moment in non_finite:
                gradient.flat[0] = numpy.nan
            if moment not in missing:
                optimizer(key, weights, gradient)
        optimizer.step_schedules()
        history.append(copies(arrays))
    averages = optimizer.averages
    history.append({place: averages[key] for place, (key, _) in arrays.items()})
    return history


def train_on_share(communicator, model, optimizer, X, Y):
    """A step on the worker's part of a batch."""
    X, Y = (array[communicator.rank :: communicator.size] for array in (X, Y))
    predicted, backprop = model.begin_update(X)
    backprop((predicted - Y) / len(Y))
    model.finish_update(optimizer)
    optimizer.step_schedules()


def train_on_batches(communicator, *, n_steps=12, batch_size=4, width=4, **settings):
    """Train with dropout, each worker on its part of the same batches.

    RETURNS (dict[str, ndarray]): The weights by place, and "bytes_sent".
    """
    model = make_model(width)
    optimizer = LocalSGD(Adam(0.01), **settings)
    connect(optimizer, model, communicator)
    random = numpy.random.default_rng(0)
    fix_random_seed(communicator.rank)
    for _ in range(n_steps):
        X = random.uniform(-1, 1, (batch_size * communicator.size, 5)).astype("f")
        Y = numpy.eye(3, dtype="f")[random.integers(0, 3, len(X))]
        train_on_share(communicator, model, optimizer, X, Y)
    sent = numpy.array(communicator.bytes_sent)
    return {**copies(places(model)), "bytes_sent": sent}


# In processes


def start_processes(scenario, n_workers, *arguments, **environment):
    """Start `main` in processes as a launcher of torch.distributed does."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        "WORLD_SIZE": str(n_workers),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **environment,
    }
    return [
        subprocess.Popen(
            [sys.executable, __file__, scenario, *map(str, arguments)],
            env={**environment, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(n_workers)
    ]


def finish(processes, timeout=60):
    """Wait for the end of processes; kill them after the time.

    RETURNS (list[tuple[int, str, str]]): Exit code, output and errors by rank.
    """
    try:
        results = []
        for process in processes:
            output, errors = process.communicate(timeout=timeout)
            results.append((process.returncode, output, errors))
        return results
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


def main(scenario, *arguments):
    communicator = TorchCommunicator(
        timeout=float(os.environ.get("TEST_TIMEOUT", 60)),
        connect_timeout=float(os.environ.get("TEST_CONNECT_TIMEOUT", 60)),
    )
    if scenario == "train":
        folder, *dtype = arguments
        found = train_on_batches(communicator, freq=3, reduce_dtype=(*dtype, "float32")[0])
        numpy.savez(Path(folder) / f"{communicator.rank}.npz", **found)
    elif scenario == "texts":
        texts = communicator.gather_texts(f"I am {communicator.rank}" * (communicator.rank + 1))
        last = communicator.size - 1
        print(texts, communicator.broadcast_text(f"rank {communicator.rank}", source=last))
    elif scenario == "late":
        communicator.all_reduce(numpy.ones(3))
        if communicator.rank == 1:
            time.sleep(float(arguments[0]))
            return
        try:
            communicator.all_reduce(numpy.ones(3))
        except WorkerError as error:
            print(error)
            return
    communicator.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
