"""Process of a worker that `thinc-swa train --ray` has started on a node."""

import signal
import sys

from ..__main__ import main
from ..comparison.run_worker import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    # Ray blocks it, and processes inherit that.
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(sys.argv[1:])
