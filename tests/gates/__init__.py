"""The promises of recording, as tests: what is lost, leaked, stalled or broken, counted.

`make test` runs short rounds of each gate, `make soak` the full ones (``RWML_SOAK=1``), which
writes build/gates.json. Programs that must be killed, starved or watched are files of their own.
"""
