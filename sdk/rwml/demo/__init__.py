"""`rwml demo`: the whole loop on a laptop, by running the other commands as subprocesses."""
