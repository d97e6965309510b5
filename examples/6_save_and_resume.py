"""Save in the middle of a training, and resume it in another process, bit for bit.

    python examples/6_save_and_resume.py

The model is saved by Thinc and the optimizer by `save_optimizer`, with the averages, the
moments and the position of the learning rate. A new process creates both, loads them and
resumes. At the end it has the same weights and averages as an uninterrupted training, bit for
bit.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from digits import accuracy, initialize, load_digits
from thinc.api import Adam, Relu, Softmax, chain, fix_random_seed, warmup_linear

from thinc_swa import SWA, Lookahead, load_optimizer, save_optimizer, use_averages

N_EPOCHS = 20
N_BEFORE = 13

digits = load_digits()


def make():
    """The model, and an optimizer that averages from the middle on."""
    model = chain(Relu(64, dropout=0.2), Relu(64, dropout=0.2), Softmax())
    initialize(model, digits, seed=0)
    adam = Adam(warmup_linear(0.005, 50, 1000), use_averages=False)
    return model, SWA(Lookahead(adam, freq=6), start_step=400, freq=10, learn_rate=0.002)


def train(model, optimizer, epochs):
    for epoch in epochs:
        # Batches and dropout are not part of the optimizer's state: each epoch seeds them.
        fix_random_seed(epoch)
        for images, labels in model.ops.multibatch(
            32, digits.train_images, digits.train_labels, shuffle=True
        ):
            predicted, backprop = model.begin_update(images)
            backprop((predicted - labels) / len(images))
            model.finish_update(optimizer)
            optimizer.step_schedules()


def describe(model, optimizer):
    """The accuracy with the averages, and a fingerprint of all the bytes of these weights and
    of the model's own."""
    fingerprint = hashlib.sha256(model.to_bytes())
    with use_averages(model, optimizer):
        fingerprint.update(model.to_bytes())
        accurate = accuracy(model, digits.test_images, digits.test_labels)
    return f"accuracy {accurate:.2f} %   fingerprint {fingerprint.hexdigest()[:16]}"


def train_in_two_processes(folder):
    model, optimizer = make()
    train(model, optimizer, range(N_BEFORE))
    model.to_disk(folder / "model")
    save_optimizer(folder / "optimizer.safetensors", optimizer, model)
    print(f"Saved after {N_BEFORE} epochs: {describe(model, optimizer)}", flush=True)
    subprocess.run([sys.executable, __file__, str(folder)], check=True)


def go_on(folder):
    model, optimizer = make()
    model.from_disk(folder / "model")
    load_optimizer(folder / "optimizer.safetensors", optimizer, model)
    print(f"Loaded in a new process: {describe(model, optimizer)}")
    train(model, optimizer, range(N_BEFORE, N_EPOCHS))
    print(f"With the break:          {describe(model, optimizer)}")


if len(sys.argv) > 1:
    go_on(Path(sys.argv[1]))
else:
    with tempfile.TemporaryDirectory() as name:
        train_in_two_processes(Path(name))
    model, optimizer = make()
    train(model, optimizer, range(N_EPOCHS))
    print(f"Without a break:         {describe(model, optimizer)}")
