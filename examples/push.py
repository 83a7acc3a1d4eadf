"""Push a message over goim's HTTP routes: to a room, to people, to connection keys, or to everybody.

python examples/push.py "Hello, room"
python examples/push.py --room group://lobby '{"text":"Hello, everybody on the page"}'
python examples/push.py --mids 1 2 -- "Hello, you two"
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from urllib.parse import urlencode


def push(base: str, route: str, query: list[tuple[str, object]], message: bytes, token: str) -> dict[str, object]:
    request = urllib.request.Request(f"{base}/goim/push/{route}?{urlencode(query)}", data=message, method="POST")
    request.add_header("Content-Type", "application/octet-stream")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=10) as response:
        answer: dict[str, object] = json.load(response)
    return answer


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("message")
    options.add_argument("--http", default="http://127.0.0.1:3111")
    options.add_argument("--operation", type=int, default=1000)
    to = options.add_mutually_exclusive_group()
    to.add_argument("--room", default="live://1000")
    to.add_argument("--mids", type=int, nargs="+")
    to.add_argument("--keys", nargs="+")
    to.add_argument("--all", action="store_true")
    options.add_argument("--token", default="", help="a service token, if the server wants one: imcore token --service")
    given = options.parse_args()

    kind, _, name = given.room.partition("://")
    route, query = "room", [("type", kind), ("room", name)]
    if given.mids:
        route, query = "mids", [("mids", mid) for mid in given.mids]
    elif given.keys:
        route, query = "keys", [("keys", key) for key in given.keys]
    elif given.all:
        route, query = "all", [("speed", 0)]
    answer = push(given.http, route, [("operation", given.operation), *query], given.message.encode(), given.token)
    print(json.dumps(answer))
    sys.exit(answer["code"] != 0)
