"""ENGINE HOST [USER PASSWORD]: what a user of docker-py does with a registry; says in JSON what came of it."""

import json
import sys

import docker

engine, host = sys.argv[1:3]
client = docker.DockerClient(base_url=engine, timeout=60)
login = None
if sys.argv[3:]:
    login = dict(zip(("username", "password"), sys.argv[3:]))
    try:
        client.login(registry=host, username=login["username"], password="wrong", reauth=True)
        raise SystemExit("a wrong password is taken")
    except docker.errors.APIError as error:
        assert "unauthorized" in str(error).lower(), error
    client.login(registry=host, reauth=True, **login)


def push(repository, tag):
    """Pushes; the digest that the engine tells."""
    lines = list(client.images.push(repository, tag=tag, stream=True, decode=True, auth_config=login))
    errors = [line["error"] for line in lines if "error" in line]
    assert not errors, errors
    return next(line["aux"]["Digest"] for line in lines if "Digest" in line.get("aux", {}))


name, other = f"{host}/team/py", f"{host}/other/py"
client.api.import_image("root.tar", repository=name, tag="1")
image = client.images.get(f"{name}:1")
pushed = push(name, "1")
image.tag(name, "2")
assert push(name, "2") == pushed
looked_up = client.images.get_registry_data(f"{name}:1", auth_config=login)
for tag in ("1", "2"):
    client.images.remove(f"{name}:{tag}", force=True)
pulled = client.images.pull(name, tag="1", auth_config=login)
digests = pulled.attrs["RepoDigests"]
pulled.tag(other, "1")
push(other, "1")
tags = sorted(tag.rsplit(":", 1)[1] for each in client.images.pull(name, all_tags=True, auth_config=login)
              for tag in each.tags if tag.startswith(f"{name}:"))
client.images.remove(pulled.id, force=True)
print(
    json.dumps(
        {
            "imported": image.id,
            "pushed": pushed,
            "looked_up": looked_up.id,
            "pulled": {"id": pulled.id, "digests": digests},
            "all": tags,
        }
    )
)
