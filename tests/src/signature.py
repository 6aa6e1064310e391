"""Signs and verifies the message on the standard input (RFC 6376, RFC 8463), without asking the DNS.

    signature.py sign|verify KEY     KEY: a file with the seed of the Ed25519 key, in base64

`sign` prints the message with a signature over all of its fields but for Received (RFC 6376 section
5.4.1), canonicalization simple/simple; `verify` prints `valid` or `invalid`.
"""

import base64
import sys

import dkim
import nacl.signing

what, key_file = sys.argv[1:3]
with open(key_file, "rb") as file:
    seed = file.read().strip()
message = sys.stdin.buffer.read()
if what == "sign":
    fields, _ = dkim.rfc822_parse(message)
    signature = dkim.sign(
        message,
        b"test",
        b"a.example",
        seed,
        canonicalize=(b"simple", b"simple"),
        include_headers=[name for name, _ in fields if name.lower() != b"received"],
        signature_algorithm=b"ed25519-sha256",
    )
    sys.stdout.buffer.write(signature + message)
else:
    public = base64.b64encode(bytes(nacl.signing.SigningKey(base64.b64decode(seed)).verify_key))
    record = b"v=DKIM1; k=ed25519; p=" + public
    valid = dkim.verify(message, dnsfunc=lambda name, timeout=5: record)
    print("valid" if valid else "invalid")
