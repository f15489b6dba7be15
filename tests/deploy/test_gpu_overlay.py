"""What a verifier needs to find its GPU, and to keep its weights."""

from tests.deploy.manifests import render


def test_verifiers_get_one_gpu_each_on_nodes_kept_for_them() -> None:
    verifier = render("gpu").workload("verifier")

    resources = verifier.container["resources"]

    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == 1
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert toleration in verifier.pod["tolerations"]
    assert verifier.container["image"].endswith("-cuda")


def test_verifiers_have_shared_memory_and_a_cache_that_outlives_them() -> None:
    verifier = render("gpu").workload("verifier")
    mounts = {m["mountPath"]: m["name"] for m in verifier.container["volumeMounts"]}
    volumes = {v["name"]: v for v in verifier.pod["volumes"]}
    (claim,) = verifier.spec["volumeClaimTemplates"]

    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert mounts["/var/cache/specedge"] == claim["metadata"]["name"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "200Gi"


def test_the_token_of_the_hub_is_a_secret_that_need_not_be_there() -> None:
    rendered = render("gpu")

    for name in ("verifier", "edge"):
        (token,) = (
            variable
            for variable in rendered.workload(name).container["env"]
            if variable["name"] == "HF_TOKEN"
        )
        reference = {"name": "hf-token", "key": "token", "optional": True}
        assert token["valueFrom"] == {"secretKeyRef": reference}


def test_nothing_else_asks_for_a_gpu() -> None:
    for variant in ("base", "dev-cpu"):
        for workload in render(variant).workloads:
            assert "nvidia" not in str(workload.manifest)
    for name in ("scheduler", "edge", "nats"):
        assert "nvidia" not in str(render("gpu").workload(name).manifest)
