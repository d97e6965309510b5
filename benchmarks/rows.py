"""Rows of benchmark results: names, selection and formatting."""

OURS = "thinc_swa"
THINC = "Thinc NumpyOps.update_averages"


def select(rows, **wanted):
    """Select the rows with the given values."""
    return [row for row in rows if all(row.get(key) == wanted[key] for key in wanted)]


def describe_ratio(ratio):
    """Format the median and the quartiles of a ratio."""
    return f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
