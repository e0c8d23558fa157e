import { send } from "../api/client";
import { isObject, type Body } from "../form/pointer";

/** The schemas of the service's OpenAPI document, by name. */
export async function loadSchemas(signal: AbortSignal): Promise<Body> {
  // Unlike answers about jobs, it stays as it is while the service runs.
  const answer = await send(new Request("./openapi.json", { signal, cache: "no-cache" }));
  const document: unknown = await answer.json();
  const components = isObject(document) ? document["components"] : null;
  const schemas = isObject(components) ? components["schemas"] : null;
  return isObject(schemas) ? schemas : {};
}
