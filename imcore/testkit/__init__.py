"""What the promises are tested with: a run's history, the checks of it, and a line between processes that can be made bad.

Three ideas, a module each. `history` records what clients did and saw, and reads from the database what is so; `checkers` holds
every promise against the two; `proxy` stands between two processes and delays, holds back, drops or breaks what goes through.

Beside the service, never inside it: nothing that serves imports from here.
"""

from __future__ import annotations
