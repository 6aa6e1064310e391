"""A plugin that behaves as its argument says, for the stories about plugins that do not behave."""

import os
import sys
import threading
import time
from concurrent import futures

import grpc

from opes.plugin.v1 import plugin_pb2 as opes
from opes.plugin.v1 import plugin_pb2_grpc as service


def edit(start, end, octets=b""):
    return opes.Outcome(verdict="lies", edits=opes.Edits(edits=[opes.Edit(start=start, end=end, octets=octets)]))


def looks(event, body):
    return opes.Outcome(verdict="seen", score=str(len(event.header) + len(body)))


def tells(event, body):
    print("asked", flush=True)
    return looks(event, body)


def dawdles(pieces):
    """Reads the first piece of a body; if it is not all of it, no more until somebody opens `go-on` to write."""
    first = next(pieces, b"")
    if len(first) == 65536:
        print("dawdles", flush=True)
        with open("go-on"):
            pass
    return first + b"".join(pieces)


def hangs(event, body):
    time.sleep(3600)


def dies(event, body):
    os._exit(7)


BEHAVIOURS = {
    "looks": looks,
    "tells": tells,
    "dawdles": looks,
    "hangs": hangs,
    "dies": dies,
    "beyond": lambda event, body: edit(0, 10**9, b"x"),
    "backwards": lambda event, body: edit(9, 3, b"x"),
    "subject": lambda event, body: edit(0, 0, b"Subject: other\r\n"),
    "granted": lambda event, body: edit(0, 0, b"X-Granted: yes\r\n"),
    "smuggles": lambda event, body: edit(0, 0, b"X-Granted: yes\r\n\r\n"),
    "bare": lambda event, body: edit(0, 0, b"X-Granted: yes\n"),
    "body": lambda event, body: edit(len(event.header), len(event.header) + 1, b"x"),
    "quarantines": lambda event, body: opes.Outcome(effects=[opes.Effect(quarantine="because")]),
    "rejects": lambda event, body: opes.Outcome(reply=opes.Reply(code=550, status="5.7.1", text="no")),
    "splits": lambda event, body: opes.Outcome(
        reply=opes.Reply(code=550, status="5.7.1", text="no\r\n250 2.0.0 yes")
    ),
    "endless": lambda event, body: edit(0, 0, b"X-Granted: " + b"y" * 5_000_000 + b"\r\n"),
    "raises": lambda event, body: 1 / 0,
    "wants": looks,
    "wants-effects": looks,
}


class Behaving(service.PluginServicer):
    def Describe(self, request, context):
        wants = ["MESSAGE", "QUIT"] if sys.argv[1] == "wants" else ["MESSAGE"]
        effects = ["quarantine"] if sys.argv[1] == "wants-effects" else []
        return opes.Description(name="behaving", events=wants, effects=effects)

    def Handle(self, requests, context):
        event = next(requests).event
        pieces = (request.body for request in requests)
        body = dawdles(pieces) if sys.argv[1] == "dawdles" else b"".join(pieces)
        return BEHAVIOURS[sys.argv[1]](event, body)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
service.add_PluginServicer_to_server(Behaving(), server)
# Somebody may stand in between.
address = sys.argv[2] if len(sys.argv) > 2 else os.environ["OPES_PLUGIN_ADDRESS"]
kind, _, rest = address.partition("://")
if kind == "https":
    with open("plugin.key", "rb") as key, open("plugin.pem", "rb") as certificate:
        identity = grpc.ssl_server_credentials([(key.read(), certificate.read())])
    server.add_secure_port(rest, identity)
else:
    server.add_insecure_port(rest or kind)
server.start()
print("ready", flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
server.wait_for_termination()
