/** What the service's own OpenAPI document says about a field: its type, limits, default, meaning. */
import { isObject, stepsOf, type Body } from "./pointer";

export interface FieldInfo {
  readonly type: "choice" | "boolean" | "integer" | "number" | "text" | "list";
  readonly values: readonly string[];
  /** What the service takes where the field is left out; undefined if it has no such value. */
  readonly preset: unknown;
  readonly limits: string;
  readonly description: string;
}

/** The field at a pointer into a document of this schema. Throws for one that it does not have. */
export function fieldInfo(schemas: Body, name: string, pointer: string): FieldInfo {
  let schema = resolved(schemas, schemas[name]);
  let preset: unknown;
  for (const step of stepsOf(pointer)) {
    const properties = schema["properties"];
    const property = isObject(properties) ? properties[step] : undefined;
    if (!isObject(property)) throw new Error(`${name} has no field ${pointer}`);
    // The default of an object may differ from those of its fields.
    preset = isObject(preset) && step in preset ? preset[step] : property["default"];
    schema = { ...resolved(schemas, property), ...described(property) };
  }
  return { ...typed(schemas, schema), preset, limits: limitsOf(schema), description: text(schema["description"]) };
}

function described(property: Body): Body {
  return "description" in property ? { description: property["description"] } : {};
}

/** A schema without references, and without the null that a field may also be. */
function resolved(schemas: Body, schema: unknown): Body {
  if (!isObject(schema)) return {};
  const reference = text(schema["$ref"]);
  if (reference) return resolved(schemas, schemas[reference.split("/").at(-1) ?? ""]);
  const options = schema["anyOf"];
  if (!Array.isArray(options)) return schema;
  const first: unknown = options.find((option) => !isObject(option) || option["type"] !== "null");
  return { ...resolved(schemas, first), ...described(schema) };
}

function typed(schemas: Body, schema: Body): Pick<FieldInfo, "type" | "values"> {
  const values = Array.isArray(schema["enum"]) ? schema["enum"].map(String) : [];
  if (values.length) return { type: "choice", values };
  const { type } = schema;
  if (type === "array") {
    const items = resolved(schemas, schema["items"]);
    return { type: "list", values: Array.isArray(items["enum"]) ? items["enum"].map(String) : [] };
  }
  const plain = type === "boolean" || type === "integer" || type === "number";
  return { type: plain ? type : "text", values: [] };
}

function limitsOf(schema: Body): string {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = schema;
  const parts = [
    ["at least", minimum],
    ["above", exclusiveMinimum],
    ["at most", maximum],
    ["below", exclusiveMaximum],
  ] as const;
  return parts
    .filter(([, value]) => typeof value === "number")
    .map(([words, value]) => `${words} ${(value as number).toLocaleString()}`)
    .join(", ");
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}
