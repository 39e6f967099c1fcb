"""The command line as a process: `python -m gpupeak`, and what the command `gpupeak` calls."""

import signal
import sys


def main() -> int:
    """Run the command that `sys.argv` names and return its exit code.

    Ctrl-C while the command is still loading ends the process without Python's traceback; a signal that comes when all
    is done does not change how it has ended.
    """
    try:
        from gpupeak.cli import app
    except KeyboardInterrupt:
        return 130
    code = app.main()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(main())
