"""HOST BACKEND-TO-PUSH BACKEND-TO-PULL AUTHORITY [USER PASSWORD]: what a user of oras does with a registry; says in JSON what came of it."""

import json
import os
import sys

import oras.client
import oras.oci

host, to_push, to_pull, authority, *login = sys.argv[1:]


def client_with(backend):
    client = oras.client.OrasClient(
        hostname=host, insecure=not authority, tls_verify=authority or True, auth_backend=backend
    )
    if login:
        client.auth.set_basic_auth(*login)
    return client


client, puller = client_with(to_push), client_with(to_pull)
name = f"{host}/team/artifact"

with open("small.txt", "w") as small:
    small.write("hello\n")
with open("large.bin", "wb") as large:
    large.write(os.urandom(1_000_000))
pushed = client.push(
    f"{name}:1",
    files=["small.txt:text/plain", "large.bin:application/octet-stream"],
    manifest_annotations={"org.example.of": "oras"},
    # Sixteen pieces, of which the last is shorter.
    do_chunked=True,
    chunk_size=65_536,
    quiet=True,
)
digest = pushed.headers["Docker-Content-Digest"]
puller.pull(f"{name}:1", outdir="back")

subject = oras.oci.Subject.from_manifest(puller.get_manifest(f"{name}:1"))
assert subject.digest == digest, (subject, digest)
with open("sbom.json", "w") as sbom:
    sbom.write('{"packages": []}\n')
attached = client.push(
    f"{name}:sbom",
    files=["sbom.json:application/spdx+json"],
    manifest_annotations={"org.example.kind": "sbom"},
    subject=subject,
    quiet=True,
)
sbom = attached.headers["Docker-Content-Digest"]
# The library has no call for it.
referrers = puller.do_request(f"{puller.prefix}://{host}/v2/team/artifact/referrers/{digest}")
referrers.raise_for_status()
tags = puller.get_tags(name)
assert client.delete_tags(name, ["sbom"]) == ["sbom"]
print(
    json.dumps(
        {
            "pushed": digest,
            "sbom": {"digest": sbom, "subject": attached.headers.get("OCI-Subject")},
            "referrers": referrers.json(),
            "tags": tags,
        }
    )
)
