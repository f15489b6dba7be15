"""Asks a service here whether it is ready: ``python -m specedge.service.probe PORT [PATH]``.

What a container's health check runs, where there is neither curl nor a reason for it. Standard
library only, and little of it: it runs every few seconds for as long as the service does.
"""

import http.client
import sys
from typing import Final

TIMEOUT_S: Final = 4.0
SHOWN_BYTES: Final = 2000


def probe(port: int, path: str = "/ready") -> tuple[bool, str]:
    """Whether the answer is 200, and what it says; a service that does not answer says why not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        said = answer.read(SHOWN_BYTES).decode(errors="replace")
        return answer.status == http.client.OK, said
    except (OSError, http.client.HTTPException) as error:
        return False, f"no answer on port {port}: {error}"
    finally:
        connection.close()


def main(arguments: list[str]) -> int:
    """The exit code: 0 ready, 1 not, 2 for wrong arguments. What the service says goes to stdout,
    where ``docker inspect`` shows it."""
    if not 1 <= len(arguments) <= 2 or not arguments[0].isdigit():
        sys.stderr.write("usage: python -m specedge.service.probe PORT [PATH]\n")
        return 2
    is_ready, said = probe(int(arguments[0]), *arguments[1:])
    sys.stdout.write(said + "\n")
    return 0 if is_ready else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
