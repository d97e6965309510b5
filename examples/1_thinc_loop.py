"""Each wrapper around Adam, in a plain Thinc loop.

    python examples/1_thinc_loop.py

The loop is the same for all of them. For the evaluation, Thinc's own `use_params` swaps the
averages into the model; training could go on afterwards with the raw weights.
"""

from digits import accuracy, load_digits
from thinc.api import Adam, Relu, Softmax, chain, fix_random_seed

from thinc_swa import EMA, SWA, Lookahead

N_EPOCHS = 40
BATCH_SIZE = 32

digits = load_digits()
steps_per_epoch = -(-len(digits.train_images) // BATCH_SIZE)
total_steps = N_EPOCHS * steps_per_epoch

# By default Thinc's Adam keeps averages of its own. With use_averages=False it has none.
optimizers = {
    "Adam": Adam(0.005, use_averages=False),
    "SWA": SWA(
        Adam(0.005, use_averages=False), start_step=0.75, total_steps=total_steps, freq=10
    ),
    "EMA": EMA(Adam(0.005, use_averages=False), decay=0.999, warmup=True),
    "Lookahead": Lookahead(Adam(0.005, use_averages=False), freq=6, pullback=0.5),
}

print(f"{N_EPOCHS} epochs of {steps_per_epoch} steps: accuracy on the test images in %")
for name, optimizer in optimizers.items():
    fix_random_seed(0)
    model = chain(Relu(64, dropout=0.2), Relu(64, dropout=0.2), Softmax())
    model.initialize(X=digits.train_images, Y=digits.train_labels)
    for _ in range(N_EPOCHS):
        for images, labels in model.ops.multibatch(
            BATCH_SIZE, digits.train_images, digits.train_labels, shuffle=True
        ):
            predicted, backprop = model.begin_update(images)
            backprop((predicted - labels) / len(images))
            model.finish_update(optimizer)
            optimizer.step_schedules()

    plain = accuracy(model, digits.test_images, digits.test_labels)
    line = f"{name:<12}raw weights {plain:5.2f}"
    # Plain Adam has no averages here; the model would keep its own weights.
    if optimizer.averages:
        with model.use_params(optimizer.averages):
            averaged = accuracy(model, digits.test_images, digits.test_labels)
        line += f"   averages {averaged:5.2f}"
    print(line)
