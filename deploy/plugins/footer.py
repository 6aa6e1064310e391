#!/usr/bin/env python3
"""A plugin: adds a footer to plain text mail that is not signed.

It needs grpcio, protobuf and what is generated of plugin.proto, see services/PLUGINS.md:
    OPES_PLUGIN_ADDRESS=unix:/run/footer.sock python3 footer.py
"""

import email.parser
import email.policy
import os
import sys
import threading
from concurrent import futures

import grpc

from opes.plugin.v1 import plugin_pb2 as opes
from opes.plugin.v1 import plugin_pb2_grpc as service

FOOTER = b"-- \r\nSent through mail.example.\r\n"


class Footer(service.PluginServicer):
    def Describe(self, request, context):
        return opes.Description(name="footer 1", events=["MESSAGE"])

    def Handle(self, requests, context):
        event = next(requests).event
        body = b"".join(request.body for request in requests)
        header = email.parser.BytesHeaderParser(policy=email.policy.default).parsebytes(event.header)
        encoding = header.get("Content-Transfer-Encoding", "7bit").lower()
        if header.get_content_type() != "text/plain" or encoding not in ("7bit", "8bit"):
            return opes.Outcome(verdict="unfit", reason=header.get_content_type())
        if len(body) != event.body_octets:
            return opes.Outcome(verdict="unfit", reason="not all of the body is here")
        start = b"" if body.endswith(b"\r\n") else b"\r\n"
        end = len(event.header) + len(body)
        edit = opes.Edit(start=end, end=end, octets=start + FOOTER)
        return opes.Outcome(verdict="added", edits=opes.Edits(edits=[edit]))


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    service.add_PluginServicer_to_server(Footer(), server)
    server.add_insecure_port(os.environ["OPES_PLUGIN_ADDRESS"].removeprefix("http://"))
    server.start()
    print("ready", flush=True)
    # The callout server holds the other end of a pipe: where that has gone, nobody asks any more.
    threading.Thread(target=lambda: (sys.stdin.read(), server.stop(1)), daemon=True).start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
