"""`python -m rwml` is the `rwml` command."""

from rwml.cli import main

if __name__ == "__main__":
    main()
