"""Measure trainings on two workers: words per second and bytes, over links of several speeds.

    python benchmarks/workers.py [--rounds 3] [--words 1000] [--quick] [--unshaped]

The links of 1 Gbit/s and 100 Mbit/s are between two network namespaces on this machine, which
need root, `ip` and `tc`. It writes workers.md, workers.json and workers.png to `results`.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path

import workers_report
from save import cpu

HERE = Path(__file__).parent
FREQ = 50
# Bits per second; None for the loopback interface of this machine.
LINKS = {"unshaped": None, "1 Gbit/s": 1e9, "100 Mbit/s": 1e8}
LOCAL = {"freq": FREQ, "outer_learn_rate": 0.7, "outer_momentum": 0.5}
HALF = {**LOCAL, "reduce_dtype": "float16"}
GRADIENTS = {"start_step": 10**6}
# Seconds for one training.
TIMEOUT = 900
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR", "MASTER_PORT": "29511"}


class Network:
    """Two hosts on this machine, connected by a link.

    rate (float | None): Bits per second in each direction; None for no hosts of their own.
    prefixes (list[list[str]]): What to put before a command, so that it runs on a host.
    environment (dict[str, str]): Environment variables for workers.
    """

    def __init__(self, rate):
        self.rate = rate
        self.prefixes = [[], []]
        self.environment = {"MASTER_ADDR": "127.0.0.1"}

    @contextmanager
    def up(self):
        """Context manager in which the hosts exist."""
        if self.rate is None:
            yield self
            return
        hosts = [f"workers-{self.rate:.0f}-{i}" for i in range(2)]
        with ExitStack() as stack:
            for host in hosts:
                run("ip", "netns", "add", host)
                stack.callback(run, "ip", "netns", "delete", host)
            ends = [f"veth-{os.getpid()}-{i}" for i in range(2)]
            run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
            for i, (host, end) in enumerate(zip(hosts, ends, strict=True)):
                run("ip", "link", "set", end, "netns", host, "name", "eth0")
                inside = ("ip", "netns", "exec", host)
                run(*inside, "ip", "address", "add", f"10.99.0.{i + 1}/24", "dev", "eth0")
                run(*inside, "ip", "link", "set", "eth0", "up")
                run(*inside, "ip", "link", "set", "lo", "up")
                shape = f"tbf rate {self.rate:.0f}bit burst 128kb latency 100ms"
                run(*inside, "tc", "qdisc", "add", "dev", "eth0", "root", *shape.split())
            self.prefixes = [["ip", "netns", "exec", host] for host in hosts]
            self.environment = {"MASTER_ADDR": "10.99.0.1", "GLOO_SOCKET_IFNAME": "eth0"}
            yield self


def run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)


def train(settings, commands):
    """Run trainings at the same time, and wait for them.

    commands (list[tuple[list[str], dict[str, str]]]): What to put before the command of each
        process, and its environment variables.
    RETURNS (list[dict]): The measurements of each.
    """
    script = [sys.executable, str(HERE / "workers_process.py"), json.dumps(settings)]
    processes = []
    try:
        for prefix, environment in commands:
            processes.append(
                subprocess.Popen(
                    [*prefix, *script],
                    env={**os.environ, **ENVIRONMENT, **environment},
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        outputs = [process.communicate(timeout=TIMEOUT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    failed = [process.returncode for process in processes if process.returncode]
    if failed:
        raise SystemExit(f"A worker has failed with the exit code {failed[0]}")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def train_on(network, settings):
    """Run one training, on two workers if there is a network."""
    if network is None:
        return train(settings, [([], {})])
    ranks = [{"RANK": str(i), "WORLD_SIZE": "2", **network.environment} for i in range(2)]
    return train(settings, list(zip(network.prefixes, ranks, strict=True)))


def measure_case(settings, method, network):
    """Measure one training, or two of them at the same time.

    RETURNS (dict): The measurements of rank 0, and "words_per_second" of all workers.
    """
    settings = {**settings, "local_sgd": method}
    if network == "unconnected":
        found = train(settings, [([], {}), ([], {})])
    else:
        found = train_on(network, settings)
    speeds = [row["words"] / row["seconds"] for row in found]
    return {**found[0], "words_per_second": sum(speeds)}


def list_cases(networks, n_rounds):
    """The cases by name: the arguments of LocalSGD, the network, and the number of steps."""
    cases = {
        "one worker": (None, None, n_rounds * FREQ),
        "two trainings at the same time": (None, "unconnected", n_rounds * FREQ),
    }
    for name, network in networks.items():
        cases[f"LocalSGD, {name}"] = (LOCAL, network, n_rounds * FREQ)
        # Every step has an exchange: fewer of them are enough.
        cases[f"gradients of every step, {name}"] = (GRADIENTS, network, FREQ)
        if network.rate is not None:
            cases[f"LocalSGD in float16, {name}"] = (HALF, network, n_rounds * FREQ)
    return cases


def measure(n_rounds, n_words, n_syncs, links):
    sys.path.append(str(HERE.parent / "tests"))
    import corpus

    rows = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        train_path, dev_path = corpus.write_corpus(Path(folder), 1200, 20)
        base = {"train": str(train_path), "dev": str(dev_path), "seed": 0}
        networks = {name: stack.enter_context(Network(links[name]).up()) for name in links}
        cases = list(list_cases(networks, n_syncs).items())
        for number in range(n_rounds):
            random.Random(number).shuffle(cases)
            for name, (method, network, n_steps) in cases:
                stop = FREQ + n_steps
                settings = {
                    **base,
                    "words_per_batch": n_words,
                    "training": {"max_steps": stop - 1, "eval_frequency": 10**6},
                    "start": FREQ,
                    "stop": stop,
                }
                row = measure_case(settings, method, network)
                rows.append({"case": name, "round": number, "n_steps": n_steps, **row})
                speed = row["words_per_second"]
                print(f"round {number + 1}, {name}: {speed:,.0f} words/s", flush=True)
    is_real = corpus.FASHION_BRANDS.exists()
    return {
        "corpus": "comments on fashion" if is_real else "generated sentences",
        "words_per_batch": n_words,
        "freq": FREQ,
        "cores": os.cpu_count(),
        "processor": cpu(),
        "links": links,
        "rows": rows,
    }


def exit_on_sigterm():
    """Let SIGTERM remove the hosts and end the workers."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def choose_links(*, unshaped):
    """The links to measure.

    unshaped (bool): Whether to leave out the slow links, which need root.
    """
    if not unshaped and os.geteuid() != 0:
        raise SystemExit("The slow links need root: run it as root, or with --unshaped.")
    return {"unshaped": None} if unshaped else LINKS


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, default=1000, help="words in a batch")
    parser.add_argument("--quick", action="store_true", help="one short round, no files")
    parser.add_argument("--unshaped", action="store_true", help="no slow links")
    parser.add_argument("--redraw", action="store_true", help="report on the saved results")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.redraw:
        workers_report.write(json.loads((workers_report.RESULTS / "workers.json").read_text()))
        return
    exit_on_sigterm()
    links = choose_links(unshaped=arguments.unshaped)
    n_rounds, n_syncs = (1, 1) if arguments.quick else (arguments.rounds, 3)
    results = measure(n_rounds, arguments.words, n_syncs, links)
    if arguments.quick:
        print(workers_report.to_text(results))
    else:
        workers_report.write(results)


if __name__ == "__main__":
    main()
