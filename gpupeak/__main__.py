"""`python -m gpupeak`: the command line."""

if __name__ == "__main__":
    import sys

    from gpupeak.cli import main

    sys.exit(main())
