"""Checkpoints: content, deletion of earlier ones, and damage."""

import json
import os
import shutil

import numpy
import pytest
from helpers import require
from thinc.api import SGD, Adam, NumpyOps, PyTorchWrapper, Softmax, chain
from tiny import assert_same, make_dataset, make_trainer, weights_of

from thinc_swa import SWA
from thinc_swa.errors import CallbackError, TrainingWarning
from thinc_swa.training.callbacks import Callback, SaveCheckpoints
from thinc_swa.training.checkpoints import (
    DamagedCheckpointError,
    find_checkpoint,
    get_random_state,
    load_checkpoint,
    save_checkpoint,
    set_random_state,
)


def make_swa(callbacks=(), **settings):
    return make_trainer(SWA(Adam(0.01), start_step=6, freq=2), callbacks, **settings)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def content_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class SaveAt(Callback):
    def __init__(self, folder, *steps):
        self.folder = folder
        self.steps = steps

    def on_step(self, trainer):
        if trainer.state.step in self.steps:
            save_checkpoint(self.folder, trainer)


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoints of a training after steps 9 and 13."""
    make_swa([SaveAt(tmp_path, 9, 13)]).run()
    assert names_in(tmp_path) == ["step-00000009", "step-00000013"]
    return tmp_path


@pytest.mark.parametrize("step", [1, 9, 10, 13])
def test_resuming_at_any_step_is_bit_identical(tmp_path, step):
    whole = make_swa()
    whole.run()
    make_swa([SaveAt(tmp_path, step)]).run()
    resumed = make_swa()
    load_checkpoint(find_checkpoint(tmp_path), resumed)
    assert resumed.state.step == step
    resumed.run()
    assert_same(weights_of(resumed.model), weights_of(whole.model))
    assert resumed.state.evaluations == whole.state.evaluations
    assert resumed.state.run_id != whole.state.run_id


def test_a_complete_training_can_be_reset_to_a_checkpoint(saved):
    """Also to a step of an earlier epoch."""
    whole = make_swa()
    whole.run()
    expected, evaluations = weights_of(whole.model), whole.state.evaluations
    load_checkpoint(saved / "step-00000009", whole)
    assert (whole.state.step, whole.state.evaluations, whole.state.stop_reason) == (9, [], None)
    whole.run()
    assert_same(weights_of(whole.model), expected)
    assert whole.state.evaluations == evaluations


def test_resuming_restores_the_dropout_of_pytorch(tmp_path):
    require("torch")
    import torch

    def make(callbacks=()):
        torch.manual_seed(0)
        layers = torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)
        )
        model = chain(PyTorchWrapper(layers), Softmax(3, 3))
        return make_trainer(Adam(0.01), callbacks, model=model)

    whole = make()
    whole.run()
    make([SaveAt(tmp_path, 9)]).run()
    resumed = make()
    load_checkpoint(find_checkpoint(tmp_path), resumed)
    resumed.run()
    assert [e.loss for e in resumed.state.evaluations] == [
        e.loss for e in whole.state.evaluations
    ]


def test_the_last_two_checkpoints_are_kept(tmp_path):
    make_swa([SaveCheckpoints(tmp_path)], max_steps=50).run()
    assert names_in(tmp_path) == ["step-00000040", "step-00000050"]


def test_a_checkpoint_is_not_written_twice(tmp_path):
    trainer = make_swa([SaveCheckpoints(tmp_path)])
    trainer.run()
    before = {path: path.stat().st_mtime_ns for path in content_of(tmp_path)}
    save_checkpoint(tmp_path, trainer)
    resumed = make_swa([SaveCheckpoints(tmp_path)])
    load_checkpoint(find_checkpoint(tmp_path), resumed)
    resumed.run()
    assert {path: path.stat().st_mtime_ns for path in content_of(tmp_path)} == before


def test_a_failed_checkpoint_leaves_no_files(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    make_swa([SaveAt(tmp_path, 9)]).run()
    before = content_of(tmp_path)
    monkeypatch.setattr("thinc_swa.training.checkpoints.save_optimizer", fail)
    with pytest.raises(CallbackError, match="No space left"):
        resumed = make_swa([SaveAt(tmp_path, 13)])
        load_checkpoint(find_checkpoint(tmp_path), resumed)
        resumed.run()
    assert content_of(tmp_path) == before and names_in(tmp_path) == ["step-00000009"]


# Other trainings and other folders


@pytest.mark.parametrize("seed", [0, 1])
def test_a_checkpoint_of_another_training_is_neither_overwritten_nor_loaded(tmp_path, seed):
    make_swa([SaveCheckpoints(tmp_path)]).run()
    before = content_of(tmp_path)
    other = make_swa([SaveCheckpoints(tmp_path)], seed=seed)
    with pytest.raises(CallbackError, match="step-00000010 is a checkpoint of another"):
        other.run()
    with pytest.raises(FileExistsError, match="is a checkpoint of another training"):
        save_checkpoint(tmp_path, other)
    assert content_of(tmp_path) == before


def test_a_later_checkpoint_of_another_training_is_not_overwritten(tmp_path):
    """Another process has trained in the folder, to the same step."""
    first, other = make_swa(), make_swa(seed=1)
    first.run()
    other.run()
    save_checkpoint(tmp_path, other)
    with pytest.raises(FileExistsError, match="is a checkpoint of another training"):
        save_checkpoint(tmp_path, first)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": 1}, "training.seed was 0 and is 1 now"),
        ({"batch_size": 4}, "training.batch_size was 8 and is 4 now"),
        (
            {"dataset": make_dataset(n_train=20)},
            "train_X was 50 rows, .* and is 20 rows",
        ),
        ({"dataset": make_dataset(seed=1)}, "the content of train_X has changed"),
        ({"model": Softmax()}, "model was 4 parameters, .* and is 2 parameters"),
    ],
)
def test_a_checkpoint_of_a_training_with_other_arguments_is_refused(saved, change, message):
    trainer = make_swa(**change)
    before = weights_of(trainer.model)
    with pytest.raises(ValueError, match=f"13 is a checkpoint of another.*{message}"):
        load_checkpoint(find_checkpoint(saved), trainer)
    assert trainer.state.step == 0
    assert_same(weights_of(trainer.model), before)


def test_a_training_can_be_made_longer_or_less_patient(saved):
    longer = make_swa(max_steps=33, patience=100)
    load_checkpoint(find_checkpoint(saved), longer)
    longer.run()
    assert longer.state.step == 33


def test_other_package_versions_are_a_warning(saved, monkeypatch):
    monkeypatch.setattr("thinc_swa.about.__version__", "99")
    trainer = make_swa()
    with pytest.warns(TrainingWarning, match="other package versions: thinc-swa .* is 99 now"):
        load_checkpoint(find_checkpoint(saved), trainer)
    assert trainer.state.step == 13


def test_other_folders_with_the_name_of_a_checkpoint_are_not_changed(tmp_path):
    for name in ("step-20250101", "step-by-step", "step-0000001", ".step-00000010.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").write_text("mine")
    (tmp_path / "step-00000012.txt").write_text("mine")
    before = content_of(tmp_path)
    make_swa([SaveCheckpoints(tmp_path)], max_steps=40).run()
    assert before.items() <= content_of(tmp_path).items()
    assert find_checkpoint(tmp_path).name == "step-00000040"


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_a_conflicting_folder_is_an_error_before_the_training(tmp_path, kind):
    path = tmp_path / "step-00000020"
    if kind == "folder":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    elif kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "nowhere")
    trainer = make_swa([SaveCheckpoints(tmp_path)])
    with pytest.raises(CallbackError, match="step-00000020 is not a checkpoint of this"):
        trainer.run()
    assert trainer.state.step == 0
    # It has appeared during the training.
    trainer.state.step = 20
    with pytest.raises(FileExistsError, match="step-00000020 is not a checkpoint of this"):
        save_checkpoint(tmp_path, trainer)
    assert names_in(tmp_path) == ["step-00000020"]


# Damage


def damage(path, name, how):
    """Damage a file, and return a part of the error message."""
    data = bytearray((path / name).read_bytes())
    if how == "lost":
        (path / name).unlink()
        return f"{name} is missing"
    if how == "cut":
        (path / name).write_bytes(data[: len(data) // 2])
    elif how == "bit":
        data[len(data) // 2] ^= 1
        (path / name).write_bytes(data)
    else:
        (path / name).write_bytes(b"\xff" + data)
    return name


NAMES = ("model", "optimizer.safetensors", "training.json", "checkpoint.json")


@pytest.mark.parametrize("how", ["lost", "cut", "bytes"])
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_checkpoint_is_skipped(saved, name, how):
    what = damage(saved / "step-00000013", name, how)
    with pytest.raises(DamagedCheckpointError, match=f"step-00000013 is damaged: .*{what}"):
        load_checkpoint(saved / "step-00000013", make_swa())
    with pytest.warns(TrainingWarning, match=f"step-00000013 is damaged: .*{what}.* Using the"):
        path = find_checkpoint(saved)
    assert path.name == "step-00000009"
    # The training can be resumed beside the damaged checkpoint.
    resumed = make_swa([SaveAt(saved, 11, 13)])
    load_checkpoint(path, resumed)
    resumed.run()
    assert find_checkpoint(saved).name == "step-00000013"
    assert names_in(saved) == ["step-00000011", "step-00000013"]


@pytest.mark.parametrize("name", NAMES)
def test_only_damaged_checkpoints_are_an_error(saved, name):
    for step in ("step-00000009", "step-00000013"):
        damage(saved / step, name, "lost")
    with pytest.raises(DamagedCheckpointError, match=f"00000013 is damaged: {name} is mis"):
        find_checkpoint(saved)


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_single_changed_bit_is_detected(saved, name):
    damage(saved / "step-00000013", name, "bit")
    with pytest.raises(DamagedCheckpointError, match=f"the content of {name} has changed"):
        load_checkpoint(saved / "step-00000013", make_swa())


def test_a_checkpoint_of_a_newer_version_is_refused(saved):
    path = saved / "step-00000013" / "checkpoint.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "version": 2}))
    with pytest.raises(ValueError, match="has format version 2, but this version .* reads"):
        find_checkpoint(saved)


def test_an_invalid_state_is_damage(saved):
    """The digest is right, but not the content."""
    from thinc_swa.training.fingerprints import digest_file

    folder = saved / "step-00000013"
    for text in ("[]", "{}", '{"run": 3}', '{"fingerprint": 3}'):
        (folder / "training.json").write_text(text)
        manifest = json.loads((folder / "checkpoint.json").read_text())
        manifest["files"]["training.json"] = digest_file(folder / "training.json")
        (folder / "checkpoint.json").write_text(json.dumps(manifest))
        with pytest.raises(DamagedCheckpointError, match="training.json cannot be read"):
            load_checkpoint(folder, make_swa())


def test_the_last_checkpoint_is_found(saved):
    """A crash may come before the earlier ones are deleted."""
    shutil.copytree(saved / "step-00000013", saved / "step-00000003")
    os.rename(saved / "step-00000009", saved / "step-100000009")
    assert find_checkpoint(saved).name == "step-100000009"
    shutil.rmtree(saved / "step-100000009")
    assert find_checkpoint(saved).name == "step-00000013"


# PyTorch


def test_pytorch_layers_are_loaded_only_where_that_is_safe(tmp_path, monkeypatch):
    require("torch")
    import torch

    def make(callbacks=()):
        torch.manual_seed(0)
        model = chain(PyTorchWrapper(torch.nn.Linear(3, 3)), Softmax(3, 3))
        return make_trainer(SGD(0.1), callbacks, model=model)

    make([SaveAt(tmp_path, 9)]).run()
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    trainer = make()
    with pytest.raises(ValueError, match="step-00000009 is not loaded.*--trust-checkpoint"):
        load_checkpoint(find_checkpoint(tmp_path), trainer)
    assert trainer.state.step == 0
    load_checkpoint(find_checkpoint(tmp_path), trainer, trust=True)
    assert trainer.state.step == 9


def test_the_target_of_a_link_to_a_checkpoint_is_not_deleted(tmp_path):
    """Only the link is deleted."""
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    make_swa([SaveAt(folder, 9, 13)]).run()
    (folder / "step-00000009").rename(other)
    (folder / "step-00000009").symlink_to(other)
    resumed = make_swa([SaveCheckpoints(folder)])
    load_checkpoint(folder / "step-00000009", resumed)
    resumed.run()
    assert names_in(folder) == ["step-00000013", "step-00000020"]
    assert names_in(other) == sorted(NAMES)


def test_random_states_are_json():
    state = get_random_state()
    assert json.loads(json.dumps(state)) == state
    numpy.random.random()
    assert get_random_state() != state


def test_random_states_of_available_gpus_are_restored(monkeypatch):
    require("torch")
    import torch

    states = [torch.tensor([1, 2], dtype=torch.uint8), torch.tensor([3], dtype=torch.uint8)]
    restored = {}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: restored.update({device: state})
    )
    set_random_state(json.loads(json.dumps(get_random_state())))
    assert list(restored) == [0] and restored[0].equal(states[0])


# Random generators


class OpsOfGpu(NumpyOps):
    """On the CPU, with the name of those of CuPy."""

    name = "cupy"


def make_trainer_on_gpu(callbacks=()):
    trainer = make_swa(callbacks)
    for node in trainer.model.walk():
        node.ops = OpsOfGpu()
    return trainer


def test_the_generators_in_a_checkpoint_are_known(saved, tmp_path):
    content = json.loads((saved / "step-00000009" / "training.json").read_text())
    known = {"python", "numpy", "torch", "torch_cuda"}
    assert {"python", "numpy"} <= content["random"].keys() <= known
    assert content["unsaved_generators"] == []


def test_resuming_with_layers_on_a_gpu_warns_of_dropout(tmp_path):
    """CuPy does not give the state of its generator away."""
    make_trainer_on_gpu([SaveAt(tmp_path, 9)]).run()
    content = json.loads((tmp_path / "step-00000009" / "training.json").read_text())
    assert content["unsaved_generators"] == ["CuPy"]
    trainer = make_trainer_on_gpu()
    with pytest.warns(
        TrainingWarning, match="random generator of CuPy cannot be saved"
    ) as found:
        load_checkpoint(find_checkpoint(tmp_path), trainer)
    assert len(found) == 1
    assert trainer.state.step == 9
