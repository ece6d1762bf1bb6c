"""The page at `/`: it shows a decode live, or two side by side, and fetches nothing but this server's API.

Its HTML is page.html beside this file; its style sheet and its tokens are those of `unmask view`'s page.
"""

import base64
import hashlib
import re

from unmask.methods import TABLE, load
from unmask.methods.table import looks
from unmask.models.loading import EMBEDDED
from unmask.serve.service import Service
from unmask.view.page import fill
from unmask.view.trace import FIXED, FIXED_LOOK

# What the embedded models were trained on; to anything else they answer with a number.
KNOWS = "This model has 1.6M parameters and knows word problems, sums, equations, sorting and little else. Try one of these:"
EXAMPLES = (
    "Mia has 23 apples. On Monday Mia buys 8. On Tuesday Mia gives away 5. On Wednesday Mia finds 7. "
    "How many apples does Mia have?",
    "Compute 40 + 7 - 9.",
    "Sort the names Mia, Eva, Noah, Hugo, Iris.",
)


def page(service: Service) -> str:
    """The page, filled with this server's model and methods."""
    model, options = service.model, service.options
    return fill(
        "unmask.serve",
        {
            "model": service.model_info.id,
            "chat": model.has_template,
            "methods": list(TABLE),
            "method": options.preset if options.preset in TABLE and not options.settings else None,
            "max_tokens": options.max_new_tokens,
            "key": bool(options.api_keys),
            "knows": KNOWS,
            "examples": EXAMPLES if model.name in EMBEDDED else (),
        },
        looks() | load(options.preset, **options.settings).looks | {FIXED: FIXED_LOOK},
    )


def protection(html: str) -> dict[str, str]:
    """Headers that let a page run its own scripts and no others, talk to its own server alone, and be in no frame."""
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts)
    policy = {
        "default-src": "'none'",
        "script-src": hashes,
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
    }
