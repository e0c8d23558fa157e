/** Requests as a reader would send them from a shell or from Python. */
import { session } from "../api/session";

export interface Sent {
  method: string;
  path: string;
  body?: unknown;
}

const JSON_TYPE = "Content-Type: application/json";

/** The address at which this page has found the service. */
function service(): string {
  return new URL(".", document.baseURI).href.replace(/\/$/, "");
}

/** A command for curl. The key is named by a variable: a copied command must not give it away. */
export function curlOf({ method, path, body }: Sent): string {
  const verb = method === "GET" ? "" : ` -X ${method}`;
  const parts = [`curl ${quoted(service() + path)}${verb}`];
  if (session.get().key) parts.push('-H "Authorization: Bearer $SURGEON_API_KEY"');
  if (body != null) parts.push(`-H ${quoted(JSON_TYPE)}`, `-d ${quoted(JSON.stringify(body))}`);
  return parts.join(" \\\n  ");
}

/** The same with the service's own client. */
export function pythonOf({ method, path, body }: Sent): string {
  const key = session.get().key ? ', key=os.environ["SURGEON_API_KEY"]' : "";
  const given = body == null ? "" : `, json=${pythonLiteral(body)}`;
  return [
    ...(key ? ["import os", ""] : []),
    "from surgeon import Client",
    "",
    `client = Client(${pythonLiteral(service())}${key})`,
    `print(client.call(${pythonLiteral(method)}, ${pythonLiteral(path)}${given}))`,
  ].join("\n");
}

/** A word for a shell. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A value of JSON as Python writes it. */
export function pythonLiteral(value: unknown, indent = ""): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  const items = Array.isArray(value)
    ? value.map((each) => pythonLiteral(each, inner))
    : Object.entries(value).map(
        ([key, each]) => `${JSON.stringify(key)}: ${pythonLiteral(each, inner)}`,
      );
  const [open, close] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  if (items.length === 0) return open + close;
  return `${open}\n${items.map((item) => `${inner}${item},\n`).join("")}${indent}${close}`;
}
