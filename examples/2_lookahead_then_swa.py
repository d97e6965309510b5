"""Train with Lookahead, and start averaging by a call in the middle of the training.

    python examples/2_lookahead_then_swa.py

`averages` are those of the outermost wrapper that has any: Lookahead's slow weights until
`start_swa()` is called, and from then on the mean of the snapshots.
"""

from digits import accuracy, initialize, load_digits, training_steps
from thinc.api import Adam, Relu, Softmax, chain

from thinc_swa import SWA, Lookahead, use_averages

MAX_STEPS = 2000
EVALUATE_FREQ = 250

digits = load_digits()
model = chain(Relu(64, dropout=0.2), Relu(64, dropout=0.2), Softmax())
initialize(model, digits, seed=0)
optimizer = SWA(Lookahead(Adam(0.005, use_averages=False), freq=6), freq=10)
print(optimizer)

print("Accuracy on the test images in %")
for step in training_steps(model, optimizer, digits, max_steps=MAX_STEPS, batch_size=32):
    if step % EVALUATE_FREQ:
        continue
    plain = accuracy(model, digits.test_images, digits.test_labels)
    with use_averages(model, optimizer):
        averaged = accuracy(model, digits.test_images, digits.test_labels)
    print(
        f"step {step:>4}   raw weights {plain:5.2f}   averages {averaged:5.2f}"
        f"   snapshots {optimizer.n_averaged:>3}"
    )
    if step == MAX_STEPS // 2:
        optimizer.start_swa()
        print("start_swa(): these weights are the first snapshot")
