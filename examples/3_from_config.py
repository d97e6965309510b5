"""Choose the optimizer in a config. The names are found through the entry points of the
installed package, which is not imported here.

    python examples/3_from_config.py
"""

from digits import accuracy, initialize, load_digits, training_steps
from thinc.api import Config, registry

CONFIG = """
[training]
max_steps = 2000
batch_size = 32

[model]
@layers = "chain.v1"

[model.*.hidden]
@layers = "Relu.v1"
nO = 64
dropout = 0.2

[model.*.output]
@layers = "Softmax.v1"

[optimizer]
@optimizers = "SWA.v1"
start_step = 0.5
total_steps = ${training.max_steps}
freq = 10
learn_rate = 0.0025
anneal_steps = 100
anneal_strategy = "cosine"

[optimizer.optimizer]
@optimizers = "Adam.v1"
learn_rate = 0.005
use_averages = false
"""

config = registry.resolve(Config().from_str(CONFIG))
model, optimizer, training = config["model"], config["optimizer"], config["training"]
print(optimizer)

digits = load_digits()
initialize(model, digits, seed=0)
for _ in training_steps(model, optimizer, digits, **training):
    pass

print(f"Raw weights: {accuracy(model, digits.test_images, digits.test_labels):5.2f} %")
with model.use_params(optimizer.averages):
    averaged = accuracy(model, digits.test_images, digits.test_labels)
print(f"Averages:      {averaged:5.2f} % ({optimizer.n_averaged} snapshots)")
