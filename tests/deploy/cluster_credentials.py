"""The secrets of a cluster, made as k8s/README.md says."""

import base64
import re
import shutil
from pathlib import Path
from typing import Final

from typer.testing import CliRunner

from specedge.cli.commands import app
from tests.deploy.manifests import K8S, kustomize

README: Final = K8S / "README.md"
FOLDER: Final = "k8s/credentials/folder"

Secrets = dict[str, dict[str, bytes]]


def make_credentials(folder: Path) -> None:
    """A copy of k8s/credentials at ``folder``, in which the README's own command was run for a
    cluster that is reached as localhost."""
    shutil.copy(K8S / "credentials" / "kustomization.yaml", folder)
    (block,) = re.findall(r"^(specedge creds init (?:.*\\\n)*.*)$", README.read_text(), re.M)
    words = block.replace("\\\n", " ").replace("HOST", "localhost").split()
    words[words.index(FOLDER)] = str(folder / "folder")
    said = CliRunner().invoke(app, words[1:])
    assert said.exit_code == 0, said.output


def secrets_of(folder: Path) -> Secrets:
    """By name: key and content of what kustomize makes of it."""
    return {
        manifest["metadata"]["name"]: {
            key: base64.b64decode(value) for key, value in manifest["data"].items()
        }
        for manifest in kustomize(folder)
    }
