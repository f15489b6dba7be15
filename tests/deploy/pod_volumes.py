"""What a pod's mounts show: the files of its ConfigMaps and secrets, as a kubelet lays them out."""

from dataclasses import dataclass
from typing import Any

from tests.deploy.cluster_credentials import Secrets
from tests.deploy.manifests import Rendered, Workload

Mount = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Volumes:
    """Of a workload's first pod."""

    rendered: Rendered
    secrets: Secrets
    workload: Workload

    def files_of(self, mount: Mount) -> dict[str, bytes]:
        """Name and content of each file of the mount's volume; of empty volumes none."""
        volumes = {volume["name"]: volume for volume in self.workload.pod["volumes"]}
        volume = volumes.get(mount["name"], {})
        sources: list[Mount] = list(volume.get("projected", {}).get("sources", []))
        if secret := volume.get("secret"):
            sources.append({"secret": {**secret, "name": secret["secretName"]}})
        found: dict[str, bytes] = {}
        for source in sources:
            if secret := source.get("secret"):
                content = self.secrets[secret["name"]]
                items = secret.get("items") or [{"key": key, "path": key} for key in content]
                found |= {item["path"]: content[item["key"]] for item in items}
            else:
                written = self.rendered.named("ConfigMap", source["configMap"]["name"])["data"]
                found |= {name: text.encode() for name, text in written.items()}
        return found

    def part_of(self, mount: Mount) -> str | None:
        """The one file of its volume that a mount is for, if it is for one."""
        expression: str | None = mount.get("subPathExpr", mount.get("subPath"))
        if expression is None:
            return None
        for name, value in self.rendered.environment(self.workload).items():
            expression = expression.replace(f"$({name})", value)
        return expression
