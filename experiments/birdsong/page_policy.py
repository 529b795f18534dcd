"""Content-Security-Policy of pages that are opened from a file: only their own script and style, no network."""

import base64
import hashlib
from collections.abc import Sequence


def policy(script: str, style: str, media: Sequence[str]) -> str:
    """The policy of a page that runs only `script`, uses only `style`, and loads images and sounds from `media`."""
    parts = {'default-src': "'none'", 'base-uri': "'none'", 'form-action': "'none'"}
    parts |= {'script-src': _hashed(script), 'style-src': _hashed(style)}
    parts |= dict.fromkeys(('img-src', 'media-src'), ' '.join(media))
    return '; '.join(map(' '.join, parts.items()))


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
