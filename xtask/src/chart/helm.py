"""Lints, renders and validates a chart with Helm's own engine; jobs come in as JSON and answers go out as JSON."""

import functools
import json
import sys

import helm_python
import kubernetes_validate
import yaml
from kubernetes_validate import utils

# Each schema is read once instead of once for each object.
utils.schema_contents = functools.lru_cache(maxsize=None)(utils.schema_contents)

# Objects of the Prometheus operator, whose schemas are not Kubernetes' own.
FOREIGN = "monitoring.coreos.com/"


def faults(objects, version):
    """What is wrong with objects by the schemas of that version of Kubernetes, unknown fields included."""
    found = []
    for thing in objects:
        if thing["apiVersion"].startswith(FOREIGN):
            continue
        name = f"{thing['kind']} by Kubernetes {version}"
        try:
            utils.validate(thing, version, strict=True)
        except utils.ValidationError as error:
            path = ".".join(str(part) for part in error.path)
            found.append(f"{name}: {path}: {error.message}")
        except utils.SchemaNotFoundError as error:
            found.append(f"{name}: {error.message}")
    return found


def objects_of(rendered):
    """All objects in what the templates became."""
    texts = [text for name, text in sorted(rendered.items()) if name.endswith(".yaml")]
    return [thing for text in texts for thing in yaml.safe_load_all(text) if thing]


def for_version(values, version):
    """The values on a cluster of that version, which the engine itself is not told."""
    return {"kubeVersionOverride": version, **values} if version else values


def answer(chart, path, versions, case):
    """One case: the chart with these values."""
    values = helm_python.values_from_yaml(case["values"]) if case["values"] else {}
    values = for_version(values, case["kube_version"])
    result = {"error": "", "lint": [], "rendered": {}, "objects": [], "faults": []}
    render = functools.partial(chart.render, name=case["release"], namespace=case["namespace"])
    try:
        rendered = render(values)
        for version in versions:
            result["faults"] += faults(objects_of(render(for_version(values, version))), version)
    except helm_python.HelmError as error:
        result["error"] = str(error)
        return result
    report = helm_python.lint(path, values, strict=True, namespace=case["namespace"])
    result["lint"] = [
        f"{message['path']}: {message['error']}" for message in report["messages"] if message["severity"] > 1
    ] + report["errors"]
    result["rendered"] = {name: text for name, text in rendered.items() if text.strip()}
    result["objects"] = objects_of(rendered)
    return result


def main():
    """Answers all cases in their order."""
    job = json.load(sys.stdin)
    with helm_python.Chart.load(job["chart"]) as chart:
        answers = [answer(chart, job["chart"], job["versions"], case) for case in job["cases"]]
    json.dump({"helm": helm_python.helm_sdk_version(), "answers": answers}, sys.stdout)


main()
