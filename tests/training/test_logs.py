"""Logs as JSON lines: writing, reading, and damage."""

import pytest

from thinc_swa.training.logs import Log, find_disorder, keep_records, read_log


def records_of(*parts):
    """Records from "TYPE STEP" or "TYPE"."""
    found = []
    for part in parts:
        kind, _, step = part.partition(" ")
        found.append({"type": kind, **({"step": int(step)} if step else {})})
    return found


@pytest.mark.parametrize(
    "parts",
    [
        [],
        ["start 0"],
        ["start 0", "step 1", "step 2", "evaluation 2", "step 3", "end 3"],
        # Resumed, also twice at the same step.
        ["start 0", "step 1", "evaluation 1", "start 1", "start 1", "step 2", "end 2"],
        # A new log after the loss of the first one.
        ["start 7", "step 8", "evaluation 8"],
        # Of a comparison.
        ["start", "evaluation 10", "evaluation 20", "end"],
        ["start", "evaluation 10", "error"],
    ],
)
def test_logs_in_order_are_accepted(parts):
    assert find_disorder(records_of(*parts)) is None


@pytest.mark.parametrize(
    "parts, message",
    [
        (["step 1"], "line 1 (step) has no start before it"),
        (["start", "start", "evaluation 10"], "line 2 is another start, after step 0"),
        (["start 0", "step 1", "start 0", "step 1"], "line 3 is another start, after step 1"),
        (["start 0", "step 1", "start 2", "step 3"], "line 3 is another start, after step 1"),
        (["start 0", "step 1", "step 1"], "line 3 (step) has step 1, after step 1"),
        (["start 0", "step 1", "step 3"], "line 3 (step) has step 3, after step 1"),
        (["start", "evaluation 10", "evaluation 10"], "line 3 (evaluation) has step 10"),
        (["start", "evaluation 20", "evaluation 10"], "line 3 (evaluation) has step 10"),
        (["start", "end", "evaluation 10"], "line 3 (evaluation) has no start before it"),
    ],
)
def test_logs_out_of_order_are_described(parts, message):
    assert find_disorder(records_of(*parts)).startswith(message)


def test_a_step_that_is_not_an_int_is_disorder():
    records = [*records_of("start 0"), {"type": "step", "step": "1"}]
    assert find_disorder(records) == "line 2 has the step '1'"


def test_records_are_written_and_read(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log(path)
    log.write("start", name="ä")
    log.write("step", loss=float("nan"), rate=0.1)
    log.flush()
    with path.open("ab") as file:
        file.write(b'{"type": "st')  # Cut off by a crash.
    records = [
        {"type": "start", "name": "ä"},
        {"type": "step", "loss": None, "rate": 0.1},
    ]
    assert list(read_log(path)) == records
    keep_records(path, lambda record: record["type"] == "step")
    assert list(read_log(path)) == records[1:]
    log.close()


@pytest.mark.parametrize("line", [b"{half", b"3", b"[]", b'{"type": 3}', b"{}", b"\xff", b""])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"type": "start"}\n' + line + b"\n")
    with pytest.raises(ValueError, match="log.jsonl is damaged: line 2 is not a record"):
        list(read_log(path))


def test_numbers_are_written_and_read_exactly(tmp_path):
    """Libraries that round would change resumed trainings and comparisons."""
    numbers = [0.7, 1 / 3, 1e-12 / 3, 5e-324, 1.7976931348623157e308, 2**70]
    log = Log(tmp_path / "log.jsonl")
    log.write("step", numbers=numbers, scores={"a": 0.1, "b": float("inf")})
    log.close()
    (record,) = read_log(tmp_path / "log.jsonl")
    assert record["numbers"] == numbers
    assert record["scores"] == {"a": 0.1, "b": None}
