"""Folders of comparisons: only their own files are deleted or overwritten."""

import pytest
from comparison_runs import compare, prepare

from thinc_swa.comparison.folders import mark_output


@pytest.mark.parametrize("kind", ["folder", "file", "link", "log"])
def test_foreign_folders_are_refused(tmp_path, adam, kind):
    output = tmp_path / "output"
    (run,) = prepare(output, [adam], n_seeds=1)
    run.folder.parent.mkdir(parents=True)
    precious = run.folder / "precious.txt"
    if kind == "file":
        run.folder.write_text("precious")
        precious = run.folder
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir()
        precious = tmp_path / "elsewhere" / ".thinc-swa-run"
        run.folder.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        precious.write_text("precious")
    else:
        run.folder.mkdir()
        precious.write_text("precious")
        if kind == "log":
            # The log of `thinc-swa train`, for example.
            (run.folder / "log.jsonl").write_text('{"type": "start", "step": 0, "seed": 1}\n')
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=f"{run.folder} was not made by thinc-swa"):
            compare(output, [adam], n_seeds=1, overwrite=overwrite)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("kind", ["empty", "marked", "earlier version"])
def test_folders_of_a_comparison_are_replaced(tmp_path, adam, kind):
    """Also if it was killed."""
    output = tmp_path / "output"
    (run,) = prepare(output, [adam], n_seeds=1)
    run.folder.mkdir(parents=True)
    if kind == "marked":
        (run.folder / ".thinc-swa-run").touch()
        (run.folder / "of the user's code").mkdir()
    elif kind == "earlier version":
        (run.folder / "log.jsonl").write_text('{"type": "start", "fingerprint": "a1"}\n')
    (run,) = compare(output, [adam], n_seeds=1)
    assert run.state == "done"
    names = {path.name for path in run.folder.iterdir()}
    assert names == {".thinc-swa-run", "log.jsonl", "output.txt"}


RESULTS = ("results.csv", "learning_curves.png")


@pytest.mark.parametrize("present", [RESULTS, RESULTS[:1]])
def test_foreign_results_are_refused(tmp_path, present):
    for name in present:
        (tmp_path / name).write_text("precious")
    (tmp_path / "runs" / "a" / "b").mkdir(parents=True)
    message = f"{tmp_path} contains {', '.join(present)}, which thinc-swa has not written"
    with pytest.raises(FileExistsError, match=message):
        mark_output(tmp_path, RESULTS)
    assert {path.name for path in tmp_path.iterdir()} == {*present, "runs"}


@pytest.mark.parametrize("kind", ["marked", "earlier version"])
def test_results_of_a_comparison_are_overwritten(tmp_path, kind):
    if kind == "marked":
        mark_output(tmp_path, RESULTS)
    else:
        (tmp_path / "runs" / "adam" / "seed-1").mkdir(parents=True)
        (tmp_path / "runs" / "adam" / "seed-1" / ".thinc-swa-run").touch()
    (tmp_path / "results.csv").write_text("old")
    mark_output(tmp_path, RESULTS)
    assert (tmp_path / ".thinc-swa-comparison").is_file()
