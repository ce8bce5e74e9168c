#!/usr/bin/env python3
"""Serves the npm packages of a directory as a registry on loopback, so that `npx` works without a network.

    packaging/test/registry.py DIRECTORY PORT
"""

import base64
import hashlib
import http.server
import json
import pathlib
import sys
import tarfile
import urllib.parse


def described(tarball, address):
    """The registry's document for a package of which there is one version."""
    with tarfile.open(tarball) as archive:
        manifest = json.load(archive.extractfile("package/package.json"))
    digest = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    manifest["dist"] = {"tarball": f"{address}/{tarball.name}", "integrity": f"sha512-{digest}"}
    version = manifest["version"]
    return {"name": manifest["name"], "dist-tags": {"latest": version}, "versions": {version: manifest}}


class Registry(http.server.BaseHTTPRequestHandler):
    documents = {}
    tarballs = {}

    def do_GET(self):
        name = urllib.parse.unquote(self.path).lstrip("/")
        if name in self.documents:
            self.answer(json.dumps(self.documents[name]).encode(), "application/json")
        elif name in self.tarballs:
            self.answer(self.tarballs[name].read_bytes(), "application/octet-stream")
        else:
            self.send_error(404)

    def do_POST(self):
        # npm asks for advisories; after any answer but 404 it would repeat the request for a minute.
        self.send_error(404)

    def answer(self, body, content_type):
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    directory, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    for tarball in sorted(directory.glob("*.tgz")):
        document = described(tarball, f"http://127.0.0.1:{port}")
        Registry.documents[document["name"]] = document
        Registry.tarballs[tarball.name] = tarball
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Registry).serve_forever()


main()
