"""Serving a model: an engine on loopback behind a LiteLLM gateway with a key and a guard.

`server.serve` starts both and stops both. `engine` runs the model, `gateway` runs the LiteLLM proxy
behind `guard` (routes, Host, key, body limit) and `request_body` (what it may say), and `process`
keeps the two subprocesses. Nothing is imported here: the gateway runs as a module of its own.
"""
