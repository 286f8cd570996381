"""Training: losses, metrics, optimizers, callbacks, the loop of fit, and progress."""
