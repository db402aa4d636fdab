"""The trainer's commands: argument parsing and words only, the work is in the modules."""
