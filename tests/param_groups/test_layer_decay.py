"""Layer-wise decay of the learning rate."""

from group_cases import group, make_model, make_named_model, sgd, update_sizes

from thinc_swa import ParamGroups


def test_layer_lr_decay_from_the_last_layer_to_the_first():
    """The learning rate of the last layer and of parameters without a layer is unchanged."""
    optimizer = ParamGroups(
        sgd(), layer_lr_decay=0.5, layer_patterns=["linear-0/*", "linear-1/*", "linear-2/*"]
    )
    assert update_sizes(optimizer, make_named_model()) == {
        "linear-0/W": 0.025,
        "linear-0/b": 0.025,
        "linear-1/W": 0.05,
        "linear-1/b": 0.05,
        "linear-2/W": 0.1,
        "linear-2/b": 0.1,
        "softmax/W": 0.1,
        "softmax/b": 0.1,
    }


def test_layer_lr_decay_is_multiplied_by_lr_scale():
    optimizer = ParamGroups(
        sgd(),
        groups=[group("*/b", lr_scale=3.0)],
        layer_lr_decay=0.5,
        layer_patterns=["linear/*", "softmax/*"],
    )
    assert list(update_sizes(optimizer, make_named_model(1)).values()) == [0.05, 0.15, 0.1, 0.3]


def test_numbered_layers_are_in_numerical_order():
    """Layer 10 comes after layer 9, and "linear-1*" does not match it as layer 1."""
    optimizer = ParamGroups(
        sgd(), layer_lr_decay=0.9, layer_patterns=["*linear-#*", "softmax/*"]
    )
    sizes = update_sizes(optimizer, make_named_model(12))
    assert sizes == {
        **{f"linear-{i}/{name}": 0.1 * 0.9 ** (12 - i) for i in range(12) for name in "Wb"},
        "softmax/W": 0.1,
        "softmax/b": 0.1,
    }


def test_missing_layer_numbers_are_skipped():
    """The "#" represents the layers 0 and 2, because the first glob matches layer 1."""
    optimizer = ParamGroups(
        sgd(), layer_lr_decay=0.5, layer_patterns=["linear-1/*", "linear-#/*"]
    )
    sizes = update_sizes(optimizer, make_named_model())
    assert [sizes[f"linear-{i}/W"] for i in range(3)] == [0.05, 0.025, 0.1]


def test_layers_selected_by_parameter_names():
    optimizer = ParamGroups(sgd(), layer_lr_decay=0.5, layer_patterns=["W", "b"])
    assert list(update_sizes(optimizer, make_model(1)).values()) == [0.05, 0.1] * 2


def test_layer_lr_decay_of_1_changes_nothing():
    optimizer = ParamGroups(sgd(), layer_lr_decay=1, layer_patterns=["linear-#/*"])
    assert list(update_sizes(optimizer, make_named_model()).values()) == [0.1] * 8
