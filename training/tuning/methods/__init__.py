"""One file per training method, each with one ``train(run)`` and one ``inspect(run)``."""
