"""Training of Thinc models: trainer, callbacks, checkpoints."""
