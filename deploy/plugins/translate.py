#!/usr/bin/env python3
"""A plugin: translates the subject and the text of plain text mail with an engine that is asked over HTTP.

The engine speaks the JSON of LibreTranslate: POST {"q": TEXT, "source": "auto", "target": LANGUAGE} to its URL, and
{"translatedText": TEXT} comes back.

    OPES_PLUGIN_ADDRESS=unix:/run/translate.sock python3 translate.py http://127.0.0.1:5000/translate en

It needs body = "whole", replace-body = true, and fields = ["Subject", "Content-*", "MIME-Version"].
"""

import email
import email.policy
import json
import os
import sys
import threading
import urllib.request
from concurrent import futures

import grpc

from opes.plugin.v1 import plugin_pb2 as opes
from opes.plugin.v1 import plugin_pb2_grpc as service

ENGINE, LANGUAGE = sys.argv[1:]
REPLACED = {"subject", "content-type", "content-transfer-encoding", "mime-version"}


def translate(text):
    asked = json.dumps({"q": text, "source": "auto", "target": LANGUAGE}).encode()
    request = urllib.request.Request(ENGINE, asked, {"Content-Type": "application/json"})
    # Less than the service's deadline: the engine's failure is then told as what it is.
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["translatedText"]


def fields(header):
    """Each field of a header section with where it starts and ends."""
    start = 0
    for line in header.splitlines(keepends=True):
        end = start + len(line)
        while header[end : end + 1] in (b" ", b"\t"):
            end = header.index(b"\n", end) + 1
        if line[:1] not in (b" ", b"\t"):
            yield header[start:end].partition(b":")[0].decode("ascii", "replace").lower(), start, end
        start = start + len(line)


class Translate(service.PluginServicer):
    def Describe(self, request, context):
        return opes.Description(name="translate 1", events=["MESSAGE"])

    def Handle(self, requests, context):
        header = next(requests).event.header
        body = b"".join(request.body for request in requests)
        mail = email.message_from_bytes(header + body, policy=email.policy.SMTP)
        if mail.get_content_type() != "text/plain":
            return opes.Outcome(verdict="unfit", reason=mail.get_content_type())
        made = email.message.EmailMessage(policy=email.policy.SMTP)
        if mail["Subject"]:
            made["Subject"] = translate(str(mail["Subject"]))
        made.set_content(translate(mail.get_content()))
        head, _, text = made.as_bytes().partition(b"\r\n\r\n")
        gone = [(start, end) for name, start, end in fields(header) if name in REPLACED]
        edits = [opes.Edit(start=0, end=0, octets=head + b"\r\n")]
        edits += [opes.Edit(start=start, end=end) for start, end in gone]
        edits += [opes.Edit(start=len(header), end=len(header) + len(body), octets=text)]
        return opes.Outcome(verdict="translated", edits=opes.Edits(edits=edits))


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    service.add_PluginServicer_to_server(Translate(), server)
    server.add_insecure_port(os.environ["OPES_PLUGIN_ADDRESS"].removeprefix("http://"))
    server.start()
    print("ready", flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.stop(1)), daemon=True).start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
