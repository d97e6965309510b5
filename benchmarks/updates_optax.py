"""Averages of JAX arrays by optax, compiled, with donated buffers: results may overwrite
arguments."""

import jax
import jax.numpy as jnp
import optax
from updates import Peer

DECAY = 0.999
PULLBACK = 0.5


def make_weights(shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    arrays = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    return jax.block_until_ready(arrays)


def _repeat(update, state):
    """A function that applies one update to the state and waits for the result."""

    def run():
        nonlocal state
        state = jax.block_until_ready(update(state))

    return run


def _copy(weights):
    return jax.tree.map(jnp.copy, weights)


def _incremental_swa(weights):
    # The step size 1 / (n + 1) is an argument, because it differs between updates.
    update = jax.jit(optax.incremental_update, donate_argnums=1)
    n_averaged = 1

    def next_average(average):
        nonlocal n_averaged
        n_averaged += 1
        return update(weights, average, 1 / n_averaged)

    return _repeat(next_average, _copy(weights))


def _incremental_ema(weights):
    update = jax.jit(optax.incremental_update, donate_argnums=1)
    return _repeat(lambda average: update(weights, average, 1 - DECAY), _copy(weights))


def _ema(weights):
    transformation = optax.ema(DECAY, debias=False)
    # The averages are returned twice; only those in the state are used.
    update = jax.jit(
        lambda state, weights: transformation.update(weights, state)[1], donate_argnums=0
    )
    return _repeat(lambda state: update(state, weights), transformation.init(weights))


def _lookahead(weights):
    # Every update is a synchronisation, and the inner optimizer does nothing.
    optimizer = optax.lookahead(optax.identity(), sync_period=1, slow_step_size=PULLBACK)

    def synchronise(state):
        parameters, state = state
        zeros = jax.tree.map(jnp.zeros_like, parameters.fast)
        updates, state = optimizer.update(zeros, state, parameters)
        return optax.apply_updates(parameters, updates), state

    parameters = optax.LookaheadParams(fast=_copy(weights), slow=_copy(weights))
    update = jax.jit(synchronise, donate_argnums=0)
    return _repeat(update, (parameters, optimizer.init(parameters)))


PEERS = [
    Peer("optax incremental_update", "SWA", _incremental_swa),
    Peer("optax incremental_update", "EMA", _incremental_ema),
    Peer("optax ema", "EMA", _ema),
    Peer("optax lookahead", "Lookahead", _lookahead, copies_weights=True),
]
