#!/usr/bin/env python3
"""Checks the dependencies against deny.toml where cargo-deny is not installed: licences, wildcard
versions and sources. Ends with 1 if something may not come in."""

import json
import re
import subprocess
import sys
import tomllib


def allowed(expression, licences):
    """Whether an SPDX expression can be met: OR binds looser than AND."""
    tokens = re.findall(r"[()]|[^\s()/]+|/", expression)
    position = 0

    def peek():
        return tokens[position] if position < len(tokens) else None

    def take():
        nonlocal position
        position += 1
        return tokens[position - 1]

    def alternatives():
        met = everything()
        while peek() in ("OR", "/"):
            take()
            met = everything() or met
        return met

    def everything():
        met = one()
        while peek() == "AND":
            take()
            met = one() and met
        return met

    def one():
        token = take()
        if token == "(":
            met = alternatives()
            take()
            return met
        if peek() == "WITH":
            take()
            return f"{token} WITH {take()}" in licences
        return token in licences

    return alternatives()


def main():
    with open("deny.toml", "rb") as file:
        config = tomllib.load(file)
    licences = set(config["licenses"]["allow"])
    registries = {f"registry+{url}" for url in config["sources"]["allow-registry"]}
    version = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    host = re.search(r"^host: (.*)$", version, re.MULTILINE)[1]
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--all-features"]
    command += ["--filter-platform", host]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    wrong = []
    for package in metadata["packages"]:
        name = f"{package['name']} {package['version']}"
        if not package["license"]:
            wrong.append(f"{name}: no licence is declared")
        elif not allowed(package["license"], licences):
            wrong.append(f"{name}: licence {package['license']} is not allowed")
        if package["source"] is None:
            for dependency in package["dependencies"]:
                if dependency["req"] == "*":
                    wrong.append(f"{name}: any version of {dependency['name']} would do")
        elif package["source"] not in registries:
            wrong.append(f"{name}: source {package['source']} is not allowed")
    for line in wrong:
        print(f"error: {line}")
    print(f"{len(metadata['packages'])} packages looked at, {len(wrong)} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
