"""Trainings as sequences of events: updates of parameters, ends of steps, reads of averages."""

import numpy
from hypothesis import strategies as st
from optimizer_states import keys_of, levels_of
from thinc.api import Linear, chain, fix_random_seed

from thinc_swa import SWA, register_parameter_paths

# A number: update one parameter. "all": update all parameters and end the step. "step": end the
# step. "read": read the averages. "start": call start_swa().
EVENTS = st.sampled_from([0, 1, 2, 3, "all", "all", "all", "step", "read", "start"])


def make_small_model():
    """Two linear layers with fixed initial weights."""
    fix_random_seed(0)
    model = chain(Linear(2, 3), Linear(2, 2)).initialize()
    register_parameter_paths(model)  # The first step may not update all parameters.
    return model


def replay(model, optimizer, events, first=0):
    """Apply events to an optimizer.

    first (int): The number of the first event, which determines its gradients.
    """
    keys = list(keys_of(model).items())
    for number, event in enumerate(events, first):
        if event == "read":
            optimizer.averages  # noqa: B018
        elif event == "start":
            for level in levels_of(optimizer):
                if isinstance(level, SWA) and level.end_step is None:
                    level.start_swa()
                    break
        elif event == "step":
            optimizer.step_schedules()
        else:
            for key, weights in keys if event == "all" else keys[event : event + 1]:
                gradients = numpy.random.RandomState(number).uniform(-1, 1, weights.shape)
                optimizer(key, weights, gradients.astype("f"))
            if event == "all":
                optimizer.step_schedules()


# Training loops by the number of calls of step_schedules() per update.
LOOPS = {
    "per update": ["all"],
    "twice per update": ["all", "step"],
    "every second update": ["all", 0, 1, 2, 3],
    "every fourth update of one parameter": [0, 0, 0, "all"],
    "never": [0, 1, 2, 3],
}
