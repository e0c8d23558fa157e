/** The filters of the list, as they stand in the address of the page. */

export const KINDS = ["ranking", "finetune", "search", "comparison", "prediction", "export"] as const;
export const STATUSES = ["queued", "running", "paused", "succeeded", "failed", "cancelled"] as const;
/** Parameters of `GET /v1/jobs` that the page hands on, besides labels. */
const NAMES = ["kind", "status", "model", "dataset", "parent"] as const;
export type FilterName = (typeof NAMES)[number];

/** The query of the request for the list: the page's filters, and a label as the API writes it. */
export function requestQuery(filters: URLSearchParams): URLSearchParams {
  const query = new URLSearchParams();
  for (const name of NAMES) {
    for (const value of filters.getAll(name)) if (value) query.append(name, value);
  }
  for (const label of filters.getAll("label")) {
    const [key, ...value] = label.split("=");
    if (key && value.length) query.append(`metadata[${key.trim()}]`, value.join("=").trim());
  }
  return query;
}

/** The filters with one of them set to these values; empty ones are left out. */
export function withFilter(
  filters: URLSearchParams,
  name: FilterName | "label",
  values: readonly string[],
): URLSearchParams {
  const changed = new URLSearchParams(filters);
  changed.delete(name);
  for (const value of values) if (value) changed.append(name, value);
  return changed;
}

/** With a value of a filter added if it was not there, else without it. */
export function toggled(filters: URLSearchParams, name: FilterName, value: string): URLSearchParams {
  const values = filters.getAll(name);
  const others = values.filter((each) => each !== value);
  return withFilter(filters, name, others.length < values.length ? others : [...values, value]);
}
