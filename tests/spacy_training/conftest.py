"""Fixtures for tests with spaCy, which is imported only where a test needs it."""

import pytest


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """The paths of both files of the corpus, as overrides."""
    from corpus import write_corpus

    train_path, dev_path = write_corpus(tmp_path_factory.mktemp("corpus"))
    return {"paths.train": str(train_path), "paths.dev": str(dev_path)}


@pytest.fixture(scope="session")
def trained(corpus, tmp_path_factory):
    """Function that returns a complete training with a config; each is trained once."""
    from pipelines import Trainer, read_config
    from spacy_cases import SMALL, SMALL_SETTINGS

    trainings = {}

    def get(name, gpu_id=-1):
        if (name, gpu_id) not in trainings:
            settings = {**corpus, **SMALL, **SMALL_SETTINGS[name]}
            output = tmp_path_factory.mktemp(name)
            trainings[name, gpu_id] = Trainer(read_config(name, settings), output, gpu_id)
        return trainings[name, gpu_id]

    return get
