"""Prints the JobSet of a run for GKE: one job a slice, one pod a host, one checkpoint for all of them.

    export ACCELERATOR=v6e-32 BUCKET=my-bucket IMAGE=registry.example.com/my-images/taxonomy
    export CONFIG=configs/llama.py:2-7b WORKDIR=/bucket/runs/first OVERRIDES="--config.mesh=fsdp:-1"
    python launch/jobset.py --name=first | kubectl apply -f -

What follows `--` is added to OVERRIDES. The cluster needs JobSet 0.10 or newer, and nodes made for slices of this kind. Python's
standard library only.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import parameters
import slices
from parameters import LaunchError
from slices import Slice

PREEMPTED, NOT_AGAIN = [42], [2, 3, 4]
SECONDS_TO_SAVE = 600
# No cached metadata, which some machines keep for good: hosts must see each other's files. A complete checkpoint is renamed.
MOUNT = "implicit-dirs,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0,file-system:rename-dir-limit:200000"


def jobset(args: argparse.Namespace, flags: Mapping[str, str]) -> dict[str, Any]:
    """The manifest. `flags`: CONFIG, WORKDIR and OVERRIDES."""
    asked = slices.parse(args.accelerator, args.topology)
    if not asked.topology:
        raise LaunchError(f"--topology: required for {asked.name}, whose shape is no usual one, such as 4x4x12 for v5p-384")
    job = {
        "parallelism": asked.hosts,
        "completions": asked.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        # The order is that of the rules below, which know a failure by its place here.
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": {"containerName": "train", "operator": "In", "values": PREEMPTED}},
                {"action": "FailJob", "onExitCodes": {"containerName": "train", "operator": "In", "values": NOT_AGAIN}},
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": pod(args, asked, flags),
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": args.name,
            **({"labels": {"kueue.x-k8s.io/queue-name": args.queue}} if args.queue else {}),
            # No two jobs on one slice.
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "ttlSecondsAfterFinished": 7 * 24 * 3600,
            "failurePolicy": {
                "maxRestarts": args.restarts,
                "rules": [
                    _on_failure("preempted", "RestartJobSetAndIgnoreMaxRestarts", 0),
                    _on_failure("hopeless", "FailJobSet", 1),
                    _on_failure("disrupted", "RestartJobSetAndIgnoreMaxRestarts", 2),
                ],
            },
            "replicatedJobs": [{"name": "slice", "replicas": args.slices, "template": {"spec": job}}],
        },
    }


def _on_failure(name: str, action: str, rule: int) -> dict[str, Any]:
    """What follows when a job failed by this rule of its podFailurePolicy; everything else restarts, and counts."""
    return {
        "name": name,
        "action": action,
        "onJobFailureReasons": ["PodFailurePolicy"],
        "onJobFailureMessagePatterns": [f"matching FailJob rule at index {rule}$"],
    }


def pod(args: argparse.Namespace, asked: Slice, flags: Mapping[str, str]) -> dict[str, Any]:
    """One host."""
    bucket = {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": {"bucketName": args.bucket, "mountOptions": MOUNT}}
    spot = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    container = {
        "name": "train",
        "image": args.image,
        "command": ["python", "launch/start.py"],  # python -m taxonomy.train
        "env": [{"name": name, "value": value} for name, value in flags.items()],
        "resources": {"limits": {"google.com/tpu": str(asked.chips_per_host)}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            *([{"name": "bucket", "mountPath": "/bucket"}] if args.bucket else []),
        ],
    }
    return {
        "metadata": {"annotations": {"gke-gcsfuse/volumes": "true"} if args.bucket else {}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": SECONDS_TO_SAVE,
            **({"serviceAccountName": args.service_account} if args.service_account else {}),
            "nodeSelector": {
                "cloud.google.com/gke-tpu-accelerator": asked.generation.gke,
                "cloud.google.com/gke-tpu-topology": asked.topology,
                **({"cloud.google.com/gke-spot": "true"} if args.spot else {}),
            },
            **({"tolerations": [spot]} if args.spot else {}),
            "containers": [container],
            "volumes": [
                {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
                *([{"name": "bucket", "csi": bucket}] if args.bucket else []),
            ],
        },
    }


def yaml(value: Any, indent: str = "") -> str:
    """YAML for people to read: blocks, with every string in quotes."""
    if isinstance(value, dict) and value:
        return "".join(f"{indent}{key}:{_below(item, indent)}" for key, item in value.items())
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "".join(f"{indent}- {yaml(item, indent + '  ')[len(indent) + 2 :]}" for item in value)
    return indent + json.dumps(value, ensure_ascii=False) + "\n"


def _below(item: Any, indent: str) -> str:
    nested = item and (isinstance(item, dict) or (isinstance(item, list) and isinstance(item[0], dict)))
    return "\n" + yaml(item, indent + "  ") if nested else " " + yaml(item)


def parse(argv: list[str], environment: Mapping[str, str]) -> argparse.Namespace:
    """The arguments, from the environment where no flag is given. Raises LaunchError."""
    parser = parameters.Parser("jobset.py", __doc__, environment)
    parser.add_run()
    parser.add("name", "of the JobSet", default="taxonomy")
    parser.add("topology", "the slice's shape, where it is not the usual one, such as 4x4x12")
    parser.add("image", "made with launch/Dockerfile", "IMAGE")
    parser.add("service_account", "of Kubernetes, which may write to the bucket")
    parser.add("queue", "of Kueue")
    parser.add_argument("--restarts", type=int, default=10, help="after crashes; preemptions do not count")
    args = parser.read(argv)
    parameters.required(args, accelerator="ACCELERATOR", image="IMAGE")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", args.name):
        raise LaunchError(f"--name: expected at most 40 small letters, digits and dashes, got {args.name!r}")
    return args


def main() -> None:
    try:
        args = parse(sys.argv[1:], os.environ)
        print(yaml(jobset(args, parameters.run_of(args))), end="")
    except LaunchError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(e.code)


if __name__ == "__main__":
    main()
