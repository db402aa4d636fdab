"""Training, serving and evaluating world models from recorded transitions."""
