"""The web page and the API on one port: `python app.py` is `janus serve`, with its options."""

from __future__ import annotations

import sys

from janus.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
