"""The state of an optimizer, read from its attributes independently of the serialization."""

import dataclasses
import itertools

import numpy
from thinc.api import (
    Optimizer,
    fix_random_seed,
)

from thinc_swa import OptimizerWrapper
from thinc_swa.schedules.compat import Schedule
from thinc_swa.schedules.learn_rate import current_rate

# Attributes of a wrapped generator of Thinc 9.1, which follow from the step at the next call.
GENERATOR_ATTRS = ("generator", "last_step", "last_value")
OPTIMIZER_SLOTS = [name for name in Optimizer.__slots__ if name != "schedules"]
X = numpy.random.RandomState(0).uniform(-1, 1, (8, 5)).astype("f")
Y = numpy.eye(3, dtype="f")[numpy.arange(8) % 3]


def keys_of(model):
    """The weights of all parameters by key, in an order that is the same in every process."""
    roots = [model] if hasattr(model, "walk") else [pipe.model for _, pipe in model.pipeline]
    keys = {}
    for node in itertools.chain(*(root.walk() for root in roots)):
        for name in node.param_names:
            if node.has_param(name):
                keys[node.id, name] = node.get_param(name)
        for shim in node.shims:
            for name, tensor in shim._model.named_parameters():
                keys[shim.id, name] = tensor.detach().numpy()
    return keys


def levels_of(optimizer):
    """The nested optimizers, outermost first."""
    levels = [optimizer]
    while isinstance(levels[-1], OptimizerWrapper):
        levels.append(levels[-1].optimizer)
    return levels


def state_of(optimizer, model):
    """All attributes of an optimizer and the weights of a model, as plain values by flat names:
    weights, moments, counts, averages and learning rates. Keys of parameters are replaced by
    their positions in the model."""
    keys = keys_of(model)
    positions = {key: position for position, key in enumerate(keys)}
    state = {}

    def add(name, value):
        if isinstance(value, dict):
            for key, part in value.items():
                if isinstance(key, tuple):
                    assert key in positions, f"{name} has another model's key {key}"
                add(f"{name}/{positions.get(key, key)}", part)
        elif isinstance(value, list):
            add(name, dict(enumerate(value)))
        elif hasattr(value, "tobytes") and getattr(value, "shape", ()):
            state[name] = (value.dtype.name, value.shape, value.tobytes())
        elif Schedule is not None and isinstance(value, Schedule):
            state[name] = value.name
            add(name, {n: v for n, v in value.attrs.items() if n not in GENERATOR_ATTRS})
        elif dataclasses.is_dataclass(value):
            add(name, dataclasses.asdict(value))
        elif isinstance(value, Optimizer) and not isinstance(value, OptimizerWrapper):
            add(name, {n: getattr(value, n) for n in OPTIMIZER_SLOTS if hasattr(value, n)})
        elif hasattr(type(value), "__slots__"):
            names = [n for c in type(value).__mro__ for n in c.__dict__.get("__slots__", ())]
            if "_original" in names:
                names.remove("_original")  # It is used only to undo the first step.
            if getattr(value, "_target", None) is not None:
                names.remove("_source")  # A constant learning rate does not use it.
            if "choices" in names:
                names.remove("choices")  # They are a cache.
            add(name, {n: getattr(value, n) for n in names})
        else:
            state[name] = repr(value)

    for depth, level in enumerate(levels_of(optimizer)):
        if isinstance(level, OptimizerWrapper):
            # `_averages` is a cache.
            names = set(level.__getstate__()) - {"optimizer", "_averages"}
            add(str(depth), {name: getattr(level, name) for name in sorted(names)})
        else:
            add(str(depth), level)
    add("weights", keys)
    add("averages", dict(optimizer.averages or {}))
    add("n_averaged", getattr(optimizer, "n_averaged", None))
    add("rate", float(current_rate(optimizer)))
    return state


def assert_same(actual, expected):
    """Compare two results of `state_of`."""
    assert set(actual) == set(expected)
    different = [name for name in expected if actual[name] != expected[name]]
    assert not different, [(actual[name], expected[name]) for name in different[:3]]


def make_pipeline():
    """A small spaCy pipeline with a tagger and a named entity recognizer."""
    import spacy

    fix_random_seed(0)
    nlp = spacy.blank("en")
    small = {"@architectures": "spacy.HashEmbedCNN.v2", "pretrained_vectors": None}
    small.update(
        width=8, depth=1, embed_size=50, window_size=1, maxout_pieces=2, subword_features=True
    )
    nlp.add_pipe("tagger", config={"model": {"tok2vec": small}})
    nlp.add_pipe("ner", config={"model": {"tok2vec": small, "hidden_width": 8}})
    nlp.initialize(lambda: make_examples(nlp))
    return nlp


def make_examples(nlp):
    """Three annotated texts."""
    from spacy.training import Example

    texts = ["red Levis jeans", "my old Nike shoes", "cheap socks"]
    entities = [[(4, 9, "BRAND")], [(7, 11, "BRAND")], []]
    return [
        Example.from_dict(
            nlp.make_doc(text),
            {"entities": spans, "tags": ["A"] * (len(text.split()) - 1) + ["N"]},
        )
        for text, spans in zip(texts, entities, strict=True)
    ]
