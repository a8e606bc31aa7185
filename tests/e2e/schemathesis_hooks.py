"""Bodies of the bulk route, for which schemathesis has no writer of its own."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson", "application/vnd.siglip.rows")
def rows(_, value):
    """One row, well-formed as JSON; as binary frames it is as wrong as can be."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()
