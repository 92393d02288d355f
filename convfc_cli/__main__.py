"""`python -m convfc_cli` is `convfc`."""

from convfc_cli.cli.main import main

if __name__ == "__main__":
    main()
