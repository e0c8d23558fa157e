/** Parts of a JSON document by JSON Pointers (RFC 6901), as the service names fields. */

export type Body = Readonly<Record<string, unknown>>;

/** The steps of a pointer: `/training/epochs` has two. */
export function stepsOf(pointer: string): string[] {
  const steps = pointer.split("/").slice(1);
  return steps.map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
}

export function valueAt(body: unknown, pointer: string): unknown {
  return stepsOf(pointer).reduce<unknown>(
    (value, step) => (isObject(value) && Object.hasOwn(value, step) ? value[step] : undefined),
    body,
  );
}

/** The body with another value there; undefined takes it away, and objects that it leaves empty. */
export function withValue(body: Body, pointer: string, value: unknown): Body {
  return withSteps(body, stepsOf(pointer), value);
}

function withSteps(body: Body, [step = "", ...rest]: string[], value: unknown): Body {
  const { [step]: old, ...others } = body;
  const inner = rest.length ? withSteps(isObject(old) ? old : {}, rest, value) : value;
  const gone = inner === undefined || (rest.length > 0 && Object.keys(inner as Body).length === 0);
  // A field that was there keeps its place among the others.
  if (gone) return others;
  return { ...body, [step]: inner };
}

export function isObject(value: unknown): value is Body {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
