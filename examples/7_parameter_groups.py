"""Different settings for some parameters.

    python examples/7_parameter_groups.py

First all layers are trained: without weight decay for the biases, and with smaller learning
rates for the layers that are further from the output. Then only the last layer is trained, and
the others are frozen. Groups select parameters by their paths, which
`register_parameter_paths` registers.
"""

import numpy
from digits import accuracy, initialize, load_digits, training_steps
from thinc.api import Adam, Relu, Softmax, chain

from thinc_swa import SWA, ParamGroups, parameter_summary, register_parameter_paths

MAX_STEPS = 600
BATCH_SIZE = 32

digits = load_digits()
model = chain(Relu(64), Relu(64), Softmax())
initialize(model, digits, seed=0)
register_parameter_paths(model)


def train(optimizer):
    for _ in training_steps(
        model, optimizer, digits, max_steps=MAX_STEPS, batch_size=BATCH_SIZE
    ):
        pass
    return accuracy(model, digits.test_images, digits.test_labels)


def print_parameters(optimizer):
    print(f"{'parameter':<12}{'shape':<12}{'group':<12}{'lr_scale':>8}  settings")
    for row in parameter_summary(model, optimizer):
        settings = ", ".join(f"{name} = {value}" for name, value in row.settings.items())
        scale = "frozen" if row.frozen else f"{row.lr_scale:g}"
        print(f"{row.path:<12}{row.shape!s:<12}{row.group or '-':<12}{scale:>8}  {settings}")


optimizer = ParamGroups(
    Adam(0.005, L2=0.01, use_averages=False),
    groups=[{"name": "no_decay", "params": ["*/b"], "L2": 0.0}],
    # From the first layer to the last; # is a number.
    layer_lr_decay=0.5,
    layer_patterns=["relu-#/*", "softmax/*"],
)
print_parameters(optimizer)
print(f"Accuracy on the test images: {train(optimizer):.2f} %\n")

# A wrapper around it keeps no averages of frozen parameters.
optimizer = SWA(
    ParamGroups(
        Adam(0.001, use_averages=False),
        groups=[{"name": "body", "params": ["relu-*"], "frozen": True}],
    ),
    start_step=0.5,
    total_steps=MAX_STEPS,
    freq=10,
)
before = model.layers[0].get_param("W").copy()
print_parameters(optimizer)
print(f"Accuracy on the test images: {train(optimizer):.2f} %")
is_same = numpy.array_equal(model.layers[0].get_param("W"), before)
print(f"The frozen weights are the same: {is_same}. Averages: {len(optimizer.averages)}")
