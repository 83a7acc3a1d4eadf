"""Files that people attach to conversations: where the bytes are, what they are, and links to them that end.

The log knows of each attachment (who, where, name, media type, size, digest) and never holds its bytes. Those lie in a store under an
id that is random, and are written before the event that makes them an attachment: what has no event is swept away after a day.
"""
