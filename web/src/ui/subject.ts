/** What a run is about, from its specification, whose shape depends on the kind. */

type Spec = Readonly<Record<string, unknown>>;

export function modelOf(spec: Spec): string {
  return textOf(spec["model"]) ?? textOf(spec["checkpoint"]) ?? "";
}

export function datasetOf(spec: Spec): string {
  const { dataset } = spec;
  if (typeof dataset === "object" && dataset && "hub" in dataset) return textOf(dataset.hub) ?? "";
  return textOf(dataset) ?? "";
}

function textOf(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}
