"""`python -m naru.cli`. Must not know: commands."""

from __future__ import annotations

from naru.cli import main

if __name__ == "__main__":
    main()
