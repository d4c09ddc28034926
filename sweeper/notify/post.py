"""Posts its standard input to the URL that is its argument: a program of its own, which can be ended at any moment."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from typing import Any

__all__ = ["main"]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The body goes to the URL that the spec names, and nowhere else."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        return None


def main() -> int:
    """Post it.

    Returns:
        The exit code: 0 for an answer of 200 to 299, the hundreds of another one, 1 where there was none.
    """
    url, body = sys.argv[1], sys.stdin.buffer.read()
    headers = {"Content-Type": "application/json", "User-Agent": "clipsweep"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    try:
        # A spec's `post` begins with http:// or https://.
        with urllib.request.build_opener(_NoRedirects).open(request):
            return 0
    except urllib.error.HTTPError as answer:
        return max(3, answer.code // 100)
    except (OSError, ValueError):
        return 1


if __name__ == "__main__":
    sys.exit(main())
