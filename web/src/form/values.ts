/** Values of a request as the text of an input, and back. */
import type { FieldInfo } from "./openapi";

type Type = FieldInfo["type"];

export function textOf(value: unknown): string {
  if (value === undefined || value === null) return "";
  if (Array.isArray(value)) return value.map(textOf).join(", ");
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** What a text stands for. A wrong number stays a text, at which the service says what is wrong. */
export function valueOf(text: string, type: Type): unknown {
  const bare = text.trim();
  if (bare === "") return undefined;
  if (type === "list") {
    const items = bare.split(",").map((item) => item.trim());
    return items.filter(Boolean).map(numberOr);
  }
  return type === "integer" || type === "number" ? numberOr(bare) : bare;
}

function numberOr(text: string): string | number {
  const number = Number(text);
  return Number.isFinite(number) ? number : text;
}

const NAMES: Readonly<Record<string, string>> = { k: "k", onnx: "ONNX" };

/** The name of a field in words: `learning_rate` is `Learning rate`, the type of something is it. */
export function labelOf(pointer: string): string {
  const steps = pointer.split("/");
  const name = (steps.at(-1) === "type" ? steps.at(-2) : steps.at(-1)) ?? "";
  const words = name.replaceAll("_", " ");
  return NAMES[name] ?? words.charAt(0).toUpperCase() + words.slice(1);
}
