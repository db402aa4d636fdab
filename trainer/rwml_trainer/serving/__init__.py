"""Serving models: engines on loopback behind a LiteLLM gateway with keys and a guard.

`server.serve` starts all of it and stops all of it.

- In front, a process of its own (`gateway` starts it, `gateway_process` is it): `http_server` gives
  up slow sockets, `guard` lets in what it knows (`routing`, `keys`, `request_body`,
  `capabilities`), and `auth` tells LiteLLM who that is.
- Behind, `fleet` starts, checks (`canary`), restarts and swaps engines (`engine`, `process`), and
  tells the gateway by `control`.
- A version that is tried on a share of the traffic: `conversations` keeps each at its version,
  `traffic` counts what became of it, `trials` is the test, `candidates` what the server knows.
- Before a promotion: `quality`, `tool_calls` and `agent_success`, with engines `apart`.
- On disk, `registry` knows the versions that `versions` made of runs and model folders, of which
  `folders` refuses the hostile ones.

Nothing is imported here: the gateway runs as a module of its own.
"""
