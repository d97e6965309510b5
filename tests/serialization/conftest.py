import tempfile
from pathlib import Path

import pytest
from training_cases import make_nested_swa, make_trained

from thinc_swa import save_optimizer


@pytest.fixture(scope="module")
def saved_file():
    """The content of a valid state file and the length of its header in bytes."""
    model, optimizer = make_trained(make_nested_swa)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimizer")
        save_optimizer(path, optimizer, model)
        content = path.read_bytes()
    return content, 8 + int.from_bytes(content[:8], "little")
