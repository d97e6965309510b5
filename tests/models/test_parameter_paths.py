"""Parameter paths: readable, unique, and the same in every process."""

import gc
import weakref

import numpy
import pytest
from helpers import require
from small_models import make_model
from thinc.api import (
    Linear,
    Maxout,
    Model,
    Relu,
    Softmax,
    chain,
    clone,
    concatenate,
    noop,
    residual,
    with_array,
)

from thinc_swa import register_parameter_paths
from thinc_swa.models.parameter_paths import find_model_paths, parameter_paths


def test_paths_of_a_single_layer():
    assert register_parameter_paths(Softmax(3, 4)) == ["softmax/W", "softmax/b"]


def test_layers_with_the_same_name_are_numbered():
    model = chain(Relu(4, 4), Linear(4, 4), Relu(4, 4), Softmax(3, 4))
    assert register_parameter_paths(model) == [
        *("relu-0/W", "relu-0/b", "linear/W", "linear/b"),
        *("relu-1/W", "relu-1/b", "softmax/W", "softmax/b"),
    ]


def test_nested_chains_have_the_paths_of_a_flat_chain():
    def layers():
        return [Relu(4, 4), residual(Relu(4, 4)), Linear(4, 4), Softmax(3, 4)]

    a, b, c, d = layers()
    e, f, g, h = layers()
    i, j, k, m = layers()
    expected = ["relu", "residual/relu", "linear", "softmax"]
    expected = [f"{name}/{parameter}" for name in expected for parameter in "Wb"]
    assert register_parameter_paths(chain(a, b, c, d)) == expected
    assert register_parameter_paths(chain(chain(chain(e, f), g), h)) == expected
    assert register_parameter_paths(chain(i, chain(j, chain(k, m)))) == expected


def test_sibling_chains_are_numbered():
    """Thinc's name of this model is "linear>>relu|linear>>relu"."""
    branches = [chain(Linear(4, 4), Relu(4, 4)) for _ in range(2)]
    paths = register_parameter_paths(concatenate(*branches))
    assert paths[::2] == [
        *("concatenate/chain-0/linear/W", "concatenate/chain-0/relu/W"),
        *("concatenate/chain-1/linear/W", "concatenate/chain-1/relu/W"),
    ]


def test_composed_names_are_shortened_to_the_kind():
    """Thinc's name of this model is "with_array(residual(maxout>>layernorm>>dropout)>>…)"."""
    layer = residual(Maxout(4, 4, normalize=True, dropout=0.1))
    paths = register_parameter_paths(with_array(clone(layer, 4)))
    assert len(paths) == 16
    assert paths[:4] == [
        *("with_array/residual-0/maxout/W", "with_array/residual-0/maxout/b"),
        *("with_array/residual-0/layernorm/G", "with_array/residual-0/layernorm/b"),
    ]
    assert paths[8] == "with_array/residual-2/maxout/W"


def test_custom_names_are_kept():
    model = chain(Relu(4, 4), Softmax(3, 4))
    model.name = "my head"
    assert register_parameter_paths(chain(Linear(4, 4), model))[::2] == [
        *("linear/W", "my_head/relu/W", "my_head/softmax/W"),
    ]


def test_shared_layer_has_the_path_of_its_first_place():
    paths = register_parameter_paths(make_model())
    assert paths[::2] == [
        *("relu-0/W", "residual/relu/W"),
        *("concatenate/relu-0/W", "concatenate/relu-1/W", "softmax/W"),
    ]
    layer = Relu(4, 4)
    assert register_parameter_paths(chain(layer, Linear(4, 4), layer))[::2] == [
        "relu/W",
        "linear/W",
    ]


def test_paths_are_unique():
    def linear(name):
        model = Linear(2, 2)
        model.name = name
        return model

    layers = [linear(name) for name in ("a", "a", "a-0", "a-1", "a(b)", "a/b", "a b")]
    paths = register_parameter_paths(chain(*layers, noop()))
    assert len(set(paths)) == len(paths) == 14


def test_paths_are_known_before_the_initialization():
    model = chain(Relu(4), Softmax())
    paths = register_parameter_paths(model)
    model.initialize(X=numpy.ones((2, 3), "f"), Y=numpy.ones((2, 3), "f"))
    assert list(parameter_paths(model).values()) == paths


def test_copies_have_the_same_paths():
    model = make_model()
    copy = model.copy()
    assert register_parameter_paths(copy) == register_parameter_paths(model)
    (key, other_key) = (next(iter(parameter_paths(m))) for m in (model, copy))
    assert key != other_key
    assert set(find_model_paths(key)) == set(parameter_paths(model))
    assert set(find_model_paths(other_key)) == set(parameter_paths(copy))


def test_unregistered_parameters_have_no_paths():
    assert find_model_paths((10**9, "W")) is None


def test_last_registration_replaces_earlier_ones():
    layer = Linear(2, 2)
    key = (layer.id, "W")
    register_parameter_paths(layer)
    assert find_model_paths(key)[key] == "linear/W"
    register_parameter_paths(chain(layer, Linear(2, 2)))
    assert find_model_paths(key)[key] == "linear-0/W"


def test_shims_without_a_model_have_no_paths():
    """Thinc allows shims without a model."""
    require("torch")
    from thinc.api import PyTorchShim

    shim = PyTorchShim(None)
    empty = Model("empty", lambda model, X, is_train: (X, lambda dY: dY), shims=[shim])
    assert register_parameter_paths(chain(empty, Linear(2, 2))) == ["linear/W", "linear/b"]


def test_registered_models_can_be_garbage_collected():
    model = chain(Relu(4, 4), Softmax(3, 4)).initialize()
    register_parameter_paths(model)
    weights = weakref.ref(model.layers[0].get_param("W"))
    assert weights() is not None
    del model
    gc.collect()
    assert weights() is None


def test_invalid_models_are_refused():
    with pytest.raises(TypeError, match="Not a Thinc Model or a spaCy Language: str"):
        register_parameter_paths("model")


def test_pytorch_parameters_keep_their_names():
    require("torch")
    import torch
    from thinc.api import PyTorchWrapper

    tied = torch.nn.Linear(4, 4)
    layers = [torch.nn.Sequential(tied, torch.nn.LayerNorm(4)), tied]
    wrapped = [PyTorchWrapper(layer) for layer in (torch.nn.Sequential(*layers), tied)]
    assert register_parameter_paths(chain(wrapped[0], Softmax(3, 4))) == [
        *("pytorch/0.0.weight", "pytorch/0.0.bias", "pytorch/0.1.weight", "pytorch/0.1.bias"),
        *("softmax/W", "softmax/b"),
    ]
    both = Model("both", lambda model, X, is_train: None, shims=[w.shims[0] for w in wrapped])
    assert register_parameter_paths(both) == [
        *("both/0/0.0.weight", "both/0/0.0.bias", "both/0/0.1.weight", "both/0/0.1.bias"),
        *("both/1/weight", "both/1/bias"),
    ]


def test_paths_of_a_pipeline():
    require("spacy")
    from optimizer_states import make_pipeline
    from spacy import registry

    nlp = make_pipeline()
    callback = registry.get("callbacks", "thinc_swa.register_parameter_paths.v1")()
    assert callback(nlp) is nlp
    paths = list(parameter_paths(nlp).values())
    assert len(set(paths)) == len(paths)
    assert paths[:2] == [
        *("tagger/with_array-0/concatenate/chain-0/hashembed/E",),
        *("tagger/with_array-0/concatenate/chain-1/hashembed/E",),
    ]
    assert "tagger/with_array-2/residual/maxout/W" in paths
    assert paths[-2:] == ["ner/parser_model/linear/W", "ner/parser_model/linear/b"]
    key = (nlp.get_pipe("ner").model.id, "W")
    assert find_model_paths(key) is None  # The parser itself has no parameters.
    key = next(iter(parameter_paths(nlp)))
    assert list(find_model_paths(key).values()) == paths
    # A layer that two components share has the path of the first component.
    nlp.get_pipe("ner").model.layers.append(nlp.get_pipe("tagger").model.layers[-1])
    assert register_parameter_paths(nlp) == paths
    # Disabled components are included.
    with nlp.select_pipes(disable=["tagger"]):
        assert register_parameter_paths(nlp) == paths
