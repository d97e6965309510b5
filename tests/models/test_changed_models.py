"""Changes of models during training: replaced layers, removed components, added labels."""

import gc
import weakref

import numpy
import pytest
from helpers import require
from optimizer_states import (
    X,
    Y,
    assert_same,
    keys_of,
    levels_of,
    make_examples,
    make_pipeline,
    state_of,
)
from thinc.api import SGD, Adam, Model, RAdam, Relu, Softmax, chain, fix_random_seed
from wrapped_optimizers import OPTIMIZERS

from thinc_swa import (
    EMA,
    SWA,
    Lookahead,
    OptimizerWrapper,
    ParamGroups,
    forget_missing,
    load_optimizer,
    register_parameter_paths,
    save_optimizer,
)

WRAPPERS = {
    "Thinc's averages": lambda optimizer: optimizer,
    **OPTIMIZERS,
    "nested": lambda optimizer: SWA(
        Lookahead(EMA(optimizer, decay=0.8), freq=3, inner_state="pullback"), start_step=2
    ),
}
INNERMOST = {"Adam": lambda: Adam(0.1), "RAdam": lambda: RAdam(0.1)}


def make_model(n_layers=1):
    """n_layers (int): The number of layers that were last in the model, one after another."""
    fix_random_seed(0)
    model = chain(Relu(6, 5), Softmax(3, 6)).initialize()
    for _ in range(1, n_layers):
        replace_last_layer(model)
    return model


def replace_last_layer(model):
    """Replace the last layer by a new one, as spaCy does to resize it."""
    layer = Softmax(3, 6).initialize()
    layer.set_param("W", model.layers[-1].get_param("W") + 1)
    model.layers[-1] = layer


def train(model, optimizer, start, stop):
    for step in range(start, stop):
        inputs = X + numpy.random.RandomState(step).uniform(-1, 1, X.shape).astype("f")
        predicted, backprop = model.begin_update(inputs)
        backprop((predicted - Y) / len(Y))
        model.finish_update(optimizer)
        optimizer.step_schedules()


def resume(optimizer, model, other, other_model, folder):
    """Save an optimizer and load it into another one, with a copy of the model."""
    save_optimizer(folder / "optimizer", optimizer, model)
    other_model.from_bytes(model.to_bytes())
    load_optimizer(folder / "optimizer", other, other_model)


@pytest.mark.parametrize("make", INNERMOST.values(), ids=INNERMOST)
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_resume_after_a_layer_was_replaced_is_bit_identical(wrap, make, tmp_path):
    model, optimizer = make_model(), wrap(make())
    train(model, optimizer, 0, 4)
    old = set(keys_of(model))
    replace_last_layer(model)
    train(model, optimizer, 4, 8)
    with pytest.raises(
        ValueError, match=r"2 parameters .* call forget_missing\(optimizer, mod"
    ):
        save_optimizer(tmp_path / "optimizer", optimizer, model)
    assert list(tmp_path.iterdir()) == []
    removed = old - set(keys_of(model))
    assert len(removed) == 2
    arrays = [
        weakref.ref(moments[key])
        for moments in (optimizer.mom1, optimizer.mom2)
        for key in removed
    ]
    assert forget_missing(optimizer, model) == 2
    assert forget_missing(optimizer, model) == 0
    gc.collect()
    assert [array() for array in arrays] == [None] * 4
    state_of(optimizer, model)  # Fails if there is state of other parameters.
    other, other_model = wrap(make()), make_model(n_layers=2)
    resume(optimizer, model, other, other_model, tmp_path)
    train(model, optimizer, 8, 12)
    train(other_model, other, 8, 12)
    assert_same(state_of(other, other_model), state_of(optimizer, model))


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_forget_missing_does_not_affect_other_parameters(wrap):
    """The first layer is trained as without `forget_missing`."""
    results = []
    for does_forget in (False, True):
        model, optimizer = make_model(), wrap(SGD(0.1))
        train(model, optimizer, 0, 5)
        replace_last_layer(model)
        if does_forget:
            assert forget_missing(optimizer, model) == 2
        train(model, optimizer, 5, 12)
        averages = {
            key: optimizer.averages[key] for key in keys_of(model) if optimizer.averages
        }
        results.append([*keys_of(model).values(), *averages.values()])
    for expected, actual in zip(*results, strict=True):
        numpy.testing.assert_array_equal(actual, expected)


def test_average_of_a_new_layer_starts_at_its_first_update():
    """Earlier snapshots count with the initial value."""
    optimizer = SWA(SGD(1.0, use_averages=False), start_step=1)
    weights = {key: numpy.zeros((1,), dtype="f") for key in ((1, "W"), (2, "W"))}

    def step(*keys):
        for key in keys:
            optimizer(key, weights[key], numpy.full((1,), -1.0, dtype="f"))
        optimizer.step_schedules()

    step((1, "W"))
    step((1, "W"))  # Snapshots: 1, 2.
    optimizer._forget([(1, "W")])
    assert not optimizer.averages
    weights[2, "W"] += 10
    step((2, "W"))
    step((2, "W"))  # Snapshots: 10, 10, 11, 12.
    assert optimizer.n_averaged == 4
    assert {key: float(average[0]) for key, average in optimizer.averages.items()} == {
        (2, "W"): 10.75
    }


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_steps_are_counted_after_the_most_updated_parameter_is_dropped(wrap):
    """Without `step_schedules()`, the number of steps is that of the most updated parameter."""
    optimizer = OptimizerWrapper(wrap(SGD(0.1)))
    first, second = (numpy.zeros((2,), dtype="f") for _ in range(2))
    for _ in range(9):
        optimizer((1, "b"), first, numpy.ones_like(first))
    for _ in range(3):
        optimizer((2, "W"), second, numpy.ones_like(second))
    optimizer.averages  # noqa: B018
    assert optimizer._steps.n_steps == 9
    for level in levels_of(optimizer):
        if isinstance(level, OptimizerWrapper):
            level._forget([(1, "b")])
    for _ in range(5):
        optimizer((2, "W"), second, numpy.ones_like(second))
    optimizer.averages  # noqa: B018
    assert optimizer._steps.n_steps == 14


def test_forget_missing_refuses_another_model():
    model, optimizer = make_model(), EMA(Adam(0.1))
    train(model, optimizer, 0, 2)
    before = state_of(optimizer, model)
    with pytest.raises(
        ValueError, match="has state of 4 parameters, but none of them is in this"
    ):
        forget_missing(optimizer, make_model())
    with pytest.raises(TypeError, match="Not a Thinc Model"):
        forget_missing(optimizer, "model")
    with pytest.raises(TypeError, match="Not a Thinc Optimizer"):
        forget_missing(model, model)
    assert_same(state_of(optimizer, model), before)
    assert forget_missing(EMA(Adam(0.1)), model) == 0


def test_saving_drops_state_of_registered_removed_parameters(tmp_path):
    """Registered parameters need no call of `forget_missing`."""
    model, optimizer = make_model(), EMA(Adam(0.1))
    register_parameter_paths(model)
    train(model, optimizer, 0, 2)
    replace_last_layer(model)
    train(model, optimizer, 2, 4)
    other, other_model = EMA(Adam(0.1)), make_model(n_layers=2)
    resume(optimizer, model, other, other_model, tmp_path)
    train(model, optimizer, 4, 8)
    train(other_model, other, 4, 8)
    forget_missing(optimizer, model)
    assert_same(state_of(other, other_model), state_of(optimizer, model))
    # Another model is still refused.
    with pytest.raises(ValueError, match="4 parameters that are not in the model"):
        save_optimizer(tmp_path / "optimizer", optimizer, make_model())


def test_parameter_groups_require_registration_of_new_layers():
    """The paths of a Thinc model must be registered again after a change."""
    model = make_model()
    register_parameter_paths(model)
    optimizer = ParamGroups(
        SGD(0.1), groups=[{"name": "last", "params": ["softmax/*"], "frozen": True}]
    )
    train(model, optimizer, 0, 2)
    replace_last_layer(model)
    message = (
        r"is not known: call register_parameter_paths\(model\) .* again after layers were added"
    )
    with pytest.raises(ValueError, match=message):
        train(model, optimizer, 2, 3)
    register_parameter_paths(model)
    before = model.layers[-1].get_param("W").copy()
    train(model, optimizer, 2, 5)
    numpy.testing.assert_array_equal(model.layers[-1].get_param("W"), before)
    assert forget_missing(optimizer, model) == 0  # Frozen parameters have no state.
    assert set(optimizer._selector.choices) >= set(keys_of(model))


# spaCy


CHANGES = {
    "textcat": lambda nlp: nlp.get_pipe("textcat").add_label("C"),
    "ner": lambda nlp: nlp.get_pipe("ner").add_label("PRODUCT"),
    "removed": lambda nlp: nlp.remove_pipe("ner"),
}


def make_spacy_pipeline():
    require("spacy")
    nlp = make_pipeline()
    tok2vec = {"@architectures": "spacy.HashEmbedCNN.v2", "pretrained_vectors": None}
    tok2vec.update(width=8, depth=1, embed_size=50, window_size=1, maxout_pieces=2)
    model = {"@architectures": "spacy.TextCatCNN.v2", "exclusive_classes": True}
    model["tok2vec"] = {**tok2vec, "subword_features": True}
    component = nlp.add_pipe("textcat", config={"model": model})
    examples = make_spacy_examples(nlp, {"A": 1.0, "B": 0.0})
    component.initialize(lambda: examples, nlp=nlp, labels=["A", "B"])
    return nlp


def make_spacy_examples(nlp, categories):
    examples = make_examples(nlp)
    for example in examples:
        example.reference.cats = categories
    return examples


def train_spacy(nlp, optimizer, start, stop, categories):
    for step in range(start, stop):
        fix_random_seed(step)
        nlp.update(make_spacy_examples(nlp, categories), sgd=optimizer, drop=0.0)
        optimizer.step_schedules()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    "name, is_registered",
    [("textcat", False), ("ner", False), ("ner", True), ("removed", False), ("removed", True)],
)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda optimizer: optimizer,
        lambda optimizer: SWA(optimizer, start_step=2),
        lambda optimizer: EMA(optimizer, decay=0.9),
        lambda optimizer: Lookahead(optimizer, freq=3, inner_state="pullback"),
    ],
    ids=["Adam", "SWA", "EMA", "Lookahead"],
)
def test_resume_after_labels_were_added_is_bit_identical(wrap, name, is_registered, tmp_path):
    """spaCy replaces the output layer in `nlp.get_pipe("ner").add_label(…)`."""

    def make():
        return make_spacy_pipeline(), wrap(Adam(0.01))

    nlp, optimizer = make()
    if is_registered:
        register_parameter_paths(nlp)
    before, after = {"A": 1.0, "B": 0.0}, {"A": 0.0, "B": 0.0, "C": 1.0}
    after = after if name == "textcat" else before
    train_spacy(nlp, optimizer, 0, 4, before)
    CHANGES[name](nlp)
    train_spacy(nlp, optimizer, 4, 7, after)
    n_removed = len(set(optimizer.nr_update) - set(keys_of(nlp)))
    assert n_removed > 0
    if not is_registered:
        assert forget_missing(optimizer, nlp) == n_removed
    other_nlp, other = make()
    CHANGES[name](other_nlp)
    resume(optimizer, nlp, other, other_nlp, tmp_path)
    # If the parameters are registered, saving drops their state.
    assert forget_missing(optimizer, nlp) == 0
    train_spacy(nlp, optimizer, 7, 11, after)
    train_spacy(other_nlp, other, 7, 11, after)
    assert_same(state_of(other, other_nlp), state_of(optimizer, nlp))


def test_parameter_groups_find_new_layers_of_a_pipeline():
    """New layers of a registered pipeline need no new registration."""
    nlp = make_spacy_pipeline()
    register_parameter_paths(nlp)
    optimizer = ParamGroups(
        SGD(0.1), groups=[{"name": "ner", "params": ["ner/*"], "frozen": True}]
    )
    categories = {"A": 1.0, "B": 0.0}
    train_spacy(nlp, optimizer, 0, 2, categories)
    CHANGES["ner"](nlp)
    root = nlp.get_pipe("ner").model
    before = root.to_bytes()
    train_spacy(nlp, optimizer, 2, 4, categories)
    assert root.to_bytes() == before


def test_registered_pipelines_can_be_garbage_collected():
    require("spacy")
    import spacy

    nlp = spacy.blank("en")
    nlp.add_pipe("tagger").model = Model("tagger", lambda model, X, is_train: (X, None))
    register_parameter_paths(nlp)
    reference = weakref.ref(nlp)
    del nlp
    gc.collect()
    assert reference() is None
