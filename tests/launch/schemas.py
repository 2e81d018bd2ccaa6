"""JSON schemas of what launch files say, of the fields that they use and no others; from the documents that each names."""

from typing import Any

TEXT, COUNT, YES = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1}, {"type": "boolean"}
CODES = {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 255}, "minItems": 1, "uniqueItems": True}
LABEL = {"type": "string", "maxLength": 63, "pattern": r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"}
NAME = {"type": "string", "maxLength": 63, "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}


def record(*needed: str, **fields: Any) -> dict[str, Any]:
    """An object with these fields alone."""
    return {"type": "object", "properties": fields, "required": list(needed), "additionalProperties": False}


def every(item: dict[str, Any], **limits: Any) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1, **limits}


def texts(value: dict[str, Any] = TEXT) -> dict[str, Any]:
    """An object of texts under any names."""
    return {"type": "object", "additionalProperties": value}


# kubernetes.io/docs/reference/kubernetes-api: Pod, Job.
VOLUME = {
    "oneOf": [
        record("name", "emptyDir", name=NAME, emptyDir=record(medium={"enum": ["", "Memory"]}, sizeLimit=TEXT)),
        record("name", "csi", name=NAME, csi=record("driver", driver=TEXT, readOnly=YES, volumeAttributes=texts())),
    ]
}
CONTAINER = record(
    "name",
    "image",
    name=NAME,
    image=TEXT,
    command=every(TEXT),
    env=every(record("name", "value", name={"type": "string", "pattern": "^[A-Z_]+$"}, value={"type": "string"})),
    resources=record("limits", limits=texts({"type": "string", "pattern": "^[1-9][0-9]*$"})),
    terminationMessagePolicy={"enum": ["File", "FallbackToLogsOnError"]},
    volumeMounts=every(record("name", "mountPath", name=NAME, mountPath={"type": "string", "pattern": "^/"})),
)
TOLERATION = record(
    "key",
    "operator",
    key=TEXT,
    operator={"enum": ["Equal", "Exists"]},
    value=LABEL,
    effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
)
POD = record(
    "spec",
    metadata=record(annotations=texts()),
    spec=record(
        "containers",
        "restartPolicy",
        restartPolicy={"const": "Never"},  # podFailurePolicy allows no other
        terminationGracePeriodSeconds=COUNT,
        serviceAccountName=NAME,
        nodeSelector=texts(LABEL),
        tolerations=every(TOLERATION),
        containers=every(CONTAINER),
        volumes=every(VOLUME),
    ),
)
EXIT_CODES = record("operator", "values", containerName=NAME, operator={"enum": ["In", "NotIn"]}, values=CODES)
CONDITION = record("type", "status", type=TEXT, status={"enum": ["True", "False", "Unknown"]})
ACTION = {"enum": ["FailJob", "FailIndex", "Ignore", "Count"]}
POD_FAILURE = {
    "oneOf": [
        record("action", "onExitCodes", action=ACTION, onExitCodes=EXIT_CODES),
        record("action", "onPodConditions", action=ACTION, onPodConditions=every(CONDITION, maxItems=20)),
    ]
}
JOB = record(
    "template",
    parallelism=COUNT,
    completions=COUNT,
    completionMode={"enum": ["Indexed", "NonIndexed"]},
    backoffLimit={"type": "integer", "minimum": 0},
    podFailurePolicy=record("rules", rules=every(POD_FAILURE, maxItems=20)),
    template=POD,
)

# jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2, as of 0.10.
JOB_REASONS = ["BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"]
JOB_FAILURE = record(
    "name",
    "action",
    name={"type": "string", "maxLength": 128, "pattern": r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
    onJobFailureReasons=every({"enum": JOB_REASONS}),
    onJobFailureMessagePatterns=every({"type": "string", "format": "regex"}),
)
JOBSET = record(
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=record("name", name=NAME, labels=texts(LABEL), annotations=texts()),
    spec=record(
        "replicatedJobs",
        ttlSecondsAfterFinished=COUNT,
        failurePolicy=record(maxRestarts={"type": "integer", "minimum": 0}, rules=every(JOB_FAILURE)),
        replicatedJobs=every(record("name", "template", name=NAME, replicas=COUNT, template=record("spec", spec=JOB))),
    ),
)

# docs.skypilot.co/en/latest/reference/yaml-spec.html, as of 0.14.
RECOVERY = record(
    strategy={"enum": ["FAILOVER", "EAGER_NEXT_REGION"]},
    max_restarts_on_errors={"type": "integer", "minimum": 0},
    recover_on_exit_codes=CODES,
)
SKY = record(
    "name",
    "resources",
    "run",
    name=NAME,
    resources=record(
        infra=TEXT,
        cpus={"type": "string", "pattern": r"^\d+\+?$"},
        memory={"type": "string", "pattern": r"^\d+\+?$"},
        accelerators={"type": "string", "pattern": r"^tpu-(v4|v5p|v5litepod|v6e)-\d+:1$"},
        accelerator_args=record(runtime_version=TEXT, tpu_name=TEXT, tpu_vm=YES),
        use_spot=YES,
        job_recovery=RECOVERY,
    ),
    workdir=TEXT,
    num_nodes=COUNT,
    envs={"type": "object", "additionalProperties": {"type": ["string", "null"]}},
    setup=TEXT,
    run=TEXT,
)
