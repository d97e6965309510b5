import tempfile
from pathlib import Path

import pytest
from training_cases import make_nested_swa, make_trained

from thinc_swa import save_optimizer


@pytest.fixture(scope="module")
def saved_file():
    """A file that is all right, and the length of its header."""
    model, optimizer = make_trained(make_nested_swa)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimizer")
        save_optimizer(path, optimizer, model)
        content = path.read_bytes()
    return content, 8 + int.from_bytes(content[:8], "little")
