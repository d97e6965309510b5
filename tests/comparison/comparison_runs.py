"""Comparisons of tiny configs."""

from thinc_swa.comparison.entries import read_entries
from thinc_swa.comparison.runs import make_runs, train_runs


def prepare(
    folder, paths, *, n_seeds=2, optimizers=(), overrides=None, code=None, overwrite=False
):
    entries = read_entries(paths, list(optimizers), overrides or {})
    return make_runs(entries, n_seeds=n_seeds, output=folder, code=code, overwrite=overwrite)


def compare(folder, paths, *, n_jobs=1, is_shared=True, watch=lambda runs: None, **settings):
    runs = prepare(folder, paths, **settings)
    train_runs(runs, n_jobs=n_jobs, is_shared=is_shared, watch=watch)
    return runs


def results_of(runs):
    return {(run.name, run.seed): run.evaluations for run in runs}


def results_without_times(runs):
    """Everything that the logs of runs have but times."""
    return {
        (run.name, run.seed): (
            run.state,
            run.error,
            run.evaluations,
            [run.records[-1].get(name) for name in ("reason", "n_steps")],
            run.data,
        )
        for run in runs
    }
