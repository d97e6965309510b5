"""Trainings as sequences of events: updates of parameters, ends of steps, reads of averages."""

import numpy
from hypothesis import strategies as st
from optimizer_states import keys_of, levels_of
from thinc.api import Linear, chain, fix_random_seed

from thinc_swa import SWA, register_parameter_paths

# An update of a parameter, or of all and the end of the step; the end of a step; a look at the
# averages; start_swa().
EVENTS = st.sampled_from([0, 1, 2, 3, "all", "all", "all", "step", "look", "start"])


def make_small_model():
    """The same weights every time."""
    fix_random_seed(0)
    model = chain(Linear(2, 3), Linear(2, 2)).initialize()
    register_parameter_paths(model)  # Not all parameters are in the first step of what follows.
    return model


def replay(model, optimizer, events, first=0):
    """first (int): The number of the first event, for its gradients."""
    keys = list(keys_of(model).items())
    for number, event in enumerate(events, first):
        if event == "look":
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


# Loops that call step_schedules() as often as there are updates, more often, less often, never.
LOOPS = {
    "per update": ["all"],
    "twice per update": ["all", "step"],
    "every second update": ["all", 0, 1, 2, 3],
    "every fourth update of one parameter": [0, 0, 0, "all"],
    "never": [0, 1, 2, 3],
}
