"""HTTP: goim's routes byte for byte, our own under /v1, what operators look at, and a page to try it all.

A handler reads its request (`asking`), asks who it is from (`Identity`), and calls one command or read; it decides nothing itself.
`app` joins the routes and the middlewares around them: errors to statuses, who is asking, from which page, and how often.
"""

from __future__ import annotations
