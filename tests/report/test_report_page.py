"""The HTML page of the report, without a browser."""

import json
import re

import pytest
from helpers import require
from report_folders import run_records, write_comparison, write_training

require("plotly")

from thinc_swa.report import page  # noqa: E402
from thinc_swa.report.collection import collect  # noqa: E402
from thinc_swa.report.page import make_page, write_report  # noqa: E402

HOSTILE = "</script><script>document.title = 'hacked'</script><!-- {{ script }} %{x} \u2028"


def data_of(text):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(found)


def test_the_page_is_complete(tmp_path):
    write_training(tmp_path / "a")
    text = make_page(collect([tmp_path / "a"]))
    assert text.startswith("<!doctype html><!-- Report of thinc-swa -->\n<html")
    assert text.endswith("</html>\n")
    # Those of the template, and not one within a script.
    assert len(re.findall("</script", text, re.IGNORECASE)) == 4
    assert not re.search(r"\{\{ \w+ \}\}", text)
    assert data_of(text)["groups"] == ["a"]


def test_names_stay_text(tmp_path):
    write_training(tmp_path / "a", names=(HOSTILE, "b"), scores=[HOSTILE])
    text = make_page(collect([tmp_path / "a"]))
    assert len(re.findall("</script", text, re.IGNORECASE)) == 4
    (run,) = data_of(text)["runs"]
    assert list(run["all"]) == [HOSTILE, "b"] and list(run["other"]) == [HOSTILE]


def test_scripts_cannot_end_their_element(monkeypatch, tmp_path):
    """A later plotly may have such a string."""
    from plotly import offline

    monkeypatch.setattr(offline, "get_plotlyjs", lambda: 'x = "</SCRIPT><!--"')
    write_training(tmp_path / "a")
    text = make_page(collect([tmp_path / "a"]))
    assert r'x = "<\/SCRIPT><\!--"' in text


def test_a_report_is_replaced_and_no_other_file(tmp_path):
    write_training(tmp_path / "a")
    report = collect([tmp_path / "a"])
    path = tmp_path / "report.html"
    for _ in range(2):
        write_report(path, report)
    path.write_text("<html>mine</html>")
    with pytest.raises(FileExistsError, match="report.html exists, and is not a report of"):
        write_report(path, report)
    assert path.read_text() == "<html>mine</html>"
    with pytest.raises(IsADirectoryError, match="is a folder: choose a file for the report"):
        write_report(tmp_path, report)


def test_a_missing_plotly_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(page, "has_plotly", lambda: False)
    write_training(tmp_path / "a")
    message = r'plotly, which is not installed: pip install "thinc-swa\[cli\]"'
    with pytest.raises(ImportError, match=message):
        write_report(tmp_path / "report.html", collect([tmp_path / "a"]))
    assert not (tmp_path / "report.html").exists()


def test_the_page_has_the_table_of_a_comparison(tmp_path):
    require("scipy")
    write_comparison(tmp_path, {name: [run_records([0.5])] * 2 for name in ("a", "b")})
    (comparison,) = data_of(make_page(collect([tmp_path])))["comparisons"]
    assert [row[0] for row in comparison["table"]] == ["optimizer", "a", "b"]
