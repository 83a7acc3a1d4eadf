"""Bytes <-> packets <-> requests: goim's binary form, the JSON form, and the frames of RFC 6455 under them.

No I/O, no clock, no event loop: bytes come in as arguments and go out as return values, so the same code serves TCP,
WebSocket, the client library and the tests. docs/protocol.md says the same for those who write clients.

- packet      the packet, the operations, the limits, the names of rooms
- binary      goim's header            - text       the JSON form
- strict      what JSON may not hold   - requests   packets to requests, every field checked
- websocket   RFC 6455, server side    - connection which operations are legal when

The paths of a send through `binary`, `text`, `strict`, `requests` and `websocket` are hot: measure before and after a
change.
"""
