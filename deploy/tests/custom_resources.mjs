// Validates custom resources against the schemas of their operators: node custom_resources.mjs FILE.json
// FILE.json holds a list of objects. It runs from the folder that holds node_modules.
import { readFileSync } from "node:fs";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { PodMonitor, PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

const kinds = { ScaledObject, PodMonitor, PrometheusRule };
for (const resource of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
  const Kind = kinds[resource.kind];
  if (!Kind) throw new Error(`no schema of ${resource.kind}`);
  const { apiVersion, kind, ...rest } = resource;
  if (apiVersion !== Kind.apiVersion) throw new Error(`${kind} is of ${apiVersion}, its schema of ${Kind.apiVersion}`);
  new Kind(rest).validate();
  console.log(`${kind} ${resource.metadata.name}: valid`);
}
