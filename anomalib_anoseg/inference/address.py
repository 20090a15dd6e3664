"""What of a stream's address is for everybody."""

import re

# User and password before the host; a path of Python's has but one of the two strokes. A password
# follows a colon and may have any character: up to the last @ all may be part of it.
LOGIN = re.compile(r"([a-z][a-z0-9+.-]+:/{1,2})(?:[^:]*:.*|[^/?#\s]*)@", re.IGNORECASE)


def without_login(text: str) -> str:
    """Return text whose addresses have neither user nor password.

    Results, pages and logs are read by more people than may look through the camera.
    """
    return LOGIN.sub(r"\1", text)
