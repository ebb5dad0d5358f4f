"""`python -m ecstfl_cli`, which is also what torchrun and `accelerate launch` start."""

from ecstfl_cli.cli.app import main

if __name__ == "__main__":
    main()
