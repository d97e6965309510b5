from thinc_swa.optimizers.step_counter import StepCounter

A, B = (1, "W"), (1, "b")


def play(counter, events):
    """Updates of parameters, and "|" for a call of step_schedules(). Returns `n_steps` after
    each event."""
    history = []
    for event in events:
        if event == "|":
            counter.begin_call()
            counter.end_call()
        else:
            if counter.begins_step(event) and counter.can_flush:
                counter.flush()
            counter.add_update(event)
        history.append(counter.n_steps)
    return history


def test_a_call_completes_a_step_whatever_was_updated():
    assert play(StepCounter(), [A, B, "|", A, A, B, "|", "|", B, "|"]) == [
        *(0, 0, 1),
        *(1, 1, 1, 2),
        *(3,),
        *(3, 4),
    ]


def test_without_calls_the_most_often_updated_parameter_counts():
    """A step is complete when the next one begins."""
    assert play(StepCounter(), [A, B, A, B, B, A]) == [0, 0, 1, 1, 2, 2]


def test_updates_before_the_first_call_are_one_step():
    counter = StepCounter()
    assert play(counter, [A, A, A]) == [0, 1, 2]
    assert counter.begin_call()
    counter.end_call()
    assert counter.n_steps == 1
    assert play(counter, [A, A, "|"]) == [1, 1, 2]


def test_a_flushed_step_is_counted_once():
    counter = StepCounter()
    play(counter, [A])
    assert counter.n_begun == 1 and counter.can_flush
    counter.flush()
    assert (counter.n_steps, counter.n_begun, counter.can_flush) == (1, 1, False)
    # Not merged: it is the one step that the call completes.
    assert not counter.begin_call()
    assert not counter.end_call()
    assert counter.n_steps == 1


def test_the_end_of_a_step_that_is_waited_for():
    counter = StepCounter()
    play(counter, [A, B, A])
    counter.wait_for_all()
    assert not counter.completes_step(A)
    assert counter.completes_step(B)
    assert not counter.completes_step(B)


def test_one_call_per_epoch_is_noticed_once():
    counter = StepCounter()
    noticed = []
    for _ in range(3):
        play(counter, [A, B] * 6 + ["|"])
        noticed.append(counter.updates_per_epoch())
    assert noticed == [6, 0, 0]


def test_layers_shared_by_several_components_are_no_epochs():
    counter = StepCounter()
    for _ in range(3):
        play(counter, [A] * 6 + [B, "|"])
        assert counter.updates_per_epoch() == 0


def test_forgotten_parameters_do_not_count():
    counter = StepCounter()
    play(counter, [A, A, A, B])
    counter.forget([A, (7, "unknown")])
    assert counter.n_updates == {B: 1}
    assert play(counter, [B]) == [3]
