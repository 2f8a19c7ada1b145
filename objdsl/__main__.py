"""`python -m objdsl` is `objdsl`."""

from objdsl.cli.app import main

if __name__ == "__main__":
    main()
