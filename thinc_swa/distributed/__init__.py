"""Training on several workers: communicators, and their connection with an optimizer."""

from .communicator import Communicator, SingleWorker, WorkerError
from .connection import connect
from .simulated import SimulatedCommunicator, run_simulated
from .torch_communicator import TorchCommunicator

__all__ = [
    "Communicator",
    "SimulatedCommunicator",
    "SingleWorker",
    "TorchCommunicator",
    "WorkerError",
    "connect",
    "run_simulated",
]
