"""The program's beginning: an interrupt ends it at once and without a word, until something runs that can be kept."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from agentdag.cli.main import main

if __name__ == "__main__":
    main()
