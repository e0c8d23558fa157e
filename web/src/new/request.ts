/** The request that the form edits: what it begins as, and what of it goes over to another kind. */
import { isObject, type Body } from "../form/pointer";

export const KINDS = ["ranking", "finetune", "comparison", "search"] as const;
export type Kind = (typeof KINDS)[number];

/** The collection that a request of a kind is sent to. */
export const COLLECTIONS: Readonly<Record<Kind, string>> = {
  ranking: "rankings",
  finetune: "finetunes",
  comparison: "comparisons",
  search: "searches",
};

/** Their schemas in the OpenAPI document. */
export const SCHEMAS: Readonly<Record<Kind, string>> = {
  ranking: "RankingSpec",
  finetune: "FinetuneSpec",
  comparison: "ComparisonSpec",
  search: "SearchSpec",
};

export function kindOf(text: string | null): Kind {
  return KINDS.find((kind) => kind === text) ?? "ranking";
}

/** Layers to train where nothing says how many. */
export const FEW = 2;

/** What a request of a kind begins as. */
export function beginning(kind: Kind): Body {
  const subject = { model: "", dataset: "" };
  if (kind === "finetune") return { ...subject, selection: { policy: "top_k", k: FEW } };
  if (kind === "comparison") return { ...subject, arms: armsBeside({ policy: "top_k" }, FEW) };
  return subject;
}

/** The top layers, as many of the last ones, and all: a comparison that tells something. */
function armsBeside(top: Body, k: number): Body[] {
  return [
    { name: `top ${k}`, selection: { ...top, k } },
    { name: `last ${k}`, selection: { policy: "last_k", k } },
    { name: "all layers", selection: { policy: "all" } },
  ];
}

const SHARED = ["model", "dataset", "name", "metadata", "priority", "deadline_seconds"];

/** The same run as another kind: what both kinds know goes over. */
export function asKind(body: Body, from: Kind, to: Kind): Body {
  const fields = from === "ranking" || to === "ranking" ? SHARED : [...SHARED, "training"];
  const kept = fields.flatMap((name) => (name in body ? [[name, body[name]] as const] : []));
  return { ...beginning(to), ...Object.fromEntries(kept) };
}

/** A request that trains the top k layers of a ranking, on its model and dataset. */
export function fromRanking(kind: Kind, id: string, spec: Body, k: number): Body {
  const body = { ...beginning(kind), model: spec["model"], dataset: spec["dataset"] };
  const top: Body = { policy: "top_k", ranking: id };
  if (kind === "finetune") return { ...body, selection: { ...top, k } };
  if (kind === "comparison") return { ...body, arms: armsBeside(top, k) };
  return body;
}

/** The object that a text is in JSON, or why it is none. */
export function parsed(text: string): { body: Body } | { fault: string } {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return { fault: error instanceof Error ? error.message : String(error) };
  }
  return isObject(value) ? { body: value } : { fault: "A request is a JSON object: { … }" };
}
